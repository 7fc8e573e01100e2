"""The first three steps of the line, which `mltiers plan` stops after: event → config → plan."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TextIO

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.hands.gather import Situation, asking_pythons, gather, recall, replace_python
from orchestrator.hands.ordering import with_orders
from orchestrator.hands.warm import survey_coverage, survey_suites
from orchestrator.mind.how import Machine
from orchestrator.mind.plan import Request, make_plan
from orchestrator.mind.shards import ShardName
from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.github import GitHub
from orchestrator.tools.kept import Kept
from orchestrator.tools.machine import effective_cpus, effective_memory, fingerprint
from orchestrator.words.environment import Environment
from orchestrator.words.errors import Cancelled, UsageError
from orchestrator.words.plan import Plan, PythonFacts

CONFIG = Path("ml-tiers.yml")  # where nobody names another


class Options(Struct, frozen=True, kw_only=True):
    """The command line, or the action's inputs: the same switches."""

    config: Path = CONFIG
    tiers: tuple[str, ...] = ()
    event: str | None = None
    out: Path | None = None  # None: .mltiers in the configuration's folder
    python: str | None = None
    comment: str = "on-change"
    dispatch: bool = True
    force: bool = False
    fit: bool = False
    sha: str | None = None
    pr: int | None = None
    wait: bool = False  # for what was started elsewhere
    shard: ShardName | None = None  # the part of its tiers that runs here
    nonce: str | None = None  # of the dispatched run whose tier is reported


class Hands(Struct, frozen=True, kw_only=True):
    """The effects a run has, as arguments."""

    environment: Environment
    talk: TextIO
    terminal: bool
    connect: Callable[[Environment], GitHub | None]
    cancel: Cancellation
    seconds_left: Callable[[], float]  # to speak to others: without end, or what a cancelled job has


Early = Callable[[Plan, Path], None]


def prepare(
    options: Options,
    hands: Hands,
    *,
    runs: bool = True,
    kept: Kept | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    early: Early | None = None,
) -> tuple[Situation, Plan]:
    """Event, configuration and plan: everything that is decided before anything runs.

    ``runs`` False: for results that were collected elsewhere, no Python is looked at, and no ml-tiers.yml is needed.
    ``kept``: a Python that was started ahead, and was asked what it has installed. ``meanwhile`` is called while others
    are starting up to say so. ``early`` receives, before a history is fetched, what the plan will be as far as that has
    no say in it, and the configuration's folder. Raises Cancelled, at once, for a signal.
    """
    with _ended_by_signals(hands.cancel):
        return _prepare(options, hands, runs=runs, kept=kept, meanwhile=meanwhile, early=early)


def _prepare(
    options: Options,
    hands: Hands,
    *,
    runs: bool,
    kept: Kept | None,
    meanwhile: Callable[[], object],
    early: Early | None,
) -> tuple[Situation, Plan]:
    situation = gather(
        config=options.config,
        needs_config=runs or options.config != CONFIG,
        event_name=options.event,
        sha=options.sha,
        pr=options.pr,
        environment=hands.environment,
        connect=hands.connect,
    )
    if runs and situation.event.name == "workflow_run":
        raise UsageError(
            "this job holds a token that can write, and the run it is about may be a stranger's: nothing is run here",
            remedy="`mltiers report DIR` shows what that run brought",
        )
    config = replace_python(situation.config, options.python) if options.python else situation.config
    machine = Machine(
        cpus=effective_cpus(),
        variables=hands.environment.for_tests({}),
        fingerprint=fingerprint(),
        memory=effective_memory(),
    )
    pythons: Mapping[str, PythonFacts] = {}
    if runs:
        with asking_pythons(config, situation.root, hands.environment, kept) as answers:
            machine = replace(
                machine,
                suites=survey_suites(config, situation.root, machine.variables),
                measuring=survey_coverage(situation.root, machine.variables),
            )
            meanwhile()
            pythons = answers()

    def planned(situation: Situation) -> Plan:
        return make_plan(
            config,
            situation.event,
            situation.changes,
            situation.history,
            config_path=situation.config_path,
            request=Request(
                tiers=options.tiers,
                dispatch=options.dispatch,
                force=options.force,
                fit=options.fit,
                shard=options.shard,
                out=_as_pytest_is_told(out_folder(options, situation), situation.root),
            ),
            machine=machine,
            pythons=pythons,
            standing=situation.standing,
            barred=situation.barred,
            notes=situation.notes,
        )

    if early is not None and situation.event.on_github:  # elsewhere the history is a folder
        early(planned(situation), situation.root)
    situation = recall(situation, environment=hands.environment, deadline=hands.seconds_left)
    plan = planned(situation)
    plan, orders = with_orders(plan, situation)
    return replace(situation, orders=orders), plan


def out_folder(options: Options, situation: Situation) -> Path:
    """Where results go, absolute. Raises UsageError for a folder that holds the project: what is in it is replaced."""
    out = Path(os.path.abspath(options.out or situation.root / ".mltiers"))  # noqa: PTH100 -- no link is to be followed
    if situation.root.is_relative_to(out):
        raise UsageError(f"--out {options.out}: it holds the project itself", remedy="give a folder for results alone")
    return out


def _as_pytest_is_told(out: Path, root: Path) -> str:
    """The folder from the configuration's, or absolute. Raises UsageError where pytest would read another one."""
    told = out.relative_to(root).as_posix() if out.is_relative_to(root) else str(out)
    if os.path.expanduser(os.path.expandvars(told)) != told:  # noqa: PTH111 -- as pytest does with --junitxml
        raise UsageError(f"--out {told}: pytest replaces `~` and `$NAME` in it", remedy="give a folder without them")
    return told


@contextlib.contextmanager
def _ended_by_signals(cancel: Cancellation) -> Iterator[None]:
    """Let a signal end us at once: git or a Python may hang here, and there is nothing to be told yet."""

    def end(number: int, _: FrameType | None) -> None:
        raise Cancelled(f"received {signal.Signals(number).name}, before anything was run")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, end)
    try:
        if cancel.is_set:
            raise Cancelled(f"{cancel.reason}, before anything was run")
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
