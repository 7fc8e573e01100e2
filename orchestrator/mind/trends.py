"""What tiers and their benchmarks took in their newest runs: the series that charts show. Pure.

A line through runs on different machines shows the machines. So a series has the runs on one kind of machine only: that
of this run where it is known, else the one most of them had. Where the default branch has enough of them, those alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.mind.predict import alike, whole
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import WHOLE, History
from orchestrator.words.plan import Plan
from orchestrator.words.results import Benchmark, TierResult
from orchestrator.words.verdict import Point, RunVerdict, Series, TierVerdict

LEAST = 4  # points, this run's included: fewer are no trend
MOST = 30


def trends(run: RunVerdict, history: History) -> tuple[Series, ...]:
    """The series of every tier that ran to its end, those of durations before those of benchmarks.

    ``history``: as it was before this run was added to it.
    """
    ended = [tier for tier in run.tiers if tier.verdict in WHOLE and tier.result is not None]
    pasts = [(tier, _past(tier, history.of(tier.name), run.plan)) for tier in ended]
    durations = (_duration(tier, past, run.plan) for tier, past in pasts)
    benchmarks = (series for tier, past in pasts for series in _benchmarks(tier, past, run.plan))
    return tuple(series for series in (*durations, *benchmarks) if len(series.points) >= LEAST)


def _past(tier: TierVerdict, records: Sequence[Record], plan: Plan) -> list[Record]:
    """The runs to compare with, newest first: without those of this very commit, which may be this run told again."""
    usable = [
        record
        for record in records
        if whole(record) and record.tier.plan.shards == tier.plan.shards and record.sha != plan.event.sha
    ]
    here = tier.result.machine if tier.result is not None else None
    return alike(usable, least=LEAST - 1, here=here)[: MOST - 1]


def _duration(tier: TierVerdict, past: Sequence[Record], plan: Plan) -> Series:
    points = [_took(record.tier, record.sha, record.time) for record in reversed(past)]
    last = _took(tier, plan.event.sha or "", _ended(tier.result, past))
    return Series(tier=tier.name, benchmark=None, points=(*points, last), limit=tier.plan.budget or None)


def _took(tier: TierVerdict, sha: str, time: float) -> Point:
    seconds = tier.result.seconds if tier.result is not None else 0.0
    return Point(time=time, sha=sha, seconds=seconds, low=tier.plan.predicted_low, high=tier.plan.predicted_high)


def _benchmarks(tier: TierVerdict, past: Sequence[Record], plan: Plan) -> Iterator[Series]:
    """One series per benchmark of this run: its minimum, and up to the median of its rounds."""
    earlier: dict[str, list[Point]] = {}
    for record in reversed(past):
        for benchmark in record.tier.result.benchmarks if record.tier.result is not None else ():
            earlier.setdefault(benchmark.name, []).append(_measured(benchmark, record.sha, record.time))
    time = _ended(tier.result, past)
    for benchmark in tier.result.benchmarks if tier.result is not None else ():
        last = _measured(benchmark, plan.event.sha or "", time)
        yield Series(tier=tier.name, benchmark=benchmark.name, points=(*earlier.get(benchmark.name, ()), last))


def _measured(benchmark: Benchmark, sha: str, time: float) -> Point:
    low, high = (benchmark.minimum, benchmark.median) if benchmark.median >= benchmark.minimum else (None, None)
    return Point(time=time, sha=sha, seconds=benchmark.minimum, low=low, high=high)


def _ended(result: TierResult | None, past: Sequence[Record]) -> float:
    """When this run ended; never before the ones before it, whatever the clocks of two machines say."""
    known = result.started + result.seconds if result is not None and result.started is not None else 0.0
    return max(known, past[0].time if past else 0.0)
