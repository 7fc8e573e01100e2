"""What the command costs beside the work it does: `--help`, `plan`, and `run unit` against the same pytest by hand.

    python benchmarks/overhead.py [--pairs 7]        writes benchmarks/overhead.md

Whole processes, wall time. `run` and pytest are interleaved pair by pair, their order alternating, so that a drift of
the machine hits both alike; quoted are the median of each and of the differences. For the example's unit tier, whose
process is forked from one that has imported torch meanwhile; and for 200 and 5,000 tests that import nothing, in one
process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "text-classifier"
MLTIERS = [str(Path(sys.executable).parent / "mltiers")]


def seconds(command: list[str], env: dict[str, str], folder: Path = EXAMPLE) -> float:
    """Wall time of one whole process, which must succeed."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout.decode(errors='replace')}")
    return taken


def by_hand(folder: Path, env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The pytest command of the `unit` tier and its environment, as `mltiers plan` gives them, without our plugin."""
    plan = json.loads(subprocess.check_output([*MLTIERS, "plan", "--event", "push", "--json"], cwd=folder, env=env))
    tier = plan["tiers"]["unit"]
    command = list(tier["command"])
    position = command.index("-p")
    del command[position : position + 2]
    out = folder / ".mltiers" / "by-hand"
    out.mkdir(parents=True, exist_ok=True)
    (folder / ".mltiers" / ".gitignore").write_text("*\n")
    command = [word.replace(".mltiers/unit/", ".mltiers/by-hand/") for word in command]
    return command, {**env, **tier["env"], "COVERAGE_FILE": str(out / ".coverage")}


def small_project(folder: Path, each: int) -> None:
    """Ten files of so many tests that import nothing, in a repository."""
    (folder / "tests").mkdir()
    (folder / "ml-tiers.yml").write_text(
        "version: 1\ntiers:\n  unit: {paths: [tests], when: [push], budget: 2m, workers: 1}\n"
    )
    text = (
        f"import pytest\n\n@pytest.mark.parametrize('n', range({each}))\ndef test_adds(n):\n    assert n + n == 2 * n\n"
    )
    for number in range(10):
        (folder / "tests" / f"test_{number}.py").write_text(text)
    who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "small"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def compare(folder: Path, env: dict[str, str], pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of `mltiers run unit` and of pytest by hand, pair by pair."""
    run = [*MLTIERS, "run", "unit"]
    pytest, pytest_env = by_hand(folder, env)
    ours, theirs = [], []
    for turn in range(pairs):
        for mine in (True, False) if turn % 2 else (False, True):
            (ours if mine else theirs).append(seconds(run if mine else pytest, env if mine else pytest_env, folder))
        print(f"pair {turn + 1}: mltiers {ours[-1]:.2f} s, pytest {theirs[-1]:.2f} s", file=sys.stderr)
    return ours, theirs


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"


def rows(what: str, ours: list[float], theirs: list[float]) -> list[str]:
    """The table's rows of one comparison."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return [
        f"| {what}, pytest by hand | floor | {spread(theirs)} |",
        f"| `mltiers run unit` | | {spread(ours)} |",
        f"| the difference, pair by pair | < 0.3 s + 40 µs a test | {spread(differences)} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "MLTIERS_", "PYTEST_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    small = {"python -c pass": [sys.executable, "-c", "pass"], "mltiers --help": [*MLTIERS, "--help"],
             "mltiers plan --event push": [*MLTIERS, "plan", "--event", "push"]}  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in small}
    for turn in range(3 * pairs + 1):
        for name, command in small.items():
            taken = seconds(command, env)
            if turn:  # the first fills caches
                times[name].append(taken)
    example = compare(EXAMPLE, env, pairs)
    nothing = {}
    for each, rounds in ((20, 3 * pairs), (500, pairs)):
        with tempfile.TemporaryDirectory() as name:
            small_project(Path(name), each)
            seconds([*MLTIERS, "run", "unit"], env, Path(name))  # the first compiles
            nothing[f"{10 * each:,} tests that import nothing"] = compare(Path(name), env, rounds)
    lines = [
        "# What the command costs beside its work",
        "",
        f"`python benchmarks/overhead.py --pairs {pairs}`, {datetime.now(timezone.utc):%Y-%m-%d}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}. Wall time of whole "
        "processes, median (fastest–slowest).",
        "",
        "| | goal | seen |",
        "|---|---|---|",
        *(
            f"| `{name}` | {goal} | {spread(times[name])} |"
            for name, goal in (("python -c pass", "floor"), ("mltiers --help", "< 0.2 s"),
                               ("mltiers plan --event push", "< 0.35 s"))
        ),
        *rows("the example's `unit` tier", *example),
        *(row for name, found in nothing.items() for row in rows(name, *found)),
    ]  # fmt: skip
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
