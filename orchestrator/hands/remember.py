"""Reads the memory of earlier runs before a run, and adds to it afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from orchestrator.mind.config import Config
from orchestrator.mind.judge import as_it_was
from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import BrokenRecordError, decode, encode, references
from orchestrator.mind.records.history import History
from orchestrator.mind.records.names import (
    NO_COMMIT,
    RecordName,
    contexts_name,
    parse_record_name,
    record_name,
    sketch_name,
)
from orchestrator.tools.history import HistoryError, Snapshot, Store
from orchestrator.tools.history.branch import BranchStore
from orchestrator.tools.history.compaction import compact, due
from orchestrator.tools.history.folder import FolderStore
from orchestrator.words.environment import Environment
from orchestrator.words.event import Event
from orchestrator.words.results import Ending, TierResult
from orchestrator.words.verdict import RunVerdict

NEWEST = 50  # records of each tier that a run looks at
_OLDER = 100  # and those that may hold the baseline, where none of the newest does


def open_store(
    config: Config, event: Event, *, root: Path, environment: Environment, deadline: Callable[[], float]
) -> Store:
    """The branch of the repository in a job on GitHub, otherwise the folder. Touches nothing yet."""
    if event.on_github and event.repository:
        return BranchStore(
            url=f"{event.server_url}/{event.repository}.git",
            branch=config.history.branch,
            token=environment.token,
            variables=environment.variables,
            deadline=deadline,
        )
    return FolderStore(root / config.history.dir)


# --- reading -------------------------------------------------------------------------------------------------------


def read_history(
    store: Store,
    *,
    config_id: str,
    tiers: Sequence[str],
    sha: str | None,
    base_sha: str | None = None,
    version: str | None = None,
) -> History:
    """What a run needs of the memory: the newest records of its tiers, what is stored of its commit, and what is kept
    of the rest. Never raises: what cannot be read is unknown, and said.
    """
    notes: list[str] = []
    try:
        snapshot = store.snapshot(version)
        ours = record_names(snapshot, config_id)
        all_of = {tier: [name for name in ours if name.tier == tier and not name.fork] for tier in tiers}
        newest = {tier: names[:NEWEST] for tier, names in all_of.items()}
        at_head = [name for name in ours if name.sha == sha]
        at_base = [name for name in ours if name.sha == base_sha and base_sha is not None]
        wanted = list(dict.fromkeys([*at_head, *(name for names in newest.values() for name in names)]))
        sketches = {tier: sketch_name(config_id, tier) for tier in tiers}
        contexts = {tier: contexts_name(config_id, tier) for tier in tiers}
        files = snapshot.read([*map(str, wanted), *sketches.values(), *contexts.values()])
        records = read_records(snapshot, wanted, found=files, with_lines=[*at_head, *at_base], notes=notes)
        for tier, names in newest.items():
            if len(names) == NEWEST and not any(name in records and records[name].trusted for name in names):
                records |= _baseline(snapshot, all_of[tier][NEWEST : NEWEST + _OLDER], names, notes)
    except HistoryError as error:
        return History(notes=(f"what earlier runs took is unknown: {error.line}",))
    return History(
        version=snapshot.version,
        tiers={tier: tuple(records[name] for name in names if name in records) for tier, names in newest.items()},
        head=tuple(records[name] for name in at_head if name in records),
        sketches={tier: files[name] for tier, name in sketches.items() if name in files},
        contexts={tier: files[name] for tier, name in contexts.items() if name in files},
        notes=tuple(notes),
    )


def read_head(store: Store, *, config_id: str, sha: str) -> tuple[str | None, tuple[Record, ...]]:
    """The snapshot's version and what is stored of one commit, newest first. Raises HistoryError."""
    snapshot = store.snapshot()
    names = [name for name in record_names(snapshot, config_id) if name.sha == sha]
    records = read_records(snapshot, names, with_lines=names, notes=[])
    return snapshot.version, tuple(records[name] for name in names if name in records)


def record_names(snapshot: Snapshot, config_id: str) -> list[RecordName]:
    """The records of a configuration, newest first."""
    parsed = (parse_record_name(name) for name in snapshot.names)
    return sorted((name for name in parsed if name is not None and name.config_id == config_id), reverse=True)


def _baseline(
    snapshot: Snapshot, older: Sequence[RecordName], newest: list[RecordName], notes: list[str]
) -> dict[RecordName, Record]:
    """The newest record of the default branch behind so many of pull requests, if there is one; its name joins
    ``newest``.
    """
    found = snapshot.read(map(str, older))
    for name in older:
        try:
            if str(name) not in found or not references(found[str(name)]).trusted:
                continue
        except BrokenRecordError:
            continue
        newest.append(name)
        return read_records(snapshot, [name], found=found, with_lines=[name], notes=notes)
    return {}


def read_records(
    snapshot: Snapshot,
    names: Sequence[RecordName],
    *,
    with_lines: Sequence[RecordName],
    notes: list[str],
    found: Mapping[str, bytes] | None = None,
) -> dict[RecordName, Record]:
    """The records that can be read, in two round trips: themselves (unless ``found``), then what they refer to.

    Covered lines are read of ``with_lines`` and of each tier's newest record that baselines are made of.
    """
    found = snapshot.read([str(name) for name in names]) if found is None else found
    needed: dict[RecordName, list[str]] = {}
    based: set[str] = set()
    broken: list[str] = []
    for name in names:
        if (data := found.get(str(name))) is None:
            broken.append(f"{name} is not there")
            continue
        try:
            refers = references(data)
        except BrokenRecordError as error:
            broken.append(f"{name}: {error.message}")
            continue
        first = refers.trusted and name.tier not in based
        based |= {name.tier} if first else set()
        needed[name] = [*refers.lists, *(refers.lines if first or name in with_lines else ())]
    files = snapshot.read(dict.fromkeys(file for names in needed.values() for file in names))
    records = {}
    for name, refers_to in needed.items():
        try:
            record = decode(found[str(name)], {file: files[file] for file in refers_to if file in files})
        except BrokenRecordError as error:
            broken.append(f"{name}: {error.message}")
            continue
        # The name alone decides whose result this is: a stranger's stays one, whatever it says of itself.
        records[name] = replace(record, sha=name.sha, fork=name.fork)
    if broken:
        notes.append(f"{len(broken)} of {len(names)} records of the history cannot be read, the first: {broken[0]}")
    return records


# --- writing -------------------------------------------------------------------------------------------------------


def records_of(run: RunVerdict, *, config_id: str, root: Path, run_key: str, now: float) -> list[Record]:
    """What the memory keeps of a run: a record for every tier with a result."""
    event = run.plan.event
    pull = event.pull_request
    others = () if run.plan.partial else tuple(tier for tier in run.tiers if not tier.plan.run)
    return [
        Record(
            sha=event.sha or NO_COMMIT,
            time=now,
            config_id=config_id,
            event=event.name,
            # A superseded run is that of an older commit, and this is where that commit's results are kept.
            tier=as_it_was(tier),
            others=others,
            run=run_key,
            ref=event.ref,
            pull_request=pull.number if pull is not None else None,
            fork=pull is not None and pull.fork,
            trusted=event.of_default_branch,
            partial=run.plan.partial,
            predicted=tier.plan.predicted_seconds,
            machine=tier.result.machine,
            sources=blob_ids(_measured_files(tier.result), root),
        )
        for tier in run.tiers
        # What runs elsewhere is remembered by whoever reports it there.
        if tier.result is not None and tier.result.ending is not Ending.DISPATCHED
    ]


class Memory:
    """The memory of one run: where it goes, and what of it belongs to the commit under test."""

    def __init__(
        self,
        store: Store,
        history: History,
        *,
        root: Path,
        config_id: str,
        now: Callable[[], float],
        hurried: Callable[[], bool],
    ) -> None:
        """``hurried``: whether somebody has stopped the run, and only what cannot wait is still done."""
        self.store = store
        self.hurried = hurried
        self.root = root
        self.config_id = config_id
        self.now = now
        self.version = history.version
        self.head = history.head
        self.run_key = ""  # of the records that were added

    def add(self, run: RunVerdict) -> str | None:
        """Add a run's results, once. Returns why they were not, in words; None: they are there."""
        event = run.plan.event
        if not event.may_remember:
            return None  # a fork's own job holds no right to, and what it says of itself would be believed
        self.run_key = f"{event.run.run_id}.{event.run.attempt}" if event.run is not None else f"{self.now():.3f}"
        records = records_of(run, config_id=self.config_id, root=self.root, run_key=self.run_key, now=self.now())
        if not records:
            return None

        def change(snapshot: Snapshot) -> Mapping[str, bytes | None]:
            stored = {(name.tier, name.sha, name.run) for name in record_names(snapshot, self.config_id)}
            files: dict[str, bytes | None] = {}
            for record in records:
                name = record_name(record)
                if (name.tier, name.sha, name.run) not in stored:
                    files |= {file: data for file, data in encode(record).items() if file not in snapshot.names}
                    contexts = record.tier.result.contexts if record.tier.result is not None else None
                    if contexts is not None and record.trusted:
                        files[contexts_name(self.config_id, record.name)] = contexts
            return files

        tiers = ", ".join(record.name for record in records)
        try:
            snapshot = self.store.update(change, message=f"{records[0].sha[:10]}: {tiers}")
        except HistoryError as error:
            return f"the results were not remembered: {error.line}"
        self.version = snapshot.version
        return self._compact() if due(snapshot) and not self.hurried() else None

    def _compact(self) -> str | None:
        """What is remembered is safe by now: that it could not be made smaller is worth a word, and no more."""
        try:
            self.version = compact(self.store, now=self.now()).snapshot.version
        except HistoryError as error:
            return f"the history could not be compacted: {error.line}"
        return None

    def refresh(self, sha: str) -> bool:
        """Read again what is stored of the commit. Returns whether it has changed. Raises HistoryError."""
        version, head = read_head(self.store, config_id=self.config_id, sha=sha)
        changed = [record_name(record) for record in head] != [record_name(record) for record in self.head]
        self.version, self.head = version, head
        return changed


def _measured_files(result: TierResult | None) -> Iterable[str]:
    return result.coverage.files if result is not None and result.coverage is not None else ()


def blob_ids(paths: Iterable[str], root: Path) -> dict[str, str]:
    """git's blob id of each file as it is now, of those that can be read: what an earlier run covered of a file is
    carried on only while the file is what it was.
    """
    ids = {}
    for path in paths:
        try:
            content = (root / path).read_bytes()
        except OSError:
            continue
        ids[path] = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return ids
