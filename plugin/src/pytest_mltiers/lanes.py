"""Which test runs next, and where: longest first over all workers, without tearing files apart for nothing. Pure.

Tests of one file share its fixtures, so a file is one block, whose tests run in their order on one worker; the longest
block goes first. Out of a block come tests that are long by themselves: left where they stand they would end a run on
one worker while the others idle. Where the blocks run out, an idle worker takes the later half of the longest rest, as
long as that pays for setting the file's fixtures up once more.

Where no test is known, the files come in their order, and each test is taken to last as long as those before it did.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

LONG = 0.05
"""A test of this share of what one worker has to do is a block of its own."""

SMALL = 0.02
"""So many seconds of fixtures are not worth keeping a file together for."""

GUESS = 0.1
"""Seconds of a test, as long as nothing is known of any."""

OFF = 1.25
"""The factor by which all estimates may be wrong before they are made anew."""


@dataclass
class Block:
    """Tests that run one after the other. ``again``: seconds their shared fixtures may take, were they set up twice."""

    tests: deque[int]
    seconds: float
    again: float = 0.0


@dataclass
class Lane:
    """One worker: what it has been given, and what it goes on with."""

    block: Block | None = None
    given: dict[int, float] = field(default_factory=dict)  # not ended yet: index → seconds
    since: float = 0.0  # when the first of them began, as far as that is known

    def free_at(self, now: float) -> float:
        """When it will have nothing to do."""
        rest = self.block.seconds if self.block is not None else 0.0
        return max(now, self.since + sum(self.given.values())) + rest


class Lanes:
    """Hands out indices of ``tests``. Times are seconds of one clock; estimates may be as wrong as they like, and where
    there are none, the usual length of a test is learnt from ``ended``."""

    def __init__(
        self, tests: Sequence[str], *, seconds: Mapping[str, float], first: Sequence[str] = (), workers: int
    ) -> None:
        self.lanes: dict[Hashable, Lane] = {}
        self.learns = not seconds
        self.usual = median(seconds.values()) if seconds else GUESS
        self.done, self.work = 0, 0.0  # tests that have ended, and their seconds
        self.seconds = [seconds.get(test, self.usual) for test in tests]
        place = {test: index for index, test in enumerate(tests)}
        self.urgent = deque(dict.fromkeys(place[test] for test in first if test in place))
        urgent = set(self.urgent)
        self.left = len(tests)
        files: dict[str, list[int]] = {}
        for index, test in enumerate(tests):
            if index not in urgent:
                files.setdefault(test.partition("::")[0], []).append(index)
        if self.learns:
            self.queue = deque(Block(deque(indices), self.usual * len(indices)) for indices in files.values())
            return
        long = LONG * sum(self.seconds) / max(1, workers)
        blocks = [block for indices in files.values() for block in self._blocks(indices, long)]
        # Stable: equals stay in the order of collection, and every run with the same estimates does the same.
        self.queue = deque(sorted(blocks, key=lambda block: -block.seconds))

    def _blocks(self, indices: list[int], long: float) -> list[Block]:
        """A file's tests: those that are long by themselves, and the rest."""
        head, *rest = indices
        # Whoever comes first pays for what the file shares: what it takes beyond its fellows is the most that can be.
        again = max(0.0, self.seconds[head] - median(self.seconds[i] for i in rest)) if rest else 0.0
        cheap = again <= SMALL
        tall = [i for i in indices if self.seconds[i] >= long > 0]
        alone = dict.fromkeys(i for i in tall if cheap or (i != head and self.seconds[i] > again))
        block = [i for i in indices if i not in alone]
        blocks = [Block(tests=deque([i]), seconds=self.seconds[i]) for i in alone]
        if block:
            blocks.append(Block(tests=deque(block), seconds=sum(self.seconds[i] for i in block), again=again))
        return blocks

    def __len__(self) -> int:
        """Tests not handed out."""
        return self.left

    def take(self, who: Hashable, now: float) -> int | None:
        """The next test of a worker; None: there is none that it would pay to give it."""
        lane = self.lanes.setdefault(who, Lane())
        index = self.urgent.popleft() if self.urgent else self._next(lane, now)
        if index is not None:
            if not lane.given:
                lane.since = now
            lane.given[index] = self.seconds[index]
            self.left -= 1
        return index

    def ended(self, who: Hashable, index: int, now: float, took: float) -> None:
        """A worker is through with a test, which ``took`` so many seconds."""
        lane = self.lanes.setdefault(who, Lane())
        lane.given.pop(index, None)
        lane.since = now
        self.done += 1
        self.work += took
        usual = self.work / self.done
        if self.learns and not self.usual / OFF <= usual <= self.usual * OFF:
            self._take_for_usual(usual)

    def _take_for_usual(self, seconds: float) -> None:
        self.usual = seconds
        self.seconds = [seconds] * len(self.seconds)
        for lane in self.lanes.values():
            lane.given = dict.fromkeys(lane.given, seconds)
        for block in [*self.queue, *(lane.block for lane in self.lanes.values() if lane.block is not None)]:
            block.seconds = seconds * len(block.tests)

    def extend(self, indices: Iterable[int]) -> None:
        """Tests that were handed out and did not run (their worker died): they come next."""
        again = list(indices)
        self.urgent.extend(again)
        self.left += len(again)

    def insert(self, _: int, index: int) -> None:
        """One such test, before any other."""
        self.urgent.appendleft(index)
        self.left += 1

    def drop(self, who: Hashable) -> None:
        """A worker is gone: somebody else goes on with its block."""
        lane = self.lanes.pop(who, None)
        if lane is not None and lane.block is not None:
            self.queue.appendleft(lane.block)

    def _next(self, lane: Lane, now: float) -> int | None:
        block = lane.block or self._block_for(lane, now) or self._stolen(lane, now)
        if block is None:
            return self._shortest() if self.queue else None
        lane.block = block
        index = block.tests.popleft()
        block.seconds -= self.seconds[index]
        if not block.tests:
            lane.block = None
        return index

    def _block_for(self, lane: Lane, now: float) -> Block | None:
        """The block that this worker will come to, when each takes the longest that is left as soon as it is free.

        Asked while the worker still runs a test: xdist's need to know the next one before they begin. What the others
        will take in the meantime is not for it.
        """
        free = [(other.free_at(now), number) for number, other in enumerate(self.lanes.values())]
        mine = next(number for number, other in enumerate(self.lanes.values()) if other is lane)
        heapq.heapify(free)
        for position, block in enumerate(self.queue):
            at, number = free[0]
            if number == mine:
                del self.queue[position]
                return block
            heapq.heapreplace(free, (at + block.seconds, number))
        return None

    def _shortest(self) -> int:
        """One test for a worker that needs a next one to begin its last: the others will have done the rest by then."""
        block = self.queue[-1]
        index = min(block.tests, key=lambda index: self.seconds[index])
        block.tests.remove(index)
        block.seconds -= self.seconds[index]
        if not block.tests:
            self.queue.pop()
        return index

    def _stolen(self, thief: Lane, now: float) -> Block | None:
        """The later part of the longest rest, so that both end at the same time."""
        others = [lane for lane in self.lanes.values() if lane.block is not None and lane is not thief]
        victim = max(others, key=lambda lane: lane.free_at(now), default=None)
        if self.queue or victim is None or victim.block is None:
            return None
        block = victim.block
        share = (victim.free_at(now) - thief.free_at(now) - block.again) / 2
        if share <= 0:
            return None
        taken: deque[int] = deque()
        seconds = 0.0
        while block.tests and (not taken or seconds + self.seconds[block.tests[-1]] / 2 <= share):
            index = block.tests.pop()
            taken.appendleft(index)
            seconds += self.seconds[index]
        block.seconds -= seconds
        if not block.tests:
            victim.block = None
        return Block(tests=taken, seconds=seconds, again=block.again)
