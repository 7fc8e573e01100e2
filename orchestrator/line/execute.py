"""The middle of the line: the plan, done. Tiers run here and elsewhere at once; each is collected as it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from orchestrator.hands.base_tree import Base, find_base
from orchestrator.hands.dispatch import Office
from orchestrator.hands.elsewhere import Elsewhere
from orchestrator.hands.gather import Situation, changed_lines
from orchestrator.hands.local import Workplace, run_here
from orchestrator.hands.progress import Progress
from orchestrator.hands.remember import read_history
from orchestrator.hands.sweep import sweep
from orchestrator.line.prepare import Hands, Options, out_folder
from orchestrator.mind.how import install_line
from orchestrator.mind.judge import NOTHING_CHANGED, judge_tier, measurable
from orchestrator.mind.records.history import estimates
from orchestrator.mind.shards import Timings
from orchestrator.tools.kept import Kept
from orchestrator.tools.machine import effective_cpus
from orchestrator.words.errors import InfrastructureError, UsageError
from orchestrator.words.plan import Plan
from orchestrator.words.results import TierResult


def execute(
    plan: Plan,
    situation: Situation,
    options: Options,
    hands: Hands,
    office: Office | None,
    kept: Kept | None,
    *,
    meanwhile: Callable[[], object],
) -> dict[str, TierResult]:
    """Start what belongs elsewhere, run what runs here, collecting each tier as it ends, and wait where that is wanted.

    ``meanwhile`` is called while the first tiers run.
    Raises UsageError where the tests' Python has no pytest.
    """
    for tier in plan.tiers:
        if tier.run and tier.python is not None and tier.python.pytest is None:
            raise UsageError(
                f"{tier.python.executable} has no pytest", remedy=f"install it: {install_line(tier.python)}"
            )
    out = out_folder(options, situation)
    changed = lines_of_the_change(plan, situation)
    place = Workplace(
        root=situation.root,
        out=out,
        environment=hands.environment,
        cpus=effective_cpus(),
        cancel=hands.cancel,
        source=plan.source,
        history=situation.history,
        base=_base(plan, situation),
        timings=_timings(plan, situation),
        orders=situation.orders,
        changed=changed,
        kept=kept,
    )
    elsewhere = Elsewhere(plan, office, changed=changed)
    elsewhere.start({})
    progress = Progress(hands.talk, terminal=hands.terminal, grouped=hands.environment.in_actions)
    with contextlib.closing(progress):
        results = run_here(plan, place, progress, meanwhile)
    verdicts = {n: judge_tier(plan.tier(n), result, changed=changed).verdict for n, result in results.items()}
    elsewhere.start(verdicts)
    results |= elsewhere.wait(verdicts, out=out, root=situation.root) if options.wait else elsewhere.leave()
    quiet = hands.cancel.is_set or not options.dispatch
    if office is not None and not quiet and any(tier.runner for tier in situation.config.tiers.values()):
        sweep(office, except_for=elsewhere.ours)
    return results


def _base(plan: Plan, situation: Situation) -> Base:
    """What benchmarks are compared with; git is asked only where there are any."""
    if not any(tier.run and tier.benchmark for tier in plan.tiers):
        return Base(absent="no tier of this run has benchmarks")
    return find_base(situation.git, situation.event, situation.range, prefix=situation.prefix)


def lines_of_the_change(plan: Plan, situation: Situation) -> Mapping[str, frozenset[int]] | None:
    """What single tiers are asked to cover, where any is; None where that is unknown."""
    asked = any(tier.coverage_patch is not None for tier in plan.tiers)
    return measurable(plan, changed_lines(situation)) if asked else NOTHING_CHANGED


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
