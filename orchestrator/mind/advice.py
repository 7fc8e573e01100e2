"""Which tests to move to a slower tier, so that a tier keeps clear of its budget, and to which. Pure.

A tier's time is not the sum of its tests: on several workers it is what the fullest of them gets, longest first, plus
what a run takes beside its tests. What is moved is what can be marked: a function with all of its parameters.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations
from statistics import median

from msgspec import Struct

from orchestrator.mind.config import Config, Tier
from orchestrator.mind.config.markers import names_in, selects
from orchestrator.mind.predict import NEWEST, Conditions, predict, whole
from orchestrator.mind.records import Record
from orchestrator.mind.records.contexts import Contexts
from orchestrator.mind.records.history import estimates, failures
from orchestrator.words.results import Ending

AIM = 0.8  # of the budget: what a tier should take
NEW_TIER, NEW_MARKER = "slow", "slow"
_TRIES = 100  # to do with fewer tests, and with less valuable ones; each costs a sort of all tests


class Unit(Struct, frozen=True, kw_only=True):
    """What can be marked: a test function (with all of its parameters) of one file, maybe in classes."""

    path: str
    names: tuple[str, ...]  # classes, outermost first, and the function
    tests: Mapping[str, float]  # seconds by node id
    failures: int = 0  # of its tests in the newest runs
    distinct: int = 0  # lines that no other unit of the tier executes; 0 also where that is not known

    @property
    def seconds(self) -> float:
        return sum(self.tests.values())

    @property
    def name(self) -> str:
        return "::".join((self.path, *self.names))


class Move(Struct, frozen=True, kw_only=True):
    """What to take out of a tier, the slowest first."""

    tier: str
    budget: float
    seconds: float  # what it takes
    after: float  # what it takes without them
    moved: float  # seconds of tests that are moved
    units: tuple[Unit, ...]

    beside: float  # seconds of a run in which no test runs: start, imports, collection, reports


class Destination(Struct, frozen=True, kw_only=True):
    """Where moved tests go, and what has to be edited for that."""

    tier: str
    marker: str
    new: bool = False  # the tier has to be made
    own_markers: str | None = None  # the new marker expression of the tier they leave; None: as it is
    markers: str = ""  # the expression of the tier they go to
    budget: float = 0.0
    tight: bool = False  # it may not have the time for them


# --- what can be moved ---------------------------------------------------------------------------------------------


def split_node_id(node_id: str) -> tuple[str, tuple[str, ...]] | None:
    """File and names of a test's function; None for what is no Python function (a doctest, a collected file)."""
    path, separator, rest = node_id.partition(".py::")
    if not separator:
        return None
    names = tuple(rest.partition("[")[0].split("::"))
    return (f"{path}.py", names) if all(name.isidentifier() for name in names) else None


def units_of(records: Sequence[Record], contexts: Contexts | None = None) -> tuple[list[Unit], float]:
    """What can be moved of a tier, slowest first, and the seconds of its tests that cannot.

    ``records``: of the tier, newest first.
    """
    failed = failures(records)
    grouped: dict[tuple[str, tuple[str, ...]], dict[str, float]] = {}
    fixed = 0.0
    for node_id, seconds in _durations(records).items():
        place = split_node_id(node_id)
        if place is None:
            fixed += seconds
        else:
            grouped.setdefault(place, {})[node_id] = seconds
    distinct = _distinct({place: tuple(tests) for place, tests in grouped.items()}, contexts)
    units = [
        Unit(
            path=path,
            names=names,
            tests=tests,
            failures=sum(failed.get(test, 0) for test in tests),
            distinct=distinct.get((path, names), 0),
        )
        for (path, names), tests in grouped.items()
    ]
    return sorted(units, key=lambda unit: (-unit.seconds, unit.name)), fixed


def _durations(records: Sequence[Record]) -> dict[str, float]:
    """How long each test of the tier takes, as far as that is known, by node id.

    A run that was stopped does not say which tests there are; those before it do. A test that never passed counts with
    what it took until it failed, or was stopped: no more than it takes.
    """
    took = estimates(records)
    found: dict[str, float] = {}
    for record in records[:NEWEST]:
        for test in record.tier.result.tests if record.tier.result is not None else ():
            if test.node_id not in found or test.node_id not in took:
                seconds = took[test.node_id].seconds if test.node_id in took else test.seconds
                found[test.node_id] = max(found.get(test.node_id, 0.0), seconds)
        if whole(record):
            break
    return found


_Place = tuple[str, tuple[str, ...]]


def _distinct(units: Mapping[_Place, Sequence[str]], contexts: Contexts | None) -> dict[_Place, int]:
    """Lines that only one unit executes, by unit."""
    if contexts is None:
        return {}
    once: dict[int, int] = {}
    twice: dict[int, int] = {}
    lines: dict[_Place, dict[int, int]] = {}
    for place, tests in units.items():
        own = lines.setdefault(place, {})
        for piece in {piece for test in tests for piece in contexts.tests.get(test, ())}:
            file, bits = contexts.pieces[piece]
            own[file] = own.get(file, 0) | bits
        for file, bits in own.items():
            twice[file] = twice.get(file, 0) | (once.get(file, 0) & bits)
            once[file] = once.get(file, 0) | bits
    return {
        place: sum((bits & ~twice.get(file, 0)).bit_count() for file, bits in own.items())
        for place, own in lines.items()
    }


# --- what to move --------------------------------------------------------------------------------------------------


def makespan(seconds: Iterable[float], workers: int) -> float:
    """What the fullest worker gets, longest first."""
    loads = [0.0] * max(1, workers)
    for took in sorted(seconds, reverse=True):
        heapq.heapreplace(loads, loads[0] + took)
    return max(loads)


def moves(tier: str, records: Sequence[Record], *, budget: float, contexts: Contexts | None = None) -> Move | None:
    """The fewest functions whose move brings the tier under 80 % of its budget; None: it is, or nobody knows.

    Among equally many, those that failed least and execute least that no other test does. None of them where even
    moving everything would not be enough.
    """
    last = next((record.tier for record in records if record.tier.result is not None), None)
    if last is None or last.result is None:
        return None
    expected = predict(records, Conditions(shards=last.plan.shards))
    workers = max(1, last.result.workers) * last.plan.shards
    units, fixed = units_of(records, contexts)
    every = makespan([fixed, *(seconds for unit in units for seconds in unit.tests.values())], workers)
    beside = max(0.0, expected.seconds - every) if expected is not None else _beside(records)
    seconds = every + beside
    if last.result.ending is Ending.DEADLINE:
        seconds = max(seconds, last.result.seconds)
    elif expected is not None:
        seconds = expected.seconds
    if seconds <= AIM * budget:
        return None

    def without(moved: Iterable[int]) -> float:
        left = set(range(len(units))).difference(moved)
        return beside + makespan([fixed, *(s for index in left for s in units[index].tests.values())], workers)

    possible = without(range(len(units))) <= AIM * budget
    chosen = _fewest(units, without, AIM * budget) if possible else []
    return Move(
        tier=tier,
        budget=budget,
        seconds=seconds,
        after=without(chosen),
        moved=sum(units[index].seconds for index in chosen),
        beside=beside,
        units=tuple(units[index] for index in chosen),
    )


def _beside(records: Sequence[Record]) -> float:
    """Seconds of a run that are not its tests', as far as runs tell that were stopped."""
    rest = [
        result.seconds - makespan((test.seconds for test in result.tests), result.workers * record.tier.plan.shards)
        for record in records[:NEWEST]
        if (result := record.tier.result) is not None and result.tests
    ]
    return max(0.0, median(rest)) if rest else 0.0


def _fewest(units: Sequence[Unit], without: Callable[[Iterable[int]], float], room: float) -> list[int]:
    """Indices of the units to move. ``units``: slowest first; ``without``: seconds of the tier when those are moved."""
    low, high = 0, len(units)
    while low < high:
        middle = (low + high) // 2
        if without(range(middle)) <= room:
            high = middle
        else:
            low = middle + 1
    taken = set(range(low))
    for index in reversed(range(max(0, low - _TRIES), low)):  # one long test may have needed all that come before it
        if without(taken - {index}) <= room:
            taken.remove(index)
    tries = _TRIES
    for index in sorted(taken, key=lambda index: _value(units[index]), reverse=True):
        worth = _value(units[index])
        lesser = (n for n, unit in enumerate(units) if n not in taken and unit.seconds and _value(unit) < worth)
        for other in lesser if any(worth) else ():
            tries -= 1
            if tries < 0:
                return sorted(taken)
            if without(taken - {index} | {other}) <= room:
                taken = taken - {index} | {other}
                break
    return sorted(taken)


def _value(unit: Unit) -> tuple[int, int]:
    return unit.failures, unit.distinct


# --- where to ------------------------------------------------------------------------------------------------------


def destination(config: Config, move: Move) -> Destination:
    """The slower tier that takes the tests once they carry a marker, or the one to make."""
    own = config.tiers[move.tier]
    has = _least_markers(own.markers)
    found = [
        Destination(
            tier=name,
            marker=marker,
            markers=tier.markers,
            budget=tier.budget,
            tight=move.moved > AIM * tier.budget,
        )
        for name, tier in config.tiers.items()
        if name != move.tier and _slower(own, tier) and all(_collects(tier, unit.path) for unit in move.units)
        for marker in dict.fromkeys((*names_in(own.markers), *names_in(tier.markers)))
        if marker.isidentifier() and not selects(own.markers, {*has, marker}) and selects(tier.markers, {*has, marker})
    ]
    if found:
        return min(found, key=lambda place: (place.tight, bool(config.tiers[place.tier].runner), place.budget))
    return _new(config, own, move, has)


def _least_markers(expression: str) -> frozenset[str]:
    """The fewest markers that a test of the tier must have; those that it happens to have are not known here."""
    names = names_in(expression)[:10]
    sets = chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))
    return frozenset(next((found for found in sets if selects(expression, found)), ()))


def _slower(own: Tier, other: Tier) -> bool:
    # A tier of GPUs is not where to keep what needs none.
    less_often = not set(own.when) <= set(other.when)
    return other.gpus <= own.gpus and other.benchmark is None and (less_often or other.budget > own.budget)


def _collects(tier: Tier, path: str) -> bool:
    return not tier.paths or any(
        folder in (".", path) or path.startswith(f"{folder.rstrip('/')}/") for folder in tier.paths
    )


def _new(config: Config, own: Tier, move: Move, has: frozenset[str]) -> Destination:
    names = (NEW_TIER, f"{move.tier}-{NEW_TIER}", *(f"{NEW_TIER}-{number}" for number in range(2, 100)))
    markers = (NEW_MARKER, f"{NEW_MARKER}_{re.sub(r'[^a-zA-Z0-9_]', '_', move.tier)}")
    used = {name for tier in config.tiers.values() for name in names_in(tier.markers)}
    excluded = next((m for m in markers if m in used and not selects(own.markers, {*has, m})), None)
    marker = excluded or next((m for m in markers if m not in used), markers[-1])
    inner = f"({own.markers})" if " or " in own.markers else own.markers
    if excluded:
        others = (name for name in names_in(own.markers) if name not in (*has, excluded))
        parts = [*sorted(has), excluded, *(f"not {n}" for n in others if not selects(own.markers, {*has, n}))]
        wanted, own_markers = " and ".join(parts), None
    else:
        parts = [inner] if own.markers else []
        wanted, own_markers = " and ".join([*parts, marker]), " and ".join([*parts, f"not {marker}"])
    seconds = max(own.budget, 2 * move.moved, 300.0)
    return Destination(
        tier=next(name for name in names if name not in config.tiers),
        marker=marker,
        new=True,
        own_markers=own_markers,
        markers=wanted,
        budget=60.0 * math.ceil(seconds / 60),
    )
