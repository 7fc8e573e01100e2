"""The state of a commit over all runs that tested it: what the pull request's comment shows. Pure.

Tiers run in jobs that know nothing of each other and end in any order. Each stores its results, and then shows what
is stored: so whoever comes last, the comment is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from orchestrator.mind.coverage_past import NO_PAST, CoveragePast
from orchestrator.mind.judge import judge_run
from orchestrator.mind.plan import NOT_ASKED_FOR
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import newest_per_tier
from orchestrator.words.verdict import RunVerdict, TierVerdict

_NOTHING_YET = "no result of it is known for this commit"


def view(
    run: RunVerdict,
    stored: Sequence[Record],
    *,
    run_key: str,
    changed_lines: Mapping[str, frozenset[int]] | None,
    past: CoveragePast = NO_PAST,
) -> RunVerdict:
    """This run, completed with what is stored of its commit. ``run_key``: this run's own records, which it knows better
    than they do. A tier's newest result counts; the thresholds are judged over all tiers together.
    """
    newest = newest_per_tier(stored)
    own_stored = {record.name for record in stored if record.run == run_key}
    tiers, runs = [], [run.plan.partial]
    for tier in run.tiers:
        record = newest.get(tier.name)
        newer = record is not None and record.run != run_key and (tier.result is None or tier.name in own_stored)
        if record is not None and newer:
            tiers.append(record.tier)
            runs.append(record.partial)
        else:
            tiers.append(_reason_elsewhere(tier, stored) if tier.result is None else tier)
    known = {tier.name for tier in run.tiers}
    tiers += [record.tier for name, record in sorted(newest.items()) if name not in known]
    plan = replace(run.plan, tiers=tuple(tier.plan for tier in tiers), partial=all(runs))
    return judge_run(plan, tuple(tiers), changed_lines=changed_lines, past=past)


def _reason_elsewhere(tier: TierVerdict, stored: Sequence[Record]) -> TierVerdict:
    """A tier that has run nowhere: why, as the run said that was not about single tiers."""
    if tier.plan.run or tier.plan.reason != NOT_ASKED_FOR:
        return tier
    for record in stored:
        for other in record.others:
            if other.name == tier.name:
                return other
    return replace(tier, plan=replace(tier.plan, reason=_NOTHING_YET), reasons=(_NOTHING_YET,))
