"""What the order over workers saves: xdist's distributions and ours on the same suite. Writes benchmarks/order.md.

    python benchmarks/order.py [--repeats 3]

The suite only sleeps: 96 tests of 8 files, most of them short and a few long, and one file with a fixture of 0.8 s.
Wall time is from the first test's start to the last one's end; idle is what workers, together, had nothing to do
before the last of them ended; busy is what tests and fixtures took, on all workers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = 0.8  # seconds
WAYS = {
    "xdist `load`": [],
    "xdist `worksteal`": ["--dist", "worksteal"],
    "xdist `loadfile`": ["--dist", "loadfile"],
    "mltiers, first run": [],
    "mltiers": [],
}


def write_suite(folder: Path) -> dict[str, float]:
    """The suite, and how long each of its tests takes."""
    generator = random.Random(3)
    takes = {}
    for file in range(8):
        seconds = [round(min(2.5, generator.lognormvariate(-2.5, 1.2)), 3) for _ in range(12)]
        slow = f"@pytest.fixture(scope='module', autouse=True)\ndef slow():\n    time.sleep({FIXTURE})\n" * (file == 3)
        text = f"import time, pytest\nS = {seconds}\n{slow}"
        text += "@pytest.mark.parametrize('n', range(12))\ndef test_n(n):\n    time.sleep(S[n])\n"
        (folder / f"test_{file}.py").write_text(text)
        takes |= {f"test_{file}.py::test_n[{n}]": value for n, value in enumerate(seconds)}
    takes["test_3.py::test_n[0]"] += FIXTURE  # as the history has it: whoever comes first pays
    (folder / "pytest.ini").write_text("")
    (folder / "mltiers.json").write_text(json.dumps({"version": 1, "seconds": takes}))
    (folder / "mltiers, first run.json").write_text(json.dumps({"version": 1}))
    return takes


def measured(folder: Path, way: str, workers: int) -> tuple[float, float, float]:
    """Wall, idle and busy seconds of one run."""
    stream = folder / "events.jsonl"
    stream.unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MLTIERS_"))}
    env |= {"PYTHONPATH": str(ROOT / "plugin" / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env |= {"MLTIERS_EVENTS": str(stream)}
    if (order := folder / f"{way}.json").exists():
        env["MLTIERS_ORDER"] = str(order)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", "-p", "pytest_mltiers"]
    command += ["-n", str(workers), *WAYS[way]]
    subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
    events = [json.loads(line) for line in stream.read_text().splitlines()]
    began = min(event["time"] for event in events if event["event"] == "start")
    phases = [event for event in events if event["event"] == "phase"]
    ends: dict[str, float] = defaultdict(float)
    for event in phases:
        ends[event["worker"]] = max(ends[event["worker"]], event["time"])
    last = max(ends.values())
    return last - began, sum(last - end for end in ends.values()), sum(event["seconds"] for event in phases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    lines = [
        "# Order over workers",
        "",
        *__doc__.strip().splitlines()[4:],
        "",
        f"Measured {datetime.now(timezone.utc):%Y-%m-%d} by `python benchmarks/order.py --repeats {repeats}` on "
        f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} CPUs; medians.",
        "",
        "| workers | distribution | wall | idle | busy | busy / workers |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_suite(folder)
        for workers in (2, 4):
            for way in WAYS:
                runs = [measured(folder, way, workers) for _ in range(repeats)]
                wall, idle, busy = (statistics.median(values) for values in zip(*runs, strict=True))
                cells = " | ".join(f"{value:.2f} s" for value in (wall, idle, busy, busy / workers))
                lines.append(f"| {workers} | {way} | {cells} |")
    (ROOT / "benchmarks" / "order.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
