"""Which worker runs which test next: simulated to the end, with estimates that are right, wrong or missing."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mltiers.lanes import Lanes


def simulated(
    tests: list[str], estimates: dict[str, float], takes: dict[str, float], workers: int, first: tuple[str, ...] = ()
) -> tuple[list[str], float, int]:
    """The tests in the order they start, when the last ends, and how often a file began on another worker.

    As xdist's workers do: each holds the test it runs and the next one.
    """
    lanes = Lanes(tests, seconds=estimates, first=first, workers=workers)
    held: dict[int, list[int]] = {worker: [] for worker in range(workers)}
    over: set[int] = set()

    def fill(worker: int, now: float, many: int) -> None:
        while worker not in over and len(held[worker]) < many:
            index = lanes.take(worker, now)
            if index is None:
                over.add(worker)
            else:
                held[worker].append(index)

    for many in (1, 2):
        for worker in range(workers):
            fill(worker, 0.0, many)
    clock = [(0.0, worker, -1) for worker in range(workers)]
    started: list[str] = []
    places: set[tuple[str, int]] = set()
    end = 0.0
    while clock:
        now, worker, done = heapq.heappop(clock)
        if done >= 0:
            held[worker].remove(done)
            lanes.ended(worker, done, now, takes.get(tests[done], 0.0))
            end = max(end, now)
        fill(worker, now, 2)
        if held[worker]:
            index = held[worker][0]
            started.append(tests[index])
            places.add((tests[index].partition("::")[0], worker))
            heapq.heappush(clock, (now + takes.get(tests[index], 0.0), worker, index))
    assert len(lanes) == 0
    return started, end, len(places) - len({file for file, _ in places})


DRAWN = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=40)


@given(DRAWN, st.integers(1, 6), st.integers(0, 5))
def test_every_test_runs_exactly_once_whatever_the_estimates(
    drawn: list[tuple[int, float, float]], workers: int, failed: int
) -> None:
    tests = [f"test_{file}.py::test_{n}" for n, (file, _, _) in enumerate(drawn)]
    estimates = {test: of[1] for test, of in zip(tests, drawn, strict=True) if int(of[1]) % 3 and failed % 2}
    takes = {test: of[2] for test, of in zip(tests, drawn, strict=True)}
    started, end, _ = simulated(tests, estimates, takes, workers, tuple(tests[-failed:] if failed else ()))
    assert sorted(started) == sorted(tests)
    assert end <= sum(takes.values()) + 1e-6


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_with_right_estimates_the_end_is_near_what_is_possible(workers: int) -> None:
    generator = random.Random(workers)
    tests = [f"test_{n // 10}.py::test_{n}" for n in range(200)]
    takes = {test: generator.lognormvariate(-2, 1.5) for test in tests}
    _, end, _ = simulated(tests, takes, takes, workers)
    assert end < 1.1 * max(sum(takes.values()) / workers, *takes.values())


def test_the_longest_goes_first_though_it_stands_last() -> None:
    tests = [f"test_a.py::test_{n}" for n in range(20)]
    takes = {test: 0.1 + 0.01 * n for n, test in enumerate(tests)} | {tests[-1]: 5.0}
    started, end, _ = simulated(tests, takes, takes, 2)
    assert started[0] == tests[-1]
    assert end < 5.0 + max(takes[test] for test in tests[:-1]), "but for the next test that its worker needs to know"


def test_an_expensive_fixture_is_not_set_up_on_every_worker() -> None:
    tests = [f"test_{file}.py::test_{n}" for file in "abcd" for n in range(10)]
    takes = {test: 3.0 if test.endswith("_0") else 0.1 for test in tests}
    started, _, torn = simulated(tests, takes, takes, 4)
    assert torn == 0
    assert set(started[:4]) == {f"test_{file}.py::test_0" for file in "abcd"}


def test_where_nothing_is_known_the_files_come_in_their_order_and_stay_whole() -> None:
    tests = [f"test_{file}.py::test_{n}" for file in "abcdefgh" for n in range(9)]
    takes = {test: 3.0 if test.endswith("_0") else 0.1 for test in tests}
    started, end, torn = simulated(tests, {}, takes, 2)
    firsts = [test for test in started if test.endswith("_0")]
    assert firsts == sorted(firsts)
    assert torn <= 1, "the last may be shared"
    assert end < 1.05 * sum(takes.values()) / 2


@pytest.mark.parametrize("seconds", [0.001, 0.1, 20.0])
def test_where_nothing_is_known_the_length_of_a_test_is_learnt(seconds: float) -> None:
    """The rest of the only file that is left is halved again and again, by what its tests have taken so far."""
    tests = [f"test_it.py::test_{n}" for n in range(64)]
    generator = random.Random(1)
    takes = {test: generator.uniform(0.5, 1.5) * seconds for test in tests}
    started, end, _ = simulated(tests, {}, takes, 2)
    assert sorted(started) == sorted(tests)
    assert end < sum(takes.values()) / 2 + 3 * seconds


def test_what_failed_is_first_in_the_order_given() -> None:
    tests = [f"test_{n}.py::test" for n in range(8)]
    takes = {test: 1.0 + n for n, test in enumerate(tests)}
    started, _, _ = simulated(tests, takes, takes, 2, first=(tests[3], tests[0]))
    assert started[:2] == [tests[3], tests[0]]


def test_what_a_dead_worker_held_comes_next() -> None:
    lanes = Lanes([f"t.py::test_{n}" for n in range(6)], seconds={}, workers=2)
    held = [lanes.take("gw0", 0.0), lanes.take("gw0", 0.0)]
    lanes.drop("gw0")
    lanes.extend(index for index in held if index is not None)
    assert len(lanes) == 6
    assert [lanes.take("gw1", 0.0) for _ in range(7)] == [*held, *(n for n in range(6) if n not in held), None]
