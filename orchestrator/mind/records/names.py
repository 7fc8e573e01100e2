"""The names of the history's files: what can be told from a listing, without reading one of them. Pure.

::

    version.json                                        {"version": 1}
    runs/<config>/<tier>/<when>-<commit>-<run>.json     one tier of one run on one commit; never written twice
    forks/<config>/<tier>/...                           the same of a stranger's pull request: shown, never built on
    lists/<digest>.json                                 the node ids of a run, shared by all runs with the same tests
    lines/<digest>.json                                 the lines a run covered
    contexts/<config>/<tier>.json                       which tests execute which lines: the newest such map
    sketches/<config>/<tier>.json                       what is kept of records that have gone
    dispatches/<nonce>.json                             a run started elsewhere, until it is settled
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

from msgspec import Struct

from orchestrator.mind.records import Record

VERSION = "version.json"
NO_COMMIT = "none"  # in the place of a commit, for a folder outside git
_RECORD = re.compile(
    rf"(runs|forks)/([0-9a-f]{{12}})/([^/]+)/(\d{{8}}T\d{{6}}Z)-([0-9a-f]{{7,64}}|{NO_COMMIT})-([A-Za-z0-9.]+)\.json",
    re.ASCII,
)
_STAMP = "%Y%m%dT%H%M%SZ"


class RecordName(Struct, frozen=True, kw_only=True, order=True):
    """What a record's name says. Ordered by time."""

    stamp: str  # UTC, sorts as time does
    sha: str
    run: str
    tier: str
    config_id: str
    fork: bool

    @property
    def time(self) -> float:
        """Unix seconds."""
        return time_of(self.stamp)

    def __str__(self) -> str:
        kind = "forks" if self.fork else "runs"
        return f"{kind}/{self.config_id}/{self.tier}/{self.stamp}-{self.sha}-{self.run}.json"


def time_of(stamp: str) -> float:
    """Unix seconds. Raises ValueError."""
    return datetime.strptime(stamp, _STAMP).replace(tzinfo=timezone.utc).timestamp()


def record_name(record: Record) -> RecordName:
    """The name under which a record is kept."""
    return RecordName(
        stamp=datetime.fromtimestamp(record.time, tz=timezone.utc).strftime(_STAMP),
        sha=record.sha,
        run=re.sub(r"[^A-Za-z0-9.]", ".", record.run) or "0",
        tier=record.name,
        config_id=record.config_id,
        fork=record.fork,
    )


def parse_record_name(name: str) -> RecordName | None:
    """The name of a record, or None for every other file."""
    found = _RECORD.fullmatch(name)
    if found is None:
        return None
    kind, config_id, tier, stamp, sha, run = found.groups()
    return RecordName(stamp=stamp, sha=sha, run=run, tier=tier, config_id=config_id, fork=kind == "forks")


def list_name(digest: str) -> str:
    return f"lists/{digest}.json"


def lines_name(digest: str) -> str:
    return f"lines/{digest}.json"


def contexts_name(config_id: str, tier: str) -> str:
    return f"contexts/{config_id}/{tier}.json"


def sketch_name(config_id: str, tier: str) -> str:
    return f"sketches/{config_id}/{tier}.json"


def dispatch_name(nonce: str) -> str:
    return f"dispatches/{nonce}.json"
