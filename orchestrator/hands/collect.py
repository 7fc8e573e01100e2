"""Reads what a tier left in its output folder into one ``TierResult``; whatever is wrong with it becomes a problem.

The same function reads a tier that just ran here, a shard's artifact and a stranger's upload, so everything in the
folder is untrusted: links and special files are refused, sizes are bounded, and nothing in a file ends us.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs
from msgspec.structs import replace

from orchestrator.hands.stream import Stream
from orchestrator.mind.order import schedule_note
from orchestrator.mind.readers.benchmark import BenchmarkReport, read_benchmarks
from orchestrator.mind.readers.comparison import read_comparison
from orchestrator.mind.readers.coverage import read_coverage
from orchestrator.mind.readers.document import BrokenReportError, load_json_object
from orchestrator.mind.readers.events import EventLog
from orchestrator.mind.readers.junit import read_junit
from orchestrator.mind.readers.junit_writer import write_junit
from orchestrator.mind.readers.merge import merge_tests
from orchestrator.mind.records.contexts import read_contexts
from orchestrator.mind.render.documents import result_document
from orchestrator.mind.workers import phases_of
from orchestrator.tools.evidence import MOST_BYTES, read_file
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import (
    Benchmark,
    Coverage,
    Ending,
    GpuUse,
    Outcome,
    Phases,
    ShardPart,
    TestOutcome,
    TestResult,
    TierResult,
)

_LONGEST = 500  # characters of a dotted name that may be a file's
_STOPPED = (Ending.DEADLINE, Ending.CANCELLED)


def collect_run(
    plan: TierPlan, outcome: Outcome, folder: Path, *, root: Path, sha: str | None, stream: Stream | None = None
) -> TierResult:
    """The result of a tier that just ran here. Writes what it owes: ``result.json``, a JUnit file. ``stream``: its
    events, as far as they were read while it ran.
    """
    result = collect_tier(plan, outcome, folder, root=root, stream=stream)
    gone = [path for path in plan.paths if not (root / path.partition("::")[0]).exists()]
    if gone and not result.tests:  # xdist's workers keep to themselves that pytest told them so
        result = replace(result, problems=(f"`paths` names what is not there: {', '.join(gone)}", *result.problems))
    try:
        if outcome.ending in _STOPPED and result.tests:
            _synthesise(folder, plan.name, result.tests, outcome)
        write_result(result, folder, sha=sha)
    except OSError as error:
        result = replace(result, problems=(*result.problems, f"its results could not be written: {error}"))
    return result


def collect_tier(
    plan: TierPlan, outcome: Outcome, folder: Path, *, root: Path, stream: Stream | None = None
) -> TierResult:
    """Everything known about one tier. Changes nothing, and never raises for what is in the folder."""
    problems = list(outcome.problems)
    junit = read_file(folder / "junit.xml", read_junit, problems)
    if junit is not None and outcome.ending is Ending.UNKNOWN and not outcome.seconds:
        outcome = replace(outcome, seconds=junit.seconds)  # it came without a result.json
    log = (stream or Stream(folder / "events.jsonl")).log(problems)
    stopped = outcome.ending in _STOPPED
    if stopped and log is not None:
        # pytest may have been writing its report when it was stopped; the stream has every test that ended before.
        tests, disagreements = merge_tests(None, log)
        tests = tuple(_as_at_the_stop(test, log, outcome) for test in tests)
    else:
        tests, disagreements = merge_tests(junit, log)
    if log is None:
        tests = _as_collected(root, tests)
    problems += disagreements
    part = log.part if log is not None else None
    outcome = _as_an_empty_shard(outcome, part)
    left = [f"tests that {plugin} retries were left to it" for plugin in (log.left_to if log is not None else ())]
    coverage, coverage_note = _coverage(plan, folder, problems)
    if coverage is None and outcome.ending is Ending.NOT_STARTED:
        coverage_note = "it was not run"
    contexts = read_file(folder / "contexts.json", _contexts, problems)
    benchmarks = _benchmarks(plan, folder, problems)
    comparison = read_file(folder / "comparison.json", lambda chunks: read_comparison(b"".join(chunks)), problems)
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
        details=outcome.details,
        random_seed=_seed(log),
    )
    note = schedule_note(result)
    return result if note is None or note in result.notes else replace(result, notes=(*result.notes, note))


def _phases(tests: Sequence[TestResult], log: EventLog | None, outcome: Outcome) -> Phases | None:
    """Where the seconds of a run went that came to its end by itself."""
    if log is None or outcome.ending is not Ending.EXITED:
        return None
    return phases_of(tests, log.sessions, started=outcome.started, seconds=outcome.seconds, ahead=outcome.ahead)


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


def _coverage(plan: TierPlan, folder: Path, problems: list[str]) -> tuple[Coverage | None, str | None]:
    """Coverage, or why it is unknown: never zero for a file that is not there."""
    wrong: list[str] = []
    coverage = read_file(folder / "coverage.json", lambda chunks: read_coverage(b"".join(chunks)), wrong)
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
        read_contexts(load_json_object(data, limit=MOST_BYTES))
    except ValueError as error:
        raise BrokenReportError(str(error)) from None
    return data


def _benchmarks(plan: TierPlan, folder: Path, problems: list[str]) -> BenchmarkReport | None:
    wrong: list[str] = []
    report = read_file(folder / "benchmark.json", lambda chunks: read_benchmarks(b"".join(chunks)), wrong)
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


def _as_collected(root: Path, tests: tuple[TestResult, ...]) -> tuple[TestResult, ...]:
    """The tests of a report that stands alone by their node ids, where the files of them are here.

    Without `junit_family=xunit1` such a report names no files: ``tests.test_a.TestB::test_c``.
    """
    known: dict[str, str] = {}

    def node_id(test: TestResult) -> str:
        dotted, colons, name = test.node_id.partition("::")
        if dotted not in known:
            known[dotted] = _collected_from(root, dotted)
        return known[dotted] + colons + name

    named = [(test, node_id(test)) for test in tests]
    if len({found for _, found in named}) < len(named):
        return tests
    return tuple(test if test.node_id == found else structs.replace(test, node_id=found) for test, found in named)


def _collected_from(root: Path, dotted: str) -> str:
    """``tests.test_a.TestB`` → ``tests/test_a.py::TestB``, or as it was where there is no such file."""
    names = dotted.split(".")
    if len(dotted) > _LONGEST or not all(map(str.isidentifier, names)):  # whoever wrote it may have written anything
        return dotted
    for length in range(len(names), 0, -1):
        file = "/".join(names[:length]) + ".py"
        with contextlib.suppress(OSError):  # too long for a file's name
            if (root / file).is_file():
                return "::".join((file, *names[length:]))
    return dotted


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
