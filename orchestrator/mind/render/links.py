"""Where a reader can go from a comment or a report. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote

from msgspec import Struct

from orchestrator.words.event import Event


class Links(Struct, frozen=True, kw_only=True):
    """The addresses that are known; None where there is nothing to go to."""

    run: str | None = None
    report: str | None = None
    source: str | None = None  # what a file's path is appended to for its page at the tested commit

    def page(self, path: str) -> str | None:
        """The page of a file at the tested commit."""
        return None if self.source is None else self.source + quote(path)


def is_sha(sha: str | None) -> bool:
    """Whether it can be put into an address as a commit."""
    return sha is not None and re.fullmatch(r"[0-9a-f]{7,64}", sha) is not None


def repository_url(event: Event) -> str | None:
    """The page of the event's repository."""
    safe = event.repository is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", event.repository, re.ASCII)
    return f"{event.server_url.rstrip('/')}/{event.repository}" if safe else None


def source_url(event: Event, prefix: str) -> str | None:
    """What a file's path is appended to for its page on GitHub at the commit under test.

    ``prefix``: the configuration's folder from the repository's top ("a/b/").
    """
    base = repository_url(event)
    if base is None or not is_sha(event.sha) or not re.match(r"https?://", base):
        return None
    return f"{base}/blob/{event.sha}/{prefix}"
