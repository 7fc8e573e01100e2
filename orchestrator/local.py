"""Runs the plan's tiers that belong here: one supervised pytest each, inside its budget, with a line of progress.

Tiers may overlap only where the machine has cores for both; benchmarks run alone. A tier whose needs did not pass is
not started.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.collect import TIER_FILES, collect_run
from orchestrator.environment import Environment
from orchestrator.errors import MltiersError, UsageError
from orchestrator.judge import judge_tier
from orchestrator.model import Ending, Outcome, Plan, TierPlan, TierResult, TierVerdict, Verdict
from orchestrator.process import Cancellation, ProcessOutcome, supervise
from orchestrator.progress import Progress

# How the plugin is asked for what it does (plugin/src/pytest_mltiers/__init__.py); without them it does nothing.
RUN_FILES = ("plan.json", "verdict.json", "comment.md", "report.html")
EVENTS_VARIABLE = "MLTIERS_EVENTS"
CHECKPOINT_VARIABLE = "MLTIERS_CHECKPOINT"
PER_TEST_VARIABLE = "MLTIERS_PER_TEST"
GPUS_VARIABLE = "MLTIERS_GPUS"

CHECKPOINT = 4.0  # seconds between copies of what coverage has measured: a stop loses at most five
_SALVAGE = {Ending.DEADLINE: 20.0, Ending.CANCELLED: 2.0}  # seconds to read them; a cancelled job has few left
HERE = Path(__file__).resolve().parent
_GOOD = (Verdict.PASSED, Verdict.FLAKY)


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where and with what tiers run here."""

    root: Path  # the configuration's folder: pytest's working directory
    out: Path  # absolute
    environment: Environment
    cpus: int
    cancel: Cancellation


def plugin_folder() -> Path:
    """The folder that holds ``pytest_mltiers`` and nothing else that could be imported.

    Installed from a wheel it lies inside our package; in a checkout it is the plugin project's source folder.
    """
    carried = HERE / "_plugin"
    return carried if carried.is_dir() else HERE.parent / "plugin" / "src"


def run_here(plan: Plan, place: Workplace, progress: Progress) -> dict[str, TierResult]:
    """Run every tier of the plan that runs here, and collect each as it ends. Never raises for what tests do."""
    waiting = {tier.name: tier for tier in plan.tiers if tier.run and tier.where == "here"}
    running: dict[str, TierPlan] = {}
    verdicts: dict[str, TierVerdict] = {}
    finished: queue.SimpleQueue[Outcome | Exception] = queue.SimpleQueue()

    def settle(tier: TierPlan, outcome: Outcome) -> None:
        result = collect_run(tier, outcome, place.out / tier.name, root=place.root, sha=plan.event.sha)
        verdicts[tier.name] = judge_tier(tier, result)
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
            outcome = finished.get()
            if isinstance(outcome, Exception):
                place.cancel.set("a defect of mltiers")  # what else is running must not outlive us
                raise outcome
            settle(running.pop(outcome.tier), outcome)
    return {name: verdict.result for name, verdict in verdicts.items() if verdict.result is not None}


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
            reason = f"could not be run: {error}"
            finished.put(Outcome(tier=tier.name, ending=Ending.NOT_STARTED, reason=reason, problems=(str(error),)))
        except Exception as error:  # noqa: BLE001 -- a defect of ours must not leave the run waiting for ever
            finished.put(error)

    return work


def run_tier(tier: TierPlan, place: Workplace, progress: Progress) -> Outcome:
    """Run one tier to its end, its budget or a cancellation. Raises InfrastructureError where no process can be."""
    folder = place.out / tier.name
    events = folder / "events.jsonl"
    with progress.following(tier.name, events):
        done = supervise(
            tier.command,
            cwd=place.root,
            env=tier_environment(tier, place),
            deadline=tier.budget,
            cancel=place.cancel,
            log=folder / "output.log",
            stacks=folder / "stacks",
            py_spy=_py_spy(tier, place.environment),
        )
    outcome = _outcome(tier, done)
    if tier.coverage and outcome.ending in _SALVAGE and not (folder / "coverage.json").exists():
        salvaged = _salvage_coverage(tier, place, folder, timeout=_SALVAGE[outcome.ending])
        outcome = replace(outcome, notes=(*outcome.notes, salvaged))
    return outcome


def _salvage_coverage(tier: TierPlan, place: Workplace, folder: Path, *, timeout: float) -> str:
    """Make coverage.json of what the plugin had put aside when the tier was stopped. Returns what to say about it."""
    parts = [str(part) for part in folder.glob(".coverage*")]
    data = str(folder / ".coverage")
    coverage = [tier.command[0], "-m", "coverage"]
    steps = (
        [*coverage, "combine", "--keep", f"--data-file={data}", *parts],
        [*coverage, "json", f"--data-file={data}", "-o", str(folder / "coverage.json")],
    )
    until = time.monotonic() + timeout
    for step in steps if parts else ():
        done = supervise(
            step, cwd=place.root, env=tier_environment(tier, place), deadline=max(0.1, until - time.monotonic())
        )
        if done.exit_code != 0:
            break
    else:
        if parts:
            return f"coverage is of up to {CHECKPOINT + 1:g} s before the stop"
    return "its coverage was lost with the stop"


def tier_environment(tier: TierPlan, place: Workplace) -> dict[str, str]:
    """What the tests' processes get: the job's environment without its secrets, the tier's own, and ours."""
    folder = place.out / tier.name
    env = place.environment.for_tests(tier.env)
    env[EVENTS_VARIABLE] = str(folder / "events.jsonl")
    if tier.coverage:
        env[CHECKPOINT_VARIABLE] = f"{CHECKPOINT:g}"
    if tier.per_test is not None:
        env[PER_TEST_VARIABLE] = f"{tier.per_test:g}"
    if tier.gpus:
        env[GPUS_VARIABLE] = str(tier.gpus)
    env["COVERAGE_FILE"] = str(folder / ".coverage")
    if tier.python is None or tier.python.plugin is None:
        # Found through PYTHONPATH, so that xdist's workers find it too; a copy of the user's own comes first.
        inherited = env.get("PYTHONPATH")
        env["PYTHONPATH"] = f"{plugin_folder()}:{inherited}" if inherited else str(plugin_folder())
    return env


@contextlib.contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Make the output folder, and keep other runs out of it: their files would be taken for ours.

    Raises UsageError where there is one already, or where it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not out.exists():
                out.mkdir(parents=True)
                (out / ".gitignore").write_text("*\n")
            lock = stack.enter_context((out / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--out: another `mltiers run` is writing to {out}", remedy="wait for it, or give another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                raise _unwritable(out, error) from None
        yield


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(f"--out: {out} cannot be written: {error.strerror or error}", remedy="give a folder that can be")


def prepare_out(out: Path, tiers: Sequence[str], *, everything: bool) -> None:
    """The output folder with a folder for each of these tiers, and nothing of an earlier run: yesterday's report must
    not be today's evidence. ``everything``: nor that of tiers that do not run today; otherwise those are left alone.

    Raises UsageError where it cannot be written.
    """
    try:
        for name in RUN_FILES:
            _remove(out / name)
        for name in tiers:
            (out / name).mkdir(parents=True, exist_ok=True)
        for folder in out.iterdir():
            if folder.name in tiers or (everything and (folder / "result.json").is_file()):
                _clear(folder)
    except OSError as error:
        raise _unwritable(out, error) from None


def _clear(folder: Path) -> None:
    for name in TIER_FILES:
        _remove(folder / name)
    for data in folder.glob(".coverage*"):
        _remove(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    )
