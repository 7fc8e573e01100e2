"""Run as a script in place of ``python -m pytest``: pytest, forked from a process that has imported what it needs.

    start.py FILE -- PYTEST_ARGUMENT...

FILE holds the order, JSON: ``{"modules": [...], "later": [...], "own": [...], "rewritten": [...], "sets": [...]}``:
what conftests import, what only tests do, and ``preload.Surroundings``. It receives what became of it: ``{"warm": true,
"reason": null, "modules": [...], "without": {MODULE: WHY}, "seconds": N}``. Whatever is in the way, the tests run: this
process then becomes ``python -m pytest``, or workers are plain.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS = "_mltiers_warm"
BASE = ("pytest", "execnet")  # what every controller and worker imports, and pytest does not rewrite


def main(arguments: Sequence[str]) -> NoReturn:
    """Import, and fork pytest; or become it."""
    file, _, *pytest_arguments = arguments
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    safe_path = getattr(sys.flags, "safe_path", False)
    if not safe_path and sys.path and sys.path[0] == here:
        del sys.path[0]
    run = _Run(file, pytest_arguments)
    _load_ours(here)
    from _mltiers_warm import WARM_VARIABLE  # noqa: PLC0415
    from _mltiers_warm.forkserver import ForkServer, pytest_as_main  # noqa: PLC0415
    from _mltiers_warm.preload import WatchedEnvironment, settle  # noqa: PLC0415

    watched = WatchedEnvironment()
    try:
        run.import_first(watched)
    finally:
        watched.stop()
    settle()
    server = ForkServer(matters=watched.matters, say=_say)

    def prepare() -> bool:
        watched.start()
        try:
            return run.import_later(watched)
        finally:
            watched.stop()
            settle()

    path = sys.path[:] if safe_path else [os.getcwd(), *sys.path]  # noqa: PTH109
    server.run(pytest_as_main(pytest_arguments, {**os.environ, WARM_VARIABLE: server.name}, path), prepare)


class _Run:
    """The order, and what is done about it."""

    def __init__(self, file: str, pytest_arguments: list[str]) -> None:
        self.file = os.path.abspath(file)  # noqa: PTH100
        self.pytest_arguments = pytest_arguments
        self.environment = dict(os.environ)
        self.began = time.monotonic()
        self.done: tuple[str, ...] = ()
        self._read()

    def _read(self) -> None:
        with open(self.file, encoding="utf-8") as stream:  # noqa: PTH123
            self.told: dict[str, Any] = json.load(stream)
        self.without: dict[str, str] = self.told.setdefault("without", {})

    def import_first(self, watched: Any) -> None:
        """Import what the controller needs too. Returns only in a process that may be forked."""
        from _mltiers_warm.preload import NotWarm, Unfit, preload, why_not_now  # noqa: PLC0415

        try:
            self.done = preload([*BASE, *self._wanted("modules")], self._around(), watched)
        except Unfit as unfit:
            self._without(unfit.module, unfit.why)
        except NotWarm as reason:
            self._plain(str(reason))
        if (why := why_not_now()) is not None:
            self._plain(f"the process to fork from is not at rest: {why}")

    def import_later(self, watched: Any) -> bool:
        """Import what workers need besides, in a copy of this process. Returns whether it may be forked."""
        from _mltiers_warm.forkserver import AnotherTry  # noqa: PLC0415
        from _mltiers_warm.preload import NotWarm, Unfit, preload, why_not_now  # noqa: PLC0415

        self._read()
        try:
            done = (*self.done, *preload(self._wanted("later"), self._around(), watched))
            why = why_not_now()
        except Unfit as unfit:
            self.without[unfit.module] = unfit.why
            self._write(self.told)
            raise AnotherTry from None
        except NotWarm as reason:
            why = str(reason)
        modules = [] if why else [name for name in done if name not in BASE]
        self.report(warm=why is None, reason=why, modules=modules)
        return why is None

    def _wanted(self, when: str) -> list[str]:
        return [name for name in self.told.get(when, ()) if name not in self.without]

    def _around(self) -> Any:
        from _mltiers_warm.preload import Surroundings  # noqa: PLC0415

        return Surroundings(*(frozenset(self.told.get(key, ())) for key in ("own", "rewritten", "sets")))

    def report(self, **fields: object) -> None:
        """Write what became of the order."""
        told = {key: self.told.get(key, []) for key in ("own", "rewritten", "sets")}
        seconds = round(self._seconds(), 3)
        self._write({"reason": None, "seconds": seconds, "without": self.without, **told, **fields})

    def _without(self, module: str, why: str) -> NoReturn:
        """Start anew and leave it out: what an import did to this process, nobody can undo."""
        self.without[module] = why
        if module in BASE or not {*self.told["modules"], *self.told.get("later", ())} - set(self.without):
            self._plain("; ".join(f"{name} {why}" for name, why in self.without.items()))
        self._write({**self.told, "spent": self._seconds()})
        again = [sys.executable, __file__, self.file, "--", *self.pytest_arguments]
        os.execve(sys.executable, again, self.environment)  # noqa: S606

    def _plain(self, why: str) -> NoReturn:
        self.report(warm=False, reason=why, modules=[])
        os.execve(sys.executable, [sys.executable, "-m", "pytest", *self.pytest_arguments], self.environment)  # noqa: S606

    def _seconds(self) -> float:
        return time.monotonic() - self.began + float(self.told.get("spent", 0.0))

    def _write(self, what: dict[str, Any]) -> None:
        with open(self.file, "w", encoding="utf-8") as stream:  # noqa: PTH123
            json.dump(what, stream)


def _say(text: str) -> None:
    print(f"mltiers: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _load_ours(here: str) -> None:
    """This folder as a package of its own name."""
    where = os.path.join(here, "__init__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location(OURS, where, submodule_search_locations=[here])
    assert spec is not None  # noqa: S101
    assert spec.loader is not None  # noqa: S101
    package = importlib.util.module_from_spec(spec)
    sys.modules[OURS] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main(sys.argv[1:])
