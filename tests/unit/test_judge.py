"""Verdicts. For every rule of "nothing is green by absence": the evidence, what a naive reading calls it, and ours."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.judge import as_it_was, floor_percent, judge, judge_tier
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.links import Links
from orchestrator.words.errors import ExitCode
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, PythonFacts, TierPlan
from orchestrator.words.results import (
    Attempt,
    Coverage,
    Ending,
    FileCoverage,
    GpuUse,
    TestOutcome,
    TestResult,
    TierResult,
)
from orchestrator.words.verdict import Verdict

PYTHON = PythonFacts(executable="/usr/bin/python3", version="3.11.7", pytest="9", xdist="3.8", cov="7")
UNIT = TierPlan(name="unit", run=True, reason="runs on push", budget=120.0, python=PYTHON)


def a_test(outcome: TestOutcome, name: str = "tests/test_a.py::test_a", **more: object) -> TestResult:
    return TestResult(node_id=name, outcome=outcome, seconds=0.1, **more)  # type: ignore[arg-type]


GREEN = TierResult(
    name="unit",
    ending=Ending.EXITED,
    exit_code=0,
    seconds=3.0,
    tests=(a_test(TestOutcome.PASSED),),
    has_report=True,
)


def naive(result: TierResult) -> bool:
    """What most tools do: no failure in the report is a pass."""
    return not any(test.outcome in (TestOutcome.FAILED, TestOutcome.ERROR) for test in result.tests)


def green_but(**change: object) -> TierResult:
    return replace(GREEN, **change)  # type: ignore[arg-type]


NOT_GREEN = {
    "no report at all": (green_but(has_report=False, tests=()), Verdict.INFRASTRUCTURE, "left no test report"),
    "an empty report": (green_but(tests=()), Verdict.INFRASTRUCTURE, "no test was executed"),
    "everything skipped": (
        green_but(tests=(a_test(TestOutcome.SKIPPED),) * 3),
        Verdict.INFRASTRUCTURE,
        "no test was executed (3 skipped)",
    ),
    "nothing collected, exit 5": (
        green_but(exit_code=5, tests=()),
        Verdict.INFRASTRUCTURE,
        "pytest collected no test (exit code 5)",
    ),
    "exit 1 without a failing test": (
        green_but(exit_code=1),
        Verdict.INFRASTRUCTURE,
        "exit code 1), though no test is reported as failed",
    ),
    "interrupted": (green_but(exit_code=2), Verdict.INFRASTRUCTURE, "pytest was interrupted"),
    "internal error": (green_but(exit_code=3), Verdict.INFRASTRUCTURE, "internal error"),
    "usage error": (green_but(exit_code=4), Verdict.INFRASTRUCTURE, "refused its command line"),
    "killed by the system": (
        green_but(ending=Ending.SIGNALED, exit_code=-9),
        Verdict.INFRASTRUCTURE,
        "killed by signal 9",
    ),
    "a test case without a name": (
        green_but(problems=("junit.xml: a test case without a name",)),
        Verdict.INFRASTRUCTURE,
        "without a name",
    ),
    "a test that never ended": (
        green_but(tests=(*GREEN.tests, a_test(TestOutcome.UNFINISHED, "t.py::hung"))),
        Verdict.INFRASTRUCTURE,
        "never ended: t.py::hung",
    ),
    "stopped at its budget": (green_but(ending=Ending.DEADLINE), Verdict.OVER_BUDGET, "stopped at its budget"),
    "ended after its budget": (green_but(seconds=121.0), Verdict.OVER_BUDGET, "took 121.0 s, over its budget"),
    "somebody stopped it": (green_but(ending=Ending.CANCELLED), Verdict.CANCELLED, "somebody stopped it"),
    "could not be started": (
        green_but(ending=Ending.NOT_STARTED, reason="could not be run: no memory", problems=("no memory",)),
        Verdict.INFRASTRUCTURE,
        "no memory",
    ),
    "a needed tier failed": (
        green_but(ending=Ending.NOT_STARTED, reason="needs lint, which did not pass"),
        Verdict.NOT_RUN,
        "needs lint",
    ),
    "passed when tried again": (
        green_but(tests=(a_test(TestOutcome.PASSED, attempts=(Attempt(outcome=TestOutcome.FAILED, seconds=0.1),)),)),
        Verdict.FLAKY,
        "passed when tried again",
    ),
}


@pytest.mark.parametrize("case", NOT_GREEN)
def test_what_a_naive_reading_calls_green(case: str) -> None:
    result, verdict, sentence = NOT_GREEN[case]
    assert naive(result), "this case would not show anything"
    judged = judge_tier(UNIT, result)
    assert judged.verdict is verdict
    assert any(sentence in reason for reason in judged.reasons), judged.reasons


def test_nothing_came_back() -> None:
    judged = judge_tier(UNIT, None)
    assert judged.verdict is Verdict.INFRASTRUCTURE
    assert judged.exit_code is ExitCode.INFRASTRUCTURE


def test_green_is_possible() -> None:
    judged = judge_tier(UNIT, GREEN)
    assert (judged.verdict, judged.reasons, judged.exit_code) == (Verdict.PASSED, (), ExitCode.PASSED)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_failures_are_failures_whatever_the_exit_code_says(code: int) -> None:
    judged = judge_tier(UNIT, replace(GREEN, exit_code=code, tests=(a_test(TestOutcome.FAILED),)))
    assert judged.verdict is Verdict.FAILED


def test_failures_known_before_the_budget_ran_out_win() -> None:
    tests = (a_test(TestOutcome.FAILED), a_test(TestOutcome.UNFINISHED, "t.py::hung"))
    judged = judge_tier(UNIT, replace(GREEN, ending=Ending.DEADLINE, tests=tests))
    assert judged.verdict is Verdict.FAILED
    text = "\n".join(judged.reasons)
    assert "budget" in text
    assert "t.py::hung" in text


@pytest.mark.parametrize(
    ("gpu", "sentence"),
    [
        (None, "nothing shows that a test ever used CUDA"),
        (GpuUse(devices=(), peak_bytes=0), "0 found"),
        (GpuUse(devices=("A",), peak_bytes=5), "1 found"),
        (GpuUse(devices=("A", "B"), peak_bytes=0), "no CUDA memory was ever allocated"),
    ],
)
def test_a_promised_gpu_that_nothing_used_is_not_green(gpu: GpuUse | None, sentence: str) -> None:
    judged = judge_tier(replace(UNIT, gpus=2), replace(GREEN, gpu=gpu))
    assert judged.verdict is Verdict.INFRASTRUCTURE
    assert sentence in judged.reasons[0]


@pytest.mark.parametrize(
    ("result", "also"),
    [
        (replace(GREEN, exit_code=1, tests=(a_test(TestOutcome.FAILED),)), "1 of 1 tests failed"),
        (replace(GREEN, tests=(a_test(TestOutcome.SKIPPED),)), "no test was executed (1 skipped)"),
        (replace(GREEN, ending=Ending.DEADLINE), "was stopped at its budget"),
    ],
    ids=["failed", "skipped", "over budget"],
)
def test_where_promised_gpus_are_missing_that_is_what_is_wrong(result: TierResult, also: str) -> None:
    tier = replace(UNIT, gpus=2)
    judged = judge_tier(tier, replace(result, gpu=GpuUse(devices=("A",), peak_bytes=5)))
    assert (judged.verdict, judged.exit_code) == (Verdict.INFRASTRUCTURE, ExitCode.INFRASTRUCTURE)
    assert judged.reasons[0] == "2 GPUs promised, 1 found"
    assert also in "\n".join(judged.reasons)
    there = judge_tier(tier, replace(result, gpu=GpuUse(devices=("A", "B"), peak_bytes=5)))
    assert there.reasons[:1] != judged.reasons[:1]


def test_a_promised_gpu_that_was_used() -> None:
    used = GpuUse(devices=("A", "B"), peak_bytes=1 << 20)
    assert judge_tier(replace(UNIT, gpus=2), replace(GREEN, gpu=used)).verdict is Verdict.PASSED


def plan_of(*tiers: TierPlan, **more: object) -> Plan:
    return Plan(
        config_path="ml-tiers.yml",
        config_id="c0ffee",
        event=Event(name="push", sha="a" * 40, base_sha="b" * 40),
        changes=Changes(files=(), source="git"),
        tiers=tiers,
        **more,  # type: ignore[arg-type]
    )


def covering(executed: set[int], missing: set[int]) -> Coverage:
    return Coverage(files={"src/a.py": FileCoverage(executed=frozenset(executed), missing=frozenset(missing))})


@pytest.mark.parametrize(
    ("coverage", "verdict", "sentence"),
    [
        (covering(set(range(17)), set(range(17, 20))), Verdict.PASSED, ""),
        (covering(set(range(16)), set(range(16, 20))), Verdict.FAILED, "coverage is 80.0%, below the minimum of 85%"),
        (None, Verdict.FAILED, "coverage is unknown"),
        (covering(set(), set()), Verdict.FAILED, "coverage is unknown"),
    ],
)
def test_the_coverage_minimum(coverage: Coverage | None, verdict: Verdict, sentence: str) -> None:
    run = judge(plan_of(UNIT, coverage_minimum=85.0), {"unit": replace(GREEN, coverage=coverage)})
    assert run.verdict is verdict
    assert sentence in "".join(run.reasons)
    assert run.exit_code is (ExitCode.PASSED if verdict is Verdict.PASSED else ExitCode.FAILED)


def test_tiers_together_reach_what_neither_does_alone() -> None:
    other = replace(UNIT, name="integration")
    results = {
        "unit": replace(GREEN, coverage=covering({1, 2}, {3, 4})),
        "integration": replace(GREEN, name="integration", coverage=covering({3, 4}, {1, 2})),
    }
    run = judge(plan_of(UNIT, other, coverage_minimum=100.0), results)
    assert run.verdict is Verdict.PASSED
    assert run.coverage is not None
    assert run.coverage.percent == 100.0


def test_patch_coverage_counts_changed_statements_only() -> None:
    coverage = covering({1, 2, 3}, {4, 5})
    changed = {"src/a.py": frozenset({3, 4, 99}), "docs/x.py": frozenset({1})}
    run = judge(plan_of(UNIT, coverage_patch=80.0), {"unit": replace(GREEN, coverage=coverage)}, changed_lines=changed)
    assert run.patch is not None
    assert (run.patch.covered, run.patch.measured, dict(run.patch.uncovered)) == (1, 2, {"src/a.py": (4,)})
    assert run.verdict is Verdict.FAILED
    assert "coverage of the change is 50.0%" in run.reasons[0]


def test_an_unknown_change_does_not_pass_a_patch_threshold() -> None:
    plan = plan_of(UNIT, coverage_patch=80.0)
    run = judge(plan, {"unit": replace(GREEN, coverage=covering({1}, set()))}, changed_lines=None)
    assert run.verdict is Verdict.FAILED


def test_a_tier_threshold() -> None:
    tier = replace(UNIT, coverage_minimum=90.0)
    assert judge_tier(tier, replace(GREEN, coverage=covering({1}, {2}))).verdict is Verdict.FAILED
    assert judge_tier(tier, GREEN).verdict is Verdict.FAILED
    assert judge_tier(tier, replace(GREEN, coverage=covering({1}, set()))).verdict is Verdict.PASSED


def test_a_tiers_own_patch_threshold_is_over_its_tests_alone() -> None:
    unit = replace(UNIT, coverage_patch=80.0)
    other = replace(UNIT, name="other")
    results = {
        "unit": replace(GREEN, coverage=covering({1}, {2})),
        "other": replace(GREEN, name="other", coverage=covering({2}, {1})),
    }
    plan = plan_of(unit, other, coverage_patch=80.0)
    run = judge(plan, results, changed_lines={"src/a.py": frozenset({1, 2})})
    assert run.reasons == ()  # together they cover all of it
    assert [tier.verdict for tier in run.tiers] == [Verdict.FAILED, Verdict.PASSED]
    assert run.tiers[0].reasons == ("coverage of the change by this tier is 50.0%, below 80%",)
    assert run.tiers[0].patch is not None
    superseded = judge(plan, results, changed_lines={"src/a.py": frozenset({1, 2})}, newer_head="f" * 40)
    assert as_it_was(superseded.tiers[0]).verdict is Verdict.FAILED  # what is remembered of it, and its status


@pytest.mark.parametrize(
    ("coverage", "changed", "base", "verdict"),
    [
        (covering({1}, set()), None, "b" * 40, Verdict.FAILED),  # unknown is no pass
        (covering({1}, set()), None, None, Verdict.PASSED),  # a push without a base changes nothing measurable
        (covering({1}, set()), {"README.md": frozenset({1})}, "b" * 40, Verdict.PASSED),
        (None, {"src/a.py": frozenset({1})}, "b" * 40, Verdict.FAILED),
    ],
)
def test_what_a_tiers_patch_threshold_makes_of_the_unknown(
    coverage: Coverage | None, changed: dict[str, frozenset[int]] | None, base: str | None, verdict: Verdict
) -> None:
    plan = plan_of(replace(UNIT, coverage_patch=80.0))
    plan = replace(plan, event=replace(plan.event, base_sha=base))
    run = judge(plan, {"unit": replace(GREEN, coverage=coverage)}, changed_lines=changed)
    assert run.tiers[0].verdict is verdict, run.tiers[0].reasons


def test_a_tiers_own_known_gaps_count_in_neither_of_its_thresholds() -> None:
    tier = replace(UNIT, coverage_minimum=100.0, coverage_patch=100.0, known_gaps=("src/cuda.py",))
    cuda = FileCoverage(executed=frozenset(), missing=frozenset({5}))
    coverage = Coverage(files={**covering({1}, set()).files, "src/cuda.py": cuda})
    changed = {"src/cuda.py": frozenset({5}), "src/a.py": frozenset({1})}
    run = judge(plan_of(tier), {"unit": replace(GREEN, coverage=coverage)}, changed_lines=changed)
    assert run.tiers[0].verdict is Verdict.PASSED, run.tiers[0].reasons
    assert [(gap.name, gap.lines) for gap in run.tiers[0].known_gaps] == [("src/cuda.py", 1)]
    assert "known gap `src/cuda.py` of `unit`: 1 line not counted" in render_comment(run, links=Links())
    bare = replace(tier, known_gaps=())
    assert judge(plan_of(bare), {"unit": replace(GREEN, coverage=coverage)}).tiers[0].verdict is Verdict.FAILED


def test_percentages_are_rounded_down() -> None:
    assert floor_percent(84.96) == "84.9"
    assert floor_percent(100.0) == "100.0"


SKIPPED = TierPlan(name="gpu", run=False, reason="runs on nightly, not on push", budget=60.0)


def test_a_planned_skip_is_not_run_and_exits_0() -> None:
    run = judge(plan_of(SKIPPED), {})
    assert (run.verdict, run.exit_code) == (Verdict.NOT_RUN, ExitCode.PASSED)
    assert run.tiers[0].reasons == ("runs on nightly, not on push",)


def test_optional_tiers_are_shown_not_counted() -> None:
    optional = replace(UNIT, name="extra", required=False)
    failed = replace(GREEN, name="extra", exit_code=1, tests=(a_test(TestOutcome.FAILED),))
    run = judge(plan_of(UNIT, optional), {"unit": GREEN, "extra": failed})
    assert (run.verdict, run.exit_code) == (Verdict.PASSED, ExitCode.PASSED)
    assert run.tiers[1].verdict is Verdict.FAILED


def test_a_required_tier_blocked_by_an_optional_one_is_not_green() -> None:
    blocked = replace(UNIT, name="integration")
    result = TierResult(name="integration", ending=Ending.NOT_STARTED, reason="needs extra, which did not pass")
    run = judge(plan_of(UNIT, blocked), {"unit": GREEN, "integration": result})
    assert run.exit_code is ExitCode.FAILED


@pytest.mark.parametrize(
    ("fails", "code"), [(False, ExitCode.PASSED), (True, ExitCode.FAILED)], ids=["flaky: pass", "flaky: fail"]
)
def test_flaky_by_configuration(fails: bool, code: ExitCode) -> None:
    result = NOT_GREEN["passed when tried again"][0]
    run = judge(plan_of(replace(UNIT, flaky_fails=fails)), {"unit": result})
    assert (run.verdict, run.exit_code) == (Verdict.FLAKY, code)


def test_the_worst_required_verdict_is_the_runs() -> None:
    """The order of the design: cancelled > failed > over-budget > infrastructure > … > passed > … > not-run."""
    order = [v.value for v in sorted(Verdict, key=lambda verdict: verdict.severity)]
    assert order == [
        "cancelled",
        "failed",
        "over-budget",
        "infrastructure",
        "never-started",
        "flaky",
        "passed",
        "superseded",
        "not-run",
    ]
    other = replace(UNIT, name="other")
    missing = judge(plan_of(UNIT, other), {"unit": GREEN})
    assert (missing.verdict, missing.exit_code) == (Verdict.INFRASTRUCTURE, ExitCode.INFRASTRUCTURE)


def test_a_newer_head_supersedes() -> None:
    failed = replace(GREEN, exit_code=1, tests=(a_test(TestOutcome.FAILED),))
    run = judge(plan_of(UNIT, SKIPPED, coverage_minimum=99.0), {"unit": failed}, newer_head="f" * 40)
    assert (run.verdict, run.exit_code) == (Verdict.SUPERSEDED, ExitCode.PASSED)
    assert "was: failed" in run.tiers[0].reasons[0]
    assert run.tiers[1].verdict is Verdict.NOT_RUN


def test_known_gaps_are_left_out_of_both_thresholds_and_reported_when_they_are_none() -> None:
    body = FileCoverage(
        executed=frozenset({1, 2}),
        missing=frozenset({5, 6, 7}),
        functions={"Kernel.launch": frozenset({5, 6, 7}), "done": frozenset({2})},
    )
    cuda = FileCoverage(executed=frozenset(), missing=frozenset(range(1, 50)))
    coverage = Coverage(files={"src/a.py": body, "src/cuda.py": cuda})
    gaps = ("src/cuda.py", "src/a.py::Kernel::launch", "src/a.py::done", "src/a.py::gone")
    plan = plan_of(UNIT, coverage_minimum=100.0, coverage_patch=100.0, known_gaps=gaps)
    changed = {"src/a.py": frozenset({1, 6}), "src/cuda.py": frozenset({9})}
    run = judge(plan, {"unit": replace(GREEN, coverage=coverage)}, changed_lines=changed)
    assert run.verdict is Verdict.PASSED, run.reasons
    assert [(gap.name, gap.lines, gap.covered, gap.found) for gap in run.known_gaps] == [
        ("src/cuda.py", 49, 0, True),
        ("src/a.py::Kernel::launch", 3, 0, True),
        ("src/a.py::done", 1, 1, True),
        ("src/a.py::gone", 0, 0, False),
    ]
    assert judge(replace(plan, known_gaps=()), {"unit": replace(GREEN, coverage=coverage)}).verdict is Verdict.FAILED
