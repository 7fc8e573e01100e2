"""One file of JSON lines that several processes append to, each line whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

try:
    from fcntl import F_GETOWN as _F_GETOWN
    from fcntl import F_SETOWN as _F_SETOWN
    from fcntl import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None  # type: ignore[assignment]


class EventStream:
    """Appends JSON lines to ``path``, each by one ``write`` to a descriptor opened with ``O_APPEND``.

    It never raises into the suite it watches: the first thing that goes wrong is handed to ``failed`` once, and from
    then on the stream is off.

    Every function it needs is kept on the instance, because suites replace those of modules: pyfakefs replaces ``os``
    in every module it finds, freezegun the clock. The clock runs on ``perf_counter``, which time-machine leaves alone.

    Every test of every user pays for its lines, most of all for what we ask the kernel: a line is one ``write``, and
    the cheapest two questions by which we know that the descriptor and the process are still ours.
    """

    def __init__(self, path: str, failed: Callable[[str], None]) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100 -- resolve() would follow links
        self._failed = failed
        self._off = False
        self._fd = -1
        self._file: tuple[int, int] | None = None  # device and inode of what _fd must still be
        self._held = ""  # goes out with the next line
        self._marked = False  # whether the kernel knows _fd as ours
        self._pid = os.getpid()
        self._getpid, self._open, self._fstat, self._write, self._close = (
            os.getpid,
            os.open,
            os.fstat,
            os.write,
            os.close,
        )
        self._fcntl = _fcntl
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._perf_counter_ns = time.perf_counter_ns
        self._epoch = time.time_ns() - time.perf_counter_ns()

    def now(self) -> float:
        """Unix seconds, whatever a test has done to the clock."""
        return self.microseconds() / 1e6

    def microseconds(self) -> int:
        """The same in whole microseconds, which are written in a fraction of the time that a float takes."""
        return (self._epoch + self._perf_counter_ns()) // 1000

    def write(self, fields: Mapping[str, object]) -> None:
        """Appends one line. Does nothing in a process that a test forked from ours, or once the stream is off."""
        try:
            line = self._encode(fields)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the user's run goes on
            self.stop(str(error))
        else:
            self.append(f"{line}\n")

    def append(self, line: str) -> None:
        """The same for a line that is JSON already: in ASCII, and with its end."""
        if self._off or self._getpid() != self._pid:
            return
        try:
            if self._held:
                line, self._held = self._held + line, ""
            data = line.encode("ascii")
            fd = self._fd
            if not self._is_ours(fd):
                fd = self._reopen()
            written = self._write(fd, data)
            if written != len(data):
                self.stop(f"only {written} of {len(data)} bytes were written")
        except Exception as error:  # noqa: BLE001 -- as above
            self.stop(str(error))

    def hold(self, line: str) -> None:
        """The same for a line that goes out together with the next one, and may be lost with the process until then."""
        if not self._off:
            self._held += line

    def flush(self) -> None:
        """Appends what is held, now."""
        if self._held:
            self.append("")

    def stop(self, reason: str) -> None:
        """Turns the stream off and says why, once."""
        if not self._off:
            self._off = True
            with suppress(Exception):
                self._failed(f"pytest-mltiers stopped streaming to {self._path}: {reason}")

    def close(self) -> None:
        """Turns the stream off without a word."""
        self.flush()
        self._off = True
        if self._is_ours(self._fd):
            self._close(self._fd)
        self._fd = -1

    def _reopen(self) -> int:
        self._fd = fd = self._open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        status = self._fstat(fd)
        self._file = (status.st_dev, status.st_ino)
        self._marked = False
        if self._fcntl is not None:
            with suppress(OSError):  # macOS: a file is nobody's
                self._fcntl(fd, _F_SETOWN, self._pid)
                self._marked = self._fcntl(fd, _F_GETOWN) == self._pid
        return fd

    def _is_ours(self, fd: int) -> bool:
        """Whether ``fd`` is what we opened: a test may have closed every descriptor it found, and ours may be
        somebody's socket by now.

        The owner that we give our open file gets signals of a file in asynchronous mode, which this one never is; of
        what anybody else opens nobody is the owner. To ask for it costs a quarter of an ``fstat``.
        """
        if fd < 0:
            return False
        try:
            if self._marked:
                return self._fcntl(fd, _F_GETOWN) == self._pid
            status = self._fstat(fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._file
