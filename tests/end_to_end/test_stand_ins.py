"""The upload's stand-in chooses and refuses as the real one does: what the action's tests see uploaded must be true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.act import STAND_INS

FILES = ("out/report.html", "out/history/old.json", ".hidden/report.html", ".hidden/unit/.coverage")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "job" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "job" / name).touch()
    return tmp_path / "job"


def upload(workspace: Path, paths: str, **inputs: str) -> subprocess.CompletedProcess[str]:
    settings = {"NAME": "it", "HIDDEN": "false", "MISSING": "warn", "OVERWRITE": "false", **inputs}
    environ = {**os.environ, **settings, "PATHS": paths, "STAND_IN_ARTIFACTS": str(workspace.parent / "artifacts")}
    script = STAND_INS / "upload-artifact" / "upload.py"
    command = [sys.executable, "-I", str(script)]
    return subprocess.run(command, cwd=workspace, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("paths", "hidden", "uploaded"),
    [
        ("out", "false", {"report.html", "history/old.json"}),
        ("out\n!out/history\n", "false", {"report.html"}),
        (".hidden", "false", set()),  # the trap: nothing, and no error
        (".hidden", "true", {"report.html", "unit/.coverage"}),
        ("nowhere", "true", set()),
    ],
)
def test_what_is_uploaded(workspace: Path, paths: str, hidden: str, uploaded: set[str]) -> None:
    assert upload(workspace, paths, HIDDEN=hidden).returncode == 0
    folder = workspace.parent / "artifacts" / "it"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == uploaded


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"NAME": "a/b"}, "the artifact name is not valid: 'a/b'"),
        ({"NAME": ""}, "the artifact name is not valid: ''"),
        ({"HIDDEN": "false", "MISSING": "error"}, "no files were found"),
    ],
)
def test_what_is_refused(workspace: Path, inputs: dict[str, str], message: str) -> None:
    done = upload(workspace, ".hidden", **{"HIDDEN": "true", **inputs})
    assert done.returncode == 1
    assert message in done.stderr


def test_the_same_name_twice(workspace: Path) -> None:
    assert upload(workspace, "out").returncode == 0
    assert "already exists" in upload(workspace, "out").stderr
    assert upload(workspace, "out", OVERWRITE="true").returncode == 0
