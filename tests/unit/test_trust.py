"""Who may spend the team's machines: the whole table of events, permissions, forks, commits and moments."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.mind.config import Config, parse_config
from orchestrator.mind.event import GITHUB_EVENTS, parse_command
from orchestrator.mind.records import Record
from orchestrator.mind.trust import (
    Allowance,
    Consent,
    Ruled,
    Standing,
    apply_base,
    gpu_minutes_today,
    may_run_here,
    may_start,
)
from orchestrator.words.event import Command, Event, GithubRun, PullRequest
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Ending, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

HEAD, OLDER, NEWER = "a" * 40, "b" * 40, "c" * 40
ASKED = 1000.0  # when a comment was written
RUN = GithubRun(run_id=1, attempt=1, url="https://example.org")
PERMISSIONS = ("admin", "write", "read", "none", None)
WRITERS = {"admin", "write"}


def pull(*, fork: bool = False, closed: bool = False, head: str = HEAD) -> PullRequest:
    return PullRequest(
        number=7,
        head_sha=head,
        head_repository="stranger/widgets" if fork else "octo/widgets",
        base_ref="main",
        base_sha="d" * 40,
        fork=fork,
        closed=closed,
    )


# --- events of pull requests -----------------------------------------------------------------------------------------

ACTIONS = ("opened", "synchronize", "reopened", "labeled", "unlabeled", "edited", "closed")


@pytest.mark.parametrize("permission", PERMISSIONS)
@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("head_now", [HEAD, NEWER, None])
def test_a_pull_request_of_the_repository_by_a_writer_and_no_other(
    permission: str | None, fork: bool, head_now: str | None
) -> None:
    for action, label in product(ACTIONS, ("ready-for-gpu", "other", None)):
        event = Event(
            name="pull_request",
            action=action,
            label=label,
            sha=HEAD,
            actor="ann",
            run=RUN,
            pull_request=pull(fork=fork),
        )
        consent = may_start("gpu", event, Standing(permission=permission, head=head_now))
        assert consent.allowed == (permission in WRITERS and not fork and head_now != NEWER)
        assert consent.waiting is not consent.allowed  # whatever it is, somebody may still approve it
        assert consent.allowed or consent.reason


def test_what_a_pull_request_waits_for_is_said() -> None:
    event = Event(name="pull_request", sha=HEAD, actor="ann", run=RUN, pull_request=pull())
    assert may_start("gpu", event, Standing(permission="read", head=HEAD)).reason == (
        f"ann has no write permission here; who has, may comment `/mltiers gpu {HEAD}`"
    )
    assert "is unknown (GitHub is down)" in may_start("gpu", event, Standing(problem="GitHub is down")).reason
    fork = replace(event, pull_request=pull(fork=True))
    assert f"`/mltiers gpu {HEAD}`" in may_start("gpu", fork, Standing(permission="admin")).reason
    moved = may_start("gpu", event, Standing(permission="admin", head=NEWER))
    assert moved.reason == f"the head of the pull request is {NEWER[:10]} by now, and {HEAD[:10]} was asked for"


def test_a_pull_request_event_without_its_pull_request_is_a_laptops_only() -> None:
    event = Event(name="pull_request")
    assert may_start("gpu", event, Standing()).allowed
    assert not may_start("gpu", replace(event, run=RUN), Standing(permission="admin")).allowed


@pytest.mark.parametrize("name", ["push", "merge_group", "schedule", "workflow_dispatch", "release", "local"])
def test_what_only_writers_can_cause_needs_no_question(name: str) -> None:
    assert may_start("gpu", Event(name=name, run=RUN, pull_request=pull()), Standing()) == Consent(allowed=True)


@pytest.mark.parametrize(
    "name", ["workflow_run", "pull_request_review", "issues", "check_run", "repository_dispatch", ""]
)
def test_every_other_event_starts_nothing(name: str) -> None:
    assert name not in GITHUB_EVENTS
    for fork in (False, True):
        event = Event(name=name, run=RUN, sha=HEAD, actor="ann", pull_request=pull(fork=fork))
        assert not may_start("gpu", event, Standing(permission="admin", head=HEAD)).allowed


# --- comments --------------------------------------------------------------------------------------------------------

NAMED = {"no commit": None, "the head": HEAD, "an older commit": OLDER}
HEAD_TIMES = {"older": ASKED - 1, "same second": ASKED, "newer": ASKED + 1, "unknown": None}


def comment(*, sha: str | None = None, tier: str = "gpu", on: PullRequest | None = None) -> Event:
    return Event(
        name="issue_comment",
        action="created",
        sha=sha or HEAD,
        actor="ann",
        run=RUN,
        pull_request=on or pull(),
        command=Command(tier=tier, sha=sha, time=ASKED),
    )


@pytest.mark.parametrize("permission", PERMISSIONS)
@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("named", NAMED)
def test_a_comment_approves_one_tier_on_one_commit(permission: str | None, fork: bool, named: str) -> None:
    for head_time, head_now, closed, asked_for in product(
        HEAD_TIMES, (HEAD, NEWER, None), (False, True), ("gpu", "convergence")
    ):
        event = comment(sha=NAMED[named], tier=asked_for, on=pull(fork=fork, closed=closed))
        standing = Standing(permission=permission, head=head_now, head_time=HEAD_TIMES[head_time])
        consent = may_start("gpu", event, standing)
        of_this_commit = (
            head_now == HEAD if named == "the head"  # what was named is what is there
            else not fork and head_now is not None and head_time == "older" if named == "no commit"
            else False
        )  # fmt: skip
        expected = permission in WRITERS and asked_for == "gpu" and not closed and of_this_commit
        assert consent.allowed == expected, (event, standing, consent)
        assert consent.allowed or consent.reason
        assert not (consent.allowed and consent.waiting)


@given(
    permission=st.sampled_from(PERMISSIONS) | st.text(max_size=8),
    fork=st.booleans(),
    sha=st.none() | st.text("abc0", min_size=1, max_size=40),
    head=st.none() | st.text("abc0", min_size=1, max_size=40),
    head_time=st.none() | st.floats(allow_nan=True),
    time=st.floats(allow_nan=True),
)
def test_nobody_gets_in_by_strange_values(
    permission: str | None, fork: bool, sha: str | None, head: str | None, head_time: float | None, time: float
) -> None:
    event = replace(comment(on=pull(fork=fork)), command=Command(tier="gpu", sha=sha, time=time))
    if may_start("gpu", event, Standing(permission=permission, head=head, head_time=head_time)).allowed:
        assert permission in WRITERS
        assert head is not None
        assert sha == head or (sha is None and not fork and head_time is not None and head_time < time)


def test_a_comment_that_starts_nothing_says_why() -> None:
    writer = Standing(permission="write", head=HEAD, head_time=ASKED - 1)
    assert may_start("gpu", comment(), replace(writer, head_time=ASKED)).reason == (
        f"the head is not older than the comment: comment `/mltiers gpu {HEAD}` if that is the commit you mean"
    )
    assert "for a fork the comment names the commit" in may_start("gpu", comment(on=pull(fork=True)), writer).reason
    assert "ann has no write permission here" in may_start("gpu", comment(), replace(writer, permission="read")).reason
    gone = replace(comment(), actor=None)
    assert "a deleted account" in may_start("gpu", gone, replace(writer, permission="none")).reason
    assert may_start("gpu", comment(sha=OLDER), writer).reason == (
        f"the head of the pull request is {HEAD[:10]} by now, and {OLDER[:10]} was asked for"
    )
    unknown = may_start("gpu", replace(comment(), pull_request=None), replace(writer, problem="404"))
    assert unknown == Consent(allowed=False, waiting=True, reason="its pull request is unknown (404)")
    assert not may_start("gpu", replace(comment(), command=None), writer).allowed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mltiers gpu", ("gpu", None)),
        ("/mltiers  gpu\t" + HEAD + "  \r\nplease", ("gpu", HEAD)),
        ("/mltiers gpu " + "F" * 40, ("gpu", "f" * 40)),
        ("/mltiers gpu " + "0" * 64, ("gpu", "0" * 64)),
    ],
)
def test_a_command_is_a_comments_first_line(text: str, expected: tuple[str, str | None]) -> None:
    command = parse_command(text, time=ASKED)
    assert command == Command(tier=expected[0], sha=expected[1], time=ASKED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "please\n/mltiers gpu",
        "> /mltiers gpu",
        " /mltiers gpu",
        "`/mltiers gpu`",
        "/mltiersgpu",
        "/MLTIERS gpu",
    ],
)
def test_no_command_at_all(text: str) -> None:
    assert parse_command(text, time=ASKED) is None


@pytest.mark.parametrize(
    "text",
    [
        "/mltiers",
        "/mltiers gpu convergence",
        "/mltiers gpu " + HEAD[:12],
        "/mltiers gpu " + HEAD + "0",
        "/mltiers gpu " + HEAD + " now",
        "/mltiers gpu refs/heads/main",
        "/mltiers ../gpu",
        "/mltiers $(id)",
        "/mltiers gpu;id",
        "/mltiers ｇｐｕ",
        "/mltiers " + "x" * 65,
    ],
)
def test_a_command_that_is_none_says_so_and_starts_nothing(text: str) -> None:
    command = parse_command(text, time=ASKED)
    assert command is not None
    assert command.problem
    assert command.sha is None
    standing = Standing(permission="admin", head=HEAD, head_time=0.0)
    for tier in ("gpu", "", "convergence"):
        consent = may_start(tier, replace(comment(), command=command), standing)
        assert consent == Consent(allowed=False, reason=command.problem)


# --- the job's own machine -------------------------------------------------------------------------------------------


def test_strangers_code_runs_on_no_machine_of_the_teams() -> None:
    for name, fork, team_machine in product((*GITHUB_EVENTS, "local"), (False, True), (False, True)):
        event = Event(name=name, run=RUN, pull_request=pull(fork=fork))
        consent = may_run_here(event, Standing(team_machine=team_machine, permission="admin"))
        assert consent.allowed == (not (name == "pull_request" and fork and team_machine))


def test_a_comments_job_runs_no_code() -> None:
    assert not may_run_here(comment(), Standing(permission="admin", head=HEAD, head_time=0.0)).allowed


# --- how much --------------------------------------------------------------------------------------------------------


def record(*, seconds: float, gpus: int = 1, time: float, event: str = "schedule",
           verdict: Verdict = Verdict.PASSED) -> Record:  # fmt: skip
    plan = TierPlan(name="gpu", run=True, reason="", gpus=gpus)
    result = TierResult(name="gpu", ending=Ending.EXITED, seconds=seconds)
    return Record(
        sha=HEAD, time=time, config_id="x", event=event, tier=TierVerdict(plan=plan, result=result, verdict=verdict)
    )


NOON = 20_000 * 86_400 + 43_200.0


def test_gpu_minutes_are_devices_times_minutes_of_this_utc_day() -> None:
    records = [
        record(seconds=600, gpus=2, time=NOON - 60),
        record(seconds=60, time=NOON - 43_200),  # midnight is today
        record(seconds=6000, time=NOON - 43_201),  # yesterday
        record(seconds=6000, gpus=0, time=NOON),  # no GPU
        record(seconds=6000, time=NOON, event="local"),  # a laptop's own
        record(seconds=30, time=NOON, verdict=Verdict.OVER_BUDGET),  # used, whatever came of it
    ]
    assert gpu_minutes_today(records, now=NOON) == pytest.approx(21.5)


@pytest.mark.parametrize(
    ("cap", "used", "devices", "seconds", "refused"),
    [
        (None, None, 8, 1e9, False),
        (10, 0.0, 1, 600, False),  # exactly the cap is not over it
        (10, 0.0, 1, 601, True),
        (10, 9.0, 1, 60, False),
        (10, 9.0, 2, 60, True),
        (10, 10.0, 0, 6000, False),  # no GPU, no GPU minutes
        (0, 0.0, 1, 1, True),
        (10, None, 1, 1, True),  # unknown is not enough
    ],
)
def test_the_cap(cap: float | None, used: float | None, devices: int, seconds: float, refused: bool) -> None:
    why = Allowance(cap=cap, used=used).refuse(devices=devices, seconds=seconds, guessed=False)
    assert (why is not None) == refused
    if why is not None:
        assert "gpu-minutes-per-day" in why


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1e5)), max_size=20), st.floats(0, 1e4))
def test_what_is_planned_together_never_exceeds_the_cap(wanted: list[tuple[int, float]], cap: float) -> None:
    allowance, spent = Allowance(cap=cap), 0.0
    for devices, seconds in wanted:
        if allowance.refuse(devices=devices, seconds=seconds, guessed=True) is None:
            allowance = allowance.spend(devices=devices, seconds=seconds)
            spent += devices * seconds / 60
    assert spent <= cap


# --- whose configuration rules ---------------------------------------------------------------------------------------

BASE = """
version: 1
pre-merge-label: ready-for-gpu
tiers:
  unit: {when: [push, pull_request], budget: 2m}
  gpu: {when: [nightly, pre-merge], runner: [self-hosted, cuda], gpus: 1, budget: 30m, queue: 1h}
"""


def config(text: str) -> Config:
    return parse_config(text, filename="ml-tiers.yml")


@pytest.mark.parametrize(
    ("written", "instead", "named"),
    [
        ("[self-hosted, cuda]", "[somewhere-else]", "tiers.gpu.runner"),
        ("gpus: 1", "gpus: 8", "tiers.gpu.gpus"),
        ("[nightly, pre-merge]", "[push, pull_request]", "tiers.gpu.when"),
        ("budget: 30m", "budget: 24h", "tiers.gpu.budget"),
        ("queue: 1h", "queue: 24h", "tiers.gpu.queue"),
        ("pre-merge-label: ready-for-gpu", "pre-merge-label: bug", "pre-merge-label"),
        ("runner: [self-hosted, cuda], ", "", "tiers.gpu.runner"),
        ("budget: 2m", "budget: 2m, runner: [self-hosted, cuda]", "tiers.unit.runner"),
    ],
)
def test_trust_and_cost_are_the_base_branchs(written: str, instead: str, named: str) -> None:
    assert written in BASE
    ruled = apply_base(config(BASE.replace(written, instead)), config(BASE))
    assert ruled.config == config(BASE)
    assert [note.split()[4].rstrip(";") for note in ruled.notes] == [named]


@pytest.mark.parametrize(
    ("written", "instead"), [("budget: 2m", "budget: 9m"), ("gpus: 1", "gpus: 1, paths: [elsewhere], markers: gpu")]
)
def test_what_to_test_is_the_pull_requests_own(written: str, instead: str) -> None:
    own = config(BASE.replace(written, instead))
    assert apply_base(own, config(BASE)) == Ruled(config=own)


def test_a_new_tier_starts_no_runner_before_it_is_merged() -> None:
    own = config(BASE + "  more: {when: [pull_request], runner: [self-hosted, cuda]}\n")
    ruled = apply_base(own, config(BASE))
    assert ruled.config == own
    assert list(ruled.barred) == ["more"]
    everything = apply_base(own, None)
    assert list(everything.barred) == ["gpu", "more"]
    assert everything.notes
