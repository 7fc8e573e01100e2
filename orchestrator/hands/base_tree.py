"""The base commit as a folder of its own, and what of the head's is put into it. Hands.

The rule: the tests are the head's, everything else is the base's. What lies under the tier's ``paths`` is copied over
(unless a ``source`` folder lies there too: then only the files that hold benchmarks are), and so is every
``conftest.py`` above a benchmark. So base and head are timed by the same code on the same data, and a benchmark that is
new in the head is compared as well, as long as what it times existed before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from orchestrator.tools.git import Git, GitError
from orchestrator.words.event import Event

# Files that say what is installed. What is installed here was chosen by the head's.
_ENVIRONMENT = ("requirements*.txt", "*.lock", "pdm.lock", "Pipfile", "environment*.y*ml", "pyproject.toml", "setup.py")
_MOST_GENERATED = 200
_DEEP = 3  # folders below a source folder in which its top-level packages are looked for
_NO_SOURCE = frozenset({"node_modules", "__pycache__", "site-packages", "build", "dist"})


class Base(Struct, frozen=True, kw_only=True):
    """What a change is compared with: a commit of this clone, or why there is none."""

    git: Git | None = None
    sha: str | None = None
    prefix: str = ""  # the configuration's folder from the repository's top: "" or "a/b/"
    absent: str = ""

    @property
    def top(self) -> Path | None:
        """The top of the working tree."""
        if self.git is None:
            return None
        root = Path(os.path.realpath(self.git.root))
        return root.parents[self.prefix.count("/") - 1] if self.prefix else root


@contextmanager
def base_tree(base: Base) -> Iterator[Path]:
    """A worktree of the base commit in a temporary folder; gone at the end. Raises GitError."""
    if base.git is None or base.sha is None:
        raise GitError(base.absent)
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="mltiers-base-")))
    tree = folder / "base"
    try:
        # A hook of the repository's has no business in a folder that nobody works in.
        base.git.run("-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--force", str(tree), base.sha)
        yield tree
    finally:
        with suppress(GitError):
            base.git.run("worktree", "remove", "--force", str(tree))
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(GitError):
            base.git.run("worktree", "prune")


def lay_over(
    root: Path, target: Path, *, paths: Sequence[str], source: Sequence[str], files: Iterable[str]
) -> set[str]:
    """Put the head's tests into the base's tree.

    ``root`` and ``target``: the configuration's folder in the head and in the base. ``files``: those that hold
    benchmarks, relative to both. Returns the files that are now the head's, relative to both.
    """
    chosen: set[str] = set(files)
    for path in paths:
        folder = root / path.partition("::")[0]
        apart = not any(_within(one, folder) for one in (root, *(root / entry for entry in source)))
        if folder.is_dir() and apart:
            chosen.update(_files_below(folder, root))
            shutil.rmtree(target / Path(os.path.relpath(folder, root)), ignore_errors=True)
    for file in tuple(chosen):
        for parent in Path(file).parents:
            if (root / parent / "conftest.py").is_file():
                chosen.add((parent / "conftest.py").as_posix())
    for file in chosen:
        if (root / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, target / file)
    return chosen


def bring_generated(base: Base, root: Path, target: Path, source: Sequence[str]) -> list[str]:
    """Copy the Python files of the source that git ignores, and that the base therefore lacks, from the head.

    Ignored folders (a virtual environment, a build) are left out whole. Returns what was copied, relative to ``root``.
    """
    if base.git is None:
        return []
    asked = ("ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z", "--", *source)
    listed = [os.fsdecode(path) for path in base.git.run(*asked).split(b"\0")]
    chosen = [path for path in listed if path.endswith(".py") and not (target / path).exists()]
    for path in chosen[:_MOST_GENERATED]:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target / path)
    return chosen[:_MOST_GENERATED]


def _files_below(folder: Path, root: Path) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(os.path.relpath(Path(here) / name, root)).as_posix() for name in names)


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def importable_names(root: Path, source: Sequence[str]) -> set[str]:
    """The top-level modules that the source folders hold, by name."""
    names: set[str] = set()
    for entry in source:
        top = root / entry
        if (top / "__init__.py").is_file():
            names.add(Path(os.path.realpath(top)).name)
        elif top.suffix == ".py":
            names.add(top.stem)
        else:
            names |= _packages(top, _DEEP)
    return names


def _packages(folder: Path, deep: int) -> set[str]:
    names: set[str] = set()
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.name.startswith(".") or entry.name in _NO_SOURCE:
                continue
            if entry.suffix == ".py" and entry.is_file():
                names.add(entry.stem)
            elif entry.is_dir() and not (entry / "pyvenv.cfg").exists():
                if (entry / "__init__.py").is_file():
                    names.add(entry.name)
                elif deep:
                    names |= _packages(entry, deep - 1)
    return names - {"conftest", "setup", "__main__"}


def environment_differs(changed: Iterable[str]) -> list[str]:
    """Of the changed files, those by which another environment may have been meant."""
    return sorted(path for path in changed if any(Path(path).match(pattern) for pattern in _ENVIRONMENT))


def find_base(git: Git | None, event: Event, changed: tuple[str, str | None] | None, *, prefix: str) -> Base:
    """The commit that a change starts from. ``changed``: base and head of the change as this clone has them."""
    if git is None:
        return Base(absent="this is no git repository, or one without a commit")
    if event.base_sha is None:
        return Base(absent=f"the event `{event.name}` has no base to compare with")
    sha = git.merge_base(changed[0], changed[1] or "HEAD") if changed is not None else None
    if sha is None:
        return Base(absent="this clone is too shallow to have the base commit: `fetch-depth: 0` of actions/checkout")
    return Base(git=git, sha=sha, prefix=prefix)
