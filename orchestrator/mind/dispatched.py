"""A tier's part that was started on another machine: what is remembered of it, how it is found again, what its run's
state means. Pure.

Its deadlines need nobody who watches: what they are is written down when it is started (`encode`), and any later run of
ours compares that with what GitHub says of it (`look`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, fields, replace

from orchestrator.mind.render.words import budget as limit
from orchestrator.mind.render.words import visible
from orchestrator.words.event import WorkflowJob, WorkflowRun
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending, Outcome
from orchestrator.words.verdict import Verdict

WORKFLOW = "gpu-tier.yml"
FOLDER = "dispatches"  # of the history
GRACE = 600.0  # seconds beside the budget, in which a machine checks out and installs
KEPT = 7 * 86400.0  # seconds for which one that has ended is remembered
_VERSION = 1


class Dispatch(Struct, frozen=True, kw_only=True):
    """One dispatched part of a tier, as it is remembered. Times are Unix seconds."""

    nonce: str  # in its run's name: how the run is found where GitHub did not say which it is
    tier: str
    sha: str
    shard: int = 1
    shards: int = 1
    workflow: str = WORKFLOW
    run_id: int | None = None
    url: str | None = None
    dispatched: float
    queue: float  # seconds it may wait for a runner
    budget: float
    runner: tuple[str, ...] = ()
    context: str = ""  # of its commit status
    pull_request: int | None = None
    config: str = "ml-tiers.yml"
    timings: str | None = None  # version of the history that its tests are split by
    ended: float | None = None
    verdict: str | None = None
    reason: str | None = None

    @property
    def part(self) -> str:
        """``2/8``; nothing for a tier that is not split."""
        return f"{self.shard}/{self.shards}" if self.shards > 1 else ""

    @property
    def name(self) -> str:
        """For humans: ``gpu``, ``gpu 2/8``."""
        return f"{self.tier} {self.part}".rstrip()


class Phase(str, Enum):
    """How far a dispatched run has come."""

    LOST = "lost"  # there is no such run
    QUEUED = "queued"  # no runner has taken it
    RUNNING = "running"
    REPORTING = "reporting"  # its tests are over, its run is not
    OVER = "over"


class Look(Struct, frozen=True, kw_only=True):
    """What a dispatched run's state means at one moment.

    ``verdict``: what its end means as far as GitHub alone tells (its own results say more); None while it may go on, or
    where only its results tell. ``overdue``: it has to be cancelled, with that verdict.
    """

    phase: Phase
    verdict: Verdict | None = None
    overdue: bool = False
    reason: str = ""
    conclusion: str | None = None  # GitHub's word for how its tests' job ended

    @property
    def tests_over(self) -> bool:
        """Whether nothing more will come of it but what is there."""
        return self.phase in (Phase.REPORTING, Phase.OVER)


# --- starting ------------------------------------------------------------------------------------------------------


def plan_dispatches(plan: Plan, tier: TierPlan, *, now: float, salt: str = "") -> tuple[Dispatch, ...]:
    """What has to be started for a tier of the plan: one part each. The same plan gives the same nonces.

    ``salt``: makes them new ones, for somebody who insists on another run of the same plan.
    """
    event = plan.event
    run = event.run
    number = event.pull_request.number if event.pull_request is not None else None
    facts = [event.repository, plan.config_id, event.name, event.sha, number, run.run_id if run else None, salt]
    identity = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    attempt = run.attempt if run is not None else 1
    return tuple(
        Dispatch(
            nonce=f"{identity}.{attempt}.{tier.name}.{shard}of{tier.shards}",
            tier=tier.name,
            sha=event.sha or "",
            shard=shard,
            shards=tier.shards,
            dispatched=now,
            queue=tier.queue,
            budget=tier.budget,
            runner=tier.runner,
            context=status_context(plan.config_path, tier.name),
            pull_request=number,
            config=plan.config_path,
            timings=tier.timings if tier.shards > 1 else None,
        )
        for shard in range(1, tier.shards + 1)
    )


def workflow_inputs(dispatch: Dispatch) -> dict[str, str]:
    """What the dispatched workflow is given. Values are text, as Actions hands them on."""
    return {
        "tier": dispatch.tier,
        "sha": dispatch.sha,
        "shard": f"{dispatch.part}@{dispatch.timings}" if dispatch.part and dispatch.timings else dispatch.part,
        "pr": "" if dispatch.pull_request is None else str(dispatch.pull_request),
        "nonce": dispatch.nonce,
        "runner": json.dumps(list(dispatch.runner)),
        "minutes": str(-int(-(dispatch.budget + GRACE) // 60)),
        "config": dispatch.config,
    }


def status_context(config_path: str, tier: str) -> str:
    """The name of a tier's commit status. A second configuration of a repository has names of its own."""
    return f"mltiers/{tier}" if config_path == "ml-tiers.yml" else f"mltiers/{tier} ({config_path})"


# --- finding again -------------------------------------------------------------------------------------------------


def find_run(nonce: str, runs: Iterable[WorkflowRun]) -> WorkflowRun | None:
    """The run whose name has the nonce as a word of its own."""
    return next((run for run in runs if nonce in run.title.split()), None)


def part_nonces(nonce: str) -> tuple[str, ...]:
    """The nonces of all parts of the tier that this one is a part of, in order; nothing for what is no nonce."""
    stem, _, part = nonce.rpartition(".")
    _, separator, count = part.partition("of")
    if not (stem and separator and count.isdecimal() and 1 <= int(count) <= 256):
        return ()
    return tuple(f"{stem}.{shard}of{count}" for shard in range(1, int(count) + 1))


# --- remembering ---------------------------------------------------------------------------------------------------


def file_name(nonce: str) -> str:
    """Where the history keeps it."""
    return f"{FOLDER}/{nonce}.json"


def encode(dispatch: Dispatch) -> bytes:
    """As the history keeps it."""
    return (json.dumps({"version": _VERSION, **asdict(dispatch)}) + "\n").encode()


def decode(data: bytes) -> Dispatch | None:
    """What the history keeps; None for what is none, or of a later version."""
    try:
        facts: dict[str, Any] = json.loads(data)
        if facts.pop("version") != _VERSION:
            return None
        known = {field.name for field in fields(Dispatch)}
        dispatch = Dispatch(**{key: value for key, value in facts.items() if key in known})
        dispatch = replace(dispatch, runner=tuple(map(str, dispatch.runner)))
        numbers = (dispatch.dispatched, dispatch.queue, dispatch.budget)
        texts = (dispatch.nonce, dispatch.tier, dispatch.sha, dispatch.workflow, dispatch.context)
        sound = all(isinstance(n, (int, float)) for n in numbers) and all(isinstance(t, str) for t in texts)
        return dispatch if sound and isinstance(dispatch.run_id, (int, type(None))) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


# --- what its state means ------------------------------------------------------------------------------------------

_CONCLUSIONS = {
    "success": "its run ended with success and left no results",
    "failure": "its run failed and left no results",
    "neutral": "its run ended as neutral and left no results",
    "skipped": "its run was skipped: look at the `if:` of its jobs",
    "stale": "GitHub gave its run up as stale: it waited for too long",
    "startup_failure": "its workflow could not be started: it is not valid on that branch",
    "action_required": "its run waits for somebody's approval on GitHub",
}


def look(
    dispatch: Dispatch, run: WorkflowRun | None, jobs: Sequence[WorkflowJob], *, now: float, grace: float = GRACE
) -> Look:
    """What is known of a dispatched run. ``run`` None: it was not found. ``jobs``: of the run."""
    tests = _tests(dispatch, jobs)
    taken = [job for job in tests if job.status in ("in_progress", "completed") and job.runner is not None]
    if run is None:
        if now > dispatch.dispatched + dispatch.queue:
            return Look(phase=Phase.LOST, verdict=Verdict.NEVER_STARTED, reason="GitHub has no run of it")
        return Look(phase=Phase.LOST)
    if run.over:
        return _ended(dispatch, run, tests, taken, grace)
    if tests and all(job.status == "completed" for job in tests):
        return replace(_ended(dispatch, run, tests, taken, grace), phase=Phase.REPORTING)
    if not taken:
        late = now > dispatch.dispatched + dispatch.queue
        return _overdue(Phase.QUEUED, Verdict.NEVER_STARTED, _no_runner(dispatch)) if late else Look(phase=Phase.QUEUED)
    began = min((job.started for job in taken if job.started is not None), default=dispatch.dispatched)
    if now > began + dispatch.budget + grace:
        return _overdue(Phase.RUNNING, Verdict.OVER_BUDGET, _over_budget(dispatch, now - began))
    return Look(phase=Phase.RUNNING)


def _overdue(phase: Phase, verdict: Verdict, reason: str) -> Look:
    return Look(phase=phase, verdict=verdict, overdue=True, reason=reason)


def _ended(
    dispatch: Dispatch, run: WorkflowRun, tests: Sequence[WorkflowJob], taken: Sequence[WorkflowJob], grace: float
) -> Look:
    """What the end of a run, or of its tests, means. Whoever cancelled an overdue one, its times say why."""
    conclusions = [job.conclusion for job in tests if job.conclusion is not None]
    conclusion = next((c for c in conclusions if c not in ("success", "skipped")), run.conclusion)
    conclusion = conclusion or next(iter(conclusions), None)
    if conclusion == "timed_out":
        verdict, reason = Verdict.OVER_BUDGET, "GitHub stopped it at its job's `timeout-minutes`"
    elif conclusion == "cancelled":
        verdict, reason = _cancelled(dispatch, tests, taken, grace)
    else:
        unknown = f"its run ended as {visible(str(conclusion))}, which means nothing to us"
        verdict, reason = Verdict.INFRASTRUCTURE, _CONCLUSIONS.get(conclusion or "", unknown)
    return Look(phase=Phase.OVER, verdict=verdict, reason=reason, conclusion=conclusion)


def _cancelled(
    dispatch: Dispatch, tests: Sequence[WorkflowJob], taken: Sequence[WorkflowJob], grace: float
) -> tuple[Verdict, str]:
    stopped = max((job.completed for job in tests if job.completed is not None), default=None)
    if not taken and stopped is not None and stopped >= dispatch.dispatched + dispatch.queue:
        return Verdict.NEVER_STARTED, _no_runner(dispatch)
    began = min((job.started for job in taken if job.started is not None), default=None)
    if began is not None and stopped is not None and stopped >= began + dispatch.budget + grace:
        return Verdict.OVER_BUDGET, _over_budget(dispatch, stopped - began)
    return Verdict.CANCELLED, "somebody cancelled its run"


def _no_runner(dispatch: Dispatch) -> str:
    return f"no runner with [{', '.join(dispatch.runner)}] took it within {limit(dispatch.queue)}"


def _over_budget(dispatch: Dispatch, seconds: float) -> str:
    return f"it was cancelled after {limit(round(seconds))}, past its budget of {limit(dispatch.budget)}"


def _tests(dispatch: Dispatch, jobs: Sequence[WorkflowJob]) -> list[WorkflowJob]:
    """The jobs that ask for the tier's runner; where none does (somebody changed the workflow), all of them."""
    wanted = {label.lower() for label in dispatch.runner}
    return [job for job in jobs if wanted and wanted <= {label.lower() for label in job.labels}] or list(jobs)


def outcome_of(dispatch: Dispatch, found: Look) -> Outcome:
    """How a part that left no results ended."""
    endings = {
        Verdict.CANCELLED: Ending.CANCELLED,
        Verdict.NEVER_STARTED: Ending.NEVER_STARTED,
        Verdict.OVER_BUDGET: Ending.DEADLINE,
    }
    where = f"see {dispatch.url}" if dispatch.url else "its run is not known"
    ending = endings.get(found.verdict or Verdict.INFRASTRUCTURE, Ending.NOT_STARTED)
    reason = found.reason or "nothing came back from it"
    if dispatch.part:
        reason = f"part {dispatch.part}: {reason}"
    problems = (where,) if ending in (Ending.NOT_STARTED, Ending.NEVER_STARTED) else (reason, where)
    return Outcome(tier=dispatch.tier, ending=ending, reason=reason, problems=problems)
