"""The rules that are compared, each fed the same recorded blocks: which benchmarks got slower?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

from orchestrator.mind.compare import block_value, estimate
from orchestrator.words.results import Change

Block = dict[str, Any]


@dataclass(frozen=True)
class Visits:
    """What one benchmark was measured to take in one block, on the two sides that stand for base and head."""

    base: list[dict[str, Any]]
    head: list[dict[str, Any]]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        return [(one["minimum"], other["minimum"]) for one, other in zip(self.base, self.head, strict=True)]

    @property
    def minimum_ratio(self) -> float:
        """Of the process runs' minima."""
        return min(one["minimum"] for one in self.head) / min(one["minimum"] for one in self.base)

    @property
    def mean_ratio(self) -> float:
        """Of the process runs' means over all their rounds."""
        return _mean(self.head) / _mean(self.base)


def _mean(visits: list[dict[str, Any]]) -> float:
    return sum(one["mean"] * one["count"] for one in visits) / sum(one["count"] for one in visits)


def between(first: Block, second: Block, test: str, base: str, head: str) -> Visits:
    """The visits of one benchmark on a side of one block and on a side of another, or of the same."""
    sides = []
    for block, side in ((first, base), (second, head)):
        sides.append([visit[side] for visit in block["visits"] if visit["test"] == test])
    return Visits(*sides)


@dataclass(frozen=True)
class Rule:
    """A way to tell slower benchmarks. ``slower`` gets one benchmark's visits, block by block."""

    name: str
    blocks: int  # that it takes
    slower: Callable[[Sequence[Visits]], bool]


def mean_over_two(blocks: Sequence[Visits]) -> bool:
    return blocks[0].mean_ratio > 2


def minimum_over_ten_percent(blocks: Sequence[Visits]) -> bool:
    return blocks[0].minimum_ratio > 1.10


def mann_whitney(blocks: Sequence[Visits]) -> bool:
    """One-sided at 2.5 %, on the rounds of one process run each, as if they were independent."""
    one = [time for visit in blocks[0].base for time in visit["rounds"]]
    other = [time for visit in blocks[0].head for time in visit["rounds"]]
    ranks = {}
    both = sorted(one + other)
    for index, value in enumerate(both):
        ranks.setdefault(value, []).append(index + 1)
    total = sum(sum(ranks[value]) / len(ranks[value]) for value in other)
    n, m = len(one), len(other)
    centre, spread = m * (n + m + 1) / 2, math.sqrt(n * m * (n + m + 1) / 12)
    return (total - centre) / spread > NormalDist().inv_cdf(0.975)


def six_of_seven(blocks: Sequence[Visits]) -> bool:
    ratios = [visits.minimum_ratio for visits in blocks[:7]]
    return median(ratios) > 1.05 and sum(ratio > 1 for ratio in ratios) >= 6


PEERS = (
    Rule("mean > 2 ×", 1, mean_over_two),
    Rule("`--benchmark-compare-fail=min:10%`", 1, minimum_over_ten_percent),
    Rule("Mann–Whitney on rounds", 1, mann_whitney),
    Rule("7 pairs: median > 1.05, 6 of 7 slower", 7, six_of_seven),
)


def values(blocks: Sequence[Block], test: str, base: str, head: str) -> list[float]:
    """What our rule makes of each block for one benchmark."""
    return [block_value(between(block, block, test, base, head).pairs) for block in blocks]


def ours(measured: Sequence[float], *, gate: float, benchmarks: int) -> tuple[Change, int]:
    """Our verdict, and how many blocks it took."""
    told = estimate(measured, gate=gate, benchmarks=benchmarks)
    return told.change, told.blocks
