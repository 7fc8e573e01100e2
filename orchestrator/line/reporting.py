"""`mltiers report`: the end of the line, with results that were collected elsewhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec.structs import replace

from orchestrator.hands.gather import Situation
from orchestrator.hands.publish import Published
from orchestrator.hands.reported import read_parts
from orchestrator.hands.results_folder import own_folder
from orchestrator.line.conclude import conclude
from orchestrator.line.office import needed, open_office
from orchestrator.line.prepare import Hands, Options, out_folder, prepare
from orchestrator.mind.records.history import without
from orchestrator.words.errors import UsageError
from orchestrator.words.plan import Plan
from orchestrator.words.results import Ending, TierResult


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
            from orchestrator.hands.elsewhere import artifacts_of

            run_id = event.run.run_id if event.source_run is None else event.source_run.run_id
            folders = stack.enter_context(artifacts_of(needed(open_office(situation, hands)), run_id))
        if (office := open_office(situation, hands)) is not None:
            from orchestrator.hands.sweep import sweep

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
        situation = replace(situation, history=without(situation.history, results))
        return conclude(plan, results, situation, options, hands)


def _report_dispatched(plan: Plan, situation: Situation, options: Options, hands: Hands) -> Published:
    from orchestrator.hands.elsewhere import report_part
    from orchestrator.hands.sweep import sweep

    office, event = needed(open_office(situation, hands)), situation.event
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


def _as_strangers_say(planned: Plan, plan: Plan, results: dict[str, TierResult]) -> tuple[Plan, dict[str, TierResult]]:
    """What another run uploaded, without what it cannot have run: a tier with a runner speaks through its own job, and
    what anybody else says of it would turn a required status green.
    """
    remote = {tier.name: tier for tier in planned.tiers if tier.runner}
    tiers = tuple(remote.get(tier.name, tier) for tier in plan.tiers)
    return replace(plan, tiers=tiers), {name: result for name, result in results.items() if name not in remote}
