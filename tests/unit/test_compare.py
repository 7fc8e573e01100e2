"""The sequential test: what its interval is, what it promises, and how soon it is done."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from orchestrator.mind.compare import MOST_BLOCKS, block_value, critical, estimate, least_blocks, looks, undecided
from orchestrator.words.results import Change

Noise = Callable[[random.Random], float]


def narrow(rng: random.Random) -> float:
    return rng.gauss(0, 0.02)


def heavy(rng: random.Random) -> float:
    """One block in five is hit on one side by a neighbour."""
    return rng.gauss(0, 0.03) + (rng.choice((-1, 1)) * rng.expovariate(3) if rng.random() < 0.2 else 0.0)


def drifting() -> Noise:
    """Noise whose spread wanders slowly, as on a machine that others use."""
    level = [0.0]

    def draw(rng: random.Random) -> float:
        level[0] = 0.9 * level[0] + rng.gauss(0, 0.3)
        return rng.choice((-1, 1)) * rng.expovariate(1) * 0.04 * math.exp(level[0])

    return draw


@pytest.mark.parametrize(
    ("blocks", "error", "left_out"),
    [(10, 0.025, 1), (20, 0.025, 5), (15, 0.005, 2), (13, 2.0**-13, 0), (13, 2.0**-13.1, None), (1, 0.5, 0)],
)
def test_the_critical_values_are_those_of_the_tables(blocks: int, error: float, left_out: int | None) -> None:
    assert critical(blocks, error) == left_out


@pytest.mark.parametrize("benchmarks", [1, 12, 1000])
def test_the_looks_spend_no_more_than_the_error_of_the_suite(benchmarks: int) -> None:
    planned = list(looks(benchmarks))
    assert sum(error for _, error in planned) * 2 * benchmarks <= 0.01
    counts = [blocks for blocks, _ in planned]
    assert counts == sorted(set(counts))
    assert counts[-1] <= MOST_BLOCKS
    first, error = planned[0]
    assert first == least_blocks(benchmarks)
    assert critical(first, error) is not None
    assert critical(first - 1, error) is None


def test_a_suite_of_twelve_can_be_decided_after_thirteen_blocks() -> None:
    assert least_blocks(12) == 13


@pytest.mark.parametrize(
    ("ratio", "gate", "change"),
    [
        (1.0, 10, Change.SAME),
        (1.2, 10, Change.SLOWER),
        (1 / 1.2, 10, Change.FASTER),
        (1.04, 10, Change.SAME),
        (1.1, 10, Change.UNDECIDED),  # on the gate itself nobody can tell, and nobody is failed
        (1.3, 0, Change.SLOWER),
        (1.0, 0, Change.UNDECIDED),
    ],
)
def test_what_is_decided(ratio: float, gate: float, change: Change) -> None:
    rng = random.Random(3)
    values = [math.log(ratio) + narrow(rng) for _ in range(60)]
    told = estimate(values, gate=gate, benchmarks=12)
    assert told.change is change
    assert told.ratio == pytest.approx(ratio, rel=0.02)
    assert told.low < told.ratio < told.high


def test_few_blocks_decide_nothing_however_large_the_difference() -> None:
    told = estimate([math.log(3.0)] * 12, gate=10, benchmarks=12)
    assert (told.change, told.low, told.high, told.blocks) == (Change.UNDECIDED, 0.0, math.inf, 12)
    assert estimate([math.log(3.0)] * 13, gate=10, benchmarks=12).change is Change.SLOWER


def test_no_blocks_are_no_estimate() -> None:
    with pytest.raises(ValueError, match="no median"):
        estimate([], gate=10, benchmarks=1)
    assert undecided({"a": []}, gate=10, benchmarks=1) == ("a",)


def test_what_is_decided_stays_decided() -> None:
    steady = [math.log(1.3)] * 13
    before = estimate(steady, gate=10, benchmarks=12)
    assert estimate([*steady, *[-1.0] * 40], gate=10, benchmarks=12) == before


@pytest.mark.parametrize("noise", [narrow, heavy, drifting()], ids=["narrow", "heavy", "drifting"])
def test_a_suite_of_equals_raises_no_false_alarm(noise: Noise) -> None:
    rng = random.Random(11)
    alarms = 0
    for _ in range(60):
        suite = [estimate([noise(rng) for _ in range(40)], gate=5, benchmarks=12) for _ in range(12)]
        alarms += any(told.change in (Change.SLOWER, Change.FASTER) for told in suite)
    assert alarms == 0


def test_the_interval_of_one_benchmark_holds_its_ratio_at_every_look() -> None:
    """One benchmark alone may err in one of a hundred runs; with a gate on the ratio itself every error would show."""
    rng = random.Random(5)
    missed = 0
    for _ in range(400):
        told = estimate([math.log(1.1) + heavy(rng) for _ in range(50)], gate=10, benchmarks=1)
        missed += not told.low <= 1.1 <= told.high
    assert missed <= 10  # four are allowed on average; eleven or more have a chance of 0.2 %


def test_a_slowdown_is_found_in_heavy_noise() -> None:
    rng = random.Random(7)
    found = [
        estimate([math.log(1.2) + heavy(rng) for _ in range(50)], gate=10, benchmarks=12).change for _ in range(50)
    ]
    assert found.count(Change.SLOWER) >= 45


def test_a_visit_that_was_hit_does_not_move_its_block() -> None:
    quiet = [(1.0, 1.2), (1.1, 1.32), (2.0, 2.4)]
    assert block_value([*quiet, (1.0, 9.0), (9.0, 1.2)]) == pytest.approx(math.log(1.2))
