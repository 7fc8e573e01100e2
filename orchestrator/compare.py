"""Whether a benchmark got slower than its base: a sequential test over blocks. Pure.

The unit is the block: base and head each started once, their runs interleaved in random order. A block gives one number
per benchmark, the logarithm of head's time over base's. If head is exactly θ times as slow as base, swapping the two
sides of any block changes the sign of ``value - log θ`` and nothing else, so signs are fair coins whatever the noise
looks like: heavy tails, drift, a neighbour who comes and goes. Wilcoxon's signed-rank distribution follows from that
alone, and the interval that inverts it needs no assumption about the machine.

The guarantee: with probability at least ``CONFIDENCE`` no interval of the whole suite, at any look, misses its true
ratio. The error is shared out over the benchmarks (Bonferroni), the two ends, and the looks (1/2, 1/6, 1/12 … of it),
so one may look as often as ``looks`` says and stop at any time. A verdict is read off the interval:

- ``slower``: all of it above the gate; ``faster``: all of it below the gate's reciprocal;
- ``same``: all of it between the two; ``undecided``: anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from statistics import median

from orchestrator.model import BenchmarkChange, Change

CONFIDENCE = 0.99
RESOLUTION = 5.0  # percent: the gate where none is asked for and changes are only shown
MOST_BLOCKS = 120
_GROWTH = 1.12  # from one look to the next


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is known of one benchmark. Ratios are head's time over base's; the interval is infinite before it is one."""

    change: Change
    ratio: float
    low: float
    high: float
    blocks: int


def block_value(visits: Sequence[tuple[float, float]]) -> float:
    """The number a block gives for one benchmark. ``visits``: base's and head's seconds, one pair a visit.

    Of each side its quickest visit: what disturbs a run only ever adds to it, and as the sides take turns both have the
    same chances of a quiet moment. (Chosen on recorded blocks that the study does not evaluate on.)
    """
    return math.log(min(head for _, head in visits) / min(base for base, _ in visits))


def looks(benchmarks: int) -> Iterator[tuple[int, float]]:
    """At how many blocks to look, and the error that one end of one interval may have there.

    ``benchmarks``: of the suite. The first look is the first at which an interval has ends at all.
    """
    share = (1 - CONFIDENCE) / 2 / benchmarks
    blocks = math.ceil(-math.log2(share / 2))
    for number in range(1, MOST_BLOCKS):
        yield blocks, share / (number * (number + 1))
        blocks = max(blocks + 1, math.ceil(blocks * _GROWTH))
        if blocks > MOST_BLOCKS:
            return


def least_blocks(benchmarks: int) -> int:
    """How many blocks it takes before anything can be decided."""
    return next(looks(benchmarks))[0]


def estimate(values: Sequence[float], *, gate: float, benchmarks: int) -> Estimate:
    """What the blocks so far say of one benchmark.

    ``values``: one per block, oldest first. ``gate``: percent. ``benchmarks``: how many are compared in all. Once
    decided at a look, later blocks change nothing. Raises ValueError for no blocks.
    """
    edge = math.log1p(gate / 100)
    low, high = -math.inf, math.inf
    for blocks, error in looks(benchmarks):
        if blocks > len(values):
            break
        averages = walsh_averages(values[:blocks])
        left_out = critical(blocks, error)
        if left_out is None:
            continue
        low, high = max(low, averages[left_out]), min(high, averages[-1 - left_out])
        change = _change(low, high, edge)
        if change is not Change.UNDECIDED:
            return _estimate(change, median(averages), low, high, blocks)
    return _estimate(Change.UNDECIDED, median(walsh_averages(values)), low, high, len(values))


def _change(low: float, high: float, edge: float) -> Change:
    if low > edge:
        return Change.SLOWER
    if high < -edge:
        return Change.FASTER
    return Change.SAME if -edge <= low and high <= edge else Change.UNDECIDED


def _estimate(change: Change, centre: float, low: float, high: float, blocks: int) -> Estimate:
    return Estimate(
        change=change,
        ratio=math.exp(centre),
        low=math.exp(low) if low > -math.inf else 0.0,
        high=math.exp(high) if high < math.inf else math.inf,
        blocks=blocks,
    )


def undecided(values: Mapping[str, Sequence[float]], *, gate: float, benchmarks: int) -> tuple[str, ...]:
    """The benchmarks on which more blocks would still be well spent."""
    return tuple(
        name
        for name, measured in values.items()
        if not measured or estimate(measured, gate=gate, benchmarks=benchmarks).change is Change.UNDECIDED
    )


def walsh_averages(values: Sequence[float]) -> list[float]:
    """The means of all pairs of values, each with itself too, sorted: their median is the Hodges–Lehmann estimate."""
    return sorted((one + other) / 2 for index, one in enumerate(values) for other in values[: index + 1])


@lru_cache(maxsize=256)
def critical(blocks: int, error: float) -> int | None:
    """How many Walsh averages to leave out at each end for an interval whose end errs with at most that probability.

    None: there are too few blocks for any.
    """
    allowed = math.floor(error * 2.0**blocks)
    below = next((c for c, ways in enumerate(_cumulative(blocks)) if ways > allowed), 0)
    return below - 1 if below else None


@lru_cache(maxsize=128)
def _cumulative(blocks: int) -> tuple[int, ...]:
    """In how many of the 2**blocks sign patterns the positive ranks sum to at most 0, 1, 2 …"""
    ways = [1]
    for rank in range(1, blocks + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    return tuple(accumulate(ways))


# --- in words ------------------------------------------------------------------------------------------------------


def moved(change: BenchmarkChange) -> str:
    """How head's time compares with base's: ``+21.0%``."""
    return percent(change.ratio) if change.blocks else "?"


def interval(change: BenchmarkChange) -> str:
    """``+18% to +24%``; an end of which nothing is known is left open."""
    if not change.low and change.high is None:
        return "not known yet"
    low = percent(change.low) if change.low else "?"
    return f"{low} to {percent(change.high) if change.high is not None else '?'}"


def percent(ratio: float) -> str:
    """A ratio as a change: 1.215 → ``+21.5%``; from a doubling on ``× 2.4``."""
    if ratio >= 2:
        return f"× {ratio:.3g}"
    return f"{100 * (ratio - 1):+.1f}%"
