"""GitHub as we use it: pull requests, comments, statuses, comparisons and workflow runs of one repository, as values.

What a request survives and how it fails is `orchestrator.tools.rest`; its errors are named here too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar, cast
from urllib.parse import quote

from msgspec import Struct

from orchestrator.tools.answers import Answer, AnswerLost, Forbidden, GithubError, NotFound, RateLimited, Unreachable
from orchestrator.tools.rest import Rest
from orchestrator.words.event import ChangedFile, PullRequest, WorkflowJob, WorkflowRun

__all__ = [
    "Answer",
    "AnswerLost",
    "Artifact",
    "Comment",
    "CommitStatus",
    "Forbidden",
    "GitHub",
    "GithubError",
    "NotFound",
    "RateLimited",
    "TooManyFiles",
    "Unreachable",
    "WorkflowJob",
    "WorkflowRun",
]

DESCRIPTION_LIMIT = 140  # characters of a commit status's description
PULL_REQUEST_FILES_LIMIT = 3000  # https://docs.github.com/en/rest/pulls/pulls#list-pull-requests-files
COMPARE_FILES_LIMIT = 300  # https://docs.github.com/en/rest/commits/commits#compare-two-commits
_FILE_STATUS = {"removed": "deleted", "changed": "type-changed"}  # the rest are our words too

T = TypeVar("T")


class TooManyFiles(GithubError):  # noqa: N818 -- named for what it is
    """GitHub's list of changed files ends at its limit, so which files changed is unknown."""


class Comment(Struct, frozen=True, kw_only=True):
    """A comment on a pull request. ``author`` is a login; None: the account was deleted."""

    id: int
    author: str | None
    body: str
    url: str  # for humans


class CommitStatus(Struct, frozen=True, kw_only=True):
    """A commit status. ``state``: error, failure, pending, success."""

    context: str
    state: str
    description: str | None
    target_url: str | None
    creator: str | None


class Artifact(Struct, frozen=True, kw_only=True):
    """An uploaded zip of a run; ``size`` in bytes."""

    id: int
    name: str
    size: int
    expired: bool


class GitHub:
    """One repository (``owner/name``) at ``api_url``, with ``token`` (None: anonymous).

    ``deadline`` tells the seconds left until the caller must be done and bounds every wait and time-out; ``log`` is
    told of every wait. Every method raises as `Rest.request` does, and GithubError for an answer in an unknown shape.
    """

    def __init__(
        self,
        *,
        api_url: str,
        repository: str,
        token: str | None,
        deadline: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.repository = repository
        self._rest = Rest(api_url=api_url, token=token, deadline=deadline, sleep=sleep, log=log)
        self._root = f"/repos/{quote(repository)}"
        self._seen: dict[str, tuple[str, Any]] = {}  # path → ETag, and what came with it

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Any request, ``path`` below the API's root (``/repos/owner/name/…``). See `Rest.request`."""
        return self._rest.request(method, path, json=json, params=params, headers=headers, repeatable=repeatable)

    def login(self) -> str | None:
        """Who the token is; None for an installation's (``GITHUB_TOKEN``), which GitHub does not tell."""
        try:
            return self._one("GET", "/user", lambda user: str(user["login"]))
        except Forbidden as error:
            if error.status == 403:
                return None
            raise

    # --- pull requests

    def pull_request(self, number: int) -> PullRequest:
        """The pull request as it is now."""
        return self._one("GET", f"{self._root}/pulls/{number}", _pull_request)

    def open_pull_requests(self, *, head_repository: str, branch: str) -> tuple[PullRequest, ...]:
        """The open pull requests from that branch of that repository (``owner/name``)."""
        owner = head_repository.partition("/")[0]
        # `head` names an owner, not a repository: GitHub allows one fork of a network per owner, so that is checked.
        params: dict[str, str | int] = {"state": "open", "head": f"{owner}:{branch}"}
        found = self._each(f"{self._root}/pulls", _pull_request, params=params)
        return tuple(pull for pull in found if pull.head_repository == head_repository)

    def permission(self, login: str) -> str:
        """What somebody may do here: admin, write (also maintain), read (also triage), none. NotFound for no user."""
        path = f"{self._root}/collaborators/{quote(login, safe='')}/permission"
        return self._one("GET", path, lambda body: str(body["permission"]))

    def commit_time(self, sha: str) -> float:
        """When a commit was made, in Unix seconds, as it says itself (its committer date)."""
        path = f"{self._root}/commits/{quote(sha, safe='')}"
        return self._one("GET", path, lambda body: _time(body["commit"]["committer"]["date"]))

    def pull_request_files(self, number: int) -> tuple[ChangedFile, ...]:
        """Every file the pull request changes. Raises TooManyFiles at GitHub's limit of 3000."""
        path = f"{self._root}/pulls/{number}/files"
        return _complete(tuple(self._each(path, _changed_file)), PULL_REQUEST_FILES_LIMIT, path)

    def compare_files(self, base: str, head: str) -> tuple[ChangedFile, ...]:
        """Every file of ``base...head``. Raises TooManyFiles at GitHub's limit of 300."""
        path = f"{self._root}/compare/{quote(base, safe='')}...{quote(head, safe='')}"
        # The pages are of commits; every file is on the first.
        files = self._one("GET", path, lambda body: tuple(map(_changed_file, body["files"])), params={"per_page": 1})
        return _complete(files, COMPARE_FILES_LIMIT, path)

    # --- comments

    def issue_comments(self, number: int) -> Iterator[Comment]:
        """Every comment of the pull request, oldest first, over all pages."""
        return self._each(f"{self._root}/issues/{number}/comments", _comment)

    def create_comment(self, number: int, body: str) -> Comment:
        """A new comment. Raises AnswerLost where it may be there all the same."""
        return self._one("POST", f"{self._root}/issues/{number}/comments", _comment, json={"body": body})

    def update_comment(self, comment_id: int, body: str) -> Comment:
        """Replaces a comment's text. Raises NotFound where somebody deleted it."""
        return self._one("PATCH", f"{self._root}/issues/comments/{comment_id}", _comment, json={"body": body})

    def delete_comment(self, comment_id: int) -> None:
        """Deletes a comment; one already gone is fine."""
        try:
            self._rest.request("DELETE", f"{self._root}/issues/comments/{comment_id}")
        except NotFound:
            return

    # --- statuses

    def commit_statuses(self, sha: str) -> Iterator[CommitStatus]:
        """Every status of a commit, newest first; the first of a context is the one that counts."""
        return self._each(f"{self._root}/commits/{quote(sha, safe='')}/statuses", _commit_status)

    def set_status(
        self, sha: str, *, state: str, context: str, description: str, target_url: str | None = None
    ) -> CommitStatus:
        """Sets the status of a commit under ``context``. A longer ``description`` is cut at GitHub's 140 characters."""
        body = {"state": state, "context": context, "description": _cut(description, DESCRIPTION_LIMIT)}
        if target_url is not None:
            body["target_url"] = target_url
        path = f"{self._root}/statuses/{quote(sha, safe='')}"
        # The newest status of a context counts, so the same one twice means the same.
        return self._one("POST", path, _commit_status, json=body, repeatable=True)

    # --- workflow runs

    def default_branch(self) -> str:
        """The name of the default branch."""
        return self._one("GET", self._root, lambda body: str(body["default_branch"]))

    def dispatch_workflow(
        self, workflow: str, *, ref: str, inputs: Mapping[str, str], details: bool = True
    ) -> tuple[int, str] | None:
        """Starts a workflow (a file name) on a branch: the new run's id and address for humans.

        None where GitHub started it without saying which run it is: always without ``details``, and on servers that
        do not know them. Raises AnswerLost where it may have been started all the same.
        """
        body: dict[str, Any] = {"ref": ref, "inputs": dict(inputs)}
        if details:
            body["return_run_details"] = True
        path = f"{self._root}/actions/workflows/{quote(workflow, safe='')}/dispatches"
        answer = self._rest.request("POST", path, json=body)
        if answer.status == 204 or not answer.content:
            return None
        return _parsed(answer, lambda run: (int(run["workflow_run_id"]), str(run["html_url"])))

    def workflow_runs(self, workflow: str, *, since: float) -> Iterator[WorkflowRun]:
        """Every dispatched run of a workflow that was created since then (Unix seconds), newest first."""
        moment = datetime.fromtimestamp(since, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"{self._root}/actions/workflows/{quote(workflow, safe='')}/runs"
        pages = self._rest.pages(path, params={"event": "workflow_dispatch", "created": f">={moment}"})
        for page in pages:
            yield from _parsed(page, lambda body: [_workflow_run(run) for run in body["workflow_runs"]])

    def workflow_run(self, run_id: int) -> WorkflowRun:
        """A run as it is now. Asked again, it costs nothing of the rate limit unless it changed."""
        return self._unchanged(f"{self._root}/actions/runs/{run_id}", _workflow_run)

    def run_jobs(self, run_id: int) -> tuple[WorkflowJob, ...]:
        """The jobs of a run's latest attempt, at most a hundred. Asked again, it costs nothing unless they changed."""
        path = f"{self._root}/actions/runs/{run_id}/jobs?per_page=100"
        return self._unchanged(path, lambda body: tuple(map(_workflow_job, body["jobs"])))

    def run_artifacts(self, run_id: int) -> tuple[Artifact, ...]:
        """Every artifact of a run."""
        pages = self._rest.pages(f"{self._root}/actions/runs/{run_id}/artifacts")
        return tuple(
            artifact for page in pages for artifact in _parsed(page, lambda b: [_artifact(a) for a in b["artifacts"]])
        )

    def download_artifact(self, artifact_id: int) -> bytes:
        """An artifact's zip. Raises NotFound where it has expired."""
        return self._rest.request("GET", f"{self._root}/actions/artifacts/{artifact_id}/zip").content

    def cancel_run(self, run_id: int) -> None:
        """Cancels a run; one that is over already is fine."""
        path = f"{self._root}/actions/runs/{run_id}/cancel"
        try:
            self._rest.request("POST", path, repeatable=True)
        except GithubError as error:
            if error.status != 409:
                raise

    def _unchanged(self, path: str, parse: Callable[[Any], T]) -> T:
        """What is there, asked for by its ETag: 304 is what came before."""
        etag, before = self._seen.get(path, (None, None))
        answer = self._rest.request("GET", path, headers={"If-None-Match": etag} if etag is not None else None)
        if answer.status == 304 and etag is not None:
            return cast(T, before)
        value = _parsed(answer, parse)
        if "etag" in answer.headers:
            self._seen[path] = (answer.headers["etag"], value)
        return value

    def _one(self, method: str, path: str, parse: Callable[[Any], T], **sent: Any) -> T:
        return _parsed(self._rest.request(method, path, **sent), parse)

    def _each(
        self, path: str, parse: Callable[[Any], T], *, params: Mapping[str, str | int] | None = None
    ) -> Iterator[T]:
        for page in self._rest.pages(path, params=params):
            yield from _parsed(page, lambda items: [parse(item) for item in items])


def _parsed(answer: Answer, parse: Callable[[Any], T]) -> T:
    body = answer.json()
    try:
        return parse(body)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"answered in a shape we do not know ({type(error).__name__}: {error})"
        raise GithubError(reason, method=answer.method, path=answer.path, status=answer.status) from None


def _pull_request(body: Any) -> PullRequest:
    head, base = body["head"], body["base"]
    # A deleted fork leaves null: https://github.com/github/rest-api-description/issues/1811
    head_repository = None if head["repo"] is None else str(head["repo"]["full_name"])
    return PullRequest(
        number=int(body["number"]),
        head_sha=str(head["sha"]),
        head_repository=head_repository,
        base_ref=str(base["ref"]),
        base_sha=str(base["sha"]),
        labels=tuple(str(label["name"]) for label in body["labels"]),
        fork=head_repository != str(base["repo"]["full_name"]),
        closed=body["state"] != "open",
    )


def _changed_file(body: Any) -> ChangedFile:
    status = str(body["status"])
    return ChangedFile(
        path=str(body["filename"]), status=_FILE_STATUS.get(status, status), old_path=body.get("previous_filename")
    )


def _comment(body: Any) -> Comment:
    return Comment(
        id=int(body["id"]), author=_login(body["user"]), body=str(body.get("body") or ""), url=str(body["html_url"])
    )


def _commit_status(body: Any) -> CommitStatus:
    return CommitStatus(
        context=str(body["context"]),
        state=str(body["state"]),
        description=body["description"],
        target_url=body["target_url"],
        creator=_login(body["creator"]),
    )


def _workflow_run(body: Any) -> WorkflowRun:
    return WorkflowRun(
        id=int(body["id"]),
        title=str(body.get("display_title") or body.get("name") or ""),
        status=str(body["status"]),
        conclusion=body["conclusion"],
        url=str(body["html_url"]),
        event=str(body["event"]),
        created=_moment(body["created_at"]) or 0.0,
    )


def _workflow_job(body: Any) -> WorkflowJob:
    return WorkflowJob(
        name=str(body["name"]),
        status=str(body["status"]),
        conclusion=body["conclusion"],
        labels=tuple(str(label) for label in body.get("labels") or ()),
        runner=body.get("runner_name") or None,
        started=_moment(body.get("started_at")),
        completed=_moment(body.get("completed_at")),
    )


def _artifact(body: Any) -> Artifact:
    return Artifact(
        id=int(body["id"]), name=str(body["name"]), size=int(body["size_in_bytes"]), expired=bool(body["expired"])
    )


def _moment(text: str | None) -> float | None:
    """GitHub's time as Unix seconds."""
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _time(text: Any) -> float:
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()


def _login(user: Any) -> str | None:
    return None if user is None else str(user["login"])


def _complete(files: tuple[ChangedFile, ...], limit: int, path: str) -> tuple[ChangedFile, ...]:
    if len(files) >= limit:
        reason = f"GitHub lists only {limit} changed files, and there may be more"
        remedy = "Check out with `fetch-depth: 0`: git knows them all."
        raise TooManyFiles(reason, method="GET", path=path, remedy=remedy)
    return files


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
