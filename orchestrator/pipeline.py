"""The straight line: event → config → plan → execute → collect → judge → render → publish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.errors import InfrastructureError, UsageError
from orchestrator.gather import Situation, changed_lines
from orchestrator.judge import judge
from orchestrator.local import Workplace, run_here
from orchestrator.machine import effective_cpus
from orchestrator.model import Plan, TierResult
from orchestrator.plan import install_line
from orchestrator.prepare import Hands, Options, out_folder, prepare
from orchestrator.progress import Progress
from orchestrator.publish import Published, publish
from orchestrator.reported import read_parts
from orchestrator.results_folder import own_folder


def run(options: Options, hands: Hands) -> Published:
    """`mltiers run`. Raises UsageError and ConfigError before anything runs; after that there is always a verdict."""
    situation, plan = prepare(options, hands)
    with own_folder(out_folder(options, situation)):
        results = execute(plan, situation, options, hands)
        return conclude(plan, results, situation, options, hands)


def report(options: Options, folders: list[Path], hands: Hands) -> Published:
    """`mltiers report DIR...`: the same line, with results that were collected elsewhere."""
    situation, planned = prepare(options, hands, runs=False)
    plan, results = read_parts(planned, folders, root=situation.root, on_github=situation.event.on_github)
    if not situation.event.on_github:
        situation = replace(situation, memory=None)  # what a laptop looks at again was remembered when it ran
    return conclude(plan, results, situation, options, hands)


def execute(plan: Plan, situation: Situation, options: Options, hands: Hands) -> dict[str, TierResult]:
    """Run what runs here, collecting each tier as it ends. Raises UsageError where the tests' Python has no pytest."""
    for tier in plan.tiers:
        if tier.run and tier.python is not None and tier.python.pytest is None:
            raise UsageError(
                f"{tier.python.executable} has no pytest", remedy=f"install it: {install_line(tier.python)}"
            )
    place = Workplace(
        root=situation.root,
        out=out_folder(options, situation),
        environment=hands.environment,
        cpus=effective_cpus(),
        cancel=hands.cancel,
    )
    return run_here(plan, place, Progress(hands.talk, terminal=hands.terminal))


def conclude(
    plan: Plan, results: dict[str, TierResult], situation: Situation, options: Options, hands: Hands
) -> Published:
    """Judge, remember, render, publish."""
    lines = changed_lines(situation)
    verdict = judge(plan, results, changed_lines=lines, newer_head=_newer_head(situation, hands))
    return publish(
        verdict,
        memory=situation.memory,
        changed_lines=lines,
        out=out_folder(options, situation),
        prefix=situation.prefix,
        environment=hands.environment,
        github=situation.github,
        comment=options.comment,
        talk=hands.talk,
    )


def _newer_head(situation: Situation, hands: Hands) -> str | None:
    """The pull request's head by now, if it is not the commit we tested."""
    event = situation.event
    if event.name != "pull_request" or event.pull_request is None or situation.github is None or hands.cancel.is_set:
        return None
    try:
        head = situation.github.pull_request(event.pull_request.number).head_sha
    except InfrastructureError as error:
        print(f"whether the pull request has a newer head is unknown: {error.message}", file=hands.talk)
        return None
    return head if head != event.sha else None
