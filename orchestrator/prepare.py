"""The first three steps of the line, which `mltiers plan` stops after: event → config → plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from orchestrator.environment import Environment
from orchestrator.gather import Situation, gather, gather_pythons, replace_python
from orchestrator.github import GitHub
from orchestrator.machine import effective_cpus
from orchestrator.model import Plan
from orchestrator.plan import Machine, Request, make_plan
from orchestrator.process import Cancellation


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


def out_folder(options: Options, situation: Situation) -> Path:
    """Where results go, absolute."""
    return (options.out or situation.root / ".mltiers").absolute()


def _as_pytest_is_told(out: Path, root: Path) -> str:
    return out.relative_to(root).as_posix() if out.is_relative_to(root) else str(out)
