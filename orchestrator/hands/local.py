"""Runs the plan's tiers that belong here: one supervised pytest each, inside its budget, with a line of progress.

Tiers may overlap only where the machine has cores for both; benchmarks run alone. A tier whose needs did not pass is
not started.
"""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.hands.base_tree import Base
from orchestrator.hands.collect import collect_run, write_json, write_result
from orchestrator.hands.pairs import Bench, compare_with_base
from orchestrator.hands.progress import Progress
from orchestrator.hands.results_folder import prepare_out
from orchestrator.hands.warm import became_of_it, imported_ahead, warm_command, with_plugin
from orchestrator.mind.changepoints import compare_with_history
from orchestrator.mind.judge import NOTHING_CHANGED, judge_tier
from orchestrator.mind.order import Order, order_document
from orchestrator.mind.readers.benchmark import read_benchmarks
from orchestrator.mind.readers.comparison import comparison_document
from orchestrator.mind.readers.document import BrokenReportError
from orchestrator.mind.records.contexts import contexts_document
from orchestrator.mind.records.history import History
from orchestrator.mind.shards import Timings
from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.contexts import ContextsError, read_coverage_contexts
from orchestrator.tools.kept import Kept
from orchestrator.tools.machine import fingerprint
from orchestrator.tools.plugin import plugin_folder
from orchestrator.tools.process import ProcessOutcome, supervise
from orchestrator.tools.salvage import CHECKPOINT_SECONDS, CHECKPOINT_VARIABLE, salvage_coverage
from orchestrator.words.environment import Environment
from orchestrator.words.errors import MltiersError
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending, Outcome, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

# How the plugin is asked for what it does (plugin/src/pytest_mltiers/__init__.py); without them it does nothing.
EVENTS_VARIABLE = "MLTIERS_EVENTS"
ORDER_VARIABLE = "MLTIERS_ORDER"
PER_TEST_VARIABLE = "MLTIERS_PER_TEST"
RETRIES_VARIABLE = "MLTIERS_RETRIES"
GPUS_VARIABLE = "MLTIERS_GPUS"
SHARD_VARIABLE = "MLTIERS_SHARD"
TIMINGS_VARIABLE = "MLTIERS_TIMINGS"

_PATIENCE = {Ending.DEADLINE: 20.0, Ending.CANCELLED: 2.0}  # seconds for lost coverage: a cancelled job has few left
_NO_BASE = Base(absent="there is no base to compare with")
_STARTED = 0.1  # seconds in which a tier's processes are started, which shall have the interpreter for itself
_GOOD = (Verdict.PASSED, Verdict.FLAKY)


class Workplace(Struct, frozen=True, kw_only=True):
    """Where and with what tiers run here."""

    root: Path  # the configuration's folder: pytest's working directory
    out: Path  # absolute
    environment: Environment
    cpus: int
    cancel: Cancellation
    source: tuple[str, ...] = (".",)  # the project's own code
    history: History = field(default_factory=History)
    base: Base = _NO_BASE
    timings: Mapping[str, Timings] = field(default_factory=dict)  # by tier: what its shard is split by
    orders: Mapping[str, Order] = field(default_factory=dict)  # by tier
    changed: Mapping[str, frozenset[int]] | None = field(default_factory=lambda: NOTHING_CHANGED)  # `judge.measurable`
    kept: Kept | None = None  # the process that warm tiers are forked from


def run_here(
    plan: Plan, place: Workplace, progress: Progress, meanwhile: Callable[[], object] = lambda: None
) -> dict[str, TierResult]:
    """Run every tier of the plan that runs here, and collect each as it ends. Never raises for what tests do.

    ``meanwhile`` is called once, while they run.
    """
    waiting = {tier.name: tier for tier in plan.tiers if tier.run and tier.where == "here"}
    running: dict[str, TierPlan] = {}
    verdicts: dict[str, TierVerdict] = {}
    finished: queue.SimpleQueue[Outcome | Exception] = queue.SimpleQueue()

    def settle(tier: TierPlan, outcome: Outcome) -> None:
        outcome = _with_contexts(tier, outcome, place, sha=plan.event.sha)
        folder, stream = place.out / tier.name, progress.streams.pop(tier.name, None)
        result = collect_run(tier, outcome, folder, root=place.root, sha=plan.event.sha, stream=stream)
        result = _with_history(tier, result, place, sha=plan.event.sha)
        verdicts[tier.name] = judge_tier(tier, result, changed=place.changed)
        progress.ended(verdicts[tier.name])

    prepare_out(place.out, list(waiting), everything=not plan.partial)
    while waiting or running:
        for tier in startable(waiting, running, place.cpus):
            del waiting[tier.name]
            unmet = [need for need in tier.needs if need in verdicts and verdicts[need].verdict not in _GOOD]
            if unmet or place.cancel.is_set:
                settle(tier, _not_started(tier, unmet))
                continue
            running[tier.name] = tier
            progress.started(tier)
            work = _into(finished, tier, place, progress)
            threading.Thread(target=work, name=f"tier {tier.name}", daemon=True).start()
        if running:
            try:
                outcome = finished.get(timeout=_STARTED)
            except queue.Empty:
                meanwhile()
                outcome = finished.get()
            if isinstance(outcome, Exception):
                place.cancel.set("a defect of mltiers")  # what else is running must not outlive us
                raise outcome
            settle(running.pop(outcome.tier), outcome)
    return {name: verdict.result for name, verdict in verdicts.items() if verdict.result is not None}


def _with_contexts(tier: TierPlan, outcome: Outcome, place: Workplace, *, sha: str | None) -> Outcome:
    """Write which lines each test of a measuring tier executed, where it ran to its end."""
    if not (tier.measure and tier.coverage) or outcome.ending is not Ending.EXITED:
        return outcome
    folder = place.out / tier.name
    try:
        contexts = read_coverage_contexts(folder / ".coverage", root=place.root)
        write_json(folder / "contexts.json", contexts_document(replace(contexts, sha=sha)))
    except (ContextsError, OSError) as error:
        return replace(outcome, notes=(*outcome.notes, f"which tests execute which lines is unknown: {error}"))
    return outcome


def _with_history(tier: TierPlan, result: TierResult, place: Workplace, *, sha: str | None) -> TierResult:
    """The result with what its benchmarks are against earlier commits', where that is asked for."""
    if tier.against != "history" or not result.benchmarks:
        return result
    known = place.history.of(tier.name)
    comparison = compare_with_history(result, known, gate=tier.gate)
    result = replace(result, comparison=comparison)
    try:
        write_json(place.out / tier.name / "comparison.json", comparison_document(comparison))
        write_result(result, place.out / tier.name, sha=sha)
    except OSError as error:
        result = replace(result, problems=(*result.problems, f"its results could not be written: {error}"))
    return result


def startable(waiting: Mapping[str, TierPlan], running: Mapping[str, TierPlan], cpus: int) -> list[TierPlan]:
    """The tiers to start now: needs settled, highest priority first, as long as there are cores left."""
    free = cpus - sum(_cores(tier, cpus) for tier in running.values())
    start: list[TierPlan] = []
    for tier in sorted(waiting.values(), key=lambda tier: -tier.priority):
        if any(need in waiting or need in running for need in tier.needs):
            continue
        if _cores(tier, cpus) <= free or (not running and not start):
            start.append(tier)
            free -= _cores(tier, cpus)
    return start


def _cores(tier: TierPlan, cpus: int) -> int:
    return cpus if tier.benchmark else min(tier.workers, cpus)


def _not_started(tier: TierPlan, unmet: list[str]) -> Outcome:
    if unmet:
        return Outcome(
            tier=tier.name, ending=Ending.NOT_STARTED, reason=f"needs {', '.join(unmet)}, which did not pass"
        )
    return Outcome(tier=tier.name, ending=Ending.CANCELLED, reason="the run was cancelled before it started")


def _into(
    finished: queue.SimpleQueue[Outcome | Exception], tier: TierPlan, place: Workplace, progress: Progress
) -> Callable[[], None]:
    def work() -> None:
        try:
            finished.put(run_tier(tier, place, progress))
        except (MltiersError, OSError) as error:
            # Where no process can be started, or no file written: evidence of nothing, never of a pass.
            said = error.line if isinstance(error, MltiersError) else str(error)
            reason = f"could not be run: {said}"
            finished.put(Outcome(tier=tier.name, ending=Ending.NOT_STARTED, reason=reason, problems=(reason,)))
        except Exception as error:  # noqa: BLE001 -- a defect of ours must not leave the run waiting for ever
            finished.put(error)

    return work


def run_tier(tier: TierPlan, place: Workplace, progress: Progress) -> Outcome:
    """Run one tier to its end, its budget or a cancellation. Raises InfrastructureError where no process can be."""
    folder = place.out / tier.name
    events = folder / "events.jsonl"
    if (timings := place.timings.get(tier.name)) is not None:
        write_json(folder / "timings.json", {"snapshot": timings.snapshot, "seconds": dict(timings.seconds or {})})
    if (order := place.orders.get(tier.name)) is not None:
        write_json(folder / "order.json", order_document(order))
    kept = place.kept if place.kept is not None and place.kept.is_for(tier.name) else None
    with progress.following(tier.name, events):
        done = supervise(
            warm_command(tier, folder, plugin_folder(), kept=kept is not None),
            cwd=place.root,
            env=tier_environment(tier, place),
            deadline=tier.budget,
            cancel=place.cancel,
            log=folder / "output.log",
            stacks=folder / "stacks",
            py_spy=_py_spy(tier, place.environment),
            kept=kept,
        )
    outcome = _outcome(tier, done)
    outcome = replace(outcome, details=became_of_it(tier, folder), ahead=imported_ahead(tier, folder))
    if tier.coverage and outcome.stopped is not None:
        env = tier_environment(tier, place)
        patience = _PATIENCE[outcome.ending]
        measured = salvage_coverage(
            tier.command[0], folder, cwd=place.root, env=env, stopped=outcome.stopped, patience=patience
        )
        if measured is not None:
            outcome = replace(outcome, notes=(*outcome.notes, f"coverage was {measured}"))
    if tier.command_by_turns and outcome.ending is Ending.EXITED and outcome.exit_code == 0:
        outcome = _compared(tier, outcome, place, progress)
    return outcome


def _compared(tier: TierPlan, outcome: Outcome, place: Workplace, progress: Progress) -> Outcome:
    """The outcome of a tier whose benchmarks ran well, after they were compared with the base's in the time left."""
    folder = place.out / tier.name
    try:
        measured = read_benchmarks((folder / "benchmark.json").read_bytes())
    except (OSError, BrokenReportError):
        return outcome  # collecting says so
    bench = Bench(
        tier=tier,
        root=Path(os.path.realpath(place.root)),
        source=place.source,
        env=place.environment.for_tests(tier.env),
        plugin=plugin_folder() if tier.python is None or tier.python.plugin is None else None,
        cancel=place.cancel,
        seed=secrets.randbelow(2**31),
        say=lambda where: progress.comparing(tier.name, where),
    )
    tests = [benchmark.name for benchmark in measured.benchmarks]
    comparison = compare_with_base(bench, place.base, tests=tests, seconds=tier.budget - outcome.seconds)
    write_json(folder / "comparison.json", comparison_document(comparison))
    outcome = replace(outcome, seconds=outcome.seconds + comparison.seconds)
    if place.cancel.is_set:
        outcome = replace(outcome, ending=Ending.CANCELLED, stopped=time.time())
    return outcome


def tier_environment(tier: TierPlan, place: Workplace) -> dict[str, str]:
    """What the tests' processes get: the job's environment without its secrets, the tier's own, and ours."""
    folder = place.out / tier.name
    env = place.environment.for_tests(tier.env)
    env[EVENTS_VARIABLE] = str(folder / "events.jsonl")
    if tier.coverage:
        env[CHECKPOINT_VARIABLE] = f"{CHECKPOINT_SECONDS:g}"
    if tier.retries:
        env[RETRIES_VARIABLE] = str(tier.retries)
    if tier.per_test is not None:
        env[PER_TEST_VARIABLE] = f"{tier.per_test:g}"
    if tier.gpus:
        env[GPUS_VARIABLE] = str(tier.gpus)
    if tier.name in place.orders:
        env[ORDER_VARIABLE] = str(folder / "order.json")
    if tier.shards > 1:
        env[SHARD_VARIABLE] = f"{tier.shard}/{tier.shards}"
        if tier.name in place.timings:
            env[TIMINGS_VARIABLE] = str(folder / "timings.json")
    env["COVERAGE_FILE"] = str(folder / ".coverage")
    return with_plugin(env, tier)


def _py_spy(tier: TierPlan, environment: Environment) -> Path | None:
    beside = Path(tier.command[0]).parent / "py-spy"
    if beside.is_file():
        return beside
    found = shutil.which("py-spy", path=environment.variables.get("PATH"))
    return Path(found) if found else None


def _outcome(tier: TierPlan, done: ProcessOutcome) -> Outcome:
    stopped = done.ending in (Ending.DEADLINE, Ending.CANCELLED)
    notes = []
    if done.leftovers:
        notes.append(f"left processes behind, which were stopped: {', '.join(done.leftovers)}")
    if not done.output_complete:
        notes.append(f"printed {done.output_bytes} bytes; output.log holds the first part")
    problems = [f"could not be stopped: {survivor}" for survivor in done.survivors]
    if done.reason is not None:
        problems.append(done.reason)
    return Outcome(
        tier=tier.name,
        ending=done.ending,
        exit_code=done.exit_code,
        seconds=done.seconds,
        started=done.started or time.time(),
        stopped=done.started + done.seconds - done.stop_seconds if stopped else None,
        reason=done.reason,
        problems=tuple(problems),
        notes=tuple(notes),
        output_tail=done.output_tail,
        stacks=done.stacks,
        machine=_machine(tier),
        peak_memory=done.peak_memory,
    )


def _machine(tier: TierPlan) -> dict[str, str]:
    """What durations and benchmarks depend on, as far as it is known before a test has used a GPU."""
    machine = fingerprint()
    if tier.python is not None:
        machine["python"] = tier.python.version
        if tier.python.torch is not None:
            machine["torch"] = tier.python.torch
    return machine
