"""What stops a run: a signal, or a decision of ours. It is in place before anything is imported that takes long."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Iterator
from types import FrameType


class Cancellation:
    """A flag, set once from a signal handler or another thread, that any number of ``supervise`` calls wait for."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self.reason: str | None = None
        self.at: float | None = None  # on the monotonic clock

    def set(self, reason: str = "cancelled") -> None:
        """Stop everything that waits for this. Idempotent; safe in a signal handler."""
        if self.reason is None:
            self.reason = reason
            self.at = time.monotonic()
            os.write(self._write, b"x")

    @property
    def is_set(self) -> bool:
        return self.reason is not None

    def fileno(self) -> int:
        """A file descriptor that is readable from the moment the flag is set. Never read from it."""
        return self._read

    def wait(self, timeout: float | None = None) -> bool:
        """Wait till it is set. Returns whether it is."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            return bool(selector.select(timeout))

    def close(self) -> None:
        """Give the descriptors back. Whoever still waits takes it as set."""
        os.close(self._read)
        os.close(self._write)

    @classmethod
    @contextlib.contextmanager
    def on_signals(cls, *numbers: signal.Signals) -> Iterator[Cancellation]:
        """A cancellation set by these signals (INT, TERM and HUP if none is named). In the main thread only."""
        cancellation = cls()

        def handler(number: int, _: FrameType | None) -> None:
            cancellation.set(f"received {signal.Signals(number).name}")

        chosen = numbers or (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, handler) for number in chosen}
        try:
            yield cancellation
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            cancellation.close()
