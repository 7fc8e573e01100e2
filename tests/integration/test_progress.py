"""What is said while tiers run: bars on a terminal, plain lines and folded groups in GitHub's log."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.hands.progress import Progress
from orchestrator.words.plan import TierPlan
from tests.support.project import Project

CONFIG = "version: 1\ntiers:\n  unit: {paths: [tests], budget: 60s, workers: 1, when: [push]}\n"
TESTS = """
import pathlib, time

def test_bad():
    print("::error::not a command of ours")
    assert "[bold]1[/bold]" == "2"

def test_waits_until_a_bar_is_seen():
    end = time.monotonic() + 30
    while not pathlib.Path("seen").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert pathlib.Path("seen").exists()
"""
Make = Callable[..., Project]


@pytest.fixture
def subject(project: Make) -> Project:
    return project({"ml-tiers.yml": CONFIG, "tests/test_it.py": TESTS})


def test_a_terminal_has_bars_and_is_left_as_it_was(subject: Project) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        subject.command("run", "--event", "push"), cwd=subject.root, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=theirs, env=subject.environment({"TERM": "xterm", "COLUMNS": "120"}),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
        if b"1 of 2 tests, 1 failed" in shown:
            (subject.root / "seen").touch()
    assert process.wait() == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "━" in text
    assert "unit: FAILED tests/test_it.py::test_bad · AssertionError: assert '[bold]1[/bold]' == '2'" in text
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")  # the cursor is there again


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_githubs_log_has_the_output_folded_and_takes_no_command_from_it(subject: Project) -> None:
    (subject.root / "seen").touch()
    done = subject.mltiers("run", "--event", "push", GITHUB_ACTIONS="true", GITHUB_EVENT_NAME="push")
    lines = done.err.splitlines()
    first, last = lines.index("::group::unit: what it printed last"), lines.index("::endgroup::")
    stop = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", lines[first + 1])
    assert stop is not None
    assert lines[last - 1] == f"::{stop[1]}::"
    assert any("::error::not a command of ours" in line for line in lines[first + 2 : last - 1])
    assert not any("not a command of ours" in line for line in [*lines[:first], *lines[last:]])


def test_what_failed_last_is_named_however_soon_the_tier_has_ended(tmp_path: Path) -> None:
    said = io.StringIO()
    progress = Progress(said)
    progress.started(TierPlan(name="unit", run=True, reason="", budget=60.0))
    events = tmp_path / "events.jsonl"
    failed = [{"event": "phase", "phase": "call", "nodeid": f"t.py::test_{n}", "outcome": "failed"} for n in range(3)]
    with progress.following("unit", events):
        events.write_text("".join(json.dumps(event) + "\n" for event in failed) + '{"event": "pha')
    assert [line.strip() for line in said.getvalue().splitlines()[1:]] == [
        f"unit: FAILED t.py::test_{n}" for n in range(3)
    ]
