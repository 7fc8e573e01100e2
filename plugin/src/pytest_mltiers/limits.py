"""A limit for each single test: the one that exceeds it fails by name, and the rest goes on.

At the limit a signal makes the main thread raise where it is. Where it cannot (a C extension that does not come back,
a test that swallows everything), faulthandler ends the process three to four seconds later, from C and without the GIL;
xdist then fails the test by name and starts another worker. Without xdist there is nobody to go on: then only the first
step is taken, and the tier's budget does the rest.
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
"""Seconds from the limit to the end of a worker that does not react, at the least."""

SLACK = 1.0
"""Seconds by which it may be later."""


def start(config: pytest.Config, seconds: float) -> None:
    """Holds every test of this session (setup, call and teardown of one attempt together) to so many seconds."""
    if config.pluginmanager.hasplugin("dsession"):
        return  # a controller runs no tests
    limit = PerTestLimit(seconds, last=GRACE if "PYTEST_XDIST_WORKER" in os.environ else None)
    config.pluginmanager.register(limit, "pytest_mltiers.limits")


class PerTestLimit:
    """The limit, and the thread that watches the clock.

    Nobody wakes the watcher when a test begins or ends, which would cost a short test half of its time: a due time only
    moves on, so who sleeps until the one it saw, or for one limit where there was none, misses nothing. faulthandler's
    clock is not set anew for every test either, but ``SLACK`` ahead, which does for all tests that begin meanwhile.
    """

    def __init__(self, seconds: float, *, last: float | None) -> None:
        self.seconds = seconds
        self.last = last
        self.running = False  # an attempt
        self.due: float | None = None  # when it is over its limit; None: it has been told, or none is running
        self.inside = False  # in a phase, where what is raised becomes the test's failure
        self.strikes: float | None = None  # when faulthandler ends the process; None: never
        self.setting = threading.Lock()  # of faulthandler's clock
        self.ended = threading.Event()
        self.main = threading.main_thread().ident
        self.failed = pytest.fail.Exception
        self._clock = time.monotonic  # tests replace those of modules
        self._raise_signal = signal.pthread_kill

    def pytest_sessionstart(self) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread: the second step remains
            signal.signal(SIGNAL, self._over)
            threading.Thread(target=self._watch, name="mltiers-limit", daemon=True).start()

    def pytest_unconfigure(self) -> None:
        self.running, self.due = False, None
        self.ended.set()
        self._rest()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        self.running, self.due = True, self._clock() + self.seconds
        if self.last is not None:
            self._be_ready(self.due + self.last)
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False
        self.running, self.due = False, None

    def _be_ready(self, earliest: float) -> None:
        """Have faulthandler end the process, but not before ``earliest``."""
        with self.setting:
            if self.strikes is None or self.strikes < earliest:
                self.strikes = earliest + SLACK
                file = stacks.file() or sys.__stderr__
                faulthandler.dump_traceback_later(self.strikes - self._clock(), exit=True, file=file)

    def _rest(self) -> None:
        """Where no test is running, have faulthandler let the process be."""
        with self.setting:
            if self.strikes is not None and not self.running:
                self.strikes = None
                faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        left = self.seconds
        while not self.ended.wait(left):
            due, now = self.due, self._clock()
            if due is None:
                # The next one is a whole limit away, and what was set for the last one strikes after its due time.
                self._rest()
                left = self.seconds
            elif due > now:
                left = due - now
            else:
                if self.main is not None:
                    self._raise_signal(self.main, SIGNAL)
                # Told once a moment till it has been heard: between two phases there is nothing to fail.
                left = 0.05

    def _over(self, _: int, __: FrameType | None) -> None:
        if self.inside and self.due is not None and self._clock() >= self.due:
            self.due = None
            raise self.failed(f"took longer than its limit of {self.seconds:g} s", pytrace=True)
