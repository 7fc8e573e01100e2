"""Runs one culprit's suite under ``supervise`` and gathers what can be known about it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.mind.readers.events import EventLog, read_events
from orchestrator.tools.kept import Kept
from orchestrator.tools.process import Containment, ProcessOutcome, supervise
from orchestrator.words.plan import Keeping
from orchestrator.words.results import TestOutcome
from tests.overruns.culprits import Culprit

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugin" / "src"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one run left behind."""

    outcome: ProcessOutcome
    wall: float  # seconds that supervise took
    culprits: tuple[int, ...]  # pids that the suite's processes noted
    alive: tuple[str, ...]  # processes of the run that still exist
    events: EventLog

    @property
    def finished(self) -> set[str]:
        """Names of the tests that passed."""
        return {name_of(test.node_id) for test in self.events.tests if test.outcome is TestOutcome.PASSED}

    @property
    def running(self) -> set[str]:
        """Names of the tests that started and never ended, their teardown included."""
        return {name_of(node_id) for node_id in self.events.running}


def name_of(node_id: str) -> str:
    """``tests/test_x.py::test_y`` → ``test_y``."""
    return node_id.rpartition("::")[2]


def pytest_command(culprit: Culprit, workers: int, *, warm: Path | None = None) -> list[str]:
    """What runs the suite: only our plugin and xdist, since loading all that are installed here takes seconds.

    ``warm``: the fork server's order, and the file in which it says what it did; without it, the workers are plain.
    """
    xdist = ["-p", "xdist", "-n", str(workers)] if workers else []
    start = PLUGIN / "pytest_mltiers" / "warm" / "start.py"
    how = ["-m", "pytest"] if warm is None else [str(start), str(warm), "--"]
    return [sys.executable, *how, "-p", "pytest_mltiers", *xdist, *culprit.args]


def suite_environment(directory: Path, mark: str) -> dict[str, str]:
    """The environment of the suite's processes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MLTIERS", "COV"))}
    return {
        **kept,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(PLUGIN),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MLTIERS_STACKS": str(directory / "stacks"),
        "MLTIERS_EVENTS": str(directory / "events.jsonl"),
        "OVERRUN_EVENTS": str(directory / "events.jsonl"),
        "OVERRUN_PIDS": str(directory / "pids"),
        "OVERRUN_MARK": mark,
        "OVERRUN_RUNNER": str(os.getpid()),
    }


def write_suite(culprit: Culprit, directory: Path) -> Path:
    """Write the suite into a folder below ``directory``, and return that."""
    suite = directory / "suite"
    suite.mkdir()
    for name, text in culprit.files().items():
        (suite / name).write_text(text)
    (directory / "pids").touch()
    return suite


def observe(
    culprit: Culprit,
    directory: Path,
    *,
    workers: int,
    deadline: float,
    containment: Containment,
    py_spy: Path | None = None,
    warm: bool = False,
    kept: bool = False,
) -> Observed:
    """Run the culprit's suite for at most ``deadline`` seconds. ``warm``: in workers forked from the fork server;
    ``kept``: and that, or pytest without workers, from a process that is kept."""
    suite = write_suite(culprit, directory)
    mark = uuid.uuid4().hex
    env = suite_environment(directory, mark)
    if warm:
        (directory / "warm.json").write_text(json.dumps({"modules": ["ctypes"], "alone": not workers}))
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(keep(suite, env)) if kept else None
        began = time.monotonic()
        outcome = supervise(
            pytest_command(culprit, workers, warm=directory / "warm.json" if warm else None),
            cwd=suite,
            env=env,
            deadline=deadline,
            log=directory / "output.log",
            stacks=directory / "stacks",
            py_spy=py_spy,
            containment=containment,
            log_limit=1 << 20,
            kept=held,
        )
        wall = time.monotonic() - began
    pids = tuple(int(line) for line in (directory / "pids").read_text().split())
    return Observed(
        outcome=outcome,
        wall=wall,
        culprits=pids,
        alive=tuple(still_there(mark, pids, suite)),
        events=events_of(directory / "events.jsonl"),
    )


def keep(root: Path, env: dict[str, str], *modules: str) -> Kept:
    """A process that has imported ``modules`` and ctypes, started in ``root``."""
    wanted = ("ctypes", *modules)
    keeping = Keeping(python=sys.executable, env={}, modules=wanted, own=(), rewritten=(), tiers=frozenset())
    kept = Kept(sys.executable, root=root, variables=env, plugin=PLUGIN)
    kept.keep(keeping, env)
    return kept


def still_there(mark: str, pids: Sequence[int], suite: Path) -> list[str]:
    """Processes of the run that exist now: by the pids they noted, by the mark in their environment, and, as some wipe
    that, by the folder they run in. Zombies count: nobody would read their status."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ours = mark in (entry / "environ").read_text(errors="replace")
                ours = ours or int(entry.name) in pids
                ours = ours or (entry / "cwd").readlink().is_relative_to(suite)
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it has ended, or is not ours to look at
            if ours:
                found.append(stat)
    return found


def events_of(path: Path) -> EventLog:
    """The event stream, empty where pytest did not get that far."""
    if not path.exists():
        return EventLog()
    with path.open("rb") as file:
        return read_events(file)
