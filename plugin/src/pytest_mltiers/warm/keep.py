"""A process that has imported, and is kept for a whole run: each tier is forked from it, below a supervisor of its own.

What contains a tier is whoever its orphans come to, and that must be an ancestor. So not pytest is forked here but the
supervisor, which becomes the subreaper of what it forks in turn: the tier has the modules by inheritance, and its
process tree is built exactly as that of a command which is executed.

Nothing else happens here, and no thread is started: a fork copies a process at rest. It ends when the other end of its
control socket is closed, or when its parent ends.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from _mltiers_warm.child import die_with_parent, ends_here, retitle, standard_streams
from _mltiers_warm.forkserver import FREE
from _mltiers_warm.hidden import HIDDEN
from _mltiers_warm.preload import (
    NotWarm,
    Surroundings,
    Unfit,
    WatchedEnvironment,
    base,
    is_base,
    preload,
    settle,
    why_not_now,
)
from _mltiers_warm.relay import Relay

OURS = ("COVERAGE_FILE",)
"""Set for each tier by us, to a file of its own; nobody but coverage reads it."""
PATH = "PYTHONPATH"
AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "LANG", "LC_", "TZ")
"""What the interpreter and libc look at when they start; native libraries are yet to be loaded."""
MOST_DESCRIPTORS = 4
"""What comes with a request: the supervisor's standard streams, and the descriptor that says it is cancelled."""

Become = Callable[[dict[str, Any]], NoReturn]


def main(
    file: str, arguments: list[str], start: ModuleType, descriptor: int, folder: str, module: str, *, waits: bool
) -> NoReturn:
    """Import what is ordered, and serve the control socket. ``module``, found in ``folder``, has the supervisor's
    ``main``, which is given what its child does instead of executing the tier's command. ``arguments``: those of this
    process, should it have to start again with the order ``file``; ``waits``: for that to come.
    """
    die_with_parent(os.getppid())
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(True)  # over an execve of ourselves, should a module be unfit
    supervise = _load(folder, module)
    known, environment = set(sys.modules), dict(os.environ)
    watched = WatchedEnvironment()
    try:
        if waits:
            again = [sys.executable, str(start.__file__), file, *arguments]
            environment = _ordered(control, environment, again, watched)
        run = start.Run(file, arguments, environment)
        run.import_first(watched, Relay())
    finally:
        watched.stop()
    settle()
    control.set_inheritable(False)
    kept = Kept(run, start, watched, known, environment)
    serve(control, lambda: supervise(kept.become))


def _ordered(
    control: socket.socket,
    environment: dict[str, str],
    again: list[str],
    watched: WatchedEnvironment,
) -> dict[str, str]:
    """Import what every pytest needs, and wait for the order. Returns the environment that it is for, which is ours
    from then on; where that takes a new interpreter, this process becomes one: ``again`` is its command.
    """
    try:
        preload(base(), Surroundings(), watched)
    except (Unfit, NotWarm):
        os._exit(0)  # a tier finds that out for itself, and says so
    wanted = _received(control)
    watched.stop()  # what follows reads all of them
    given = {name: value for name, value in os.environ.items() if environment.get(name) != value}
    if not _may_become(wanted, environment, watched):
        os.execve(sys.executable, again, wanted)  # noqa: S606
    if wanted.get(PATH) != environment.get(PATH):
        sys.path.insert(0, _plugin())
    os.environ.clear()
    os.environ.update({**wanted, **given})
    watched.start()
    return wanted


def _may_become(wanted: Mapping[str, str], environment: Mapping[str, str], watched: WatchedEnvironment) -> bool:
    """Whether nothing that this process has done so far could have been different in the environment it is to have."""
    for name in {*wanted, *environment}:
        if wanted.get(name) == environment.get(name):
            continue
        if name == PATH:
            if wanted.get(name) != ":".join(filter(None, (_plugin(), environment.get(name)))):
                return False
        elif name.startswith(AT_START) or name in watched.read:
            return False
    return True


def _plugin() -> str:
    """The folder that this plugin lies in, as the orchestrator names it."""
    return os.path.abspath(os.path.join(__file__, "..", "..", ".."))  # noqa: PTH100, PTH118


def _received(control: socket.socket) -> dict[str, str]:
    """The message: a JSON object after four bytes that say how long it is. Ends with the other end."""
    with control.makefile("rb", buffering=0) as stream, suppress(OSError, ValueError):
        length = int.from_bytes(_exactly(stream, 4), "big")
        message: dict[str, str] = json.loads(_exactly(stream, length))
        return message
    os._exit(0)


def _exactly(stream: Any, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = stream.read(count - len(parts))
        if not part:
            raise ValueError("it has ended")
        parts += part
    return parts


class Kept:
    """What has been imported here, and what a tier does with it in its own process."""

    def __init__(
        self, run: Any, start: ModuleType, watched: WatchedEnvironment, known: set[str], environment: dict[str, str]
    ) -> None:
        self.run = run
        self.start = start
        self.watched = watched
        self.environment = environment
        self.given = {name: value for name, value in os.environ.items() if environment.get(name) != value}
        self.tops = {name.partition(".")[0] for name in {*sys.modules, *HIDDEN.names} - known}
        self.handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def become(self, order: dict[str, Any]) -> NoReturn:
        """Do what ``order["command"]``, of the form ``PYTHON start.py FILE -- PYTEST_ARGUMENT...``, would do, with
        what is imported already; execute it where that could be told apart."""
        command, environment = order["command"], order["env"]
        try:
            run = self._made_fresh(command, environment)
            why = self.refusal(run.told, environment)
            if why is None:
                os.environ.clear()
                os.environ.update({**environment, **self.given})
        except Exception:  # noqa: BLE001 -- whatever it is, the tests run
            traceback.print_exc()
            os.execve(command[0], command, environment)  # noqa: S606
        if why is not None:
            run.afresh(why, command)
        retitle([sys.executable, "-m", "pytest", *command[4:]])
        self.watched.start()
        try:
            run.import_first(self.watched)
        finally:
            self.watched.stop()
        run.go(self.watched)

    def _made_fresh(self, command: list[str], environment: dict[str, str]) -> Any:
        """This process with nothing left of the supervisor, and the order of the tier."""
        _close_all_but(range(3))
        for number, handler in self.handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        standard_streams(unbuffered=bool(environment.get("PYTHONUNBUFFERED")))
        if environment.get("PYTHONFAULTHANDLER") or sys.flags.dev_mode:
            import faulthandler  # noqa: PLC0415

            faulthandler.disable()
            faulthandler.enable()
        run = self.start.Run(command[2], command[3:], environment, done=self.run.done, seconds=self.run.taken)
        run.without.update(self.run.without)
        run.settle_for(self.run.done)
        return run

    def refusal(self, told: Mapping[str, Any], environment: Mapping[str, str]) -> str | None:
        """Why this tier cannot be forked from here: the end of a sentence about the kept process."""
        for name in sorted({*self.environment, *environment}):
            same = self.environment.get(name) == environment.get(name)
            if not same and not name.startswith(FREE) and name not in OURS and self.watched.matters(name):
                return f"was started with another {name}"
        needed = {*told.get("modules", ()), *told.get("later", ())}
        if more := [name for name in self.run.done if name not in needed and not is_base(name)]:
            return f"has imported {more[0]}, which these tests do not"
        for names in ("own", "rewritten"):
            if clash := sorted(self.tops & set(told.get(names, ()))):
                return f"has imported {clash[0]}, which is the project's own to import"
        if (why := why_not_now()) is not None:
            return f"is not at rest: {why}"
        return None


def serve(control: socket.socket, supervise: Callable[[], object]) -> NoReturn:
    """Fork a supervisor for each request, and answer with its pid and a descriptor of it, till nobody asks any more."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, int] = {}  # pidfd → pid
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                os.close(ready)
                os.waitpid(running.pop(ready), 0)
                continue
            with suppress(OSError):
                asked, streams, _, _ = socket.recv_fds(control, 1, MOST_DESCRIPTORS)
                if asked:
                    pid = _fork(streams, supervise)
                    handle = os.pidfd_open(pid)
                    running[handle] = pid
                    poll.register(handle, select.POLLIN)
                    socket.send_fds(control, [pid.to_bytes(4, "big")], [handle])
                    for stream in streams:
                        os.close(stream)
                    continue
            os._exit(0)


def _fork(streams: list[int], supervise: Callable[[], object]) -> int:
    """Returns the pid of the supervisor. Raises Instead in what the supervisor forks."""
    pid = os.fork()
    if pid == 0:
        with ends_here(0):
            os.setsid()
            high = [fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 64) for stream in streams]
            _close_all_but({0, 1, 2, *high})
            for target, stream in enumerate(high):
                os.dup2(stream, target, inheritable=target < 3)
                os.close(stream)
            supervise()
    return pid


def _close_all_but(kept: Any) -> None:
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(entry) not in kept:
            with suppress(OSError):  # the one that lists them
                os.close(int(entry))


def _load(folder: str, module: str) -> Callable[[Become], object]:
    """The function ``main`` of a module, which leaves no module behind: the tests may have one of its name."""
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        found: Callable[[Become], object] = importlib.import_module(module).main
    finally:
        sys.path.remove(folder)
        top = module.partition(".")[0]
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == top:
                del sys.modules[name]
    return found
