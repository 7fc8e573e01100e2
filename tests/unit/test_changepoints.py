"""Change points over earlier results: what is found, what is not, and what may not be compared."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from orchestrator.mind.changepoints import AFTER, BEFORE, NEWS, compare_with_history, newest_change, rank_sum_chance
from orchestrator.mind.records import Record
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Benchmark, Change, Ending, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

MACHINE = {"cpu": "EPYC", "gpu": "H100", "torch": "2.13.0", "cuda": "13.0", "driver": "580"}
PLAN = TierPlan(name="speed", run=True, reason="", benchmark=True, against="history")


def result(*seconds: float, machine: dict[str, str] = MACHINE) -> TierResult:
    """One run; its benchmarks are t::0, t::1 …"""
    measured = tuple(
        Benchmark(name=f"t::{number}", minimum=one, median=one, mean=one, stddev=0.0, rounds=5)
        for number, one in enumerate(seconds)
    )
    return TierResult(name="speed", ending=Ending.EXITED, exit_code=0, benchmarks=measured, machine=machine)


def record(number: int, *seconds: float, machine: dict[str, str] = MACHINE, trusted: bool = True) -> Record:
    tier = TierVerdict(plan=PLAN, result=result(*seconds, machine=machine), verdict=Verdict.PASSED)
    sha = f"{number:040x}"
    return Record(
        sha=sha, time=float(number), config_id="c", event="schedule", tier=tier, machine=machine, trusted=trusted
    )


def noisy(count: int, level: float = 1.0, *, seed: int = 1, spread: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [level * math.exp(rng.gauss(0, spread)) for _ in range(count)]


def compare(series: list[float], *, gate: float | None = 10.0, benchmarks: int = 1) -> Change:
    """The verdict on the last of a series, the others remembered."""
    past = [record(number, *[one] * benchmarks) for number, one in enumerate(series[:-1])]
    told = compare_with_history(result(*[series[-1]] * benchmarks), past[::-1], gate=gate)
    assert told.problem is None, told.problem
    return told.changes[0].change


def test_the_chance_is_that_of_counting_all_orders() -> None:
    one, other = [1.0, 2.0, 3.5], [3.0, 4.0, 5.0, 6.0]
    pool = one + other
    observed = sum(x < y for x in one for y in other)
    as_far = 0
    for chosen in combinations(range(7), 3):
        left = [pool[index] for index in chosen]
        right = [pool[index] for index in range(7) if index not in chosen]
        wins = sum(x < y for x in left for y in right)
        as_far += wins >= observed or wins <= 12 - observed
    assert rank_sum_chance(one, other) == pytest.approx(as_far / math.comb(7, 3))


@pytest.mark.parametrize("after", [AFTER + 1, 6, NEWS])
def test_a_step_is_found_once_enough_runs_have_it(after: int) -> None:
    series = noisy(20) + noisy(after, 1.2, seed=2)
    point = newest_change([math.log(one) for one in series], error=0.01)
    assert point is not None
    assert point.index == 20
    assert math.exp(point.shift) == pytest.approx(1.2, rel=0.03)
    assert point.low <= math.log(1.2) <= point.high
    assert compare(series) is Change.SLOWER
    assert compare([1 / one for one in series]) is Change.FASTER
    assert compare(series, gate=30.0) is Change.SAME


def test_one_bad_run_is_no_change() -> None:
    assert compare([*noisy(25), 3.0]) is Change.SAME
    assert compare([*noisy(24), 3.0, 1.0]) is Change.SAME


def test_of_two_changes_the_newest_is_reported() -> None:
    series = noisy(12, 1.0) + noisy(8, 2.0, seed=2) + noisy(8, 1.6, seed=3)
    point = newest_change([math.log(one) for one in series], error=0.01)
    assert point is not None
    assert point.index == 20
    assert math.exp(point.shift) == pytest.approx(0.8, rel=0.03)


def test_what_changed_long_ago_is_how_things_are() -> None:
    assert compare(noisy(15) + noisy(NEWS, 1.3, seed=2)) is Change.SLOWER
    assert compare(noisy(15) + noisy(NEWS + 1, 1.3, seed=2)) is Change.SAME


def test_a_suite_without_changes_raises_no_alarm() -> None:
    alarms = 0
    for suite in range(100):
        found = [newest_change(noisy(30, seed=1000 * suite + n, spread=0.2), error=0.01 / 12) for n in range(12)]
        alarms += any(point is not None for point in found)
    assert alarms <= 3  # one is allowed on average


@pytest.mark.parametrize("key", sorted(MACHINE))
def test_another_machine_is_not_compared_and_what_changed_is_said(key: str) -> None:
    past = [record(number, 1.0) for number in range(20)]
    told = compare_with_history(result(2.0, machine=MACHINE | {key: "another"}), past[::-1], gate=10.0)
    assert told.changes == ()
    assert told.problem is not None
    assert f"{key} was {MACHINE[key]}, is another" in told.problem


def test_results_of_the_same_machine_are_found_among_others() -> None:
    past = []
    for number, seconds in enumerate(noisy(20)):
        past += [record(2 * number, seconds), record(2 * number + 1, 5.0, machine=MACHINE | {"cpu": "Xeon"})]
    told = compare_with_history(result(1.0), past[::-1], gate=10.0)
    assert [change.change for change in told.changes] == [Change.SAME]
    assert told.blocks == 20


def test_branches_are_no_baseline_and_few_results_are_said() -> None:
    past = [record(number, 1.0, trusted=False) for number in range(20)]
    told = compare_with_history(result(1.0), past, gate=10.0)
    assert told.problem == (
        f"0 earlier results of the default branch on a machine like this one, {BEFORE + AFTER - 1} are needed"
    )


def test_a_new_benchmark_has_no_series_yet() -> None:
    past = [record(number, 1.0) for number in range(20)]
    told = compare_with_history(result(1.0, 1.0), past, gate=10.0)
    assert [change.name for change in told.changes] == ["t::0"]
    assert told.alone == {"t::1": "has 0 earlier results, 7 are needed"}


def test_the_commit_of_the_change_is_named() -> None:
    series = noisy(20) + noisy(6, 1.3, seed=2)
    past = [record(number, one) for number, one in enumerate(series[:-1])]
    told = compare_with_history(result(series[-1]), past[::-1], gate=10.0)
    assert told.changes[0].since == f"{20:040x}"
    assert told.against == "history"
