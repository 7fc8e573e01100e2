"""A test that takes too long fails by name, and the others run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

campaign = pytest.mark.campaign  # of the whole project's tests: exhaustive, in `make test-all` only
SOURCE = Path(__file__).parents[1] / "src"
PRELUDE = """
import ctypes, pytest, threading, time
def test_before(): pass
"""
AFTER = "\ndef test_after(): pass\n"

# What exceeds the limit, the outcome of its phases, and whether only the end of its process helps.
CASES = {
    "busy": ("def test_slow():\n    while True: pass\n", {"call": "failed"}, False),
    "sleep": ("def test_slow():\n    time.sleep(60)\n", {"call": "failed"}, False),
    "lock": (
        "def test_slow():\n    lock = threading.Lock(); lock.acquire(); lock.acquire()\n",
        {"call": "failed"},
        False,
    ),
    "swallows exceptions": (
        "def test_slow():\n    while True:\n        try: time.sleep(60)\n        except Exception: pass\n",
        {"call": "failed"},
        False,
    ),
    "set-up": (
        "@pytest.fixture\ndef slow(): time.sleep(60)\n\ndef test_slow(slow): pass\n",
        {"setup": "failed"},
        False,
    ),
    "teardown": (
        "@pytest.fixture\ndef slow():\n    yield\n    time.sleep(60)\n\ndef test_slow(slow): pass\n",
        {"call": "passed", "teardown": "failed"},
        False,
    ),
    "all phases together": (
        "@pytest.fixture\ndef slow():\n    time.sleep(0.7)\n\ndef test_slow(slow): time.sleep(0.7)\n",
        {"setup": "passed", "call": "failed"},
        False,
    ),
    "C": ("def test_slow():\n    while True: ctypes.CDLL(None).sleep(60)\n", {"call": "failed"}, False),
    "C with the GIL": ("def test_slow():\n    while True: ctypes.PyDLL(None).sleep(60)\n", {}, True),
    "busy C with the GIL": ("def test_slow():\n    sum(__import__('itertools').repeat(0))\n", {}, True),
    "swallows everything": (
        "def test_slow():\n    while True:\n        try: time.sleep(60)\n        except BaseException: pass\n",
        {},
        True,
    ),
}


def run(folder: Path, test: str, *args: str, seconds: str = "1") -> tuple[int, list[dict[str, object]], str]:
    """Exit code, events and output of a suite with ``test`` between two good ones."""
    (folder / "test_it.py").write_text(PRELUDE + test + AFTER)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MLTIERS", "COV"))},
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(SOURCE),
        "MLTIERS_EVENTS": str(folder / "events.jsonl"),
        "MLTIERS_STACKS": str(folder),
        "MLTIERS_PER_TEST": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pytest_mltiers", "-p", "no:cacheprovider", *args],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return done.returncode, events, done.stdout


def phases(events: list[dict[str, object]], name: str) -> dict[object, object]:
    found = [event for event in events if event["event"] == "phase" and str(event["nodeid"]).endswith(name)]
    return {event["phase"]: event["outcome"] for event in found}


def ways() -> list[object]:
    """Each case with and without xdist; where only the end of its process helps, without it nobody is left to go on."""
    quick = {("busy", 0), ("set-up", 0), ("teardown", 0), ("all phases together", 0), ("sleep", 1)}
    quick.add(("busy C with the GIL", 1))
    return [
        pytest.param(case, workers, id=f"{case}-{workers}", marks=[] if (case, workers) in quick else [campaign])
        for case, (_, _, last) in CASES.items()
        for workers in ([1] if last else [0, 1])
    ]


@pytest.mark.parametrize(("case", "workers"), ways())
def test_the_slow_one_fails_and_the_rest_goes_on(case: str, workers: int, tmp_path: Path) -> None:
    test, expected, last = CASES[case]
    code, events, output = run(tmp_path, test, *(["-p", "xdist", "-n1"] if workers else []))
    assert code == pytest.ExitCode.TESTS_FAILED, output
    for other in ("test_before", "test_after"):
        assert phases(events, other) == {"setup": "passed", "call": "passed", "teardown": "passed"}, output
    slow = phases(events, "test_slow")
    assert {phase: slow[phase] for phase in expected} == expected
    if last:
        crashed = [str(event["nodeid"]) for event in events if event["event"] == "crash" and event["nodeid"]]
        assert crashed == ["test_it.py::test_slow"]
        assert "in test_slow" in "".join(file.read_text() for file in tmp_path.glob("*.txt"))
    else:
        assert "took longer than its limit of 1 s" in output
        assert "in test_slow" in output or "def slow" in output or "def test_slow" in output


def test_who_is_in_time_notices_nothing(tmp_path: Path) -> None:
    quick = "\n".join(f"def test_{n}(): pass" for n in range(200))
    code, events, output = run(tmp_path, quick, seconds="30")
    assert code == 0, output
    assert len([event for event in events if event["event"] == "phase"]) == 3 * 202


def test_each_attempt_has_its_own_limit(tmp_path: Path) -> None:
    pytest.importorskip("pytest_rerunfailures")
    test = "def test_slow(runs=[]):\n    runs.append(1)\n    time.sleep(0.7)\n    assert len(runs) == 3\n"
    code, _, output = run(tmp_path, test, "-p", "pytest_rerunfailures", "--reruns", "3")
    assert code == 0, output
