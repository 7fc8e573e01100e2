"""Results that were collected elsewhere: which tiers they are, what was planned for them, how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from orchestrator.hands.collect import collect_tier
from orchestrator.hands.recorded import (
    RecordedPlan,
    find_parts,
    recorded_commit,
    recorded_outcome,
    recorded_plan,
)
from orchestrator.mind.shard_results import merge_shards
from orchestrator.words.errors import UsageError
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import TierResult

_GIVEN = "reported"
_NOT_HERE = "no results of it were given"


def read_parts(
    plan: Plan, folders: Sequence[Path], *, root: Path, on_github: bool, promised: bool = False
) -> tuple[Plan, dict[str, TierResult]]:
    """The plan as far as these folders speak of it, and what they hold, by tier.

    A tier that is here was run, whatever today's event would say. A tier that is not here is missing where a
    ``plan.json`` beside the results says that it was to run, where ``on_github`` (the event is the one it was planned
    for), or where it is ``promised`` (asked for by name); otherwise nobody promised it, and it is ``not-run``. Raises
    UsageError for a folder that is none, or that holds nothing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder}: there is no such folder", remedy="give folders laid out as `--out` writes them"
            )
    parts = find_parts(folders)
    plans = [then for folder in folders if (then := recorded_plan(folder)) is not None]
    if not parts and not promised:
        given = ", ".join(str(folder) for folder in folders)
        raise UsageError(f"{given}: no TIER/junit.xml in it", remedy="give folders laid out as `--out` writes them")
    tiers = [_as_reported(tier, plans, found=tier.name in parts, promised=on_github) for tier in plan.tiers]
    known = {tier.name for tier in tiers}
    strangers = [TierPlan(name=name, run=True, reason=_GIVEN, coverage=False) for name in parts if name not in known]
    partial = not on_github and bool(plans) and all(then.partial for then in plans) and not known <= parts.keys()
    plan = replace(plan, tiers=(*tiers, *strangers), partial=plan.partial or partial)
    sha = plan.event.sha
    return plan, {name: _read_tier(plan.tier(name), found, root, sha=sha) for name, found in parts.items()}


def _as_reported(tier: TierPlan, plans: Sequence[RecordedPlan], *, found: bool, promised: bool) -> TierPlan:
    """The tier as it was planned where its results come from. What it is held to is never taken from there."""
    said = [then.tiers[tier.name] for then in plans if tier.name in then.tiers]
    ran = next((one for one in said if one.run and one.where == "here"), None)
    if found or ran is not None:
        return replace(tier, run=True, reason=_GIVEN) if ran is None else _as_planned(tier, ran)
    if promised:
        return tier
    why = next((one.reason for one in said if not one.run and one.reason), _NOT_HERE if tier.run else tier.reason)
    return replace(tier, run=False, reason=why)


def _as_planned(tier: TierPlan, then: TierPlan) -> TierPlan:
    return replace(
        tier,
        run=True,
        reason=then.reason or _GIVEN,
        coverage=then.coverage,
        workers=then.workers,
        python=then.python,
        command=then.command,
        notes=then.notes,
        details=then.details,
        predicted_seconds=then.predicted_seconds,
        predicted_low=then.predicted_low,
        predicted_high=then.predicted_high,
        predicted_note=then.predicted_note,
    )


def _read_tier(plan: TierPlan, folders: Sequence[Path], root: Path, *, sha: str | None) -> TierResult:
    return merge_shards([_of_its_commit(read_part(plan, folder, root=root), folder, sha) for folder in folders])


def _of_its_commit(result: TierResult, folder: Path, sha: str | None) -> TierResult:
    """The result, and that it is of another commit than is reported on: an earlier run may have left it."""
    own = recorded_commit(folder)
    if own is None or sha is None or own == sha:
        return result
    return replace(result, notes=(f"its results are of {own[:10]}, not of {sha[:10]}", *result.notes))


def read_part(plan: TierPlan, folder: Path, *, root: Path) -> TierResult:
    """One folder with results of a tier, as it was left elsewhere."""
    return collect_tier(plan, recorded_outcome(plan.name, folder), folder, root=root)
