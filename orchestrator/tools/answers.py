"""What GitHub's answers mean: the errors, how long a rate limit lasts, what a refusal asks of the workflow. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from orchestrator.words.errors import InfrastructureError

SECONDARY_LIMIT_SECONDS = 60.0  # GitHub asks for at least a minute where it names no time


class GithubError(InfrastructureError):
    """GitHub did not do what was asked. ``status`` is None where there was no answer."""

    def __init__(
        self, reason: str, *, method: str, path: str, status: int | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(f"GitHub: {method} {path}: {reason}", remedy=remedy)
        self.method = method
        self.path = path
        self.status = status


class NotFound(GithubError):  # noqa: N818 -- named for what it is
    """404 or 410."""


class Forbidden(GithubError):  # noqa: N818
    """401 or 403. ``read_only_token``: the token lacks a permission, as that of every fork's pull request does."""

    def __init__(
        self,
        reason: str,
        *,
        method: str,
        path: str,
        status: int | None = None,
        remedy: str | None = None,
        read_only_token: bool = False,
    ) -> None:
        super().__init__(reason, method=method, path=path, status=status, remedy=remedy)
        self.read_only_token = read_only_token


class Unreachable(GithubError):  # noqa: N818
    """No usable answer: no connection, 5xx, or no time left."""


class RateLimited(Unreachable):
    """The rate limit lifts later than we may wait. ``seconds`` until it does."""

    def __init__(self, reason: str, *, method: str, path: str, status: int, remedy: str, seconds: float) -> None:
        super().__init__(reason, method=method, path=path, status=status, remedy=remedy)
        self.seconds = seconds


class AnswerLost(Unreachable):
    """The request may have had its effect: only GitHub's state can tell, so look before asking again."""


class Answer(Struct, frozen=True, kw_only=True):
    """What GitHub answered. ``headers`` have lower-case names; ``status`` is below 400."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    def __repr__(self) -> str:
        return f"Answer({self.method} {self.path}: {self.status}, {len(self.content)} bytes)"

    def json(self) -> Any:
        """The body. Raises Unreachable where it is not JSON: a proxy's page, say."""
        try:
            return json.loads(self.content)
        except ValueError:
            raise Unreachable(
                "answered with something that is not JSON",
                method=self.method,
                path=self.path,
                status=self.status,
                remedy="Is a proxy between this machine and GITHUB_API_URL?",
            ) from None

    def link(self, relation: str) -> str | None:
        """The address in the ``Link`` header under ``relation``."""
        for link in self.headers.get("link", "").split(","):
            address, *attributes = link.split(";")
            if any(attribute.strip() == f'rel="{relation}"' for attribute in attributes):
                return address.strip().removeprefix("<").removesuffix(">")
        return None


def told(answer: Answer, phrase: str) -> str:
    """GitHub's own words in an error; ``phrase`` where the body is not GitHub's (a front server's page)."""
    try:
        body = json.loads(answer.content)
        words = [body["message"], *(error.get("message", "") for error in body.get("errors", ()))]
        return ": ".join(word for word in words if word)
    except (ValueError, KeyError, TypeError, AttributeError):
        return phrase


def refusal(answer: Answer, reason: str) -> GithubError:
    """The error of a 4xx that is no rate limit. ``reason``: the status and GitHub's words, fit to be shown."""
    method, path, status = answer.method, answer.path, answer.status
    if status in (404, 410):
        remedy = "Is the name right? GitHub also answers so where the token may not see a private repository."
        return NotFound(reason, method=method, path=path, status=status, remedy=remedy)
    if status == 401:
        remedy = "Give the action a token that is valid now (the input `token`)."
        return Forbidden(reason, method=method, path=path, status=status, remedy=remedy)
    if status == 403:
        lacking = "not accessible by" in told(answer, "")  # else: single sign-on, an IP list, a locked thread …
        needed = permission_remedy(answer.headers.get("x-accepted-github-permissions", "")) if lacking else None
        return Forbidden(reason, method=method, path=path, status=status, remedy=needed, read_only_token=lacking)
    return GithubError(reason, method=method, path=path, status=status)


def rate_limit_seconds(answer: Answer, *, attempt: int, now: float) -> float | None:
    """How long to wait out the rate limit that an answer tells of; None: it tells of none.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit: the header
    ``Retry-After``; else, with nothing remaining, the time of ``x-ratelimit-reset``; else a minute, longer each time.
    ``now`` is Unix time; GitHub's own clock (``Date``) is preferred, for a runner's may be off.
    """
    headers = answer.headers
    exhausted = headers.get("x-ratelimit-remaining") == "0"
    said = b"rate limit" in answer.content.lower()
    if answer.status != 429 and not (answer.status == 403 and ("retry-after" in headers or exhausted or said)):
        return None
    after = _number(headers.get("retry-after"))
    if after is not None:
        return max(after, 1.0)
    reset = _number(headers.get("x-ratelimit-reset"))
    if exhausted and reset is not None:
        return max(reset - _server_time(headers.get("date"), now), 0.0) + 1.0
    return SECONDARY_LIMIT_SECONDS * 2.0 ** (attempt - 1)


def permission_remedy(accepted: str) -> str:
    """What to write into the workflow, from GitHub's header ``X-Accepted-GitHub-Permissions``.

    It lists alternatives (``issues=write; pull_requests=write``), each a set joined by commas. Ours are pull requests,
    which only their own permission opens: https://docs.github.com/en/rest/issues/comments
    """
    alternatives = [part.strip() for part in accepted.split(";") if part.strip()]
    chosen = next((part for part in alternatives if "pull_requests" in part), alternatives[0] if alternatives else "")
    if not chosen:
        return "Give the job the `permissions:` that this needs."
    names = [part.strip().replace("_", "-").replace("=", ": ") for part in chosen.split(",")]
    sentence = f"Give the job `permissions: {{{', '.join(names)}}}`." if len(names) > 1 else ""
    sentence = sentence or f"Give the job `permissions: {names[0]}`."
    if "write" in chosen:
        sentence += " The token of a fork's pull request never gets it: report those with the fork-report workflow."
    return sentence


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\d{1,12}", text.strip()) else None


def _server_time(date: str | None, now: float) -> float:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 -- slow to import, rarely needed

    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return now
