"""What a run knows of earlier ones, and what is read off it: durations, last outcomes, baselines. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.mind.records import Record
from orchestrator.mind.records.names import NO_COMMIT
from orchestrator.words.results import TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import Verdict

SAMPLES = 10  # newest durations that an estimate is made of
_MEASURED = (TestOutcome.PASSED, TestOutcome.XFAILED, TestOutcome.XPASSED)
_NEAR = 0.9  # of a limit: durations are kept to 10 %
WHOLE = (Verdict.PASSED, Verdict.FLAKY, Verdict.FAILED)  # a tier that ran to its end


class Estimate(Struct, frozen=True, kw_only=True):
    """How long a test takes, from its newest measured runs."""

    seconds: float  # median
    highest: float
    samples: int


class History(Struct, frozen=True, kw_only=True):
    """The memory as far as one run needs it. ``version`` names the snapshot: two jobs with the same saw the same."""

    version: str | None = None
    tiers: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)  # newest first, without strangers' results
    head: tuple[Record, ...] = ()  # what is already stored of the commit under test, newest first, strangers' included
    sketches: Mapping[str, bytes] = field(default_factory=dict)  # what is kept of older records, by tier, encoded
    contexts: Mapping[str, bytes] = field(default_factory=dict)  # test → lines maps, by tier, encoded
    notes: tuple[str, ...] = ()  # what could not be read, and why

    def of(self, tier: str) -> tuple[Record, ...]:
        """The tier's records, newest first."""
        return self.tiers.get(tier, ())

    def baseline(self, tier: str) -> Record | None:
        """The newest record of the tier on the default branch that ran to its end."""
        return next((r for r in self.of(tier) if r.trusted and r.tier.verdict in WHOLE), None)


def without(history: History, results: Mapping[str, TierResult]) -> History:
    """The history as it was before these results were remembered: a run is no earlier run of itself."""

    def earlier(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(record for record in records if not _holds(record, results.get(record.name)))

    tiers = {tier: earlier(records) for tier, records in history.tiers.items()}
    return replace(history, tiers=tiers, head=earlier(history.head))


def _holds(record: Record, result: TierResult | None) -> bool:
    kept = record.tier.result
    return result is not None and kept is not None and result.started is not None and kept.started == result.started


def measured(record: Record) -> Iterator[TestResult]:
    """The tests of a run that took what they take.

    One that failed may have stopped early, and one that was stopped did. An expected failure may be that of the limit
    for each test, which pytest cannot tell from the one it expects.
    """
    limit = record.tier.plan.per_test
    for test in record.tier.result.tests if record.tier.result is not None else ():
        stopped = test.outcome is TestOutcome.XFAILED and limit is not None and test.seconds >= _NEAR * limit
        if test.outcome in _MEASURED and not stopped:
            yield test


def estimates(
    records: Sequence[Record], *, samples: int = SAMPLES, of: Iterable[str] | None = None
) -> dict[str, Estimate]:
    """How long each test takes, by node id. ``records``: of one tier, newest first. ``of``: of these tests alone.

    With ``of``, older records are left alone once there is nothing to learn from them.
    """
    seen: dict[str, list[float]] = {} if of is None else {node_id: [] for node_id in of}
    lacking = len(seen)  # tests of ``of`` without enough samples
    for record in records:
        if of is not None and not lacking:
            break
        for test in measured(record):
            durations = seen.get(test.node_id)
            if durations is None:
                if of is not None:
                    continue
                durations = seen[test.node_id] = []
            if len(durations) < samples:
                durations.append(test.seconds)
                lacking -= len(durations) == samples
    return {
        node_id: Estimate(seconds=statistics.median(durations), highest=max(durations), samples=len(durations))
        for node_id, durations in seen.items()
        if durations
    }


def last_outcomes(records: Sequence[Record], of: Iterable[str]) -> dict[str, TestOutcome]:
    """The newest outcome of each of these tests that was executed or was running, by node id."""
    outcomes: dict[str, TestOutcome] = {}
    wanted = set(of)
    for record in records:
        if not wanted:
            break
        for test in record.tier.result.tests if record.tier.result is not None else ():
            if test.outcome is not TestOutcome.SKIPPED and test.node_id in wanted:
                wanted.discard(test.node_id)
                outcomes[test.node_id] = test.outcome
    return outcomes


def failures(records: Sequence[Record]) -> dict[str, int]:
    """In how many of the runs each test failed, be it only at first, by node id; without those that never did."""
    counts: dict[str, int] = {}
    for record in records:
        for test in record.tier.result.tests if record.tier.result is not None else ():
            if test.outcome.bad or test.attempts:
                counts[test.node_id] = counts.get(test.node_id, 0) + 1
    return counts


class Flakiness(Struct, frozen=True, kw_only=True):
    """A test that failed and passed on the same code: in one run, tried again, or in two runs of a commit."""

    node_id: str
    flakes: int  # runs in which it did
    runs: int  # in which it was executed


def flakiness(records: Sequence[Record], sketched: Mapping[str, tuple[int, int]]) -> tuple[Flakiness, ...]:
    """The flaky tests, the worst first. ``sketched``: (flakes, runs) by node id of what is no longer in ``records``."""
    flakes = {node_id: number for node_id, (number, _) in sketched.items()}
    runs = {node_id: number for node_id, (_, number) in sketched.items()}
    passed: set[tuple[str, str]] = set()
    failed: dict[tuple[str, str], int] = {}
    for record in records:
        for test in record.tier.result.tests if record.tier.result is not None else ():
            if not test.outcome.executed:
                continue
            runs[test.node_id] = runs.get(test.node_id, 0) + 1
            if test.attempts and not test.outcome.bad:
                flakes[test.node_id] = flakes.get(test.node_id, 0) + 1
            elif record.sha != NO_COMMIT and test.outcome.bad:
                failed[record.sha, test.node_id] = failed.get((record.sha, test.node_id), 0) + 1
            else:
                passed.add((record.sha, test.node_id))
    for (sha, node_id), number in failed.items():
        if (sha, node_id) in passed:
            flakes[node_id] = flakes.get(node_id, 0) + number
    found = [
        Flakiness(node_id=node_id, flakes=number, runs=runs[node_id]) for node_id, number in flakes.items() if number
    ]
    return tuple(sorted(found, key=lambda test: (-test.flakes, test.node_id)))


def newest_per_tier(records: Sequence[Record]) -> dict[str, Record]:
    """Of several records of one commit, the newest of each tier."""
    found: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.time):
        found[record.name] = record
    return found
