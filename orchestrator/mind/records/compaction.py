"""What of the history is kept in full, what as a sketch, and what goes. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import BrokenRecordError, References, decode, references
from orchestrator.mind.records.names import NO_COMMIT, RecordName, parse_record_name, sketch_name
from orchestrator.mind.records.sketches import Sketch, decode_sketch, encode_sketch, fold

COMMITS = 50  # newest commits of each tier whose records stay whole
RERUNS = 5  # newest records of one commit that stay
TRUSTED = 10  # newest commits of the default branch whose records stay, however many others came since
LINES = 10  # newest records of each tier whose covered lines stay
LINES_SECONDS = 86_400.0  # and those of younger ones: a commit's slow tiers end hours after its fast ones
DISPATCH_SECONDS = 7 * 86_400.0  # how long a dispatch is kept that has ended
LOST_SECONDS = 45 * 86_400.0  # GitHub ends every run after 35 days
EXCESS = 50  # records too many in one tier at which compaction is due; below, it is not worth its push

Read = Callable[[Iterable[str]], Mapping[str, bytes]]


def due(names: Collection[str]) -> bool:
    """Whether the history has grown enough to compact it. Looks at names alone: it is asked after every run."""
    return any(len(tier) - len(_newest(tier)) >= EXCESS for tier in _tiers(names))


def compacted(names: Collection[str], read: Read, *, now: float) -> dict[str, bytes | None]:
    """What to write and what to delete (None). ``read``: contents by name, of those that are there.

    ``now``: Unix seconds. Never touches what it cannot understand, except a record too old to stay that is broken.
    """
    tiers = list(_tiers(names))
    records = read([str(name) for tier in tiers for name in tier])
    known = _references(records)
    changes: dict[str, bytes | None] = {}
    kept: set[str] = set()
    lines: set[str] = set()
    for tier in tiers:
        stay = _newest(tier) | _newest_trusted(tier, known)
        old = [name for name in tier if name not in stay and str(name) in records]
        changes |= dict.fromkeys(map(str, old))
        if old and not old[0].fork:
            changes |= _sketched(old, records, known, names, read)
        kept |= {str(name) for name in stay}
        lines |= set(_with_lines([name for name in tier if name in stay], known, now))
    if kept <= records.keys():  # else something refers to we do not know what
        referred = {file for name in kept & known.keys() for file in known[name].lists} | lines
        changes |= dict.fromkeys(
            name for name in names if name.startswith(("lists/", "lines/")) and name not in referred
        )
    changes |= dict.fromkeys(_settled([name for name in names if name.startswith("dispatches/")], read, now))
    return changes


def _tiers(names: Collection[str]) -> Iterator[list[RecordName]]:
    """The records of each tier of each configuration, newest first; those of strangers apart."""
    tiers: dict[tuple[bool, str, str], list[RecordName]] = {}
    for name in names:
        if (found := parse_record_name(name)) is not None:
            tiers.setdefault((found.fork, found.config_id, found.tier), []).append(found)
    for key in sorted(tiers):
        yield sorted(tiers[key], reverse=True)


def _newest(tier: Sequence[RecordName]) -> set[RecordName]:
    """The newest records of the newest commits. ``tier``: newest first."""
    runs: dict[str, int] = {}
    stay = set()
    for name in tier:
        commit = name.sha if name.sha != NO_COMMIT else f"{name.stamp} {name.run}"  # there each run is one of its own
        if commit not in runs and len(runs) == COMMITS:
            continue
        runs[commit] = runs.get(commit, 0) + 1
        if runs[commit] <= RERUNS:
            stay.add(name)
    return stay


def _newest_trusted(tier: Sequence[RecordName], known: Mapping[str, References]) -> set[RecordName]:
    trusted = [name for name in tier if not name.fork and str(name) in known and known[str(name)].trusted]
    commits = list(dict.fromkeys(name.sha for name in trusted))[:TRUSTED]
    newest = {name.sha: name for name in reversed(trusted)}
    return {newest[commit] for commit in commits}


def _with_lines(tier: Sequence[RecordName], known: Mapping[str, References], now: float) -> Iterator[str]:
    trusted = next((name for name in tier if str(name) in known and known[str(name)].trusted), None)
    for index, name in enumerate(tier):
        if (index < LINES or name == trusted or now - name.time < LINES_SECONDS) and str(name) in known:
            yield from known[str(name)].lines


def _references(records: Mapping[str, bytes]) -> dict[str, References]:
    """What each record refers to, of those that can be read."""
    known = {}
    for name, data in records.items():
        try:
            known[name] = references(data)
        except BrokenRecordError:
            continue
    return known


def _sketched(
    old: Sequence[RecordName],
    records: Mapping[str, bytes],
    known: Mapping[str, References],
    names: Collection[str],
    read: Read,
) -> dict[str, bytes]:
    """The tier's sketch with these records folded in, by its name."""
    name = sketch_name(old[0].config_id, old[0].tier)
    files = read([*([name] if name in names else []), *{file for one in old for file in _lists(known, one)}])
    sketch = Sketch()
    if name in files:
        with contextlib.suppress(BrokenRecordError):  # nothing of it can be saved: it begins anew
            sketch = decode_sketch(files[name])
    return {name: encode_sketch(fold(sketch, _decoded(reversed(old), records, files)))}


def _lists(known: Mapping[str, References], name: RecordName) -> tuple[str, ...]:
    return known[str(name)].lists if str(name) in known else ()


def _decoded(names: Iterable[RecordName], records: Mapping[str, bytes], files: Mapping[str, bytes]) -> Iterator[Record]:
    for name in names:
        try:
            yield decode(records[str(name)], files)
        except BrokenRecordError:
            continue


def _settled(names: Sequence[str], read: Read, now: float) -> Iterator[str]:
    """Dispatches that have ended long ago, and those that nobody ever ended."""
    for name, data in (read(names) if names else {}).items():
        try:
            facts = json.loads(data)
            ended, began = facts.get("ended"), facts.get("dispatched")
        except (ValueError, RecursionError, AttributeError):
            continue
        if (isinstance(ended, int | float) and now - ended > DISPATCH_SECONDS) or (
            isinstance(began, int | float) and now - began > LOST_SECONDS
        ):
            yield name
