"""Whether a benchmark changed since earlier commits: the newest change point of its series. Pure.

A run gives one number per benchmark, its minimum. Runs on another machine (CPU or GPU model, driver, CUDA, torch,
Python: see `Record.machine`) belong to another series. In a series a change point is the split whose two parts differ
most by Wilcoxon's rank-sum test, with its exact distribution: ranks do not mind outliers, and four runs after a change
are enough to see it. The error of 1 % is shared out over the benchmarks of the suite and the splits that are looked at;
parts are split again, so that an older change does not hide a newer one.

(The library for this, apache-otava, brings BigQuery, gRPC, Slack and scipy along: thirty-five packages a runner.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.mind.compare import RESOLUTION
from orchestrator.mind.records import Record
from orchestrator.words.results import BenchmarkChange, Change, Comparison, TierResult

ERROR = 0.01  # that anything in the suite is called changed that is not
WINDOW = 30  # newest runs that are looked at
NEWS = 10  # runs for which a change is reported; after that it is how things are
BEFORE, AFTER = 5, 3  # runs that a part before and after a change has at least


class ChangePoint(Struct, frozen=True, kw_only=True):
    """A split of a series of logarithms: ``index`` is the first value after it."""

    index: int
    shift: float  # Hodges–Lehmann: the median of all differences between the two parts
    low: float
    high: float


def newest_change(values: Sequence[float], *, error: float) -> ChangePoint | None:
    """The newest change point of a series (oldest first), or None.

    ``error``: the probability with which a series without any may be called one that has.
    """
    found = None
    start = 0
    while (split := _best_split(values[start:], error)) is not None:
        found = start + split
        start = found
    if found is None:
        return None
    # What was before it begins at the change before it: found by the same means, from the left.
    before = values[:found]
    older = _best_split(before, error)
    own = before[older:] if older is not None else before
    return _change_point(own, values[found:], found, error)


def _best_split(values: Sequence[float], error: float) -> int | None:
    splits = range(BEFORE, len(values) - AFTER + 1)
    if not splits:
        return None
    chances = {split: rank_sum_chance(values[:split], values[split:]) for split in splits}
    best = min(splits, key=lambda split: chances[split])
    return best if chances[best] * len(splits) <= error else None


def rank_sum_chance(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely two samples of one distribution differ at least so much in their ranks, either way; exact."""
    wins = math.fsum((x < y) + 0.5 * (x == y) for x in one for y in other)
    fewest = math.floor(min(wins, len(one) * len(other) - wins))
    ways = _ways(len(one), len(other))
    return min(1.0, 2 * sum(ways[: fewest + 1]) / math.comb(len(one) + len(other), len(one)))


@lru_cache(maxsize=1024)
def _ways(one: int, other: int) -> tuple[int, ...]:
    """In how many orders of two samples a value of the first is below one of the second 0, 1, 2 … times."""
    if one == 0 or other == 0:
        return (1,)
    ways = [0] * (one * other + 1)
    # The largest of all is of the second sample (and above all of the first), or of the first (above none).
    for shift, smaller in ((one, _ways(one, other - 1)), (0, _ways(one - 1, other))):
        for wins, count in enumerate(smaller):
            ways[wins + shift] += count
    return tuple(ways)


def _change_point(before: Sequence[float], after: Sequence[float], index: int, error: float) -> ChangePoint:
    differences = sorted(y - x for x in before for y in after)
    allowed = error / 2 * math.comb(len(before) + len(after), len(after))
    left_out, total = -1, 0
    for count in _ways(len(before), len(after)):
        total += count
        if total > allowed:
            break
        left_out += 1
    edge = min(max(left_out, 0), (len(differences) - 1) // 2)
    return ChangePoint(
        index=index, shift=median(differences), low=differences[edge], high=differences[len(differences) - 1 - edge]
    )


def compare_with_history(result: TierResult, records: Sequence[Record], *, gate: float | None) -> Comparison:
    """This run's benchmarks as the newest of their series. ``records``: of the tier, newest first; ``gate``: percent.

    Only results of the default branch count, and only those of the same machine.
    """
    known = [record for record in records if record.trusted and record.tier.result and record.tier.result.benchmarks]
    same = [record for record in known if record.machine == result.machine][: WINDOW - 1]
    comparison = Comparison(against="history", gate=gate)
    least = BEFORE + AFTER - 1
    if len(same) < least:
        return replace(comparison, problem=_too_few(known, same, result.machine, least))
    edge = math.log1p((RESOLUTION if gate is None else gate) / 100)
    series = {benchmark.name: _series(benchmark.name, benchmark.minimum, same) for benchmark in result.benchmarks}
    judged = {name: values for name, values in series.items() if len(values) > least}
    changes = []
    for name, values in judged.items():
        point = newest_change([value for value, _ in values], error=ERROR / len(judged))
        fresh = point is not None and len(values) - point.index <= NEWS
        changes.append(_told(name, values, point if fresh else None, edge))
    young = sorted(series.keys() - judged.keys())
    alone = {name: f"has {max(0, len(series[name]) - 1)} earlier results, {least} are needed" for name in young}
    return replace(comparison, changes=tuple(changes), alone=alone, blocks=len(same))


def _series(name: str, now: float, same: Sequence[Record]) -> list[tuple[float, str]]:
    """Logarithms and commits, oldest first, this run's last."""
    values = [(math.log(now), "")] if now > 0 else []
    for record in same:
        for benchmark in record.tier.result.benchmarks if record.tier.result is not None else ():
            if benchmark.name == name and benchmark.minimum > 0:
                values.append((math.log(benchmark.minimum), record.sha))
    return values[::-1]


def _told(name: str, values: Sequence[tuple[float, str]], point: ChangePoint | None, edge: float) -> BenchmarkChange:
    now = math.exp(values[-1][0])
    if point is None:
        return BenchmarkChange(
            name=name, change=Change.SAME, ratio=1.0, low=0.0, high=None, blocks=len(values) - 1, seconds=now
        )
    change = Change.SLOWER if point.shift > edge else Change.FASTER if point.shift < -edge else Change.SAME
    return BenchmarkChange(
        name=name,
        change=change,
        ratio=math.exp(point.shift),
        low=math.exp(point.low),
        high=math.exp(point.high),
        blocks=len(values) - 1,
        seconds=now,
        since=values[point.index][1] or "this run",
    )


def _too_few(known: Sequence[Record], same: Sequence[Record], machine: Mapping[str, str], least: int) -> str:
    said = f"{len(same)} earlier results of the default branch on a machine like this one, {least} are needed"
    if not known or len(known) == len(same):
        return said
    other = next(record.machine for record in known if record.machine != machine)
    changed = [
        f"{key} was {other.get(key, 'unknown')}, is {machine.get(key, 'unknown')}"
        for key in sorted(other.keys() | machine.keys())
        if other.get(key) != machine.get(key)
    ]
    return f"not comparable with the newest results: {', '.join(changed)}; {said}"
