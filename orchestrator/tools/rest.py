"""One REST request, tried until it has a sure end: an answer, or an error that says what to do about it.

What may be tried again is tried again, within limits: a broken connection or a 5xx where a second time does no harm, a
rate limit always. A request whose effect may have happened unseen is never sent twice: `AnswerLost` leaves the caller
to look. Nothing waits past the deadline, and the token is in no message, no log and no request to another host.

`requests` is imported when something is sent, so that a command which posts nothing does not pay for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from orchestrator import __version__
from orchestrator.tools.answers import (
    Answer,
    AnswerLost,
    GithubError,
    RateLimited,
    Unreachable,
    rate_limit_seconds,
    refusal,
    told,
)
from orchestrator.words.errors import UsageError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

API_VERSION = "2022-11-28"
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
MOST_ATTEMPTS = 5
MOST_WAITING = 120.0  # seconds slept for one request, all its attempts together
MOST_PAGES = 100
MOST_REDIRECTS = 5
_SLICE = 1.0  # a sleep looks at the deadline this often: a cancelled job's draws nearer while it sleeps


class _Request(Struct, frozen=True, kw_only=True):
    method: str
    url: str
    json: Any
    params: Mapping[str, str | int] | None
    headers: Mapping[str, str]
    repeatable: bool

    @property
    def path(self) -> str:
        return urlsplit(self.url).path


class _Broken(Exception):  # noqa: N818
    """No answer came. ``performed``: the request may have been; ``lasting``: the next attempt would end the same."""

    def __init__(self, reason: str, *, performed: bool, lasting: bool = False, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.performed = performed
        self.lasting = lasting
        self.remedy = remedy


class Rest:
    """GitHub's REST API at ``api_url``.

    ``deadline``: seconds left until the caller must be done, asked again before every wait. ``sleep`` and ``log`` are
    effects; ``log`` gets one line for each wait.
    """

    def __init__(
        self,
        *,
        api_url: str,
        token: str | None,
        deadline: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        log: Callable[[str], None] | None = None,
    ) -> None:
        target = urlsplit(api_url)
        if target.scheme not in ("http", "https") or not target.hostname:
            raise UsageError(f"GITHUB_API_URL: {api_url!r} is not an http(s) address")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise UsageError(
                "the GitHub token has characters that no token has",
                remedy="Look for a line end or a space in the secret that holds it.",
            )
        self._api_url = api_url.rstrip("/")
        self._origin = _origin(api_url)
        self._token = token
        self._deadline = deadline
        self._sleep = sleep
        self._log = log or (lambda _: None)
        self._opened: Session | None = None

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
        """The answer to one request (2xx or 304).

        ``path`` is below the API's root, or a whole address of the same host that GitHub gave. ``repeatable``: whether
        a second time does no harm; by default every method's but POST's.

        Raises NotFound, Forbidden, RateLimited, AnswerLost (only where not repeatable), Unreachable, or GithubError for
        any other refusal.
        """
        request = _Request(
            method=method,
            url=self._address(method, path),
            json=json,
            params=params,
            headers={
                "Accept": "application/vnd.github+json",
                "User-Agent": f"mltiers/{__version__}",
                "X-GitHub-Api-Version": API_VERSION,
                **(headers or {}),
            },
            repeatable=method != "POST" if repeatable is None else repeatable,
        )
        waited = 0.0
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                return self._attempt(request, attempt)
            except _Again as again:
                waited += again.seconds
                if attempt == MOST_ATTEMPTS or waited > MOST_WAITING:
                    raise again.error from None
                self._pause(again.seconds, again.error)
        raise AssertionError("the last attempt raises or returns")

    def pages(self, path: str, *, params: Mapping[str, str | int] | None = None) -> Iterator[Answer]:
        """Every page of a list, a hundred entries each, by the ``Link`` headers. Raises as `request` does."""
        answer = self.request("GET", path, params={"per_page": 100, **(params or {})})
        for _ in range(MOST_PAGES):
            yield answer
            following = answer.link("next")
            if following is None:
                return
            answer = self.request("GET", following)
        raise GithubError(f"has more than {MOST_PAGES} pages", method="GET", path=answer.path)

    def _attempt(self, request: _Request, attempt: int) -> Answer:
        """One try: an answer, a final error, or `_Again`."""
        backoff = 0.5 * 2.0 ** (attempt - 1)
        try:
            response = self._exchange(request)
        except _Broken as broken:
            if broken.performed and not request.repeatable:
                raise self._error(AnswerLost, broken.reason, request) from None
            error = self._error(Unreachable, broken.reason, request, remedy=broken.remedy)
            if broken.lasting:
                raise error from None
            raise _Again(error, backoff) from None
        answer = Answer(
            method=request.method,
            path=request.path,
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            content=response.content,
        )
        if answer.status < 400:
            return answer
        reason = self._clean(f"{answer.status} {told(answer, response.reason)}")
        limit = rate_limit_seconds(answer, attempt=attempt, now=time.time())
        if limit is not None:
            raise _Again(self._rate_limited(request, answer, reason, limit), limit)
        if answer.status >= 500:
            if not request.repeatable:
                raise self._error(AnswerLost, reason, request, status=answer.status)
            raise _Again(self._error(Unreachable, reason, request, status=answer.status), backoff)
        raise refusal(answer, reason)

    def _exchange(self, request: _Request) -> Response:
        """The response after its redirects. Another host never sees the token, nor anything but a GET."""
        url, params = request.url, request.params
        for _ in range(MOST_REDIRECTS + 1):
            response = self._send(request, url, params)
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            target, params = urljoin(url, response.headers.get("Location", "")), None
            here = _origin(target) == self._origin
            if target == url or not is_safe_redirect(request.method, response.status_code, url, target, here=here):
                raise self._error(
                    GithubError,
                    f"{response.status_code}: it has moved",
                    request,
                    status=response.status_code,
                    remedy="Was the repository renamed or moved? A new run has its new name in GITHUB_REPOSITORY.",
                )
            url = target
        raise self._error(GithubError, f"more than {MOST_REDIRECTS} redirects", request)

    def _send(self, request: _Request, url: str, params: Mapping[str, str | int] | None) -> Response:
        """One exchange over the wire; raises `_Broken` where no whole answer came."""
        import requests  # noqa: PLC0415 -- see the module's docstring
        from requests import exceptions  # noqa: PLC0415

        left = self._left()
        if left <= 0:
            raise self._error(Unreachable, "no time was left for it", request)
        if self._opened is None:
            self._opened = requests.Session()
        try:
            return self._opened.request(
                request.method,
                url,
                params=params,
                json=request.json,
                headers=dict(request.headers),
                # Always given: without one, requests would take a password from ~/.netrc over our header.
                auth=self._authorize if _origin(url) == self._origin else _anonymous,
                timeout=(min(CONNECT_SECONDS, left), min(READ_SECONDS, left)),
                allow_redirects=False,
            )
        except exceptions.SSLError as error:
            remedy = "Behind a proxy that re-signs TLS, name its certificates in REQUESTS_CA_BUNDLE."
            raise _Broken(f"TLS failed ({_cause(error)})", performed=False, lasting=True, remedy=remedy) from None
        except exceptions.ProxyError as error:
            remedy = "HTTPS_PROXY and NO_PROXY of this job say which proxy is used."
            raise _Broken(f"the proxy failed ({_cause(error)})", performed=False, remedy=remedy) from None
        except exceptions.ConnectTimeout:
            raise _Broken("no connection in time", performed=False) from None
        except exceptions.Timeout:
            raise _Broken("no answer in time", performed=True) from None
        except exceptions.ConnectionError as error:
            unsent = _never_connected(error)
            what = "no connection" if unsent else "the connection broke"
            raise _Broken(f"{what} ({_cause(error)})", performed=not unsent) from None
        except exceptions.RequestException as error:
            raise _Broken(f"the answer could not be read ({_cause(error)})", performed=True) from None

    def _pause(self, seconds: float, error: GithubError) -> None:
        """Sleeps, unless the deadline comes first: then raises the error at once."""
        self._log(f"{error.message}; trying again in {seconds:g} s")
        while seconds > 0:
            if self._left() <= seconds:
                raise error
            step = min(_SLICE, seconds)
            self._sleep(step)
            seconds -= step

    def _left(self) -> float:
        return float("inf") if self._deadline is None else self._deadline()

    def _address(self, method: str, path: str) -> str:
        if not urlsplit(path).scheme:
            return f"{self._api_url}/{path.lstrip('/')}"
        if _origin(path) != self._origin:
            raise GithubError("a link leads to another host", method=method, path=urlsplit(path).path)
        return path

    def _authorize(self, prepared: PreparedRequest) -> PreparedRequest:
        if self._token is not None:
            prepared.headers["Authorization"] = f"Bearer {self._token}"
        return prepared

    # --- errors

    def _error(
        self,
        kind: type[GithubError],
        reason: str,
        request: _Request,
        *,
        status: int | None = None,
        remedy: str | None = None,
    ) -> GithubError:
        return kind(self._clean(reason), method=request.method, path=request.path, status=status, remedy=remedy)

    def _rate_limited(self, request: _Request, answer: Answer, reason: str, seconds: float) -> RateLimited:
        return RateLimited(
            f"{reason}; the rate limit lifts in {seconds:.0f} s",
            method=request.method,
            path=request.path,
            status=answer.status,
            remedy="Run this again later. A token of your own has a limit of its own (the input `token`).",
            seconds=seconds,
        )

    def _clean(self, text: str) -> str:
        """One printable line of bounded length, without the token."""
        if self._token is not None:
            text = text.replace(self._token, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= 500 else text[:499] + "…"


class _Again(Exception):  # noqa: N818
    """The attempt failed with ``error``, and may be repeated in ``seconds``."""

    def __init__(self, error: GithubError, seconds: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.seconds = seconds


def is_safe_redirect(method: str, status: int, source: str, target: str, *, here: bool) -> bool:
    """Whether to follow a redirect: a GET anywhere but from TLS to plain, another method only ``here``, as it is."""
    if urlsplit(target).scheme not in ("http", "https"):
        return False
    if urlsplit(source).scheme == "https" and urlsplit(target).scheme == "http":
        return False
    return method == "GET" or (here and status in (307, 308))


def _origin(url: str) -> tuple[str, str, int]:
    target = urlsplit(url)
    port = target.port or {"http": 80, "https": 443}.get(target.scheme, 0)
    return target.scheme, target.hostname or "", port


def _anonymous(prepared: PreparedRequest) -> PreparedRequest:
    return prepared


def _never_connected(error: Exception) -> bool:
    """Whether not even a connection was made, so that nothing can have been performed."""
    from urllib3.exceptions import MaxRetryError, NewConnectionError  # noqa: PLC0415 -- comes with requests

    wrapped = error.args[0] if error.args else None
    return isinstance(wrapped, MaxRetryError) and isinstance(wrapped.reason, NewConnectionError)


def _cause(error: BaseException) -> str:
    """The innermost reason in words: requests wraps urllib3, which wraps the socket's own error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
