"""The straight line: event → config → plan → execute → collect → judge → render → publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from orchestrator.environment import Environment
from orchestrator.errors import InfrastructureError, UsageError
from orchestrator.gather import Situation, changed_lines, gather, gather_pythons, replace_python
from orchestrator.github import GitHub
from orchestrator.judge import judge
from orchestrator.local import Workplace, run_here
from orchestrator.machine import effective_cpus
from orchestrator.model import Plan, TierResult
from orchestrator.plan import Machine, Request, install_line, make_plan
from orchestrator.process import Cancellation
from orchestrator.progress import Progress
from orchestrator.publish import Published, publish
from orchestrator.reported import read_parts


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, or the action's inputs: the same switches."""

    config: Path = Path("ml-tiers.yml")
    tiers: tuple[str, ...] = ()
    event: str | None = None
    out: Path | None = None  # None: .mltiers in the configuration's folder
    python: str | None = None
    comment: str = "on-change"
    dispatch: bool = True
    force: bool = False
    sha: str | None = None
    pr: int | None = None


@dataclass(frozen=True, kw_only=True)
class Hands:
    """The effects a run has, as arguments."""

    environment: Environment
    talk: TextIO
    terminal: bool
    connect: Callable[[Environment], GitHub | None]
    cancel: Cancellation


def run(options: Options, hands: Hands) -> Published:
    """`mltiers run`. Raises UsageError and ConfigError before anything runs; after that there is always a verdict."""
    situation, plan = prepare(options, hands)
    results = execute(plan, situation, options, hands)
    return conclude(plan, results, situation, options, hands)


def report(options: Options, folders: list[Path], hands: Hands) -> Published:
    """`mltiers report DIR...`: the same line, with results that were collected elsewhere."""
    situation, planned = prepare(options, hands, look_at_python=False)
    plan, results = read_parts(planned, folders, root=situation.root, on_github=situation.event.on_github)
    return conclude(plan, results, situation, options, hands)


def prepare(options: Options, hands: Hands, *, look_at_python: bool = True) -> tuple[Situation, Plan]:
    """Event, configuration and plan: everything that is decided before anything runs."""
    situation = gather(
        config=options.config,
        event_name=options.event,
        sha=options.sha,
        pr=options.pr,
        environment=hands.environment,
        connect=hands.connect,
    )
    config = replace_python(situation.config, options.python) if options.python else situation.config
    pythons = gather_pythons(config, situation.root, hands.environment) if look_at_python else {}
    plan = make_plan(
        config,
        situation.event,
        situation.changes,
        config_path=situation.config_path,
        request=Request(
            tiers=options.tiers,
            dispatch=options.dispatch,
            force=options.force,
            out=_as_pytest_is_told(out_folder(options, situation), situation.root),
        ),
        machine=Machine(cpus=effective_cpus(), variables=hands.environment.for_tests({})),
        pythons=pythons,
        notes=situation.notes,
    )
    return situation, plan


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
    """Judge, render, publish."""
    verdict = judge(plan, results, changed_lines=changed_lines(situation), newer_head=_newer_head(situation, hands))
    return publish(
        verdict,
        out=out_folder(options, situation),
        prefix=situation.prefix,
        environment=hands.environment,
        github=situation.github,
        comment=options.comment,
        talk=hands.talk,
    )


def out_folder(options: Options, situation: Situation) -> Path:
    """Where results go, absolute."""
    return (options.out or situation.root / ".mltiers").absolute()


def _as_pytest_is_told(out: Path, root: Path) -> str:
    return out.relative_to(root).as_posix() if out.is_relative_to(root) else str(out)


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
