"""What a handler is given and gives back: the shape shared by all endpoints of the loopback GitHub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.loopback_github.contract import Operation
from tests.loopback_github.state import Repository, Run, Token, World

DOCS = "https://docs.github.com/rest"
LEVELS = ("none", "read", "write")
NO_BODY = object()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP answer. ``after`` runs when the state's lock is free again, before the answer is sent."""

    status: int = 200
    body: Any = NO_BODY
    headers: Mapping[str, str] = field(default_factory=dict)
    after: Callable[[], None] | None = None


class ApiError(Exception):
    """An answer that is an error, in GitHub's words."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        body: dict[str, Any] = {"message": message, "documentation_url": DOCS}
        if status == 422:
            body |= {"errors": [dict(error) for error in errors]} if errors else {}
        else:
            body["status"] = str(status)
        self.answer = Answer(status=status, body=body, headers=headers or {})


def invalid(resource: str, field_name: str, message: str) -> ApiError:
    """A 422 about one field."""
    error = {"resource": resource, "code": "custom", "field": field_name, "message": message}
    return ApiError(422, "Validation Failed", errors=[error])


def not_found() -> ApiError:
    """The 404 of everything that is not there, or may not be seen."""
    return ApiError(404, "Not Found")


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a test plugged in. Called outside the lock; may start real processes."""

    on_dispatch: Callable[[Run], None] | None = None
    on_cancel: Callable[[Run], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Call:
    """One understood and permitted request."""

    world: World
    operation: Operation
    path: Mapping[str, Any]
    query: Mapping[str, Any]
    body: Any
    token: Token | None
    hooks: Hooks
    store: Callable[[bytes], str]  # puts a blob on the other host, gives its URL
    link_path: str  # the path that links of this answer are built on

    @property
    def repository(self) -> Repository:
        """The repository of the path; 404 where there is none."""
        found = self.world.repositories.get(f"{self.path['owner']}/{self.path['repo']}".lower())
        if found is None or (found.private and self.token is None):
            raise not_found()
        return found

    @property
    def login(self) -> str:
        """Who asks."""
        assert self.token is not None
        return self.token.login

    def page(self, items: Sequence[Any], show: Callable[[Any], Any], *, wrap: str | None = None) -> Answer:
        """One page of the items with its ``Link`` header; ``wrap``: inside ``{"total_count", wrap}``."""
        size = max(1, min(100, self.query.get("per_page", 30)))
        number = max(1, self.query.get("page", 1))
        shown = [show(item) for item in items[(number - 1) * size : number * size]]
        body = shown if wrap is None else {"total_count": len(items), wrap: shown}
        return Answer(body=body, headers=self._links(number, last=max(1, -(-len(items) // size))))

    def _links(self, number: int, *, last: int) -> dict[str, str]:
        pages: dict[str, int] = {}
        if number > 1:
            pages |= {"prev": number - 1, "first": 1}
        if number < last:
            pages |= {"next": number + 1, "last": last}
        links = [
            f'<{self.link_path}?{urlencode({**self.query, "page": page})}>; rel="{relation}"'
            for relation, page in pages.items()
        ]
        return {"Link": ", ".join(links)} if links else {}


@dataclass(frozen=True, kw_only=True)
class Route:
    """One endpoint: its handler, the permission it takes, and the query parameters it really implements."""

    handler: Callable[[Call], Answer]
    permission: str | None = None
    level: str = "read"
    accepted: str = ""  # X-Accepted-GitHub-Permissions
    query: frozenset[str] = frozenset()


ROUTES: dict[str, Route] = {}


def route(
    operation: str, *, read: str | None = None, write: str | None = None, accepted: str | None = None, query: str = ""
) -> Callable[[Callable[[Call], Answer]], Callable[[Call], Answer]]:
    """Registers the handler of an operation of the description.

    ``read`` or ``write`` name the permission it takes; ``accepted`` is what GitHub says of it, where that differs;
    ``query`` lists the implemented parameters, and any other is refused rather than ignored.
    """
    permission, level = (write, "write") if write is not None else (read, "read")

    def register(handler: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        ROUTES[operation] = Route(
            handler=handler,
            permission=permission,
            level=level,
            accepted=accepted or f"{permission}={level}",
            query=frozenset(query.split()),
        )
        return handler

    return register


def check_permission(call: Call, entry: Route) -> None:
    """Refuses, as GitHub does, what the token may not do. Anybody may read a public repository."""
    if entry.permission is None:
        return
    if entry.level == "read" and not call.repository.private:
        return
    if call.token is None:
        raise ApiError(401, "Requires authentication")
    held = call.token.permissions.get(entry.permission, "none")
    if LEVELS.index(held) < LEVELS.index(entry.level):
        kind = "integration" if call.token.installation else "personal access token"
        raise ApiError(
            403,
            f"Resource not accessible by {kind}",
            headers={"X-Accepted-GitHub-Permissions": entry.accepted},
        )
