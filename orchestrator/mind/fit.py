"""Which tests fit into a tier's budget: the most telling first, as many as its workers get done in time. Pure.

What failed last time comes first. Every other test is worth what its class says (touched by the change, new, flaky,
the rest), times what it adds, by the second. What it adds is the root of the lines it executes that no test of its
class before it has executed: *additional* greedy coverage, in rounds, each of which counts half of the one before. So
tests of one class are spread over the code instead of asking the same question forty times, and a slow test of a good
class does not keep hundreds waiting that take a millisecond. benchmarks/selection.md has what that finds, and when.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Sequence
from statistics import median

from msgspec import Struct

from orchestrator.mind.touched import DIRECT, NARROW

FLOOR = 0.002
"""Seconds that the shortest test is taken to need: below that, estimates are noise."""

ROUNDS = 12
"""Rounds of greedy coverage; what they have not placed adds nothing."""

LOOKS = 2
"""How often each test is looked at again, on average, before what it adds is taken for what it added at most."""

WORTH = {"narrow": 1.0, "direct": 0.2, "new": 0.15, "flaky": 0.1, "near": 0.03, "rest": 0.005}
"""How much likelier a test of one class is to fail than one of another, roughly (benchmarks/selection.md)."""

FIXED_MARGIN = 0.05
"""Share of the budget that is never planned."""


class TestFacts(Struct, frozen=True, kw_only=True):
    """What is known of one test before it runs."""

    __test__ = False

    node_id: str
    seconds: float | None = None  # estimate; None: never measured
    highest: float | None = None  # the longest it took, of the runs the estimate is made of
    failed_last: bool = False
    touched: int = 0  # how near it is to the change (orchestrator/mind/touched.py); 0: not at all
    new: bool = False
    flaky: bool = False
    deferred_last: bool = False  # there was no room for it in its last run
    covers: tuple[int, ...] = ()  # indices of pieces (records/contexts.py)


class Selection(Struct, frozen=True, kw_only=True):
    """What is to run. All of it in node ids; ``chosen`` and ``deferred`` the most telling first."""

    chosen: tuple[str, ...]
    deferred: tuple[str, ...] = ()
    predicted: float = 0.0  # seconds that the chosen take on their workers, fixed costs included
    everything: float = 0.0  # seconds that all of them would take
    limit: float = math.inf  # seconds of tests planned for each worker
    usual: float = 0.0  # seconds of a test that nobody has measured
    unmeasured: int = 0  # chosen tests without an estimate


def select(
    tests: Sequence[TestFacts],
    *,
    seconds: float,
    workers: int,
    pieces: Sequence[tuple[int, int]] = (),
    startup: float = 0.0,
    slack: float = 1.0,
    deferred_first: bool = False,
) -> Selection:
    """The tests to run in a budget of ``seconds`` of wall time on so many ``workers``.

    ``pieces``: (file, lines as bits), which ``covers`` points into. ``startup``: seconds of a run that are not its
    tests' (interpreter, collection, reports). ``slack``: how much longer the tests took together than their estimates
    said, as a factor, in earlier runs. ``deferred_first``: a nightly, which begins with what had to wait.
    """
    usual = _usual(tests)
    took = [usual if test.seconds is None else test.seconds for test in tests]
    limit = max(0.0, seconds * (1 - FIXED_MARGIN) - startup) / max(1.0, slack) - _spread(tests, workers)
    everything = _makespan(sorted(took, reverse=True), workers)
    order = rank(tests, pieces=pieces, deferred_first=deferred_first)
    chosen = order if everything <= limit else _fitting(order, took, limit=limit, workers=workers)
    kept = set(chosen)
    return Selection(
        chosen=tuple(tests[index].node_id for index in chosen),
        deferred=tuple(tests[index].node_id for index in order if index not in kept),
        predicted=startup + _makespan(sorted((took[index] for index in chosen), reverse=True), workers),
        everything=startup + everything,
        limit=limit,
        usual=usual,
        unmeasured=sum(tests[index].seconds is None for index in chosen),
    )


def rank(
    tests: Sequence[TestFacts], *, pieces: Sequence[tuple[int, int]] = (), deferred_first: bool = False
) -> list[int]:
    """Indices of the tests, the most telling first. Deterministic; equals stay in the order given."""
    classes: dict[str, list[int]] = {}
    for index, test in enumerate(tests):
        classes.setdefault(_class(test), []).append(index)
    usual = _usual(tests)
    costs = [FLOOR + (usual if test.seconds is None else test.seconds) for test in tests]
    worth: dict[int, float] = {}
    for name, members in classes.items():
        for index, added in _added(members, tests, costs, pieces):
            worth[index] = WORTH[name] * added / costs[index]

    def place(index: int) -> tuple[int, float, int]:
        test = tests[index]
        ahead = 0 if deferred_first and test.deferred_last else 1 if test.failed_last else 2
        return ahead, -worth[index], index

    return sorted(range(len(tests)), key=place)


def _usual(tests: Sequence[TestFacts]) -> float:
    return median([test.seconds for test in tests if test.seconds is not None] or [0.0])


def _class(test: TestFacts) -> str:
    if test.touched >= DIRECT:
        return "narrow" if test.touched >= NARROW else "direct"
    if test.new or test.seconds is None:
        return "new"
    if test.flaky:
        return "flaky"
    return "near" if test.touched else "rest"


def _added(
    members: list[int], tests: Sequence[TestFacts], costs: Sequence[float], pieces: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, float]]:
    """What each of the tests of a class adds.

    Evaluated lazily: what a test would add can only shrink while others are taken.
    """
    left = sorted(members, key=lambda index: (costs[index], index))
    size = [bits.bit_count() for _, bits in pieces]
    alone = {index: sum(size[piece] for piece in tests[index].covers) for index in members}
    looks = LOOKS * len(members)
    for number in range(ROUNDS):
        seen: dict[int, int] = {}
        asked: set[tuple[int, ...]] = set()
        heap: list[tuple[float, int, int]] = []  # (less the gain per second, index, gain), as last looked at
        later = []
        for index in left:
            covers = tests[index].covers
            if covers in asked:
                later.append(index)  # the cheapest of those that execute the same is enough for this round
                continue
            asked.add(covers)
            heap.append((-alone[index] / costs[index], index, alone[index]))
        heapq.heapify(heap)
        current = -1  # the test whose gain is what it adds to all that were taken
        while heap:
            _, index, gain = heap[0]
            if index != current and looks > 0 and seen:
                looks -= 1
                gain = sum((pieces[p][1] & ~seen.get(pieces[p][0], 0)).bit_count() for p in tests[index].covers)
                heapq.heapreplace(heap, (-gain / costs[index], index, gain))
                current = index
                continue
            heapq.heappop(heap)
            current = -1
            if not gain:
                later.append(index)
                continue
            yield index, math.sqrt(gain) / 2**number
            for piece in tests[index].covers:
                file, bits = pieces[piece]
                seen[file] = seen.get(file, 0) | bits
        left = sorted(later, key=lambda index: (costs[index], index))
        if not seen:
            break
    for index in left:
        yield index, 0.5 / 2**ROUNDS if tests[index].covers else 0.5


def _fitting(order: Sequence[int], took: Sequence[float], *, limit: float, workers: int) -> list[int]:
    """As many as fit, in the given order: each to the worker that has least to do; one that is too long is left out,
    and a shorter one after it may still find room."""
    loads = [0.0] * max(1, workers)
    chosen = []
    for index in order:
        if loads[0] + took[index] <= limit:
            heapq.heapreplace(loads, loads[0] + took[index])
            chosen.append(index)
    return chosen


def _makespan(longest_first: Sequence[float], workers: int) -> float:
    """When the last worker ends, if each takes the longest that is left as soon as it is free."""
    loads = [0.0] * max(1, workers)
    for seconds in longest_first:
        heapq.heapreplace(loads, loads[0] + seconds)
    return max(loads)


def _spread(tests: Collection[TestFacts], workers: int) -> float:
    """Seconds by which one worker's tests may take longer than estimated, each test for itself."""
    squares = sum(
        max(0.0, t.highest - t.seconds) ** 2 for t in tests if t.highest is not None and t.seconds is not None
    )
    return math.sqrt(squares / max(1, workers))
