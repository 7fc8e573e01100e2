"""The process that is kept warm for a whole run, from our side: started early, asked for a supervisor per tier.

What it imports, and when a tier is forked from it, is decided in ``preload`` and in the plugin's ``warm`` package. That
it is not there, late or gone costs time and nothing else: a supervisor is then started as ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tools import tree

if TYPE_CHECKING:
    from orchestrator.words.plan import Keeping

KEPT: set[int] = set()
"""Children of ours that are kept: what is below one of them belongs to a tier that has its own supervisor."""

_SUPERVISOR = "orchestrator.tools.supervisor"
_ENDS_WITHIN = 5.0  # seconds for a process that was sent KILL
_READS_WITHIN = 5.0  # seconds for more of an order than a socket holds


class Forked:
    """A supervisor that the kept process has forked, with what ``subprocess.Popen`` offers for one of our own."""

    def __init__(self, pid: int, handle: int) -> None:
        self.pid = pid
        self._handle = handle

    def wait(self, timeout: float | None = None) -> None:
        """Wait till it has ended. Raises subprocess.TimeoutExpired."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("the supervisor", timeout or 0.0)
        with contextlib.suppress(ChildProcessError):  # it is not our child, unless its parent has ended
            os.waitpid(self.pid, os.WNOHANG)
        os.close(self._handle)

    def send_signal(self, number: int) -> None:
        """Signal it, and nobody else who may have its pid by now."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._handle, number)  # type: ignore[attr-defined,unused-ignore]

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Kept:
    """A context manager: the process ends with it. To be made in the main thread, with which the process ends, too.

    ``keeping``: what it was told to import; None: it waits to be told.
    """

    def __init__(self, python: str, *, root: Path, variables: Mapping[str, str], plugin: Path, probe: str = "") -> None:
        """Start it: it imports what every pytest needs. ``variables``: its whole environment. ``plugin``: the folder of
        ``pytest_mltiers``. ``probe``: a program that it first runs, see ``answer``.

        Raises OSError where it cannot be started.
        """
        self.python = python
        self.keeping: Keeping | None = None
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="mltiers-kept-")
        self._order = Path(self._folder.name) / "kept.json"
        start = plugin / "pytest_mltiers" / "warm" / "start.py"
        ours = Path(__file__).absolute().parents[2]
        self._control, theirs = socket.socketpair()
        keep = ("--keep", str(theirs.fileno()), str(ours), _SUPERVISOR, probe)
        try:
            self._process = subprocess.Popen(
                [python, str(start), str(self._order), *keep],
                cwd=root,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if probe else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches us alone
            )
        except OSError:
            self._control.close()
            self._folder.cleanup()
            raise
        finally:
            theirs.close()
        KEPT.add(self._process.pid)
        self._forked: set[int] = set()  # supervisors, whose trees are theirs to end
        self._open = True

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and see it off. Idempotent."""
        self.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN)
        KEPT.discard(self._process.pid)
        self._folder.cleanup()

    def end(self) -> None:
        """Have it end, with whatever its imports have started. It may take a while to give its memory back."""
        if not self._open:
            return
        self._open = False
        self._control.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        table = tree.process_table()
        tiers = {process.pid for process in tree.descendants(table, self._forked)} | self._forked
        self._process.kill()
        for process in tree.descendants(table, [self._process.pid]):
            if process.pid not in tiers:
                tree.send(process, signal.SIGKILL)

    def answer(self, *, within: float) -> str:
        """What the probe has printed, once. As much as there is of it after so many seconds."""
        output = self._process.stdout
        if output is None:
            return ""
        poll = select.poll()
        poll.register(output, select.POLLIN)
        until = time.monotonic() + within
        parts = b""
        with output:
            while poll.poll(max(0.0, until - time.monotonic()) * 1000) and (part := os.read(output.fileno(), 65536)):
                parts += part
        return parts.decode(errors="replace")

    def keep(self, keeping: Keeping, variables: Mapping[str, str]) -> None:
        """Tell it what to import, once. ``variables``: the whole environment that is for. Raises OSError."""
        order = {"modules": keeping.modules, "own": keeping.own, "rewritten": keeping.rewritten, "sets": []}
        beside = self._order.with_suffix(".new")
        beside.write_text(json.dumps(order))
        beside.rename(self._order)
        message = json.dumps(dict(variables)).encode()
        self._control.settimeout(_READS_WITHIN)
        self._control.sendall(len(message).to_bytes(4, "big") + message)
        self._control.settimeout(None)
        self.keeping = keeping

    def serves(self, wanted: Keeping) -> bool:
        """Whether it will do where ``wanted`` is: it then serves these tiers."""
        mine = self.keeping
        if mine is None or self.python != wanted.python:
            return False
        if mine.env != wanted.env or not set(mine.modules) <= set(wanted.modules):
            return False
        self.keeping = wanted
        return True

    def is_for(self, tier: str) -> bool:
        """Whether this tier is to be forked from it."""
        return self.keeping is not None and tier in self.keeping.tiers

    def fork(self, descriptors: Sequence[int], *, until: float | None, stop: Sequence[int]) -> Forked | None:
        """A supervisor with these as its descriptors 0, 1, 2 and so on. None where none is to be had before ``until``
        (on the monotonic clock), or before one of ``stop`` is readable. In any thread.
        """
        if not self._lock.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic())):
            return None
        try:
            return self._ask(descriptors, until=until, stop=stop) if self._open else None
        except OSError:
            return None
        finally:
            self._lock.release()

    def _ask(self, descriptors: Sequence[int], *, until: float | None, stop: Sequence[int]) -> Forked | None:
        socket.send_fds(self._control, [b"?"], list(descriptors))
        poll = select.poll()
        for fd in (self._control.fileno(), *stop):
            poll.register(fd, select.POLLIN)
        ready = poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000)
        answer: bytes = b""
        handles: list[int] = []
        if any(fd == self._control.fileno() for fd, _ in ready):
            answer, handles, _, _ = socket.recv_fds(self._control, 4, 1)
        if len(answer) != 4 or len(handles) != 1:
            self.close()  # it has ended, or its answer would be taken for another request's
            return None
        os.set_inheritable(handles[0], False)
        forked = Forked(int.from_bytes(answer, "big"), handles[0])
        self._forked.add(forked.pid)
        return forked
