"""What the history says of tiers: a table for people, one JSON document, rows for a notebook. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from orchestrator.mind.advice import Destination, Move
from orchestrator.mind.drift import Drift, Trend, drift_words, growth_words
from orchestrator.mind.gpu_marks import GpuMark
from orchestrator.mind.judge import floor_percent
from orchestrator.mind.predict import Prediction
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import Estimate, Flakiness
from orchestrator.mind.records.names import record_name
from orchestrator.mind.records.sketches import Row, Sketch
from orchestrator.mind.render.words import age, counts, duration, percent, plural, shorten, visible
from orchestrator.mind.render.words import budget as budget_words

VERSION = 1
SHOWN_RUNS = 10
SHOWN_TESTS = 5
COLUMNS = (
    "tier", "run", "time", "sha", "event", "ref", "pull_request", "trusted", "verdict", "run_seconds",
    "predicted_seconds", "workers", "shards", "gpus", "covered", "statements", "machine", "node_id", "outcome",
    "seconds",
)  # fmt: skip
"""Of the CSV: one row for each test of each run; a run of which only a row is left has one, without a test."""


class TierPast(Struct, frozen=True, kw_only=True):
    """Everything the history says of one tier."""

    name: str
    budget: float | None  # seconds; None: the configuration has no such tier
    records: tuple[Record, ...]  # newest first
    rows: tuple[Row, ...] = ()  # of runs that only a row is left of, newest first
    expected: Prediction | None = None
    trend: Trend | None = None
    drift: Drift | None = None
    estimates: Mapping[str, Estimate]
    flaky: tuple[Flakiness, ...] = ()  # the worst first
    move: Move | None = None
    place: Destination | None = None


# --- for people ----------------------------------------------------------------------------------------------------


def render_past(tiers: Sequence[TierPast], *, now: float, notes: Sequence[str] = ()) -> str:
    """The tiers one below the other; ends in a line feed. ``now``: Unix seconds."""
    blocks = ["\n".join(_tier(tier, now)) for tier in tiers]
    if notes:
        blocks.append("\n".join(visible(note) for note in notes))
    return "\n\n".join(blocks or ["nothing is remembered yet: `mltiers run` adds to it"]) + "\n"


def _tier(tier: TierPast, now: float) -> Iterator[str]:
    told = plural(len(tier.records) + len(tier.rows), "run")
    yield f"{tier.name}: {told}" + (f", budget {budget_words(tier.budget)}" if tier.budget else "")
    if tier.records or tier.rows:
        yield from _table(tier, now)
    if tier.expected is not None:
        doubt = f", {tier.expected.note}" if tier.expected.note else ""
        yield f"  expected next: {expectation(tier.expected)}{_of_budget(tier)}{doubt}"
    if (said := trend_words(tier)) is not None:
        yield f"  trend: {said}"
    slowest = sorted(tier.estimates.items(), key=lambda item: (-item[1].seconds, item[0]))[:SHOWN_TESTS]
    if slowest and slowest[0][1].seconds:
        yield "  slowest tests:"
        yield from (f"    {duration(e.seconds):>8}  {_test(node_id)}" for node_id, e in slowest if e.seconds)
    if tier.flaky:
        yield "  flaky tests:"
        yield from (f"    {f.flakes} of {plural(f.runs, 'run')}  {_test(f.node_id)}" for f in tier.flaky[:SHOWN_TESTS])
        if (hidden := len(tier.flaky) - SHOWN_TESTS) > 0:
            yield f"    and {hidden} more"
    if tier.move is not None:
        yield from _advice(tier.move, tier.place)


def _table(tier: TierPast, now: float) -> Iterator[str]:
    rows = [_record_cells(record, now) for record in tier.records] + [_row_cells(row, now) for row in tier.rows]
    shown = [("commit", "age", "event", "verdict", "tests", "seconds", "expected", "coverage"), *rows[:SHOWN_RUNS]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    for row in shown:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if (hidden := len(rows) - SHOWN_RUNS) > 0:
        yield f"  and {hidden} older"


def _record_cells(record: Record, now: float) -> tuple[str, ...]:
    result, plan = record.tier.result, record.tier.plan
    return (
        record.sha[:10],
        age(now - record.time),
        record.event,
        str(record.tier.verdict),
        counts(result.counts) if result is not None else "",
        duration(result.seconds) if result is not None else "",
        duration(plan.predicted_seconds) if plan.predicted_seconds is not None else "",
        _covered(record.sums.covered, record.sums.statements) if record.sums is not None else "",
    )


def _row_cells(row: Row, now: float) -> tuple[str, ...]:
    return (
        row.sha[:10],
        age(now - _time(row)),
        row.event,
        row.verdict,
        ", ".join(f"{number} {outcome}" for outcome, number in row.counts.items()),
        duration(row.seconds),
        duration(row.predicted) if row.predicted is not None else "",
        _covered(row.covered, row.statements),
    )


def _time(row: Row) -> float:
    try:
        return row.time
    except ValueError:
        return 0.0


def _covered(covered: int | None, statements: int | None) -> str:
    return percent(100.0 * covered / statements) if covered is not None and statements else ""


def expectation(expected: Prediction) -> str:
    """ "38.0 s (33.0 s – 47.0 s)"."""
    if expected.low is None or expected.high is None:
        return duration(expected.seconds)
    return f"{duration(expected.seconds)} ({duration(expected.low)} – {duration(expected.high)})"


def _of_budget(tier: TierPast) -> str:
    if not tier.budget or tier.expected is None:
        return ""
    return f", {floor_percent(100 * tier.expected.seconds / tier.budget)}% of the budget"


def trend_words(tier: TierPast) -> str | None:
    """Where the tier's duration is going; None where that is nowhere."""
    if tier.drift is not None:
        return drift_words(tier.drift)
    found = tier.trend
    if found is None:
        return None
    grew = f"from {duration(found.before)} to {duration(found.now)} in {plural(found.runs, 'run')}"
    return f"grew {grew}" + ("" if found.per_day else ", at once")


def _advice(move: Move, place: Destination | None) -> Iterator[str]:
    if place is None:
        yield (
            f"  advice: it takes {duration(move.seconds)}, {duration(move.beside)} of that beside its tests (start, "
            "imports, collection): moving tests does not help"
        )
        return
    what = plural(len(move.units), "function")
    where = f"`{place.tier}` with the marker `{place.marker}`"
    yield f"  advice: move {what} to {where}: {duration(move.seconds)} become {duration(move.after)}"
    for unit in move.units[: 2 * SHOWN_TESTS]:
        params = f" ({plural(len(unit.tests), 'test')})" if len(unit.tests) > 1 else ""
        yield f"    {duration(unit.seconds):>8}  {_test(unit.name)}{params}"
    if (hidden := len(move.units) - 2 * SHOWN_TESTS) > 0:
        yield f"    and {hidden} more"
    if place.tight:
        yield f"    `{place.tier}` may not have the time for them: look at its budget"


def _test(node_id: str) -> str:
    return shorten(visible(node_id), 120)


# --- for programs --------------------------------------------------------------------------------------------------


def past_document(tiers: Sequence[TierPast], *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """`mltiers history show --json`."""
    return {"version": VERSION, "notes": list(notes), "tiers": {tier.name: _tier_document(tier) for tier in tiers}}


def _tier_document(tier: TierPast) -> dict[str, Any]:
    move = tier.move
    trend, drift = tier.trend, tier.drift
    return {
        "budget": tier.budget,
        "expected": None if tier.expected is None else msgspec.to_builtins(tier.expected),
        "trend": None if trend is None else {**msgspec.to_builtins(trend), "words": trend_words(tier)},
        "drift": None
        if drift is None
        else {"used": drift.used, "left": drift.left, "grew": [growth_words(test) for test in drift.grew]},
        "runs": [_run(record) for record in tier.records] + [_row(row) for row in tier.rows],
        "tests": {
            node_id: {"seconds": e.seconds, "highest": e.highest, "samples": e.samples}
            for node_id, e in sorted(tier.estimates.items())
        },
        "flaky": [msgspec.to_builtins(test) for test in tier.flaky],
        "advice": None
        if move is None
        else {
            "seconds": move.seconds,
            "after": move.after,
            "beside": move.beside,
            "move": [unit.name for unit in move.units],
            "tier": None if tier.place is None else tier.place.tier,
            "marker": None if tier.place is None else tier.place.marker,
        },
    }


def _run(record: Record) -> dict[str, Any]:
    result, plan, sums = record.tier.result, record.tier.plan, record.sums
    tally = msgspec.to_builtins(result.counts) if result is not None else {}
    return {
        "tier": record.name,
        "run": record.run,
        "time": record.time,
        "sha": record.sha,
        "event": record.event,
        "ref": record.ref,
        "pull_request": record.pull_request,
        "fork": record.fork,
        "trusted": record.trusted,
        "verdict": str(record.tier.verdict),
        "reasons": list(record.tier.reasons),
        "seconds": result.seconds if result is not None else None,
        "predicted_seconds": plan.predicted_seconds,
        "predicted_low": plan.predicted_low,
        "predicted_high": plan.predicted_high,
        "budget": plan.budget,
        "workers": result.workers if result is not None else plan.workers,
        "shards": plan.shards,
        "gpus": plan.gpus,
        "counts": {outcome: number for outcome, number in tally.items() if number},
        "covered": sums.covered if sums is not None else None,
        "statements": sums.statements if sums is not None else None,
        "machine": dict(record.machine),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "run": row.run,
        "time": _time(row) or None,
        "sha": row.sha,
        "event": row.event,
        "trusted": row.trusted,
        "verdict": row.verdict,
        "seconds": row.seconds,
        "predicted_seconds": row.predicted,
        "gpus": row.gpus,
        "counts": dict(row.counts),
        "covered": row.covered,
        "statements": row.statements,
        "machine": dict(row.machine),
        "benchmarks": [{"name": name, "minimum": seconds} for name, seconds in row.benchmarks.items()],
    }


def export_lines(tier: str, records: Sequence[Record], sketch: Sketch | None) -> Iterator[dict[str, Any]]:
    """One document for each run, newest first: what `show --json` has of it, its tests and its benchmarks."""
    kept = set()
    for record in records:
        name = record_name(record)
        kept.add((name.stamp, name.sha, name.run))
        result = record.tier.result
        yield {
            **_run(record),
            "tests": [
                {"node_id": test.node_id, "outcome": str(test.outcome), "seconds": test.seconds}
                for test in (result.tests if result is not None else ())
            ],
            "deferred": list(result.deferred) if result is not None else [],
            "benchmarks": [msgspec.to_builtins(b) for b in (result.benchmarks if result is not None else ())],
        }
    for row in sketch.rows if sketch is not None else ():
        if row.key not in kept:
            yield {"tier": tier, **_row(row), "tests": None}


def export_rows(document: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The rows of the CSV for one document of `export_lines`, in the order of `COLUMNS`."""
    facts = {**document, "run_seconds": document["seconds"]}
    facts["machine"] = "; ".join(f"{name}={value}" for name, value in sorted(document["machine"].items()))
    for test in document["tests"] or [{"node_id": None, "outcome": None, "seconds": None}]:
        row = {**facts, **test}
        yield tuple(row.get(column) for column in COLUMNS)


def render_gpu_marks(marks: Mapping[str, Sequence[GpuMark]]) -> str:
    """The marks by tier, a test a line; ends in a line feed."""
    lines = []
    for tier, found in marks.items():
        if found:
            lines.append(f"{tier}:")
            lines += [f"  {visible(one.node_id)}  {one.peak_bytes / 2**30:.2f} GiB  {one.mark}" for one in found]
    return "\n".join(lines or ["no test was seen to use CUDA"]) + "\n"
