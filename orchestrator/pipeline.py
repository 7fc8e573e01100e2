"""The straight line: event → config → plan → execute → collect → judge → render → publish."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from orchestrator.base_tree import find_base
from orchestrator.coverage_past import coverage_past, measured_files
from orchestrator.dispatch import Office
from orchestrator.dispatched import Dispatch
from orchestrator.elsewhere import Elsewhere, artifacts_of, report_part
from orchestrator.errors import InfrastructureError, UsageError
from orchestrator.failures import explain
from orchestrator.gather import Situation, changed_lines
from orchestrator.judge import judge, judge_tier
from orchestrator.local import Workplace, run_here
from orchestrator.machine import effective_cpus
from orchestrator.model import Ending, Plan, TierPlan, TierResult
from orchestrator.plan import NOT_ASKED_FOR, install_line
from orchestrator.prepare import Hands, Options, out_folder, prepare
from orchestrator.progress import Progress
from orchestrator.publish import Published, publish, spoiled
from orchestrator.records.history import estimates
from orchestrator.remember import blob_ids, read_history
from orchestrator.render.words import sentence
from orchestrator.reported import read_parts
from orchestrator.results_folder import own_folder
from orchestrator.shards import Timings
from orchestrator.statuses import post_statuses
from orchestrator.sweep import sweep
from orchestrator.trust import MAY_WRITE

_OF_A_HEAD = (
    "pull_request",
    "issue_comment",
    "workflow_dispatch",
    "workflow_run",
)  # events whose commit is a pull request's head


def run(options: Options, hands: Hands) -> Published:
    """`mltiers run`. Raises UsageError and ConfigError before anything runs; after that there is always a verdict."""
    situation, plan = prepare(options, hands)
    office = open_office(situation, hands)
    plan = _without_github(plan, options) if office is None and not situation.event.on_github else plan
    with own_folder(out_folder(options, situation)):
        results = execute(plan, situation, options, hands, office)
        return conclude(plan, results, situation, options, hands)


def dispatch(options: Options, hands: Hands) -> tuple[list[Dispatch], Published | None]:
    """`mltiers dispatch`: starts what belongs on other machines. With `--wait`, also what became of it."""
    situation, plan = prepare(options, hands, runs=False)
    office = _needed(open_office(situation, hands))
    if options.tiers and (here := [tier.name for tier in plan.tiers if tier.run and tier.where == "here"]):
        raise UsageError(f"tier {here[0]} has no `runner`", remedy=f"`mltiers run {here[0]}` runs it here")
    plan = replace(plan, partial=True, tiers=tuple(_only_elsewhere(tier) for tier in plan.tiers))
    salt = f"{office.now():.3f}" if options.force else ""
    elsewhere = Elsewhere(plan, office, salt=salt)
    with own_folder(out_folder(options, situation)):
        elsewhere.start({})
        _say_refused(plan, situation, office)
        started = [one for parts in elsewhere.started.values() for one in parts]
        sweep(office, except_for=elsewhere.ours)
        if options.wait:
            results = elsewhere.wait({}, out=out_folder(options, situation), root=situation.root)
        else:
            results = elsewhere.leave()
        over_the_cap = any(tier.capped for tier in plan.tiers)
        if not (options.wait or over_the_cap) and all(r.ending is Ending.DISPATCHED for r in results.values()):
            return started, None
        plan = replace(plan, tiers=tuple(_only_asked_for(tier) for tier in plan.tiers))
        return started, conclude(plan, results, situation, options, hands)


def sweep_only(options: Options, hands: Hands) -> list[Dispatch]:
    """`mltiers dispatch --sweep`: holds what was dispatched, by whomever, to its deadlines. Starts nothing."""
    situation, _ = prepare(options, hands, runs=False)
    return sweep(_needed(open_office(situation, hands)))


def report(options: Options, folders: list[Path], hands: Hands) -> Published:
    """`mltiers report DIR...`: the same line, with results that were collected elsewhere.

    Without folders, those that the jobs of this workflow run uploaded (or of the one that the event is about); with
    ``--nonce``, those of the dispatched tier that this run is a part of.
    """
    situation, planned = prepare(options, hands, runs=False)
    event = situation.event
    if not event.on_github:
        situation = replace(situation, memory=None)  # what a laptop looks at again was remembered when it ran
    if not folders and event.run is None:
        raise UsageError("report: no DIR was given", remedy="give folders laid out as `--out` writes them")
    if options.nonce is not None:
        return _report_dispatched(planned, situation, options, hands)
    with contextlib.ExitStack() as stack:
        if not folders and event.run is not None:
            run_id = event.run.run_id if event.source_run is None else event.source_run.run_id
            folders = stack.enter_context(artifacts_of(_needed(open_office(situation, hands)), run_id))
        if (office := open_office(situation, hands)) is not None:
            sweep(office)
        plan, results = read_parts(
            planned,
            folders,
            root=situation.root,
            on_github=event.on_github,
            promised=bool(options.tiers or event.source_run),
        )
        if event.source_run is not None:
            plan, results = _as_strangers_say(planned, plan, results)
            if event.pull_request is None:  # nobody can say whether it was a stranger's
                situation = replace(situation, memory=None)
        return conclude(plan, results, situation, options, hands)


def _report_dispatched(plan: Plan, situation: Situation, options: Options, hands: Hands) -> Published:
    office, event = _needed(open_office(situation, hands)), situation.event
    if len(options.tiers) != 1 or event.run is None:
        raise UsageError("report: --nonce goes with one --tier, in the dispatched run itself")
    tier = replace(plan.tier(options.tiers[0]), coverage=True)
    out = out_folder(options, situation)
    with own_folder(out):
        result = report_part(
            plan, tier, options.nonce or "", office, own_run=event.run.run_id, out=out, root=situation.root
        )
        if result.ending is Ending.DISPATCHED:
            situation, options = replace(situation, memory=None), replace(options, comment="never")
        sweep(office)
        return conclude(plan, {tier.name: result}, situation, options, hands)


def execute(
    plan: Plan, situation: Situation, options: Options, hands: Hands, office: Office | None
) -> dict[str, TierResult]:
    """Start what belongs elsewhere, run what runs here, collecting each tier as it ends, and wait where that is wanted.

    Raises UsageError where the tests' Python has no pytest.
    """
    for tier in plan.tiers:
        if tier.run and tier.python is not None and tier.python.pytest is None:
            raise UsageError(
                f"{tier.python.executable} has no pytest", remedy=f"install it: {install_line(tier.python)}"
            )
    out = out_folder(options, situation)
    place = Workplace(
        root=situation.root,
        out=out,
        environment=hands.environment,
        cpus=effective_cpus(),
        cancel=hands.cancel,
        source=plan.source,
        history=situation.history,
        base=find_base(situation.git, situation.event, situation.range, prefix=situation.prefix),
        timings=_timings(plan, situation),
        orders=situation.orders,
    )
    elsewhere = Elsewhere(plan, office)
    elsewhere.start({})
    results = run_here(plan, place, Progress(hands.talk, terminal=hands.terminal))
    verdicts = {name: judge_tier(plan.tier(name), result).verdict for name, result in results.items()}
    elsewhere.start(verdicts)
    results |= elsewhere.wait(verdicts, out=out, root=situation.root) if options.wait else elsewhere.leave()
    quiet = hands.cancel.is_set or not options.dispatch
    if office is not None and not quiet and any(tier.runner for tier in situation.config.tiers.values()):
        sweep(office, except_for=elsewhere.ours)
    return results


def conclude(
    plan: Plan, results: dict[str, TierResult], situation: Situation, options: Options, hands: Hands
) -> Published:
    """Judge, remember, render, publish."""
    lines = changed_lines(situation)
    past = coverage_past(
        situation.history,
        base_sha=situation.event.base_sha,
        current=blob_ids(measured_files(situation.history), situation.root),
        now=time.time(),
    )
    judged = judge(plan, results, changed_lines=lines, newer_head=_newer_head(situation, hands), past=past)
    verdict = explain(judged, situation.history)
    if situation.github is not None and options.dispatch:
        url = situation.event.run.url if situation.event.run is not None else None
        wrong = post_statuses(verdict, situation.github, url=url)
        verdict = spoiled(verdict, f"GitHub could not be told: {'; '.join(wrong)}") if wrong else verdict
    return publish(
        verdict,
        memory=situation.memory if _speaks_for_itself(plan, situation) else None,
        history=situation.history,
        changed_lines=lines,
        past=past,
        out=out_folder(options, situation),
        prefix=situation.prefix,
        environment=hands.environment,
        github=situation.github,
        comment=options.comment,
        talk=hands.talk,
    )


def _speaks_for_itself(plan: Plan, situation: Situation) -> bool:
    """Whether this job's results are remembered by itself. A part of a tier is remembered with the others by the job
    that reports them, and the job that runs tests on a team's machine holds no token that could write.
    """
    here = [tier for tier in plan.tiers if tier.run and tier.where == "here"]
    return not any(tier.shards > 1 or (tier.runner and situation.event.on_github) for tier in here)


def open_office(situation: Situation, hands: Hands) -> Office | None:
    """From where tiers are started elsewhere; None where there is no token to do it with."""
    if situation.github is None:
        return None
    return Office(
        github=situation.github,
        store=situation.memory.store if situation.memory is not None else None,
        talk=hands.talk,
        sleep=hands.cancel.wait,
        cancelled=lambda: hands.cancel.is_set,
    )


def _needed(office: Office | None) -> Office:
    if office is None:
        raise UsageError(
            "this needs GitHub: there is no GITHUB_TOKEN, GITHUB_REPOSITORY or GITHUB_API_URL",
            remedy="it belongs into a job of GitHub Actions",
        )
    return office


def _without_github(plan: Plan, options: Options) -> Plan:
    """The plan where no other machine can be reached. Raises UsageError for a tier that was asked for by name."""
    tiers = []
    for tier in plan.tiers:
        if not (tier.run and tier.where == "dispatched"):
            tiers.append(tier)
            continue
        reason = f"belongs on a runner with [{', '.join(tier.runner)}], which is started from a job on GitHub"
        remedy = f"`mltiers run {tier.name} --no-dispatch` runs it here"
        if options.tiers:
            raise UsageError(f"tier {tier.name} {reason}", remedy=remedy)
        tiers.append(replace(tier, run=False, reason=f"{reason}; {remedy}"))
    return replace(plan, tiers=tuple(tiers))


def _as_strangers_say(planned: Plan, plan: Plan, results: dict[str, TierResult]) -> tuple[Plan, dict[str, TierResult]]:
    """What another run uploaded, without what it cannot have run: a tier with a runner speaks through its own job, and
    what anybody else says of it would turn a required status green.
    """
    remote = {tier.name: tier for tier in planned.tiers if tier.runner}
    tiers = tuple(remote.get(tier.name, tier) for tier in plan.tiers)
    return replace(plan, tiers=tiers), {name: result for name, result in results.items() if name not in remote}


def _say_refused(plan: Plan, situation: Situation, office: Office) -> None:
    """Why a tier that was asked for is not started: in the log, and in answer to a writer's comment."""
    event = situation.event
    for tier in plan.tiers:
        asked = event.command is None or event.command.problem is not None or event.command.tier == tier.name
        if tier.runner and not tier.run and tier.reason != NOT_ASKED_FOR and asked:
            office.say(f"{tier.name}: not started: {tier.reason}")
    command = event.command
    if command is None or event.pull_request is None or situation.standing.permission not in MAY_WRITE:
        return  # to answer everybody would let strangers make us write
    named = next((tier for tier in plan.tiers if tier.name == command.tier), None)
    if named is None or not named.run:
        why = command.problem or (named.reason if named is not None else f"there is no tier {command.tier}")
        try:
            office.github.create_comment(event.pull_request.number, f"Nothing was started: {sentence(why)}")
        except InfrastructureError as error:
            office.say(f"the comment could not be answered: {error.message}")


def _only_asked_for(tier: TierPlan) -> TierPlan:
    """A tier whose status this job leaves as it is, unless it started it or may not for want of GPU minutes."""
    return tier if tier.run or tier.capped else replace(tier, reason=NOT_ASKED_FOR)


def _only_elsewhere(tier: TierPlan) -> TierPlan:
    if tier.run and tier.where == "here":
        return replace(tier, run=False, reason=NOT_ASKED_FOR)
    return tier


def _timings(plan: Plan, situation: Situation) -> dict[str, Timings]:
    """The durations that the shards which run here are split by. Raises InfrastructureError where they cannot be read:
    split by others, this shard and those beside it would miss tests.
    """
    wanted = [tier for tier in plan.tiers if tier.run and tier.where == "here" and tier.timings is not None]
    if not wanted:
        return {}
    if situation.memory is None:
        raise InfrastructureError("the durations that the shards are split by cannot be read: there is no history")
    names = tuple(tier.name for tier in wanted)
    history = read_history(
        situation.memory.store, config_id=plan.config_id, tiers=names, sha=None, version=wanted[0].timings
    )
    if history.version is None:
        raise InfrastructureError("; ".join(history.notes) or "the history has no durations to split by")
    return {
        name: Timings(snapshot=history.version, seconds={t: e.seconds for t, e in estimates(history.of(name)).items()})
        for name in names
    }


def _newer_head(situation: Situation, hands: Hands) -> str | None:
    """The pull request's head by now, if it is not the commit we tested."""
    event = situation.event
    if event.name not in _OF_A_HEAD or event.pull_request is None or situation.github is None or hands.cancel.is_set:
        return None
    try:
        head = situation.github.pull_request(event.pull_request.number).head_sha
    except InfrastructureError as error:
        print(f"whether the pull request has a newer head is unknown: {error.message}", file=hands.talk)
        return None
    return None if head == event.sha or _merges(situation, event.sha, head) else head


def _merges(situation: Situation, sha: str | None, head: str) -> bool:
    """Whether the tested commit is one that merges the head, as that of a merge queue does."""
    return situation.git is not None and sha is not None and situation.git.parents(sha)[1:] == (head,)
