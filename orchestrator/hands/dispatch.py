"""Starts the tiers that belong on other machines, each part exactly once, and remembers what was started.

The order is what makes it once: first it is written down that a part is about to be started, then it is started, then
which run it became. Whoever comes after a crash in between finds the note, and looks for the run by its nonce before it
would start another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.hands.statuses import pending_words, set_status
from orchestrator.mind.dispatched import (
    WORKFLOW,
    Dispatch,
    decode,
    encode,
    file_name,
    find_run,
    plan_dispatches,
    workflow_inputs,
)
from orchestrator.tools.github import AnswerLost, Forbidden, GitHub, GithubError, NotFound, WorkflowRun
from orchestrator.tools.history import HistoryError, Snapshot, Store
from orchestrator.words.errors import InfrastructureError
from orchestrator.words.plan import Plan, TierPlan

LISTED_WITHIN = 90.0  # seconds after which a run that was started is surely listed
_SKEW = 3600.0  # between this machine's clock and GitHub's
_STARTER = f"Copy the starter workflows/{WORKFLOW} of this release to .github/workflows/ on the default branch."


class DispatchError(InfrastructureError):
    """A tier could not be started; the message names it, the remedy what to change."""


class Office(Struct, frozen=True, kw_only=True):
    """From where tiers are started and followed. ``store`` None: nothing is remembered between runs."""

    github: GitHub
    store: Store | None
    talk: TextIO
    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] = time.sleep
    cancelled: Callable[[], bool] = field(default=lambda: False)

    def say(self, text: str) -> None:
        print(text, file=self.talk, flush=True)


def dispatch_tier(plan: Plan, tier: TierPlan, office: Office, *, salt: str = "") -> tuple[Dispatch, ...]:
    """Start every part of a tier that is not started yet, and set its status to pending. Raises DispatchError."""
    if plan.event.sha is None:
        raise DispatchError(f"tier {tier.name}: there is no commit to test")
    wanted = plan_dispatches(plan, tier, now=office.now(), salt=salt)
    started = []
    try:
        known = _remembered(office, wanted)
        listed = _listing(office, wanted)
        branch = plan.event.default_branch or office.github.default_branch()
        for dispatch in wanted:
            started.append(_once(dispatch, known.get(dispatch.nonce), listed, office, branch=branch))
    except InfrastructureError as error:
        if started:
            office.say(f"{tier.name}: {len(started)} of {len(wanted)} parts were started")
        if isinstance(error, DispatchError):
            raise
        raise DispatchError(f"tier {tier.name} could not be started: {error.message}", remedy=error.remedy) from None
    _mark_pending(tier, started, office)
    return tuple(started)


def _once(
    dispatch: Dispatch, known: Dispatch | None, listed: Sequence[WorkflowRun], office: Office, *, branch: str
) -> Dispatch:
    """The part as started: now, or before if this plan was here already."""
    if known is not None and known.run_id is not None:
        office.say(f"{dispatch.name}: was started already: {known.url}")
        return known
    found = find_run(dispatch.nonce, listed)
    if found is None and known is not None:
        # Somebody was about to start it and did not say what came of it; young runs may not be listed yet.
        found = _await_listing(known, office, until=known.dispatched + LISTED_WITHIN)
        dispatch = replace(known, dispatched=office.now()) if found is None else known
    if found is None:
        remember(dispatch, office)
        found = _start(dispatch, office, branch=branch)
    dispatch = replace(dispatch, run_id=found.id, url=found.url)
    remember(dispatch, office)
    office.say(f"{dispatch.name}: {dispatch.url}")
    return dispatch


def _start(dispatch: Dispatch, office: Office, *, branch: str) -> WorkflowRun:
    """The run that GitHub made of it. Raises DispatchError."""
    inputs = workflow_inputs(dispatch)
    lost = ""
    try:
        try:
            made = office.github.dispatch_workflow(dispatch.workflow, ref=branch, inputs=inputs)
        except GithubError as error:
            if error.status != 422 or "return_run_details" not in error.message:
                raise
            made = office.github.dispatch_workflow(dispatch.workflow, ref=branch, inputs=inputs, details=False)
        if made is not None:
            number, url = made
            return WorkflowRun(
                id=number, title=dispatch.nonce, status="queued", conclusion=None, url=url, event="workflow_dispatch"
            )
    except AnswerLost as error:
        lost = f" ({error.message})"  # it may have been started all the same: only the list of runs can tell
    except GithubError as error:
        raise _refused(dispatch, error, branch) from None
    found = _await_listing(dispatch, office, until=office.now() + LISTED_WITHIN)
    if found is None:
        raise DispatchError(
            f"tier {dispatch.name}: no run with {dispatch.nonce} in its name appeared in {LISTED_WITHIN:.0f} s{lost}",
            remedy=f"Its `run-name:` must have ${{{{ inputs.nonce }}}} as a word of its own. {_STARTER}",
        )
    return found


def _refused(dispatch: Dispatch, error: GithubError, branch: str) -> DispatchError:
    """What to do about a refusal."""
    said = f"tier {dispatch.name} could not be started: {error.message}"
    if isinstance(error, NotFound):
        return DispatchError(
            said, remedy=f"There is no .github/workflows/{dispatch.workflow} on {branch}, or the token may not see it. "
            + _STARTER,
        )  # fmt: skip
    if isinstance(error, Forbidden):
        return DispatchError(said, remedy="Give the job `permissions: actions: write`.")
    if error.status == 422:
        if "disabled" in error.message:
            return DispatchError(said, remedy=f"Enable {dispatch.workflow} under the repository's Actions.")
        return DispatchError(said, remedy=f"{dispatch.workflow} does not take what this release gives it. {_STARTER}")
    return DispatchError(said, remedy=error.remedy)


# --- looking for what was started ----------------------------------------------------------------------------------


def _listing(office: Office, wanted: Sequence[Dispatch]) -> list[WorkflowRun]:
    """The dispatched runs that may be ours, if this plan was here already: of the last day."""
    since = office.now() - 86400.0 - _SKEW
    try:
        return list(office.github.workflow_runs(wanted[0].workflow, since=since))
    except NotFound as error:
        raise _refused(wanted[0], error, "the default branch") from None


def _await_listing(dispatch: Dispatch, office: Office, *, until: float) -> WorkflowRun | None:
    """The run with the nonce in its name, as soon as it is listed; None where it is not by then."""
    pause = 1.0
    while True:
        found = find_listed(dispatch, office)
        left = until - office.now()
        if found is not None or left <= 0 or office.cancelled():
            return found
        office.sleep(min(pause, left))
        pause = min(2 * pause, 15.0)


def find_listed(dispatch: Dispatch, office: Office) -> WorkflowRun | None:
    """The run of a dispatch whose id is not known. All pages are searched."""
    return find_run(dispatch.nonce, office.github.workflow_runs(dispatch.workflow, since=dispatch.dispatched - _SKEW))


# --- remembering ---------------------------------------------------------------------------------------------------


def _remembered(office: Office, wanted: Sequence[Dispatch]) -> dict[str, Dispatch]:
    """What is remembered of these, by nonce. Without a history only the list of runs tells."""
    if office.store is None:
        return {}
    try:
        files = office.store.snapshot().read([file_name(dispatch.nonce) for dispatch in wanted])
    except HistoryError as error:
        office.say(f"what was started before is not remembered: {error.message}")
        return {}
    found = (decode(data) for data in files.values())
    return {dispatch.nonce: dispatch for dispatch in found if dispatch is not None}


def remember(dispatch: Dispatch, office: Office) -> bool:
    """Write a dispatch down. What cannot be is said: then no later run holds it to its deadlines."""
    if office.store is None:
        return False

    def change(_: Snapshot) -> Mapping[str, bytes | None]:
        return {file_name(dispatch.nonce): encode(dispatch)}

    try:
        office.store.update(change, message=f"{dispatch.sha[:10]}: {dispatch.name} {dispatch.verdict or 'dispatched'}")
    except HistoryError as error:
        office.say(f"{dispatch.name}: its deadlines are not remembered: {error.message}")
        return False
    return True


def _mark_pending(tier: TierPlan, started: Sequence[Dispatch], office: Office) -> None:
    first = started[0]
    try:
        said = pending_words(tier, shards=len(started))
        set_status(office.github, first.sha, first.context, "pending", said, url=first.url)
    except InfrastructureError as error:
        office.say(f"{tier.name}: its status is not shown: {error}")
