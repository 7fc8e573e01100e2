"""A limit for each single test: the one that exceeds it fails by name, and the rest goes on.

At the limit a signal makes the main thread raise where it is. Where it cannot (a C extension that does not come back,
a test that swallows everything), faulthandler ends the process three seconds later, from C and without the GIL; xdist
then fails the test by name and starts another worker. Without xdist there is nobody to go on: then only the first step
is taken, and the tier's budget does the rest.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from types import FrameType

import pytest

from pytest_mltiers import stacks

SIGNAL = signal.SIGVTALRM
"""Not SIGALRM, which pytest-timeout and tests themselves use."""

GRACE = 3.0
"""Seconds from the limit to the end of a worker that does not react."""


def start(config: pytest.Config, seconds: float) -> None:
    """Holds every test of this session (setup, call and teardown of one attempt together) to so many seconds."""
    if config.pluginmanager.hasplugin("dsession"):
        return  # a controller runs no tests
    limit = PerTestLimit(seconds, last=GRACE if "PYTEST_XDIST_WORKER" in os.environ else None)
    config.pluginmanager.register(limit, "pytest_mltiers.limits")


class PerTestLimit:
    """The limit, and the thread that watches the clock."""

    def __init__(self, seconds: float, *, last: float | None) -> None:
        self.seconds = seconds
        self.last = last
        self.due: float | None = None  # of the running attempt; None: none is running, or it has been told
        self.inside = False  # in a phase, where what is raised becomes the test's failure
        self.changed = threading.Condition()
        self.main = threading.main_thread().ident
        self.failed = pytest.fail.Exception
        self._clock = time.monotonic  # tests replace those of modules
        self._raise_signal = signal.pthread_kill

    def pytest_sessionstart(self) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread: the second step remains
            signal.signal(SIGNAL, self._over)
            threading.Thread(target=self._watch, name="mltiers-limit", daemon=True).start()

    def pytest_unconfigure(self) -> None:
        self._arm(None)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        self._arm(self._clock() + self.seconds)
        yield from self._phase()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        yield from self._phase()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        yield from self._phase()
        self._arm(None)

    def _phase(self) -> Generator[None, None, None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def _arm(self, due: float | None) -> None:
        with self.changed:
            self.due = due
            self.changed.notify()
        if self.last is not None:
            if due is None:
                faulthandler.cancel_dump_traceback_later()
            else:
                file = stacks.file() or sys.__stderr__
                faulthandler.dump_traceback_later(self.seconds + self.last, exit=True, file=file)

    def _watch(self) -> None:
        while True:
            with self.changed:
                left = None if self.due is None else self.due - self._clock()
                if left is None or left > 0:
                    self.changed.wait(left)
                    continue
            if self.main is not None:
                self._raise_signal(self.main, SIGNAL)
            # Told once a moment till it has been heard: between two phases there is nothing to fail.
            with self.changed:
                self.changed.wait(0.05)

    def _over(self, _: int, __: FrameType | None) -> None:
        if self.inside and self.due is not None and self._clock() >= self.due:
            # Not through _arm: the watcher may hold the lock, and we are on top of whatever the main thread was doing.
            self.due = None
            raise self.failed(f"took longer than its limit of {self.seconds:g} s", pytrace=True)
