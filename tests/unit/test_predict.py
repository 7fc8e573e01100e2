"""What a tier is expected to take: the interval holds as often as it says, whatever the durations do."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mind.predict import Conditions, interval, predict, whole
from orchestrator.mind.records import Record
from orchestrator.words.results import Ending, TestOutcome
from orchestrator.words.verdict import Verdict
from tests.support.past import MACHINE, past, result_of, run_record, shapes

HERE = Conditions(machine=MACHINE, workers=1, shards=1, coverage=True)


def test_after_ten_runs_four_of_five_durations_are_inside_whatever_their_shape() -> None:
    random = Random(20)
    inside: dict[str, list[bool]] = defaultdict(list)
    for _ in range(60):
        for name, seconds in shapes(random, runs=45).items():
            for now in range(10, 45):
                found = interval(seconds[:now])
                assert found is not None
                _, low, high = found
                assert low is not None
                assert high is not None
                inside[name].append(low <= seconds[now] <= high)
    held = {name: sum(hits) / len(hits) for name, hits in inside.items()}
    assert len(held) == 11
    assert {name: share for name, share in held.items() if not 0.7 <= share <= 0.9} == {}


def test_what_a_run_will_take_is_the_middle_of_the_newest_ones() -> None:
    found = predict(past([10, 10, 200, 11, 9, 10, 12]), HERE)
    assert found is not None
    assert found.seconds == pytest.approx(10, rel=0.15)
    assert found.runs == 7
    assert found.note is None


def test_after_a_jump_it_follows_within_three_runs() -> None:
    found = predict(past([10.0, 11, 9, 10, 11, 10, 9, 10, 30, 31, 29]), HERE)
    assert found is not None
    assert found.seconds > 25


def test_without_a_run_nothing_is_expected_and_with_few_no_interval() -> None:
    assert predict([], HERE) is None
    assert predict(past([10, 12]), HERE) == predict(past([10, 12]), Conditions())
    assert interval([10.0] * 5) == (pytest.approx(10), None, None)
    assert interval([10.0] * 6) == (pytest.approx(10), pytest.approx(10), pytest.approx(10))


@pytest.mark.parametrize(
    "changed",
    [
        {"ending": Ending.DEADLINE, "verdict": Verdict.OVER_BUDGET, "exit_code": None},
        {"ending": Ending.SIGNALED, "exit_code": -11},
        {"ending": Ending.CANCELLED},
        {"exit_code": 2},
        {"exit_code": 4},
        {"problems": ("no report",)},
        {"deferred": ("tests/test_a.py::test_later",)},
        {"seconds": 0.0},
    ],
)
def test_a_run_that_took_less_than_its_tests_take_says_nothing(changed: dict[str, object]) -> None:
    broken = run_record(**{"seconds": 5.0, **changed})  # type: ignore[arg-type]
    assert not whole(broken)
    assert predict([broken], HERE) is None


def test_one_that_ended_late_by_itself_says_what_it_took() -> None:
    assert whole(run_record(130, verdict=Verdict.OVER_BUDGET))


def test_runs_that_were_stopped_at_the_budget_are_named() -> None:
    stopped = [run_record(60, ending=Ending.DEADLINE, exit_code=None, verdict=Verdict.OVER_BUDGET)] * 2
    found = predict([*stopped, *past([50, 51, 52])], HERE)
    assert found is not None
    assert found.note == "2 of its last 5 runs were stopped before their end"


def test_runs_that_gave_up_at_the_first_failure_are_left_out() -> None:
    every = [result_of(f"tests/test_a.py::test_{n}", 1) for n in range(10)]
    failed = result_of("tests/test_a.py::test_0", 1, TestOutcome.FAILED)
    given_up = past([1, 1, 1], tests=[failed], verdict=Verdict.FAILED, exit_code=1)
    found = predict([*given_up, *past([10, 10, 10], tests=every)], HERE)
    assert found is not None
    assert found.seconds == pytest.approx(10)


OTHERS: list[tuple[dict[str, object], str]] = [
    ({"machine": {**MACHINE, "cpu": "an older CPU"}}, "from runs on other machines"),
    ({"workers": 4}, "from runs with 4 workers"),
    ({"shards": 8}, "from runs on 8 machines"),
    ({"coverage": False}, "from runs without coverage"),
]


@pytest.mark.parametrize(("other", "note"), OTHERS)
def test_like_is_expected_from_like_and_anything_else_is_said(other: dict[str, object], note: str) -> None:
    slow = past([100] * 20, **other)
    found = predict([*slow, *past([10, 11, 10])], HERE)
    assert found is not None
    assert found.seconds == pytest.approx(10, rel=0.1)
    assert found.note is None
    found = predict(slow, HERE)
    assert found is not None
    assert found.seconds == pytest.approx(100)
    assert found.note == note


def test_where_it_will_run_is_not_always_known() -> None:
    mixed: list[Record] = [*past([100] * 3, workers=4), *past([100] * 3, machine={})]
    found = predict(mixed, Conditions())
    assert found is not None
    assert (found.runs, found.note) == (6, None)


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=80))
def test_the_expected_value_lies_in_its_interval(seconds: list[float]) -> None:
    found = interval(seconds)
    assert found is not None
    expected, low, high = found
    assert expected > 0
    if len(seconds) >= 6:
        assert low is not None
        assert high is not None
        assert low <= expected * (1 + 1e-9)
        assert expected <= high * (1 + 1e-9)
