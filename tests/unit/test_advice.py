"""Which tests leave a tier that is too slow, where they go, and the edit that says so."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from orchestrator.mind.advice import Move, destination, makespan, moves, split_node_id, units_of
from orchestrator.mind.config import parse_config
from orchestrator.mind.config.markers import names_in, selects
from orchestrator.mind.records import Record
from orchestrator.mind.records.contexts import contexts_of
from orchestrator.words.results import Ending, TestOutcome
from orchestrator.words.verdict import Verdict
from tests.support.past import past, result_of


def tier_of(seconds: dict[str, float], *, workers: int = 1, beside: float = 0.0) -> list[Record]:
    """Ten runs of a tier with these tests."""
    took = makespan(seconds.values(), workers) + beside
    tests = [result_of(node_id, value) for node_id, value in seconds.items()]
    return past([took] * 10, tests=tests, workers=workers)


def moved(move: Move | None) -> list[str]:
    assert move is not None
    return [unit.name for unit in move.units]


def test_a_tier_well_inside_its_budget_keeps_its_tests() -> None:
    assert moves("unit", tier_of({"t.py::test_a": 79.0}), budget=100) is None
    assert moves("unit", [], budget=100) is None


def test_the_fewest_tests_are_moved_that_bring_it_under_four_fifths() -> None:
    move = moves("unit", tier_of({f"t.py::test_{n}": float(n) for n in range(1, 15)}), budget=100)  # 105 s
    assert moved(move) == ["t.py::test_14", "t.py::test_13"]
    assert move is not None
    assert (move.seconds, move.after, move.moved) == (pytest.approx(105), pytest.approx(78), 27)


def test_on_workers_what_counts_is_the_fullest_one() -> None:
    # 60 s alone on one worker, 20 times 3 s on the other: to move short ones would gain nothing.
    move = moves(
        "unit", tier_of({"t.py::test_long": 60.0} | {f"t.py::test_{n}": 3.0 for n in range(20)}, workers=2), budget=70
    )
    assert moved(move) == ["t.py::test_long"]


def test_what_a_run_takes_beside_its_tests_stays() -> None:
    move = moves("unit", tier_of({"t.py::test_a": 10.0, "t.py::test_b": 9.0}, beside=75), budget=100)
    assert moved(move) == ["t.py::test_a", "t.py::test_b"]
    assert move is not None
    assert move.after == pytest.approx(75)


def test_where_the_start_alone_takes_too_long_nothing_is_moved() -> None:
    move = moves("unit", tier_of({"t.py::test_a": 10.0}, beside=95), budget=100)
    assert move is not None
    assert move.units == ()
    assert move.beside == pytest.approx(95)


def test_a_tier_that_never_comes_to_its_end_is_advised_by_what_its_tests_took() -> None:
    done = {f"t.py::test_{n}": 10.0 for n in range(8)}
    hung = result_of("t.py::test_hung", 25.0, TestOutcome.UNFINISHED)
    tests = [*(result_of(node_id, took) for node_id, took in done.items()), hung]
    stopped = past([100.0] * 3, tests=tests, ending=Ending.DEADLINE, exit_code=None, verdict=Verdict.OVER_BUDGET)
    move = moves("unit", stopped, budget=100)
    assert moved(move) == ["t.py::test_hung"]
    assert move is not None
    assert (move.seconds, move.after) == (pytest.approx(105), pytest.approx(80))
    slow_to_start = past([100.0] * 3, tests=tests[:4], ending=Ending.DEADLINE, exit_code=None)  # 60 s beside 40 s
    assert moved(moves("unit", slow_to_start, budget=100)) == ["t.py::test_0", "t.py::test_1"]


def test_what_a_stopped_run_did_not_reach_is_still_there() -> None:
    before = tier_of({"t.py::test_a": 40.0, "t.py::test_b": 40.0, "t.py::test_c": 5.0})
    reached = [result_of("t.py::test_a", 90.0)]
    stopped = past([100.0], tests=reached, ending=Ending.DEADLINE, exit_code=None, verdict=Verdict.OVER_BUDGET)
    units, _ = units_of([*stopped, *before])
    assert {unit.name for unit in units} == {"t.py::test_a", "t.py::test_b", "t.py::test_c"}


def test_parameters_of_a_function_move_together() -> None:
    params = {f"t.py::TestModel::test_fit[{n}::x]": 10.0 for n in range(9)}
    move = moves("unit", tier_of({**params, "t.py::test_one": 20.0}), budget=100)
    assert moved(move) == ["t.py::TestModel::test_fit"]


def test_of_equally_many_those_go_that_fail_least_and_cover_least_alone() -> None:
    seconds = {"t.py::test_unique": 30.0, "t.py::test_twin": 29.0, "t.py::test_other": 29.0, "t.py::test_fails": 29.0}
    contexts = contexts_of(
        [
            ("t.py::test_unique", "a.py", 0b1111110),
            ("t.py::test_twin", "b.py", 0b110),
            ("t.py::test_other", "b.py", 0b110),
            ("t.py::test_fails", "b.py", 0b010),
        ]
    )
    records = tier_of(seconds)
    failed = past([100], tests=[result_of("t.py::test_fails", 1, TestOutcome.FAILED)], exit_code=1)
    assert moved(moves("unit", [*records, *failed], budget=120, contexts=contexts)) == ["t.py::test_other"]
    assert moved(moves("unit", records, budget=120)) == ["t.py::test_unique"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_hardly_ever_more_are_moved_than_must_be(workers: int) -> None:
    random = Random(workers)
    extra = 0
    for _ in range(60):
        seconds = {f"t.py::test_{n}": random.choice((1.0, 2.0, 5.0, 20.0)) * random.random() for n in range(9)}
        whole = makespan(seconds.values(), workers)
        budget = whole * random.uniform(0.5, 1.2)
        move = moves("unit", tier_of(seconds, workers=workers), budget=budget)
        if move is None:
            assert whole <= 0.8 * budget + 1e-9
            continue
        assert move.after <= 0.8 * budget + 1e-9
        fewest = next(
            count
            for count in range(10)
            for left in combinations(seconds.values(), 9 - count)
            if makespan(left, workers) <= 0.8 * budget + 1e-9
        )
        extra += len(move.units) - fewest
        assert len(move.units) - fewest <= (0 if workers == 1 else 1)
    assert extra <= 2


def test_what_is_no_function_cannot_be_marked() -> None:
    assert split_node_id("a/t.py::T::test_x[a[0]::b]") == ("a/t.py", ("T", "test_x"))
    assert split_node_id("a/[x]/t.py::test_x") == ("a/[x]/t.py", ("test_x",))
    assert split_node_id("docs/index.rst::index.rst") is None
    assert split_node_id("a.py::a.f") is None
    units, fixed = units_of(tier_of({"t.py::test_a": 2.0, "docs/index.rst::index.rst": 3.0}))
    assert ([unit.name for unit in units], fixed) == (["t.py::test_a"], 3.0)


# --- where to --------------------------------------------------------------------------------------------------------


def place(config: str, *, path: str = "tests/test_a.py", tier: str = "unit") -> tuple[str, str, bool, str | None, str]:
    parsed = parse_config(f"version: 1\ntiers:\n{config}", filename="ml-tiers.yml")
    move = moves(tier, tier_of({f"{path}::test_a": 90.0}), budget=100)
    assert move is not None
    found = destination(parsed, move)
    return found.tier, found.marker, found.new, found.own_markers, found.markers


UNIT = "  unit: {paths: [tests], markers: not gpu and not slow, budget: 100s}\n"


def test_tests_go_to_the_slower_tier_that_takes_a_marker_which_their_own_leaves_out() -> None:
    nightly = "  nightly: {paths: [tests], markers: slow and not gpu, when: [nightly], budget: 30m}\n"
    assert place(UNIT + nightly) == ("nightly", "slow", False, None, "slow and not gpu")


def test_a_gpu_tier_is_no_place_for_tests_that_need_none() -> None:
    gpu = "  gpu: {paths: [tests], markers: gpu or slow, when: [nightly], runner: [cuda], gpus: 1, budget: 30m}\n"
    assert place(UNIT + gpu) == ("slow", "slow", True, None, "slow and not gpu")


def test_a_tier_of_other_folders_does_not_take_them() -> None:
    other = "  nightly: {paths: [tests/integration], markers: slow, when: [nightly], budget: 30m}\n"
    assert place(UNIT + other)[2]
    assert not place(UNIT + other, path="tests/integration/test_b.py")[2]


def test_a_tier_that_is_no_slower_does_not_take_them() -> None:
    assert place(UNIT + "  quick: {markers: slow, budget: 10s}\n")[2]


def test_a_tier_without_expression_gets_one() -> None:
    assert place("  unit: {budget: 100s}\n") == ("slow", "slow", True, "not slow", "slow")
    assert place("  unit: {budget: 100s, markers: cpu or fast}\n") == (
        "slow",
        "slow",
        True,
        "(cpu or fast) and not slow",
        "(cpu or fast) and slow",
    )


def test_a_tier_that_wants_a_marker_keeps_wanting_it() -> None:
    nightly = "  nightly: {markers: gpu and slow, when: [nightly], budget: 30m}\n"
    assert place("  unit: {markers: gpu and not slow}\n" + nightly) == ("nightly", "slow", False, None, "gpu and slow")


def test_names_of_new_tiers_and_markers_are_free() -> None:
    taken = "  slow: {markers: slow and big, budget: 1s, when: [nightly]}\n"
    assert place("  unit: {budget: 100s}\n" + taken) == ("unit-slow", "slow_unit", True, "not slow_unit", "slow_unit")


EXPRESSIONS = [
    ("", (), True),
    ("slow", (), False),
    ("not slow and not gpu", ("cpu",), True),
    ("not slow and not gpu", ("gpu",), False),
    ("(slow or gpu) and not (big or wide)", ("gpu",), True),
    ("(slow or gpu) and not (big or wide)", ("gpu", "wide"), False),
    ("not not slow", ("slow",), True),
    ("device(name='cuda') or slow", ("device",), False),
]


@pytest.mark.parametrize(("expression", "markers", "selected"), EXPRESSIONS)
def test_expressions_mean_what_they_mean_to_pytest(expression: str, markers: tuple[str, ...], selected: bool) -> None:
    assert selects(expression, markers) is selected
    plain = [(e, m) for e, m, _ in EXPRESSIONS if e and "=" not in e]
    if (expression, markers) in plain:
        from _pytest.mark.expression import Expression

        assert Expression.compile(expression).evaluate(lambda name, /, **_: name in markers) is selected


def test_the_names_in_an_expression() -> None:
    assert names_in("(slow or gpu) and not device(name='slow', big=True) or slow") == ("slow", "gpu", "device")
    assert names_in("") == ()
