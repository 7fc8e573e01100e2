"""Why we run, and on which commit: GitHub's event payload, or the laptop's git state, as one ``Event``.

Which commit a result belongs to is decided here and nowhere else: on a pull request it is ``pull_request.head.sha``
(not the merge commit in ``GITHUB_SHA``), in a merge queue ``merge_group.head_sha``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from orchestrator.words.environment import Environment
from orchestrator.words.errors import UsageError
from orchestrator.words.event import Command, Event, GithubRun, PullRequest, SourceRun

GITHUB_EVENTS = (
    "push",
    "pull_request",
    "merge_group",
    "schedule",
    "workflow_dispatch",
    "release",
)
LOCAL = "local"
COMMAND = "/mltiers"

_NO_COMMIT = "0" * 40
_SHA = re.compile(r"[0-9a-fA-F]{7,64}")
_FULL_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MERGE_GROUP_PULL = re.compile(r"/pr-(\d+)-")

_UNSAFE = (
    "pull_request_target runs with write permission and secrets, beside code a stranger may have written",
    "use `on: pull_request` here and the fork-report starter (`on: workflow_run`) to post the results of forks",
)


def read_event(environment: Environment, payload: Mapping[str, Any] | None) -> Event:
    """The event of this GitHub job. ``payload`` is the JSON of ``GITHUB_EVENT_PATH`` (None: there is no such file).

    Raises UsageError for an event or payload we cannot trust ourselves to understand.
    """
    name = environment.event_name
    if name is None:
        raise UsageError("GITHUB_EVENT_NAME is not set", remedy="on a laptop, say `--event push` or no event at all")
    if name == "pull_request_target":
        raise UsageError(_UNSAFE[0], remedy=_UNSAFE[1])
    body = payload or {}
    repository = _mapping(body, "repository")
    event = Event(
        name=name,
        action=_text(body, "action"),
        repository=environment.repository or _text(repository, "full_name"),
        sha=environment.sha,
        ref=environment.ref or _text(body, "ref"),
        default_branch=_text(repository, "default_branch"),
        actor=_text(_mapping(body, "sender"), "login") or environment.actor,
        run=_run(environment),
        api_url=environment.api_url,
        server_url=environment.server_url,
    )
    if name == "pull_request":
        return _pull_request_event(event, body)
    if name == "push":
        return _push_event(event, body)
    if name == "merge_group":
        return _merge_group_event(event, body)
    if name == "issue_comment":
        return _comment_event(event, body)
    if name == "workflow_run":
        return _workflow_run_event(event, body)
    return event


def override(event: Event, *, sha: str | None, pr: int | None) -> Event:
    """The event with ``--sha`` and ``--pr`` in force. Raises UsageError for what is not a commit."""
    if sha is not None:
        if not _SHA.fullmatch(sha):
            raise UsageError(f"--sha {sha!r} is not a commit", remedy="give the full hexadecimal commit id")
        # Another commit than the job's own is on no branch that the job could tell.
        event = replace(event, sha=sha.lower(), ref=event.ref if sha.lower() == event.sha else None)
    if pr is not None:
        if pr <= 0:
            raise UsageError(f"--pr {pr} is not a pull request number")
        known = event.pull_request
        if known is None or known.number != pr:
            known = PullRequest(
                number=pr,
                head_sha=event.sha or "",
                head_repository=event.repository,
                base_ref=event.base_ref or "",
                base_sha=event.base_sha or "",
            )
        event = replace(event, pull_request=known)
    return event


def cadences(event: Event, *, pre_merge_label: str) -> frozenset[str]:
    """The words of ``when`` that this event satisfies.

    ``nightly`` is ``schedule``; ``pre-merge`` is a merge group, or the label just added by this very event. A label
    that was already there approves nothing: it was given to an older commit. A comment asks for what a pull request may
    have, and the reports of a pull request's run are of what that event runs.
    """
    words = {event.name}
    if event.name == "issue_comment":
        words |= {"pre-merge", "pull_request"}
    if event.name == "workflow_run" and event.source_run is not None:
        words.add(event.source_run.event)
    if event.name == "schedule":
        words.add("nightly")
    if event.name == "merge_group":
        words.add("pre-merge")
    if event.name == "pull_request" and event.action == "labeled" and event.label == pre_merge_label:
        words.add("pre-merge")
    if event.name == LOCAL:  # a laptop stands before a push and before a pull request
        words |= {"push", "pull_request"}
    return frozenset(words)


def _run(environment: Environment) -> GithubRun | None:
    if not environment.in_actions or not (environment.run_id or "").isdigit():
        return None
    run_id = int(environment.run_id or 0)
    attempt = int(environment.run_attempt) if (environment.run_attempt or "").isdigit() else 1  # type: ignore[arg-type]
    url = f"{environment.server_url}/{environment.repository}/actions/runs/{run_id}"
    return GithubRun(run_id=run_id, attempt=attempt, url=url if attempt == 1 else f"{url}/attempts/{attempt}")


def _pull_request_event(event: Event, body: Mapping[str, Any]) -> Event:
    pull = _need_mapping(body, "pull_request", event.name)
    head = _need_mapping(pull, "head", "pull_request")
    base = _need_mapping(pull, "base", "pull_request")
    number = pull.get("number", body.get("number"))
    if not isinstance(number, int) or isinstance(number, bool):
        raise UsageError(f"the event payload has no pull_request.number (it has {number!r})")
    head_repository = _text(_mapping(head, "repo"), "full_name")
    base_repository = _text(_mapping(base, "repo"), "full_name") or event.repository
    labels = tuple(
        label["name"]
        for label in pull.get("labels") or ()
        if isinstance(label, Mapping) and isinstance(label.get("name"), str)
    )
    request = PullRequest(
        number=number,
        head_sha=_need_sha(head, "pull_request.head.sha"),
        head_repository=head_repository,
        base_ref=_text(base, "ref") or "",
        base_sha=_need_sha(base, "pull_request.base.sha"),
        labels=labels,
        # A deleted fork has no repository any more: what is not surely ours is a fork.
        fork=head_repository is None or head_repository != base_repository,
    )
    return replace(
        event,
        sha=request.head_sha,
        base_sha=request.base_sha,
        base_ref=request.base_ref,
        pull_request=request,
        label=_text(_mapping(body, "label"), "name"),
    )


def _push_event(event: Event, body: Mapping[str, Any]) -> Event:
    if body.get("deleted") is True:
        raise UsageError("this push deleted its branch: there is no commit to test")
    before, after = _text(body, "before"), _text(body, "after")
    return replace(
        event,
        sha=after if after and after != _NO_COMMIT else event.sha,
        base_sha=before if before and before != _NO_COMMIT else None,
    )


def _merge_group_event(event: Event, body: Mapping[str, Any]) -> Event:
    group = _need_mapping(body, "merge_group", event.name)
    head_ref = _text(group, "head_ref") or ""
    pulls = _MERGE_GROUP_PULL.findall(head_ref)
    head, base = _need_sha(group, "merge_group.head_sha"), _need_sha(group, "merge_group.base_sha")
    base_ref = (_text(group, "base_ref") or "").removeprefix("refs/heads/")
    event = replace(event, sha=head, base_sha=base, base_ref=base_ref, ref=head_ref or event.ref)
    if len(pulls) != 1:
        return event
    request = PullRequest(
        number=int(pulls[0]), head_sha=head, head_repository=event.repository, base_ref=base_ref, base_sha=base
    )
    return replace(event, pull_request=request)


def _comment_event(event: Event, body: Mapping[str, Any]) -> Event:
    """A comment, and what it asks for. Its pull request is in the payload by number only: `Event.pull_request` is the
    caller's to fill in, and ``sha`` is None until then: the job's own is the default branch's.
    """
    issue = _need_mapping(body, "issue", event.name)
    comment = _need_mapping(body, "comment", event.name)
    author = _text(_mapping(comment, "user"), "login")
    event = replace(event, sha=None, ref=None, actor=author)
    number = issue.get("number")
    if event.action != "created" or not isinstance(issue.get("pull_request"), Mapping) or not isinstance(number, int):
        return event  # an edited comment starts nothing: it may have said something else when it was agreed with
    sender = _text(_mapping(body, "sender"), "login")
    command = parse_command(_text(comment, "body") or "", time=_time(comment, "created_at"))
    if command is not None and sender != author:
        command = replace(command, problem="the comment and the event are not by the same person")
    nobody = PullRequest(number=number, head_sha="", head_repository=None, base_ref="", base_sha="", fork=True)
    return replace(event, command=command, pull_request=nobody)


def parse_command(text: str, *, time: float) -> Command | None:
    """What a comment's first line asks for; None: nothing. ``time``: when it was created, Unix seconds.

    The first line only: elsewhere it is a quotation, or an example.
    """
    words = (text.splitlines() or [""])[0].split()
    if not words or words[0] != COMMAND or text[:1].isspace():
        return None
    if len(words) not in (2, 3) or not _TIER.fullmatch(words[1]):
        problem = f"a command reads `{COMMAND} TIER` or `{COMMAND} TIER COMMIT`"
        return Command(tier="", sha=None, time=time, problem=problem)
    sha = words[2].lower() if len(words) == 3 else None
    if sha is not None and not _FULL_SHA.fullmatch(sha):
        problem = "a command names its commit in full, 40 digits: a shorter one can be made to fit another commit"
        return Command(tier=words[1], sha=None, time=time, problem=problem)
    return Command(tier=words[1], sha=sha, time=time)


def _workflow_run_event(event: Event, body: Mapping[str, Any]) -> Event:
    run = _need_mapping(body, "workflow_run", event.name)
    number = run.get("id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise UsageError(f"the event payload has no workflow_run.id (it has {number!r})")
    source = SourceRun(
        run_id=number,
        event=_text(run, "event") or "",
        head_repository=_text(_mapping(run, "head_repository"), "full_name"),
        head_branch=_text(run, "head_branch") or "",
        head_sha=_need_sha(run, "workflow_run.head_sha"),
    )
    return replace(event, sha=source.head_sha, ref=None, source_run=source)


def _time(body: Mapping[str, Any], key: str) -> float:
    """A moment of GitHub's in Unix seconds. Raises UsageError."""
    value = _text(body, key)
    try:
        return datetime.fromisoformat((value or "").replace("Z", "+00:00")).timestamp()
    except ValueError:
        raise UsageError(f"the event payload's {key} is not a time: {value!r}") from None


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def _need_mapping(body: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = body.get(key)
    if not isinstance(value, Mapping):
        raise UsageError(
            f"the event payload has no {key!r} in its {where}",
            remedy="GITHUB_EVENT_PATH must name the JSON that GitHub wrote for GITHUB_EVENT_NAME",
        )
    return value


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    return value if isinstance(value, str) and value else None


def _need_sha(body: Mapping[str, Any], path: str) -> str:
    value = _text(body, path.rpartition(".")[2])
    if value is None or not _SHA.fullmatch(value):
        raise UsageError(f"the event payload's {path} is not a commit: {value!r}")
    return value.lower()
