"""The small process that stands between us and one tier's command, and ends the whole tree at its deadline.

Started by ``process.supervise`` with our own interpreter, or forked from the process that is kept warm for the run
(``orchestrator.tools.kept``). It exists so that

- the deadline holds whatever the orchestrator is doing: another process, one thread, nothing but waiting;
- orphans are attributed without guessing: it is the subreaper of exactly one tier;
- the tests do not outlive us: when the orchestrator is gone, however it went, standard input reads end-of-file.

Standard input: one line of JSON (the order), and then nothing for as long as the orchestrator lives. Standard output:
lines of JSON (``started``, ``stopping``, ``ended``). Standard error: the command's output, till the command has it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time

from orchestrator.tools import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

STACKS_SIGNAL = signal.SIGURG
"""What makes the plugin's faulthandler write its stacks: ignored by default, so harmless to a process without a
handler, and used by nobody's training code (unlike USR1, which Lightning and SLURM use)."""

LEFTOVER_GRACE = 0.3  # what a helper process may take to notice that its parent has ended
PY_SPY_AFTER = 0.5  # who has not reacted to INT by then is asked from outside
PY_SPY_MOST = 4


class Supervisor:
    """One command's tree, from its start to the end of its last process.

    ``become``: what the main process does instead of executing the command, where we were forked from a process that
    is kept warm; it never returns.
    """

    def __init__(self, order: dict[str, Any], become: Callable[[dict[str, Any]], NoReturn] | None = None) -> None:
        self.order = order
        self.become = become
        self.main = 0
        self.status: int | None = None  # as waitpid gave it
        self.peak = 0  # of memory, as wait4 gives it
        self.childless = False
        self.helpers: set[int] = set()  # py-spy
        self.needed: dict[tuple[int, str], tuple[str, str]] = {}  # what each process was and the last signal it got
        self.cgroup: tree.Cgroup | None = None
        self.steps: list[tuple[str, float]] = []  # what the stop did, and when
        # "cgroup", "subreaper" or "group": the strongest means that may be used.
        self.portable = order["containment"] == "group"
        self.subreaper = not self.portable and tree.become_subreaper()
        self.wake, self._wake_write = os.pipe()
        for fd in (self.wake, self._wake_write):
            os.set_blocking(fd, False)

    # -- the line ---------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Start the command, wait, stop what has to be stopped. Returns the last report."""
        self._take_signals()
        if self.order["containment"] == "cgroup":
            # A pid alone is not unique: containers may share the cgroups of their host.
            self.cgroup = tree.Cgroup.create(f"mltiers-{os.getpid()}-{time.time_ns():x}")
        # Waiting for the kept process to be ready is part of the command's time.
        waited = 0.0 if self.become is None else time.monotonic() - self.order["began"]
        began, started = time.monotonic() - waited, time.time() - waited
        try:
            self.main = self._spawn()
        except OSError as error:
            if self.cgroup:
                self.cgroup.remove()
            return {"event": "ended", "ending": "not-started", "reason": _spawn_reason(self.order, error)}
        cgroup = self.cgroup.path if self.cgroup else None
        report({"event": "started", "pid": self.main, "at": started, "cgroup": cgroup})

        ending = self._wait()
        leftovers: list[str] = []
        # Where we were late ourselves (a test had stopped us) that counts.
        stop_began = self.order["deadline"] if ending == "deadline" else time.monotonic()
        if ending == "exited":
            seconds = stop_began - began
            leftovers = self._clear_leftovers()
        else:
            self._stop()
            seconds = time.monotonic() - began
        survivors = self._kill()
        stop_seconds = time.monotonic() - stop_began
        if self.cgroup:
            self.cgroup.remove()
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        if ending == "exited" and code is not None and code < 0:
            ending = "signaled"
        return {
            "event": "ended",
            "ending": ending,
            "exit_code": code,
            "seconds": seconds,
            "stop_seconds": stop_seconds,
            "steps": [(step, at - stop_began) for step, at in self.steps],
            "stopped": [f"{what}: {name}" for what, name in self.needed.values()],
            "leftovers": leftovers,
            "survivors": survivors,
            "peak_memory": self.peak * (1024 if tree.LINUX else 1) or None,  # macOS counts bytes
        }

    def _wait(self) -> str:
        """Wait for the main process, the deadline or an order to stop. Returns the ending."""
        deadline = self.order["deadline"]
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        stops = [0] if self.order["cancel"] is None else [0, self.order["cancel"]]
        for fd in stops:
            poll.register(fd, select.POLLIN)
        while True:
            self._reap()
            if self.status is not None:
                return "exited"
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return "deadline"
            # A poll of at most an hour: the timeout is a C int of milliseconds.
            ready = poll.poll(3_600_000 if left is None else min(left, 3600.0) * 1000 + 1)
            if any(fd in stops for fd, _ in ready):
                return "cancelled"
            self._drain()

    # -- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Ask for stacks, then INT, then TERM, each with its grace. What is left is for ``_kill``."""
        _hurry()
        graces = self.order["graces"]
        report({"event": "stopping"})
        self._step("stacks")
        self._ask_for_stacks()
        if self._signal(signal.SIGINT, graces["interrupt"], look_inside=True):
            self._signal(signal.SIGTERM, graces["terminate"])

    def _signal(self, number: signal.Signals, grace: float, *, look_inside: bool = False) -> bool:
        """Signal the tree and wait until it is gone (returns False) or the grace is over (True)."""
        self._step(number.name)
        began = time.monotonic()
        until = began + grace
        for process in self._alive():
            self._send(process, number)
            if process.state.startswith(("T", "t")):
                tree.send(process, signal.SIGCONT)  # a stopped process would not even see the signal
        main_gone = False
        while not self._gone():
            now = time.monotonic()
            if self.status is not None and not main_gone:
                # The grace is for pytest to write what it knows; once it has ended, nobody else needs it all.
                main_gone = True
                until = min(until, now + LEFTOVER_GRACE)
            if now >= until:
                return True
            if look_inside and now - began >= PY_SPY_AFTER:
                look_inside = False
                self._spy()
            nap = until - now
            self._sleep(min(nap, began + PY_SPY_AFTER - now) if look_inside else nap)
        return False

    def _clear_leftovers(self) -> list[str]:
        """The main process has ended by itself: wait a moment for the others, then name and end them."""
        until = time.monotonic() + LEFTOVER_GRACE
        while not self._gone():
            if time.monotonic() >= until:
                processes = self._alive()
                leftovers = tree.named(processes)
                if leftovers:
                    self._signal(signal.SIGTERM, self.order["graces"]["terminate"])
                return leftovers
            self._sleep(until - time.monotonic())
        return []

    def _kill(self) -> list[str]:
        """KILL whatever there is, and wait for it to be gone. Returns descriptions of what would not go."""
        for helper in self.helpers:
            with contextlib.suppress(OSError):
                os.kill(helper, signal.SIGKILL)
        if self._gone():
            return []
        self.helpers.clear()
        self._step("SIGKILL")
        _hurry()
        for process in self._alive():
            self._note(process, "KILL")
        if self.cgroup:
            self.cgroup.kill()
        until = time.monotonic() + self.order["graces"]["kill"]
        left = tree.kill_until_gone(alive=self._alive, gone=self._gone, until=until, wait=self._sleep)
        self._step("gone")
        return [f"{tree.describe(process)}: {_why_alive(process)}" for process in left]

    # -- the tree ---------------------------------------------------------------------------------------------------

    def _alive(self) -> list[tree.Process]:
        """Everything of the tier that has not ended. Ours are our descendants; where orphans do not come to us, also
        whoever is still in the command's group."""
        self._reap()
        table = tree.ps_table() if self.portable else tree.process_table()
        ours = {process.pid: process for process in tree.descendants(table, [os.getpid()])}
        others = self.cgroup.pids() if self.cgroup else []
        if not self.subreaper:
            others = [process.pid for process in table.values() if process.group == self.main > 0]
        ours.update((pid, table[pid]) for pid in others if pid in table)
        if self.subreaper:
            # One that goes on in ever new children is sooner caught by looking where they all end up.
            ours.update((process.pid, process) for process in tree.own_children())
        return [process for pid, process in ours.items() if process.alive and pid not in self.helpers]

    def _gone(self) -> bool:
        """Whether nothing of the tree is left."""
        self._reap()
        if not self.subreaper or self.helpers:
            return not self._alive()
        # Whoever is below us is, or is below, a child of ours: to have none is proof, and cheap.
        return self.childless and not (self.cgroup and self.cgroup.pids())

    def _reap(self) -> None:
        """Read the status of everything that has ended."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            if pid not in self.helpers:
                self.peak = max(self.peak, used.ru_maxrss)  # the largest of the process and all it waited for
            self.helpers.discard(pid)
            if pid == self.main:
                self.status = status

    def _send(self, process: tree.Process, number: signal.Signals) -> None:
        self._note(process, number.name.removeprefix("SIG"))
        tree.send(process, number)

    def _step(self, name: str) -> None:
        self.steps.append((name, time.monotonic()))

    def _note(self, process: tree.Process, name: str) -> None:
        what = self.needed.get(process.identity, (None, ""))[0]
        if what is None and len(self.needed) < 100:
            what = tree.describe(process)
        if what is not None:
            self.needed[process.identity] = (what, name)

    # -- what they were doing ---------------------------------------------------------------------------------------

    def _ask_for_stacks(self) -> None:
        """Have every process in which the plugin is at work write its stacks; faulthandler needs no GIL for it."""
        directory = self.order["stacks"]
        if directory:
            for process in self._alive():
                # One that is stopped answers when it is continued, with INT pending: it must not get on with its test.
                if os.path.exists(f"{directory}/{process.pid}.txt"):
                    tree.send(process, STACKS_SIGNAL)

    def _spy(self) -> None:
        """Ask py-spy for the native frames of those that have not reacted."""
        directory, py_spy = self.order["stacks"], self.order["py_spy"]
        if not directory or not py_spy:
            return
        alive = self._alive()
        # With xdist the main process only waits for its workers: it is asked where there are none.
        stuck = [p for p in alive if p.pid != self.main and os.path.exists(f"{directory}/{p.pid}.txt")]
        for process in (stuck or [p for p in alive if p.pid == self.main])[:PY_SPY_MOST]:
            pid = os.fork()
            if pid == 0:
                try:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                    out = os.open(f"{directory}/{process.pid}.native.txt", flags, 0o600)
                    os.dup2(out, 1)
                    os.dup2(out, 2)
                    os.execv(py_spy, [py_spy, "dump", "--native", "--pid", str(process.pid)])  # noqa: S606
                finally:
                    os._exit(127)
            self.helpers.add(pid)

    # -- hands ------------------------------------------------------------------------------------------------------

    def _spawn(self) -> int:
        """Start the command in a session of its own, with default signals. Raises OSError if it cannot be executed."""
        error_read, error_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become_command(error_write)
        os.close(error_write)
        with open(error_read, encoding="utf-8") as file:
            failure = file.read()
        if failure:
            os.waitpid(pid, 0)
            number, _, name = failure.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), name)
        # From here on only the tree holds the other end of its output.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        return pid

    def _become_command(self, error_write: int) -> NoReturn:
        """Ends this process; where it is to do something else than to execute a command, that may be by an exception
        which is none of these: it is let through, as it leaves our stack behind.
        """
        try:
            self._executed(error_write)
        except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001
            os._exit(127)
        os._exit(127)

    def _executed(self, error_write: int) -> None:
        try:
            os.setsid()
            if self.cgroup:
                with contextlib.suppress(OSError):
                    self.cgroup.join()
            # A background shell hands down an ignored INT: pytest would never see ours.
            for number in signal.valid_signals():
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(2, 1)
            os.chdir(self.order["cwd"])
            if self.become is None:
                os.execvpe(self.order["command"][0], self.order["command"], self.order["env"])  # noqa: S606
            signal.set_wakeup_fd(-1)
            written, error_write = error_write, -1
            os.close(written)  # as execve does
            self.become(self.order)
        except OSError as error:
            os.write(error_write, f"{error.errno} {error.filename or ''}".encode("utf-8", "replace"))
        except ValueError:  # a null byte, which no command, folder or environment can hold
            os.write(error_write, f"{errno.EINVAL} ".encode())

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Ours is the life line on standard input; a signal to us is a stray one of the tests.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not past the end of a child."""
        select.select([self.wake], [], [], max(seconds, 0))
        self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake, 4096):
                pass


def _why_alive(process: tree.Process) -> str:
    """Why a process that was sent KILL seconds ago is still there."""
    if process.ending:
        return "killed, the kernel is still releasing what it held"
    if process.state == "D":
        return "waits in the kernel for a device or a disk"
    return f"state {process.state}, not ours to kill?"


def _hurry() -> None:
    """Go first from here on: a tree that eats every core must not keep us from ending it. Where we may, that is."""
    with contextlib.suppress(OSError, AttributeError):
        # A real-time class, since a nice value counts only within one session on kernels with autogroups.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))  # type: ignore[attr-defined,unused-ignore]
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def report(message: dict[str, Any]) -> None:
    """One line to the orchestrator. If it is gone, nobody wants to know: we go on with ending the tree."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


def read_order() -> dict[str, Any]:
    """The order, read unbuffered so that what follows it (the end of the orchestrator) can be waited for."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            sys.exit(0)  # the orchestrator ended before it had ordered anything
        data += piece
    order: dict[str, Any] = json.loads(data)
    return order


def _spawn_reason(order: dict[str, Any], error: OSError) -> str:
    what = order["cwd"] if error.filename == order["cwd"] else order["command"][0]
    return f"{what}: {error.strerror}"


def main(become: Callable[[dict[str, Any]], NoReturn] | None = None) -> None:
    """Entry of the supervisor process. ``become``: as for ``Supervisor``."""
    order = read_order()
    if order["cancel"] is not None:
        os.set_inheritable(order["cancel"], False)
    report(Supervisor(order, become).run())
