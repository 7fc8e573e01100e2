"""Runs real pytest sessions on small suites and reads the event stream they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
Event = dict[str, Any]


@dataclass(frozen=True)
class SuiteRun:
    """A session that is over: its exit code, what it printed, and every line of its stream."""

    code: int
    out: str
    events: list[Event]
    folder: Path

    def of(self, kind: str, **fields: object) -> list[Event]:
        """The events of one kind that have these fields."""
        return [e for e in self.events if e["event"] == kind and all(e.get(k) == v for k, v in fields.items())]

    def phases(self, name: str) -> list[tuple[int, str, str]]:
        """(attempt, phase, outcome) of the test whose node id ends with ``::name``, as streamed."""
        found = [e for e in self.of("phase") if e["nodeid"].endswith(f"::{name}")]
        return [(e["attempt"], e["phase"], e["outcome"]) for e in found]


RunSuite = Callable[..., SuiteRun]


@pytest.fixture
def run_suite(tmp_path: Path) -> RunSuite:
    """Writes the files of a suite and runs pytest on it, in a process of its own and without the outer environment."""
    return runner(tmp_path)


@pytest.fixture(scope="session")
def run_suite_once(tmp_path_factory: pytest.TempPathFactory) -> RunSuite:
    """The same for a suite that several tests look at."""
    return runner(tmp_path_factory.mktemp("once"))


@pytest.fixture(scope="session")
def run_suite_in() -> Callable[[Path], RunSuite]:
    """The same for a suite that is run more than once, each time in a folder of its own."""
    return runner


def runner(folder: Path) -> RunSuite:
    """What the fixtures hand out."""

    def run(
        files: Mapping[str, str] | str,
        *args: str,
        stream: str | None = "",
        plugin: bool = True,
        variables: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> SuiteRun:
        suite = folder / "suite"
        suite.mkdir(exist_ok=True)
        (suite / "pytest.ini").touch()
        for name, text in ({"test_it.py": files} if isinstance(files, str) else files).items():
            path = suite / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        events = folder / "events.jsonl"
        events.unlink(missing_ok=True)
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "MLTIERS_"))}
        environment = {
            **outside,
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a second of imports per run, and none of them ours
            **(variables or {}),
        }
        if stream is not None:
            environment["MLTIERS_EVENTS"] = stream or str(events)
        named = ["-p", "pytest_mltiers"] if plugin else []
        said = folder / "output.txt"  # a file: a worker left behind would hold a pipe open for ever
        with said.open("wb") as output:
            done = subprocess.run(
                [python, "-m", "pytest", "-p", "no:cacheprovider", *named, *args],
                cwd=suite,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=120,
                check=False,
            )
        lines = events.read_bytes().split(b"\n") if events.exists() else [b""]
        assert lines[-1] == b"", "the stream ends in the middle of a line"
        told = [json.loads(line) for line in lines[:-1]]
        return SuiteRun(done.returncode, said.read_text(encoding="utf-8"), told, suite)

    return run
