"""`mltiers history show | compact | export`: what the memory says, kept small, and handed out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from orchestrator.hands.gather import Situation, gather
from orchestrator.hands.initialise.scan import pytest_settings
from orchestrator.hands.remember import NEWEST, open_store, read_records, record_names
from orchestrator.mind.advice import Destination, Move, destination, moves
from orchestrator.mind.config import Config
from orchestrator.mind.drift import drift_of, runs_of, trend
from orchestrator.mind.marking import mark
from orchestrator.mind.moving import EditError, add_tier, register, unified_diff
from orchestrator.mind.plan import config_identity
from orchestrator.mind.predict import Conditions, predict
from orchestrator.mind.records import Record
from orchestrator.mind.records.contexts import Contexts, read_contexts
from orchestrator.mind.records.encoding import BrokenRecordError
from orchestrator.mind.records.history import estimates, flakiness
from orchestrator.mind.records.names import RecordName, contexts_name, sketch_name
from orchestrator.mind.records.sketches import Sketch, decode_sketch
from orchestrator.mind.render.past import COLUMNS, TierPast, export_lines, export_rows
from orchestrator.tools.git import GitError
from orchestrator.tools.history import Snapshot, Store
from orchestrator.tools.history.branch import BranchStore
from orchestrator.tools.history.compaction import compact
from orchestrator.words.environment import Environment
from orchestrator.words.errors import UsageError

MEANING = "takes long; runs in a slower tier"  # of a marker that advice makes
_MAX_SOURCE = 10_000_000  # bytes of a file with tests


class Past(Struct, frozen=True, kw_only=True):
    """The memory of one configuration, opened. Nothing of its records is read yet."""

    situation: Situation
    config: Config
    store: Store
    snapshot: Snapshot
    config_id: str
    names: tuple[RecordName, ...]  # newest first, without strangers'

    def tiers(self, wanted: str | None) -> list[str]:
        """The configuration's tiers, then those that only the history knows. Raises UsageError."""
        known = dict.fromkeys((*self.config.tiers, *sorted({name.tier for name in self.names})))
        if wanted is not None and wanted not in known:
            raise UsageError(f"there is no tier {wanted!r}", remedy=f"there are: {', '.join(known) or 'none'}")
        return [wanted] if wanted is not None else list(known)


def open_past(
    config: Path, *, branch: bool, environment: Environment, deadline: Callable[[], float] = lambda: float("inf")
) -> Past:
    """The memory that ``config`` says: the folder on a laptop, the branch in a job or where ``branch`` asks for it.

    Raises ConfigError, UsageError, HistoryError.
    """
    situation = gather(
        config=config,
        needs_config=True,
        event_name=None,
        sha=None,
        pr=None,
        environment=environment,
        connect=lambda _: None,
    )
    found = situation.config
    if branch and not situation.event.on_github:
        store: Store = BranchStore(
            url=_origin(situation),
            branch=found.history.branch,
            token=environment.token,
            variables=environment.variables,
            deadline=deadline,
        )
    else:
        store = open_store(
            found, situation.event, root=situation.root, environment=environment, deadline=deadline
        )  # fmt: skip
    snapshot = store.snapshot()
    config_id = config_identity(situation.config_path)
    names = tuple(name for name in record_names(snapshot, config_id) if not name.fork)
    return Past(
        situation=situation, config=found, store=store, snapshot=snapshot, config_id=config_id, names=names
    )  # fmt: skip


def _origin(situation: Situation) -> str:
    try:
        url = situation.git.run("remote", "get-url", "origin") if situation.git is not None else b""
    except GitError:
        url = b""
    if not url.strip():
        raise UsageError("--branch: this clone has no remote called origin", remedy="`git remote add origin URL`")
    address = os.fsdecode(url).strip()
    inside = situation.root / address
    return str(inside.resolve()) if "://" not in address and inside.exists() else address


# --- show ----------------------------------------------------------------------------------------------------------


def show(past: Past, wanted: str | None, *, advice: bool) -> tuple[list[TierPast], list[str]]:
    """What the history says of the tiers, and what of it could not be read. ``advice``: with what to move. Raises
    HistoryError, UsageError.
    """
    notes: list[str] = []
    tiers = past.tiers(wanted)
    names = {tier: [name for name in past.names if name.tier == tier][:NEWEST] for tier in tiers}
    every = [name for of_tier in names.values() for name in of_tier]
    records = read_records(past.snapshot, every, with_lines=(), notes=notes)
    sketches = {tier: sketch_name(past.config_id, tier) for tier in tiers}
    maps = {tier: contexts_name(past.config_id, tier) for tier in tiers}
    files = past.snapshot.read([*sketches.values(), *(maps.values() if advice else ())])
    found = []
    for tier in tiers:
        of_tier = tuple(records[name] for name in names[tier] if name in records)
        sketch = _sketch(files.get(sketches[tier]), notes)
        contexts = _contexts(files.get(maps[tier]), notes) if advice else None
        found.append(_tier_past(tier, past.config, of_tier, sketch, contexts, advice=advice))
    return found, notes


def _tier_past(
    tier: str,
    config: Config,
    records: tuple[Record, ...],
    sketch: Sketch | None,
    contexts: Contexts | None,
    *,
    advice: bool,
) -> TierPast:
    known = config.tiers.get(tier)
    shards = records[0].tier.plan.shards if records else 1
    old = sketch.tests if sketch is not None else {}
    move = moves(tier, records, budget=known.budget, contexts=contexts) if known is not None and advice else None
    kept = {(record.sha, record.run) for record in records}
    return TierPast(
        name=tier,
        budget=known.budget if known is not None else None,
        records=records,
        rows=tuple(row for row in (sketch.rows if sketch is not None else ()) if (row.sha, row.run) not in kept),
        expected=predict(records, Conditions(shards=shards)),
        trend=trend(runs_of(records, sketch)),
        drift=drift_of(tier, records, sketch, budget=known.budget, shards=shards) if known is not None else None,
        estimates=estimates(records),
        flaky=flakiness(records, {node_id: (test.flakes, test.count) for node_id, test in old.items()}),
        move=move,
        place=destination(config, move) if move is not None and move.units else None,
    )


def _sketch(data: bytes | None, notes: list[str]) -> Sketch | None:
    try:
        return decode_sketch(data) if data is not None else None
    except BrokenRecordError as error:
        notes.append(f"what is kept of older runs cannot be read: {error.message}")
        return None


def _contexts(data: bytes | None, notes: list[str]) -> Contexts | None:
    try:
        return read_contexts(json.loads(data)) if data is not None else None
    except (ValueError, RecursionError) as error:
        notes.append(f"the map of tests to lines cannot be read: {error}")
        return None


# --- advice --------------------------------------------------------------------------------------------------------


def advice_edit(past: Past, tiers: Sequence[TierPast], config_file: Path) -> tuple[bytes, list[str]]:
    """The edit that moves the advised tests as a diff for `git apply`, and what has to be done by hand."""
    root, prefix = past.situation.root, past.situation.prefix
    files = _Files(root=root)
    by_hand: list[str] = []
    config = past.config
    for tier in tiers:
        if tier.move is None or tier.place is None:
            continue
        _mark_tests(files, tier.move, tier.place, by_hand)
        _make_known(files, tier.place, tier.move, by_hand)
        if tier.place.new:
            config = _make_place(files, config, tier.name, tier.place, config_file, by_hand)
    diffs = (unified_diff(prefix + path, before, after) for path, (before, after) in sorted(files.edited.items()))
    return b"".join(diffs), by_hand


class _Files:
    """Files of the project as they are, and as they would be. Nothing is written."""

    def __init__(self, *, root: Path) -> None:
        self.root = root
        self.edited: dict[str, tuple[bytes, bytes]] = {}

    def read(self, path: str) -> bytes | None:
        """The content with the edits so far; None where there is no such file below the root."""
        if path in self.edited:
            return self.edited[path][1]
        file = self.root / path
        try:
            inside = file.resolve().is_relative_to(self.root.resolve())
            if not inside or file.is_symlink() or file.stat().st_size > _MAX_SOURCE:
                return None
            return file.read_bytes()
        except (OSError, ValueError, RuntimeError):
            return None

    def write(self, path: str, data: bytes) -> None:
        before = self.edited[path][0] if path in self.edited else self.read(path)
        self.edited[path] = (before or b"", data)


def _mark_tests(files: _Files, move: Move, place: Destination, by_hand: list[str]) -> None:
    wanted: dict[str, set[tuple[str, ...]]] = {}
    for unit in move.units:
        wanted.setdefault(unit.path, set()).add(unit.names)
    for path, tests in sorted(wanted.items()):
        data = files.read(path)
        if data is None:
            by_hand.append(f"{path} cannot be read: mark its tests with @pytest.mark.{place.marker}")
            continue
        done = mark(data, tests, place.marker)
        if done.problem is not None:
            by_hand.append(f"{path}: {done.problem}")
        by_hand += [
            f"{path}: {'::'.join(names)} is not defined there: mark it with @pytest.mark.{place.marker} where it is"
            for names in done.missed
        ]
        files.write(path, done.data)


def _make_known(files: _Files, place: Destination, move: Move, by_hand: list[str]) -> None:
    """The marker, where pytest is told which markers there are and does not have it."""
    settings = pytest_settings(files.root, [])
    if place.marker in settings.markers or _registered_by_conftest(files, place.marker, move):
        return
    if settings.file is None or (data := files.read(settings.file)) is None:
        by_hand.append(f"pytest will warn of the marker until it is registered: `markers = {place.marker}: {MEANING}`")
        return
    try:
        text = register(_text(data), file=settings.file, marker=place.marker, meaning=MEANING)
        files.write(settings.file, text.encode())
    except (EditError, UnicodeDecodeError) as error:
        by_hand.append(str(error))


def _registered_by_conftest(files: _Files, marker: str, move: Move) -> bool:
    folders = {""} | {parent for unit in move.units for parent in _parents(unit.path)}
    pattern = rb"""addinivalue_line\(\s*['"]markers['"],\s*f?['"]""" + re.escape(marker.encode()) + rb"\b"
    found = (files.read(f"{folder}conftest.py") for folder in sorted(folders))
    return any(data is not None and re.search(pattern, data) for data in found)


def _parents(path: str) -> Iterator[str]:
    while (cut := path.rfind("/")) >= 0:
        yield path[: cut + 1]
        path = path[:cut]


def _make_place(
    files: _Files, config: Config, tier: str, place: Destination, config_file: Path, by_hand: list[str]
) -> Config:
    from orchestrator.mind.config import parse_config  # noqa: PLC0415

    path = config_file.name
    data = files.read(path)
    try:
        if data is None:
            raise EditError(f"{path} cannot be read: add the tier `{place.tier}`")
        own = parse_config(_text(data), filename=path)
        text = add_tier(_text(data), own, tier=tier, place=place)
        files.write(path, text.encode())
        return parse_config(text, filename=path)
    except (EditError, UsageError, UnicodeDecodeError) as error:
        by_hand.append(f"{path}: {error}")
        return config


def _text(data: bytes) -> str:
    return data.decode("utf-8")


# --- compact, export -----------------------------------------------------------------------------------------------


def compact_past(past: Past, *, now: float) -> str:
    """Compact the memory, and say what that did. Raises HistoryError."""
    before = len(past.snapshot.names)
    if not before:
        return "nothing is remembered yet: nothing to compact"
    done = compact(past.store, now=now)
    return (
        f"{done.records} runs were folded into sketches, {done.files} of {before} files went; "
        f"{len(done.snapshot.names)} are there now"
    )


def export_past(past: Past, *, form: str, notes: list[str]) -> Iterator[str]:
    """Everything that is remembered, newest first, as JSON lines or as CSV with a header. Raises HistoryError."""
    if form == "csv":
        yield _csv(COLUMNS)
    for tier in past.tiers(None):
        for document in _export_tier(past, tier, notes):
            if form == "csv":
                yield from (_csv(row) for row in export_rows(document))
            else:
                yield json.dumps(document, ensure_ascii=True) + "\n"


def _export_tier(past: Past, tier: str, notes: list[str]) -> Iterator[Mapping[str, Any]]:
    names = [name for name in past.names if name.tier == tier]
    records = read_records(past.snapshot, names, with_lines=(), notes=notes)
    file = sketch_name(past.config_id, tier)
    sketch = _sketch(past.snapshot.read([file]).get(file), notes)
    return export_lines(tier, [records[name] for name in names if name in records], sketch)


def _csv(row: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()


def write_export(lines: Iterator[str], out: Path) -> None:
    """Write the lines into a file, whole or not at all. Raises UsageError."""
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        why = f"--out: {out} cannot be written: {error.strerror or error}"
        raise UsageError(why, remedy="give a file that can be, in a folder that is there") from None
