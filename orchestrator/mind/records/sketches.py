"""What is kept of records that have gone: a row for each run, and for each test how often, how long, how well. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import LEVELS, OUTCOMES, BrokenRecordError, quantise, seconds_of, sums
from orchestrator.mind.records.history import measured
from orchestrator.mind.records.names import record_name, time_of
from orchestrator.words.results import TestOutcome, TestResult

FORMAT = 1
MAX_ROWS = 10_000
FORGET_DAYS = 90  # a test not seen for so long before the newest folded run has been removed or renamed
_DAY = 86400
_OUTCOME_OF = {letter: outcome for outcome, letter in OUTCOMES.items()}
_LEVEL_OF = {letter: level for level, letter in enumerate(LEVELS)}


class Row(Struct, frozen=True, kw_only=True):
    """One run of the tier on one commit."""

    stamp: str  # as in the record's name: UTC, sorts as time does
    sha: str
    run: str
    event: str
    verdict: str
    trusted: bool = False
    seconds: float = 0.0
    predicted: float | None = None
    gpus: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)  # tests by outcome, without the zeros
    covered: int | None = None  # statements
    statements: int | None = None
    machine: Mapping[str, str] = field(default_factory=dict)
    benchmarks: Mapping[str, float] = field(default_factory=dict)  # seconds: each one's minimum

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of the record it is made of."""
        return self.stamp, self.sha, self.run

    @property
    def time(self) -> float:
        """Unix seconds. Raises ValueError."""
        return time_of(self.stamp)


class TestSketch(Struct, kw_only=True):
    """One test over all folded runs."""

    __test__ = False

    count: int = 0  # runs in which it was executed or was running
    fails: int = 0
    flakes: int = 0  # runs in which it failed first and passed then
    last: TestOutcome = TestOutcome.PASSED
    day: int = 0  # of the newest of them, in days since 1970
    levels: dict[int, int] = field(default_factory=dict)  # how often it took how long: index into LEVELS → runs

    def quantile(self, q: float) -> float | None:
        """Seconds not exceeded in that fraction (0 … 1) of the measured runs; None: it was never measured."""
        total = sum(self.levels.values())
        seen = 0
        for level in sorted(self.levels):
            seen += self.levels[level]
            if seen >= q * total:
                return seconds_of(LEVELS[level])
        return None


class Sketch(Struct, frozen=True, kw_only=True):
    """One tier's records that have gone."""

    rows: tuple[Row, ...] = ()  # newest first
    tests: Mapping[str, TestSketch] = field(default_factory=dict)  # by node id


def fold(sketch: Sketch, records: Iterable[Record]) -> Sketch:
    """The sketch with these records (oldest first) in it. One that is in it already changes nothing: a writer may have
    been killed between keeping the sketch and deleting its records.
    """
    rows = {row.key: row for row in sketch.rows}
    tests = {
        node_id: TestSketch(
            count=test.count,
            fails=test.fails,
            flakes=test.flakes,
            last=test.last,
            day=test.day,
            levels=dict(test.levels),
        )
        for node_id, test in sketch.tests.items()
    }
    for record in records:
        row = _row(record)
        if row.key in rows:
            continue
        rows[row.key] = row
        for test in record.tier.result.tests if record.tier.result is not None else ():
            if test.outcome is not TestOutcome.SKIPPED:
                _add(tests.setdefault(test.node_id, TestSketch()), test, int(record.time // _DAY))
        for test in measured(record):
            level = _LEVEL_OF[quantise(test.seconds)]
            levels = tests[test.node_id].levels
            levels[level] = levels.get(level, 0) + 1
    newest = max((test.day for test in tests.values()), default=0)
    return Sketch(
        rows=tuple(sorted(rows.values(), key=lambda row: row.key, reverse=True)[:MAX_ROWS]),
        tests={node_id: test for node_id, test in sorted(tests.items()) if test.day >= newest - FORGET_DAYS},
    )


def _add(sketch: TestSketch, test: TestResult, day: int) -> None:
    sketch.count += 1
    sketch.fails += test.outcome.bad
    sketch.flakes += bool(test.attempts) and not test.outcome.bad
    if day >= sketch.day:
        sketch.last, sketch.day = test.outcome, day


def _row(record: Record) -> Row:
    name, result = record_name(record), record.tier.result
    counts = msgspec.to_builtins(result.counts) if result is not None else {}
    covered = record.sums
    if covered is None and result is not None and result.coverage is not None:
        covered = sums(result.coverage)
    return Row(
        stamp=name.stamp,
        sha=name.sha,
        run=name.run,
        event=record.event,
        verdict=str(record.tier.verdict),
        trusted=record.trusted,
        seconds=_short(result.seconds) if result is not None else 0.0,
        predicted=_short(record.predicted) if record.predicted is not None else None,
        gpus=record.tier.plan.gpus,
        counts={outcome: number for outcome, number in counts.items() if number},
        covered=covered.covered if covered is not None else None,
        statements=covered.statements if covered is not None else None,
        machine=record.machine,
        benchmarks={b.name: _short(b.minimum) for b in result.benchmarks} if result is not None else {},
    )


def _short(seconds: float) -> float:
    return float(f"{seconds:.4g}")


# --- the file ------------------------------------------------------------------------------------------------------


def encode_sketch(sketch: Sketch) -> bytes:
    """The file of a sketch: rows one a line, tests as columns."""
    names = sorted({name for row in sketch.rows for name in row.benchmarks})
    number_of = {name: number for number, name in enumerate(names)}
    machines: list[Mapping[str, str]] = []
    rows = []
    for row in sketch.rows:
        facts = {key: value for key, value in msgspec.to_builtins(row).items() if value not in (None, {}, 0)}
        if row.machine:
            if row.machine not in machines:
                machines.append(row.machine)
            facts["machine"] = machines.index(row.machine)
        if row.benchmarks:
            facts["benchmarks"] = [
                value for name in row.benchmarks for value in (number_of[name], row.benchmarks[name])
            ]
        rows.append(facts)
    tests = sketch.tests.values()
    columns = {
        "version": FORMAT,
        "machines": machines,
        "benchmarks": names,
        "counts": [test.count for test in tests],
        "fails": [test.fails for test in tests],
        "flakes": [test.flakes for test in tests],
        "last": "".join(OUTCOMES[test.last] for test in tests),
        "days": [test.day for test in tests],
        "levels": [" ".join(f"{level}:{runs}" for level, runs in sorted(test.levels.items())) for test in tests],
    }
    parts = [f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in columns.items()]
    parts += [f"{json.dumps(key)}:{_lines(values)}" for key, values in (("rows", rows), ("ids", list(sketch.tests)))]
    return ("{" + ",\n".join(parts) + "}\n").encode("ascii")


def _lines(values: Sequence[Any]) -> str:
    # One a line: git then stores the next sketch as its difference from this one.
    return "[\n" + ",\n".join(json.dumps(value, separators=(",", ":")) for value in values) + "\n]"


def decode_sketch(data: bytes) -> Sketch:
    """The inverse of `encode_sketch`. Raises BrokenRecordError."""
    try:
        facts = json.loads(data)
        if facts["version"] != FORMAT:
            raise BrokenRecordError(f"it has version {facts['version']!r}; this mltiers reads {FORMAT}")
        return Sketch(rows=tuple(_read_rows(facts)), tests=_read_tests(facts))
    except msgspec.ValidationError as error:
        raise BrokenRecordError(f"it is no sketch: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BrokenRecordError(f"it is no sketch: {error!r}") from None


def _read_rows(facts: Mapping[str, Any]) -> list[Row]:
    rows = []
    for found in facts["rows"]:
        row = dict(found)
        if "machine" in row:
            row["machine"] = facts["machines"][row["machine"]]
        numbers = row.get("benchmarks", [])
        row["benchmarks"] = {
            facts["benchmarks"][number]: seconds for number, seconds in zip(numbers[::2], numbers[1::2], strict=True)
        }
        rows.append(msgspec.convert(row, Row, strict=False))
    return rows


def _read_tests(facts: Mapping[str, Any]) -> dict[str, TestSketch]:
    tests = {}
    columns = [facts[name] for name in ("ids", "counts", "fails", "flakes", "last", "days", "levels")]
    for node_id, count, fails, flakes, last, day, levels in zip(*columns, strict=True):
        runs = {int(level): int(number) for level, number in (pair.split(":") for pair in levels.split())}
        if any(level not in range(len(LEVELS)) for level in runs):
            raise BrokenRecordError(f"{levels!r} are no durations")
        tests[str(node_id)] = TestSketch(
            count=int(count),
            fails=int(fails),
            flakes=int(flakes),
            last=_OUTCOME_OF[last],
            day=int(day),
            levels=runs,
        )
    return tests
