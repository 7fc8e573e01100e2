"""Live suites of equals: the comparison as a tier runs it, on a commit that changes nothing but a comment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gating.recording import PROJECT, ROOT
from orchestrator.hands.base_tree import Base
from orchestrator.hands.pairs import Bench, compare_with_base
from orchestrator.mind.how import BY_TURNS
from orchestrator.mind.readers.comparison import comparison_document
from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.git import Git
from orchestrator.words.environment import Environment
from orchestrator.words.plan import TierPlan

BUDGET = 300.0


def run_live(suites: Path, *, wanted: int) -> None:
    """Bring the suites at ``suites`` (JSON lines) to ``wanted``."""
    suites.parent.mkdir(parents=True, exist_ok=True)
    done = len(suites.read_text().splitlines()) if suites.exists() else 0
    for number in range(done, wanted):
        with tempfile.TemporaryDirectory(prefix="gate-live-") as folder, suites.open("a") as file:
            file.write(json.dumps(one_suite(Path(os.path.realpath(folder)), seed=100_000 * (number + 1))) + "\n")


def one_suite(folder: Path, *, seed: int) -> dict[str, object]:
    """One suite of equals, within five minutes, at a gate of 10 %."""
    root = folder / "project"
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("__pycache__", ".mltiers"))
    identity = ["-c", "user.name=study", "-c", "user.email=study@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        subprocess.run(["git", *identity, *arguments], cwd=root, check=True)
    load = root / "src/small/load.py"
    load.write_text(load.read_text() + "# Nothing else is changed.\n")
    git = Git(root=root, variables=dict(os.environ))
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "src"}
    command = [sys.executable, "-m", "pytest", "tests/benchmarks", "-p", "benchmark", "-p", "pytest_mltiers.lockstep"]
    command += [*BY_TURNS, "-n", "0", "--no-cov"]
    tests = [
        f"tests/benchmarks/{file.name}::{line.partition('def ')[2].partition('(')[0]}"
        for file in sorted((root / "tests/benchmarks").glob("test_*.py"))
        for line in file.read_text().splitlines()
        if line.startswith("def test_")
    ]
    bench = Bench(
        tier=TierPlan(
            name="speed",
            run=True,
            reason="",
            against="base",
            gate=10.0,
            paths=("tests/benchmarks",),
            command_by_turns=tuple(command),
        ),
        root=root,
        source=("src",),
        env=Environment.read(os.environ).for_tests(variables),
        plugin=ROOT / "plugin/src",
        cancel=Cancellation(),
        seed=seed,
    )
    before = os.getloadavg()[0]
    comparison = compare_with_base(bench, Base(git=git, sha=git.commit("HEAD")), tests=tests, seconds=BUDGET)
    if comparison.problem is not None:
        raise RuntimeError(f"{comparison.problem}\n{comparison.detail}")
    return {"at": time.time(), "load": before, "load_after": os.getloadavg()[0], **comparison_document(comparison)}
