"""One tier on several machines: which test runs where, how many machines there should be, whether the parts are all.

The split itself is computed where the tests are collected, by the plugin (`pytest_mltiers/shards.py`), because only
there is it known which tests there are. `split` is the same function here, for the plan's predictions; a contract test
holds the two to each other.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from msgspec import Struct

from orchestrator.words.results import ShardPart

AIM = 0.8  # of the budget: what the slowest shard is expected to take
MOST = 256  # machines, as in the configuration


class Timings(Struct, frozen=True, kw_only=True):
    """What earlier runs say of one tier: the one snapshot that all its shards are split by."""

    snapshot: str | None = None  # the history's commit; None: there is no history
    seconds: Mapping[str, float] | None = None  # by node id; None: nothing is known of this tier
    overhead: float = 0.0  # seconds of a run in which no test runs: start, imports, collection


def split(tests: Iterable[str], seconds: Mapping[str, float], shards: int) -> tuple[tuple[str, ...], ...]:
    """The tests of each shard, longest processing time first: every test in exactly one, in a fixed order.

    A test that ``seconds`` does not know counts as the median of those it does. The same tests, seconds and number
    give the same split on every machine, whatever the order the tests came in.
    """
    expected = expectations(tests, seconds)
    loads = [(0.0, shard) for shard in range(shards)]
    parts: list[list[str]] = [[] for _ in range(shards)]
    for test in sorted(expected, key=lambda test: (-expected[test], test)):
        load, shard = heapq.heappop(loads)
        parts[shard].append(test)
        heapq.heappush(loads, (load + expected[test], shard))
    return tuple(tuple(part) for part in parts)


def expectations(tests: Iterable[str], seconds: Mapping[str, float]) -> dict[str, float]:
    """How long each of the tests is expected to take; the median of the known ones where nothing is known, or 1."""
    tests = list(dict.fromkeys(tests))
    known = [seconds[test] for test in tests if test in seconds]
    unknown = (median(known) if known else 0.0) or 1.0
    return {test: max(seconds.get(test, unknown), 0.0) for test in tests}


def slowest(tests: Iterable[str], seconds: Mapping[str, float], shards: int) -> float:
    """Seconds of tests in the fullest of so many shards."""
    expected = expectations(tests, seconds)
    return max((sum(expected[test] for test in part) for part in split(tests, seconds, shards)), default=0.0)


def choose(timings: Timings, *, budget: float, workers: int = 1) -> tuple[int, str]:
    """The number of machines for ``shards: auto``, and why, as a clause for the plan.

    The smallest number whose slowest shard is expected within 80 % of ``budget``. ``workers``: processes that a
    machine spreads its tests over. Where one test alone takes longer than that, more machines cannot help: as many as
    still make the slowest shard faster.
    """
    seconds = timings.seconds
    if not seconds:
        return 1, "1 machine: nothing is known of its durations yet"
    room = AIM * budget - timings.overhead
    longest = max(seconds.values())
    # Spread over w processes, a shard takes at least its sum by w and at least its longest test.
    most = min(MOST, len(seconds))
    low, high = 1, most
    while low < high:  # one machine more makes the slowest no slower, or nearly so (LPT is not quite monotone)
        middle = (low + high) // 2
        if _takes(seconds, middle, workers) <= max(room, longest):
            high = middle
        else:
            low = middle + 1
    takes = _takes(seconds, low, workers) + timings.overhead
    if takes <= AIM * budget:
        return low, f"{low} machine{'s' * (low > 1)}: the slowest is expected to take {takes:.0f} s of {budget:g} s"
    what = "one test alone takes" if longest > room else f"even {low} machines take"
    return low, f"{low} machine{'s' * (low > 1)}: {what} more than 80 % of the budget of {budget:g} s ({takes:.0f} s)"


def _takes(seconds: Mapping[str, float], shards: int, workers: int) -> float:
    parts = split(seconds, seconds, shards)
    return max(max(sum(seconds[t] for t in part) / workers, max(map(seconds.__getitem__, part), default=0.0))
               for part in parts)  # fmt: skip


def incomplete(parts: Sequence[ShardPart], *, shards: int) -> list[str]:
    """Why these parts are not together every test exactly once; nothing where they are.

    ``parts``: what each part's own pytest said when it had collected. ``shards``: how many were planned; 1 with no
    part is a tier that was not split.
    """
    if not parts:
        return [] if shards == 1 else [f"none of its {shards} parts says which tests were its own"]
    numbers = {part.shards for part in parts}
    if len(numbers) > 1:
        said = ", ".join(f"{part.shard}/{part.shards}" for part in parts)
        return [f"its parts do not belong together: {said}"]
    (count,) = numbers
    wrong = []
    present = [part.shard for part in parts]
    if missing := [n for n in range(1, count + 1) if n not in present]:
        wrong.append(f"{_named(missing)} of {count} {'is' if len(missing) == 1 else 'are'} missing")
    if twice := sorted({n for n in present if present.count(n) > 1}):
        wrong.append(f"{_named(twice)} of {count} came more than once")
    if shards not in (1, count):
        wrong.append(f"{shards} parts were planned, and these are of {count}")
    if len({part.digest for part in parts}) > 1:
        wrong.append(
            "its parts were split from different lists of tests or timings, so together they may miss or repeat tests "
            f"({', '.join(f'part {part.shard} collected {part.collected}' for part in parts)})"
        )
    elif not wrong and sum(part.selected for part in parts) != parts[0].collected:
        wrong.append(f"its parts have {sum(p.selected for p in parts)} tests together, of {parts[0].collected}")
    return wrong


def _named(numbers: Sequence[int]) -> str:
    return f"part{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


class ShardName(Struct, frozen=True, kw_only=True):
    """``2/8``, or ``2/8@VERSION`` where the history has durations to split by."""

    shard: int
    shards: int
    timings: str | None = None

    def __str__(self) -> str:
        return f"{self.shard}/{self.shards}" + (f"@{self.timings}" if self.timings else "")


def parse_shard(text: str) -> ShardName | None:
    """The part of a tier that ``text`` names; None for anything that is none."""
    found = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})(?:@([0-9a-f]{40,64}))?", text)
    if found is None:
        return None
    name = ShardName(shard=int(found[1]), shards=int(found[2]), timings=found[3])
    return name if 1 <= name.shard <= name.shards <= MOST else None
