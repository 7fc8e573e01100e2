"""What earlier runs say of single tests: durations that are never capped ones, failures, flakiness."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from orchestrator.mind.drift import grown
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import SAMPLES, Flakiness, estimates, failures, flakiness, last_outcomes
from orchestrator.mind.records.sketches import Sketch, fold
from orchestrator.words.results import Attempt, Ending, TestOutcome, TestResult
from orchestrator.words.verdict import Verdict
from tests.support.past import past, result_of, run_record

LIMIT = 10.0
NAMES = [f"t.py::test_{n}" for n in range(4)]


def ran(takes: float, *, limit: float | None, left: float, expected_failure: bool) -> tuple[TestResult, bool]:
    """What becomes of a test that takes so long, with a limit of its own and so much left of the tier's budget, and
    whether it came to its end.
    """
    if left < takes and (limit is None or left < limit):
        return result_of("", left, TestOutcome.UNFINISHED), False
    if limit is not None and takes > limit:
        return result_of("", limit, TestOutcome.XFAILED if expected_failure else TestOutcome.FAILED), False
    return result_of("", takes, TestOutcome.XFAILED if expected_failure else TestOutcome.PASSED), True


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], dict[str, list[float]]]:
    """Runs, newest first, and how long each test took where it came to its end. The truth differs from run to run."""
    records, truth = [], {}
    marked = {name: draw(st.booleans()) for name in NAMES}
    for _ in range(draw(st.integers(1, 12))):
        limit = draw(st.sampled_from([None, LIMIT]))
        left, tests = draw(st.sampled_from([1e6, 40.0, 15.0, 3.0])), []
        for name in draw(st.permutations(NAMES)):
            takes = draw(st.sampled_from([0.5, 4.0, 8.0, 11.0, 60.0]))
            test, ended = ran(takes, limit=limit, left=left, expected_failure=marked[name])
            left -= test.seconds
            tests.append(structs.replace(test, node_id=name))
            if ended:
                truth.setdefault(name, []).append(takes)
            if test.outcome is TestOutcome.UNFINISHED:
                break
        stopped = tests[-1].outcome is TestOutcome.UNFINISHED
        record = run_record(
            50.0,
            tests=tests,
            ending=Ending.DEADLINE if stopped else Ending.EXITED,
            verdict=Verdict.OVER_BUDGET if stopped else Verdict.PASSED,
        )
        records.append(
            replace(record, tier=replace(record.tier, plan=replace(record.tier.plan, per_test=limit)), time=record.time)
        )
    return records, truth


@given(histories())
def test_an_estimate_is_made_of_durations_that_nothing_cut_short(
    drawn: tuple[list[Record], dict[str, list[float]]],
) -> None:
    records, truth = drawn
    found = estimates(records)
    assert {name: (e.seconds, e.samples) for name, e in found.items()} == {
        name: (median(took[:SAMPLES]), min(len(took), SAMPLES)) for name, took in truth.items()
    }


@given(histories(), st.sets(st.sampled_from([*NAMES, "never seen"])))
def test_an_estimate_of_some_tests_is_that_of_all(
    drawn: tuple[list[Record], dict[str, list[float]]], some: set[str]
) -> None:
    records, _ = drawn
    everything = estimates(records)
    assert estimates(records, of=some) == {name: everything[name] for name in everything if name in some}


def test_the_last_outcome_of_a_test_is_that_of_the_newest_run_it_was_not_skipped_in() -> None:
    first, second, third = NAMES[:3]
    newest = past([1.0], tests=[result_of(first, 1.0), result_of(second, 0.0, TestOutcome.SKIPPED)])
    older = past([1.0], tests=[result_of(name, 1.0, TestOutcome.FAILED) for name in (first, second, third)])
    found = last_outcomes([*newest, *older], [first, second, "never seen"])
    assert found == {first: TestOutcome.PASSED, second: TestOutcome.FAILED}


@given(histories())
def test_nor_does_a_sketch_hold_one(drawn: tuple[list[Record], dict[str, list[float]]]) -> None:
    records, truth = drawn
    unlike = [replace(record, run=str(number)) for number, record in enumerate(records)]
    sketch = fold(Sketch(), reversed(unlike))
    held = {name: sum(test.levels.values()) for name, test in sketch.tests.items() if test.levels}
    assert held == {name: len(took) for name, took in truth.items()}


def test_a_capped_test_is_no_test_that_grew() -> None:
    (capped,) = past([10.0], tests=[result_of(NAMES[0], LIMIT, TestOutcome.XFAILED)])
    limited = replace(capped, tier=replace(capped.tier, plan=replace(capped.tier.plan, per_test=LIMIT)))
    before = past([1.0] * 6, tests=[result_of(NAMES[0], 1.0, TestOutcome.XFAILED)])
    assert grown([limited] * 3 + before) == ()
    assert grown([capped] * 3 + before) != ()


def test_failures_are_counted_by_runs_and_those_at_first_too() -> None:
    again = structs.replace(
        result_of(NAMES[1], 1.0), attempts=(Attempt(outcome=TestOutcome.FAILED, seconds=1.0, message="x"),)
    )
    failed = result_of(NAMES[0], 1.0, TestOutcome.FAILED)
    records = past([5.0] * 3, tests=[failed, again, result_of(NAMES[2], 1.0)])
    assert failures(records) == {NAMES[0]: 3, NAMES[1]: 3}


def on(sha: str, *tests: TestResult) -> Record:
    return replace(run_record(1.0, tests=tests), sha=sha)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([on("a" * 40, result_of("t", 1)), on("a" * 40, result_of("t", 1, TestOutcome.FAILED))], (1, 2)),
        ([on("a" * 40, result_of("t", 1)), on("b" * 40, result_of("t", 1, TestOutcome.FAILED))], None),
        ([on("none", result_of("t", 1)), on("none", result_of("t", 1, TestOutcome.FAILED))], None),
        ([on("a" * 40, result_of("t", 1, TestOutcome.FAILED))] * 2, None),
        ([on("a" * 40, result_of("t", 1)), on("a" * 40, result_of("t", 1, TestOutcome.UNFINISHED))], None),
        ([on("a" * 40, result_of("t", 1, TestOutcome.SKIPPED))], None),
    ],
)
def test_a_test_is_flaky_that_failed_and_passed_on_one_commit(
    records: list[Record], found: tuple[int, int] | None
) -> None:
    expected = (Flakiness(node_id="t", flakes=found[0], runs=found[1]),) if found is not None else ()
    assert flakiness(records, {}) == expected


def test_what_is_only_left_as_a_sketch_counts_too() -> None:
    assert flakiness([on("a" * 40, result_of("t", 1))], {"t": (2, 30), "gone": (5, 40), "fine": (0, 9)}) == (
        Flakiness(node_id="gone", flakes=5, runs=40),
        Flakiness(node_id="t", flakes=2, runs=31),
    )
