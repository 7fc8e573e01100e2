"""Skips that another tier makes up for, and the marks that measured memory proposes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.failures import explain
from orchestrator.mind.gpu_marks import gpu_marks
from orchestrator.mind.judge import judge
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.links import Links
from orchestrator.mind.skipped import skipped_here
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending, GpuUse, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import RunVerdict, TierVerdict, Verdict

NOW = 1_700_000_000.0
GIB = 2**30


def result(name: str, **outcomes: TestOutcome) -> TierResult:
    tests = tuple(
        TestResult(node_id=f"t.py::{test}", outcome=outcome, message="need CUDA" if not outcome.executed else None)
        for test, outcome in outcomes.items()
    )
    return TierResult(
        name=name, ending=Ending.EXITED, exit_code=0, started=NOW - 5, seconds=5.0, tests=tests, has_report=True
    )


def run(*results: TierResult) -> RunVerdict:
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="0" * 12,
        event=Event(name="push", sha="e" * 40),
        changes=Changes(files=(), source="git"),
        tiers=tuple(TierPlan(name=one.name, run=True, reason="runs") for one in results),
    )
    return judge(plan, {one.name: one for one in results})


def record(result: TierResult) -> Record:
    plan = TierPlan(name=result.name, run=True, reason="nightly")
    return Record(
        sha="d" * 40, time=NOW - 9 * 3600, config_id="0" * 12, event="schedule", trusted=True,
        tier=TierVerdict(plan=plan, result=result, verdict=Verdict.PASSED),
    )  # fmt: skip


HERE = result("unit", a=TestOutcome.SKIPPED, b=TestOutcome.SKIPPED, c=TestOutcome.PASSED)


def test_skips_are_accounted_for_by_the_tier_that_ran_them_before() -> None:
    history = History(tiers={"gpu": (record(result("gpu", a=TestOutcome.PASSED, b=TestOutcome.SKIPPED)),)})
    explained = explain(run(HERE), history)
    assert explained.insight is not None
    (account,) = explained.insight.skipped
    assert (account.skipped, account.ran, account.where) == (2, 1, "gpu")
    assert "2 skipped in unit; 1 of them ran in gpu at dddddddddd, 9 h ago" in render_comment(explained, links=Links())


def test_and_by_one_of_the_same_run_first() -> None:
    history = History(tiers={"gpu": (record(result("gpu", a=TestOutcome.PASSED)),)})
    both = run(HERE, result("gpu", a=TestOutcome.FAILED, b=TestOutcome.PASSED))
    (account,) = skipped_here(both, history)
    assert (account.ran, account.sha, account.age) == (2, None, None)


@pytest.mark.parametrize(
    "records", [(), (record(result("gpu", c=TestOutcome.PASSED)),), (record(result("gpu", a=TestOutcome.SKIPPED)),)]
)
def test_what_nobody_ran_is_a_hole(records: tuple[Record, ...]) -> None:
    assert skipped_here(run(HERE), History(tiers={"gpu": records})) == ()


def test_marks_leave_room_and_take_the_largest_of_all_runs() -> None:
    def seen(**peaks: int) -> Record:
        tests = {f"t.py::{name}": peak for name, peak in peaks.items()}
        return record(replace(HERE, gpu=GpuUse(devices=("H100",), peak_bytes=1, tests=tests)))

    marks = gpu_marks([seen(large=4 * GIB, small=1000), seen(large=5 * GIB, unused=0)])
    assert [(one.node_id, one.mark) for one in marks] == [
        ("t.py::large", '@pytest.mark.gpu_memory("6.5GiB")'),
        ("t.py::small", '@pytest.mark.gpu_memory("0.5GiB")'),
    ]


def test_without_cuda_there_is_nothing_to_propose() -> None:
    assert gpu_marks([record(HERE)]) == ()
