"""Run as a script in place of ``python -m pytest``: pytest, forked from a process that has imported what it needs.

    start.py FILE -- PYTEST_ARGUMENT...
    start.py FILE --keep DESCRIPTOR FOLDER MODULE PROBE

FILE holds the order, JSON: ``{"modules": [...], "later": [...], "own": [...], "rewritten": [...], "sets": [...],
"alone": false}``: what conftests import, what only tests do, ``preload.Surroundings``, and whether pytest has no
workers. It receives what became of it: ``{"warm": true, "reason": null, "modules": [...], "without": {MODULE: WHY},
"seconds": N}``. Whatever is in the way, the tests run: this process then becomes ``python -m pytest``, or workers are
plain.

The second form may be started before anybody knows what to order: it prints what the program ``PROBE`` has to say of
this Python, imports what every pytest needs, waits for FILE (``keep``), imports ``modules``, and is then what several
commands of the first form are forked from. ``--ordered`` instead of ``--keep``: FILE is there already.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _mltiers_warm.preload import Unfit
    from _mltiers_warm.relay import Relay

OURS = "_mltiers_warm"
ORDERED = "--ordered"
KEEPS = ("--keep", ORDERED)
TRIES = 3  # modules that are found unfit before the others are not tried: each costs an import of some before it
SAFE_PATH = bool(getattr(sys.flags, "safe_path", False))


def main(arguments: Sequence[str]) -> NoReturn:
    """Import, and fork pytest; or become it."""
    file, form, *rest = arguments
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    if not SAFE_PATH and sys.path and sys.path[0] == here:
        del sys.path[0]
    if form in KEEPS:
        descriptor, folder, module, probe = rest
        _answer(probe)
        _load_ours(here)
        from _mltiers_warm import keep, on_an_empty_stack  # noqa: PLC0415

        again = [ORDERED, descriptor, folder, module, ""]
        waits, this = form != ORDERED, sys.modules[__name__]
        on_an_empty_stack(lambda: keep.main(file, again, this, int(descriptor), folder, module, waits=waits))
    run = Run(file, arguments[1:], dict(os.environ))
    if run.told.get("alone"):
        run.plain(run.told.get("fresh") or "one worker, and nothing is kept to fork it from")
    _load_ours(here)
    from _mltiers_warm import on_an_empty_stack  # noqa: PLC0415
    from _mltiers_warm.preload import WatchedEnvironment  # noqa: PLC0415

    watched = WatchedEnvironment()
    try:
        run.import_first(watched)
    finally:
        watched.stop()
    on_an_empty_stack(lambda: run.go(watched))


class Run:
    """The order, and what is done about it.

    ``environment``: what this process was started with. ``done`` and ``seconds``: what had been imported, and in what
    time, in the process that this one was forked from.
    """

    def __init__(
        self,
        file: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        *,
        done: tuple[str, ...] = (),
        seconds: float = 0.0,
    ) -> None:
        self.file = os.path.abspath(file)  # noqa: PTH100
        self.arguments = list(arguments)
        self.environment = environment
        self.began = time.monotonic() - seconds
        self.done = done
        self.kept = bool(done)
        self.taken = seconds
        self.without: dict[str, str] = {}
        self._read()

    def go(self, watched: Any) -> NoReturn:
        """Fork pytest, or be it where it has no workers. In a process that may be forked."""
        from _mltiers_warm import WARM_VARIABLE  # noqa: PLC0415
        from _mltiers_warm.child import run_and_leave  # noqa: PLC0415
        from _mltiers_warm.forkserver import ForkServer, pytest_as_main  # noqa: PLC0415
        from _mltiers_warm.preload import settle  # noqa: PLC0415

        path = sys.path[:] if SAFE_PATH else [os.getcwd(), *sys.path]  # noqa: PTH109
        if self.told.get("alone"):
            self.report(warm=True, modules=self._named(self.done))
            run_and_leave(pytest_as_main(self.arguments[1:], os.environ.copy(), path))
        settle()
        server = ForkServer(matters=watched.matters, say=_say)

        def prepare() -> bool:
            watched.start()
            try:
                return self.import_later(watched)
            finally:
                watched.stop()
                settle()

        server.run(pytest_as_main(self.arguments[1:], {**os.environ, WARM_VARIABLE: server.name}, path), prepare)

    def _read(self) -> None:
        with open(self.file, encoding="utf-8") as stream:  # noqa: PTH123
            self.told: dict[str, Any] = json.load(stream)
        self.without = {**self.told.get("without", {}), **self.without}
        self.told["without"] = self.without

    def import_first(self, watched: Any, relay: Relay | None = None) -> None:
        """Import what the controller needs too. Returns only in a process that may be forked: another one than called
        it, where there is a ``relay``.
        """
        from _mltiers_warm.preload import NotWarm, Unfit, base, preload, why_not_now  # noqa: PLC0415
        from _mltiers_warm.relay import ANOTHER_TRY  # noqa: PLC0415

        try:
            # One process alone imports the rest itself, if it comes to that.
            wanted = () if self.told.get("alone") else chain(base(), self._in_turn("modules", relay))
            self.done = (*self.done, *preload(wanted, self.around(), watched))
        except Unfit as unfit:
            self._leave_out(unfit, "modules")
            if relay is not None and relay.used:
                self._write(self.told)
                os._exit(ANOTHER_TRY)
            self._again(unfit.module)
        except NotWarm as reason:
            self.plain(str(reason))
        if (why := why_not_now()) is not None:
            self.plain(f"the process to fork from is not at rest: {why}")
        self.taken = self.seconds()

    def import_later(self, watched: Any) -> bool:
        """Import what workers need besides, in a copy of this process. Returns whether it may be forked."""
        from _mltiers_warm.forkserver import AnotherTry  # noqa: PLC0415
        from _mltiers_warm.preload import NotWarm, Unfit, preload, why_not_now  # noqa: PLC0415
        from _mltiers_warm.relay import Relay  # noqa: PLC0415

        self._read()
        try:
            done = (*self.done, *preload(self._in_turn("later", Relay()), self.around(), watched))
            why = why_not_now()
        except Unfit as unfit:
            self._leave_out(unfit, "later")
            self._write(self.told)
            raise AnotherTry from None
        except NotWarm as reason:
            why = str(reason)
        modules = [] if why else self._named(done)
        self.report(warm=why is None, reason=why, modules=modules)
        return why is None

    def _in_turn(self, when: str, relay: Relay | None) -> Iterator[str]:
        """What is wanted, one by one, each as late as possible: another try leaves out more than the one before."""
        for name in self._wanted(when):
            if relay is not None and relay.pays(name):
                relay.stay_behind()
                self._read()
            if name in self._wanted(when):
                yield name

    def _wanted(self, when: str) -> list[str]:
        left = tuple(f"{name}." for name in self.without)
        return [name for name in self.told.get(when, ()) if not f"{name}.".startswith(left)]

    def _named(self, done: Sequence[str]) -> list[str]:
        from _mltiers_warm.preload import is_base  # noqa: PLC0415

        return [name for name in dict.fromkeys(done) if not is_base(name)]

    def around(self) -> Any:
        """What the project brings, as the order says."""
        from _mltiers_warm.preload import Surroundings  # noqa: PLC0415

        return Surroundings(*(frozenset(self.told.get(key, ())) for key in ("own", "rewritten", "sets")))

    def report(self, **fields: object) -> None:
        """Write what became of the order."""
        told = {key: self.told.get(key, []) for key in ("own", "rewritten", "sets")}
        told |= {"fresh": self.told.get("fresh"), "kept": self.kept}
        self._write({"reason": None, "seconds": round(self.seconds(), 3), "without": self.without, **told, **fields})

    def afresh(self, why: str, command: Sequence[str]) -> NoReturn:
        """Have a new process do it, instead of this fork of a kept one."""
        self._write({**self.told, "fresh": f"the process kept for the run {why}"})
        os.execve(command[0], list(command), self.environment)  # noqa: S606

    def settle_for(self, done: Sequence[str]) -> None:
        """Want no more than what was imported, if enough was tried before that."""
        if len(self.without) >= TRIES:
            self.told["modules"] = [name for name in self.told["modules"] if name in done]

    def _leave_out(self, unfit: Unfit, when: str) -> None:
        """Without its package, too, if that was not imported yet: all of it would be found out one by one."""
        top = unfit.module.partition(".")[0]
        imported = {name.partition(".")[0] for name in (*self.done, *unfit.done)}
        self.without[unfit.module if top in imported else top] = unfit.why
        if len(self.without) >= TRIES:
            self.told[when] = self._named(unfit.done)

    def _again(self, module: str) -> NoReturn:
        """Start anew: what an import did to this process, nobody can undo."""
        from _mltiers_warm.preload import is_base  # noqa: PLC0415

        if is_base(module) or not (self._wanted("modules") or self._wanted("later")):
            self.plain("; ".join(f"{name} {why}" for name, why in self.without.items()))
        self._write({**self.told, "spent": self.seconds()})
        again = [sys.executable, __file__, self.file, *self.arguments]
        os.execve(sys.executable, again, self.environment)  # noqa: S606

    def plain(self, why: str) -> NoReturn:
        """Become the plain command; where this is a process to be kept, there is none."""
        self.report(warm=False, reason=why, modules=[])
        form, *rest = self.arguments
        if form in KEEPS:
            os._exit(0)
        os.execve(sys.executable, [sys.executable, "-m", "pytest", *rest], self.environment)  # noqa: S606

    def seconds(self) -> float:
        """How long all of it took, over all attempts."""
        return time.monotonic() - self.began + float(self.told.get("spent", 0.0))

    def _write(self, what: dict[str, Any]) -> None:
        beside = f"{self.file}.{os.getpid()}"
        with open(beside, "w", encoding="utf-8") as stream:  # noqa: PTH123
            json.dump(what, stream)
        os.replace(beside, self.file)  # noqa: PTH105 -- whoever is ended meanwhile leaves no half of it


def _say(text: str) -> None:
    print(f"mltiers: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _answer(probe: str) -> None:
    """Have the program print its answer, and end the output with it."""
    path = sys.path[:]
    try:
        exec(probe, {"__name__": "probe"})  # noqa: S102
        sys.stdout.flush()
    finally:
        sys.path[:] = path
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


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
