"""Where the memory of earlier commits lives: one Protocol, a folder (`folder.py`) and a git branch (`branch.py`).

A store holds small files under POSIX names and knows nothing of what is in them (that is `orchestrator/mind/records`).
Several writers may write at once: every change is a compare-and-swap, computed again on what another one wrote first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from orchestrator.mind.records.names import VERSION
from orchestrator.words.errors import InfrastructureError

LAYOUT = 1
LAYOUT_FILE = b'{"version": 1}\n'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*", re.ASCII)


class HistoryError(InfrastructureError):
    """The history cannot be read or written; the message says why, the remedy what to do."""


class HistoryForbidden(HistoryError):  # noqa: N818 -- as GitHub's own Forbidden
    """It can be read, and whoever runs this may not write it."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The store as it was at one moment: names and contents stay these, whatever is written later.

    A folder cannot promise the second half of that: a file that was deleted since is left out by `read`, and one of the
    few that are written anew (contexts, sketches, dispatches) is read as it is by then.
    """

    version: str | None  # the branch's commit, a digest of the folder; None: there is nothing yet
    names: frozenset[str]
    read: Callable[[Iterable[str]], Mapping[str, bytes]]  # in one round trip; a name that is not there is left out


Change = Callable[[Snapshot], Mapping[str, bytes | None]]
"""What to write (None: delete), given what is there. Called again where another writer came first; empty: nothing."""


class Store(Protocol):
    """Raises HistoryError from every method."""

    def snapshot(self, version: str | None = None) -> Snapshot:
        """What is there now, or was at ``version``: the shards of one tier are all split by the same durations.

        A store that was never written is an empty one, not an error; a version that is no longer there is one.
        """

    def update(self, change: Change, *, message: str, forget: bool = False) -> Snapshot:
        """Make a change that no racing writer loses, and return what is there then.

        ``message``: one line for humans. ``forget``: keep nothing of earlier versions (compaction).
        Raises HistoryForbidden where writing is not allowed.
        """


def is_name(name: str) -> bool:
    """Whether a store may hold a file of that name: nothing hidden, nothing that leads out of it."""
    return _NAME.fullmatch(name) is not None


def checked(files: Mapping[str, bytes | None]) -> Mapping[str, bytes | None]:
    """The same files. Raises HistoryError for a name that no store may hold."""
    for name in files:
        if not is_name(name):
            raise HistoryError(f"{name!r} is no name for a file of the history")
    return files


def check_layout(data: bytes, *, where: str) -> None:
    """``data``: version.json of the store at ``where``. Raises HistoryError where a newer mltiers wrote it."""
    try:
        facts = json.loads(data)
        version = facts["version"]
        newer = int(version) > LAYOUT
    except (ValueError, RecursionError, KeyError, TypeError):
        raise HistoryError(
            f"{where}: {VERSION} is broken", remedy=f'write {{"version": {LAYOUT}}} into it, or delete the history'
        ) from None
    if newer:
        by = facts.get("mltiers")
        raise HistoryError(
            f"{where} has version {version}, and this mltiers reads version {LAYOUT}",
            remedy=f"use mltiers {by} or newer" if isinstance(by, str) else "use a newer mltiers: one that wrote it",
        )
