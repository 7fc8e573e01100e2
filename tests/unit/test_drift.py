"""A tier that grows into its budget is told, by how much and through which tests; one that merely varies is not."""

from __future__ import annotations

import math
from random import Random

import pytest

from orchestrator.mind.drift import NAMED, Growth, Run, drift_of, drift_words, grown, runs_of, trend
from orchestrator.mind.records.sketches import Sketch, TestSketch, fold
from orchestrator.words.results import TestOutcome
from orchestrator.words.verdict import Verdict
from tests.support.past import DAY, MACHINE, NOW, past, result_of, run_record


def runs(seconds: list[float], random: Random) -> list[Run]:
    """With pushes as they come: several in an hour, none over a weekend."""
    time, found = NOW, []
    for took in seconds:
        time += random.choice((1800.0, 7200.0, 40_000.0, DAY, 3 * DAY))
        found.append(Run(time=time, seconds=took))
    return found


def flat(random: Random, count: int, kind: str) -> list[float]:
    noise, state, found = random.gauss, 0.0, []
    for _ in range(count):
        state = 0.5 * state + noise(0, 0.07)
        log = {
            "5 %": noise(0, 0.05),
            "20 %": noise(0, 0.2),
            "cold cache": noise(0, 0.04) + (1.0 if random.random() < 0.2 else 0.0),
            "outliers": noise(0, 0.05) + (abs(noise(0, 1)) if random.random() < 0.08 else 0.0),
            "resembling": state,
        }[kind]
        found.append(100 * math.exp(log))
    return found


@pytest.mark.parametrize("kind", ["5 %", "20 %", "cold cache", "outliers", "resembling"])
def test_a_tier_that_merely_varies_raises_no_alarm(kind: str) -> None:
    random = Random(7)
    alarms = [trend(runs(flat(random, count, kind), random)) for count in (8, 12, 20, 40, 60) for _ in range(60)]
    assert sum(alarm is not None for alarm in alarms) / len(alarms) <= 0.015


@pytest.mark.parametrize(("rate", "count"), [(0.04, 20), (0.02, 25), (0.01, 40)])
def test_a_tier_that_grows_is_found(rate: float, count: int) -> None:
    random = Random(11)
    found = 0
    for _ in range(30):
        took = [100 * (1 + rate * n) * math.exp(random.gauss(0, 0.05)) for n in range(count)]
        told = trend([Run(time=NOW + n * DAY, seconds=seconds) for n, seconds in enumerate(took)])
        if told is not None and told.per_day:
            found += 1
            assert told.per_day == pytest.approx(100 * rate, rel=0.6)
    assert found >= 24


def test_seven_runs_are_too_few() -> None:
    growing = [100.0 + 20 * n for n in range(8)]
    random = Random(0)
    assert trend(runs(growing[:7], random)) is None


def test_a_tier_that_gets_faster_is_no_news() -> None:
    assert trend([Run(time=NOW + n * DAY, seconds=200.0 - 5 * n) for n in range(20)]) is None


GROWING = [60.0 + 2 * n + (n % 3) for n in range(20)]  # 2 s a day: 98 s now


def test_growth_near_the_budget_is_told_with_the_day_it_ends() -> None:
    found = drift_of("unit", past(GROWING), None, budget=120)
    assert found is not None
    assert found.used == pytest.approx(0.82, abs=0.02)
    assert found.left == pytest.approx(11 * DAY, rel=0.15)
    assert drift_words(found) == "uses 82% of 2m; at this rate it is over in about 10 days"


def test_growth_far_from_the_budget_is_not_told() -> None:
    assert drift_of("unit", past(GROWING), None, budget=400) is None


def test_growth_that_will_be_over_in_weeks_is_told_though_half_is_left() -> None:
    found = drift_of("unit", past(GROWING), None, budget=160)
    assert found is not None
    assert drift_words(found) == "uses 61% of 2m40s; at this rate it is over in about 4 weeks"


def test_a_tier_that_is_over_has_no_time_left() -> None:
    found = drift_of("unit", past(GROWING), None, budget=90)
    assert found is not None
    assert found.left == 0
    assert drift_words(found) == "uses 110% of 90s"


def test_a_jump_has_no_rate() -> None:
    took = [60.0 + (n % 3) for n in range(12)] + [100.0 + (n % 3) for n in range(12)]
    found = drift_of("unit", past(took), None, budget=120)
    assert found is not None
    assert drift_words(found) == "uses 84% of 2m; it grew from 1m 01s to 1m 41s at once"


def test_runs_that_were_stopped_and_those_of_other_machines_count_for_nothing() -> None:
    other = past([10.0] * 5, machine={**MACHINE, "cpu": "a faster CPU"})
    stopped = past([120.0] * 3, problems=("no report",))
    assert [run.seconds for run in runs_of([*stopped, *other, *past(GROWING)])] == GROWING


def test_other_branches_count_only_where_the_default_branch_has_too_few_runs() -> None:
    ours, theirs = past([10.0] * 8), past([20.0] * 9, trusted=False)
    assert {run.seconds for run in runs_of([*theirs, *ours])} == {10.0}
    assert {run.seconds for run in runs_of([*theirs, *ours[:7]])} == {10.0, 20.0}


def test_records_that_have_gone_still_count_as_rows() -> None:
    records = past(GROWING)
    sketch = fold(Sketch(), reversed(records[8:]))
    assert drift_of("unit", records[:8], sketch, budget=120) == drift_of("unit", records, None, budget=120)
    failed = run_record(500, verdict=Verdict.OVER_BUDGET)
    assert runs_of([], fold(Sketch(), [failed])) == []


# --- which tests -----------------------------------------------------------------------------------------------------


def with_tests(seconds: dict[str, list[float]]) -> list[object]:
    """Records of runs in which each test took so long, oldest first; None: it was not there."""
    count = max(map(len, seconds.values()))
    return [
        run_record(
            sum(took[n] for took in seconds.values() if took[n]),
            time=NOW + n * DAY,
            tests=[result_of(name, took[n]) for name, took in seconds.items() if took[n]],
        )
        for n in reversed(range(count))
    ]


def test_the_tests_that_grew_are_named_the_most_first() -> None:
    found = grown(
        with_tests(
            {
                "t.py::test_grew": [1.0] * 6 + [2.0] * 3,
                "t.py::test_grew_more": [1.0] * 6 + [5.0] * 3,
                "t.py::test_new": [0.0] * 6 + [3.0] * 3,
                "t.py::test_same": [4.0] * 9,
                "t.py::test_shrank": [4.0] * 6 + [1.0] * 3,
                "t.py::test_one_step_of_the_scale": [1.0] * 6 + [1.21] * 3,
                "t.py::test_tiny": [0.001] * 6 + [0.01] * 3,
                "t.py::test_once": [1.0] * 8 + [9.0],
            }
        )  # type: ignore[arg-type]
    )
    assert found == (
        Growth(node_id="t.py::test_grew_more", before=1.0, now=5.0),
        Growth(node_id="t.py::test_new", before=None, now=3.0),
        Growth(node_id="t.py::test_grew", before=1.0, now=2.0),
    )


def test_no_more_than_five_are_named() -> None:
    found = grown(with_tests({f"t.py::test_{n}": [1.0] * 6 + [2.0] * 3 for n in range(9)}))  # type: ignore[arg-type]
    assert len(found) == NAMED


def test_what_a_test_took_before_is_read_off_the_sketch() -> None:
    sketch = Sketch(tests={"t.py::test_a": TestSketch(count=9, levels={37: 9})})
    records = past([5.0] * 6, tests=[result_of("t.py::test_a", 5.0)])
    (found,) = grown(records, sketch)
    assert found.before == pytest.approx(0.48, abs=0.05)


def test_a_test_that_failed_took_no_time_of_its_own() -> None:
    failed = past([5.0] * 3, tests=[result_of("t.py::test_a", 500.0, TestOutcome.FAILED)], exit_code=1)
    passed = past([5.0] * 6, tests=[result_of("t.py::test_a", 5.0)])
    assert grown([*failed, *passed]) == ()


def test_growth_is_worded_with_before_and_after() -> None:
    records = with_tests({"t.py::test_a": GROWING, "t.py::test_b": [20.0] * 20})
    found = drift_of("unit", records, None, budget=150)  # type: ignore[arg-type]
    assert found is not None
    assert drift_words(found).startswith("uses 79% of 2m30s; at this rate")
    assert drift_words(found).endswith("; this test grew: t.py::test_a (1m 06s → 1m 34s)")
