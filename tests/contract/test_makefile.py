"""The two commands of the README on machines that are not ready for them, and that CI runs what a developer runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("demo", "test", "test-all", "bench", "lint", "lock", "docs", "clean")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def fake_python(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_the_targets_are_there(target: str) -> None:
    done = make("--dry-run", target)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("script", "sentences"),
    [
        (
            '[ "$1" = --version ] && echo Python 3.9.18 || exit 1',
            ["This needs Python 3.10 or newer; `{python}` is Python 3.9.18.", "make PYTHON=python3.12 demo"],
        ),
        (
            'case "$2" in *ensurepip*) exit 1;; esac',
            ["`{python}` has no venv module. On Debian and Ubuntu: apt-get install python3-venv"],
        ),
    ],
    ids=["too old", "no venv"],
)
def test_a_machine_that_is_not_ready_is_told_what_to_do(tmp_path: Path, script: str, sentences: list[str]) -> None:
    python = fake_python(tmp_path / "python3", script)
    done = make("demo", f"PYTHON={python}", f"BIN={tmp_path}/bin")
    assert done.returncode == 2
    for sentence in sentences:
        assert sentence.format(python=python) in done.stdout
    assert not (tmp_path / "bin").exists()


def test_ci_runs_make_test() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script
    assert re.search(r"^exec make test$", script, re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_torch_is_pinned_in_one_place() -> None:
    pins = {
        path.name: re.findall(r"^torch.*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in (ROOT / "requirements").iterdir()
    }
    assert {name: lines for name, lines in pins.items() if lines} == {"torch.txt": ["torch==2.13.0"]}
