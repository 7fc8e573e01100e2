"""Where the memory of earlier commits lives: one Protocol, a folder (`folder.py`) and a git branch (`branch.py`).

A store holds small files under POSIX names and knows nothing of what is in them (that is `orchestrator/records`).
Several writers may write at once: every change is a compare-and-swap, computed again on what another one wrote first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import InfrastructureError


class HistoryError(InfrastructureError):
    """The history cannot be read or written; the message says why, the remedy what to do."""


class HistoryForbidden(HistoryError):  # noqa: N818 -- as GitHub's own Forbidden
    """It can be read, and whoever runs this may not write it."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The store as it was at one moment: whatever is written later, names and contents stay these."""

    version: str | None  # the branch's commit; None: there is nothing yet
    names: frozenset[str]
    read: Callable[[Iterable[str]], Mapping[str, bytes]]  # in one round trip; a name that is not there is left out


Change = Callable[[Snapshot], Mapping[str, bytes | None]]
"""What to write (None: delete), given what is there. Called again where another writer came first; empty: nothing."""


class Store(Protocol):
    """Raises HistoryError from every method."""

    def snapshot(self, version: str | None = None) -> Snapshot:
        """What is there now, or was at ``version``: the shards of one tier are all split by the same durations.

        A store that was never written is an empty one, not an error; a version that is not (or no longer) there is one.
        """

    def update(self, change: Change, *, message: str, forget: bool = False) -> Snapshot:
        """Make a change that no racing writer loses, and return what is there then.

        ``message``: one line for humans. ``forget``: keep nothing of earlier versions (compaction).
        Raises HistoryForbidden where writing is not allowed.
        """
