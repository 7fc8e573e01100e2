"""What fits into a budget is chosen by what it tells, and the workers get done with it in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mind.fit import TestFacts, rank, select
from orchestrator.mind.records.contexts import Contexts, bits_of, contexts_document, contexts_of, read_contexts
from orchestrator.mind.touched import DIRECT, NARROW, NEAR, Mention, touched_tests


def facts(node_id: str, seconds: float | None = 1.0, **more: object) -> TestFacts:
    return TestFacts(node_id=node_id, seconds=seconds, **more)  # type: ignore[arg-type]


def ranked(tests: list[TestFacts], **more: object) -> list[str]:
    return [tests[index].node_id for index in rank(tests, **more)]  # type: ignore[arg-type]


KINDS = [
    facts("rest"),
    facts("near", touched=NEAR),
    facts("flaky", flaky=True),
    facts("new", None),
    facts("touched", touched=DIRECT),
    facts("narrow", touched=NARROW),
    facts("failed", failed_last=True, touched=DIRECT),
    facts("waited", deferred_last=True),
]


def test_failed_then_touched_then_new_then_flaky_then_the_rest() -> None:
    assert ranked(KINDS) == ["failed", "narrow", "touched", "new", "flaky", "near", "rest", "waited"]


def test_a_nightly_begins_with_what_had_to_wait() -> None:
    assert ranked(KINDS, deferred_first=True)[:2] == ["waited", "failed"]


def test_each_next_test_adds_what_no_test_before_it_has_executed() -> None:
    pieces = [(0, bits_of(range(1, 11))), (0, bits_of(range(1, 9))), (1, bits_of([1, 2, 3]))]
    tests = [facts("all", covers=(0,)), facts("most", covers=(1,)), facts("other file", covers=(2,))]
    assert ranked(tests, pieces=pieces) == ["all", "other file", "most"]


def test_it_is_lines_per_second_that_count() -> None:
    pieces = [(0, bits_of(range(1, 11))), (1, bits_of(range(1, 6)))]
    assert ranked([facts("slow", 10.0, covers=(0,)), facts("quick", 0.1, covers=(1,))], pieces=pieces)[0] == "quick"


def test_of_tests_that_execute_the_same_the_cheapest_comes_first_and_the_others_last() -> None:
    pieces = [(0, bits_of(range(1, 11))), (1, bits_of([1]))]
    tests = [facts("a", 2.0, covers=(0,)), facts("b", 1.0, covers=(0,)), facts("c", 1.0, covers=(1,))]
    assert ranked(tests, pieces=pieces) == ["b", "c", "a"]


def test_what_fits_is_not_deferred() -> None:
    chosen = select([facts(f"t{n}") for n in range(10)], seconds=6.0, workers=2)
    assert len(chosen.chosen) == 10
    assert chosen.deferred == ()
    assert chosen.predicted == pytest.approx(5.0)


def test_what_does_not_fit_is_named_and_a_shorter_one_still_finds_room() -> None:
    tests = [facts("big", 5.0, failed_last=True), facts("huge", 50.0, failed_last=True), facts("small", 0.5)]
    chosen = select(tests, seconds=10.0, workers=1)
    assert chosen.chosen == ("big", "small")
    assert chosen.deferred == ("huge",)


@pytest.mark.parametrize(
    ("more", "count"),
    [({}, 95), ({"startup": 20.0}, 75), ({"slack": 1.25}, 76), ({"workers": 2}, 190), ({"seconds": 10.0}, 9)],
)
def test_the_budget_has_room_for_start_up_and_for_estimates_that_are_wrong(more: dict[str, float], count: int) -> None:
    tests = [facts(f"t{n}") for n in range(300)]
    assert len(select(tests, **{"seconds": 100.0, "workers": 1, **more}).chosen) == count  # type: ignore[arg-type]


def test_tests_that_vary_leave_room_for_it() -> None:
    tests = [facts(f"t{n}", highest=3.0) for n in range(100)]
    assert len(select(tests, seconds=60.0, workers=1).chosen) == 37  # 57 less √(100 · 2²)


def test_a_test_nobody_measured_counts_as_a_usual_one() -> None:
    tests = [*(facts(f"t{n}", 2.0) for n in range(3)), facts("new", None)]
    chosen = select(tests, seconds=1000.0, workers=1)
    assert (chosen.predicted, chosen.usual, chosen.unmeasured) == (8.0, 2.0, 1)


FACTS = st.lists(
    st.builds(
        lambda n, seconds, failed, touched, covers: (n, seconds, failed, touched, covers),
        st.integers(),
        st.floats(0, 20),
        st.booleans(),
        st.integers(0, 3),
        st.sets(st.integers(0, 4)),
    ),
    max_size=30,
).map(
    lambda drawn: [
        facts(f"t{n}", seconds, failed_last=failed, touched=touched, covers=tuple(sorted(covers)))
        for n, (_, seconds, failed, touched, covers) in enumerate(drawn)
    ]
)
PIECES = [(number % 2, bits_of(range(1, 2 + 3 * number))) for number in range(5)]


@given(FACTS, st.floats(1, 60), st.integers(1, 8))
def test_every_test_is_chosen_or_deferred_and_the_chosen_fit(
    tests: list[TestFacts], seconds: float, workers: int
) -> None:
    chosen = select(tests, seconds=seconds, workers=workers, pieces=PIECES)
    assert sorted((*chosen.chosen, *chosen.deferred)) == sorted(test.node_id for test in tests)
    if chosen.deferred:
        of = {test.node_id: test.seconds or 0.0 for test in tests}
        assert sum(of[node] for node in chosen.chosen) <= workers * seconds
        assert max((of[node] for node in chosen.chosen), default=0.0) <= seconds


# --- what a change touches -----------------------------------------------------------------------------------------

MAP = contexts_of(
    [
        ("tests/test_a.py::test_one", "src/a.py", bits_of([1, 2, 3])),
        ("tests/test_a.py::test_two", "src/a.py", bits_of([7, 8])),
        ("tests/test_b.py::test_three", "src/b.py", bits_of([1])),
        ("tests/test_b.py::test_three", "src/b.py", bits_of([5])),
    ]
)
NODES = [
    "tests/test_a.py::test_one",
    "tests/test_a.py::test_two",
    "tests/test_b.py::test_three",
    "tests/c/test_c.py::d",
]
ONE, TWO, THREE, FOUR = NODES


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"src/a.py": frozenset({2})}, {ONE: NARROW, TWO: NEAR}),
        ({"src/a.py": frozenset({2, 7})}, {ONE: NARROW, TWO: NARROW}),
        ({"src/a.py": frozenset({99})}, {ONE: NARROW, TWO: NARROW}),  # nobody executes it: at import, or never
        ({"src/a.py": None}, {ONE: NARROW, TWO: NARROW}),
        ({"src/b.py": frozenset({5})}, {THREE: NARROW}),
        ({"tests/test_b.py": frozenset({1})}, {THREE: NARROW}),
        ({"tests/c/conftest.py": None}, {FOUR: NARROW}),
        ({"conftest.py": None}, dict.fromkeys(NODES, NARROW)),
        ({"README.md": None}, {}),
    ],
)
def test_touched(changed: dict[str, frozenset[int] | None], expected: dict[str, int]) -> None:
    assert touched_tests(NODES, MAP, changed) == expected


def test_data_touches_who_names_it() -> None:
    mentions = {"golden.json": (Mention(path="src/a.py", line=8), Mention(path="tests/c/test_c.py", line=1))}
    assert touched_tests(NODES, MAP, {"golden.json": None}, mentions) == {ONE: NEAR, TWO: NARROW, FOUR: NARROW}


def test_what_touches_many_says_less_than_what_touches_few() -> None:
    many = contexts_of([(f"t.py::test_{n}", "hot.py", bits_of([1])) for n in range(300)])
    changed = {"hot.py": frozenset({1}), "small.py": None}
    levels = touched_tests([*many.tests, "small.py::test"], many, changed)
    assert levels["t.py::test_0"] == DIRECT
    assert levels["small.py::test"] == NARROW


def test_the_map_survives_its_file() -> None:
    assert read_contexts(contexts_document(MAP)) == MAP
    assert MAP.tests[THREE] == (MAP.pieces.index((1, bits_of([1, 5]))),)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"version": 2},
        {"version": 1, "files": [], "pieces": [[0, "f"]], "tests": {}},
        {"version": 1, "files": ["a"], "pieces": [[0, "zz"]], "tests": {}},
        {"version": 1, "files": ["a"], "pieces": [[0, "f"]], "tests": {"t": [1]}},
        {"version": 1, "files": ["a"], "pieces": [[0, "f"]], "tests": {"t": [-1]}},
        {"version": 1, "files": ["a"], "pieces": [[0, "-f"]], "tests": {}},
    ],
)
def test_what_is_no_map_is_said_to_be_none(document: object) -> None:
    with pytest.raises(ValueError, match=r"it |invalid literal|a piece|a test"):
        read_contexts(document)


def test_a_map_of_nothing() -> None:
    assert contexts_of([]) == Contexts()
