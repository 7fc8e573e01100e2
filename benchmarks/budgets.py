"""How well a budget holds, against the usual means: ``python benchmarks/budgets.py`` writes ``benchmarks/budgets.md``.

Every way to overrun of ``tests/overruns`` runs with a real pytest, serially and under xdist, four times: under this
project's ``supervise``, under ``timeout -k 2`` (coreutils), under pytest-timeout's ``--session-timeout``, and as a step
of a GitHub job with ``timeout-minutes``: INT to the step's bash alone, TERM 7.5 s later, KILL 2.5 s later still. What
others leave running is found, and ended, by a ``supervise`` around them. Takes about 15 minutes on two idle cores, 30
on busy ones.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.tools.process import Containment, supervise  # noqa: E402
from orchestrator.words.results import Ending  # noqa: E402
from tests.overruns.culprits import CULPRITS, Culprit  # noqa: E402
from tests.overruns.harness import observe, pytest_command, suite_environment, write_suite  # noqa: E402

TABLE = Path(__file__).with_suffix(".md")
PROMISE = 2.0

# Seconds after the budget for which we look on before a peer's run counts as never stopped.
PATIENCE = {"timeout -k 2": 4.0, "--session-timeout": 4.0, "timeout-minutes": 11.5}

GITHUB = """
import signal, subprocess, sys
entry = subprocess.Popen(["bash", "-e", sys.argv[2]], start_new_session=True)
for seconds, number in ((float(sys.argv[1]), signal.SIGINT), (7.5, signal.SIGTERM), (2.5, signal.SIGKILL)):
    try:
        sys.exit(abs(entry.wait(seconds)))
    except subprocess.TimeoutExpired:
        entry.send_signal(number)
sys.exit(abs(entry.wait()))
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one means made of one culprit."""

    culprit: Culprit
    workers: int
    overshoot: float | None  # seconds from the budget to the end of the last process; None: it ended by itself
    stopped: bool  # False: it was still running when we stopped looking
    left: int  # processes that outlived it
    kept: int  # of the fine tests that ran, those with a result to read
    named: bool  # the test, or the function, that hung

    @property
    def held(self) -> bool:
        """Whether the promise was kept: all gone within two seconds of the budget."""
        return self.stopped and not self.left and (self.overshoot is None or self.overshoot <= PROMISE)


def ours(culprit: Culprit, workers: int, budget: float, directory: Path) -> Run:
    """One run under ``supervise``, without a cgroup, as on GitHub's hosted runners."""
    seen = observe(culprit, directory, workers=workers, deadline=budget, containment=Containment.SUBREAPER)
    collecting = any(file == "test_suite.py" for _, file in seen.events.collecting)
    crashed = any("test_culprit" in (crash.node_id or "") for crash in seen.events.crashes)
    in_stacks = bool(culprit.frame) and culprit.frame in seen.outcome.stacks
    return Run(
        culprit=culprit,
        workers=workers,
        overshoot=seen.wall - budget if seen.outcome.ending is Ending.DEADLINE else None,
        stopped=True,
        left=len(seen.alive),
        kept=sum(name.startswith("test_fine") for name in seen.finished),
        named="test_culprit" in seen.running or in_stacks or collecting or crashed,
    )


def peer(means: str, culprit: Culprit, workers: int, budget: float, directory: Path) -> Run:
    """One run under another means, inside a ``supervise`` that waits longer and counts what is left."""
    suite = write_suite(culprit, directory)
    junit = directory / "junit.xml"
    pytest = [*pytest_command(culprit, workers), f"--junitxml={junit}"]
    if means == "timeout -k 2":
        command = ["timeout", "-k", "2", f"{budget}", *pytest]
    elif means == "--session-timeout":
        # In a shell that waits for it, as a step's script is.
        alone = [*pytest, "-p", "pytest_timeout", f"--session-timeout={budget}"]
        command = ["sh", "-c", '"$@"; exit $?', "sh", *alone]
    else:
        script = directory / "step.sh"
        script.write_text(" ".join(pytest) + "\n")
        command = [sys.executable, "-c", GITHUB, str(budget), str(script)]
    log = directory / "output.log"
    outcome = supervise(
        command,
        cwd=suite,
        env=suite_environment(directory, "-"),
        deadline=budget + PATIENCE[means],
        log=log,
        log_limit=1 << 20,
        containment=Containment.SUBREAPER,
    )
    text = log.read_text(errors="replace") + (junit.read_text(errors="replace") if junit.exists() else "")
    stopped = outcome.ending in (Ending.EXITED, Ending.SIGNALED)
    late = outcome.seconds - budget
    return Run(
        culprit=culprit,
        workers=workers,
        overshoot=late if late > 0 else None,
        stopped=stopped,
        left=len(outcome.leftovers),
        kept=fine_tests(junit),
        named="test_culprit" in text or (bool(culprit.frame) and culprit.frame in text),
    )


def fine_tests(junit: Path) -> int:
    """How many of the fine tests a JUnit report shows as passed; 0 where there is no report."""
    try:
        cases = ET.parse(junit).iter("testcase")
    except (OSError, ET.ParseError):
        return 0
    return sum(case.get("name", "").startswith("test_fine") and len(case) == 0 for case in cases)


def budgets() -> dict[int, float]:
    """Seconds in which pytest certainly reaches a culprit on this machine, now, by number of workers."""
    found = {}
    for workers in (0, 2):
        with tempfile.TemporaryDirectory() as name:
            suite = write_suite(Culprit(name="none"), Path(name))
            began = time.monotonic()
            environment = suite_environment(Path(name), "-")
            command = pytest_command(Culprit(name="none"), workers)
            subprocess.run(command, cwd=suite, env=environment, check=True, stdout=subprocess.DEVNULL)
            found[workers] = round(max(2.0, 3 * (time.monotonic() - began)), 1)
    return found


def measure(
    means: str,
    run: Callable[[Culprit, int, float, Path], Run],
    culprits: Sequence[Culprit],
    *,
    jobs: int,
    within: dict[int, float],
    repeats: int = 1,
) -> list[Run]:
    """Every culprit, serially and under xdist, ``jobs`` at a time."""

    def one(case: tuple[Culprit, int]) -> Run:
        culprit, workers = case
        directory = Path(tempfile.mkdtemp(prefix="overrun-"))
        try:
            result = run(culprit, workers, within[workers] + culprit.slow_start, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        print(f"{means}: {culprit.name}, {workers} workers: {cell(result)}", file=sys.stderr, flush=True)
        return result

    cases = [(culprit, workers) for _ in range(repeats) for culprit in culprits for workers in (0, 2)]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, cases))


def cell(run: Run) -> str:
    """What one run comes to, for a table."""
    if not run.stopped:
        text = "never"
    elif run.overshoot is None:
        text = "ended by itself"
    else:
        text = f"{run.overshoot:.1f} s"
    return text + (f", left {run.left}" if run.left else "")


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values are (nearest rank)."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summary(means: str, runs: Sequence[Run]) -> str:
    """One line of the first table."""
    late = [run.overshoot for run in runs if run.overshoot is not None and run.stopped]
    times = [f"{statistics.median(late):.2f}", f"{quantile(late, 0.99):.2f}", f"{max(late):.2f}"] if late else ["–"] * 3
    total = sum(run.culprit.finished for run in runs)
    shares = [
        f"{sum(run.held for run in runs)} of {len(runs)}",
        str(sum(not run.stopped for run in runs)),
        str(sum(run.left > 0 for run in runs)),
        f"{sum(min(run.kept, run.culprit.finished) for run in runs)} of {total}",
        f"{sum(run.named for run in runs)} of {len(runs)}",
    ]
    return "| " + " | ".join([means, *times, *shares]) + " |"


def render(results: dict[str, list[Run]], within: dict[int, float]) -> str:
    """The whole page."""
    names = list(results)
    lines = [
        "# Budgets that hold",
        "",
        f"Written by `python benchmarks/budgets.py` on {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d},"
        f" {platform.system()} {platform.release()}, {len(os.sched_getaffinity(0))} CPUs shared with other work,"
        f" Python {platform.python_version()}. Budgets {within[0]} s (serial) and {within[2]} s (xdist, two workers),"
        " more where torch is imported.",
        "",
        "Overshoot is the time from the budget to the end of the last process, in seconds, of the runs that were"
        f" stopped at all. *Held*: everything gone within {PROMISE:.0f} s. *Never*: still running"
        f" {PATIENCE['timeout -k 2']:.0f} s after the budget ({PATIENCE['timeout-minutes']:.1f} s for"
        " `timeout-minutes`). *Left*: the command had ended and processes of it had not. *Kept*: of the tests that had"
        " passed before the stop, those with a result in a report (ours: the event stream; the others: JUnit)."
        " *Named*: the report or the output says which test, or which function, hung.",
        "",
        "| | p50 | p99 | max | held | never | left | kept | named |",
        "|---|---|---|---|---|---|---|---|---|",
        *(summary(name, runs) for name, runs in results.items()),
        "",
        "Row by row, overshoot and what was left:",
        "",
        "| way to overrun | " + " | ".join(f"{name}" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for first in results[names[0]]:
        key = (first.culprit.name, first.workers)
        cells = [
            " / ".join(cell(run) for run in results[name] if (run.culprit.name, run.workers) == key) for name in names
        ]
        line = f"| {first.culprit.name}{', xdist' if first.workers else ''} | " + " | ".join(cells) + " |"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines) + "\n"


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", help="only these ways to overrun, separated by commas")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each row under supervise")
    parser.add_argument("--jobs", type=int, default=4, help="runs at a time under the other means, which mostly wait")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    wanted = set(options.rows.split(",")) if options.rows else None
    culprits = [
        culprit
        for culprit in CULPRITS
        if (wanted is None or culprit.name in wanted) and all(importlib.util.find_spec(name) for name in culprit.needs)
    ]
    within = budgets()
    results = {"mltiers": measure("mltiers", ours, culprits, jobs=1, within=within, repeats=options.repeats)}
    for means in PATIENCE:

        def run(culprit: Culprit, workers: int, budget: float, directory: Path, means: str = means) -> Run:
            return peer(means, culprit, workers, budget, directory)

        results[means] = measure(means, run, culprits, jobs=options.jobs, within=within)
    options.out.write_text(render(results, within))
    print(options.out.read_text() if options.rows else summary("mltiers", results["mltiers"]))


if __name__ == "__main__":
    main()
