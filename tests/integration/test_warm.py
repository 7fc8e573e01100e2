"""Warm workers end to end: budgets hold, and the plan and the notes say whether workers were warm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.tools.process import Containment
from tests.integration.test_overruns import PROMISE, named_by_events
from tests.overruns.culprits import CULPRITS, Culprit
from tests.overruns.harness import observe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux only")

QUICK = {"busy-loop", "c-holding-the-gil", "kills-its-parent", "daemon", "session-fixture-teardown", "stops-its-parent"}


@pytest.mark.parametrize(
    "culprit",
    [
        pytest.param(c, id=c.name, marks=[] if c.name in QUICK else [pytest.mark.campaign])
        for c in CULPRITS
        if not c.needs
    ],
)
def test_a_budget_holds_over_warm_workers(culprit: Culprit, tmp_path: Path) -> None:
    holds(culprit, tmp_path, kept=False)


QUICK_KEPT = {("daemon", 2), ("stops-its-parent", 2), ("kills-its-parent", 0)}


@pytest.mark.parametrize(
    ("culprit", "workers"),
    [
        pytest.param(
            culprit,
            workers,
            id=f"{culprit.name}-{'xdist' if workers else 'serial'}",
            marks=[] if (culprit.name, workers) in QUICK_KEPT else [pytest.mark.campaign],
        )
        for culprit in CULPRITS
        for workers in (0, 2)
        if not culprit.needs
    ],
)
def test_a_budget_holds_over_what_a_kept_process_has_forked(culprit: Culprit, workers: int, tmp_path: Path) -> None:
    holds(culprit, tmp_path, kept=True, workers=workers)


def holds(culprit: Culprit, tmp_path: Path, *, kept: bool, workers: int = 2) -> None:
    expected = culprit.ending_xdist if workers else culprit.ending
    # Whoever kills the process that workers are forked from ends them, not the run. And a process that was forked warm
    # ends without what native code has left to do at its end (docs/warm-workers.md).
    if culprit.name == "c-destructor-at-exit" or (workers and culprit.name == "kills-its-parent"):
        expected = "exited"
    # Till pytest gets to the culprit, and from there to its own end where it has one, on a machine as busy as this.
    for budget in (4.0, 8.0, 16.0, 32.0):
        directory = tmp_path / f"{budget:g}"
        directory.mkdir()
        deadline = budget + culprit.slow_start
        seen = observe(
            culprit,
            directory,
            workers=workers,
            deadline=deadline,
            containment=Containment.SUBREAPER,
            warm=True,
            kept=kept,
        )
        if seen.culprits and seen.outcome.ending.value == expected:
            break
    outcome = seen.outcome
    said = f"{outcome}\n{(directory / 'output.log').read_text(errors='replace')[-3000:]}"

    report = json.loads((directory / "warm.json").read_text())
    assert report["warm"], said
    assert report["kept"] == kept, said
    assert seen.culprits, said
    assert outcome.ending.value == expected, said
    assert outcome.survivors == (), said
    assert seen.alive == (), said
    assert seen.wall <= deadline + PROMISE, said
    if outcome.ending.value in ("exited", "signaled"):
        assert culprit.leftovers or not outcome.leftovers, said  # what the fork server's end takes with it is none
    named_by_events(culprit, seen)
    if outcome.ending.value == "deadline" and culprit.frame:
        assert culprit.frame in outcome.stacks, said
