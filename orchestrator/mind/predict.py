"""How long a tier will take, from how long it took: a middle and an 80 % interval. Pure.

The middle is the median of the newest few runs, which follows a change within three of them and no single outlier. The
interval is conformal: how far, as factors, that middle was from the run that came next, at each of the runs before. So
it needs no idea of how durations are distributed, and what the middle does badly (it lags behind a trend) widens and
shifts it. benchmarks/prediction.md has how often it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Protocol, TypeVar

from msgspec import Struct, field

from orchestrator.mind.records import Record
from orchestrator.words.results import Ending
from orchestrator.words.verdict import Verdict

NEWEST = 5  # runs that the middle is made of
ERRORS = 30  # newest errors that the interval is made of
_FIRST = 3  # runs before the first one whose error counts
_LEAST_ERRORS = 3
_LEAST_LIKE = 3  # runs under the same conditions that are worth more than all others
_MACHINE = ("system", "cpu", "cores", "gpu")  # of a fingerprint: what a change of which changes durations


class Conditions(Struct, frozen=True, kw_only=True):
    """What a tier's duration depends on beside its tests. Empty or None: not known yet, so any will do."""

    machine: Mapping[str, str] = field(default_factory=dict)  # its fingerprint
    workers: int | None = None
    shards: int = 1
    coverage: bool | None = None  # whether it is measured, which costs time


class Prediction(Struct, frozen=True, kw_only=True):
    """Wall seconds of a tier. ``low`` to ``high``: where four of five runs are expected; None: too few runs to say."""

    seconds: float
    low: float | None = None
    high: float | None = None
    runs: int  # it is made of
    note: str | None = None  # what makes it doubtful, as a clause


def predict(records: Sequence[Record], conditions: Conditions) -> Prediction | None:
    """What a run is expected to take. ``records``: of one tier, newest first. None: no run of it came to its end."""
    usable = _without_aborted([record for record in records if whole(record)])
    like = [record for record in usable if differs(record, conditions) is None]
    chosen, note = like, None
    if len(like) < _LEAST_LIKE:
        chosen = usable
        note = next((f"from runs {why}" for record in usable if (why := differs(record, conditions))), None)
    took = [_seconds(record) for record in reversed(chosen)]
    found = interval(took)
    if found is None:
        return None
    stopped = sum(_stopped(record) for record in records[:NEWEST])
    if stopped:
        note = f"{stopped} of its last {min(len(records), NEWEST)} runs were stopped before their end"
    seconds, low, high = (None if value is None else round(value, 3) for value in found)
    return Prediction(seconds=seconds or 0.0, low=low, high=high, runs=len(took), note=note)


def interval(seconds: Sequence[float]) -> tuple[float, float | None, float | None] | None:
    """The expected next value and the interval that holds 80 % of them, from earlier ones (> 0), oldest first.

    None without any; the interval needs six.
    """
    logs = [math.log(value) for value in seconds]
    if not logs:
        return None
    middle = median(logs[-NEWEST:])
    tried = range(max(_FIRST, len(logs) - ERRORS), len(logs))
    errors = [logs[run] - median(logs[max(0, run - NEWEST) : run]) for run in tried]
    if len(errors) < _LEAST_ERRORS:
        return math.exp(middle), None, None
    # The "exclusive" cut points are those that hold the next of n equal errors with just this probability, for any n.
    cuts = quantiles(errors, n=10, method="exclusive")
    low, high = middle + cuts[0], middle + cuts[-1]
    return math.exp(min(max(middle, low), high)), math.exp(low), math.exp(high)


class Ran(Protocol):
    """What tells whether two runs are to be compared."""

    @property
    def trusted(self) -> bool: ...  # of the default branch
    @property
    def machine(self) -> Mapping[str, str]: ...  # its fingerprint


R = TypeVar("R", bound=Ran)


def alike(runs: Sequence[R], *, least: int, here: Mapping[str, str] | None = None) -> list[R]:
    """The runs on one kind of machine: that of ``here``, or where nothing is known of it the one most of them had.

    Where at least so many are of the default branch, of those alone. The order stays.
    """
    trusted = [run for run in runs if run.trusted]
    chosen = trusted if len(trusted) >= least else runs
    kinds = [tuple(run.machine.get(name) for name in _MACHINE) for run in chosen]
    usual = max(dict.fromkeys(kinds), key=kinds.count, default=None)
    wanted = tuple(here.get(name) for name in _MACHINE) if here else usual
    return [run for run, kind in zip(chosen, kinds, strict=True) if kind == wanted]


def whole(record: Record) -> bool:
    """Whether a run took what its tests take: it ended by itself, nothing was left out, its evidence can be trusted."""
    result = record.tier.result
    return (
        result is not None
        and result.ending is Ending.EXITED
        and result.exit_code in (0, 1, None)  # pytest's words for "all ran"; None: ended elsewhere
        and not result.problems
        and not result.deferred
        and result.seconds > 0
    )


def _without_aborted(records: list[Record]) -> list[Record]:
    """Without failed runs of less than half the tests that the newest runs had: `-x` gave them up."""
    tests = [len(record.tier.result.tests) for record in records if record.tier.result is not None]
    enough = max(tests[:NEWEST], default=0) / 2
    kept = zip(records, tests, strict=True)
    return [record for record, count in kept if count >= enough or record.tier.verdict is not Verdict.FAILED]


def _seconds(record: Record) -> float:
    assert record.tier.result is not None  # noqa: S101 -- of whole records
    return record.tier.result.seconds


def _stopped(record: Record) -> bool:
    return record.tier.result is not None and record.tier.result.ending is Ending.DEADLINE


def differs(record: Record, conditions: Conditions) -> str | None:
    """How a run differs from what is planned, as a clause; None: not in anything known of both."""
    plan, result = record.tier.plan, record.tier.result
    known = [name for name in _MACHINE if name in record.machine and name in conditions.machine]
    if any(record.machine[name] != conditions.machine[name] for name in known):
        return "on other machines"
    if plan.shards != conditions.shards:
        return f"on {plan.shards} machine{'s' * (plan.shards > 1)}"
    workers = result.workers if result is not None else plan.workers
    if conditions.workers is not None and workers != conditions.workers:
        return f"with {workers} worker{'s' * (workers > 1)}"
    if conditions.coverage is not None and plan.coverage != conditions.coverage:
        return f"with{'' if plan.coverage else 'out'} coverage"
    return None
