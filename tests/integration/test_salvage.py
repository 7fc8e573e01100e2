"""What is known of the coverage of a run that was stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.process import Graces, supervise
from orchestrator.tools.salvage import CHECKPOINT_VARIABLE, salvage_coverage
from orchestrator.words.results import Ending

PLUGIN = Path(__file__).parents[2] / "plugin" / "src"
SUBJECT = "def early():\n    return 1\n\ndef late():\n    return 2\n\ndef never():\n    return 3\n"
TEST = """
import os, pathlib, signal, subject, time

def test_early():
    subject.early()

def test_hangs():
    subject.late()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    times = set()
    folder = pathlib.Path(os.environ["COVERAGE_FILE"]).parent
    while len(times) < {checkpoints}:  # one may have begun before late()
        times |= {{file.stat().st_mtime_ns for file in folder.glob(".c*.ch*")}}
    os.write(2, b"up\\n")
    time.sleep(60)
"""


def stopped_run(tmp_path: Path, *args: str, checkpoint: bool = True) -> tuple[Path, dict[str, str], float]:
    """The folder and environment of a run that was stopped in its last test, and when."""
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "subject.py").write_text(SUBJECT)
    (tmp_path / "test_it.py").write_text(TEST.format(checkpoints=3 if checkpoint else 0))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST", "MLTIERS"))}
    env = {
        **kept,
        **({CHECKPOINT_VARIABLE: "0.2"} if checkpoint else {}),
        "PYTHONPATH": str(PLUGIN),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COVERAGE_FILE": str(folder / ".coverage"),
    }
    command = [sys.executable, "-m", "pytest", "-s", "-p", "pytest_mltiers", "-p", "pytest_cov", "--cov=subject", *args]
    report = [f"--cov-report=json:{folder}/coverage.json"]
    cancel = Cancellation()
    outcome = supervise(
        [*command, *report],
        cwd=tmp_path,
        env=env,
        deadline=60,
        cancel=cancel,
        on_line=lambda line: cancel.set() if line.endswith("up") else None,
        graces=Graces(interrupt=0.1, terminate=0.1),
    )
    cancel.close()
    assert outcome.ending is Ending.CANCELLED, outcome
    return folder, env, outcome.started + outcome.seconds - outcome.stop_seconds


@pytest.mark.parametrize("args", [(), ("--cov-branch", "-p", "xdist", "-n1")], ids=["serial", "xdist"])
def test_a_stopped_run_has_coverage(args: tuple[str, ...], tmp_path: Path) -> None:
    folder, env, stopped = stopped_run(tmp_path, *args)
    assert not (folder / "coverage.json").exists()
    note = salvage_coverage(sys.executable, folder, cwd=tmp_path, env=env, stopped=stopped)
    assert note is not None
    assert note.startswith("measured up to")
    report = json.loads((folder / "coverage.json").read_text())
    assert report["files"]["subject.py"]["executed_lines"] == [1, 2, 4, 5, 7]
    assert report["files"]["subject.py"]["missing_lines"] == [8]


def test_without_checkpoints_there_is_nothing_to_save(tmp_path: Path) -> None:
    folder, env, stopped = stopped_run(tmp_path, checkpoint=False)
    assert salvage_coverage(sys.executable, folder, cwd=tmp_path, env=env, stopped=stopped) is None
    assert not (folder / "coverage.json").exists()


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    (tmp_path / ".coverage.checkpoint.1").write_bytes(b"")
    os.utime(tmp_path / ".coverage.checkpoint.1", (1000, 1000))
    assert salvage_coverage("false", tmp_path, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, stopped=1005) is None

    coverage = tmp_path / "python"  # one that combines nothing and reports nothing, well
    coverage.write_text("#!/bin/sh\nexit 0\n")
    coverage.chmod(0o755)
    env = {"PATH": os.environ["PATH"]}
    say = "measured up to 5 s before the stop"
    assert salvage_coverage(str(coverage), tmp_path, cwd=tmp_path, env=env, stopped=1005) == say
    assert salvage_coverage(str(coverage), tmp_path, cwd=tmp_path, env=env, stopped=1000) == "measured up to the stop"


def test_it_does_not_take_longer_than_it_may(tmp_path: Path) -> None:
    (tmp_path / ".coverage.checkpoint.1").write_bytes(b"")
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    began = time.monotonic()
    env = {"PATH": os.environ["PATH"]}
    assert salvage_coverage(str(slow), tmp_path, cwd=tmp_path, env=env, stopped=0, patience=0.5) is None
    assert time.monotonic() - began < 5
