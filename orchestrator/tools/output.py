"""Where the output of a supervised command goes: all of it is read, as much as is useful is kept."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from typing import BinaryIO

TAIL_BYTES = 64 * 1024
"""How much of the end is kept in memory, and the longest line that is handed on in one piece."""


def last_lines(end: bytes, *, total: int) -> str:
    """The complete lines of the last bytes of ``total`` ones."""
    if total > len(end):
        end = end.partition(b"\n")[2] or end
    return end.decode("utf-8", "replace")


class Output:
    """Where a command's output goes: a log up to its limit, lines to a callback, the last bytes for the report."""

    def __init__(self, *, log: BinaryIO | None, limit: int, on_line: Callable[[str], None] | None) -> None:
        self.total = 0
        self._log = log
        self._limit = limit
        self._on_line = on_line
        self._tail = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""

    def read(self, fd: int) -> bool:
        """Take what is there. False: there will be no more."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        self._take(data)
        return bool(data)

    def drain(self, fd: int, *, most: int = 1 << 21) -> None:
        """Take what is there, but not what somebody keeps adding."""
        end = self.total + most
        while self.total < end:
            before = self.total
            if not self.read(fd) or self.total == before:
                return

    def close(self) -> None:
        """The last line may have no end."""
        self._lines(self._decoder.decode(b"", final=True))
        if self._line and self._on_line:
            self._on_line(self._line)
        if self._log is not None and self.total > self._limit:
            note = f"\n[mltiers: {self.total - self._limit} more bytes were printed and are not kept]\n"
            self._log.write(note.encode())

    def tail(self) -> str:
        """The last complete lines, at most TAIL_BYTES of them."""
        return last_lines(self._tail[-TAIL_BYTES:], total=self.total)

    def _take(self, data: bytes) -> None:
        room = self._limit - self.total
        self.total += len(data)
        self._tail += data
        if len(self._tail) > 8 * TAIL_BYTES:
            self._tail = self._tail[-TAIL_BYTES:]
        if room <= 0:
            return  # an endless output is read so that it blocks nobody, and that is all
        if self._log is not None:
            self._log.write(data[:room])
            self._log.flush()
        if self._on_line is not None:
            self._lines(self._decoder.decode(data))

    def _lines(self, text: str) -> None:
        *complete, self._line = (self._line + text).split("\n")
        if len(self._line) > TAIL_BYTES:
            complete.append(self._line)
            self._line = ""
        if self._on_line is not None:
            for line in complete:
                self._on_line(line.rstrip("\r"))
