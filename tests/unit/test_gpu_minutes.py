"""What GPU tiers cost is said before it is spent, and compared with what was used."""

from __future__ import annotations

from orchestrator.mind.judge import judge
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.links import Links
from orchestrator.mind.render.plan_table import render_plan
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending, TestOutcome, TestResult, TierResult

GPU = TierPlan(
    name="gpu",
    run=True,
    reason="runs on schedule",
    where="dispatched",
    runner=("self-hosted", "cuda"),
    gpus=2,
    shards=3,
    budget=1800.0,
    predicted_seconds=300.0,
)


def plan(tier: TierPlan) -> Plan:
    return Plan(
        config_path="ml-tiers.yml",
        config_id="x",
        event=Event(name="schedule"),
        changes=Changes(files=(), source="git"),
        tiers=(tier,),
    )


def test_the_plan_says_what_it_will_cost() -> None:
    assert "30m, 5m 00s expected, 30.0 GPU minutes" in render_plan(plan(GPU))


def test_without_a_gpu_there_are_no_gpu_minutes() -> None:
    assert "GPU" not in render_plan(plan(TierPlan(name="convergence", run=True, reason="", predicted_seconds=9.0)))


def test_the_comment_says_what_it_cost_and_what_was_expected() -> None:
    test = TestResult(node_id="tests/test_a.py::test_a", outcome=TestOutcome.PASSED)
    result = TierResult(name="gpu", ending=Ending.EXITED, exit_code=0, seconds=330.0, tests=(test,), has_report=True)
    said = render_comment(judge(plan(GPU), {"gpu": result}), links=Links())
    assert "`gpu`: 33.0 GPU minutes used, 30.0 GPU minutes expected" in said
