"""How many workers `workers: auto` takes, and whether that was right: against one process and `pytest -n N`.

    python benchmarks/choice.py [--rounds 4] [--workers 2] [--tests 5000] [--suites tiny,fast_shape,skewed] [--out FILE]

Each suite is run by `mltiers run` until the plan has settled (a first run without a history, and `--learn` more), and
then in rounds: mltiers as the plan has it, the same tests by hand in one process, and by hand with workers, in a
rotating order. All of them measure coverage. Whole processes, wall time; ratios are of pairs of one round. `the tier
alone` leaves out what mltiers itself does (plan, history, report; benchmarks/overhead.md).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from speed import fast_shape, skewed, tiny

MLTIERS = str(Path(sys.executable).parent / "mltiers")
CONFIG = "version: 1\nsource: [mine]\ntiers:\n  unit: {paths: [tests], when: [push], budget: 10m}\n"
NOT_OURS = ("PYTEST", "MLTIERS", "GITHUB", "OMP_", "MKL_", "PYTHONPATH")


class Contest:
    """One suite, and what each way of running it took."""

    def __init__(self, make: Callable[[Path], None], workers: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="choice-"))
        make(self.folder)
        (self.folder / "ml-tiers.yml").write_text(CONFIG)
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MLTIERS", "GITHUB", "OMP_", "MKL_"))
        }
        self.env = {**kept, "PYTHONPATH": str(self.folder), "COVERAGE_FILE": str(self.folder / "by-hand")}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        by_hand = [sys.executable, "-m", "pytest", "tests", "--cov=mine", "--cov-report="]
        self.peers = {"pytest, one process": by_hand, f"pytest -n {workers}": [*by_hand, "-n", str(workers)]}
        self.passed = 0

    def once(self, command: list[str]) -> tuple[float, float]:
        """(wall seconds, CPU seconds of it and all it waited for) of a command, which must succeed."""
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, stdin=-3, stdout=-1, stderr=-2, timeout=400, check=False
        )
        taken, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout.decode(errors='replace')[-2000:]}")
        return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def ours(self) -> tuple[tuple[float, float], float, str]:
        """(wall and CPU seconds of `mltiers run`, the tier's own wall seconds, what the plan said)."""
        taken = self.once([MLTIERS, "run", "unit", "--python", sys.executable])
        result = json.loads((self.folder / ".mltiers/unit/result.json").read_text())
        choice = json.loads((self.folder / ".mltiers/plan.json").read_text())["tiers"]["unit"]["choice"]
        self.passed = result["counts"]["passed"]
        return taken, result["seconds"], choice["reason"] if choice else f"{result['workers']} workers, no history"

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def compare(name: str, make: Callable[[Path], None], rounds: int, workers: int, learn: int) -> list[str]:
    """The section of one suite."""
    contest = Contest(make, workers)
    lines = [
        f"## {name}: {(make.__doc__ or '').strip()}",
        "",
        "| run | the tier alone | the plan said |",
        "|---|---|---|",
    ]
    for number in range(1 + learn):
        _, alone, said = contest.ours()
        lines.append(f"| {number + 1} | {alone:.1f} s | {said} |")
    times: dict[str, list[float]] = {name: [] for name in ("mltiers run", "the tier alone", *contest.peers)}
    cpu: dict[str, list[float]] = {name: [] for name in times}
    for turn in range(rounds):
        order = ["mltiers run", *contest.peers]
        for who in order[turn % 3 :] + order[: turn % 3]:
            if who in contest.peers:
                taken = contest.once(contest.peers[who])
            else:
                taken, alone, said = contest.ours()
                times["the tier alone"].append(alone)
            times[who].append(taken[0])
            cpu[who].append(taken[1])
    contest.close()
    lines += [f"| {2 + learn} to {1 + learn + rounds} | | the last: {said} |", ""]
    return [*lines, *table(contest, times, cpu), ""]


def table(contest: Contest, times: dict[str, list[float]], cpu: dict[str, list[float]]) -> list[str]:
    """Markdown: medians, and the tier's own time over each peer's, pair by pair."""
    lines = [
        f"| {contest.passed} tests | median | range | CPU | the tier alone ÷ it | range |",
        "|---|---|---|---|---|---|",
    ]
    own = times["the tier alone"]
    best = [min(pair) for pair in zip(*(times[peer] for peer in contest.peers), strict=True)]
    for who, took in {**times, "the faster of the two, each round": best}.items():
        ratios = sorted(a / b for a, b in zip(own, took, strict=True))
        ours = who not in contest.peers and took is not best
        compared = " | |" if ours else f" {statistics.median(ratios):.2f} | {ratios[0]:.2f}–{ratios[-1]:.2f} |"
        used = f"{statistics.median(cpu[who]):.1f} s" if cpu.get(who) else ""
        lines.append(
            f"| {who} | {statistics.median(took):.2f} s | {min(took):.2f}–{max(took):.2f} s | {used} |{compared}"
        )
    return lines


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--learn", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tests", type=int, default=5000)
    parser.add_argument("--suites", default="tiny,fast_shape,skewed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    def so_many(folder: Path) -> None:
        tiny(folder, options.tests)

    so_many.__doc__ = tiny.__doc__
    suites = {"tiny": so_many, "fast_shape": fast_shape, "skewed": skewed}
    names = ("pytest", "pytest-xdist", "pytest-cov", "coverage", "torch")
    lines = [
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {options.rounds} rounds, {len(os.sched_getaffinity(0))} CPUs, load "
        f"{os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + ".",
        "",
    ]
    for name in options.suites.split(","):
        lines += compare(name, suites[name], options.rounds, options.workers, options.learn)
        print("\n".join(lines), flush=True)
        if options.out:
            options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
