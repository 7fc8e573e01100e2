"""What warns when it is imported: imported ahead, hidden, and there when something imports it, warnings and all.

A worker that imports such a module gives the warning where pytest's filters hear it, and again each time that a filter
makes an error of it. So after the import its modules are taken out of ``sys.modules``, and a finder puts them back at
the next import of one of them, having given each warning once more from the place that it was given from.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any


@dataclass(frozen=True)
class Given:
    """A warning. ``at``: the code that it names, None where nobody can tell which that will be the next time;
    ``of_importer``: that is whoever imports the innermost of ``during``: what was being imported, outermost first."""

    message: Warning
    category: type[Warning]
    at: Place | None
    of_importer: bool
    during: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Some line of code. ``variables``: the global ones of its module."""

    filename: str
    lineno: int
    variables: dict[str, Any]


class Hidden:
    """A finder of what was hidden; at most one is in ``sys.meta_path``."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._given: list[Given] = []
        self._seen: list[Given] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The modules that are hidden now."""
        return frozenset(self._modules)

    @contextmanager
    def recording(self) -> Iterator[list[Given]]:
        """The warnings that are given meanwhile; nobody else hears them."""
        seen: list[Given] = []
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self._record
            self._seen = seen
            try:
                yield seen
            finally:
                self._seen = None

    def _record(self, message: Any, category: Any, filename: str, lineno: int, *_: object, **__: object) -> None:
        if self._seen is not None:
            self._seen.append(Given(message, category, *_named(filename, lineno), _importing()))

    def hide(self, fresh: Collection[str], seen: Collection[Given]) -> bool:
        """Hide those of the modules ``fresh`` that cannot be had without the warnings ``seen`` while they were
        imported. Returns whether that can be done: nothing is hidden otherwise.
        """
        given = [
            replace(one, during=tuple(dict.fromkeys(name for name in one.during if name in fresh))) for one in seen
        ]
        roots = {_root(name, fresh) for one in given for name in one.during}
        modules = {name: sys.modules[name] for name in fresh if _root(name, fresh) in roots}
        if any(one.at is None or not one.during or issubclass(one.category, ResourceWarning) for one in given):
            return False
        if any(getattr(getattr(module, "__spec__", None), "name", None) != name for name, module in modules.items()):
            return False
        for name in {name for one in given for name in one.during}:
            parent, _, child = name.rpartition(".")
            if getattr(sys.modules.get(parent), child, None) is modules[name]:
                delattr(sys.modules[parent], child)
        for name in modules:
            del sys.modules[name]
        self._modules.update(modules)
        self._given += given
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        return True

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """As the import system asks for it."""
        module = self._modules.get(name)
        if module is None or module.__spec__ is None:
            return None
        spec = copy.copy(module.__spec__)
        spec.loader = _Revealing(self, module)  # type: ignore[assignment]
        return spec

    def reveal(self, name: str) -> None:
        """Give the warnings of this module, and have ``sys.modules`` name it, and all that has nothing to warn of."""
        due = [one for one in self._given if name in one.during]
        self._given = [one for one in self._given if name not in one.during]
        try:
            for one in due:
                self._give(one, name)
        except BaseException:
            self._given += due  # an error: of the next import, too
            raise
        waiting = {each for one in self._given for each in one.during}
        for hidden in sorted(self._modules):
            if _root(hidden, waiting) not in waiting:
                module = sys.modules.setdefault(hidden, self._modules.pop(hidden))
                parent, _, child = hidden.rpartition(".")
                if parent in sys.modules and not hasattr(sys.modules[parent], child):
                    setattr(sys.modules[parent], child, module)
        if not self._modules:
            with suppress(ValueError):
                sys.meta_path.remove(self)

    def _give(self, one: Given, name: str) -> None:
        if one.of_importer and one.during[-1] == name:
            one = replace(one, at=_importer())
        if self._seen is not None:  # an import ahead, of what is to be hidden with it
            self._seen.append(replace(one, during=(*_importing(), *one.during[one.during.index(name) :])))
        elif one.at is not None:
            registry = one.at.variables.setdefault("__warningregistry__", {})
            module = one.at.variables.get("__name__", "<string>")
            warnings.warn_explicit(one.message, one.category, one.at.filename, one.at.lineno, module, registry)


HIDDEN = Hidden()
"""One, as there is one ``sys.modules``."""


class _Revealing:
    """A loader of a hidden module; for what else a loader may be asked, the module's own."""

    def __init__(self, hidden: Hidden, module: ModuleType) -> None:
        self._hidden = hidden
        self._module = module
        self._spec = module.__spec__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spec.loader, name)  # type: ignore[union-attr]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
        self._hidden.reveal(module.__name__)


def _root(name: str, among: Collection[str]) -> str:
    """The outermost package of this module, or itself, that is one of these."""
    parts = name.split(".")
    return next((top for end in range(1, len(parts)) if (top := ".".join(parts[:end])) in among), name)


def _frames() -> Iterator[FrameType]:
    """Those of the code that is running, innermost first, but for this file and what carries out an import."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not ("importlib" in file and "_bootstrap" in file):  # as `warnings` does
            yield frame
        frame = frame.f_back


def _is_body(frame: FrameType) -> bool:
    """Whether it executes a module, from its first line on."""
    return frame.f_code.co_name == "<module>"


def _importing() -> tuple[str, ...]:
    return tuple(reversed([frame.f_globals.get("__name__", "") for frame in _frames() if _is_body(frame)]))


def _importer() -> Place | None:
    """The code that imports what is being revealed."""
    return next((_place(frame) for frame in _frames()), None)


def _place(frame: FrameType) -> Place:
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_globals)


def _named(filename: str, lineno: int) -> tuple[Place | None, bool]:
    """The code that a warning names, and whether that is what imports the innermost module that is being imported."""
    innermost, importer = None, None
    for frame in _frames():
        if innermost is not None and importer is None:
            importer = frame
        if frame.f_code.co_filename == filename and frame.f_lineno == lineno:
            known = importer in (None, frame) or _package(frame) == _package(innermost)
            return (_place(frame) if known else None), frame is importer
        if innermost is None and _is_body(frame):
            innermost = frame
    return None, False


def _package(frame: FrameType | None) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] if frame is not None else ""
