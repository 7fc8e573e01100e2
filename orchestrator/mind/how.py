"""How a tier runs here: workers, threads, command line and environment, and what its Python lacks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.mind.config import Config, Tier
from orchestrator.mind.makespan import candidates
from orchestrator.mind.predict import Conditions
from orchestrator.mind.preload import said, warmth
from orchestrator.mind.records import Record
from orchestrator.mind.tracing import VARIABLE as CORE_VARIABLE
from orchestrator.mind.tracing import Measuring, core
from orchestrator.mind.workers import choice_of, fitting, is_warm, on_devices
from orchestrator.words.plan import PythonFacts, Suite, TierPlan, Warmth, WorkersChoice

PLUGIN = "pytest_mltiers"
# Many short visits tell more than few long ones: what a round adds to the rounds before it is little. The same data on
# both sides (a seed of the day would give each its own), and a file that is broken on one side breaks nothing else.
BY_TURNS = (
    "--benchmark-max-time=0.02",
    "--benchmark-min-rounds=3",
    "--continue-on-collection-errors",
    *("-p", "no:randomly"),
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Machine(Struct, frozen=True, kw_only=True):
    """What the plan may use here."""

    cpus: int  # effective: after affinity and the container's quota
    variables: Mapping[str, str]  # the environment the tests inherit
    suites: Mapping[str, Suite] = field(default_factory=dict)  # by tier, where workers can be forked
    fingerprint: Mapping[str, str] = field(default_factory=dict)  # what durations depend on
    measuring: Measuring = field(default_factory=Measuring)  # what the project asks of coverage.py
    memory: int | None = None  # bytes; None: unknown, and no limit to the number of workers


def how_here(
    planned: TierPlan,
    tier: Tier,
    config: Config,
    python: PythonFacts,
    machine: Machine,
    records: Sequence[Record],
    *,
    out: str,
) -> TierPlan:
    """How the tier runs here: workers, command line, environment, and what its Python lacks."""
    notes = list(planned.notes)
    if python.pytest is None:
        notes.append(f"{python.executable} has no pytest: {install_line(python)}")
    measured = not planned.benchmark and python.cov is not None
    planned = replace(planned, coverage=measured)
    processes = _processes(planned, tier, python, machine, records)
    workers = processes.count
    planned = replace(planned, choice=processes.choice)
    notes += processes.notes
    details = list(processes.details)
    if not (planned.benchmark or measured):
        notes.append("coverage is unknown: pytest-cov is not installed")
    env = dict(tier.env)
    if measured:
        inherited = {**machine.variables, **env}
        chosen = core(python, machine.measuring, contexts=planned.measure, variables=inherited, args=tier.args)
        env |= {CORE_VARIABLE: chosen} if chosen is not None else {}
    if planned.benchmark and python.benchmark is None:
        notes.append("no benchmark can be read: pytest-benchmark is not installed")
    env |= _threads(workers, machine, env)
    warm = _warmth(tier, planned.name, python, machine, workers=workers)
    if warm is not None and (told := said(warm, workers=workers)) is not None:
        details.append(told)
    return replace(
        planned,
        workers=workers,
        warmth=warm,
        python=python,
        command=_command(planned, tier, config, python, workers=workers, measured=measured, out=out),
        command_by_turns=_command_by_turns(tier, python) if planned.against == "base" and python.benchmark else (),
        env=env,
        notes=tuple(notes),
        details=tuple(details),
    )


class _Processes(Struct, frozen=True, kw_only=True):
    """How many processes run the tier's tests, what that was chosen from, and what is to be said of it."""

    count: int
    choice: WorkersChoice | None = None
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def _processes(
    planned: TierPlan, tier: Tier, python: PythonFacts, machine: Machine, records: Sequence[Record]
) -> _Processes:
    if planned.benchmark:
        return _Processes(count=1)  # pytest-benchmark writes no file under xdist, and neighbours would disturb it
    wanted, details = machine.cpus, []
    if tier.workers != "auto":
        wanted = int(tier.workers)
    elif tier.gpus:
        suite = machine.suites.get(planned.name)
        wanted, why = on_devices(tier.gpus, records, cpus=machine.cpus, shared=suite is not None and suite.gpu_memory)
        details.append(why)
    if wanted > 1 and python.xdist is None:
        return _Processes(count=1, notes=("runs serially: pytest-xdist is not installed",))
    fit, crowded = fitting(records, machine.memory, wanted, torch=python.torch is not None)
    if tier.workers != "auto":
        return _Processes(count=wanted, notes=(f"{crowded}; {wanted} were asked for",) if crowded else ())
    notes = (crowded,) if crowded else ()
    if fit == 1 or planned.shards > 1 or tier.gpus:
        # What a part of a tier holds, and what waits for a device, earlier runs do not tell.
        return _Processes(count=fit, notes=notes, details=tuple(details))
    warm = {}
    for count in candidates(fit):
        warm[count] = is_warm(_warmth(tier, planned.name, python, machine, workers=count))
    conditions = Conditions(machine=machine.fingerprint, coverage=planned.coverage)
    choice = choice_of(records, conditions, warm)
    if choice is None:
        return _Processes(count=fit, notes=notes)
    return _Processes(count=choice.mode.workers, choice=choice, notes=notes, details=(choice.reason,))


def _threads(workers: int, machine: Machine, env: Mapping[str, str]) -> dict[str, str]:
    """N workers with N threads each would fight over N cores."""
    unset = [v for v in THREAD_VARIABLES if v not in env and v not in machine.variables] if workers > 1 else []
    return dict.fromkeys(unset, str(max(1, machine.cpus // max(1, workers))))


def _warmth(tier: Tier, name: str, python: PythonFacts, machine: Machine, *, workers: int) -> Warmth | None:
    return warmth(tier.warm, tier.preload, machine.suites.get(name), python, workers=workers)


def _command(
    planned: TierPlan, tier: Tier, config: Config, python: PythonFacts, *, workers: int, measured: bool, out: str
) -> tuple[str, ...]:
    folder = f"{out}/{planned.name}"
    command = _collecting(tier, python)
    if python.xdist is not None:
        # Said even for one process: the project's own addopts may ask for `-n auto`.
        command += ["-n", str(workers) if workers > 1 else "0"]
        if planned.choice is not None and planned.choice.mode.by_file:
            command += ["--dist", "loadfile"]
    benchmarked = planned.benchmark and python.benchmark is not None
    # Named, so that neither addopts (`-p no:xdist`) nor PYTEST_DISABLE_PLUGIN_AUTOLOAD takes their options away.
    there = {"xdist": python.xdist, "pytest_cov": python.cov, "benchmark": python.benchmark if benchmarked else None}
    for plugin in (PLUGIN, *(name for name, version in there.items() if version is not None)):
        command += ["-p", plugin]
    # xunit1 names each test's file, without which a node id can only be guessed.
    command += [f"--junitxml={folder}/junit.xml", "-o", "junit_family=xunit1"]
    if measured:
        command += [f"--cov={source}" for source in config.source]
        command += ["--cov-context=test"] if planned.measure else []
        # Thresholds are judged over all tiers together; one tier alone would fail the project's own fail_under.
        command += ["--cov-report=", f"--cov-report=json:{folder}/coverage.json", "--cov-fail-under=0"]
    elif python.cov is not None:
        command.append("--no-cov")
    if benchmarked:
        command.append(f"--benchmark-json={folder}/benchmark.json")
    return (*command, *tier.args)


def _collecting(tier: Tier, python: PythonFacts) -> list[str]:
    command = [python.executable, "-m", "pytest", *tier.paths]
    if tier.markers:
        command += ["-m", tier.markers]
    return command


def _command_by_turns(tier: Tier, python: PythonFacts) -> tuple[str, ...]:
    """One of the two pytests that run the tier's benchmarks in turns. They write no report."""
    command = [*_collecting(tier, python), "-p", "benchmark", "-p", f"{PLUGIN}.lockstep", *BY_TURNS]
    if python.xdist is not None:
        command += ["-p", "xdist", "-n", "0"]
    if python.cov is not None:
        command += ["-p", "pytest_cov", "--no-cov"]
    return (*command, *tier.args)


def install_line(python: PythonFacts) -> str:
    """The command that installs what a tier can use."""
    return f"`{python.executable} -m pip install pytest pytest-xdist pytest-cov`"
