"""How many workers a tier gets where nobody said: what earlier runs tell of it, and how many fit into memory. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.mind.makespan import Past, choose
from orchestrator.mind.predict import Conditions, differs, whole
from orchestrator.mind.readers.events import Session
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import estimates
from orchestrator.words.plan import Mode, TierPlan, Warmth, WorkersChoice
from orchestrator.words.results import Ending, Phases, TestOutcome, TestResult, TierResult

PLAIN_WORKER = 128 << 20
"""Bytes a worker is taken for before one was measured: pytest, coverage and a project's own modules."""
TORCH_WORKER = 512 << 20
"""And where torch is installed: importing it holds 200 to 400 MiB."""

SHARERS = 4
"""Processes for one device where tests share it: each has a CUDA context of its own there, half a GiB and up."""

CRASHED = "crashed while running"
"""What xdist says of the test in which a worker died."""

_RUNS = 20  # newest records that are looked at
_SAMPLES = 3  # newest durations of a test: enough for a middle, and quick to read for 50,000 tests


def phases_of(
    tests: Sequence[TestResult],
    sessions: Sequence[Session],
    *,
    started: float | None,
    seconds: float,
    ahead: float | None = None,
) -> Phases | None:
    """Where the seconds of a run went. ``started``: Unix seconds of its process's start; ``seconds``: that it took;
    ``ahead``: of imports, before, in the process that it was forked from.

    None: its stream does not say.
    """
    timed = [(test.worker or "main", test.started, test.seconds) for test in tests if test.started is not None]
    main = min((session.started for session in sessions if session.worker == "main"), default=None)
    if started is None or main is None or not timed:
        return None
    last_worker = max(session.started for session in sessions)
    first = min(began for _, began, _ in timed)
    last = max(began + took for _, began, took in timed)
    spans: dict[str, tuple[float, float]] = {}
    for worker, began, took in timed:
        low, high = spans.get(worker, (began, began))
        spans[worker] = (min(low, began), max(high, began + took))
    busy = sum(high - low for low, high in spans.values())
    idle = busy - sum(took for _, _, took in timed)
    return Phases(
        boot=round(max(0.0, main - started), 3),
        workers=round(max(0.0, last_worker - main), 3),
        collection=round(max(0.0, first - last_worker), 3),
        tests=round(last - first, 3),
        closing=round(max(0.0, started + seconds - last), 3),
        between=round(max(0.0, idle / len(timed)), 6),
        ahead=ahead,
    )


def mode_of(plan: TierPlan, result: TierResult) -> Mode:
    """How a tier was run."""
    return Mode(
        workers=result.workers,
        warm=is_warm(plan.warmth),
        by_file=result.workers > 1 and result.order is not None and result.order.endswith("by loadfile"),
    )


def is_warm(warmth: Warmth | None) -> bool:
    """Whether what can be imported ahead is. A reason: of an earlier mltiers, which then imported pytest alone."""
    return warmth is not None and warmth.warm and not warmth.reason


def choice_of(records: Sequence[Record], conditions: Conditions, warm: Mapping[int, bool]) -> WorkersChoice | None:
    """The best mode of those with the numbers of workers in ``warm`` (whether they would be forked), or None.

    ``records``: of the tier, newest first. ``conditions``: of this run, but for its workers. Whole files are kept
    together only where a run has shown that the project leaves the order of its tests to us.
    """
    if _crashed(records):
        return None  # a process that dies takes all that was to run in it along; xdist starts another worker
    like = [r for r in records[:_RUNS] if whole(r) and not r.fork and differs(r, conditions) is None]
    past = [_past(record.tier.plan, record.tier.result) for record in like if record.tier.result is not None]
    if not past:
        return None
    newest = like[0].tier.result
    tests = [test.node_id for test in newest.tests] if newest is not None else []
    known = {node: found.seconds for node, found in estimates(like[:_SAMPLES], samples=_SAMPLES, of=tests).items()}
    seconds = {node: known.get(node, 0.0) for node in tests}
    modes = [Mode(workers=count, warm=warm[count]) for count in sorted(warm)]
    told = [run.order for record in like if (run := record.tier.result) and run.workers > 1 and run.order is not None]
    ours = [order.startswith(("longest first", "file by file")) for order in told]
    if any(ours):
        modes += [Mode(workers=mode.workers, warm=mode.warm, by_file=True) for mode in modes if mode.workers > 1]
    usual = "longest first" if any(ours) or not ours else "in their own order"
    return choose(seconds, past, modes, usual=usual, complete=len(records) <= _RUNS)


def _crashed(records: Sequence[Record]) -> bool:
    """Whether a process of the newest run died in the middle of a test."""
    last = next((record.tier.result for record in records if record.tier.result is not None), None)
    if last is None:
        return False
    return last.ending is Ending.SIGNALED or any(
        test.outcome is TestOutcome.ERROR and CRASHED in (test.message or "") for test in last.tests
    )


def _past(plan: TierPlan, result: TierResult) -> Past:
    return Past(
        mode=mode_of(plan, result),
        seconds=result.seconds,
        tests=len(result.tests),
        work=sum(test.seconds for test in result.tests),
        phases=result.phases,
    )


def fitting(records: Sequence[Record], memory: int | None, wanted: int, *, torch: bool) -> tuple[int, str | None]:
    """How many of the workers that are wanted fit into so many bytes, and what is to be said where not all do.

    One process more is counted: xdist's controller. A worker is taken for the largest process of earlier runs, which is
    an upper bound: forked workers share most of it, and one of many runs fewer tests than one of a few.
    """
    peaks = [r.tier.result.peak_memory for r in records[:_RUNS] if r.tier.result is not None]
    measured = max((peak for peak in peaks if peak), default=None)
    floor = TORCH_WORKER if torch else PLAIN_WORKER
    each = measured or floor
    if memory is None or (wanted + 1) * each <= memory:
        return wanted, None
    count = max(1, memory // each - 1)
    if count >= wanted:
        return wanted, None
    source = "held at most" if measured else "is taken to hold"
    return count, f"{_mib(memory)} of memory: no more than {count} of {wanted} workers fit (one {source} {_mib(each)})"


def on_devices(gpus: int, records: Sequence[Record], *, cpus: int, shared: bool) -> tuple[int, str]:
    """How many processes a tier with so many GPUs gets, and why. ``shared``: whether tests have ``gpu_memory`` marks.

    A test without one has its device to itself (the plugin's ``gpus``): a second process for that device would import
    and make a CUDA context only to wait.
    """
    count = gpus * (SHARERS if shared else 1)
    why = "no test has a `gpu_memory` mark, so each has one to itself"
    if shared:
        why = f"tests with `gpu_memory` marks share {'it' if gpus == 1 else 'them'}"
    if count == 1 and _crashed(records):
        # xdist starts another for one that dies; one process alone takes all that was to run in it along.
        count, why = 2, "in the last run one died in the middle of a test"
    count = min(count, cpus)
    return count, f"{count} process{'es' if count > 1 else ''} for {gpus} GPU{'s' if gpus > 1 else ''}: {why}"


def _mib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
