"""Keeps a store small: what `records/compaction.py` decides, done to a store."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from orchestrator.mind.records import compaction
from orchestrator.mind.records.names import VERSION, parse_record_name
from orchestrator.tools.history import LAYOUT_FILE, Snapshot, Store


class Compacted(Struct, frozen=True, kw_only=True):
    """What a compaction did."""

    snapshot: Snapshot  # the store afterwards
    records: int  # how many went into sketches
    files: int  # how many files went, those included


def due(snapshot: Snapshot) -> bool:
    """Whether the store has grown enough that compacting it is worth a push."""
    return compaction.due(snapshot.names)


def compact(store: Store, *, now: float) -> Compacted:
    """Compact a store, due or not, and forget its earlier versions. Loses nothing that another writer adds meanwhile.

    ``now``: Unix seconds. Raises HistoryError.
    """
    gone: set[str] = set()

    def change(snapshot: Snapshot) -> Mapping[str, bytes | None]:
        changes = compaction.compacted(snapshot.names, snapshot.read, now=now)
        gone.clear()
        gone.update(name for name, data in changes.items() if data is None)
        # Something is always written: a branch without its past is smaller even where no file goes.
        return {VERSION: LAYOUT_FILE, **changes} if snapshot.names else {}

    snapshot = store.update(change, message="Compact", forget=True)
    records = sum(parse_record_name(name) is not None for name in gone)
    return Compacted(snapshot=snapshot, records=records, files=len(gone))
