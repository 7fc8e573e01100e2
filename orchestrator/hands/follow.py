"""Follows dispatched runs to their end, and brings their results here to be judged like those of any tier.

A look at a run that has not changed costs nothing of the rate limit (`GitHub.workflow_run`), and the looks become rarer
while nothing happens. GitHub being away for a while ends nothing: only the deadlines do.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.hands.artifacts import MOST_PACKED, RefusedArtifactError, unpack
from orchestrator.hands.collect import collect_tier, write_result
from orchestrator.hands.dispatch import Office, remember
from orchestrator.hands.recorded import recorded_commit
from orchestrator.hands.reported import read_part
from orchestrator.hands.results_folder import TIER_FILES, clear_tier
from orchestrator.hands.statuses import set_status
from orchestrator.hands.sweep import observe, results_of
from orchestrator.mind.dispatched import GRACE, Dispatch, Look, Phase, outcome_of
from orchestrator.mind.judge import judge_tier
from orchestrator.mind.readers.junit_writer import write_junit
from orchestrator.mind.render.words import duration
from orchestrator.mind.shard_results import merge_shards
from orchestrator.tools.github import RateLimited
from orchestrator.words.errors import InfrastructureError
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import TierResult
from orchestrator.words.verdict import Verdict

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds between looks
CANCEL_PATIENCE = 90.0  # seconds for what a cancelled run still has to say
_TOLD_EVERY = 300.0
_GIVEN_UP = 1800.0  # seconds past every deadline after which a GitHub that does not answer is not waited for
_WORDS = {
    Phase.LOST: "is not listed yet",
    Phase.QUEUED: "waits for a runner",
    Phase.RUNNING: "runs",
    Phase.REPORTING: "has ended",
    Phase.OVER: "has ended",
}


class _Followed(Struct, kw_only=True):
    """One dispatch while it is followed."""

    dispatch: Dispatch
    phase: Phase | None = None
    cancelled: tuple[float, Look] | None = None  # when we cancelled it, and why
    final: Look | None = None


def follow(dispatches: Sequence[Dispatch], office: Office) -> dict[str, tuple[Dispatch, Look]]:
    """Wait until all of them have ended or were ended at their deadlines; by nonce, as they are then.

    Where somebody cancels us, what was started is cancelled too. Never raises for what GitHub answers.
    """
    followed = [_Followed(dispatch=dispatch) for dispatch in dispatches]
    pause, told, silent = FIRST_PAUSE, office.now(), ""
    while pending := [one for one in followed if one.final is None]:
        if office.cancelled():
            _cancel_all(pending, office)
            break
        changed, wait = False, 0.0
        for one in pending:
            try:
                changed |= _look_at(one, office)
                silent = ""
            except InfrastructureError as error:
                if isinstance(error, RateLimited):
                    wait = max(wait, error.seconds)
                if error.message != silent and not office.cancelled():
                    office.say(f"{one.dispatch.name}: GitHub does not say how it is: {error.message}")
                    silent = error.message
                _give_up_late(one, office)
        pause = FIRST_PAUSE if changed else min(pause * 1.5, LONGEST_PAUSE)
        if office.now() - told > _TOLD_EVERY:
            told = office.now()
            for one in (one for one in pending if one.final is None):
                waited = duration(told - one.dispatch.dispatched)
                office.say(f"{one.dispatch.name}: {_WORDS[one.phase or Phase.QUEUED]} (started {waited} ago)")
        if any(one.final is None for one in followed):
            office.sleep(max(pause, wait))
    return {one.dispatch.nonce: (one.dispatch, one.final or Look(phase=Phase.LOST)) for one in followed}


def _look_at(one: _Followed, office: Office) -> bool:
    """Look at one of them, and do what has to be done. Returns whether it has changed. Raises as `GitHub` does."""
    run, found = observe(one.dispatch, office)
    if run is not None and one.dispatch.run_id is None:
        one.dispatch = replace(one.dispatch, run_id=run.id, url=run.url)
    changed = found.phase is not one.phase
    if changed:
        office.say(f"{one.dispatch.name}: {_WORDS[found.phase]}")
    one.phase = found.phase
    if one.cancelled is not None:
        at, why = one.cancelled
        if found.phase is Phase.OVER or office.now() > at + CANCEL_PATIENCE:
            one.final = why
    elif found.overdue and run is not None:
        office.say(f"{one.dispatch.name}: {found.verdict}: {found.reason}")
        office.github.cancel_run(run.id)
        one.cancelled = (office.now(), found)
        changed = True
    elif found.tests_over or (found.phase is Phase.LOST and found.verdict is not None):
        one.final = found
    return changed


def _give_up_late(one: _Followed, office: Office) -> None:
    dispatch = one.dispatch
    if office.now() > dispatch.dispatched + dispatch.queue + dispatch.budget + GRACE + _GIVEN_UP:
        reason = "GitHub could not say what became of it"
        one.final = Look(phase=Phase.LOST, verdict=Verdict.INFRASTRUCTURE, reason=reason)


def _cancel_all(pending: Sequence[_Followed], office: Office) -> None:
    """Stop what we started: first all of it, as there may be few seconds, then say so."""
    why = Look(phase=Phase.OVER, verdict=Verdict.CANCELLED, reason="whoever waited for it was cancelled")
    for one in pending:
        one.final = why
        if one.dispatch.run_id is None:
            continue
        try:
            office.github.cancel_run(one.dispatch.run_id)
            office.say(f"{one.dispatch.name}: cancelled {one.dispatch.url}")
        except InfrastructureError as error:
            office.say(f"{one.dispatch.name}: {one.dispatch.url} could not be cancelled: {error.message}")
    first = {one.dispatch.context: one.dispatch for one in reversed(pending)}
    for context, dispatch in first.items():
        try:
            said = f"{why.verdict}: {why.reason}"
            set_status(office.github, dispatch.sha, context, "error", said, url=dispatch.url)
        except InfrastructureError as error:
            office.say(f"{dispatch.tier}: its status is not shown: {error.message}")


def close(ended: Mapping[str, tuple[Dispatch, Look]], office: Office) -> None:
    """Write down that these have ended, so that no later run looks after them."""
    for dispatch, found in ended.values():
        verdict = str(found.verdict) if found.verdict is not None else None
        remember(replace(dispatch, ended=office.now(), verdict=verdict, reason=found.reason), office)


# --- results -------------------------------------------------------------------------------------------------------


def bring_results(
    tier: TierPlan, parts: Sequence[tuple[Dispatch, Look]], office: Office, *, out: Path, root: Path
) -> TierResult:
    """The result of a tier from the artifacts of its parts, which are put into its folder below ``out``.

    A part without results says by its run's end what became of it. Never raises for what is in an artifact.
    """
    folder = out / tier.name
    results = []
    for dispatch, found in parts:
        place = folder if len(parts) == 1 else folder / f"part-{dispatch.shard}"
        if place.is_dir():
            clear_tier(place)  # an earlier run's results are no evidence
        problem = _fetch(dispatch, place, office)
        results.append(_judged_part(tier, dispatch, found, place, problem, root=root))
    merged = merge_shards(results, shards=len(parts) if len(parts) > 1 else 1)
    if len(parts) > 1:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "junit.xml").write_bytes(write_junit(merged.tests, name=tier.name, seconds=merged.seconds))
            write_result(merged, folder, sha=parts[0][0].sha)
        except OSError as error:
            merged = replace(merged, problems=(*merged.problems, f"its results could not be written: {error}"))
    return merged


def _judged_part(
    tier: TierPlan, dispatch: Dispatch, found: Look, place: Path, problem: str | None, *, root: Path
) -> TierResult:
    """What came back of one part, and whether it agrees with what GitHub says of its job."""
    if problem is not None or not (place / "result.json").exists():
        outcome = outcome_of(dispatch, found)
        if problem is not None:
            outcome = replace(outcome, problems=(problem, *outcome.problems))
        result = collect_tier(tier, outcome, place, root=root)
        return replace(result, reason=outcome.reason)
    result = read_part(tier, place, root=root)
    wrong = []
    if (sha := recorded_commit(place)) != dispatch.sha:
        wrong.append(f"its results are of commit {str(sha)[:10]}, and {dispatch.sha[:10]} was to be tested")
    expected = [(dispatch.shard, dispatch.shards)] if dispatch.shards > 1 else []
    if [(part.shard, part.shards) for part in result.parts] != expected and result.has_report:
        wrong.append(f"its results are not those of part {dispatch.shard} of {dispatch.shards}")
    if found.conclusion == "failure" and judge_tier(tier, result).verdict in (Verdict.PASSED, Verdict.FLAKY):
        wrong.append(f"its job failed, though none of its tests did: see {dispatch.url}")
    return replace(result, problems=(*result.problems, *wrong)) if wrong else result


def _fetch(dispatch: Dispatch, place: Path, office: Office) -> str | None:
    """Put a part's results into ``place``. Returns what is wrong with them; None also where there are none."""
    if dispatch.run_id is None:
        return None
    try:
        artifacts = [one for one in results_of(office.github, dispatch.run_id) if not one.expired]
        for number, artifact in enumerate(artifacts):
            if artifact.size > MOST_PACKED:
                return f"its artifact {artifact.name} is larger than {MOST_PACKED >> 20} MiB"
            content = office.github.download_artifact(artifact.id)
            with tempfile.TemporaryDirectory(prefix="mltiers-") as scratch:
                unpacked = Path(scratch) / str(number)
                unpack(content, unpacked)
                _take(unpacked / dispatch.tier, place)
    except RefusedArtifactError as error:
        return f"its artifact is refused: {error.message}"
    except InfrastructureError as error:
        return f"its results could not be fetched: {error.message}"
    except OSError as error:
        return f"its results could not be kept: {error}"
    return None


def _take(source: Path, place: Path) -> None:
    """The files of a tier that we know, and its coverage data."""
    if not source.is_dir():
        return
    place.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_file() and (entry.name in TIER_FILES or entry.name.startswith(".coverage")):
            shutil.copyfile(entry, place / entry.name)
