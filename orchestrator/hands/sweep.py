"""Holds every dispatched run to its deadlines, whoever started it: what is overdue is cancelled and said.

Nobody has to watch. Each run of ours comes by here, and finds in the history what was started, when, and how long it
may wait and run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from orchestrator.hands.dispatch import Office, find_listed
from orchestrator.hands.statuses import current_state, set_status
from orchestrator.mind.dispatched import (
    FOLDER,
    KEPT,
    Dispatch,
    Look,
    Phase,
    decode,
    encode,
    file_name,
    look,
    part_nonces,
)
from orchestrator.tools.github import Artifact, GitHub, NotFound, WorkflowRun
from orchestrator.tools.history import HistoryError, HistoryForbidden, Snapshot
from orchestrator.words.errors import InfrastructureError
from orchestrator.words.verdict import Verdict

_STATES = {Verdict.OVER_BUDGET: "failure"}  # everything else that is said here is an error of the machinery


def sweep(office: Office, *, except_for: Callable[[Dispatch], bool] = lambda _: False) -> list[Dispatch]:
    """Look at everything that was dispatched and has not ended. Returns what has ended by this, with its verdict.

    ``except_for``: those that somebody follows anyway. Never raises: what cannot be done now, the next run does.
    """
    if office.store is None:
        return []
    try:
        snapshot = office.store.snapshot()
        names = [name for name in snapshot.names if name.startswith(f"{FOLDER}/")]
        known = {name: decode(data) for name, data in snapshot.read(names).items()}
    except HistoryError as error:
        office.say(f"what was dispatched is not known, so nothing is held to its deadline: {error.message}")
        return []
    ended = []
    for dispatch in known.values():
        if dispatch is None or dispatch.ended is not None or except_for(dispatch):
            continue
        siblings = [other for other in known.values() if other is not None and _siblings(other, dispatch)]
        try:
            settled = settle(dispatch, office, siblings)
        except InfrastructureError as error:
            office.say(f"{dispatch.name} of {dispatch.sha[:10]} could not be looked after: {error.message}")
            continue
        if settled is not None:
            ended.append(settled)
    _write(ended, office, now=office.now())
    return [dispatch for dispatch in ended if dispatch.verdict is not None]


def observe(dispatch: Dispatch, office: Office) -> tuple[WorkflowRun | None, Look]:
    """A dispatched run as GitHub has it now."""
    run: WorkflowRun | None
    if dispatch.run_id is None:
        run = find_listed(dispatch, office)
    else:
        try:
            run = office.github.workflow_run(dispatch.run_id)
        except NotFound:
            run = None  # deleted
    jobs = office.github.run_jobs(run.id) if run is not None else ()
    return run, look(dispatch, run, jobs, now=office.now())


def settle(dispatch: Dispatch, office: Office, siblings: Sequence[Dispatch] = ()) -> Dispatch | None:
    """End a dispatch that is overdue, or whose run is over; None where it may go on. Raises as `GitHub` does.

    ``siblings``: the other parts of its tier; the last of them to end reports for all.
    """
    run, found = observe(dispatch, office)
    if run is not None:
        dispatch = replace(dispatch, run_id=run.id, url=run.url)
    over = found.phase is Phase.OVER
    if not (over or found.overdue or (found.phase is Phase.LOST and found.verdict is not None)):
        return None
    if found.overdue and run is not None:
        office.github.cancel_run(run.id)
    verdict = found.verdict or Verdict.INFRASTRUCTURE
    if over and current_state(office.github, dispatch.sha, dispatch.context) != "pending":
        return replace(dispatch, ended=office.now())  # its own report, or another's, has said what became of it
    reason = found.reason
    if over and run is not None and (left := results_of(office.github, run.id)):
        if any(observe(other, office)[1].phase is not Phase.OVER for other in siblings if other.ended is None):
            return None
        reason = f"its results ({left[0].name}) were never reported: look at its report job"
        verdict = Verdict.INFRASTRUCTURE
    said = f"{verdict}: {_part(dispatch)}{reason}"
    office.say(f"{dispatch.name} of {dispatch.sha[:10]}: {said}")
    set_status(office.github, dispatch.sha, dispatch.context, _STATES.get(verdict, "error"), said, url=dispatch.url)
    return replace(dispatch, ended=office.now(), verdict=str(verdict), reason=reason)


def results_of(github: GitHub, run_id: int) -> list[Artifact]:
    """The artifacts of a run that our action uploaded."""
    return [artifact for artifact in github.run_artifacts(run_id) if artifact.name.startswith("mltiers-")]


def _siblings(one: Dispatch, other: Dispatch) -> bool:
    return one.nonce != other.nonce and one.nonce in part_nonces(other.nonce)


def _part(dispatch: Dispatch) -> str:
    return f"part {dispatch.part}: " if dispatch.part else ""


def _write(ended: list[Dispatch], office: Office, *, now: float) -> None:
    """Remember what has ended, and forget what ended long ago."""
    if not ended or office.store is None:
        return

    def change(snapshot: Snapshot) -> Mapping[str, bytes | None]:
        files: dict[str, bytes | None] = {file_name(dispatch.nonce): encode(dispatch) for dispatch in ended}
        names = [name for name in snapshot.names if name.startswith(f"{FOLDER}/") and name not in files]
        for name, data in snapshot.read(names).items():
            old = decode(data)
            if old is not None and old.ended is not None and old.ended < now - KEPT:
                files[name] = None
        return files

    try:
        office.store.update(change, message=f"{len(ended)} dispatched runs have ended")
    except HistoryForbidden:
        return  # a job that may only read: the statuses are set, and the next one that may writes it down
    except HistoryError as error:
        office.say(f"what has ended is not remembered: {error.message}")
