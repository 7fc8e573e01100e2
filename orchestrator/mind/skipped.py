"""Tests that a tier skipped and another one ran: a skip that somebody makes up for is not a hole. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.mind.records.history import History
from orchestrator.words.results import TestOutcome, TierResult
from orchestrator.words.verdict import RunVerdict, SkippedHere


def skipped_here(run: RunVerdict, history: History) -> tuple[SkippedHere, ...]:
    """For each tier with skips, which other tier executed them: in this run, or else when it last ran on the default
    branch.
    """
    return tuple(_skipped_here(run, history))


def _skipped_here(run: RunVerdict, history: History) -> Iterator[SkippedHere]:
    results = {tier.name: tier.result for tier in run.tiers if tier.result is not None and tier.result.tests}
    now = max((r.started + r.seconds for r in results.values() if r.started is not None), default=None)
    for tier, result in results.items():
        skipped = {test.node_id for test in result.tests if test.outcome is TestOutcome.SKIPPED}
        for other in dict.fromkeys((*results, *history.tiers)) if skipped else ():
            record = history.baseline(other) if other not in results else None
            theirs = results.get(other) or (record.tier.result if record is not None else None)
            if other == tier or theirs is None or not (made_up := skipped & _executed(theirs)):
                continue
            age = max(0.0, now - record.time) if record is not None and now is not None else None
            sha = record.sha if record is not None else None
            yield SkippedHere(tier=tier, skipped=len(skipped), ran=len(made_up), where=other, sha=sha, age=age)


def _executed(result: TierResult) -> set[str]:
    return {test.node_id for test in result.tests if test.outcome.executed}
