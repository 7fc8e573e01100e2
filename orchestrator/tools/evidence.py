"""Files that tests have written, or somebody else: read so that nothing in their folder leads us elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from orchestrator.mind.readers.document import BrokenReportError

MOST_BYTES = 512 * 1024 * 1024  # of one file
_CHUNK = 1 << 16
_LINE = 1 << 24

T = TypeVar("T")


def read_file(path: Path, reader: Callable[[Iterator[bytes]], T], problems: list[str]) -> T | None:
    """What ``reader`` makes of the file, or None where there is none; what is wrong with it goes to ``problems``."""
    return open_file(path, lambda file: reader(chunks(file)), problems)


def open_file(path: Path, reader: Callable[[BinaryIO], T], problems: list[str]) -> T | None:
    """The same for a reader that wants the file itself."""
    try:
        with _open_plain(path) as file:
            return reader(file)
    except FileNotFoundError:
        return None
    except BrokenReportError as error:
        problems.append(f"{path.name}: {error}")
    except OSError as error:
        problems.append(f"{path.name}: cannot be read: {error.strerror or error}")
    return None


def _open_plain(path: Path) -> BinaryIO:
    """Open a regular file that is where its name says: no link into other folders, no pipe that never ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BrokenReportError("it is not a plain file")
    if status.st_size > MOST_BYTES:
        os.close(descriptor)
        raise BrokenReportError(f"it is larger than {MOST_BYTES // 2**20} MiB")
    return os.fdopen(descriptor, "rb")


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, in pieces."""
    while chunk := file.read(_CHUNK):
        yield chunk


def lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a file, without their ends."""
    pending = b""
    for chunk in pieces:
        *lines, pending = (pending + chunk).split(b"\n")
        yield from lines
        if len(pending) > _LINE:  # no line of ours is that long: let the reader say so, and do not hoard it
            yield pending
            pending = b""
    if pending:
        yield pending
