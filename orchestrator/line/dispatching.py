"""`mltiers dispatch`: the line of what runs on other machines, from the plan to what became of it."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.hands.dispatch import Office
from orchestrator.hands.elsewhere import Elsewhere
from orchestrator.hands.gather import Situation
from orchestrator.hands.publish import Published
from orchestrator.hands.results_folder import own_folder
from orchestrator.hands.sweep import sweep
from orchestrator.line.conclude import conclude
from orchestrator.line.execute import lines_of_the_change
from orchestrator.line.office import needed, open_office
from orchestrator.line.prepare import Hands, Options, out_folder, prepare
from orchestrator.mind.dispatched import Dispatch
from orchestrator.mind.plan import NOT_ASKED_FOR
from orchestrator.mind.render.words import sentence
from orchestrator.mind.trust import MAY_WRITE
from orchestrator.words.errors import InfrastructureError, UsageError
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending


def dispatch(options: Options, hands: Hands) -> tuple[list[Dispatch], Published | None]:
    """`mltiers dispatch`: starts what belongs on other machines. With `--wait`, also what became of it."""
    situation, plan = prepare(options, hands, runs=False)
    office = needed(open_office(situation, hands))
    if options.tiers and (here := [tier.name for tier in plan.tiers if tier.run and tier.where == "here"]):
        raise UsageError(f"tier {here[0]} has no `runner`", remedy=f"`mltiers run {here[0]}` runs it here")
    plan = replace(plan, partial=True, tiers=tuple(_only_elsewhere(tier) for tier in plan.tiers))
    salt = f"{office.now():.3f}" if options.force else ""
    elsewhere = Elsewhere(plan, office, salt=salt, changed=lines_of_the_change(plan, situation))
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
    return sweep(needed(open_office(situation, hands)))


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
