"""The processes below one process: see them, describe them, signal them, end them.

Used by ``supervisor`` inside its own small process, where every import is paid once per tier: standard library only,
and none of ``dataclasses``, ``typing`` and ``pathlib`` (together more than the rest of that process's start).

On Linux the table comes from ``/proc`` and signals go through pidfds, so that a recycled pid is never hit. Elsewhere
(macOS) the table comes from ``ps`` and signals from ``kill``: a daemon that has left both its parent and its group is
not found there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import time

LINUX = sys.platform.startswith("linux")
PR_SET_CHILD_SUBREAPER = 36
PF_EXITING = 0x4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping


class Process:
    """One row of the process table. ``born`` (clock ticks since boot) tells a process from a later one with its pid."""

    __slots__ = ("born", "ending", "group", "name", "parent", "pid", "session", "state")

    def __init__(
        self,
        *,
        pid: int,
        parent: int,
        group: int,
        session: int,
        state: str = "S",
        born: str = "",
        name: str = "",
        ending: bool = False,
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.state = state  # as in ps: R running, S sleeping, D in the kernel, T stopped, Z dead but not yet reaped
        self.born = born
        self.name = name
        self.ending = ending  # it runs no more code of its own: the kernel takes it apart

    @property
    def identity(self) -> tuple[int, str]:
        """What is unique to this process as long as the machine is up."""
        return (self.pid, self.born)

    @property
    def alive(self) -> bool:
        """Whether it still runs or could run again (a zombie only waits for its parent to read its status)."""
        return self.state[:1] not in ("Z", "X")


def parse_stat(text: str) -> Process:
    """One ``/proc/PID/stat``. The name in it may itself hold spaces and parentheses. Raises ValueError."""
    opening, closing = text.index("("), text.rindex(")")
    fields = text[closing + 1 :].split()
    try:
        return Process(
            pid=int(text[:opening]),
            name=text[opening + 1 : closing],
            state=fields[0],
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            born=fields[19],
            ending=bool(int(fields[6]) & PF_EXITING),
        )
    except IndexError as error:
        raise ValueError(f"not a stat line: {text!r}") from error


def parse_ps(text: str) -> dict[int, Process]:
    """The output of ``ps -A -o pid=,ppid=,pgid=,state=,comm=``; rows that are no process are left out."""
    table = {}
    for line in text.splitlines():
        fields = line.split(None, 4)
        if len(fields) == 5 and all(field.isdigit() for field in fields[:3]):
            pid, parent, group = (int(field) for field in fields[:3])
            table[pid] = Process(
                pid=pid, parent=parent, group=group, session=0, state=fields[3], name=os.path.basename(fields[4])
            )
    return table


def process_table() -> dict[int, Process]:
    """Every process we can see, by pid. Not a snapshot: it may miss what starts while we look."""
    if not LINUX:
        return ps_table()
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # One that has ended between listdir and open is simply not in the table.
            with contextlib.suppress(OSError, ValueError):
                process = parse_stat(_read(f"/proc/{entry}/stat"))
                table[process.pid] = process
    return table


def ps_table() -> dict[int, Process]:
    """Every process we can see, by pid, as the program ``ps`` shows them (without itself)."""
    import subprocess  # noqa: PLC0415 -- where there is no /proc

    try:
        with subprocess.Popen(
            ["ps", "-A", "-o", "pid=,ppid=,pgid=,state=,comm="], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as ps:
            text, _ = ps.communicate(timeout=1)
    except (OSError, subprocess.SubprocessError):
        return {}
    table = parse_ps(text.decode("utf-8", "replace"))
    table.pop(ps.pid, None)
    return table


def own_children() -> list[Process]:
    """Our direct children, zombies included, seen in a tenth of the time of the whole table; not every kernel tells."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for pid in _read(f"/proc/self/task/{os.getpid()}/children").split():
            found.append(parse_stat(_read(f"/proc/{pid}/stat")))
    return found


def descendants(table: Mapping[int, Process], roots: Collection[int]) -> list[Process]:
    """The processes of ``table`` below ``roots`` (which are not included), parents before their children."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    seen = set(roots)
    queue = list(roots)
    while queue:
        for child in children.get(queue.pop(0), ()):
            if child.pid not in seen:
                seen.add(child.pid)
                queue.append(child.pid)
                found.append(child)
    return found


def describe(process: Process) -> str:
    """``python -m pytest tests/unit (pid 4711)``; its name where the command line cannot be read any more."""
    command = ""
    with contextlib.suppress(OSError):
        command = " ".join(_read(f"/proc/{process.pid}/cmdline").replace("\0", " ").split())
    if len(command) > 160:
        command = command[:159] + "…"
    return f"{command or process.name or '?'} (pid {process.pid})"


def send(process: Process, number: int) -> bool:
    """Signal exactly this process. False: it is gone, or not ours to signal (we, our parent and init never are)."""
    if process.pid <= 1 or process.pid in (os.getpid(), os.getppid()):
        return False
    try:
        handle = os.pidfd_open(process.pid)  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:
        return _kill(process.pid, number)  # macOS
    except OSError as error:
        return _kill(process.pid, number) if error.errno == errno.ENOSYS else False
    try:
        # The pidfd holds whoever has the pid *now*: only if that is still the process we saw is it the right one.
        if process.born and parse_stat(_read(f"/proc/{process.pid}/stat")).born != process.born:
            return False
        signal.pidfd_send_signal(handle, number)  # type: ignore[attr-defined,unused-ignore]
    except (OSError, ValueError):
        return False
    finally:
        os.close(handle)
    return True


def become_subreaper() -> bool:
    """Have orphans below us handed to us instead of to init, as long as we live. False where that does not exist."""
    if not LINUX:
        return False
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def kill_until_gone(
    *,
    alive: Callable[[], list[Process]],
    gone: Callable[[], bool],
    until: float,
    send: Callable[[Process, int], bool] = send,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Process]:
    """KILL everything ``alive()`` returns, over and over, till ``gone()`` or the clock reads ``until``.

    Everything is stopped before anything is killed: killing one process of a fork bomb only makes room for the next,
    but a process with a pending STOP can no longer fork, so looking again converges. ``alive()`` returning nothing is
    no proof: a process that goes on in ever new children is easily missed. Returns what is left.
    """
    frozen: set[tuple[int, str]] = set()
    freeze_until = clock() + 0.25
    pause = 0.001
    processes: list[Process] = []
    while not gone():
        processes = alive()
        if clock() >= until:
            break
        fresh = [process for process in processes if process.identity not in frozen]
        for process in fresh:
            send(process, signal.SIGSTOP)
            frozen.add(process.identity)
        if fresh and clock() < freeze_until:
            continue
        for process in processes:
            send(process, signal.SIGKILL)
        wait(pause)
        pause = min(pause * 2, 0.05)
    else:
        return []
    return processes


class Cgroup:
    """A cgroup (version 2) of our own, where the system lets us make one: the kernel keeps the list and kills it whole.

    Systems where we may: root, a delegated systemd scope, a container with a writable cgroup. GitHub's hosted runners
    give none; then the subreaper alone has to do.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str) -> Cgroup | None:
        """A new empty cgroup below ours, or None."""
        with contextlib.suppress(OSError, ValueError):
            found = cgroup_directory(_read("/proc/self/mountinfo"), _read("/proc/self/cgroup"))
            if found is not None and os.access(f"{found[1]}/cgroup.procs", os.W_OK):
                path = f"{found[1]}/{name}"
                os.mkdir(path)
                return cls(path)
        return None

    def join(self) -> None:
        """Move the calling process into it. Raises OSError."""
        with open(f"{self.path}/cgroup.procs", "w") as file:
            file.write("0")

    def pids(self) -> list[int]:
        """Who is in it, itself or in a cgroup below."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):
                found.extend(int(line) for line in _read(f"{directory}/cgroup.procs").split())
        return found

    def kill(self) -> None:
        """KILL everybody in it, now and forking or not (Linux 5.14)."""
        with contextlib.suppress(OSError), open(f"{self.path}/cgroup.kill", "w") as file:
            file.write("1")

    def remove(self) -> None:
        """Remove it, with those the tests have made below it, if it is empty."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def cgroup_directory(mountinfo: str, cgroup: str, controller: str = "") -> tuple[str, str] | None:
    """Where a cgroup hierarchy is mounted, and the folder of our own cgroup in it (the mount point or below).

    ``mountinfo`` and ``cgroup`` are the texts of ``/proc/self/mountinfo`` and ``/proc/self/cgroup``; ``controller``
    names a version 1 controller (``cpu``, ``memory``), empty means version 2. None: there is no such hierarchy.
    """
    own = None
    for line in cgroup.splitlines():
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (controller or number == "0"):
            own = path
    if own is None:
        return None
    for line in mountinfo.splitlines():
        fields = line.split()
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        if kind == ("cgroup" if controller else "cgroup2") and (not controller or controller in options):
            root, point = fields[3].rstrip("/"), fields[4].replace("\\040", " ")
            # Of another container's cgroup ("/../x", "/docker/1" seen from elsewhere) only the mount itself is ours.
            below = own[len(root) :] if f"{own}/".startswith(f"{root}/") and "/.." not in own else ""
            return point, (point + "/" + below.strip("/")).rstrip("/")
    return None


def named(processes: Iterable[Process], limit: int = 20) -> list[str]:
    """Their descriptions, the first ``limit`` of them, and how many more there are."""
    processes = list(processes)
    texts = [describe(process) for process in processes[:limit]]
    if len(processes) > limit:
        texts.append(f"and {len(processes) - limit} more")
    return texts


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
