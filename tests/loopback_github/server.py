"""The HTTP side of the loopback GitHub: tokens, rate limits, ETags, faults, and the contract held on both sides."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.loopback_github import actions_routes, githttp, routes  # noqa: F401 -- they register their endpoints
from tests.loopback_github.api import NO_BODY, ROUTES, Answer, ApiError, Call, Hooks, check_permission
from tests.loopback_github.contract import Operation, github_contract
from tests.loopback_github.faults import Fault, Faults
from tests.loopback_github.state import ACTIONS_BOT, WRITE, Repository, Token, World, now

MOST_REQUESTS = 20_000
MOST_BYTES = 16 * 1024 * 1024
IDLE_SECONDS = 30.0
ENTERPRISE_PREFIX = "/api/v3"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and what came of it. ``status`` None: the connection was dropped. ``headers`` in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    status: int | None


@dataclass(frozen=True, kw_only=True)
class _Request:
    method: str
    raw_path: str
    path: str  # as the API's root sees it: no enterprise prefix, /repositories/ID as /repos/OWNER/NAME
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw_body: bytes


@dataclass
class _Outcome:
    answer: Answer | None
    fault: Fault | None = None
    operation: Operation | None = None
    violations: list[str] = field(default_factory=list)


class LoopbackGitHub:
    """GitHub's REST API on 127.0.0.1, as a context manager.

    ``with LoopbackGitHub() as github:`` serves ``github.api_url`` until the block ends, and then raises
    ``AssertionError`` if any request or answer broke GitHub's own description (``github.violations``). State is
    ``github.world``; ``inject`` makes things fail; ``exchanges`` is everything that was asked, in order. With
    ``enterprise=True`` the API lives under ``/api/v3`` as on GitHub Enterprise Server.
    """

    def __init__(self, *, enterprise: bool = False, hooks: Hooks | None = None) -> None:
        self.world = World()
        self.hooks = hooks or Hooks()
        self.exchanges: list[Exchange] = []
        self.violations: list[str] = []
        self._contract = github_contract()
        self._faults = Faults()
        self.inject = self._faults.inject
        self._blobs: dict[str, bytes] = {}
        self._stopping = threading.Event()
        self._count = 0
        self._api = _Server(self, _ApiHandler)
        self._blob = _Server(self, _BlobHandler)
        self.world.api_url = self._api.origin + (ENTERPRISE_PREFIX if enterprise else "")

    # --- what a test uses

    @property
    def api_url(self) -> str:
        """For ``GITHUB_API_URL``; no slash at the end."""
        return self.world.api_url

    @property
    def server_url(self) -> str:
        """For ``GITHUB_SERVER_URL``: git speaks to ``<server_url>/<owner>/<name>.git``."""
        return self._api.origin

    def add_repository(
        self,
        full_name: str = "octo/widgets",
        *,
        path: Path | None = None,
        default_branch: str = "main",
        fork: bool = False,
    ) -> Repository:
        """See ``World.add_repository``."""
        return self.world.add_repository(full_name, path=path, default_branch=default_branch, fork=fork)

    def add_token(
        self, login: str = ACTIONS_BOT, *, installation: bool | None = None, permissions: Mapping[str, str] = WRITE
    ) -> str:
        """See ``World.add_token``."""
        return self.world.add_token(login, installation=installation, permissions=permissions)

    def asked(self, method: str, ending: str = "") -> list[Exchange]:
        """The exchanges of a method whose path ends so."""
        return [x for x in self.exchanges if x.method == method and x.path.endswith(ending)]

    @property
    def unused_faults(self) -> int:
        """How many injected faults no request met."""
        return self._faults.unused

    def __enter__(self) -> LoopbackGitHub:
        self._api.start()
        self._blob.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._api.stop()
        self._blob.stop()
        if kind is None and self.violations:
            raise AssertionError("GitHub's description was broken:\n" + "\n".join(self.violations))

    # --- what the handlers use

    def violate(self, sentence: str) -> Answer:
        """Records a violation; the answer is a 500 that says it."""
        self.violations.append(sentence)
        return Answer(status=500, body={"message": f"contract violation: {sentence}"})

    def blob(self, path: str, headers: Mapping[str, str]) -> Answer | bytes:
        """The other host's content: signed addresses, and no GitHub token welcome."""
        if "authorization" in headers:
            return self.violate("the token was sent to another host")
        return self._blobs.get(path) or Answer(status=404, body={"message": "no such blob"})

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that waits for this request, after what comes before its answer."""
        fault = self._faults.take(method, path)
        if fault is not None:
            if fault.before is not None:
                fault.before()
            self._stopping.wait(fault.hang)
        return fault

    def _store(self, content: bytes) -> str:
        path = f"/blobs/{secrets.token_hex(8)}.zip"
        self._blobs[path] = content
        return f"{self._blob.origin}{path}?sig={secrets.token_hex(8)}"

    def handle(self, request: _Request) -> _Outcome:
        """One request, from the contract's judgement of it to the contract's judgement of the answer."""
        with self.world.lock:
            self._count += 1
            if self._count > MOST_REQUESTS:
                return _Outcome(self.violate(f"more than {MOST_REQUESTS} requests: a client loops"))
        title = f"{request.method} {request.path}"
        matched = self._contract.match(request.method, request.path)
        if matched is None or matched[0].id not in ROUTES:
            return _Outcome(self.violate(f"{title}: not an operation of the extract (extract_openapi.py, OPERATIONS)"))
        operation, path = matched
        query = self._contract.typed_query(operation, request.query)
        problems, body = self._judge(request, operation, path, query)
        if problems:
            return _Outcome(self.violate("; ".join(f"{title}: {problem}" for problem in problems)))

        fault = self.take_fault(request.method, request.path)
        if fault is not None and not fault.effect:
            return _Outcome(None, fault, operation)
        answer = self._perform(request, operation, path, query, body)
        if answer.after is not None:
            answer.after()
        has_body = answer.body is not NO_BODY
        problems = self._contract.answer_problems(operation, answer.status, answer.body, has_body=has_body)
        if problems:
            answer = self.violate("; ".join(f"{title}: {problem}" for problem in problems))
        return _Outcome(answer, fault, operation)

    def _judge(
        self, request: _Request, operation: Operation, path: Mapping[str, Any], query: Mapping[str, Any]
    ) -> tuple[list[str], Any]:
        body: Any = None
        if request.raw_body:
            try:
                body = json.loads(request.raw_body)
            except ValueError:
                return ["the body is not JSON"], None
        problems = self._contract.request_problems(operation, path, query, body, has_body=bool(request.raw_body))
        missing = sorted(query.keys() - ROUTES[operation.id].query)
        problems += [f"the loopback does not implement the parameter {name}" for name in missing]
        if not request.headers.get("user-agent"):
            problems.append("no User-Agent")
        return problems, body

    def _perform(
        self, request: _Request, operation: Operation, path: Mapping[str, Any], query: Mapping[str, Any], body: Any
    ) -> Answer:
        with self.world.lock:
            limits: dict[str, str] = {}
            try:
                token = self._token(request.headers)
                limits = self._spend(operation, token)
                call = Call(
                    world=self.world,
                    operation=operation,
                    path=path,
                    query=query,
                    body=body,
                    token=token,
                    hooks=self.hooks,
                    store=self._store,
                    link_path=self._link_path(request, path),
                )
                check_permission(call, ROUTES[operation.id])
                answer = self._conditional(request, ROUTES[operation.id].handler(call))
            except ApiError as error:
                answer = error.answer
            if answer.status == 304:  # an authorized conditional request costs nothing
                self._refund(token)
                limits = self._limits(token)
        return Answer(status=answer.status, body=answer.body, headers={**limits, **answer.headers}, after=answer.after)

    def _token(self, headers: Mapping[str, str]) -> Token | None:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if not scheme:
            return None
        token = self.world.tokens.get(value)
        if token is None or scheme.lower() not in ("bearer", "token"):
            raise ApiError(401, "Bad credentials")
        return token

    def _spend(self, operation: Operation, token: Token | None) -> dict[str, str]:
        name = token.value if token else ""
        if now() >= self.world.rate_reset:
            self.world.rate_used.clear()
            self.world.rate_reset = now() + timedelta(hours=1)
        if operation.id == "rate-limit/get":
            return self._limits(token)
        if self.world.rate_used.get(name, 0) >= self.world.rate_limit:
            raise ApiError(403, "API rate limit exceeded for installation.", headers=self._limits(token))
        self.world.rate_used[name] = self.world.rate_used.get(name, 0) + 1
        return self._limits(token)

    def _refund(self, token: Token | None) -> None:
        self.world.rate_used[token.value if token else ""] -= 1

    def _limits(self, token: Token | None) -> dict[str, str]:
        used = self.world.rate_used.get(token.value if token else "", 0)
        return {
            "X-RateLimit-Limit": str(self.world.rate_limit),
            "X-RateLimit-Remaining": str(self.world.rate_limit - used),
            "X-RateLimit-Used": str(used),
            "X-RateLimit-Reset": str(int(self.world.rate_reset.timestamp())),
            "X-RateLimit-Resource": "core",
        }

    def _conditional(self, request: _Request, answer: Answer) -> Answer:
        if request.method != "GET" or answer.status != 200:
            return answer
        text = json.dumps([answer.body, answer.headers.get("Link")], sort_keys=True)
        etag = f'W/"{hashlib.sha256(text.encode()).hexdigest()}"'
        if request.headers.get("if-none-match") == etag:
            return Answer(status=304, headers={"ETag": etag})
        return Answer(status=200, body=answer.body, headers={**answer.headers, "ETag": etag}, after=answer.after)

    def _link_path(self, request: _Request, path: Mapping[str, Any]) -> str:
        """Links name a repository by its number, whatever the request called it."""
        if "owner" not in path:
            return self.world.api_url + request.path
        repository = self.world.repositories.get(f"{path['owner']}/{path['repo']}".lower())
        rest = "/".join(request.path.split("/")[4:])
        return f"{self.world.api_url}/repositories/{repository.id if repository else 0}/{rest}"

    def normalize(self, raw_path: str) -> str:
        """The path below the API's root, with a repository's number replaced by its name."""
        path = raw_path.removeprefix(ENTERPRISE_PREFIX) if self.api_url.endswith(ENTERPRISE_PREFIX) else raw_path
        if path.startswith("/repositories/"):
            number, _, rest = path.removeprefix("/repositories/").partition("/")
            for repository in self.world.repositories.values():
                if str(repository.id) == number:
                    return f"/repos/{repository.full_name}/{rest}"
        return path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a hanging handler may not hold the test; it ends when the socket does

    def __init__(self, github: LoopbackGitHub, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.github = github
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "loopback-github"
    timeout = IDLE_SECONDS
    wbufsize = -1  # headers and body in one packet: else each answer waits 40 ms for the client's delayed ACK
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing is printed; ``LoopbackGitHub.exchanges`` is the log."""

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _send(self, status: int, headers: Mapping[str, str], content: bytes, *, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])

    def _send_answer(self, answer: Answer, *, cut: bool = False) -> None:
        content = b"" if answer.body is NO_BODY else json.dumps(answer.body).encode()
        kind = {"Content-Type": "application/json; charset=utf-8"} if content else {}
        self._send(answer.status, {**kind, **answer.headers}, content, cut=len(content) // 2 if cut else None)


class _ApiHandler(_Handler):
    def _serve(self) -> None:
        github = self.server.github
        length = int(self.headers.get("Content-Length") or 0)
        if length > MOST_BYTES:
            self.close_connection = True
            self._send_answer(github.violate(f"a body of {length} bytes"))
            return
        target = urlsplit(self.path)  # a proxy is asked for a whole address: this server is its own proxy
        if githttp.is_git(target.path):
            self._serve_git(target.path, target.query, length)
            return
        request = _Request(
            method=self.command,
            raw_path=target.path,
            path=github.normalize(target.path),
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers=self._headers(),
            raw_body=self.rfile.read(length),
        )
        outcome = github.handle(request)
        answer, fault = outcome.answer, outcome.fault
        if fault is not None and fault.status is not None:
            body = NO_BODY if fault.body is None else fault.body
            answer = Answer(status=fault.status, body=body, headers=fault.headers)
        dropped = answer is None or (fault is not None and fault.drop)
        github.exchanges.append(
            Exchange(
                method=request.method,
                path=request.path,
                query=request.query,
                headers=request.headers,
                body=json.loads(request.raw_body) if request.raw_body and not outcome.violations else None,
                status=None if dropped or answer is None else answer.status,
            )
        )
        if dropped or answer is None:
            self.close_connection = True
            return
        if fault is not None and fault.status is not None and fault.body is None:
            self._send(answer.status, {"Content-Type": "text/html"}, b"<html><body>Unicorn!</body></html>")
            return
        cut = fault is not None and fault.truncate
        self.close_connection = self.close_connection or cut
        self._send_answer(answer, cut=cut)

    def _serve_git(self, path: str, query: str, length: int) -> None:
        github = self.server.github
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        content = self._chunks() if chunked else self.rfile.read(length)
        headers = self._headers()
        fault = github.take_fault(self.command, path)
        answer: githttp.GitAnswer | None = None
        if fault is None or fault.effect:
            answer = githttp.answer(
                github.world, method=self.command, path=path, query=query, headers=headers, content=content
            )
        if fault is not None and fault.status is not None:
            answer = githttp.GitAnswer(status=fault.status, headers=fault.headers, content=b"")
        dropped = answer is None or (fault is not None and fault.drop)
        github.exchanges.append(
            Exchange(
                method=self.command,
                path=path,
                query=dict(parse_qsl(query, keep_blank_values=True)),
                headers=headers,
                body=None,
                status=None if dropped or answer is None else answer.status,
            )
        )
        if dropped or answer is None:
            self.close_connection = True
            return
        self._send(answer.status, answer.headers, answer.content)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while (size := int(self.rfile.readline(20).split(b";")[0], 16)) > 0:
            parts.append(self.rfile.read(size))
            self.rfile.readline(2)
            if sum(map(len, parts)) > MOST_BYTES:
                raise ConnectionError(f"a body of more than {MOST_BYTES} bytes")
        self.rfile.readline(2)
        return b"".join(parts)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815 -- http.server finds them by name


class _BlobHandler(_Handler):
    def do_GET(self) -> None:
        """A signed download."""
        found = self.server.github.blob(urlsplit(self.path).path, self._headers())
        if isinstance(found, Answer):
            self._send_answer(found)
        else:
            self._send(200, {"Content-Type": "application/zip"}, found)
