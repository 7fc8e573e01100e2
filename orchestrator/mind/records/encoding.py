"""A record as files, and back. Pure.

Ten thousand tests on a thousand commits have to stay small, so a run's tests are columns: the node ids are a file of
their own, which runs with the same tests share; an outcome is one character, a duration another.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field, structs
from msgspec.structs import replace

from orchestrator.mind.records import CoverageSums, Record
from orchestrator.mind.records.names import lines_name, list_name, record_name
from orchestrator.words.errors import ExitCode, InfrastructureError
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Attempt, Coverage, FileCoverage, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

FORMAT = 1
MAX_TEXT = 4_000  # characters of one failure's traceback
MAX_TEXTS = 60_000  # of all tracebacks of a record
MAX_STACKS = 8_000

OUTCOMES: Mapping[TestOutcome, str] = {
    TestOutcome.PASSED: ".",
    TestOutcome.FAILED: "F",
    TestOutcome.ERROR: "E",
    TestOutcome.SKIPPED: "s",
    TestOutcome.XFAILED: "x",
    TestOutcome.XPASSED: "X",
    TestOutcome.UNFINISHED: "u",
}
_OUTCOME_OF = {letter: outcome for outcome, letter in OUTCOMES.items()}

# A duration is the number of a step on a scale of 21 % steps: within 10 % of the truth, from half a millisecond
# (anything shorter is the first step, read as nothing) to four hours.
LEVELS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"\\')
_LEVEL_OF = {letter: level for level, letter in enumerate(LEVELS)}
_SHORTEST = 0.0005
_STEP = math.log(1.21)


class BrokenRecordError(InfrastructureError):
    """A file of the history that is not what its name says; the message says how."""


class _Told(Struct, frozen=True, kw_only=True):
    """What a record keeps of a test beside its column: why it failed, why it was skipped, how often it was tried."""

    index: int
    message: str | None = None
    text: str | None = None
    file: str | None = None
    line: int | None = None
    worker: str | None = None
    started: float | None = None
    attempts: tuple[Attempt, ...] = ()


class _Document(Struct, frozen=True, kw_only=True):
    """A record's own file. A reader leaves out what it does not know, and takes the default for what is missing."""

    version: int
    sha: str
    time: float
    config_id: str
    event: str
    plan: TierPlan
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    exit_code: int = 0
    others: tuple[TierVerdict, ...] = ()
    run: str = ""
    ref: str | None = None
    pull_request: int | None = None
    fork: bool = False
    trusted: bool = False
    partial: bool = False
    predicted: float | None = None
    machine: Mapping[str, str] = field(default_factory=dict)
    result: TierResult | None = None  # without its tests and coverage
    list: str | None = None  # digest of the node ids
    outcomes: str = ""
    seconds: str = ""
    told: tuple[_Told, ...] = ()
    coverage: CoverageSums | None = None
    lines: str | None = None  # digest of the covered lines
    deferred: str | None = None  # digest of the node ids that were not run for want of budget


def quantise(seconds: float) -> str:
    """One character for a duration."""
    if not seconds > _SHORTEST:
        return LEVELS[0]
    return LEVELS[min(len(LEVELS) - 1, 1 + round(math.log(seconds / _SHORTEST) / _STEP))]


def seconds_of(letter: str) -> float:
    """The duration a character stands for. Raises BrokenRecordError."""
    level = _LEVEL_OF.get(letter)
    if level is None:
        raise BrokenRecordError(f"{letter!r} is no duration")
    return _SHORTEST * math.exp((level - 1) * _STEP) if level else 0.0


# --- writing -------------------------------------------------------------------------------------------------------


def encode(record: Record) -> dict[str, bytes]:
    """The files of a record by name, what it refers to before the record itself."""
    files: dict[str, bytes] = {}

    def put(content: bytes, name_of: Any) -> str:
        digest = hashlib.sha256(content).hexdigest()[:24]
        files[name_of(digest)] = content
        return digest

    tier, result = record.tier, record.tier.result
    tests = sorted(result.tests, key=lambda test: test.node_id) if result is not None else []
    coverage = result.coverage if result is not None else None
    document = _Document(
        version=FORMAT,
        sha=record.sha,
        time=round(record.time, 3),
        config_id=record.config_id,
        event=record.event,
        plan=_bare_plan(tier.plan),
        verdict=tier.verdict,
        reasons=tier.reasons,
        exit_code=int(tier.exit_code),
        others=tuple(replace(other, plan=_bare_plan(other.plan), result=None) for other in record.others),
        run=record.run,
        ref=record.ref,
        pull_request=record.pull_request,
        fork=record.fork,
        trusted=record.trusted,
        partial=record.partial,
        predicted=record.predicted,
        machine=record.machine,
        result=_bare(result) if result is not None else None,
        list=put(_node_ids([test.node_id for test in tests]), list_name) if tests else None,
        outcomes="".join(OUTCOMES[test.outcome] for test in tests),
        seconds="".join(quantise(test.seconds) for test in tests),
        told=tuple(_told(tests)),
        coverage=sums(coverage) if coverage is not None else record.sums,
        lines=put(_lines(coverage, record.sources), lines_name) if coverage is not None and record.has_lines else None,
        deferred=put(_node_ids(sorted(result.deferred)), list_name) if result is not None and result.deferred else None,
    )
    files[str(record_name(record))] = _json(_without_defaults(document))
    return files


def _bare_plan(plan: TierPlan) -> TierPlan:
    """Without its environment, which may hold a secret of somebody's, and without how it was called."""
    return replace(plan, command=(), command_by_turns=(), env={}, python=None, choice=None)


def _bare(result: TierResult) -> TierResult:
    return replace(
        result,
        tests=(),
        coverage=None,
        contexts=None,
        machine={},  # the record's own
        deferred=(),
        command=(),
        output_tail="",
        stacks=result.stacks[:MAX_STACKS],
        problems=tuple(problem[:500] for problem in result.problems[:20]),
        notes=tuple(note[:500] for note in result.notes[:20]),
        details=(),
    )


def _told(tests: Sequence[TestResult]) -> list[_Told]:
    told, left = [], MAX_TEXTS
    for index, test in enumerate(tests):
        if not (test.outcome.bad or test.message or test.attempts):
            continue
        text = test.text[: min(MAX_TEXT, left)] if test.text and test.outcome.bad else None
        left -= len(text or "")
        told.append(
            _Told(
                index=index,
                message=test.message[:500] if test.message else None,
                text=text or None,
                file=test.file,
                line=test.line,
                worker=test.worker,
                started=test.started,
                attempts=tuple(_cut(attempt) for attempt in test.attempts),
            )
        )
    return told


def _cut(attempt: Attempt) -> Attempt:
    return structs.replace(attempt, message=attempt.message[:500] if attempt.message else None, text=None)


def sums(coverage: Coverage) -> CoverageSums:
    """What is kept of a coverage without its lines."""
    return CoverageSums(
        covered=coverage.covered,
        statements=coverage.statements,
        branch_covered=coverage.branch_covered,
        branch_total=coverage.branch_total,
    )


def _lines(coverage: Coverage, sources: Mapping[str, str]) -> bytes:
    files = {}
    for path, body in sorted(coverage.files.items()):
        entry: dict[str, Any] = {"executed": ranges(body.executed), "missing": ranges(body.missing)}
        if path in sources:
            entry["source"] = sources[path]
        if body.excluded:
            entry["excluded"] = ranges(body.excluded)
        if body.functions:
            entry["functions"] = {name: ranges(lines) for name, lines in sorted(body.functions.items())}
        for name, arcs in (("branches", body.executed_branches), ("missed", body.missing_branches)):
            if arcs:
                entry[name] = [number for arc in sorted(arcs) for number in arc]
        files[path] = entry
    return _json({"version": FORMAT, "files": files})


def _node_ids(ids: Sequence[str]) -> bytes:
    # One a line: git then stores the list of the next commit as its difference from this one.
    return ("[\n" + ",\n".join(json.dumps(node_id) for node_id in ids) + "\n]\n").encode("ascii")


def _without_defaults(document: _Document) -> dict[str, Any]:
    facts = msgspec.to_builtins(document)
    return {key: value for key, value in facts.items() if value not in (None, [], {}, "") and value is not False}


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def ranges(numbers: frozenset[int]) -> str:
    """Line numbers as ``1-5,7``."""
    parts: list[str] = []
    start = end = None
    for number in sorted(numbers):
        if end is not None and number == end + 1:
            end = number
            continue
        if start is not None:
            parts.append(str(start) if start == end else f"{start}-{end}")
        start = end = number
    if start is not None:
        parts.append(str(start) if start == end else f"{start}-{end}")
    return ",".join(parts)


# --- reading -------------------------------------------------------------------------------------------------------


class References(Struct, frozen=True, kw_only=True):
    """The files that a record's own file refers to, by name, and whether baselines are made of it."""

    lists: tuple[str, ...]
    lines: tuple[str, ...]
    trusted: bool


def references(data: bytes) -> References:
    """What a record's file refers to. Raises BrokenRecordError."""
    facts = _object(data)
    return References(
        lists=tuple(list_name(str(facts[key])) for key in ("list", "deferred") if facts.get(key)),
        lines=(lines_name(str(facts["lines"])),) if facts.get("lines") else (),
        trusted=facts.get("trusted") is True,
    )


def decode(data: bytes, files: Mapping[str, bytes]) -> Record:
    """A record from its file and what it refers to (``files``, by name). Raises BrokenRecordError.

    The lines may be left out: the record then has the sums of its coverage in no file, and ``has_lines`` is False.
    """
    facts = _object(data)
    version = facts.get("version")
    if version != FORMAT:
        raise BrokenRecordError(f"it has version {version!r}; this mltiers reads {FORMAT}")
    try:
        document = msgspec.convert(facts, _Document, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise BrokenRecordError(f"it is no record: {error}") from None
    has_lines = document.lines is None or lines_name(document.lines) in files
    coverage: Coverage | None = None
    sources: dict[str, str] = {}
    if document.lines is not None and has_lines:
        coverage, sources = _read_lines(files[lines_name(document.lines)])
    result = document.result
    if result is not None:
        deferred = _read_ids(document.deferred, files) if document.deferred else ()
        tests = _tests(document, files)
        result = replace(result, tests=tests, coverage=coverage, deferred=deferred, machine=document.machine)
    tier = TierVerdict(
        plan=document.plan,
        result=result,
        verdict=document.verdict,
        reasons=document.reasons,
        exit_code=_exit_code(document),
    )
    return Record(
        sha=document.sha,
        time=document.time,
        config_id=document.config_id,
        event=document.event,
        tier=tier,
        others=document.others,
        run=document.run,
        ref=document.ref,
        pull_request=document.pull_request,
        fork=document.fork,
        trusted=document.trusted,
        partial=document.partial,
        predicted=document.predicted,
        machine=document.machine,
        sources=sources,
        has_lines=has_lines,
        sums=document.coverage,
    )


def _tests(document: _Document, files: Mapping[str, bytes]) -> tuple[TestResult, ...]:
    ids = _read_ids(document.list, files) if document.list else ()
    if not len(ids) == len(document.outcomes) == len(document.seconds):
        raise BrokenRecordError("its tests, their outcomes and their durations are not equally many")
    tests = list(map(_plain_test, ids, document.outcomes, document.seconds))
    for more in document.told:
        if more.index not in range(len(tests)):
            raise BrokenRecordError(f"it tells of a test {more.index} that it does not have")
        tests[more.index] = structs.replace(
            tests[more.index],
            message=more.message,
            text=more.text,
            file=more.file,
            line=more.line,
            worker=more.worker,
            started=more.started,
            attempts=more.attempts,
        )
    return tuple(tests)


@functools.lru_cache(maxsize=1 << 16)
def _plain_test(node_id: str, letter: str, level: str) -> TestResult:
    """Most tests of a record are as in the one before: fifty records of ten thousand share their values."""
    outcome = _OUTCOME_OF.get(letter)
    if outcome is None:
        raise BrokenRecordError(f"{letter!r} is no outcome")
    return TestResult(node_id=node_id, outcome=outcome, seconds=seconds_of(level))


def _read_ids(digest: str, files: Mapping[str, bytes]) -> tuple[str, ...]:
    data = files.get(list_name(digest))
    if data is None:
        raise BrokenRecordError(f"its list of tests {digest} is not there")
    ids = _strings(data)
    if ids is None:
        raise BrokenRecordError(f"its list of tests {digest} is none")
    return ids


@functools.lru_cache(maxsize=4)
def _strings(data: bytes) -> tuple[str, ...] | None:
    """An array of strings, which most records of a tier share, or None. Raises BrokenRecordError."""
    try:
        return msgspec.json.decode(data, type=tuple[str, ...])
    except msgspec.MsgspecError:  # half of a surrogate pair, which Python's own takes, or a fault
        ids = _parse(data)
        return tuple(ids) if isinstance(ids, list) and all(isinstance(node_id, str) for node_id in ids) else None


def _read_lines(data: bytes) -> tuple[Coverage, dict[str, str]]:
    facts = _object(data)
    files, sources = {}, {}
    try:
        for path, entry in facts["files"].items():
            if "source" in entry:
                sources[path] = str(entry["source"])
            files[path] = FileCoverage(
                executed=parse_ranges(entry["executed"]),
                missing=parse_ranges(entry["missing"]),
                excluded=parse_ranges(entry.get("excluded", "")),
                functions={name: parse_ranges(lines) for name, lines in entry.get("functions", {}).items()},
                executed_branches=_arcs(entry.get("branches", ())),
                missing_branches=_arcs(entry.get("missed", ())),
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BrokenRecordError(f"its lines are none: {error!r}") from None
    return Coverage(files=files), sources


def parse_ranges(text: str) -> frozenset[int]:
    """The inverse of `ranges`. Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        start, _, end = part.partition("-")
        if int(end or start) - int(start) > 1_000_000:
            raise ValueError(f"{part} is too long a range")
        numbers.update(range(int(start), int(end or start) + 1))
    return frozenset(numbers)


def _arcs(numbers: Sequence[int]) -> frozenset[tuple[int, int]]:
    return frozenset((int(start), int(end)) for start, end in zip(numbers[::2], numbers[1::2], strict=True))


def _exit_code(document: _Document) -> ExitCode:
    try:
        return ExitCode(document.exit_code)
    except ValueError:
        raise BrokenRecordError(f"{document.exit_code} is no exit code of ours") from None


def _object(data: bytes) -> dict[str, Any]:
    facts = _parse(data)
    if not isinstance(facts, dict):
        raise BrokenRecordError("it is no JSON object")
    return facts


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenRecordError(f"it is no JSON: {error}") from None
