"""A budget that holds: whatever a suite does, it is stopped in time, nothing of it remains, the culprit has a name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.tools.process import Containment
from tests.overruns.culprits import CULPRITS, Culprit
from tests.overruns.harness import Observed, observe, pytest_command, suite_environment, write_suite

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

PROMISE = 2.0
"""Seconds after its budget by which everything is gone."""

QUICK = {
    ("busy-loop", 2, Containment.SUBREAPER),
    ("c-holding-the-gil", 0, Containment.SUBREAPER),
    ("stops-its-parent", 0, Containment.SUBREAPER),
    ("daemon", 2, Containment.CGROUP),
    ("daemon-keeps-the-output", 0, Containment.SUBREAPER),
    ("fork-bomb", 0, Containment.SUBREAPER),
    ("output-flood", 0, Containment.SUBREAPER),
    ("kills-its-parent", 2, Containment.SUBREAPER),
    ("session-fixture-teardown", 2, Containment.SUBREAPER),
    ("import-of-a-conftest", 0, Containment.SUBREAPER),
}
"""Those that run in every ``make test``; all others are for the campaign."""


def cases() -> list[object]:
    return [
        pytest.param(
            culprit,
            workers,
            containment,
            id=f"{culprit.name}-{'xdist' if workers else 'serial'}-{containment.value}",
            marks=[] if (culprit.name, workers, containment) in QUICK else [pytest.mark.campaign],
        )
        for culprit in CULPRITS
        for workers in (0, 2)
        # GitHub's hosted runners grant no cgroup: doing without is the harder way, and the one that has to work.
        for containment in (Containment.SUBREAPER, Containment.CGROUP)
    ]


@pytest.fixture(scope="session")
def patience(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Seconds in which pytest reaches the culprit on this machine, as busy as it is, by number of workers."""
    found = {}
    for workers in (0, 2):
        directory = tmp_path_factory.mktemp("baseline")
        culprit = Culprit(name="none")
        suite = write_suite(culprit, directory)
        began = time.monotonic()
        subprocess.run(
            pytest_command(culprit, workers), cwd=suite, env=suite_environment(directory, "-"), check=True, stdout=-3
        )
        found[workers] = max(1.5, 2 * (time.monotonic() - began))
    return found


@pytest.mark.parametrize(("culprit", "workers", "containment"), cases())
def test_a_budget_holds(
    culprit: Culprit, workers: int, containment: Containment, patience: dict[int, float], tmp_path: Path
) -> None:
    for module in culprit.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    expected = culprit.ending_xdist if workers else culprit.ending
    # On a machine busier now than when its patience was measured, pytest may not even get to the culprit, or not from
    # there to its own end.
    for factor in (1, 2, 4):
        budget = factor * patience[workers] + culprit.slow_start
        directory = tmp_path / str(factor)
        directory.mkdir()
        seen = observe(culprit, directory, workers=workers, deadline=budget, containment=containment)
        if seen.culprits and seen.outcome.ending.value == expected:
            break
    outcome = seen.outcome
    said = f"{outcome}\n{(directory / 'output.log').read_text(errors='replace')[-3000:]}"

    assert outcome.ending.value == expected, said
    assert outcome.survivors == (), said
    assert seen.alive == (), said
    assert seen.wall <= budget + PROMISE, said
    assert seen.culprits, f"the culprit was never reached within {budget:.1f} s\n{said}"
    if outcome.ending.value in ("exited", "signaled"):
        assert bool(outcome.leftovers) == culprit.leftovers, said
    named_by_events(culprit, seen)
    if outcome.ending.value == "deadline" and culprit.frame:
        assert culprit.frame in outcome.stacks, said


def named_by_events(culprit: Culprit, seen: Observed) -> None:
    """Every finished test is known, and the one that was running (or that its worker did not survive)."""
    assert seen.events.problems == ()
    # One whose teardown hangs (of a session's fixture, in the last test of each worker) has passed so far, and runs.
    assert {f"test_fine_{number}" for number in range(culprit.finished)} <= seen.finished | seen.running
    if seen.outcome.ending.value == "deadline":
        crashed = any("test_culprit" in (crash.node_id or "") for crash in seen.events.crashes)
        assert ("test_culprit" in seen.running or crashed) == culprit.running


def test_the_quick_ones_exist() -> None:
    assert {name for name, *_ in QUICK} <= {culprit.name for culprit in CULPRITS}
    assert len(CULPRITS) >= 25
    assert len({culprit.name for culprit in CULPRITS}) == len(CULPRITS)


@pytest.mark.campaign
def test_native_frames_of_what_does_not_answer(patience: dict[int, float], tmp_path: Path) -> None:
    py_spy = Path(sys.executable).parent / "py-spy"
    if not py_spy.exists():
        pytest.skip("py-spy is not installed")
    culprit = next(culprit for culprit in CULPRITS if culprit.name == "c-busy-holding-the-gil")
    seen = observe(
        culprit,
        tmp_path,
        workers=2,
        deadline=patience[2],
        containment=Containment.SUBREAPER,
        py_spy=py_spy,
    )
    native = [part for part in seen.outcome.stacks.split("\n\n") if part.startswith("Process ")]
    assert seen.wall <= patience[2] + PROMISE
    assert "test_culprit" in "".join(native), seen.outcome.stacks
    assert seen.alive == ()
