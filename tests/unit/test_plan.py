"""The decision: which tiers run, where and how, and why the others do not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.config import parse_config
from orchestrator.mind.how import Machine
from orchestrator.mind.plan import NO_STANDING, Request, make_plan
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.mind.trust import Ruled, Standing, apply_base
from orchestrator.words.errors import UsageError
from orchestrator.words.event import ChangedFile, Changes, Event, PullRequest
from orchestrator.words.plan import Plan, PythonFacts, TierPlan
from orchestrator.words.results import Ending, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

CONFIG = """
version: 1
source: [src]
tiers:
  unit:
    paths: [tests/unit]
    markers: not gpu
    when: [push, pull_request]
    budget: 2m
  docs:
    paths: [tests/docs]
    when: [push]
    changes: ["docs/**"]
  integration:
    paths: [tests/integration]
    when: [push, pull_request]
    needs: [docs]
  gpu:
    paths: [tests]
    markers: gpu
    when: [nightly, pre-merge]
    runner: [self-hosted, cuda]
    gpus: 1
  speed:
    paths: [tests/benchmarks]
    when: [pull_request]
    workers: 4
    benchmark: {}
"""
FULL = PythonFacts(executable="/venv/bin/python", version="3.11.7", pytest="9", xdist="3", cov="7", benchmark="5")
BARE = PythonFacts(executable="/venv/bin/python", version="3.11.7", pytest="9")
EMPTY = History()
NOTHING = Changes(files=(), source="git")


def changed(*paths: str) -> Changes:
    return Changes(files=tuple(ChangedFile(path=path, status="modified") for path in paths), source="git")


def plan(
    event: Event,
    changes: Changes = NOTHING,
    *,
    config: str = CONFIG,
    python: PythonFacts = FULL,
    cpus: int = 4,
    variables: dict[str, str] | None = None,
    history: History = EMPTY,
    standing: Standing = NO_STANDING,
    **request: object,
) -> Plan:
    return make_plan(
        parse_config(config, filename="ml-tiers.yml"),
        event,
        changes,
        history,
        config_path="ml-tiers.yml",
        request=Request(**request),  # type: ignore[arg-type]
        machine=Machine(cpus=cpus, variables=variables or {}),
        pythons={"python": python},
        standing=standing,
    )


def decided(plan: Plan) -> dict[str, str]:
    return {tier.name: ("run: " if tier.run else "skip: ") + tier.reason for tier in plan.tiers}


PUSH = Event(name="push")
PULL = Event(
    name="pull_request",
    action="opened",
    pull_request=PullRequest(number=1, head_sha="a", head_repository="o/r", base_ref="main", base_sha="b"),
)
FORK = Event(
    name="pull_request",
    action="labeled",
    label="ready-for-gpu",
    pull_request=PullRequest(number=1, head_sha="a", head_repository="x/r", base_ref="main", base_sha="b", fork=True),
)


def test_every_tier_appears_with_its_reason() -> None:
    assert decided(plan(PUSH, changed("src/a.py"))) == {
        "unit": "run: runs on push",
        "docs": "skip: no changed file matches docs/**",
        "integration": "skip: needs docs, which does not run: no changed file matches docs/**",
        "gpu": "skip: runs on nightly, pre-merge, not on push",
        "speed": "skip: runs on pull_request, not on push",
    }


def test_a_touched_file_is_named() -> None:
    assert decided(plan(PUSH, changed("a.py", "docs/b.md")))["docs"] == "run: docs/b.md changed"


def test_a_renamed_file_counts_under_its_old_name_too() -> None:
    moved = Changes(files=(ChangedFile(path="new.md", old_path="docs/old.md", status="renamed"),), source="git")
    assert decided(plan(PUSH, moved))["docs"] == "run: docs/old.md changed"


def test_unknown_changes_run_everything_and_say_why() -> None:
    unknown = Changes(files=None, source="the clone is too shallow")
    assert (
        decided(plan(PUSH, unknown))["docs"] == "run: changed files are unknown (the clone is too shallow), so it runs"
    )


def test_force_runs_what_no_change_touches() -> None:
    assert plan(PUSH, force=True).tier("docs").run


def test_a_label_would_start_it() -> None:
    assert decided(plan(PULL))["gpu"] == "skip: waits for the label 'ready-for-gpu' (runs on nightly, pre-merge)"


def test_a_fork_never_starts_a_runner_not_even_by_name() -> None:
    assert decided(plan(FORK))["gpu"].startswith("skip: a fork's pull request never starts a self-hosted runner")
    assert not plan(FORK, tiers=("gpu",), dispatch=False).tier("gpu").run


def test_a_named_tier_runs_whatever_the_event() -> None:
    named = plan(PUSH, tiers=("speed", "docs"))
    assert [tier.name for tier in named.tiers if tier.run] == ["docs", "speed"]
    assert named.tier("unit").reason == "not among the tiers asked for"


def test_a_remote_tier_named_with_no_dispatch_runs_here() -> None:
    gpu = plan(PUSH, tiers=("gpu",), dispatch=False).tier("gpu")
    assert (gpu.run, gpu.where) == (True, "here")


def test_a_remote_tier_is_never_silently_run_here() -> None:
    gpu = plan(Event(name="schedule")).tier("gpu")
    assert (gpu.run, gpu.where) == (True, "dispatched")
    gpu = plan(Event(name="schedule"), dispatch=False).tier("gpu")
    assert (gpu.run, gpu.where) == (False, "dispatched")
    assert gpu.reason == "belongs on a runner with [self-hosted, cuda], and --no-dispatch was given"


def test_a_name_that_is_no_tier() -> None:
    with pytest.raises(UsageError, match="there is no tier 'units'"):
        plan(PUSH, tiers=("units",))


def test_needs_among_named_tiers_hold_and_others_are_said() -> None:
    assert plan(PUSH, tiers=("integration",)).tier("integration").run
    assert "needs docs" in plan(PUSH, tiers=("integration",)).tier("integration").notes[0]
    assert plan(PUSH, tiers=("integration", "docs")).tier("integration").needs == ("docs",)


def unit(**more: object) -> TierPlan:
    return plan(PUSH, **more).tier("unit")  # type: ignore[arg-type]


def test_the_command_line() -> None:
    assert unit().command == (
        "/venv/bin/python", "-m", "pytest", "tests/unit", "-m", "not gpu", "-n", "4",
        "-p", "pytest_mltiers", "-p", "xdist", "-p", "pytest_cov",
        "--junitxml=.mltiers/unit/junit.xml", "-o", "junit_family=xunit1",
        "--cov=src", "--cov-report=", "--cov-report=json:.mltiers/unit/coverage.json", "--cov-fail-under=0",
    )  # fmt: skip


def test_what_the_python_lacks_is_said_and_not_asked_of_it() -> None:
    tier = unit(python=BARE)
    assert tier.workers == 1
    assert not any(word.startswith(("-n", "--cov", "--no-cov")) for word in tier.command)
    assert tier.notes == (
        "runs serially: pytest-xdist is not installed",
        "coverage is unknown: pytest-cov is not installed",
    )


def test_one_core_means_no_xdist_even_against_the_projects_own_addopts() -> None:
    command = unit(cpus=1).command
    assert command[command.index("-n") + 1] == "0"


def test_benchmarks_run_alone_and_unmeasured() -> None:
    speed = plan(PULL).tier("speed")
    assert speed.workers == 1
    assert not speed.coverage
    assert "--benchmark-json=.mltiers/speed/benchmark.json" in speed.command
    assert "--no-cov" in speed.command


@pytest.mark.parametrize(
    ("cpus", "variables", "expected"),
    [
        (4, {}, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}),
        (4, {"OMP_NUM_THREADS": "2"}, {"MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}),
        (1, {}, {}),
    ],
)
def test_workers_share_the_cores(cpus: int, variables: dict[str, str], expected: dict[str, str]) -> None:
    assert unit(cpus=cpus, variables=variables).env == expected


def test_the_base_branch_says_where_a_pull_request_may_run() -> None:
    base = parse_config(CONFIG, filename="x")
    text = CONFIG.replace("[self-hosted, cuda]", "[bigger]").replace("version: 1", "version: 1\npre-merge-label: go")
    own = parse_config(text + "  extra:\n    runner: [bigger]\n", filename="x")
    ruled = apply_base(own, base)
    config, notes = ruled.config, ruled.notes
    assert config.tiers["gpu"].runner == ("self-hosted", "cuda")
    assert config.pre_merge_label == "ready-for-gpu"
    assert len(notes) == 3
    assert any("tiers.gpu.runner" in note for note in notes)
    assert any("tier extra: it is new" in note for note in notes)
    assert apply_base(base, base) == Ruled(config=base)


# --- what it costs ---------------------------------------------------------------------------------------------------

NIGHT = "  night: {when: [nightly], runner: [cuda], gpus: 2, budget: 20m}\n"
CAPPED = f"gpu-minutes-per-day: 60\n{CONFIG}{NIGHT}"
NOON = 20_000 * 86_400 + 43_200.0


def remembered(*minutes: float, tier: str = "gpu", gpus: int = 1, **more: object) -> History:
    """A tier's earlier runs of today."""
    records = tuple(
        Record(
            sha="a" * 40,
            time=NOON - 60,
            config_id="x",
            event="workflow_dispatch",
            tier=TierVerdict(
                plan=TierPlan(name=tier, run=True, reason="", gpus=gpus),
                result=TierResult(name=tier, ending=Ending.EXITED, seconds=60 * taken),
                verdict=Verdict.PASSED,
            ),
        )
        for taken in minutes
    )
    return History(version="abc", tiers={tier: records}, **more)  # type: ignore[arg-type]


def at_noon(event: Event, history: History, **request: object) -> Plan:
    return plan(event, history=history, config=CAPPED, standing=Standing(now=NOON), **request)


def test_what_a_remote_tier_will_take_is_what_it_took() -> None:
    assert at_noon(Event(name="schedule"), remembered(4, 6, 5)).tier("gpu").predicted_seconds == 300
    assert at_noon(Event(name="schedule"), History()).tier("gpu").predicted_seconds is None


def test_over_the_days_gpu_minutes_nothing_starts_and_that_is_said() -> None:
    night = at_noon(Event(name="schedule"), remembered(20, 20))
    assert (night.tier("gpu").run, night.tier("gpu").capped) == (True, False)  # 40 are used, 20 expected: just so
    late = night.tier("night")
    assert (late.run, late.capped, late.where) == (False, True, "dispatched")
    assert late.reason == (
        "over gpu-minutes-per-day: 60 of 60 GPU minutes are used today (UTC), and this may take 40, its budget"
    )


@pytest.mark.parametrize("name", ["schedule", "merge_group"])
def test_the_cap_is_over_nightly_and_pre_merge(name: str) -> None:
    assert at_noon(Event(name=name), remembered(50)).tier("gpu").capped


def test_what_somebody_starts_by_hand_is_their_own_decision() -> None:
    by_hand = at_noon(Event(name="workflow_dispatch"), remembered(100), tiers=("gpu",))
    assert (by_hand.tier("gpu").run, by_hand.tier("gpu").where) == (True, "dispatched")


def test_a_history_that_cannot_be_read_is_no_permission_to_spend() -> None:
    unread = History(notes=("what earlier runs took is unknown: no route",))
    gpu = at_noon(Event(name="schedule"), unread).tier("gpu")
    assert gpu.capped
    assert gpu.reason == "gpu-minutes-per-day is 60, and how many were used today is unknown"


def test_a_tier_that_is_not_started_anyway_is_not_over_the_cap() -> None:
    assert not at_noon(PUSH, remembered(100)).tier("gpu").capped


@pytest.mark.parametrize(
    ("version", "more", "core"),
    [("3.11.7", "", None), ("3.13.0", "", "sysmon"), ("3.13.0", "measure: true", "ctrace")],
)
def test_coverage_is_measured_by_monitoring_where_that_suffices(version: str, more: str, core: str | None) -> None:
    config = f"version: 1\ntiers:\n  unit: {{{more}}}\n"
    made = plan(Event(name="push"), config=config, python=replace(FULL, version=version)).tier("unit")
    assert made.env.get("COVERAGE_CORE") == core
