"""What earlier runs covered: carried on while a file is what it was, compared over the same tiers, else unknown."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.coverage_past import NO_PAST, CoveragePast, coverage_past, measured_files
from orchestrator.mind.judge import judge
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.links import Links
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Coverage, Ending, FileCoverage, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import RunVerdict, TierVerdict, Verdict

BLOB, OTHER_BLOB = "b" * 40, "c" * 40
NOW = 1_700_000_000.0
KERNEL = "src/kernel.py"
LINES = frozenset(range(1, 11))


def covered(*lines: int) -> Coverage:
    body = FileCoverage(
        executed=frozenset(lines),
        missing=LINES - set(lines),
        functions={"forward": frozenset({2, 3}), "backward": frozenset({5, 6})},
    )
    return Coverage(files={KERNEL: body})


def result(name: str, *lines: int) -> TierResult:
    test = TestResult(node_id=f"tests/test_{name}.py::test", outcome=TestOutcome.PASSED, seconds=0.5)
    return TierResult(
        name=name, ending=Ending.EXITED, exit_code=0, seconds=1.0, tests=(test,), has_report=True,
        coverage=covered(*lines),
    )  # fmt: skip


def record(name: str, *lines: int, sha: str = "d" * 40, hours: float = 9, trusted: bool = True) -> Record:
    plan = TierPlan(name=name, run=True, reason="nightly")
    return Record(
        sha=sha, time=NOW - 3600 * hours, config_id="0" * 12, event="schedule", trusted=trusted, sources={KERNEL: BLOB},
        tier=TierVerdict(plan=plan, result=result(name, *lines), verdict=Verdict.PASSED),
    )  # fmt: skip


def past(*records: Record, blob: str = BLOB, base_sha: str | None = None) -> CoveragePast:
    tiers = {name: tuple(one for one in records if one.name == name) for name in {one.name for one in records}}
    return coverage_past(History(tiers=tiers), base_sha=base_sha, current={KERNEL: blob}, now=NOW)


def run(past: CoveragePast, *lines: int, minimum: float | None = None, changed: frozenset[int] = frozenset(),
        gpu: bool = False) -> RunVerdict:  # fmt: skip
    plan = Plan(
        config_path="ml-tiers.yml", config_id="0" * 12, event=Event(name="push", sha="e" * 40),
        changes=Changes(files=(), source="git"), coverage_minimum=minimum,
        tiers=(
            TierPlan(name="unit", run=True, reason="runs on push"),
            TierPlan(name="gpu", run=gpu, reason="nightly only"),
        ),
    )  # fmt: skip
    results = {"unit": result("unit", *lines)} | ({"gpu": result("gpu", 9)} if gpu else {})
    return judge(plan, results, changed_lines={KERNEL: changed} if changed else None, past=past)


def test_what_the_gpu_covered_last_night_counts_while_its_file_is_the_same() -> None:
    judged = run(past(record("gpu", 1, 7, 8)), 1, 2, minimum=40)
    assert judged.verdict is Verdict.PASSED
    assert judged.coverage is not None
    assert judged.coverage.percent == 40
    (carried,) = judged.carried
    assert (carried.tier, carried.lines, carried.age) == ("gpu", 2, 9 * 3600)
    assert "2 lines covered by gpu at dddddddddd, 9 h ago" in render_comment(judged, links=Links())


def test_of_a_file_that_has_changed_nothing_is_carried_on() -> None:
    judged = run(past(record("gpu", 1, 7, 8), blob=OTHER_BLOB), 1, 2, minimum=40)
    assert judged.verdict is Verdict.FAILED
    assert judged.carried == ()


def test_a_tier_that_runs_now_speaks_for_itself() -> None:
    judged = run(past(record("gpu", 7, 8)), 1, 2, gpu=True)
    assert judged.carried == ()
    assert judged.coverage is not None
    assert judged.coverage.covered == 3


def test_only_the_default_branch_is_carried_on() -> None:
    assert run(past(record("gpu", 7, 8, trusted=False)), 1).carried == ()


@pytest.mark.parametrize(
    ("records", "points"),
    [
        pytest.param((record("unit", 1),), 10.0, id="one more line"),
        pytest.param((record("unit", 1), record("gpu", 7)), 10.0, id="the same carried on both sides"),
        pytest.param((record("unit", 1, 2, 3),), -10.0, id="a drop"),
        pytest.param((record("gpu", 1, 2, 3, 4, 5),), None, id="the tier was not measured before"),
        pytest.param((), None, id="nothing was"),
    ],
)
def test_the_change_is_over_the_same_tiers_or_unknown(records: tuple[Record, ...], points: float | None) -> None:
    change = run(past(*records), 1, 2).coverage_change
    assert (change.points if change is not None else None) == pytest.approx(points)


def test_a_tier_missing_now_is_unknown_and_no_drop() -> None:
    before = past(record("unit", 1), record("gpu", 5, 6, 7, 8))
    judged = run(before, 1, 2, gpu=True)
    plan = judged.plan
    half = judge(plan, {"unit": result("unit", 1, 2), "gpu": replace(result("gpu"), coverage=None)}, past=before)
    assert judged.coverage_change is not None
    assert half.coverage_change is None


def test_the_base_commit_is_the_base_where_it_was_measured() -> None:
    records = (record("unit", 1, 2, sha="f" * 40, hours=1), record("unit", 1, sha="a" * 40, hours=2))
    newest = run(past(*records), 1, 2).coverage_change
    at_base = run(past(*records, base_sha="a" * 40), 1, 2).coverage_change
    assert newest is not None
    assert at_base is not None
    assert (newest.sha[0], newest.points) == ("f", 0.0)
    assert (at_base.sha[0], at_base.points) == ("a", pytest.approx(10.0))


def test_a_changed_function_that_no_test_enters_is_named() -> None:
    judged = run(NO_PAST, 1, 2, changed=frozenset({3, 5}))
    assert judged.untested == {KERNEL: ("backward",)}
    assert "entered by no test:** `src/kernel.py::backward`" in render_comment(judged, links=Links())
    assert run(NO_PAST, 1, 2, changed=frozenset({3, 9})).untested == {}


def test_which_files_have_to_be_looked_at() -> None:
    history = History(tiers={"gpu": (record("gpu", 1, trusted=False), record("gpu", 1))})
    assert measured_files(history) == {KERNEL}
