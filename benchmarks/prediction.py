"""How often the interval of a tier's expected duration holds: ``python benchmarks/prediction.py`` writes
``benchmarks/prediction.md``.

Simulated durations of the shapes that CI has (``tests/support/past.py``), and real ones: a small suite that computes,
writes, reads and starts processes, run 45 times serially and 45 times on two workers, by turns, beside whatever else
the machine has to do. At every run after the tenth, the interval is made of the runs before it and of nothing else.
Compared with two usual ways: mean ± 1.28 standard deviations of the last 30 runs, and the last run ± 10 %. Real
durations are appended to ``.benchmarks/prediction.jsonl`` (not committed), so that a campaign can be stopped and
resumed; delete the file to start again. Takes five to ten minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.mind.predict import interval  # noqa: E402
from orchestrator.tools.machine import effective_cpus, fingerprint  # noqa: E402
from tests.support.past import shapes  # noqa: E402

TABLE = Path(__file__).with_suffix(".md")
DURATIONS = ROOT / ".benchmarks" / "prediction.jsonl"
FIRST, RUNS, SERIES = 10, 45, 200
SUITES = {"pytest, serially": ["-p", "no:xdist"], "pytest, two workers": ["-n", "2"]}
SUITE = """\
import json, re, sqlite3, subprocess, sys
import pytest

@pytest.mark.parametrize("n", range(6))
def test_computes(n):
    assert sum(i * i % 7 for i in range(400_000 + 50_000 * n)) > 0

@pytest.mark.parametrize("n", range(4))
def test_writes_and_reads(tmp_path, n):
    rows = [(i, str(i) * 10) for i in range(20_000)]
    database = sqlite3.connect(tmp_path / "a.db")
    database.execute("create table t (a, b)")
    database.executemany("insert into t values (?, ?)", rows)
    database.commit()
    (tmp_path / "a.json").write_text(json.dumps(database.execute("select * from t").fetchall()))
    assert len(re.findall(r"\\d+", (tmp_path / "a.json").read_text())) == 40_000

@pytest.mark.parametrize("n", range(3))
def test_starts_a_process(n):
    subprocess.run([sys.executable, "-c", "import argparse, decimal, email.mime.text"], check=True)
"""
Way = Callable[[Sequence[float]], tuple[float, float]]


def ours(seconds: Sequence[float]) -> tuple[float, float]:
    found = interval(seconds)
    assert found is not None
    _, low, high = found
    assert low is not None
    assert high is not None
    return low, high


def normal(seconds: Sequence[float]) -> tuple[float, float]:
    mean, spread = statistics.fmean(seconds[-30:]), 1.2816 * statistics.stdev(seconds[-30:])
    return mean - spread, mean + spread


def last(seconds: Sequence[float]) -> tuple[float, float]:
    return 0.9 * seconds[-1], 1.1 * seconds[-1]


WAYS: dict[str, Way] = {"mltiers": ours, "mean ± 1.28 sd": normal, "last ± 10 %": last}


def judged(series: Sequence[Sequence[float]], way: Way) -> tuple[float, float]:
    """Share of durations inside their intervals, and the median width of those as a share of the duration."""
    inside, widths = [], []
    for seconds in series:
        for now in range(FIRST, len(seconds)):
            low, high = way(seconds[:now])
            inside.append(low <= seconds[now] <= high)
            widths.append((high - low) / seconds[now])
    return statistics.fmean(inside), statistics.median(widths)


def measure() -> dict[str, list[float]]:
    """Wall seconds of each suite's runs, those of earlier campaigns included."""
    found: dict[str, list[float]] = defaultdict(list)
    if DURATIONS.exists():
        for line in DURATIONS.read_text().splitlines():
            run = json.loads(line)
            found[run["suite"]].append(run["seconds"])
    DURATIONS.parent.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with DURATIONS.open("a") as file, tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_suite.py").write_text(SUITE)
        while any(len(found[suite]) < RUNS for suite in SUITES):
            suite = min(SUITES, key=lambda suite: len(found[suite]))
            started = time.monotonic()
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES[suite]]
            subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
            found[suite].append(time.monotonic() - started)
            file.write(json.dumps({"suite": suite, "seconds": round(found[suite][-1], 4)}) + "\n")
            file.flush()
    return {suite: found[suite][:RUNS] for suite in SUITES}


def simulate() -> dict[str, list[list[float]]]:
    random = Random(1)
    found: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(SERIES):
        for name, seconds in shapes(random, RUNS).items():
            found[name].append(seconds)
    return found


def rows(found: dict[str, list[list[float]]]) -> list[str]:
    lines = [
        "| durations | " + " | ".join(f"{way}: holds | width" for way in WAYS) + " |",
        "|---|" + "--:|--:|" * len(WAYS),
    ]
    for name, series in found.items():
        cells = []
        for way in WAYS.values():
            held, width = judged(series, way)
            cells += [f"{100 * held:.0f} %", f"{100 * width:.0f} %"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    real = measure()
    machine = fingerprint()
    spread = {
        suite: f"{min(seconds):.2f} to {max(seconds):.2f} s, median {statistics.median(seconds):.2f} s, "
        f"standard deviation of the logarithm {statistics.stdev(map(math.log, seconds)):.2f}"
        for suite, seconds in real.items()
    }
    TABLE.write_text(
        "\n".join(
            [
                "# How often the interval of an expected duration holds",
                "",
                "`python benchmarks/prediction.py`, "
                f"{datetime.now(tz=timezone.utc):%Y-%m-%d}, {machine['cpu']}, {effective_cpus()} cores.",
                "",
                "The interval is to hold 80 % of the durations. It is made anew before each of the runs "
                f"{FIRST + 1} to {RUNS}, of the runs before that one. Width: high minus low, as a share of the "
                "duration, median.",
                "",
                f"## Real durations ({RUNS} runs each, by turns, on a machine that was busy with other work)",
                "",
                *rows({suite: [seconds] for suite, seconds in real.items()}),
                "",
                *(f"- {suite}: {words}" for suite, words in spread.items()),
                "",
                f"## Simulated durations ({SERIES} series of {RUNS} runs of each shape)",
                "",
                *rows(simulate()),
                "",
            ]
        )
    )


if __name__ == "__main__":
    main()
