"""What the plugin costs every test, in microseconds of CPU time: ``python benchmarks/plugin_events.py``.

Writes benchmarks/plugin_events.md. Four measurements:

- one event: real reports of a real session handed to the stream's own hooks again and again, writing to a real file;
- one test, all hooks of ours together: a session of tiny tests in which blocks of tests with our hooks and without them
  take turns, each pair in random order, so that a drift of the machine hits both alike;
- one test in xdist's controller: whole sessions with and without us in turns, the CPU time of the controller's loop;
- one test of a whole serial session, from the start of its process to its end, in the same way.

What pytest does without the plugin is in none of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "plugin" / "src"
if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE))

import pytest  # noqa: E402

LIMIT = 50.0  # microseconds of CPU per event, from the issue
REPEATS, EVENTS = 15, 400
TESTS, FILES, BLOCK, WARMING = 5_000, 50, 25, 2

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

ASKED = {  # what a tier asks for → the variables by which the plugin is told
    "its results": {},
    "`retries: 2`": {"MLTIERS_RETRIES": "2"},
    "`per-test: 60s`": {"MLTIERS_PER_TEST": "60"},
    "`gpus: 1` (there is none)": {"MLTIERS_GPUS": "1"},
}


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
        events: Any = session.config.pluginmanager.get_plugin("pytest_mltiers.events.session")
        nodeid = self.reports["test_passes"].nodeid
        self._measure("start", lambda: events.pytest_runtest_logstart(nodeid))
        for name, what in (
            ("test_passes", "phase, passed"),
            ("test_skips", "phase, skipped"),
            ("test_fails", "phase, failed (1 frame)"),
            ("test_fails_deep", "phase, failed (10 frames)"),
        ):
            report = self.reports[name]
            events.begin(report.nodeid)
            self._measure(what, lambda report=report: events.pytest_runtest_logreport(report))

    def _measure(self, what: str, call: Callable[[], object]) -> None:
        costs = []
        for _ in range(REPEATS):
            before = time.process_time()
            for _ in range(EVENTS):
                call()
            costs.append((time.process_time() - before) / EVENTS * 1e6)
        self.rows.append((what, statistics.median(costs), max(costs)))


class Turns:
    """Runs a session's tests in blocks with our hooks and without, and writes what a test took in each: pairs, µs."""

    def __init__(self, out: Path) -> None:
        self.out = out

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        callers: Any = [hook for name, hook in vars(session.config.hook).items() if name.startswith("pytest_")]
        whole = [(caller, list(caller._hookimpls)) for caller in callers]
        without = [(caller, [impl for impl in impls if not _ours(impl)]) for caller, impls in whole]
        chance = random.Random(20261123)
        gc.collect()
        gc.freeze()  # a collection takes as long as ten blocks, and falls on whichever side is running
        gc.disable()
        pairs = []
        for first in range(0, len(session.items) - 2 * BLOCK + 1, 2 * BLOCK):
            sides = [True, False]
            chance.shuffle(sides)
            took = {}
            for number, ours in enumerate(sides):
                for caller, impls in whole if ours else without:
                    caller._hookimpls[:] = impls
                took[ours] = self._block(session, first + number * BLOCK)
            pairs.append((took[True], took[False]))
        for caller, impls in whole:
            caller._hookimpls[:] = impls
        self.out.write_text(json.dumps(pairs))
        return True

    def _block(self, session: pytest.Session, first: int) -> float:
        began = 0.0
        for index in range(first, first + BLOCK):
            if index == first + WARMING:
                began = time.process_time()
            item, following = session.items[index], session.items[index + 1 : index + 2]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following[0] if following else None)
        return (time.process_time() - began) / (BLOCK - WARMING) * 1e6


def _ours(impl: Any) -> bool:
    module = getattr(impl.plugin, "__module__", None) or getattr(impl.plugin, "__name__", "")
    return str(module).startswith("pytest_mltiers")


class Loop:
    """Writes the CPU time per test, in µs, that the test loop of this process takes."""

    def __init__(self, out: Path) -> None:
        self.out = out

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, None, None]:
        began = time.process_time()
        yield
        self.out.write_text(json.dumps((time.process_time() - began) / TESTS * 1e6))


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin of the measured sessions (``-p plugin_events``)."""
    if "PLUGIN_EVENTS_OUT" in os.environ and not hasattr(config, "workerinput"):
        meter = {"turns": Turns, "loop": Loop}.get(os.environ["PLUGIN_EVENTS_METER"])
        if meter is not None:
            config.pluginmanager.register(meter(Path(os.environ["PLUGIN_EVENTS_OUT"])), "plugin_events.meter")


def session(folder: Path, meter: str, variables: dict[str, str], *args: str, ours: bool = True) -> Any:
    """What a meter says of one session of the tiny tests, started as a tier is."""
    out, stream = folder / "out.json", folder / "events.jsonl"
    stream.unlink(missing_ok=True)
    carried = folder / "_plugin"  # under this name it brings no fixtures, which only those have who installed it
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLTIERS_", "PYTEST_"))}
    env |= {
        "PYTHONPATH": f"{carried}:{ROOT / 'benchmarks'}",
        "PLUGIN_EVENTS_OUT": str(out),
        "PLUGIN_EVENTS_METER": meter,
    }
    env |= {**variables, "MLTIERS_EVENTS": str(stream), "MLTIERS_STACKS": str(folder)} if ours else {}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "plugin_events",
        "-p",
        "xdist",
        f"--junitxml={folder}/junit.xml",
    ]
    command += ["-o", "junit_family=xunit1", *(["-p", "pytest_mltiers"] if ours else []), *args]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder / "suite", env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if meter == "whole":
        return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / TESTS * 1e6
    return json.loads(out.read_text())


def prepare(folder: Path) -> None:
    """The tiny tests, and the copy of the plugin as a wheel of the orchestrator carries it."""
    (folder / "suite").mkdir()
    (folder / "suite" / "pytest.ini").touch()
    for number in range(FILES):
        tests = "\n".join(f"def test_{test:03}(): pass" for test in range(TESTS // FILES))
        (folder / "suite" / f"test_{number:02}.py").write_text(tests + "\n")
    shutil.copytree(SOURCE, folder / "_plugin")
    nodes = {f"test_{n:02}.py::test_{t:03}": 0.001 for n in range(FILES) for t in range(TESTS // FILES)}
    (folder / "order.json").write_text(json.dumps({"version": 1, "seconds": nodes}))


def spread(values: list[float], digits: int = 0) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> int:
    """Writes and prints the page; 1 if an event costs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="of xdist sessions")
    pairs = parser.parse_args().pairs
    sample = Sample()
    lines = [
        "# What the plugin costs every test",
        "",
        f"`python benchmarks/plugin_events.py`, {datetime.now(timezone.utc):%Y-%m-%d}, Python "
        f"{platform.python_version()}, pytest {pytest.__version__}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}. CPU time; how it is measured is said in the script.",
        "",
        f"One test, all hooks of ours together: {TESTS // (2 * BLOCK)} pairs of blocks of {BLOCK - WARMING} tests, "
        "serially; median (quartiles) of the pairs.",
        "",
        "| what the tier asks for | µs per test | without us | ratio |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks") as temporary:  # a real disk, which /tmp may not be
        folder = Path(temporary)
        prepare(folder)
        for asked, variables in ASKED.items():
            blocks = session(folder, "turns", variables, "-n", "0")
            costs = [with_us - without for with_us, without in blocks]
            ratios = [with_us / without for with_us, without in blocks]
            bare = [without for _, without in blocks]
            lines.append(f"| {asked} | {spread(costs)} | {spread(bare)} | {spread(ratios, 3)} |")
        lines += ["", f"{pairs} pairs of whole sessions of {TESTS:,} tests each.", ""]
        lines += ["| | µs per test | without us |", "|---|---|---|"]
        order = {"MLTIERS_ORDER": str(folder / "order.json")}
        for name, meter, workers, variables in (
            ("serially, from the start of the process to its end", "whole", "0", {}),
            ("controller of two workers, tests as collected", "loop", "2", {}),
            ("controller of two workers, longest first by our scheduler", "loop", "2", order),
        ):
            taken: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(pairs):
                for ours in (True, False) if turn % 2 else (False, True):
                    taken[ours].append(session(folder, meter, variables, "-n", workers, ours=ours))
            differences = [a - b for a, b in zip(taken[True], taken[False], strict=True)]
            lines.append(f"| {name} | {spread(differences)} | {spread(taken[False])} |")
        suite = folder / "test_suite.py"
        suite.write_text(SUITE, encoding="utf-8")
        os.environ["MLTIERS_EVENTS"] = str(folder / "events.jsonl")
        arguments = [str(suite), "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "--rootdir", temporary]
        pytest.main([*arguments, "-p", "pytest_mltiers", "-c", os.devnull], plugins=[sample])
    lines += [
        "",
        f"One event, hot in the caches (limit {LIMIT:.0f} µs):",
        "",
        "| event | median µs | max µs |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {median:.1f} | {worst:.1f} |" for what, median, worst in sample.rows]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))
    return int(any(median > LIMIT for _, median, _ in sample.rows))


if __name__ == "__main__":
    raise SystemExit(main())
