"""What the report's script reads: one JSON document of columns, written in chunks so that no second copy is held.

Fifty thousand tests as objects would repeat every key fifty thousand times. Here each property is one array (outcomes
are one string), a node id is the index of its file and class plus its own last part, and times are whole ticks of a
tenth of a millisecond. ``assets/js/data.js`` is the reader; the two change together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

from orchestrator.mind.excerpts import kind_of
from orchestrator.mind.render.benchmarks import headline, interval, moved, remarks, telling
from orchestrator.mind.render.causes import insight_of
from orchestrator.mind.render.words import carried_words, gap_words, line_ranges, memory, per_second
from orchestrator.words.results import Benchmark, Comparison, Counts, TestOutcome, TestResult
from orchestrator.words.verdict import Cause, RunVerdict, Series, TierVerdict

TICKS = 10_000  # per second


class Limits(Struct, frozen=True, kw_only=True):
    """Where evidence is left out for size, and the report says so. junit.xml beside it has everything."""

    text: int = 12_000  # characters of one traceback
    texts: int = 4_000_000  # characters of all tracebacks
    details: int = 5_000  # tests with a message and a traceback
    message: int = 1_000
    node_id: int = 4_000
    reasons: int = 500  # distinct reasons for skipping
    ranges: int = 200  # of missing lines, for one file
    trends: int = 50  # series of benchmarks


LIMITS = Limits()

CODES: dict[TestOutcome, str] = {
    TestOutcome.PASSED: "p",
    TestOutcome.FAILED: "f",
    TestOutcome.ERROR: "e",
    TestOutcome.SKIPPED: "s",
    TestOutcome.XFAILED: "x",
    TestOutcome.XPASSED: "X",
    TestOutcome.UNFINISHED: "u",
}
_BAD = frozenset(code for outcome, code in CODES.items() if outcome.bad)

_encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def script_json(value: Any) -> str:
    """``value`` as ASCII JSON that cannot end the ``<script>`` it stands in, nor open a comment there."""
    try:
        text = msgspec.json.encode(value).decode("ascii")  # in a tenth of the time
    except UnicodeError:
        text = _encode(value)
    return text.replace("<", "\\u003c")


class TestColumns:
    """The tests of a run in the order of its tiers, with what the page itself needs to know of them."""

    __test__ = False

    def __init__(self, run: RunVerdict) -> None:
        self.tests: list[TestResult] = []
        self.offsets: list[int] = []
        for tier in run.tiers:
            self.offsets.append(len(self.tests))
            if tier.result is not None:
                self.tests.extend(tier.result.tests)
        self.offsets.append(len(self.tests))
        self.codes = "".join([CODES[test.outcome] for test in self.tests])

    def counts(self, tier: int | None = None) -> Counts:
        """How the tests of the tier with this index ended, or of all."""
        first, end = (0, len(self.codes)) if tier is None else (self.offsets[tier], self.offsets[tier + 1])
        return Counts(**{outcome.value: self.codes.count(code, first, end) for outcome, code in CODES.items()})

    def failing(self, most: int) -> Iterator[TestResult]:
        """The first ``most`` tests that failed, broke or never ended."""
        found = (test for code, test in zip(self.codes, self.tests, strict=True) if code in _BAD)
        return (test for test, _ in zip(found, range(most), strict=False))


def data_chunks(
    run: RunVerdict, columns: TestColumns, *, source_url: str | None, limits: Limits = LIMITS
) -> Iterator[str]:
    """The document, piece by piece. ``source_url``: what a file's path is appended to for a link, if anywhere."""
    workers, worker_column = _workers(columns)
    head = {
        "version": 1,
        "outcomes": {code: outcome.value for outcome, code in CODES.items()},
        "ticks": TICKS,
        "source": source_url,
        "tiers": [_tier(tier, i, columns, workers[i]) for i, tier in enumerate(run.tiers)],
    }
    yield script_json(head)[:-1] + f',"tests":{{"codes":"{columns.codes}"'
    yield from _node_ids(columns.tests, limits)
    yield f',"took":{script_json(_ticks([test.seconds for test in columns.tests]))}'
    yield f',"started":{script_json(_starts(run))}'
    yield f',"workers":{script_json(worker_column)}}}'
    yield from _details(columns, limits)
    yield f',"insight":{script_json(_insight(run, columns, limits))}'
    yield f',"skips":{script_json(_skips(columns, limits))}'
    yield f',"coverage":{script_json(_coverage(run, limits))}'
    yield f',"benchmarks":{script_json(_benchmarks(run.tiers))}'
    yield from _trends(run, limits)
    yield "}"


def has_charts(run: RunVerdict) -> bool:
    """Whether there is something to chart: a test that knows when it started, or earlier runs."""
    if insight_of(run).trends:
        return True
    return any(test.started is not None for tier in run.tiers if tier.result is not None for test in tier.result.tests)


def _tier(tier: TierVerdict, index: int, columns: TestColumns, workers: list[str]) -> dict[str, Any]:
    seconds = tier.result.seconds if tier.result is not None else 0.0
    return {
        "name": tier.name,
        "verdict": tier.verdict.value,
        "first": columns.offsets[index],
        "took": _tick(seconds),
        "budget": _tick(tier.plan.budget),
        "workers": workers,
    }


def _node_ids(tests: Sequence[TestResult], limits: Limits) -> Iterator[str]:
    """``heads`` (file and class, with their ``::``), the head of each test, and the rest of each name."""
    heads: dict[str, int] = {}
    head_column: list[int] = []
    names: list[str] = []
    for test in tests:
        head, colons, name = test.node_id.rpartition("::")
        head_column.append(heads.setdefault(head + colons, len(heads)))
        names.append(name)
    shown = list(heads)
    if len(max(shown, key=len, default="")) > limits.node_id or len(max(names, key=len, default="")) > limits.node_id:
        shown = [_middle(head, limits.node_id) for head in shown]
        names = [_middle(name, limits.node_id) for name in names]
    yield f',"heads":{script_json(shown)},"head":{script_json(head_column)}'
    yield f',"names":{script_json(names)}'


def _tick(seconds: float) -> int:
    return int(seconds * TICKS + 0.5) if 0 <= seconds < 1e9 else 0


def _ticks(seconds: list[float]) -> list[int]:
    try:
        ticks = [int(value * TICKS + 0.5) for value in seconds]
    except (ValueError, OverflowError):  # not a number, or infinite
        return [_tick(value) for value in seconds]
    sane = min(ticks, default=0) >= 0 and max(ticks, default=0) < 1e9 * TICKS
    return ticks if sane else [_tick(value) for value in seconds]


def _starts(run: RunVerdict) -> list[int]:
    """When each test started, in ticks since its tier did; -1 where unknown."""
    starts: list[int] = []
    for tier in run.tiers:
        if tier.result is None:
            continue
        known = [test.started for test in tier.result.tests if test.started is not None]
        began = min(known, default=0.0)
        if tier.result.started is not None:
            began = min(began, tier.result.started) if known else tier.result.started
        starts += [
            int((test.started - began) * TICKS) if test.started is not None and 0 <= test.started - began < 1e9 else -1
            for test in tier.result.tests
        ]
    return starts


def _workers(columns: TestColumns) -> tuple[list[list[str]], list[int]]:
    """The names of each tier's workers in their natural order, and each test's index into its tier's; -1: unknown."""
    names: list[list[str]] = []
    column: list[int] = []
    for first, end in zip(columns.offsets, columns.offsets[1:], strict=False):
        own = [test.worker for test in columns.tests[first:end]]
        ordered = sorted({name for name in own if name is not None}, key=_natural)
        index: dict[str | None, int] = {name: i for i, name in enumerate(ordered)}
        index[None] = -1
        column += [index[name] for name in own]
        names.append(ordered)
    return names, column


def _natural(name: str) -> tuple[str, int, str]:
    match = re.fullmatch(r"(\D*)(\d{1,9})(.*)", name, re.DOTALL)
    return (match[1], int(match[2]), match[3]) if match else (name, -1, "")


def _details(columns: TestColumns, limits: Limits) -> Iterator[str]:
    """Message, traceback and earlier attempts of every test that failed or was tried again, up to the limits."""
    wanted = [
        i for i, (c, test) in enumerate(zip(columns.codes, columns.tests, strict=True)) if c in _BAD or test.attempts
    ]
    left = limits.texts
    shortened = without_text = 0
    yield ',"details":['
    for position, index in enumerate(wanted[: limits.details]):
        test = columns.tests[index]
        # Of a test that passed in the end, what its first attempt said.
        text = test.text if test.outcome.bad or not test.attempts else test.attempts[0].text
        if text is not None and len(text) > limits.text:
            text = _middle(text, limits.text)
            shortened += 1
        if text is not None and len(text) > left:
            text = None
            without_text += 1
        left -= len(text or "")
        yield ("," if position else "") + script_json(_detail(index, test, text, limits))
    left_out = {"shortened": shortened, "withoutText": without_text, "leftOut": max(0, len(wanted) - limits.details)}
    yield f'],"limits":{script_json(left_out)}'


def _insight(run: RunVerdict, columns: TestColumns, limits: Limits) -> dict[str, Any]:
    """Causes with the indices of their tests, and what is to be said of them and of the flaky and slower tests."""
    found = insight_of(run)
    wanted = {test.node_id for cause in found.causes for test in cause.tests}
    wanted |= {flake.test.node_id for flake in found.flakes} | {one.node_id for one in found.slower}
    places: dict[tuple[str, str], int] = {}
    for tier, first, end in zip(run.tiers, columns.offsets, columns.offsets[1:], strict=False):
        for index in range(first, end):
            if columns.tests[index].node_id in wanted:
                places.setdefault((tier.name, columns.tests[index].node_id), index)
    return {
        "causes": [
            {
                "tests": [
                    places[tier, test.node_id]
                    for test in cause.tests
                    for tier in cause.tiers
                    if (tier, test.node_id) in places and _fails_so(columns.tests[places[tier, test.node_id]], cause)
                ],
                "standing": cause.standing.value,
                **_said(cause.remarks, cause.rerun, limits),
            }
            for cause in found.causes
        ],
        "flaky": [
            {"test": places[flake.tiers[0], flake.test.node_id], **_said(flake.remarks, flake.rerun, limits)}
            for flake in found.flakes
        ],
        "slower": [[places[one.tier, one.node_id], _tick(one.before)] for one in found.slower],
    }


def _fails_so(test: TestResult, cause: Cause) -> bool:
    return test.outcome.bad and (kind_of(test.message) or str(test.outcome)) == cause.kind


def _said(remarks: Sequence[str], rerun: str, limits: Limits) -> dict[str, Any]:
    return {"remarks": [_middle(remark, limits.message) for remark in remarks], "rerun": rerun[: limits.node_id]}


def _detail(index: int, test: TestResult, text: str | None, limits: Limits) -> dict[str, Any]:
    detail = {
        "message": _middle(test.message, limits.message) if test.message else None,
        "text": text,
        "file": test.file,
        "line": test.line,
        "attempts": [
            [CODES[a.outcome], _tick(a.seconds), _middle(a.message, limits.message) if a.message else None]
            for a in test.attempts
        ],
    }
    return {"test": index, **{key: value for key, value in detail.items() if value}}


def _skips(columns: TestColumns, limits: Limits) -> dict[str, Any]:
    """Why tests were skipped or expected to fail: the reasons, and for each such test its index and its reason's."""
    reasons: dict[str, int] = {}
    tests: list[int] = []
    column: list[int] = []
    for index, code in enumerate(columns.codes):
        if code not in "sx":
            continue
        reason = _middle(columns.tests[index].message or "no reason given", limits.message)
        if reason not in reasons and len(reasons) >= limits.reasons:
            reason = "other reasons"
        tests.append(index)
        column.append(reasons.setdefault(reason, len(reasons)))
    return {"reasons": list(reasons), "tests": tests, "reason": column}


def _coverage(run: RunVerdict, limits: Limits) -> dict[str, Any] | None:
    if run.coverage is None:
        return None
    changed = {file.path for file in run.plan.changes.files or ()}
    uncovered: Mapping[str, Sequence[int]] = run.patch.uncovered if run.patch is not None else {}
    ranked = sorted(
        run.coverage.files.items(),
        key=lambda item: (-len(uncovered.get(item[0], ())), item[0] not in changed, -len(item[1].missing), item[0]),
    )
    return {
        "files": [
            [
                path,
                len(file.executed),
                file.statements,
                line_ranges(file.missing, limits.ranges),
                line_ranges(uncovered.get(path, ()), limits.ranges),
                int(path in changed),
            ]
            for path, file in ranked
        ],
        "branches": [run.coverage.branch_covered, run.coverage.branch_total],
        "gaps": [[gap.name, gap_words(gap)] for gap in run.known_gaps]
        + [[gap.name, f"{tier.name}: {gap_words(gap)}"] for tier in run.tiers for gap in tier.known_gaps],
        "said": [*map(carried_words, run.carried), *_change_words(run)],
        "untested": [f"{path}::{name}" for path, names in sorted(run.untested.items()) for name in names],
    }


def _change_words(run: RunVerdict) -> list[str]:
    change = run.coverage_change
    return [f"{change.points:+.1f} points against {change.sha[:10]}"] if change is not None else []


def _trends(run: RunVerdict, limits: Limits) -> Iterator[str]:
    """The series of the tiers, and of as many benchmarks as fit: those that moved most first."""
    found = insight_of(run).trends
    tiers = [series for series in found if series.benchmark is None]
    benchmarks = sorted((series for series in found if series.benchmark is not None), key=_stillness)
    shown = [*tiers, *benchmarks[: limits.trends]]
    yield f',"trends":{script_json([_series(series, limits) for series in shown])}'
    yield f',"trendsLeftOut":{max(0, len(benchmarks) - limits.trends)}'


def _stillness(series: Series) -> float:
    """Small for a benchmark that is far from what it usually was."""
    usual = median(point.seconds for point in series.points[:-1])
    return -abs(math.log(series.points[-1].seconds / usual)) if usual > 0 and series.points[-1].seconds > 0 else 0.0


def _series(series: Series, limits: Limits) -> dict[str, Any]:
    return {
        "name": series.tier if series.benchmark is None else _middle(series.benchmark, limits.node_id),
        "benchmark": series.benchmark and series.tier,
        "limit": series.limit,
        "points": [
            [round(point.time), point.sha[:10], *map(_finite, (point.seconds, point.low, point.high))]
            for point in series.points
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _benchmarks(tiers: Iterable[TierVerdict]) -> list[dict[str, Any]]:
    return [
        {
            "tier": tier.name,
            "machine": _machine(tier.result.benchmark_machine),
            "rows": [_benchmark(benchmark) for benchmark in tier.result.benchmarks],
            "compared": _compared(tier.result.comparison) if tier.result.comparison is not None else None,
        }
        for tier in tiers
        if tier.result is not None and tier.result.benchmarks
    ]


def _compared(comparison: Comparison) -> dict[str, Any]:
    """What the benchmarks are against their base; only those that are not the same have a row."""
    return {
        "headline": headline(comparison),
        "rows": [
            [one.name, one.change.value, moved(one), interval(one), one.seconds] for one in telling(comparison)[:1000]
        ],
        "remarks": remarks(comparison, most=200),
        "detail": comparison.detail,
    }


def _benchmark(benchmark: Benchmark) -> list[Any]:
    times = (benchmark.minimum, benchmark.median, benchmark.mean, benchmark.stddev)
    gpu = (memory(benchmark.peak_memory), per_second(benchmark.throughput))
    return [benchmark.name, *(value if math.isfinite(value) else None for value in times), benchmark.rounds, *gpu]


def _machine(facts: Mapping[str, Any]) -> list[str]:
    """What of pytest-benchmark's ``machine_info`` tells two machines apart, for people."""
    cpu = facts.get("cpu")
    brand = cpu.get("brand_raw") if isinstance(cpu, Mapping) else cpu
    named = {
        "CPU": brand,
        "Python": facts.get("python_version"),
        "System": facts.get("system"),
        "GPU": facts.get("gpu"),
    }
    return [f"{name} {value}" for name, value in named.items() if isinstance(value, str) and value]


def _middle(text: str, limit: int) -> str:
    """``text``, or its beginning and (longer, because pytest puts the error last) its end, with a note between."""
    if len(text) <= limit:
        return text
    head = limit // 4
    return f"{text[:head]}\n\u2026 {len(text) - limit:,} characters left out \u2026\n{text[head - limit :]}"
