"""What can go wrong with one request, for tests that need it to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

HANG_LIMIT = 30.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Instead of a plain answer. ``effect``: the request is performed all the same, only its answer is lost."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None  # None: an HTML page, as GitHub's front servers answer
    effect: bool = False
    drop: bool = False  # the connection ends without an answer
    truncate: bool = False  # the connection ends in the middle of the answer
    hang: float = 0.0  # seconds before anything is answered
    before: Callable[[], None] | None = None  # runs first


def server_error(status: int = 502, *, effect: bool = False) -> Fault:
    """GitHub's unicorn."""
    return Fault(status=status, effect=effect)


def dropped(*, effect: bool) -> Fault:
    """The connection breaks before the answer."""
    return Fault(drop=True, effect=effect)


def truncated() -> Fault:
    """The request is performed, the connection breaks inside the answer."""
    return Fault(truncate=True, effect=True)


def hanging(seconds: float = HANG_LIMIT) -> Fault:
    """No answer for a long while, and then none."""
    return Fault(hang=min(seconds, HANG_LIMIT), drop=True)


def secondary_rate_limit(*, status: int = 403, retry_after: int | None = 1) -> Fault:
    """The limit on bursts; ``retry_after`` None: GitHub leaves that header out at times."""
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    return Fault(
        status=status,
        headers={} if retry_after is None else {"Retry-After": str(retry_after)},
        body={"message": message, "documentation_url": "https://docs.github.com/rest"},
    )


def meeting(parties: int) -> Fault:
    """Holds requests until ``parties`` of them are here, then lets them all through: inject it that many times."""
    barrier = threading.Barrier(parties, timeout=HANG_LIMIT)

    def meet() -> None:
        barrier.wait()

    return Fault(before=meet, effect=True)


class Faults:
    """The faults still to come, each for the next requests that match."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, str, re.Pattern[str]]] = []

    def inject(self, fault: Fault, *, method: str, path: str = "", times: int = 1) -> None:
        """The next ``times`` requests of ``method`` whose path has a match of the pattern ``path`` meet the fault."""
        with self._lock:
            self._waiting += [(fault, method, re.compile(path))] * times

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that matches, used up."""
        with self._lock:
            for index, (fault, wanted, pattern) in enumerate(self._waiting):
                if wanted == method and pattern.search(path):
                    del self._waiting[index]
                    return fault
        return None

    @property
    def unused(self) -> int:
        """How many faults have not happened."""
        with self._lock:
            return len(self._waiting)
