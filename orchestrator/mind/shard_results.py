"""One result of the parts of a tier that ran apart. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from orchestrator.mind.readers.comparison import merge_comparisons
from orchestrator.mind.readers.coverage import combine
from orchestrator.mind.render.words import plural
from orchestrator.mind.shards import incomplete
from orchestrator.words.results import Ending, GpuUse, TestResult, TierResult


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
        details=tuple(dict.fromkeys(detail for result in (*results, *empty) for detail in result.details)),
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
