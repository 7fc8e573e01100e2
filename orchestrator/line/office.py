"""From where other machines are reached: GitHub with a token, and the memory of what was started there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.hands.gather import Situation
from orchestrator.line.prepare import Hands, Options
from orchestrator.words.errors import UsageError
from orchestrator.words.plan import Plan

if TYPE_CHECKING:
    from orchestrator.hands.dispatch import Office


def open_office(situation: Situation, hands: Hands) -> Office | None:
    """From where tiers are started elsewhere; None where there is no token to do it with."""
    if situation.github is None:
        return None
    from orchestrator.hands.dispatch import Office

    return Office(
        github=situation.github,
        store=situation.memory.store if situation.memory is not None else None,
        talk=hands.talk,
        sleep=hands.cancel.wait,
        cancelled=lambda: hands.cancel.is_set,
    )


def needed(office: Office | None) -> Office:
    if office is None:
        raise UsageError(
            "this needs GitHub: there is no GITHUB_TOKEN, GITHUB_REPOSITORY or GITHUB_API_URL",
            remedy="it belongs into a job of GitHub Actions",
        )
    return office


def without_github(plan: Plan, options: Options) -> Plan:
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
