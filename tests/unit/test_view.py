"""What a pull request's comment shows: the state of a commit over all runs that tested it, in whatever order."""

from __future__ import annotations

from itertools import permutations

import pytest
from msgspec.structs import replace

from orchestrator.mind.judge import judge
from orchestrator.mind.plan import NOT_ASKED_FOR
from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import decode, encode
from orchestrator.mind.records.names import record_name
from orchestrator.mind.view import view
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Coverage, Ending, FileCoverage, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import RunVerdict, Verdict

SHA = "a" * 40
TIERS = ("unit", "gpu", "slow", "docs")


def result(name: str, *lines: int, outcome: TestOutcome = TestOutcome.PASSED) -> TierResult:
    """One test that executed these of lines 1 to 4."""
    return TierResult(
        name=name,
        ending=Ending.EXITED,
        exit_code=1 if outcome.bad else 0,
        seconds=1.0,
        tests=(TestResult(node_id=f"tests/test_{name}.py::test", outcome=outcome, seconds=0.5),),
        has_report=True,
        coverage=Coverage(
            files={"src/a.py": FileCoverage(executed=frozenset(lines), missing=frozenset({1, 2, 3, 4}) - set(lines))}
        ),
    )


def run(results: dict[str, TierResult], *, partial: bool, minimum: float | None = None) -> RunVerdict:
    reasons = dict.fromkeys(TIERS, NOT_ASKED_FOR) if partial else {"docs": "no changed file matches docs/**"}
    tiers = tuple(
        TierPlan(name=name, run=name in results, reason=reasons.get(name, "belongs on a runner")) for name in TIERS
    )
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="0" * 12,
        event=Event(name="pull_request", sha=SHA),
        changes=Changes(files=None, source="git"),
        tiers=tiers,
        partial=partial,
        coverage_minimum=minimum,
    )
    return judge(plan, results)


def stored(run: RunVerdict, key: str, time: float) -> list[Record]:
    """What the history holds of a run, as it is read back from it."""
    others = () if run.plan.partial else tuple(tier for tier in run.tiers if not tier.plan.run)
    records = [
        Record(
            sha=SHA,
            time=time,
            config_id="0" * 12,
            event="pull_request",
            tier=tier,
            others=others,
            run=key,
            partial=run.plan.partial,
        )
        for tier in run.tiers
        if tier.result is not None
    ]
    files = [(encode(record), str(record_name(record))) for record in records]
    return [decode(names[name], names) for names, name in files]


RUNS = {
    "1.1": run({"unit": result("unit", 1, 2)}, partial=False, minimum=100),
    "2.1": run({"gpu": result("gpu", 3)}, partial=True, minimum=100),
    "3.1": run({"slow": result("slow", 4)}, partial=True, minimum=100),
}


@pytest.mark.parametrize("order", list(permutations(RUNS)), ids="-".join)
def test_whoever_comes_last_shows_everything(order: tuple[str, ...]) -> None:
    memory: list[Record] = []
    for moment, key in enumerate(order):
        memory += stored(RUNS[key], key, float(moment))
    shown = view(RUNS[order[-1]], memory, run_key=order[-1], changed_lines={"src/a.py": frozenset({3, 4})})
    assert {tier.name: str(tier.verdict) for tier in shown.tiers} == {
        "unit": "passed",
        "gpu": "passed",
        "slow": "passed",
        "docs": "not-run",
    }
    assert shown.tiers[-1].reasons == ("no changed file matches docs/**",)
    assert shown.verdict is Verdict.PASSED
    assert shown.coverage is not None
    assert shown.coverage.percent == 100
    assert shown.patch is not None
    assert shown.patch.percent == 100
    assert not shown.reasons


def test_a_threshold_is_judged_over_all_tiers_together() -> None:
    alone = RUNS["1.1"]
    assert alone.verdict is Verdict.FAILED
    assert alone.reasons == ("coverage is 50.0%, below the minimum of 100%",)
    memory = [*stored(RUNS["2.1"], "2.1", 1.0), *stored(RUNS["1.1"], "1.1", 2.0)]
    shown = view(alone, memory, run_key="1.1", changed_lines=None)
    assert shown.reasons == ("coverage is 75.0%, below the minimum of 100%",)


def test_one_tier_alone_is_held_to_no_threshold_of_all() -> None:
    shown = view(RUNS["2.1"], stored(RUNS["2.1"], "2.1", 1.0), run_key="2.1", changed_lines=None)
    assert shown.verdict is Verdict.PASSED
    reasons = {tier.name: tier.reasons for tier in shown.tiers if tier.result is None}
    assert set(reasons.values()) == {("no result of it is known for this commit",)}


def test_a_newer_run_of_the_same_tier_counts() -> None:
    failed = run({"unit": result("unit", 1, outcome=TestOutcome.FAILED)}, partial=False)
    memory = [*stored(failed, "1.1", 1.0), *stored(RUNS["1.1"], "1.2", 2.0)]
    assert view(failed, memory, run_key="1.1", changed_lines=None).tier_named("unit").verdict is Verdict.PASSED
    # the same seen from the newer run, and by one whose own results could not be stored
    assert view(RUNS["1.1"], memory, run_key="1.2", changed_lines=None).tier_named("unit").verdict is Verdict.PASSED
    assert view(failed, memory[1:], run_key="9.9", changed_lines=None).tier_named("unit").verdict is Verdict.FAILED


def test_what_this_run_knows_of_its_own_tier_is_more_than_what_is_stored() -> None:
    long = replace(result("unit", 1, outcome=TestOutcome.FAILED), output_tail="the end of the log")
    own = run({"unit": long}, partial=False)
    shown = view(own, stored(own, "1.1", 1.0), run_key="1.1", changed_lines=None)
    assert shown.tier_named("unit").result is long


def test_a_failure_elsewhere_shows_in_the_comment_of_a_run_that_passed() -> None:
    failed = run({"gpu": result("gpu", 3, outcome=TestOutcome.FAILED)}, partial=True)
    passed = run({"unit": result("unit", 1, 2)}, partial=False)
    shown = view(passed, stored(failed, "2.1", 1.0), run_key="1.1", changed_lines=None)
    assert passed.verdict is Verdict.PASSED
    assert shown.verdict is Verdict.FAILED
    assert "gpu.py::test" in shown.tier_named("gpu").reasons[1]
