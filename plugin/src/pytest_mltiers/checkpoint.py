"""Keeps the coverage of a run that may be stopped at any moment: what was measured is on disk every few seconds.

pytest-cov writes at the regular end only, and not even after a KeyboardInterrupt. Saving through coverage.py in
between is not safe: it empties what it has written, and a line that another thread executes in the meantime is lost. So
this takes a copy, empties nothing, and writes it to a data file of its own beside the others, where `coverage combine`
(and pytest-cov, in a run that ends well) finds it. The copy comes from coverage.py's collector, which is not a public
interface: where it does not look as expected, there is no checkpoint, and nothing else changes.
"""

from __future__ import annotations

import _thread
import os
import shutil
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest

CORES = {"CTracer": "ctrace", "SysMonitor": "sysmon", "PyTracer": "pytrace"}
"""What coverage.py's setting `core` calls its tracers."""

_processes: set[int] = set()


def start(config: pytest.Config, interval: float) -> None:
    """Checkpoints coverage, if it is measured, every ``interval`` seconds beside the file that COVERAGE_FILE names.

    Only for the first session of a process: those that its tests run inside it (``pytester``) are covered with it.
    """
    path = os.environ.get("COVERAGE_FILE")
    if path and os.getpid() not in _processes:
        _processes.add(os.getpid())
        config.pluginmanager.register(Checkpoints(path, interval), "pytest_mltiers.checkpoint")
        config.pluginmanager.register(Core(config), "pytest_mltiers.checkpoint.core")


class Core:
    """Tells which of coverage.py's cores measures this process."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_collection_finish(self) -> None:
        events: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.events")
        with suppress(Exception):  # not a public interface
            from coverage import Coverage  # noqa: PLC0415 -- imported by now, or nothing is measured

            current = Coverage.current() if events is not None else None
            if current is not None:
                tracer = current._collector.tracer_name()
                events.write("coverage", core=CORES.get(tracer, tracer))


class Checkpoints:
    """Writes what coverage.py has collected so far, again and again, from a thread."""

    def __init__(self, path: str, interval: float) -> None:
        whole = os.path.abspath(path)  # noqa: PTH100 -- resolve() would follow links
        self.path = f"{whole}.checkpoint.{os.getpid()}"
        self.part = f"{whole}-part-{os.getpid()}"  # not a name that `coverage combine` looks for
        self.interval = interval
        self.context: str | None = None
        self.written: dict[str, int] = {}  # file → how many lines or arcs of it, in this context
        self.data: Any = None
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.complete = False

    def pytest_sessionstart(self) -> None:
        # Not a threading.Thread: coverage's tracer follows those, and a traced thread that ended in the moment in which
        # the session did has taken the process with it (a segmentation fault, seen under load on Python 3.11).
        _thread.start_new_thread(self._run, ())

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_runtestloop(self) -> Generator[None, Any, None]:
        """Innermost, so that the thread is at rest before pytest-cov combines the files."""
        outcome = yield
        self.over.set()
        with self.lock:
            self.complete = outcome.excinfo is None
            if self.complete and self.data is not None:
                self.data.close()
                with suppress(OSError):
                    os.unlink(self.part)  # noqa: PTH108

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """An interrupted run still has the time for a last one."""
        self.over.set()
        if not self.complete:
            self._save()

    def _run(self) -> None:
        while not self.over.wait(self.interval):
            if not self._save():
                return

    def _save(self) -> bool:
        """False: it does not work with this coverage.py, or on this disk, and will not later."""
        with self.lock, suppress(Exception):
            if not self.complete:
                self._write()
            return True
        return False

    def _write(self) -> None:
        # Imported by now, or there would be nothing to save; loading it only costs where it is wanted.
        from coverage import Coverage, CoverageData  # noqa: PLC0415

        current = Coverage.current()
        if current is None:
            return
        collector = current._collector
        context = getattr(collector.covdata, "_current_context", None)
        if context != self.context:
            self.context = context
            self.written.clear()
        fresh = {}
        for name, values in collector.data.copy().items():
            # Copies of sets are made in one go: no other thread runs meanwhile.
            if len(values) != self.written.get(name):
                fresh[name] = values.copy()
        if not fresh:
            with suppress(FileNotFoundError):
                os.utime(self.path)  # nothing was executed since: as good as now
            return
        if self.data is None:
            self.data = CoverageData(basename=self.part)
        self.data.set_context(context)
        if collector.branch:
            self.data.add_arcs(collector.mapped_file_dict({name: arcs(values) for name, values in fresh.items()}))
        else:
            self.data.add_lines(collector.mapped_file_dict(fresh))
        self.data.write()
        copy = f"{self.part}-copy"
        shutil.copyfile(self.part, copy)
        os.replace(copy, self.path)  # noqa: PTH105 -- never half a file, whenever we are killed
        self.written.update({name: len(values) for name, values in fresh.items()})


def arcs(values: Any) -> list[tuple[int, int]]:
    """Pairs of line numbers, which the C tracer keeps packed into one number each (coverage/ctracer/tracer.c)."""
    return [value if isinstance(value, tuple) else _unpack(value) for value in values]


def _unpack(packed: int) -> tuple[int, int]:
    first, second = packed & 0xFFFFFFF, packed >> 28 & 0xFFFFFFF
    return (-first if packed >> 56 & 1 else first), (-second if packed >> 57 & 1 else second)
