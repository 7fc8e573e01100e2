"""What each rule makes of recorded blocks, put together anew thousands of times; every rate with its 95 % interval.

A simulated suite draws runs of consecutive blocks from the recording (mean length four, so that what lasts longer than
a block stays together), with replacement. What a rate is uncertain by has two sources, and the wider interval of the
two is given: how many suites were simulated (Clopper–Pearson), and which blocks happened to be recorded (the same
simulation on recordings drawn from the recording).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gating.rules import PEERS, Block, Rule, between, ours, values
from orchestrator.words.results import Change

RUN_LENGTH = 4
RECORDINGS = 100  # drawn from the recording
SUITES = 20  # simulated on each of them


@dataclass(frozen=True)
class Rate:
    """How often something happened, in percent, with its 95 % interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95 % interval of a share."""

    def at_most(p: float, k: int) -> float:
        if p <= 0 or p >= 1:
            return 1.0 if p <= 0 else float(k >= trials)
        logs = [
            math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1)
            + i * math.log(p) + (trials - i) * math.log1p(-p)
            for i in range(k + 1)
        ]  # fmt: skip
        return math.fsum(math.exp(log) for log in logs)

    def solve(fits: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    low = 0.0 if hits == 0 else solve(lambda p: 1 - at_most(p, hits - 1) < 0.025)
    high = 1.0 if hits == trials else solve(lambda p: at_most(p, hits) > 0.025)
    return low, high


def rate(shares: Sequence[Sequence[bool]]) -> Rate:
    """``shares``: for each drawn recording, what happened in each suite simulated on it."""
    flat = [hit for suites in shares for hit in suites]
    low, high = clopper_pearson(sum(flat), len(flat))
    means = sorted(sum(suites) / len(suites) for suites in shares)
    edge = int(0.025 * len(means))
    return Rate(sum(flat) / len(flat), min(low, means[edge]), max(high, means[-1 - edge]))


def runs(count: int, population: Sequence[int], rng: random.Random) -> list[int]:
    """``count`` members of a population, in runs of neighbours (round its end), each run as long as chance has it."""
    chosen: list[int] = []
    position = 0
    while len(chosen) < count:
        position = rng.randrange(len(population)) if rng.random() < 1 / RUN_LENGTH or not chosen else position + 1
        chosen.append(population[position % len(population)])
    return chosen


@dataclass(frozen=True)
class Found:
    """Of simulated suites: those with a false alarm, those whose slowdown was found, and what they took."""

    alarms: Rate
    slowed: Rate
    undecided: float  # share of benchmarks
    blocks: float  # mean over suites of the most that any benchmark needed


class Study:
    """A recording, and what the rules make of it."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.tests = sorted({visit["test"] for visit in blocks[0]["visits"]})
        self._values = {
            (test, base, head): values(blocks, test, base, head)
            for test in self.tests
            for base, head in (("base", "same"), ("base", "+10%"), ("base", "+20%"))
        }

    def ours(self, *, gate: float, head: str, limit: int, scale: float = 1.0, seed: int = 1) -> Found:
        """Suites in which one benchmark, another each time, is the ``head``'s and all others are equal.

        ``limit``: blocks that the time allows. ``scale``: by what the slowed benchmark's times are multiplied.
        """
        rng = random.Random(seed)
        alarms, slowed, open_ones, needed = [], [], 0, 0
        for _ in range(RECORDINGS):
            drawn = runs(len(self.blocks), range(len(self.blocks)), rng)
            alarms.append([])
            slowed.append([])
            for _ in range(SUITES):
                chosen = runs(limit, drawn, rng)
                victim = rng.choice(self.tests)
                signs = [rng.choice((-1, 1)) for _ in chosen]  # which of two equal processes is called the base
                told = {}
                for test in self.tests:
                    if test == victim and (head != "same" or scale != 1.0):
                        own = [self._values[test, "base", head][index] + math.log(scale) for index in chosen]
                    else:
                        null = self._values[test, "base", "same"]
                        own = [sign * null[index] for sign, index in zip(signs, chosen, strict=True)]
                    told[test] = ours(own, gate=gate, benchmarks=len(self.tests))
                others = [change for test, (change, _) in told.items() if test != victim or head == "same"]
                alarms[-1].append(Change.SLOWER in others)
                slowed[-1].append(told[victim][0] is Change.SLOWER)
                open_ones += sum(change is Change.UNDECIDED for change, _ in told.values())
                needed += max(blocks for _, blocks in told.values())
        suites = RECORDINGS * SUITES
        return Found(rate(alarms), rate(slowed), open_ones / suites / len(self.tests), needed / suites)

    def peer(self, rule: Rule, *, head: str, apart: bool, seed: int = 1) -> tuple[Rate, Rate]:
        """A peer's false alarms over suites of equals, and how often it finds one slowed benchmark.

        ``apart``: base and head are processes of two consecutive blocks, a minute after one another, instead of two
        that took turns.
        """
        rng = random.Random(seed)
        later = 1 if apart else 0
        count = len(self.blocks)
        pairs = (("base", "same"), ("same", "base"), ("base", head))
        seen = {
            (test, pair): [
                between(self.blocks[index], self.blocks[(index + later) % count], test, *pair) for index in range(count)
            ]
            for test in self.tests
            for pair in pairs
        }
        single = (
            {key: [rule.slower([visits]) for visits in own] for key, own in seen.items()} if rule.blocks == 1 else None
        )

        def slower(test: str, pair: tuple[str, str], chosen: Sequence[int]) -> bool:
            if single is not None:
                return single[test, pair][chosen[0]]
            return rule.slower([seen[test, pair][index] for index in chosen])

        alarms: list[list[bool]] = []
        slowed: list[list[bool]] = []
        for _ in range(RECORDINGS):
            drawn = runs(count, range(count), rng)
            alarms.append([])
            slowed.append([])
            for _ in range(SUITES):
                chosen = runs(rule.blocks, drawn, rng)
                equals = rng.choice(pairs[:2])
                alarms[-1].append(any(slower(test, equals, chosen) for test in self.tests))
                slowed[-1].append(slower(rng.choice(self.tests), pairs[2], chosen))
        return rate(alarms), rate(slowed)


__all__ = ["PEERS", "Found", "Rate", "Study"]
