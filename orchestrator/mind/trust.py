"""Who may spend the team's machines, and whose configuration rules when they do. Pure.

An approval is given by somebody with write permission, who GitHub says has it, for one tier's run on one commit. What
is not known is not trusted, and said. ``tests/unit/test_trust.py`` holds the whole table; docs/security.md says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from orchestrator.mind.config import Config, Tier
from orchestrator.mind.event import LOCAL
from orchestrator.mind.records import Record
from orchestrator.words.event import Command, Event, PullRequest

MAY_WRITE = frozenset({"admin", "write"})  # GitHub's legacy words: `maintain` is write, `triage` is read
# GitHub itself lets only somebody with write access cause these (a schedule: the default branch's own workflow file).
OF_WRITERS = frozenset({"push", "merge_group", "schedule", "workflow_dispatch", "release", LOCAL})
# Of a tier that has a runner; what to collect there stays the pull request's own.
COSTLY_KEYS = ("when", "shards", "budget", "queue")
TIER_KEYS = ("runner", "gpus")
TOP_KEYS = ("pre_merge_label", "gpu_minutes_per_day", "history")
DAY = 86_400  # seconds; a day is UTC's, whatever the machine's zone
_UNTIL = "until it is merged the base branch's value holds"


class Standing(Struct, frozen=True, kw_only=True):
    """What GitHub says about an event's actor and commit, asked before the decision. None: unknown, see ``problem``."""

    permission: str | None = None  # of ``Event.actor`` in this repository: admin, write, read, none
    head: str | None = None  # the pull request's head by now
    head_time: float | None = None  # Unix seconds of that commit, by its committer date
    problem: str | None = None  # why one of these is unknown
    now: float = 0.0  # Unix seconds at which it was asked
    checkout: str | None = None  # the commit on disk, where a run was told which one to test (``--sha``)
    team_machine: bool = False  # this job itself runs on a self-hosted runner


class Consent(Struct, frozen=True, kw_only=True):
    """Whether a tier may use a machine of the team's. ``waiting``: somebody may still approve it."""

    allowed: bool
    reason: str = ""
    waiting: bool = False


ALLOWED = Consent(allowed=True)


def may_start(tier: str, event: Event, standing: Standing) -> Consent:
    """Whether the event may start ``tier`` on a runner of the team's, as far as trust goes."""
    if event.name in OF_WRITERS:
        return ALLOWED
    if event.name == "issue_comment":
        return _by_comment(tier, event, standing)
    if stranger := of_fork(tier, event):
        return _waiting(stranger)
    if event.name != "pull_request":
        return _no(f"nothing is started on {event.name}")
    if event.pull_request is None:  # a laptop's `--event pull_request`: whoever starts it needs a token of their own
        return ALLOWED if not event.on_github else _no("which pull request this is, is unknown")
    if moved := _moved(event.sha, standing.head):
        return _waiting(moved)
    if standing.permission not in MAY_WRITE:
        return _waiting(f"{_not_a_writer(event.actor, standing)}; who has, may comment `/mltiers {tier} {event.sha}`")
    return ALLOWED


def of_fork(tier: str, event: Event) -> str | None:
    """Why a fork's pull request starts nothing by itself, and what would; None: it is no fork's."""
    if event.pull_request is None or not event.pull_request.fork:
        return None
    return (
        "a fork's pull request never starts a self-hosted runner, by itself or by a label: somebody with write "
        f"permission may comment `/mltiers {tier} {event.sha}`"
    )


def may_run_here(event: Event, standing: Standing) -> Consent:
    """Whether this job may run the commit's own code at all."""
    if event.name == "issue_comment":
        return _no("a comment starts only tiers that have a `runner`: this job holds a token that can write")
    fork = event.name == "pull_request" and event.pull_request is not None and event.pull_request.fork
    if fork and standing.team_machine:
        return _no("a fork's code never runs on a self-hosted runner: give this job a runner of GitHub's")
    return ALLOWED


def _by_comment(tier: str, event: Event, standing: Standing) -> Consent:
    """A comment approves one tier on one commit: the one it names, or the one that was the head when it was written."""
    command, pull = event.command, event.pull_request
    if command is None:
        return _no("the comment asks for no tier")
    if command.problem is not None:
        return _no(command.problem)
    if command.tier != tier:
        return _no(f"the comment asks for {command.tier}")
    if pull is None:
        return _waiting(f"its pull request is unknown{_because(standing)}")
    if pull.closed:
        return _no("the pull request is closed")
    if standing.permission not in MAY_WRITE:
        return _waiting(_not_a_writer(event.actor, standing))
    if standing.head is None:
        return _waiting(f"the pull request's head is unknown{_because(standing)}")
    if command.sha is not None:
        moved = _moved(command.sha, standing.head)
        return _waiting(moved) if moved else ALLOWED
    return _without_commit(command, pull, standing)


def _without_commit(command: Command, pull: PullRequest, standing: Standing) -> Consent:
    asked = f"comment `/mltiers {command.tier} {standing.head}` if that is the commit you mean"
    if pull.fork:
        return _waiting(f"for a fork the comment names the commit it approves: {asked}")
    if standing.head_time is None:
        return _waiting(f"whether the head is older than the comment is unknown{_because(standing)}: {asked}")
    if not standing.head_time < command.time:
        return _waiting(f"the head is not older than the comment: {asked}")
    return ALLOWED


def _moved(approved: str | None, head: str | None) -> str | None:
    if head is None or approved == head:
        return None
    return f"the head of the pull request is {head[:10]} by now, and {(approved or 'none')[:10]} was asked for"


def _not_a_writer(actor: str | None, standing: Standing) -> str:
    who = actor or "a deleted account"
    if standing.permission is None:
        return f"whether {who} has write permission is unknown{_because(standing)}"
    return f"{who} has no write permission here"


def _because(standing: Standing) -> str:
    return f" ({standing.problem})" if standing.problem else ""


def _no(reason: str) -> Consent:
    return Consent(allowed=False, reason=reason)


def _waiting(reason: str) -> Consent:
    return Consent(allowed=False, reason=reason, waiting=True)


# --- how much ------------------------------------------------------------------------------------------------------


class Allowance(Struct, frozen=True, kw_only=True):
    """What is left of a day's GPU minutes. ``cap`` None: as many as they like. ``used`` None: unknown."""

    cap: float | None = None
    used: float | None = 0.0

    def refuse(self, *, devices: int, seconds: float, guessed: bool) -> str | None:
        """Why ``devices`` GPUs for ``seconds`` may not be spent; None: they may. ``guessed``: it is no measurement."""
        if self.cap is None or devices == 0:
            return None
        if self.used is None:
            return f"gpu-minutes-per-day is {self.cap:g}, and how many were used today is unknown"
        wanted = devices * seconds / 60
        if self.used + wanted <= self.cap:
            return None
        may = "may take" if guessed else "is expected to take"
        source = ", its budget" if guessed else ""
        return (
            f"over gpu-minutes-per-day: {self.used:.0f} of {self.cap:g} GPU minutes are used today (UTC), "
            f"and this {may} {wanted:.0f}{source}"
        )

    def spend(self, *, devices: int, seconds: float) -> Allowance:
        """What is left when that is planned too."""
        if self.used is None:
            return self
        return Allowance(cap=self.cap, used=self.used + devices * seconds / 60)


def gpu_minutes_today(records: Iterable[Record], *, now: float) -> float:
    """GPU minutes (devices × wall minutes) that the runs of the UTC day of ``now`` (Unix seconds) took, at most: of a
    tier's machines, all count as long as the slowest.
    """
    today = now // DAY
    return sum(
        record.tier.plan.gpus * record.tier.plan.shards * record.tier.result.seconds / 60
        for record in records
        if record.tier.result is not None and record.event != LOCAL and record.time // DAY == today
    )


# --- whose configuration rules -------------------------------------------------------------------------------------


class Ruled(Struct, frozen=True, kw_only=True):
    """A pull request's configuration with the base branch's say on trust and cost."""

    config: Config
    barred: Mapping[str, str] = field(default_factory=dict)  # tiers that may start no runner, and why
    notes: tuple[str, ...] = ()  # what the pull request would change, in words


def apply_base(own: Config, base: Config | None) -> Ruled:
    """What to test comes from ``own``, the commit under test; what concerns trust and cost from ``base``.

    ``base`` None: the base branch has no readable configuration. A tier that is new in the pull request keeps what it
    says, except that it starts no runner before it is merged.
    """
    if base is None:
        why = "the base branch has no configuration that can be read: it starts no runner before the merge"
        barred = {name: why for name, tier in own.tiers.items() if tier.runner}
        return Ruled(config=own, barred=barred, notes=(f"{', '.join(barred)}: {why}",) if barred else ())
    notes: list[str] = []
    top: dict[str, Any] = {}
    for key in TOP_KEYS:
        if getattr(own, key) != getattr(base, key):
            top[key] = getattr(base, key)
            notes.append(f"this pull request changes {_yaml(key)}; {_UNTIL}")
    barred, tiers = {}, {}
    for name, tier in own.tiers.items():
        trusted = base.tiers.get(name)
        if trusted is None and tier.runner:
            barred[name] = "it is new in this pull request: it starts no runner before the merge"
            notes.append(f"tier {name}: {barred[name]}")
        tiers[name] = tier if trusted is None else _ruled_tier(name, tier, trusted, notes)
    return Ruled(config=msgspec.structs.replace(own, tiers=tiers, **top), barred=barred, notes=tuple(notes))


def _ruled_tier(name: str, own: Tier, trusted: Tier, notes: list[str]) -> Tier:
    changed: dict[str, Any] = {}
    for key in (*TIER_KEYS, *(COSTLY_KEYS if trusted.runner else ())):
        if getattr(own, key) != getattr(trusted, key):
            changed[key] = getattr(trusted, key)
            notes.append(f"this pull request changes tiers.{name}.{_yaml(key)}; {_UNTIL}")
    return msgspec.structs.replace(own, **changed) if changed else own


def _yaml(key: str) -> str:
    return key.replace("_", "-")
