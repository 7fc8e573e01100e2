"""What GitHub has to say before anything is decided: which pull request an event is about, and who may do what there.

Asked once and only where the answer can matter; what cannot be answered stays unknown, and `orchestrator.mind.trust`
does not trust it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from orchestrator.mind.config import Config
from orchestrator.mind.event import cadences
from orchestrator.mind.trust import Standing
from orchestrator.tools.github import GitHub, NotFound
from orchestrator.words.errors import InfrastructureError
from orchestrator.words.event import Event

T = TypeVar("T")


def complete(event: Event, github: GitHub | None, notes: list[str]) -> Event:
    """The event with the pull request that its payload only hints at: of a comment, or of a finished run."""
    if event.name == "issue_comment" and event.pull_request is not None:
        return _of_comment(event, event.pull_request.number, github, notes)
    if event.name == "workflow_run" and event.source_run is not None and event.source_run.event == "pull_request":
        return _of_run(event, github, notes)
    return event


def look_up(event: Event, number: int, github: GitHub | None, notes: list[str]) -> Event:
    """The event with what GitHub says of the pull request that ``--pr`` names; as it was where it cannot be asked."""
    if github is None:
        return event
    try:
        pull = github.pull_request(number)
    except InfrastructureError as error:  # the job that runs tests need not be allowed to
        notes.append(f"pull request #{number} cannot be looked up: {error.message}")
        return event
    return replace(event, base_sha=pull.base_sha, base_ref=pull.base_ref, pull_request=pull)


def ask(event: Event, config: Config, github: GitHub | None, *, now: float, team_machine: bool) -> Standing:
    """What is known of the event's actor and of its pull request's head.

    A push, a schedule or a tier without a runner needs no question, so it costs none.
    """
    standing = Standing(now=now, team_machine=team_machine)
    pull = event.pull_request
    if pull is None or event.name not in ("pull_request", "issue_comment") or not _matters(event, config):
        return standing
    if github is None:
        return replace(standing, problem="there is no GITHUB_TOKEN to ask with")
    problems: list[str] = []
    permission = _permission(event.actor, github, problems)
    head_time = None
    if event.name == "issue_comment":
        head: str | None = pull.head_sha  # looked up just now
        if event.command is not None and event.command.sha is None and not pull.fork:
            head_time = _try(lambda: github.commit_time(pull.head_sha), problems)
    else:
        head = _try(lambda: github.pull_request(pull.number).head_sha, problems)
    problem = "; ".join(dict.fromkeys(problems)) or None
    return replace(standing, permission=permission, head=head, head_time=head_time, problem=problem)


def _matters(event: Event, config: Config) -> bool:
    if event.name == "issue_comment":
        return event.command is not None  # also one that is wrong: who may write is told what is
    if event.pull_request is not None and event.pull_request.fork:
        return False
    words = cadences(event, pre_merge_label=config.pre_merge_label)
    return any(tier.runner and words & set(tier.when) for tier in config.tiers.values())


def _permission(login: str | None, github: GitHub, problems: list[str]) -> str | None:
    if login is None:
        return "none"
    try:
        return github.permission(login)
    except NotFound:  # an app, or an account that is gone: https://github.com/anthropics/claude-code-action/issues/1018
        return "none"
    except InfrastructureError as error:
        problems.append(error.message)
        return None


def _of_comment(event: Event, number: int, github: GitHub | None, notes: list[str]) -> Event:
    unknown = replace(event, pull_request=None)
    if github is None:
        notes.append(f"pull request #{number} cannot be looked up: there is no GITHUB_TOKEN to ask with")
        return unknown
    try:
        pull = github.pull_request(number)
    except InfrastructureError as error:
        notes.append(f"pull request #{number} cannot be looked up: {error.message}")
        return unknown
    command = event.command
    sha = command.sha if command is not None and command.sha is not None else pull.head_sha
    return replace(event, sha=sha, base_sha=pull.base_sha, base_ref=pull.base_ref, pull_request=pull)


def _of_run(event: Event, github: GitHub | None, notes: list[str]) -> Event:
    """By head repository, branch and commit, which are GitHub's word; a number in an artifact is the run's own."""
    source = event.source_run
    assert source is not None  # noqa: S101 -- the caller looked
    if github is None or source.head_repository is None:
        notes.append("which pull request this run is of cannot be looked up: no GITHUB_TOKEN, or the fork is gone")
        return event
    try:
        pulls = github.open_pull_requests(head_repository=source.head_repository, branch=source.head_branch)
    except InfrastructureError as error:
        notes.append(f"which pull request this run is of is unknown: {error.message}")
        return event
    same = [pull for pull in pulls if pull.head_sha == source.head_sha]
    if len(same) != 1:
        count = "no open pull request has" if not same else f"{len(same)} open pull requests have"
        notes.append(f"{count} {source.head_sha[:10]} of {source.head_repository}:{source.head_branch} as its head")
        return event
    pull = same[0]
    return replace(event, base_sha=pull.base_sha, base_ref=pull.base_ref, pull_request=pull)


def _try(question: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return question()
    except InfrastructureError as error:
        problems.append(error.message)
        return None
