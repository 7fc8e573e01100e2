"""The tiers of a plan that run on other machines, from the first to be started to the last to be waited for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from orchestrator.hands.artifacts import MOST_PACKED, unpack
from orchestrator.hands.dispatch import DispatchError, Office, dispatch_tier
from orchestrator.hands.follow import bring_results, close, follow
from orchestrator.hands.statuses import set_status
from orchestrator.hands.sweep import results_of
from orchestrator.mind.dispatched import (
    Dispatch,
    Look,
    Phase,
    decode,
    file_name,
    find_run,
    look,
    part_nonces,
    status_context,
)
from orchestrator.mind.judge import NOTHING_CHANGED, judge_tier
from orchestrator.tools.history import HistoryError
from orchestrator.words.errors import InfrastructureError, UsageError
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending, TierResult
from orchestrator.words.verdict import Verdict

_GOOD = (Verdict.PASSED, Verdict.FLAKY)
_RUNS_OF = 30 * 86400.0  # seconds in which the parts of one tier are looked for: GitHub ends a run after 35 days


class Elsewhere:
    """What a run of ours started on other machines. ``office`` None: GitHub cannot be spoken to.

    ``changed``: what coverage of the change is measured over, as `judge.measurable` has it.
    """

    def __init__(
        self,
        plan: Plan,
        office: Office | None,
        *,
        salt: str = "",
        changed: Mapping[str, frozenset[int]] | None = NOTHING_CHANGED,
    ) -> None:
        self.changed = changed
        self.plan = plan
        self.office = office
        self.salt = salt
        self.waiting = {tier.name: tier for tier in plan.tiers if tier.run and tier.where == "dispatched"}
        self.started: dict[str, tuple[Dispatch, ...]] = {}
        self.results: dict[str, TierResult] = {}

    def start(self, verdicts: Mapping[str, Verdict]) -> None:
        """Start every tier whose needs are settled. ``verdicts``: of the tiers that have ended."""
        planned = {tier.name for tier in self.plan.tiers if tier.run}
        for tier in sorted(self.waiting.values(), key=lambda tier: -tier.priority):
            needs = [need for need in tier.needs if need in planned]
            if unmet := [need for need in needs if need in verdicts and verdicts[need] not in _GOOD]:
                self._settle(tier, Ending.NOT_STARTED, f"needs {', '.join(unmet)}, which did not pass")
            elif all(need in verdicts for need in needs):
                self._start(tier)

    def _start(self, tier: TierPlan) -> None:
        if self.office is None:
            reason = "it cannot be started: there is no GITHUB_TOKEN"
            self._settle(tier, Ending.NOT_STARTED, reason, "give the action a `token`")
        elif self.office.cancelled():
            self._settle(tier, Ending.CANCELLED, "the run was cancelled before it was started")
        else:
            try:
                self.started[tier.name] = dispatch_tier(self.plan, tier, self.office, salt=self.salt)
            except DispatchError as error:
                self.office.say(str(error))
                self._settle(tier, Ending.NOT_STARTED, error.message, error.remedy or "see the log of this job")
            else:
                del self.waiting[tier.name]

    def _settle(self, tier: TierPlan, ending: Ending, reason: str, problem: str | None = None) -> None:
        problems = (problem,) if problem is not None else ()
        self.results[tier.name] = TierResult(name=tier.name, ending=ending, reason=reason, problems=problems)
        self.waiting.pop(tier.name, None)

    def leave(self) -> dict[str, TierResult]:
        """What is to be said of them where nobody waits: that they run, and where."""
        for name, dispatches in self.started.items():
            where = ", ".join(dispatch.url or dispatch.nonce for dispatch in dispatches)
            reason = f"started elsewhere, and reports from there as {dispatches[0].context}: {where}"
            self.results[name] = TierResult(name=name, ending=Ending.DISPATCHED, reason=reason)
        for tier in list(self.waiting.values()):
            why = f"needs {', '.join(tier.needs)}, which runs elsewhere: with `wait: true` it is started after that"
            self._settle(tier, Ending.NOT_STARTED, why)
        return self.results

    def wait(self, verdicts: Mapping[str, Verdict], *, out: Path, root: Path) -> dict[str, TierResult]:
        """Wait for them, starting each when what it needs has passed, and bring their results here."""
        if self.office is None:
            return self.results
        known = dict(verdicts)
        fetched: set[str] = set()
        while pending := {name: parts for name, parts in self.started.items() if name not in fetched}:
            followed = follow([dispatch for parts in pending.values() for dispatch in parts], self.office)
            close(followed, self.office)
            for name, dispatches in pending.items():
                tier = self.plan.tier(name)
                parts = [followed[dispatch.nonce] for dispatch in dispatches]
                self.results[name] = bring_results(tier, parts, self.office, out=out, root=root)
                known[name] = judge_tier(tier, self.results[name], changed=self.changed).verdict
                fetched.add(name)
            self.start(known)
        return self.results

    def ours(self, dispatch: Dispatch) -> bool:
        """Whether we started it, so that nobody else need look after it now."""
        return any(dispatch.nonce == own.nonce for parts in self.started.values() for own in parts)


# --- the reporting side --------------------------------------------------------------------------------------------


def report_part(
    plan: Plan, tier: TierPlan, nonce: str, office: Office, *, own_run: int, out: Path, root: Path
) -> TierResult:
    """The result of a dispatched tier as the last of its parts to end reports it, called from the run of one of them.

    Where others are still running it is Ending.DISPATCHED, and the status says how many are in. Two that end at once
    both find everything there, and both say the same. Raises UsageError, and InfrastructureError where GitHub cannot
    say which runs there are.
    """
    nonces = part_nonces(nonce)
    if nonce not in nonces:
        raise UsageError(f"--nonce {nonce!r} is not one of ours", remedy="give the workflow's input `nonce`")
    tier = replace(tier, shards=len(nonces))
    known = _remembered(nonces, office)
    parts = [_part(plan, tier, nonces, shard, known, office, own_run=own_run) for shard in range(1, len(nonces) + 1)]
    ended = [found for _, found in parts if found.tests_over or found.verdict is not None]
    if len(ended) < len(parts):
        said = f"{len(ended)} of {len(parts)} parts have ended; the last one reports"
        context = status_context(plan.config_path, tier.name)
        set_status(office.github, plan.event.sha or "", context, "pending", said, url=None)
        return TierResult(name=tier.name, ending=Ending.DISPATCHED, reason=said)
    result = bring_results(tier, parts, office, out=out, root=root)
    close({dispatch.nonce: (dispatch, found) for dispatch, found in parts}, office)
    return result


def _remembered(nonces: tuple[str, ...], office: Office) -> dict[str, Dispatch]:
    if office.store is None:
        return {}
    try:
        files = office.store.snapshot().read([file_name(nonce) for nonce in nonces])
    except HistoryError as error:
        office.say(f"when it was dispatched is not remembered: {error.message}")
        return {}
    found = [decode(data) for data in files.values()]
    return {dispatch.nonce: dispatch for dispatch in found if dispatch is not None}


def _part(
    plan: Plan,
    tier: TierPlan,
    nonces: tuple[str, ...],
    shard: int,
    known: Mapping[str, Dispatch],
    office: Office,
    *,
    own_run: int,
) -> tuple[Dispatch, Look]:
    """One part of the tier, as GitHub has it now."""
    nonce = nonces[shard - 1]
    dispatch = known.get(nonce) or Dispatch(
        nonce=nonce,
        tier=tier.name,
        sha=plan.event.sha or "",
        shard=shard,
        shards=len(nonces),
        dispatched=0.0,
        queue=tier.queue,
        budget=tier.budget,
        runner=tier.runner,
        context=status_context(plan.config_path, tier.name),
        pull_request=plan.event.pull_request.number if plan.event.pull_request is not None else None,
        config=plan.config_path,
    )
    if len(nonces) == 1:
        run = office.github.workflow_run(own_run)
    elif dispatch.run_id is not None:
        run = office.github.workflow_run(dispatch.run_id)
    else:
        since = office.now() - _RUNS_OF
        listed = find_run(nonce, office.github.workflow_runs(dispatch.workflow, since=since))
        if listed is None:
            return dispatch, Look(phase=Phase.LOST)
        run = listed
    dispatch = replace(dispatch, run_id=run.id, url=run.url, dispatched=dispatch.dispatched or run.created)
    jobs = office.github.run_jobs(run.id)
    if run.id == own_run:
        jobs = tuple(job for job in jobs if job.status == "completed")  # all but the one that we are
    return dispatch, look(dispatch, run, jobs, now=office.now())


@contextmanager
def artifacts_of(office: Office, run_id: int) -> Iterator[list[Path]]:
    """What the jobs of a run uploaded, each artifact in a folder of its own, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="mltiers-") as scratch:
        folders = []
        for artifact in results_of(office.github, run_id):
            if artifact.expired:
                continue
            if artifact.size > MOST_PACKED:
                raise InfrastructureError(f"the artifact {artifact.name} is larger than {MOST_PACKED >> 20} MiB")
            folder = Path(scratch) / str(artifact.id)
            unpack(office.github.download_artifact(artifact.id), folder)
            folders.append(folder)
        yield folders
