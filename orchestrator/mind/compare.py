"""Whether a benchmark got slower than its base: a sequential test over blocks. Pure.

The unit is the block: base and head each started once, their runs interleaved in random order. A block gives one number
per benchmark, the logarithm of head's time over base's. If head is exactly θ times as slow as base, which of the two a
disturbance hits is a fair coin, so each block's number is above or below log θ with equal chance, whatever the noise
looks like: heavy tails, drift, a neighbour who comes and goes. The interval inverts the sign test, which uses nothing
else; its ends are order statistics. (On the blocks it was chosen on, the signed-rank test decided fewer benchmarks: one
block in twenty is far off, and its rank then weighs as much as many good ones.)

The guarantee: with probability at least ``CONFIDENCE`` no interval of the whole suite, at any look, misses its true
ratio. The error is shared out over the benchmarks (Bonferroni), the two ends, and the looks (1/2, 1/6, 1/12 … of it),
so one may look as often as ``looks`` says and stop at any time. A verdict is read off the interval:

- ``slower``: all of it above the gate; ``faster``: all of it below the gate's reciprocal;
- ``same``: all of it between the two; ``undecided``: anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from statistics import median

from msgspec import Struct

from orchestrator.words.results import BenchmarkChange, Change

CONFIDENCE = 0.99
RESOLUTION = 5.0  # percent: the gate where none is asked for and changes are only shown
MOST_BLOCKS = 120
_GROWTH = 1.12  # from one look to the next


class Estimate(Struct, frozen=True, kw_only=True):
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
        left_out = critical(blocks, error)
        if left_out is None:
            continue
        ordered = sorted(values[:blocks])
        low, high = max(low, ordered[left_out]), min(high, ordered[-1 - left_out])
        change = _change(low, high, edge)
        if change is not Change.UNDECIDED:
            return _estimate(change, median(ordered), low, high, blocks)
    return _estimate(Change.UNDECIDED, median(values), low, high, len(values))


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


@lru_cache(maxsize=1024)
def critical(blocks: int, error: float) -> int | None:
    """How many values to leave out at each end for an interval whose end errs with at most that probability.

    None: there are too few blocks for any.
    """
    allowed = math.floor(error * 2.0**blocks)
    ways = accumulate(math.comb(blocks, below) for below in range(blocks + 1))
    first_too_many = next((below for below, total in enumerate(ways) if total > allowed), 0)
    return first_too_many - 1 if first_too_many else None


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
