"""How long the action takes to start: from the first line of its step to the tests' own code, in real jobs under act.

    python benchmarks/start.py [--warm 7] [--cold 3]        writes benchmarks/start.md

A job's shell notes when our step begins (BASH_ENV), and the tests' conftest when it is imported: the first line of
theirs. Between the two lies everything of ours: finding a Python, the bootstrap, the orchestrator's start, reading the
event, git, the configuration and the history, the plan, starting the tier; and pytest's own start.
Cold: a runner on which nothing has run, so that the orchestrator's environment is made from the package index first.
Warm: the same runner's next jobs. For comparison, the parts of a warm start as processes of their own.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.end_to_end.act import Machine, make_repository, push_event  # noqa: E402
from tests.loopback_github import LoopbackGitHub, Repository  # noqa: E402

FILES = {
    "ml-tiers.yml": "version: 1\ntiers:\n  unit: {paths: [tests], when: [push], budget: 1m, workers: 1}\n",
    "tests/conftest.py": """\
import os, time
with open(os.path.join(os.environ["START_NOTES"], "tests"), "a") as file:
    file.write(f"{time.time()}\\n")
""",
    "tests/test_it.py": "def test_it():\n    pass\n",
}
STEP = 'if [ -n "${MLTIERS_INPUT_CONFIG-}" ]; then date +%s.%N >> "$START_NOTES/step"; fi\n'


def start(machine: Machine, project: Path, repository: Repository, github: LoopbackGitHub, folder: Path) -> float:
    """Seconds from our step's first line to the first line of the tests' conftest, in one job."""
    notes = Path(tempfile.mkdtemp(dir=folder, prefix="notes-"))
    (notes / "step.sh").write_text(STEP)
    job = machine.run(
        project, push_event(repository, project), github, token=github.add_token(),
        env={"BASH_ENV": str(notes / "step.sh"), "START_NOTES": str(notes)},
    )  # fmt: skip
    if job.exit_code:
        raise SystemExit(job.text[-3000:])
    step = float((notes / "step").read_text().split()[0])
    tests = float((notes / "tests").read_text().split()[0])
    return tests - step


def told(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}\u2013{max(seconds):.2f})"


def parts(project: Path, rounds: int) -> dict[str, list[float]]:
    """What a warm start is made of, as processes of their own, interleaved."""
    mltiers = str(Path(sys.executable).parent / "mltiers")
    commands = {
        "`python -I -c pass`": [sys.executable, "-I", "-c", "pass"],
        "the orchestrator's imports": [sys.executable, "-I", "-c", "import orchestrator.line.pipeline"],
        "looking at the tests' Python": [
            sys.executable, "-I", "-c",
            f"import os; from orchestrator.tools.interpreter import Question; "
            f"Question({sys.executable!r}, variables=dict(os.environ)).answer()",
        ],
        "`mltiers plan`": [mltiers, "plan", "--event", "push"],
    }  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
            found[name].append(time.perf_counter() - began)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm", type=int, default=7)
    parser.add_argument("--cold", type=int, default=3)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    cold, warm = [], []
    with tempfile.TemporaryDirectory(prefix="start-") as scratch, LoopbackGitHub() as github:
        folder = Path(scratch)
        project = make_repository(folder / "project", FILES)
        repository = github.add_repository("octo/widgets", path=project)
        for number in range(asked.cold):
            machine = Machine.make(folder / f"machine-{number}")
            cold.append(start(machine, project, repository, github, folder))
        warm = [start(machine, project, repository, github, folder) for _ in range(asked.warm)]
        single = parts(project, asked.warm)
    loads = f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    lines = [
        "# How long the action takes to start",
        "",
        f"`python benchmarks/start.py --warm {asked.warm} --cold {asked.cold}`, {datetime.now(timezone.utc):%Y-%m-%d}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {loads}. Median (fastest\u2013slowest).",
        "",
        "| from our step's first line to that of the tests' conftest, under act | goal | seen |",
        "|---|---|---|",
        f"| warm: the runner's next jobs | < 1.0 s | {told(warm)} |",
        f"| cold: nothing cached, packages from the index | | {told(cold)} |",
        "",
        "| parts of a warm start, as processes of their own | seen |",
        "|---|---|",
        *(f"| {name} | {told(seconds)} |" for name, seconds in single.items()),
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
