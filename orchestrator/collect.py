"""Reads what a tier left in its output folder into one ``TierResult``; whatever is wrong with it becomes a problem.

The same function reads a tier that just ran here, a shard's artifact and a stranger's upload, so everything in the
folder is untrusted: links and special files are refused, sizes are bounded, and nothing in a file ends us.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from msgspec import structs

from orchestrator.model import (
    Benchmark,
    Coverage,
    Ending,
    GpuUse,
    Outcome,
    Phases,
    ShardPart,
    TestOutcome,
    TestResult,
    TierPlan,
    TierResult,
)
from orchestrator.order import schedule_note
from orchestrator.readers.benchmark import BenchmarkReport, read_benchmarks
from orchestrator.readers.comparison import merge_comparisons, read_comparison
from orchestrator.readers.coverage import combine, read_coverage
from orchestrator.readers.document import BrokenReportError, load_json_object
from orchestrator.readers.events import EventLog, read_events
from orchestrator.readers.junit import read_junit
from orchestrator.readers.junit_writer import write_junit
from orchestrator.readers.merge import merge_tests
from orchestrator.records.contexts import read_contexts
from orchestrator.render.documents import result_document
from orchestrator.render.words import plural
from orchestrator.shards import incomplete
from orchestrator.workers import phases_of

MAX_BYTES = 512 * 1024 * 1024
_CHUNK = 1 << 16
_LINE = 1 << 24
_STOPPED = (Ending.DEADLINE, Ending.CANCELLED)

T = TypeVar("T")


def collect_run(plan: TierPlan, outcome: Outcome, folder: Path, *, root: Path, sha: str | None) -> TierResult:
    """The result of a tier that just ran here. Writes what it owes: ``result.json``, a JUnit file."""
    result = collect_tier(plan, outcome, folder, root=root)
    try:
        if outcome.ending in _STOPPED and result.tests:
            _synthesise(folder, plan.name, result.tests, outcome)
        write_result(result, folder, sha=sha)
    except OSError as error:
        result = replace(result, problems=(*result.problems, f"its results could not be written: {error}"))
    return result


def collect_tier(plan: TierPlan, outcome: Outcome, folder: Path, *, root: Path) -> TierResult:
    """Everything known about one tier. Changes nothing, and never raises for what is in the folder."""
    problems = list(outcome.problems)
    junit = _read(folder / "junit.xml", read_junit, problems)
    if junit is not None and outcome.ending is Ending.UNKNOWN and not outcome.seconds:
        outcome = replace(outcome, seconds=junit.seconds)  # it came without a result.json
    log = _read(folder / "events.jsonl", _events, problems)
    stopped = outcome.ending in _STOPPED
    if stopped and log is not None:
        # pytest may have been writing its report when it was stopped; the stream has every test that ended before.
        tests, disagreements = merge_tests(None, log)
        tests = tuple(_as_at_the_stop(test, log, outcome) for test in tests)
    else:
        tests, disagreements = merge_tests(junit, log)
    problems += disagreements
    part = log.part if log is not None else None
    outcome = _as_an_empty_shard(outcome, part)
    left = [f"tests that {plugin} retries were left to it" for plugin in (log.left_to if log is not None else ())]
    coverage, coverage_note = _coverage(plan, folder, problems)
    contexts = _read(folder / "contexts.json", _contexts, problems)
    benchmarks = _benchmarks(plan, folder, problems)
    comparison = _read(folder / "comparison.json", lambda chunks: read_comparison(b"".join(chunks)), problems)
    if plan.command_by_turns and comparison is None and outcome.ending is Ending.EXITED and outcome.exit_code == 0:
        problems.append("its benchmarks were not compared with the base's: it left no comparison.json")
    result = TierResult(
        name=plan.name,
        ending=outcome.ending,
        exit_code=outcome.exit_code,
        reason=outcome.reason,
        seconds=outcome.seconds,
        started=outcome.started,
        stopped=outcome.stopped,
        tests=_relative_to(root, tests),
        has_report=junit is not None or (stopped and bool(tests)),
        problems=tuple(dict.fromkeys(problems)),
        coverage=coverage,
        coverage_note=coverage_note,
        coverage_core=log.core if log is not None else None,
        contexts=contexts,
        benchmarks=_with_peaks(benchmarks, log.gpu if log is not None else None),
        benchmark_machine=benchmarks.machine if benchmarks is not None else {},
        comparison=comparison,
        gpu=log.gpu if log is not None else None,
        machine={**outcome.machine, **_gpu_facts(log.gpu if log is not None else None)},
        deselected=log.deselected if log is not None else 0,
        deferred=log.deferred if log is not None else (),
        order=log.order if log is not None else None,
        parts=(part,) if part is not None else (),
        workers=plan.workers if plan.command else _workers(log, planned=plan.workers),
        phases=_phases(tests, log, outcome),
        peak_memory=outcome.peak_memory,
        command=plan.command,
        output_tail=outcome.output_tail,
        stacks=outcome.stacks,
        notes=tuple(dict.fromkeys((*outcome.notes, *(log.notes if log is not None else ()), *left))),
        random_seed=_seed(log),
    )
    note = schedule_note(result)
    return result if note is None or note in result.notes else replace(result, notes=(*result.notes, note))


def _phases(tests: Sequence[TestResult], log: EventLog | None, outcome: Outcome) -> Phases | None:
    """Where the seconds of a run went that came to its end by itself."""
    if log is None or outcome.ending is not Ending.EXITED:
        return None
    return phases_of(tests, log.sessions, started=outcome.started, seconds=outcome.seconds)


def _workers(log: EventLog | None, *, planned: int) -> int:
    """The processes of a run elsewhere, whose plan is not ours."""
    told = [session.workers for session in (log.sessions if log is not None else ()) if session.worker == "main"]
    return max(1, *told) if told else planned


def _seed(log: EventLog | None) -> int | None:
    """The seed of pytest-randomly, which every process of a run has from the first."""
    return next((one.seed for one in log.sessions if one.seed is not None), None) if log is not None else None


def _as_an_empty_shard(outcome: Outcome, part: ShardPart | None) -> Outcome:
    """How a shard ended for which no test was left: pytest calls that an error of its own (5), and here it is none."""
    if part is None or part.selected or not part.collected or outcome.exit_code != 5:
        return outcome
    said = f"part {part.shard} of {part.shards} has no test: there are {part.collected} of them"
    return replace(outcome, exit_code=0, notes=(*outcome.notes, said))


def _with_peaks(report: BenchmarkReport | None, gpu: GpuUse | None) -> tuple[Benchmark, ...]:
    """The benchmarks, with what the plugin saw of their GPU memory where they do not say it themselves."""
    peaks = gpu.tests if gpu is not None else {}
    return tuple(
        replace(one, peak_memory=peaks[one.name]) if one.peak_memory is None and one.name in peaks else one
        for one in (report.benchmarks if report is not None else ())
    )


def _gpu_facts(gpu: GpuUse | None) -> dict[str, str]:
    """What of a machine only the tests that used its GPU know."""
    if gpu is None or not gpu.devices:
        return {}
    facts = {"gpu": ", ".join(gpu.devices), "driver": gpu.driver, "cuda": gpu.cuda, "torch": gpu.torch}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _least(gpus: Sequence[GpuUse]) -> GpuUse:
    """The use of the part that used its devices least, with what every part measured of its tests."""
    least = min(gpus, key=lambda gpu: (gpu.peak_bytes, len(gpu.devices)))
    return replace(least, tests={test: peak for gpu in gpus for test, peak in gpu.tests.items()})


def merge_shards(results: Sequence[TierResult], *, shards: int = 1) -> TierResult:
    """One result of the parts of a tier that ran apart: every test of any of them, the union of their coverage.

    ``shards``: how many parts were planned (1: it was not split, as far as is known). That a part is missing, or that
    the parts were not cut from the same list of tests, is a problem of the whole.
    """
    apart = incomplete([part for result in results for part in result.parts], shards=shards)
    if len(results) == 1 and not apart:
        return results[0]
    empty = [result for result in results if result.parts and not any(part.selected for part in result.parts)]
    results = [result for result in results if result not in empty] or results
    first = results[0]
    worst = max(results, key=lambda part: (_ENDINGS.index(part.ending), abs(part.exit_code or 0)))
    tests: dict[str, TestResult] = {}
    repeated: dict[str, None] = {}
    for result in results:
        for test in result.tests:
            other = tests.get(test.node_id, test)
            if test.node_id in tests and "::" in test.node_id:
                repeated.setdefault(test.node_id)
            # A file that cannot be collected, or skips itself, does so in every part.
            tests[test.node_id] = max(other, test, key=lambda one: one.outcome.bad)
    problems = list(apart)
    for number, result in enumerate(results, 1):
        shard = result.parts[0].shard if len(result.parts) == 1 else number
        problems += (f"{problem} (part {shard})" for problem in result.problems)
    if repeated:
        problems.append(f"{plural(len(repeated), 'test')} ran in more than one part: {', '.join([*repeated][:3])}")
    gpus = [part.gpu for part in results if part.gpu is not None]
    unknown = [part.coverage_note or "not measured" for part in results if part.coverage is None]
    return replace(
        first,
        ending=worst.ending,
        exit_code=worst.exit_code,
        reason=worst.reason,
        seconds=max(part.seconds for part in results),
        tests=tuple(tests.values()),
        has_report=all(part.has_report for part in results),
        problems=tuple(problems),
        coverage=None if unknown else combine(part.coverage for part in results if part.coverage is not None),
        coverage_note="; ".join(dict.fromkeys(unknown)) or None,
        benchmarks=tuple(benchmark for part in results for benchmark in part.benchmarks),
        comparison=merge_comparisons([part.comparison for part in results if part.comparison is not None]),
        # A part that never touched its GPU is not excused by one that did: the least of them speaks for all.
        gpu=None if any(part.gpu is None for part in results) else _least(gpus),
        # A part that was split off has seen all tests, and left out the same as the others.
        deselected=max(p.deselected for p in results) if first.parts else sum(p.deselected for p in results),
        # Parts on two kinds of machine are those of none: what they have in common says that.
        machine={
            name: fact for name, fact in first.machine.items() if all(p.machine.get(name) == fact for p in results)
        },
        parts=tuple(part for result in (*results, *empty) for part in result.parts),
        notes=tuple(dict.fromkeys(note for result in (*results, *empty) for note in result.notes)),
    )


_ENDINGS = (
    Ending.EXITED,
    Ending.UNKNOWN,
    Ending.DISPATCHED,
    Ending.NOT_STARTED,
    Ending.NEVER_STARTED,
    Ending.SIGNALED,
    Ending.DEADLINE,
    Ending.CANCELLED,
)


def find_parts(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The tiers that lie in folders laid out as ``--out`` writes them: name → one folder per part."""
    parts: dict[str, list[Path]] = {}
    for folder in folders:
        for entry in sorted(folder.iterdir()):
            if entry.is_symlink() or not entry.is_dir():
                continue
            if any((entry / name).exists() for name in ("junit.xml", "result.json", "events.jsonl")):
                parts.setdefault(entry.name, []).append(entry)
    return parts


def recorded_outcome(name: str, folder: Path) -> Outcome:
    """How a tier ended, as the ``result.json`` beside its report says; unknown where there is none."""
    problems: list[str] = []
    facts = _read(folder / "result.json", lambda chunks: load_json_object(b"".join(chunks), limit=MAX_BYTES), problems)
    if facts is None:
        return Outcome(tier=name, ending=Ending.UNKNOWN, problems=tuple(problems))
    try:
        ending = Ending(str(facts.get("ending")))
    except ValueError:
        ending = Ending.UNKNOWN
        problems.append(f"result.json says an unknown ending: {facts.get('ending')!r}")
    code, seconds, reason = facts.get("exit_code"), facts.get("seconds"), facts.get("reason")
    stopped, started, peak = facts.get("stopped"), facts.get("started"), facts.get("peak_memory")
    return Outcome(
        tier=name,
        ending=ending,
        exit_code=code if type(code) is int else None,
        seconds=float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e7 else 0.0,
        started=float(started) if isinstance(started, (int, float)) and 0 <= started < 1e11 else None,
        peak_memory=peak if type(peak) is int and 0 < peak < 2**60 else None,
        stopped=float(stopped) if isinstance(stopped, (int, float)) and 0 <= stopped < 1e11 else None,
        reason=reason if isinstance(reason, str) else None,
        notes=_sentences(facts.get("notes")),
        stacks=facts["stacks"] if isinstance(facts.get("stacks"), str) else "",
        machine=_facts(facts.get("machine")),
        problems=(*problems, *_sentences(facts.get("problems"))),
    )


def _sentences(recorded: Any) -> tuple[str, ...]:
    """A recorded list of sentences, as far as it is one."""
    return tuple(str(entry)[:500] for entry in (recorded if isinstance(recorded, list) else ())[:20])


def _facts(recorded: Any) -> dict[str, str]:
    """A recorded machine, as far as it is one."""
    facts = recorded if isinstance(recorded, dict) else {}
    return {name[:50]: fact[:200] for name, fact in [*facts.items()][:20] if isinstance(fact, str)}


def recorded_plan(folder: Path) -> set[str]:
    """The tiers that the ``plan.json`` beside collected results said would run there; none without one."""
    plan = _read(folder / "plan.json", lambda chunks: load_json_object(b"".join(chunks), limit=MAX_BYTES), [])
    tiers = plan.get("tiers") if plan is not None else None
    if not isinstance(tiers, dict):
        return set()
    return {
        name
        for name, tier in tiers.items()
        if isinstance(tier, dict) and tier.get("run") is True and tier.get("where") == "here"
    }


def recorded_commit(folder: Path) -> str | None:
    """The commit that the ``result.json`` beside collected results says they are of."""
    facts = _read(folder / "result.json", lambda chunks: load_json_object(b"".join(chunks), limit=MAX_BYTES), [])
    sha = facts.get("sha") if facts is not None else None
    return sha if isinstance(sha, str) else None


def write_result(result: TierResult, folder: Path, *, sha: str | None) -> None:
    """Write the tier's ``result.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", result_document(result, sha=sha))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document so that a reader sees all of it or none. Surrogates in names survive as escapes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(document, allow_nan=False) + "\n", encoding="ascii")
    partial.replace(path)


# --- one file each -------------------------------------------------------------------------------------------------


def _read(path: Path, reader: Callable[[Iterator[bytes]], T], problems: list[str]) -> T | None:
    """What ``reader`` makes of the file, or None where there is none; what is wrong with it goes to ``problems``."""
    try:
        with _open_plain(path) as file:
            return reader(_chunks(file))
    except FileNotFoundError:
        return None
    except BrokenReportError as error:
        problems.append(f"{path.name}: {error}")
    except OSError as error:
        problems.append(f"{path.name}: cannot be read: {error.strerror or error}")
    return None


def _open_plain(path: Path) -> BinaryIO:
    """Open a regular file that is where its name says: no link into other folders, no pipe that never ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BrokenReportError("it is not a plain file")
    if status.st_size > MAX_BYTES:
        os.close(descriptor)
        raise BrokenReportError(f"it is larger than {MAX_BYTES // 2**20} MiB")
    return os.fdopen(descriptor, "rb")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        yield from lines
        if len(pending) > _LINE:  # no line of ours is that long: let the reader say so, and do not hoard it
            yield pending
            pending = b""
    if pending:
        yield pending


def _events(chunks: Iterator[bytes]) -> EventLog:
    return read_events(_lines(chunks))


def _coverage(plan: TierPlan, folder: Path, problems: list[str]) -> tuple[Coverage | None, str | None]:
    """Coverage, or why it is unknown: never zero for a file that is not there."""
    wrong: list[str] = []
    coverage = _read(folder / "coverage.json", lambda chunks: read_coverage(b"".join(chunks)), wrong)
    if coverage is not None:
        return coverage, None
    if wrong:
        problems += wrong
        return None, wrong[0]
    if plan.benchmark:
        return None, "not measured: it would disturb the benchmarks"
    if not plan.coverage and plan.python is not None:
        return None, "pytest-cov is not installed"
    return None, "it left no coverage report"


def _contexts(chunks: Iterator[bytes]) -> bytes:
    """The file as it is, once it is known to be one."""
    data = b"".join(chunks)
    try:
        read_contexts(load_json_object(data, limit=MAX_BYTES))
    except ValueError as error:
        raise BrokenReportError(str(error)) from None
    return data


def _benchmarks(plan: TierPlan, folder: Path, problems: list[str]) -> BenchmarkReport | None:
    wrong: list[str] = []
    report = _read(folder / "benchmark.json", lambda chunks: read_benchmarks(b"".join(chunks)), wrong)
    if plan.benchmark:
        if wrong:
            problems += wrong
        elif report is None and plan.python is not None and plan.python.benchmark is not None:
            problems.append("it left no benchmark.json")
    return report


def _as_at_the_stop(test: TestResult, log: EventLog, outcome: Outcome) -> TestResult:
    """A test our own stop made fail was running, not failing: its worker was killed, its teardown interrupted."""
    if outcome.stopped is None or not test.outcome.bad or test.outcome is TestOutcome.UNFINISHED:
        return test
    failed_at = log.failed_at.get(test.node_id)
    if failed_at is None or failed_at < outcome.stopped:
        return test
    seconds = max(0.0, outcome.stopped - test.started) if test.started is not None else test.seconds
    return structs.replace(test, outcome=TestOutcome.UNFINISHED, seconds=seconds, message=None)


def _synthesise(folder: Path, name: str, tests: tuple[TestResult, ...], outcome: Outcome) -> None:
    """Keep what pytest wrote aside, and put a report with every test that is known in its place."""
    report = folder / "junit.xml"
    if report.exists():
        report.replace(folder / "junit.pytest.xml")
    report.write_bytes(write_junit(tests, name=name, seconds=outcome.seconds))


def _relative_to(root: Path, tests: tuple[TestResult, ...]) -> tuple[TestResult, ...]:
    """The files of failures relative to the root, as annotations need them; what is outside is nobody's to annotate."""
    if not any(test.file is not None and test.file.startswith("/") for test in tests):
        return tests
    return tuple(_relative(test, root) for test in tests)


def _relative(test: TestResult, root: Path) -> TestResult:
    if test.file is None or not test.file.startswith("/"):
        return test
    inside = Path(os.path.relpath(test.file, root)).as_posix()
    return (
        structs.replace(test, file=None, line=None) if inside.startswith("../") else structs.replace(test, file=inside)
    )
