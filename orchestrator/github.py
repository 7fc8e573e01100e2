"""GitHub as we use it: pull requests, comments, statuses, comparisons of one repository, as plain values.

What a request survives and how it fails is `orchestrator.rest`; its errors are named here too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from orchestrator.answers import Answer, AnswerLost, Forbidden, GithubError, NotFound, RateLimited, Unreachable
from orchestrator.model import ChangedFile, PullRequest
from orchestrator.rest import Rest

__all__ = [
    "Answer",
    "AnswerLost",
    "Comment",
    "CommitStatus",
    "Forbidden",
    "GitHub",
    "GithubError",
    "NotFound",
    "RateLimited",
    "TooManyFiles",
    "Unreachable",
]

DESCRIPTION_LIMIT = 140  # characters of a commit status's description
PULL_REQUEST_FILES_LIMIT = 3000  # https://docs.github.com/en/rest/pulls/pulls#list-pull-requests-files
COMPARE_FILES_LIMIT = 300  # https://docs.github.com/en/rest/commits/commits#compare-two-commits
_FILE_STATUS = {"removed": "deleted", "changed": "type-changed"}  # the rest are our words too

T = TypeVar("T")


class TooManyFiles(GithubError):  # noqa: N818 -- named for what it is
    """GitHub's list of changed files ends at its limit, so which files changed is unknown."""


@dataclass(frozen=True, kw_only=True)
class Comment:
    """A comment on a pull request. ``author`` is a login; None: the account was deleted."""

    id: int
    author: str | None
    body: str
    url: str  # for humans


@dataclass(frozen=True, kw_only=True)
class CommitStatus:
    """A commit status. ``state``: error, failure, pending, success."""

    context: str
    state: str
    description: str | None
    target_url: str | None
    creator: str | None


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

    def _one(self, method: str, path: str, parse: Callable[[Any], T], **sent: Any) -> T:
        return _parsed(self._rest.request(method, path, **sent), parse)

    def _each(self, path: str, parse: Callable[[Any], T]) -> Iterator[T]:
        for page in self._rest.pages(path):
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
