"""Commit statuses `mltiers/TIER`: what a team can make a required check of a tier that runs on its own machines.

A tier that runs where the command runs has none: its job is a check already.
"""

from __future__ import annotations

from orchestrator.mind.dispatched import status_context
from orchestrator.mind.judge import as_it_was
from orchestrator.mind.plan import NOT_ASKED_FOR
from orchestrator.mind.render.words import counts, duration, one_line
from orchestrator.tools.github import DESCRIPTION_LIMIT, Forbidden, GitHub
from orchestrator.words.errors import ExitCode, InfrastructureError
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Ending
from orchestrator.words.verdict import RunVerdict, TierVerdict, Verdict

_GOOD = (Verdict.PASSED, Verdict.FLAKY)
_BAD = (Verdict.FAILED, Verdict.OVER_BUDGET)


def status_of(tier: TierVerdict) -> tuple[str, str] | None:
    """GitHub's state and the description of a tier's status; None where this run has nothing to say about it."""
    plan = tier.plan
    if not plan.runner or plan.where != "dispatched" or plan.reason == NOT_ASKED_FOR or plan.settled:
        return None
    if tier.result is not None and tier.result.ending is Ending.DISPATCHED:
        return None  # whoever started it has said so, and its own run says the rest
    if tier.verdict is Verdict.NOT_RUN:
        if plan.waiting:
            return "pending", plan.reason
        return ("failure" if tier.exit_code else "success"), f"not run: {_first(tier)}"
    if tier.verdict is Verdict.SUPERSEDED:
        tier = as_it_was(tier)
    return _state(tier), _told(tier)


def _state(tier: TierVerdict) -> str:
    if tier.verdict in _GOOD:
        return "failure" if tier.exit_code is not ExitCode.PASSED else "success"
    return "failure" if tier.verdict in _BAD else "error"


def _told(tier: TierVerdict) -> str:
    said = f"{tier.verdict}: {_first(tier)}" if tier.verdict not in _GOOD or tier.reasons else str(tier.verdict)
    if tier.verdict in _GOOD and tier.result is not None:
        said += f": {counts(tier.result.counts, flaky=tier.result.flaky)} in {duration(tier.result.seconds)}"
    return said


def _first(tier: TierVerdict) -> str:
    return tier.reasons[0] if tier.reasons else tier.plan.reason


def post_statuses(run: RunVerdict, github: GitHub, *, url: str | None) -> list[str]:
    """Set the status of every remote tier of the run. Returns what GitHub would not be told, and why.

    Where nothing ran elsewhere and the token may not, nothing is wrong: a team without required checks need not give
    its job the permission.
    """
    event = run.plan.event
    if event.sha is None or not event.on_github:
        return []
    wrong: list[str] = []
    known: set[str] | None = None
    for tier in run.tiers:
        said = status_of(tier)
        idle = tier.verdict is Verdict.NOT_RUN and not tier.plan.capped
        if said is None or (idle and event.name == "issue_comment"):  # nobody's comment excuses a tier from running
            continue
        context = status_context(run.plan.config_path, tier.name)
        try:
            if idle:
                known = _known(github, event.sha) if known is None else known
                if context in known:
                    continue  # an approved run has told more of this commit, or waits to
            set_status(github, event.sha, context, said[0], said[1], url=url)
        except Forbidden as error:
            if tier.verdict is Verdict.NOT_RUN:
                return wrong
            wrong.append(f"the status of {tier.name}: {error.line}")
        except InfrastructureError as error:
            wrong.append(f"the status of {tier.name}: {error.line}")
    return wrong


def _known(github: GitHub, sha: str) -> set[str]:
    """The contexts that the commit has a status of already."""
    return {status.context for status in github.commit_statuses(sha)}


def set_status(github: GitHub, sha: str, context: str, state: str, description: str, *, url: str | None) -> None:
    """Set one status; the description is made one line of GitHub's 140 characters."""
    told = one_line(description, DESCRIPTION_LIMIT)
    github.set_status(sha, state=state, context=context, description=told, target_url=url)


def current_state(github: GitHub, sha: str, context: str) -> str | None:
    """The state that counts under a context; None: there is none."""
    return next((status.state for status in github.commit_statuses(sha) if status.context == context), None)


def pending_words(plan: TierPlan, *, shards: int) -> str:
    """What a status says while its tier waits for a runner, or runs."""
    machines = f", on {shards} machines" if shards > 1 else ""
    return f"started on [{', '.join(plan.runner)}]{machines}; waits for its result"
