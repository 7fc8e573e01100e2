"""What one event of the plugin costs, in microseconds of CPU time: ``python benchmarks/plugin_events.py``.

Real reports of a real pytest session are handed to the plugin's own hooks again and again, streaming to a real file,
and the cost of each kind of event is the median over repetitions. What pytest does without the plugin is not in it.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "plugin" / "src"))

import pytest  # noqa: E402
from pytest_mltiers.events import TestEvents  # noqa: E402

LIMIT = 50.0  # microseconds of CPU per event, from the issue
REPEATS, EVENTS = 15, 400

SUITE = """
import pytest
def helper(value, depth):
    if depth:
        return helper(value, depth - 1)
    assert value == {"label": "positive", "confidence": 0.5}, "the model disagrees"
def test_passes(): pass
def test_fails(): assert [1, 2, 3] == [1, 2, 4]
def test_fails_deep(): helper({"label": "negative", "confidence": 0.25}, 8)
def test_skips(): pytest.skip("needs a GPU")
"""


class Sample:
    """Keeps the reports of a session and its own event hooks, and times the hooks before the session ends."""

    def __init__(self) -> None:
        self.reports: dict[str, pytest.TestReport] = {}
        self.rows: list[tuple[str, float, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.reports[report.nodeid.partition("::")[2]] = report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        events = session.config.pluginmanager.get_plugin("pytest_mltiers.events.session")
        assert isinstance(events, TestEvents)
        nodeid = self.reports["test_passes"].nodeid
        self._measure("start", lambda: events.pytest_runtest_logstart(nodeid))
        for name, what in (
            ("test_passes", "phase, passed"),
            ("test_skips", "phase, skipped"),
            ("test_fails", "phase, failed (1 frame)"),
            ("test_fails_deep", "phase, failed (10 frames)"),
        ):
            report = self.reports[name]
            self._measure(what, lambda report=report: events.pytest_runtest_logreport(report))

    def _measure(self, what: str, call: Callable[[], object]) -> None:
        costs = []
        for _ in range(REPEATS):
            before = time.process_time()
            for _ in range(EVENTS):
                call()
            costs.append((time.process_time() - before) / EVENTS * 1e6)
        self.rows.append((what, statistics.median(costs), max(costs)))


def main() -> int:
    """Prints the table; 1 if an event costs more than the limit."""
    sample = Sample()
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder, "test_suite.py")
        suite.write_text(SUITE, encoding="utf-8")
        stream = Path(folder, "events.jsonl")
        os.environ["MLTIERS_EVENTS"] = str(stream)
        arguments = [str(suite), "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "--rootdir", folder]
        pytest.main([*arguments, "-p", "pytest_mltiers", "-c", os.devnull], plugins=[sample])
        written = stream.read_bytes().count(b"\n")
    print(f"\nPython {platform.python_version()}, pytest {pytest.__version__}, {written:,} events written")
    print(f"{'event':<28}{'median µs':>10}{'max µs':>10}   (CPU per event; limit {LIMIT:.0f})")
    for what, median, worst in sample.rows:
        print(f"{what:<28}{median:>10.1f}{worst:>10.1f}")
    return int(any(median > LIMIT for _, median, _ in sample.rows))


if __name__ == "__main__":
    raise SystemExit(main())
