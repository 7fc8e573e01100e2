"""The fork server of one tier: forks pytest's controller, and a worker for each shim that asks.

It does nothing else and starts no thread, so that a fork copies a process at rest. It ends with the controller, as the
controller ended; its other children end with it.
"""

from __future__ import annotations

import array
import contextlib
import marshal
import os
import runpy
import secrets
import selectors
import signal
import socket
import struct
import sys
from ast import literal_eval
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from _mltiers_warm import WARM_VARIABLE
from _mltiers_warm.child import die_with_parent, ends_here, fresh_start, run_and_leave, standard_streams
from _mltiers_warm.preload import why_not_now
from _mltiers_warm.relay import ANOTHER_TRY

PATIENCE = 5.0  # seconds for a shim to say what it wants
FREE = ("COV_CORE_", "MLTIERS_", "PYTEST_")
"""Variables that pytest and its plugins set between the controller's start and the workers'."""
IMPORTED = "from execnet.gateway_base import serve, init_popen_io, get_execmodel\n"


class AnotherTry(Exception):  # noqa: N818 -- not an error: a reason
    """This copy of the process cannot be forked from; another that leaves something out may."""


class ForkServer:
    """``matters``: whether a variable's value could have changed what was imported ahead."""

    def __init__(self, *, matters: Callable[[str], bool], say: Callable[[str], None]) -> None:
        self.matters = matters
        self.say = say
        self.name = f"mltiers-{secrets.token_hex(16)}"
        self.environment = dict(os.environ)
        self.selector: selectors.BaseSelector | None = None
        self.workers: dict[int, socket.socket] = {}  # pid → the connection of its shim
        self.controller = 0
        self.given: dict[str, str] = {}  # variables that an import has set in every process that imports it
        self.told: set[str] = set()
        self.handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}

    def run(self, controller: Callable[[], object], prepare: Callable[[], bool]) -> NoReturn:
        """Fork the controller and, while it starts, a copy that workers are forked from. End as the controller does.

        ``prepare`` imports in that copy what workers need: it returns whether the copy can be forked from, and raises
        AnotherTry if another might that is told of by then.
        """
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind("\0" + self.name)
        self.listener.listen(64)
        # A stop is sent to the whole tree; the controller knows best how to end, and we end with it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._pass_on)
        sys.stdout.flush()
        sys.stderr.flush()
        self.controller = self._fork(lambda: self._become_controller(controller))
        copy = self._fork(lambda: self._serve(prepare))
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == self.controller:
                break
            if pid == copy and os.waitstatus_to_exitcode(status) == ANOTHER_TRY:
                copy = self._fork(lambda: self._serve(prepare))
            elif pid == copy:
                copy = 0
                self.listener.close()  # a shim that finds nobody starts a plain worker
        if copy:
            os.kill(copy, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
            os.kill(os.getpid(), -code)
        os._exit(code & 0xFF)

    def _pass_on(self, number: int, _: object) -> None:
        if not self.controller:
            os._exit(128 + number)
        os.kill(self.controller, number)

    def _become_controller(self, controller: Callable[[], object]) -> NoReturn:
        self.listener.close()
        run_and_leave(controller)

    def _serve(self, prepare: Callable[[], bool]) -> NoReturn:
        """In the copy: import, and fork a worker for every shim that asks, as long as there is a controller."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            if not prepare():
                os._exit(0)
        except AnotherTry:
            os._exit(ANOTHER_TRY)
        now = dict(os.environ)
        self.given = {name: value for name, value in now.items() if self.environment.get(name) != value}
        self.wake, self.wake_write = os.pipe()
        for fd in (self.wake, self.wake_write):
            os.set_blocking(fd, False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fd == self.wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wake, 4096)
                else:
                    self._hung_up(key.data)
            self._reap()

    def _reap(self) -> None:
        """See off whoever has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self.workers:
                    shim = self.workers.pop(pid)
                    self.selector.unregister(shim)
                    with contextlib.suppress(OSError):
                        shim.sendall(b"%d\n" % status)
                    shim.close()

    def _hung_up(self, pid: int) -> None:
        """A shim that ends before its worker was killed by xdist, which means the worker."""
        shim = self.workers.get(pid)
        if shim is None:
            return
        with contextlib.suppress(OSError):
            if shim.recv(1):
                return
        self.selector.unregister(shim)
        del self.workers[pid]
        shim.close()
        os.kill(pid, signal.SIGKILL)

    def _accept(self) -> None:
        shim, _ = self.listener.accept()
        shim.settimeout(PATIENCE)
        streams: list[int] = []
        try:
            _, uid, _ = struct.unpack("3i", shim.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            order, streams = _read_order(shim)
            refusal = "of another user" if uid != os.getuid() else self._refusal(order)
            if refusal is not None:
                self._say_once(f"a plain worker instead of a warm one: {refusal}")
                shim.sendall(b"n")
                shim.close()
                return
            pid = self._fork(lambda: self._become_worker(shim, order, streams))
            self.workers[pid] = shim
            shim.settimeout(None)
            self.selector.register(shim, selectors.EVENT_READ, pid)
            shim.sendall(b"y")
        except (OSError, ValueError) as error:
            self._say_once(f"a plain worker instead of a warm one: {error}")
            shim.close()
        finally:
            for fd in streams:
                os.close(fd)

    def _refusal(self, order: Mapping[str, Any]) -> str | None:
        before, now = self.environment, order["env"]
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        for name in changed:
            if name != WARM_VARIABLE and not name.startswith(FREE) and self.matters(name):
                return f"{name} was changed after the imports that read it"
        if (why := why_not_now()) is not None:
            return f"the process to fork from is not at rest: {why}"
        return None

    def _say_once(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self.say(text)

    def _fork(self, work: Callable[[], NoReturn]) -> int:
        parent = os.getpid()
        # A signal that comes before the child has handlers of its own must not find those of the server.
        every = signal.valid_signals()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, every)
        pid = os.fork()
        if pid == 0:
            with ends_here(70):
                signal.set_wakeup_fd(-1)
                for number, handler in self.handlers.items():
                    if handler is not None:  # None: installed by native code, and not known to Python
                        signal.signal(number, handler)
                self._close_own()
                die_with_parent(parent)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                work()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def _close_own(self) -> None:
        if self.selector is None:  # the first process forks: the controller, which has no use for it, or the copy
            return
        self.selector.close()
        self.listener.close()
        os.close(self.wake)
        os.close(self.wake_write)
        for shim in self.workers.values():
            shim.close()

    def _become_worker(self, shim: socket.socket, order: Mapping[str, Any], streams: list[int]) -> NoReturn:
        shim.close()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        while streams:  # whoever read them would close them as well
            os.close(streams.pop())
        os.chdir(order["cwd"])
        os.umask(order["umask"])
        argv = order["argv"]
        fresh_start(argv=["-c"], orig_argv=argv, path=["", *sys.path], environment={**order["env"], **self.given})
        standard_streams(unbuffered=True)
        run_and_leave(_bootstrap)


def _bootstrap() -> None:
    """What ``python -u -c "import sys;exec(eval(sys.stdin.readline()))"`` does, where execnet is imported already."""
    if "COV_CORE_SOURCE" in os.environ:
        # pytest-cov's .pth file (before version 7) does this when an interpreter starts.
        with contextlib.suppress(Exception):
            from pytest_cov.embed import init  # noqa: PLC0415

            init()
    source = literal_eval(sys.stdin.readline())
    # For `python=…` execnet sends its own source, for a Python that may not have it; this one has.
    _, head, rest = source.rpartition("\nexecmodel = get_execmodel(")
    if head:
        source = IMPORTED + head + rest
    exec(source, sys.modules["__main__"].__dict__)  # noqa: S102 -- execnet's own way of starting a worker


def pytest_as_main(arguments: list[str], environment: Mapping[str, str], path: list[str]) -> Callable[[], object]:
    """``python -m pytest ARGUMENTS`` as a function, for a process that was forked for it."""

    def work() -> object:
        orig = [sys.executable, "-m", "pytest", *arguments]
        fresh_start(argv=["", *arguments], orig_argv=orig, path=path, environment=environment)
        return runpy._run_module_as_main("pytest")  # type: ignore[attr-defined]  # what `-m` itself calls

    return work


def _read_order(shim: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a shim wants, and its standard streams. Raises OSError, ValueError."""
    fds = array.array("i")
    data, ancillary, _, _ = shim.recvmsg(4, socket.CMSG_LEN(3 * fds.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    try:
        if len(fds) != 3 or len(data) != 4:
            raise ValueError("a shim did not hand over its streams")
        left = int.from_bytes(data, "big")
        parts = []
        while left:
            piece = shim.recv(min(left, 65536))
            if not piece:
                raise ValueError("a shim ended in mid-sentence")
            parts.append(piece)
            left -= len(piece)
        return marshal.loads(b"".join(parts)), list(fds)  # noqa: S302 -- of our own user alone, as /proc is
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
