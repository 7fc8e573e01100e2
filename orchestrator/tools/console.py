"""Standard output and standard error, whatever is at their other end: nothing, a full disk, a reader that has left.

Results go to standard output. That they could not be delivered is an error, unless their reader chose to leave
(``| head``). Talk goes to standard error, and talk that nobody can receive changes no verdict.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import FileIO, TextIOWrapper

from orchestrator.words.errors import InfrastructureError


class Talk(TextIOWrapper):
    """A stream onto a descriptor that loses what cannot be written, rather than end a run."""

    def __init__(self, descriptor: int, *, encoding: str) -> None:
        file = FileIO(descriptor, "wb", closefd=False)
        super().__init__(file, encoding=encoding, errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            _silence(self.fileno())
            return len(text)


def open_streams() -> None:
    """Make the standard streams safe to write to. One that was closed before we started leads nowhere from now on."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without ✅ gets its escape
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = Talk(2, encoding=sys.stderr.encoding if sys.stderr is not None else "utf-8")


def say(text: str) -> None:
    """Write results to standard output, now. Raises InfrastructureError where they cannot be delivered."""
    _deliver(lambda: sys.stdout.write(text))


def say_bytes(data: bytes) -> None:
    """The same of a file's own bytes, in whatever encoding."""
    _deliver(lambda: sys.stdout.buffer.write(data))


def _deliver(write: Callable[[], object]) -> None:
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())
    except OSError as error:
        _silence(sys.stdout.fileno())
        raise InfrastructureError(f"standard output: cannot be written: {error.strerror or error}") from None


def _silence(descriptor: int) -> None:
    """Lead a descriptor nowhere, so that what is still buffered for it fails no more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
