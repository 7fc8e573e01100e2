"""A tier's event stream, read while the tests write it, so that little is left to be read when they have ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from orchestrator.mind.readers.event_lines import Line
from orchestrator.mind.readers.events import EventLog, EventReader
from orchestrator.tools.evidence import chunks, lines, open_file

_MOST = 1 << 22  # bytes of one look; no line of ours is as long


class Stream:
    """Reads the file at ``path``, by one thread at a time, and never raises for what is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._reader = EventReader()
        self._position = 0  # bytes, at the beginning of a line
        self._file: tuple[int, int] | None = None  # device and inode

    def read_on(self, seen: Callable[[Line], object]) -> None:
        """Read the whole lines that have been added. ``seen`` is given each event."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            if not self._goes_on(os.fstat(file.fileno())):
                self._begin()
            file.seek(self._position)
            added, end, _ = file.read(_MOST).rpartition(b"\n")
            self._position += len(added) + len(end)
            self._file = _identity(os.fstat(file.fileno()))
            if end:
                self._reader.read(added.split(b"\n"), seen=seen)

    def log(self, problems: list[str]) -> EventLog | None:
        """What all of it says, or None where there is no file; what is wrong with that goes to ``problems``."""
        return open_file(self._path, self._rest, problems)

    def _rest(self, file: BinaryIO) -> EventLog:
        if not self._goes_on(os.fstat(file.fileno())):
            self._begin()  # somebody has put another file in its place
        file.seek(self._position)
        self._reader.read(lines(chunks(file)))
        return self._reader.log()

    def _goes_on(self, status: os.stat_result) -> bool:
        """Whether the file is the one that was read so far, or none was."""
        return self._file is None or (self._file == _identity(status) and status.st_size >= self._position)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
