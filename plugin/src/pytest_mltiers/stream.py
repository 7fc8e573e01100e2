"""One file of JSON lines that several processes append to, each line whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress


class EventStream:
    """Appends JSON lines to ``path``, each by one ``write`` to a descriptor opened with ``O_APPEND``.

    It never raises into the suite it watches: the first thing that goes wrong is handed to ``failed`` once, and from
    then on the stream is off.

    Every function it needs is kept on the instance, because suites replace those of modules: pyfakefs replaces ``os``
    in every module it finds, freezegun the clock. The clock runs on ``perf_counter``, which time-machine leaves alone.
    """

    def __init__(self, path: str, failed: Callable[[str], None]) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100 -- resolve() would follow links
        self._failed = failed
        self._off = False
        self._fd = -1
        self._file: tuple[int, int] | None = None  # device and inode of what _fd must still be
        self._pid = os.getpid()
        self._getpid, self._open, self._fstat, self._write, self._close = (
            os.getpid,
            os.open,
            os.fstat,
            os.write,
            os.close,
        )
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._perf_counter = time.perf_counter
        self._epoch = time.time() - time.perf_counter()

    def now(self) -> float:
        """Unix seconds, whatever a test has done to the clock."""
        return round(self._epoch + self._perf_counter(), 6)

    def write(self, fields: Mapping[str, object]) -> None:
        """Appends one line. Does nothing in a process that a test forked from ours, or once the stream is off."""
        if self._off or self._getpid() != self._pid:
            return
        try:
            line = (self._encode(fields) + "\n").encode("ascii")
            written = self._write(self._descriptor(), line)
            if written != len(line):
                self.stop(f"only {written} of {len(line)} bytes were written")
        except Exception as error:  # noqa: BLE001 -- whatever it is, the user's run goes on
            self.stop(str(error))

    def stop(self, reason: str) -> None:
        """Turns the stream off and says why, once."""
        if not self._off:
            self._off = True
            with suppress(Exception):
                self._failed(f"pytest-mltiers stopped streaming to {self._path}: {reason}")

    def close(self) -> None:
        """Turns the stream off without a word."""
        self._off = True
        if self._fd >= 0 and self._is_ours(self._fd):
            self._close(self._fd)
        self._fd = -1

    def _descriptor(self) -> int:
        # A test may have closed every descriptor it found, and ours may be somebody's socket by now.
        if self._fd < 0 or not self._is_ours(self._fd):
            self._fd = self._open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            status = self._fstat(self._fd)
            self._file = (status.st_dev, status.st_ino)
        return self._fd

    def _is_ours(self, fd: int) -> bool:
        try:
            status = self._fstat(fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._file
