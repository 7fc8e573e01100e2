"""Makes this checkout's package importable, and nothing beside it; what was compiled once is kept by its contents.

A checkout is laid anew for every job, so the times of its files say nothing, and bytecode beside them could be stale or
somebody else's. Compiling the package takes longer than all else between the step's start and the plan. So the compiled
code lies in the environment's folder, which holds the dependencies too and outlives the job: a file for each module,
used only where it names the very source and Python that are there now. Loaded by bootstrap.py; standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import sys
from collections.abc import Callable
from importlib import machinery, util
from pathlib import Path
from types import CodeType, ModuleType


class Loader(machinery.SourceFileLoader):
    """Loads a module from its source, or from what this very source was compiled to before."""

    cache: Path

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        # The path too: it is in every traceback.
        key = hashlib.sha256(b"\0".join([util.MAGIC_NUMBER, os.fsencode(path), source])).digest()
        kept = self.cache / f"{fullname}.{sys.implementation.cache_tag}"
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
            found = kept.read_bytes()
            if found[: len(key)] == key:
                code = marshal.loads(found[len(key) :])  # noqa: S302 -- as trusted as the packages beside it
                if isinstance(code, CodeType):
                    return code
        compiled: CodeType = self.source_to_code(source, path)
        with contextlib.suppress(OSError):  # somebody else's folder, or a full disk: the next job compiles again
            kept.parent.mkdir(exist_ok=True)
            partial = kept.with_name(f".{kept.name}.{os.getpid()}")
            partial.write_bytes(key + marshal.dumps(compiled))
            partial.replace(kept)
        return compiled


def make_importable(package: Path, *, cache: Path) -> ModuleType:
    """The package at this folder, imported under the folder's name; its modules can be imported from now on."""
    kind = type("Loader", (Loader,), {"cache": cache})
    sys.path_hooks.insert(0, _finder_of(package, kind))
    start = str(package / "__init__.py")
    spec = util.spec_from_file_location(
        package.name, start, loader=kind(package.name, start), submodule_search_locations=[str(package)]
    )
    assert spec is not None  # noqa: S101 -- for the type checker; it has the loader it was given
    assert spec.loader is not None  # noqa: S101
    sys.modules[package.name] = module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _finder_of(package: Path, kind: type[Loader]) -> Callable[[str], machinery.FileFinder]:
    def finder(path: str) -> machinery.FileFinder:
        if path != str(package) and not path.startswith(str(package) + os.sep):
            raise ImportError(path)
        return machinery.FileFinder(path, (kind, [".py"]))

    return finder
