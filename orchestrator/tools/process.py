"""Run one command as a supervised tree of processes, with a deadline that holds.

``supervise`` starts ``orchestrator.tools.supervisor`` (a small process of its own, one per command), reads the
command's output and returns a ``ProcessOutcome``. Several may run at once, in threads. What is promised:

- at the deadline, or when cancelled, the whole tree goes through INT, TERM, KILL and is gone within two seconds;
- a daemon that keeps the output open keeps nobody waiting; output without end is read, and kept up to a limit;
- if the orchestrator dies, so does the tree.

On Linux nothing escapes: orphans come to the supervisor, and where the system grants a cgroup the kernel keeps the
list. On macOS there is neither; the command's group and visible descendants are stopped, but a daemon that has left
the group before its parent died is not found.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict

from orchestrator.tools import tree
from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.kept import KEPT, Forked, Kept
from orchestrator.tools.output import Output
from orchestrator.words.errors import InfrastructureError
from orchestrator.words.results import Ending

STACKS_VARIABLE = "MLTIERS_STACKS"
"""Names the folder in which ``pytest_mltiers.stacks`` opens one file per process, for faulthandler to write to."""

LOG_LIMIT = 50 * 1024 * 1024
STACKS_LIMIT = 64 * 1024
NUDGE = 0.25  # how late the supervisor may be before we take it for stopped and wake it
OVERDUE = 0.75  # and how much later we take it for dead

_SUPERVISOR = "import sys; sys.path.append(sys.argv[1]); from orchestrator.tools.supervisor import main; main()"


class Containment(str, Enum):
    """How a tree is kept together, the strongest means first. A weaker one is taken where the system has no better."""

    CGROUP = "cgroup"  # the kernel keeps the list; Linux where we may make one: as root, or in a delegated scope
    SUBREAPER = "subreaper"  # orphans come to the supervisor; every Linux
    GROUP = "group"  # the process group and visible descendants, from ``ps``; every POSIX


class Graces(Struct, frozen=True, kw_only=True):
    """Seconds between the steps of a stop. ``interrupt`` is what pytest has to write its coverage and JUnit file.

    ``interrupt + terminate`` leave 0.9 s of the promised two for the killing itself. ``kill`` is how long we then wait
    for what the kernel is slow to let go before it is called a survivor: a dead network disk; pinned host memory, of
    which CUDA's driver releases some 8 GiB a second (70 GiB of an H100's own memory are gone in 0.2 s).
    """

    interrupt: float = 0.9
    terminate: float = 0.2
    kill: float = 4.0


GRACES = Graces()


class ProcessOutcome(Struct, frozen=True, kw_only=True):
    """How a supervised command ended. Times are seconds; ``exit_code`` is -N where signal N ended it."""

    ending: Ending
    exit_code: int | None = None
    reason: str | None = None  # why it was not started, or why the ending is not known
    started: float = 0.0  # Unix time
    seconds: float = 0.0  # start to the end of the main process; of the whole tree, where we stopped it
    stop_seconds: float = 0.0  # from the decision to stop (or the main process's own end) till nothing was left
    steps: tuple[tuple[str, float], ...] = ()  # what the stop did, and how many seconds after it began
    stopped: tuple[str, ...] = ()  # "python -m pytest (pid 42): KILL": what was signalled, and the last signal it got
    leftovers: tuple[str, ...] = ()  # still running after the main process had ended by itself
    survivors: tuple[str, ...] = ()  # could not be killed
    stacks: str = ""  # what was running when we stopped it
    output_tail: str = ""  # the last lines it printed
    output_bytes: int = 0  # all it printed
    peak_memory: int | None = None  # bytes: resident, of whichever of its processes held most; None: unknown
    output_complete: bool = True  # False: the log was cut at its limit


def supervise(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    deadline: float | None = None,
    cancel: Cancellation | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    stacks: Path | None = None,
    py_spy: Path | None = None,
    graces: Graces = GRACES,
    log_limit: int = LOG_LIMIT,
    containment: Containment = Containment.CGROUP,
    kept: Kept | None = None,
) -> ProcessOutcome:
    """Run ``command`` to its end, or to ``deadline`` seconds from now, or till ``cancel`` is set.

    ``env`` is the whole environment of the command. ``log`` receives what it prints, both streams as they come, up to
    ``log_limit`` bytes; ``on_line`` receives each complete line, decoded, without its end. ``stacks`` is a folder: the
    command finds it in ``MLTIERS_STACKS``, and before a stop the stacks of its pythons are written there and returned;
    ``py_spy``, the program, adds native frames. ``containment`` is the strongest means that may be used. ``kept``: the
    process to fork supervisor and command from, where it can be had in time.
    Never raises for what the command does; raises InfrastructureError where no process can be started at all.
    """
    began = time.monotonic()
    tree.become_subreaper()  # should a supervisor be killed, its tree comes to us
    env = dict(env)
    if stacks is not None:
        stacks.mkdir(parents=True, exist_ok=True)
        env[STACKS_VARIABLE] = str(stacks.absolute())
    deadline_at = None if deadline is None else began + deadline
    order = {
        "command": [os.fspath(word) for word in command],
        "cwd": os.fspath(cwd),
        "env": env,
        "deadline": deadline_at,
        "began": began,
        "cancel": None if cancel is None else cancel.fileno(),
        "graces": asdict(graces),
        "stacks": env.get(STACKS_VARIABLE) if stacks is not None else None,
        "py_spy": None if py_spy is None else str(py_spy),
        "containment": containment.value,
    }
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(log.open("wb")) if log is not None else None
        output = Output(log=raw, limit=log_limit, on_line=on_line)
        # Leaving it, also because a callback raised, ends the tree.
        supervisor = stack.enter_context(_Supervisor(order, cancel, graces, kept))
        reports = supervisor.attend(output, deadline_at)
        output.close()
    end = reports.get("ended") or _lost(reports, began, deadline, cancel)
    return ProcessOutcome(
        ending=Ending(end["ending"]),
        exit_code=end.get("exit_code"),
        reason=end.get("reason"),
        started=reports.get("started", {}).get("at", 0.0),
        seconds=end.get("seconds", 0.0),
        stop_seconds=end.get("stop_seconds", 0.0),
        steps=tuple((str(step), float(at)) for step, at in end.get("steps", ())),
        stopped=tuple(end.get("stopped", ())),
        leftovers=tuple(end.get("leftovers", ())),
        survivors=tuple(end.get("survivors", ())),
        peak_memory=end.get("peak_memory"),
        stacks=read_stacks(stacks) if stacks is not None else "",
        output_tail=output.tail(),
        output_bytes=output.total,
        output_complete=output.total <= log_limit,
    )


def read_stacks(directory: Path) -> str:
    """What faulthandler and py-spy have written into ``directory``: one section per process that wrote any.

    py-spy looks half a second after the interrupt: a pytest that was on its way out by then shows nothing of interest.
    """
    sections = []
    for file in sorted(directory.glob("*.txt")):
        text = file.read_bytes()[:STACKS_LIMIT].decode("utf-8", "replace").strip()
        header, _, frames = text.partition("\n")
        if frames.strip() and not (file.name.endswith(".native.txt") and "pytest_keyboard_interrupt" in frames):
            sections.append(f"{header}\n{frames.strip()}")
    return "\n\n".join(sections)[:STACKS_LIMIT]


# --- the supervisor, from our side ---------------------------------------------------------------------------------

_SUPERVISORS: set[int] = set()
_Started = TypeVar("_Started")


class _Supervisor:
    """A supervisor process, and the pipe on which its command's output arrives. A context manager."""

    def __init__(
        self, order: Mapping[str, Any], cancel: Cancellation | None, graces: Graces, kept: Kept | None
    ) -> None:
        """Start it and hand it its order. Raises InfrastructureError."""
        self._cancel = cancel
        self._patience = graces.interrupt + graces.terminate + graces.kill + 1.0
        self._process: subprocess.Popen[bytes] | Forked
        forked = None if kept is None else self._fork(kept, order)
        if forked is None:
            self._process = self._open(self._popen)
        else:
            self._process = forked
            order = {**order, "cancel": None if cancel is None else 3}
        _SUPERVISORS.add(self._process.pid)
        os.set_blocking(self._output, False)
        with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(self._life), "wb") as file:
            file.write(json.dumps(order).encode() + b"\n")

    def _open(self, start: Callable[[int, int, int], _Started]) -> _Started:
        """Start it on fresh pipes: for its order, its reports and its command's output."""
        self._output, output_write = os.pipe()
        self._status, status_write = os.pipe()
        order_read, self._life = os.pipe()
        try:
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(output_write, fcntl.F_SETPIPE_SZ, 1 << 20)  # type: ignore[attr-defined,unused-ignore]
            return start(order_read, status_write, output_write)
        except OSError as error:
            self._close()
            raise InfrastructureError(f"cannot start a process: {error}") from error
        finally:
            for fd in (order_read, output_write, status_write):
                os.close(fd)

    def _popen(self, order: int, status: int, output: int) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).absolute().parents[2])
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SUPERVISOR, root],
            stdin=order,
            stdout=status,
            stderr=output,
            env={},  # the tests can read the environment of their parent
            pass_fds=() if self._cancel is None else (self._cancel.fileno(),),
            start_new_session=True,  # Ctrl-C reaches us alone: the stop is ours to lead
        )

    def _fork(self, kept: Kept, order: Mapping[str, Any]) -> Forked | None:
        """One that is forked from the kept process; None: that is not to be had."""
        cancel = () if self._cancel is None else (self._cancel.fileno(),)
        forked = self._open(lambda *streams: kept.fork((*streams, *cancel), until=order["deadline"], stop=cancel))
        if forked is None:
            self._close()  # one that is forked too late finds no order there
        return forked

    def _close(self) -> None:
        for fd in (self._output, self._status, self._life):
            os.close(fd)

    def __enter__(self) -> _Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        """Close its life line, on which it stops what it has not stopped yet, and see it off."""
        os.close(self._life)
        try:
            self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._output)
        os.close(self._status)
        _SUPERVISORS.discard(self._process.pid)

    def attend(self, output: Output, deadline: float | None) -> dict[str, dict[str, Any]]:
        """Read output and reports till the supervisor has ended. Returns its reports by event.

        Without ``ended`` among them it was killed, or did not stop when it was time to and is dead now: a test may
        stop or kill its parent.
        """
        reports: dict[str, dict[str, Any]] = {}
        pending = b""
        due = None if deadline is None else deadline + NUDGE  # when it must have begun to stop its tree
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._status, selectors.EVENT_READ)
            if self._cancel is not None:
                selector.register(self._cancel, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                wait = None if due is None else due - now
                if due is not None and now >= due:
                    if now >= due + (self._patience if "stopping" in reports else OVERDUE):
                        self._process.kill()
                        return reports
                    self._process.send_signal(signal.SIGCONT)
                    wait = NUDGE
                for key, _ in selector.select(wait):
                    if key.fd == self._output:
                        if not output.read(self._output):
                            selector.unregister(self._output)
                    elif key.fd == self._status:
                        piece = os.read(self._status, 65536)
                        *lines, pending = (pending + piece).split(b"\n")
                        reports.update((message["event"], message) for message in map(_message, lines))
                        if not piece:
                            # What the tree wrote last is in the pipe by now; a survivor may write for ever.
                            output.drain(self._output)
                            return reports
                    else:
                        selector.unregister(key.fileobj)
                        due = min(due or math.inf, time.monotonic() + NUDGE)


def _message(line: bytes) -> dict[str, Any]:
    """One report. Whatever else has been written where only the supervisor should write is no report."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    return message if isinstance(message, dict) and isinstance(message.get("event"), str) else {"event": "unknown"}


def _lost(
    reports: Mapping[str, dict[str, Any]], began: float, deadline: float | None, cancel: Cancellation | None
) -> dict[str, Any]:
    """The supervisor has ended without a word (killed, or frozen, by a test): end its tree from here."""
    now = time.monotonic()
    started = reports.get("started", {})
    orphans = _Orphans()
    cgroup = tree.Cgroup(started["cgroup"]) if started.get("cgroup") else None
    if cgroup:
        orphans.alive()  # for the record
        cgroup.kill()
    survivors = tree.kill_until_gone(
        alive=orphans.alive, gone=lambda: not orphans.alive(), until=now + GRACES.kill, wait=time.sleep
    )
    if cgroup:
        cgroup.remove()
    late = deadline is not None and now >= began + deadline
    ending = Ending.DEADLINE if late else Ending.CANCELLED if cancel is not None and cancel.is_set else Ending.UNKNOWN
    return {
        "ending": ending.value,
        "reason": "the process that supervised this command was killed, most likely by the command itself",
        "seconds": now - began,
        "stop_seconds": time.monotonic() - now,
        "stopped": [f"{what}: KILL" for what in orphans.seen.values()],
        "survivors": tree.named(survivors),
    }


class _Orphans:
    """What a dead supervisor left: children of ours, of another session and no supervisors, and all below them.

    Never anything else, whatever is or is not known of the command: who looks wrongly here ends the machine.
    """

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], str] = {}

    def alive(self) -> list[tree.Process]:
        table = tree.process_table()
        us = table.get(os.getpid())
        if us is None:
            return []
        roots = [
            process
            for process in table.values()
            if process.parent == us.pid
            and process.session not in (0, us.session)
            and process.pid not in _SUPERVISORS | KEPT
        ]
        for process in roots:
            if not process.alive:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
        found = [*roots, *tree.descendants(table, [process.pid for process in roots])]
        found = [process for process in found if process.alive]
        for process in found:
            if process.identity not in self.seen:
                self.seen[process.identity] = tree.describe(process)
        return found
