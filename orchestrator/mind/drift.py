"""Where a tier's duration is going, and which of its tests take it there. Pure.

The rate is Theil and Sen's: the median of the slopes between all pairs of runs, which no outlier moves. It is told only
where Mann and Kendall's test finds it, with the number of runs cut down by how much each resembles the one before (a
slow week is not seven slow runs), and where a straight line describes the runs better than one step does: a jump has no
rate at which it goes on.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, correlation, median

from msgspec import Struct

from orchestrator.mind.predict import alike, whole
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import measured
from orchestrator.mind.records.sketches import Row, Sketch
from orchestrator.mind.render.words import budget as budget_words
from orchestrator.mind.render.words import duration, plural, shorten

LEAST = 8  # runs
MOST = 60  # newest runs that a rate is made of
CHANCE = 0.002  # that runs without any trend look like this; we look after every run, so it adds up
MATERIAL = 0.05  # of the duration: growth of less than this is nobody's business
NEAR_SHARE = 0.7  # of the budget
NEAR_SECONDS = 8 * 7 * 86_400.0
NAMED = 5  # tests
STEP = 0.8  # how much closer to the runs than a line a step must be: it may choose where it is
_DAY = 86_400.0


class Run(Struct, frozen=True, kw_only=True):
    """One run of a tier that came to its end."""

    time: float  # Unix seconds
    seconds: float


class Trend(Struct, frozen=True, kw_only=True):
    """What a tier's duration does over its newest runs."""

    runs: int
    since: float  # Unix seconds of the oldest of them
    before: float  # seconds at their beginning
    now: float  # seconds by now
    per_day: float  # seconds; 0: it grew in one step


class Growth(Struct, frozen=True, kw_only=True):
    """One test that takes longer than it did. ``before`` None: it is new."""

    node_id: str
    before: float | None
    now: float

    @property
    def seconds(self) -> float:
        return self.now - (self.before or 0.0)


class Drift(Struct, frozen=True, kw_only=True):
    """A tier that grows and is near its budget."""

    tier: str
    budget: float  # seconds
    trend: Trend
    left: float | None  # seconds from now until it is over; 0: it is; None: nobody can say
    grew: tuple[Growth, ...]  # the most first

    @property
    def used(self) -> float:
        """Share of the budget."""
        return self.trend.now / self.budget


def runs_of(records: Sequence[Record], sketch: Sketch | None = None) -> list[Run]:
    """A tier's runs that came to their end, oldest first, on the machine and with the workers that most of them had.

    ``records``: newest first. Where enough of them are of the default branch, those alone.
    """
    rows = _rows(records, sketch)
    newest = [row.run for row in alike(rows, least=LEAST)][:MOST]
    return sorted(newest, key=lambda run: run.time)


def trend(runs: Sequence[Run]) -> Trend | None:
    """How the duration grows; None: it does not, or nobody can tell. ``runs``: oldest first."""
    if len(runs) < LEAST or runs[-1].time <= runs[0].time:
        return None
    days = [(run.time - runs[0].time) / _DAY for run in runs]
    took = [run.seconds for run in runs]
    slope = _slope(days, took)
    if slope <= 0:
        return None
    start = median(y - slope * x for x, y in zip(days, took, strict=True))
    around = [y - start - slope * x for x, y in zip(days, took, strict=True)]
    step = min((_around_medians(took, at) for at in range(3, len(took) - 2)), key=_size)
    stepped = _size(step) < STEP * _size(around)
    if _chance(took, step if stepped else around) > CHANCE:
        return None
    before = took[0] - step[0] if stepped else start
    now = took[-1] - step[-1] if stepped else start + slope * days[-1]
    if now - before < MATERIAL * before:
        return None
    return Trend(runs=len(runs), since=runs[0].time, before=before, now=now, per_day=0.0 if stepped else slope)


def drift_of(
    tier: str, records: Sequence[Record], sketch: Sketch | None, *, budget: float, shards: int = 1
) -> Drift | None:
    """The tier's growth, if it is one and near the budget (seconds). ``records``: newest first."""
    found = trend(runs_of([record for record in records if record.tier.plan.shards == shards], sketch))
    if found is None or budget <= 0:
        return None
    left = max(0.0, budget - found.now) / found.per_day * _DAY if found.per_day else None
    if found.now >= budget:
        left = 0.0
    if found.now < NEAR_SHARE * budget and (left is None or left > NEAR_SECONDS):
        return None
    return Drift(tier=tier, budget=budget, trend=found, left=left, grew=grown(records, sketch))


def grown(records: Sequence[Record], sketch: Sketch | None = None) -> tuple[Growth, ...]:
    """The tests that grew most, the most first. ``records``: newest first, at least six that came to their end."""
    ended = [record for record in records if whole(record)]
    third = len(ended) // 3
    if third < 2:
        return ()
    newest, oldest = _durations(ended[:third]), _durations(ended[-third:])
    old = sketch.tests if sketch is not None else {}
    found = []
    for node_id, took in newest.items():
        if len(took) < 2:
            continue
        known = old.get(node_id)
        before = known.quantile(0.5) if known is not None else None
        if before is None and node_id in oldest:
            before = median(oldest[node_id])
        grew = Growth(node_id=node_id, before=before, now=median(took))
        # Durations are kept in steps of 21 %, so a test between two of them seems to jump from one to the other.
        if before is None or (grew.now > 1.3 * before and min(took) > before):
            found.append(grew)
    found.sort(key=lambda test: (-test.seconds, test.node_id))
    worth = 0.02 * max(sum(median(took) for took in newest.values()), 0.05)
    return tuple(test for test in found[:NAMED] if test.seconds >= worth)


def drift_words(drift: Drift) -> str:
    """The drift as a sentence's end, after the tier's name: "uses 92% of 2m; at this rate …"."""
    said = f"uses {math.floor(100 * drift.used)}% of {budget_words(drift.budget)}"
    if drift.left is None:
        said += f"; it grew from {duration(drift.trend.before)} to {duration(drift.trend.now)} at once"
    elif drift.left > 0:
        said += f"; at this rate it is over in about {_span(drift.left)}"
    if drift.grew:
        these = "this test" if len(drift.grew) == 1 else f"these {len(drift.grew)} tests"
        said += f"; {these} grew: " + ", ".join(growth_words(test) for test in drift.grew)
    return said


def growth_words(test: Growth) -> str:
    """A test and what it took before and takes now."""
    now = duration(test.now)
    took = f"new, {now}" if test.before is None else f"{duration(test.before)} → {now}"
    return f"{shorten(test.node_id, 120)} ({took})"


def _span(seconds: float) -> str:
    days = max(1, round(seconds / _DAY))
    return plural(days, "day") if days < 14 else f"{round(days / 7)} weeks"


# --- what happened -------------------------------------------------------------------------------------------------


class _Row(Struct, frozen=True, kw_only=True):
    run: Run
    trusted: bool
    machine: Mapping[str, str]


def _rows(records: Sequence[Record], sketch: Sketch | None) -> list[_Row]:
    """Newest first."""
    rows = [
        _Row(
            run=Run(time=record.time, seconds=record.tier.result.seconds),
            trusted=record.trusted,
            machine=record.machine,
        )
        for record in records
        if whole(record) and record.tier.result is not None
    ]
    for row in sketch.rows[:MOST] if sketch is not None else ():
        if _row_whole(row):
            with contextlib.suppress(ValueError):  # its stamp is none
                run = Run(time=row.time, seconds=row.seconds)
                rows.append(_Row(run=run, trusted=row.trusted, machine=row.machine))
    return rows


def _row_whole(row: Row) -> bool:
    return row.verdict in ("passed", "flaky", "failed") and row.seconds > 0 and not row.counts.get("unfinished")


def _durations(records: Sequence[Record]) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {}
    for record in records:
        for test in measured(record):
            took.setdefault(test.node_id, []).append(test.seconds)
    return took


# --- statistics ----------------------------------------------------------------------------------------------------


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    slopes = [
        (y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x)) if x[j] > x[i]
    ]  # fmt: skip
    return median(slopes) if slopes else 0.0


def _chance(values: Sequence[float], around: Sequence[float]) -> float:
    """The probability that values without a trend rise as much (Mann and Kendall, one-sided).

    ``around``: what is left of them without the trend.
    """
    n = len(values)
    rises = sum((values[j] > values[i]) - (values[j] < values[i]) for i in range(n) for j in range(i + 1, n))
    if rises <= 0:
        return 1.0
    alike = _resemblance(around)
    variance = n * (n - 1) * (2 * n + 5) / 18 * (1 + alike) / (1 - alike)
    return 1.0 - NormalDist().cdf((rises - 1) / math.sqrt(variance))


def _resemblance(values: Sequence[float]) -> float:
    """Correlation of each value with the one before, 0 … 0.9, corrected for how few there are."""
    if len(set(values[1:])) < 2 or len(set(values[:-1])) < 2:
        return 0.0
    raw = correlation(values[:-1], values[1:])
    return min(0.9, max(0.0, raw + (1 + 3 * raw) / len(values)))


def _around_medians(values: Sequence[float], at: int) -> list[float]:
    """How far each value lies from the median before, or after, a step at that index."""
    return [value - middle for part in (values[:at], values[at:]) for middle in [median(part)] for value in part]


def _size(around: Sequence[float]) -> float:
    return sum(map(abs, around))
