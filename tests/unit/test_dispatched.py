"""A dispatched run as a value: what is remembered of it, how it is found, what GitHub's words for it mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.hands.statuses import status_of
from orchestrator.mind.dispatched import (
    Dispatch,
    Phase,
    decode,
    encode,
    find_run,
    look,
    outcome_of,
    part_nonces,
    plan_dispatches,
    status_context,
    workflow_inputs,
)
from orchestrator.mind.judge import judge_tier
from orchestrator.mind.render.words import counts
from orchestrator.words.errors import ExitCode
from orchestrator.words.event import Changes, Event, GithubRun, PullRequest, WorkflowJob, WorkflowRun
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Counts, Ending, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

NOW = 1_000_000.0
ONE = Dispatch(
    nonce="0123456789abcdef.1.gpu.1of1", tier="gpu", sha="a" * 40, dispatched=NOW, queue=3600.0, budget=1800.0,
    runner=("self-hosted", "cuda"), run_id=7, url="https://github.com/o/r/actions/runs/7", context="mltiers/gpu",
)  # fmt: skip
TIER = TierPlan(name="gpu", run=True, reason="label", where="dispatched", runner=("self-hosted",), budget=1800.0)


def run(status: str = "in_progress", conclusion: str | None = None) -> WorkflowRun:
    return WorkflowRun(
        id=7, title="gpu", status=status, conclusion=conclusion, url="u", event="workflow_dispatch", created=NOW
    )


def job(
    status: str,
    conclusion: str | None = None,
    *,
    started: float | None = NOW,
    runner: str | None = "m1",
    completed: float | None = None,
    labels: tuple[str, ...] = ("self-hosted", "linux", "CUDA"),
) -> WorkflowJob:
    return WorkflowJob(
        name="test", status=status, conclusion=conclusion, labels=labels, runner=runner, started=started,
        completed=completed,
    )  # fmt: skip


REPORT = job("queued", labels=("ubuntu-latest",), runner=None)


@pytest.mark.parametrize(
    ("found", "jobs", "after", "phase", "verdict", "overdue"),
    [
        (None, [], 0, Phase.LOST, None, False),
        (None, [], 3601, Phase.LOST, Verdict.NEVER_STARTED, False),
        (run("queued"), [], 3600, Phase.QUEUED, None, False),
        (run("queued"), [job("queued", runner=None)], 3600, Phase.QUEUED, None, False),
        (run("queued"), [job("queued", runner=None)], 3601, Phase.QUEUED, Verdict.NEVER_STARTED, True),
        # GitHub starts a job's clock while it waits: only a runner's name says that it was taken.
        (run("waiting"), [job("waiting", runner=None)], 3601, Phase.QUEUED, Verdict.NEVER_STARTED, True),
        (run(), [job("in_progress")], 2400, Phase.RUNNING, None, False),
        (run(), [job("in_progress")], 2401, Phase.RUNNING, Verdict.OVER_BUDGET, True),
        (run(), [job("in_progress", started=NOW + 3000)], 3000 + 2400, Phase.RUNNING, None, False),
        # The second job waits for a machine of GitHub's: that is no part of any limit.
        (run(), [job("completed", "success"), REPORT], 99_999, Phase.REPORTING, Verdict.INFRASTRUCTURE, False),
        (run(), [job("in_progress"), REPORT], 10, Phase.RUNNING, None, False),
        # Somebody renamed the labels in the workflow: all its jobs count.
        (run(), [job("in_progress", labels=("gpu-box",))], 2401, Phase.RUNNING, Verdict.OVER_BUDGET, True),
        # A shorter limit at dispatch than the workflow's own: whoever cancelled it, its times say why.
        (run("completed", "cancelled"), [job("completed", "cancelled", runner=None, completed=NOW + 3700)], 9999,
         Phase.OVER, Verdict.NEVER_STARTED, False),
        (run("completed", "cancelled"), [job("completed", "cancelled", completed=NOW + 2500)], 9999,
         Phase.OVER, Verdict.OVER_BUDGET, False),
        (run("completed", "cancelled"), [job("completed", "cancelled", completed=NOW + 60)], 9999,
         Phase.OVER, Verdict.CANCELLED, False),
        (run("completed", "cancelled"), [], 10, Phase.OVER, Verdict.CANCELLED, False),
        (run("completed", "timed_out"), [job("completed", "timed_out")], 10, Phase.OVER, Verdict.OVER_BUDGET, False),
        (run("completed", "a_new_word"), [], 10, Phase.OVER, Verdict.INFRASTRUCTURE, False),
        (run("completed", None), [], 10, Phase.OVER, Verdict.INFRASTRUCTURE, False),
    ],
)  # fmt: skip
def test_what_a_runs_state_means(found, jobs, after, phase, verdict, overdue) -> None:
    seen = look(ONE, found, jobs, now=NOW + after)
    assert (seen.phase, seen.verdict, seen.overdue) == (phase, verdict, overdue)


STATUSES = ("queued", "in_progress", "completed", "waiting", "requested", "pending", "something new")
CONCLUSIONS = (None, "success", "failure", "neutral", "cancelled", "skipped", "timed_out", "action_required", "stale",
               "startup_failure", "something new")  # fmt: skip
JOBS = st.builds(
    job, st.sampled_from(STATUSES), st.sampled_from(CONCLUSIONS), started=st.none() | st.floats(0, 2 * NOW),
    completed=st.none() | st.floats(0, 2 * NOW), runner=st.sampled_from([None, "m1"]),
    labels=st.sampled_from([(), ("self-hosted", "cuda"), ("ubuntu-latest",)]),
)  # fmt: skip


@given(st.sampled_from(STATUSES), st.sampled_from(CONCLUSIONS), st.lists(JOBS, max_size=3), st.floats(0, 1e6))
def test_whatever_github_says_a_run_without_results_is_never_green(status, conclusion, jobs, after) -> None:
    seen = look(ONE, run(status, conclusion), jobs, now=NOW + after)
    if seen.tests_over:
        assert seen.verdict is not None
        outcome = outcome_of(ONE, seen)
        result = TierResult(
            name="gpu", ending=outcome.ending, reason=outcome.reason, problems=outcome.problems, seconds=outcome.seconds
        )
        judged = judge_tier(TIER, result)
        assert judged.verdict is seen.verdict
        assert judged.exit_code is not ExitCode.PASSED


def test_what_is_remembered_comes_back() -> None:
    full = replace(ONE, pull_request=3, timings="abc", ended=NOW, verdict="passed", reason="x", shard=2, shards=3)
    for dispatch in (ONE, full):
        assert decode(encode(dispatch)) == dispatch
    later = json.loads(encode(ONE)) | {"a-field-of-a-later-release": 1}
    assert decode(json.dumps(later).encode()) == ONE


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", b'{"version": 2}', encode(ONE)[:-5], encode(ONE).replace(b"1800.0", b'"x"'),
     encode(ONE).replace(b'"run_id": 7', b'"run_id": "7"'), encode(ONE).replace(b'"gpu"', b"5"), b"\xff\xfe"],
)  # fmt: skip
def test_what_is_no_dispatch_is_none(data: bytes) -> None:
    assert decode(data) is None


def test_a_run_is_found_by_the_whole_word() -> None:
    titles = ["gpu x.1.gpu.11of11", "x.1.gpu.1of1x", "gpu  on abc x.1.gpu.1of11", "other"]
    runs = [replace(run(), id=number, title=title) for number, title in enumerate(titles)]
    found = find_run("x.1.gpu.1of11", runs)
    assert found is not None
    assert found.id == 2
    assert find_run("x.1.gpu.1of1", runs) is None


@pytest.mark.parametrize(
    ("nonce", "parts"),
    [("p.1.gpu.2of3", ("p.1.gpu.1of3", "p.1.gpu.2of3", "p.1.gpu.3of3")), ("p.1.a.b.1of1", ("p.1.a.b.1of1",)),
     ("", ()), ("x", ()), ("p.1.gpu.2of", ()), ("p.1.gpu.1of9999", ()), (".1of1", ())],
)  # fmt: skip
def test_the_parts_of_a_tier(nonce: str, parts: tuple[str, ...]) -> None:
    assert part_nonces(nonce) == parts


def plan(attempt: int = 1, run_id: int = 7, *, config: str = "ml-tiers.yml", pull: int | None = None, **event) -> Plan:
    request = None if pull is None else PullRequest(
        number=pull, head_sha="a" * 40, head_repository="o/r", base_ref="main", base_sha="b" * 40
    )  # fmt: skip
    return Plan(
        config_path=config, config_id=config, changes=Changes(files=None, source=""), tiers=(TIER,),
        event=Event(name="push", repository="o/r", sha="a" * 40, pull_request=request,
                    run=GithubRun(run_id=run_id, attempt=attempt, url="u"), **event),
    )  # fmt: skip


def test_nonces_are_those_of_the_plan_and_the_attempt() -> None:
    def nonces(*arguments, tier=TIER, **keywords) -> set[str]:
        return {one.nonce for one in plan_dispatches(plan(*arguments, **keywords), tier, now=NOW)}

    assert nonces() == nonces()
    others = [
        *(nonces(2), nonces(1, 8), nonces(config="b/ml-tiers.yml"), nonces(pull=3)),
        *(nonces(tier=replace(TIER, name="x")), nonces(tier=replace(TIER, shards=3))),
    ]
    everything = [nonce for found in (nonces(), *others) for nonce in found]
    assert len(set(everything)) == len(everything) == 9
    assert all(" " not in nonce and part_nonces(nonce) for nonce in everything)


def test_inputs_are_text() -> None:
    (one,) = plan_dispatches(plan(pull=3), replace(TIER, budget=90.0), now=NOW)
    inputs = workflow_inputs(one)
    assert all(isinstance(value, str) for value in inputs.values())
    assert inputs["pr"] in ("3", "")
    assert (inputs["minutes"], inputs["shard"]) == ("12", "")


def test_a_second_configuration_has_statuses_of_its_own() -> None:
    assert status_context("ml-tiers.yml", "gpu") == "mltiers/gpu"
    assert status_context("models/ml-tiers.yml", "gpu") == "mltiers/gpu (models/ml-tiers.yml)"


# --- what a status says --------------------------------------------------------------------------------------------

RESULT = TierResult(
    name="gpu", ending=Ending.EXITED, seconds=72.0, tests=(TestResult(node_id="t::a", outcome=TestOutcome.PASSED),)
)


def verdict(word: Verdict, reasons: tuple[str, ...] = (), *, exit_code: ExitCode = ExitCode.PASSED,
            result: TierResult | None = RESULT, **changes) -> TierVerdict:  # fmt: skip
    return TierVerdict(plan=replace(TIER, **changes), result=result, verdict=word, reasons=reasons, exit_code=exit_code)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (verdict(Verdict.PASSED), ("success", "passed: 1 passed in 1m 12s")),
        (verdict(Verdict.FLAKY, ("1 failed first",)), ("success", "flaky: 1 failed first: 1 passed in 1m 12s")),
        (verdict(Verdict.FLAKY, exit_code=ExitCode.FAILED), ("failure", "flaky: 1 passed in 1m 12s")),
        (verdict(Verdict.FAILED, ("2 of 3 tests failed",)), ("failure", "failed: 2 of 3 tests failed")),
        (verdict(Verdict.OVER_BUDGET, ("was stopped",)), ("failure", "over-budget: was stopped")),
        (verdict(Verdict.INFRASTRUCTURE, ("no report",)), ("error", "infrastructure: no report")),
        (verdict(Verdict.NEVER_STARTED, ("no runner",)), ("error", "never-started: no runner")),
        (verdict(Verdict.CANCELLED, ("somebody stopped it",)), ("error", "cancelled: somebody stopped it")),
        (verdict(Verdict.NOT_RUN, ("no file",), run=False), ("success", "not run: no file")),
        (verdict(Verdict.NOT_RUN, ("cap",), run=False, exit_code=ExitCode.FAILED), ("failure", "not run: cap")),
        (verdict(Verdict.NOT_RUN, run=False, waiting=True, reason="waits"), ("pending", "waits")),
        (verdict(Verdict.NOT_RUN, run=False, settled=True), None),
        (verdict(Verdict.NOT_RUN, run=False, reason="not among the tiers asked for"), None),
        (verdict(Verdict.NOT_RUN, result=replace(RESULT, ending=Ending.DISPATCHED)), None),
        (verdict(Verdict.PASSED, runner=()), None),
        (verdict(Verdict.PASSED, where="here"), None),
    ],
)  # fmt: skip
def test_what_a_status_says(tier: TierVerdict, expected: tuple[str, str] | None) -> None:
    assert status_of(tier) == expected


def test_the_words_for_counts_are_those_of_the_report() -> None:
    assert counts(Counts(passed=1)) == "1 passed"
