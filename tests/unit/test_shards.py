"""A tier over several machines: the split, the number of machines, and whether the parts are all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pytest_mltiers import shards as plugin

from orchestrator.mind.judge import judge_tier
from orchestrator.mind.shard_results import merge_shards
from orchestrator.mind.shards import MOST, Timings, choose, incomplete, parse_shard, slowest, split
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Coverage, Ending, FileCoverage, ShardPart, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import Verdict

TESTS = st.lists(st.text("abc/:é", min_size=1, max_size=6), unique=True, max_size=30)
SECONDS = st.dictionaries(st.text("abc/:é", min_size=1, max_size=6), st.floats(0, 1000, allow_nan=False), max_size=30)
NUMBER = st.integers(1, 9)


@given(tests=TESTS, seconds=SECONDS, number=NUMBER, seed=st.randoms(use_true_random=False))
def test_every_test_is_in_exactly_one_shard_whatever_order_they_came_in(tests, seconds, number, seed) -> None:
    parts = split(tests, seconds, number)
    assert len(parts) == number
    assert sorted(test for part in parts for test in part) == sorted(tests)
    shuffled = list(tests)
    seed.shuffle(shuffled)
    assert split(shuffled, seconds, number) == parts


@given(tests=TESTS, seconds=SECONDS, number=NUMBER)
def test_the_plugin_and_the_orchestrator_split_alike(tests, seconds, number) -> None:
    assert plugin.split(tests, seconds, number) == split(tests, seconds, number)


@given(tests=TESTS.filter(bool), seconds=SECONDS, number=NUMBER)
def test_no_shard_is_much_fuller_than_it_must_be(tests, seconds, number) -> None:
    """Graham's bound for LPT: at most 4/3 of the best, which is no less than the mean and than the longest test."""
    alone = slowest(tests, seconds, 1)
    longest = slowest(tests, seconds, len(tests))
    shortest_possible = max(alone / number, longest)
    # The best of all splits may itself be above both bounds, by at most one test.
    assert slowest(tests, seconds, number) <= shortest_possible + longest * (1 - 1 / number) + 1e-6 * alone


def test_a_new_test_counts_as_the_median_of_those_known() -> None:
    seconds = {"a": 1.0, "b": 10.0, "c": 100.0}
    assert slowest(["a", "b", "c", "new"], seconds, 1) == 121.0
    assert slowest(["x", "y"], {}, 2) == slowest(["x"], {}, 1)


@pytest.mark.parametrize(
    ("seconds", "budget", "workers", "overhead", "expected", "says"),
    [
        (None, 60, 1, 0.0, 1, "nothing is known"),
        ({}, 60, 1, 0.0, 1, "nothing is known"),
        ({"a": 48.0}, 60, 1, 0.0, 1, "48 s of 60 s"),  # exactly 80 %
        ({"a": 25.0, "b": 24.0}, 60, 1, 0.0, 2, "25 s of 60 s"),
        ({"a": 25.0, "b": 24.0}, 60, 2, 0.0, 1, "25 s of 60 s"),  # two processes on one machine
        ({"a": 20.0, "b": 20.0}, 60, 1, 10.0, 2, "30 s of 60 s"),  # every machine pays the overhead
        ({f"t{n}": 10.0 for n in range(40)}, 60, 1, 0.0, 10, "40 s of 60 s"),
        ({"a": 100.0, "b": 50.0, "c": 40.0}, 60, 1, 0.0, 2, "one test alone takes more than 80 %"),
        ({"a": 10.0, "b": 10.0}, 60, 1, 59.0, 2, "one test alone takes"),
        ({f"t{n}": 1.0 for n in range(1000)}, 2, 1, 0.0, MOST, "even 256 machines take"),
    ],
)  # fmt: skip
def test_the_number_of_machines(seconds, budget, workers, overhead, expected, says) -> None:
    number, why = choose(Timings(seconds=seconds, overhead=overhead), budget=budget, workers=workers)
    assert number == expected
    assert says in why


@given(seconds=SECONDS.filter(bool), budget=st.floats(0.1, 10_000), number=NUMBER)
def test_auto_never_takes_more_machines_than_tests_and_holds_the_aim_where_any_number_could(
    seconds, budget, number
) -> None:
    chosen, _ = choose(Timings(seconds=seconds), budget=budget)
    assert 1 <= chosen <= len(seconds)
    room = max(0.8 * budget, *seconds.values())
    assert slowest(seconds, seconds, chosen) <= room or chosen == len(seconds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1/1", (1, 1, None)), ("2/8", (2, 8, None)), (f"2/8@{'a1' * 20}", (2, 8, "a1" * 20)), ("0/8", None),
     ("9/8", None), ("2", None), ("2/", None), ("/8", None), ("-1/8", None), ("2/8/9", None), ("²/8", None),
     ("1/257", None), (" 1/2", None), ("1/2@", None), ("1/2@main", None), ("1/2\n", None)],
)  # fmt: skip
def test_a_shard_is_written_with_a_slash(text, expected) -> None:
    found = parse_shard(text)
    assert (found and (found.shard, found.shards, found.timings)) == expected
    assert found is None or str(found) == text


# --- whether the parts are all -------------------------------------------------------------------------------------


def part(shard: int, shards: int = 3, **changes) -> ShardPart:
    return replace(ShardPart(shard=shard, shards=shards, digest="d", collected=6, selected=2), **changes)


WHOLE = [part(1), part(2), part(3)]


@pytest.mark.parametrize(
    ("parts", "shards", "says"),
    [
        (WHOLE, 3, None),
        (WHOLE, 1, None),  # nobody knows how many were planned
        ([part(3), part(1), part(2)], 3, None),
        ([], 1, None),
        ([], 3, "none of its 3 parts says"),
        (WHOLE[:2], 3, "part 3 of 3 is missing"),
        ([part(2)], 1, "parts 1, 3 of 3 are missing"),
        ([*WHOLE, part(2)], 3, "part 2 of 3 came more than once"),
        ([part(1), part(2), part(3, shards=4)], 3, "do not belong together: 1/3, 2/3, 3/4"),
        (WHOLE, 8, "8 parts were planned, and these are of 3"),
        ([part(1), part(2, digest="e", collected=7), part(3)], 3, "split from different lists of tests or timings"),
        ([part(1), part(2), part(3, selected=1)], 3, "5 tests together, of 6"),
    ],
)
def test_parts_that_would_miss_or_repeat_tests_are_named(parts, shards, says) -> None:
    problems = incomplete(parts, shards=shards)
    assert problems == [] if says is None else says in " ".join(problems)


# --- merging -------------------------------------------------------------------------------------------------------

OUTCOMES = st.sampled_from(list(TestOutcome))
PLAN = TierPlan(name="gpu", run=True, reason="", budget=60.0, shards=1, coverage_minimum=50.0)


@st.composite
def runs(draw) -> TierResult:
    """A run of a tier on one machine."""
    names = draw(st.lists(st.sampled_from([f"t.py::{n}" for n in range(12)]), unique=True, min_size=1))
    tests = tuple(
        TestResult(node_id=name, outcome=draw(OUTCOMES), seconds=draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])))
        for name in names
    )
    lines = {name: draw(st.frozensets(st.integers(1, 9))) for name in names}
    executed = frozenset().union(*lines.values())
    coverage = Coverage(files={"a.py": FileCoverage(executed=executed, missing=frozenset(range(1, 10)) - executed)})
    code = 1 if any(test.outcome.bad for test in tests) else 0
    return TierResult(
        name="gpu", ending=Ending.EXITED, exit_code=code, seconds=1.0, has_report=True, tests=tests, coverage=coverage,
        stacks=repr(lines),
    )  # fmt: skip


def cut(run: TierResult, number: int) -> list[TierResult]:
    """The same run on so many machines."""
    lines = eval(run.stacks)  # what each test covers
    tests = {test.node_id: test for test in run.tests}
    results = []
    names = split(tests, {}, number)
    for shard, mine in enumerate(names, 1):
        executed = frozenset().union(*(lines[name] for name in mine))
        bad = any(tests[name].outcome.bad for name in mine)
        results.append(
            replace(
                run,
                tests=tuple(tests[name] for name in mine),
                exit_code=int(bad),
                coverage=Coverage(
                    files={"a.py": FileCoverage(executed=executed, missing=frozenset(range(1, 10)) - executed)}
                ),
                parts=(ShardPart(shard=shard, shards=number, digest="d", collected=len(tests), selected=len(mine)),),
            )
        )
    return results


@settings(max_examples=200)
@given(run=runs(), number=NUMBER, order=st.randoms(use_true_random=False))
def test_many_shards_mean_what_one_run_means(run, number, order) -> None:
    parts = cut(run, number)
    order.shuffle(parts)
    merged = merge_shards(parts, shards=number)
    assert merged.problems == ()
    assert judge_tier(replace(PLAN, shards=number), merged).verdict is judge_tier(PLAN, run).verdict
    assert {(t.node_id, t.outcome, t.seconds) for t in merged.tests} == {
        (t.node_id, t.outcome, t.seconds) for t in run.tests
    }
    assert merged.coverage == run.coverage
    assert sum(test.seconds for test in merged.tests) == sum(test.seconds for test in run.tests)


def test_an_empty_shard_is_no_failure_alone_and_no_part_of_the_whole() -> None:
    run = TierResult(
        name="gpu", ending=Ending.EXITED, exit_code=0, seconds=1.0, has_report=True, stacks="{'t.py::a': frozenset()}",
        tests=(TestResult(node_id="t.py::a", outcome=TestOutcome.PASSED),),
        coverage=Coverage(files={"a.py": FileCoverage(executed=frozenset({1}), missing=frozenset())}),
    )  # fmt: skip
    full, empty = cut(run, 2)
    assert judge_tier(PLAN, empty).verdict is Verdict.NOT_RUN
    assert judge_tier(PLAN, empty).exit_code == 0
    assert judge_tier(replace(PLAN, coverage_minimum=None), merge_shards([empty, full], shards=2)).verdict is (
        Verdict.PASSED
    )


def test_a_file_that_no_shard_can_collect_is_told_once() -> None:
    broken = TestResult(node_id="t.py", outcome=TestOutcome.ERROR)
    results = [
        TierResult(name="gpu", ending=Ending.EXITED, exit_code=2, has_report=True, tests=(broken,), parts=(one,))
        for one in WHOLE
    ]
    merged = merge_shards(results, shards=3)
    assert merged.tests == (broken,)
    assert merged.problems == ()


def test_a_shard_that_did_not_come_back_makes_the_tier_infrastructure() -> None:
    results = [
        TierResult(
            name="gpu", ending=Ending.EXITED, exit_code=0, has_report=True, seconds=1.0, parts=(one,),
            tests=tuple(TestResult(node_id=f"t.py::{one.shard}{n}", outcome=TestOutcome.PASSED) for n in "ab"),
        )
        for one in WHOLE[:2]
    ]  # fmt: skip
    verdict = judge_tier(replace(PLAN, coverage_minimum=None), merge_shards(results, shards=3))
    assert verdict.verdict is Verdict.INFRASTRUCTURE
    assert "part 3 of 3 is missing" in verdict.reasons
