"""A store as it was: the shards of one tier are split by the same durations, whatever is written meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.tools.history import HistoryError
from orchestrator.tools.history.folder import FolderStore
from tests.loopback_github import LoopbackGitHub, server_error
from tests.support.stores import bare_repository, branch_store


@pytest.mark.parametrize("filters", [True, False])
def test_a_branch_is_read_as_it_was_at_a_commit(tmp_path: Path, filters: bool) -> None:
    path = bare_repository(tmp_path / "data.git", filters=filters)
    then = branch_store(f"file://{path}").update(lambda _: {"runs/a/1": b"one"}, message="first")
    branch_store(f"file://{path}").update(lambda _: {"runs/a/1": b"changed", "runs/a/2": b"two"}, message="second")
    store = branch_store(f"file://{path}")
    snapshot = store.snapshot(then.version)
    assert snapshot.version == then.version
    assert snapshot.read(["runs/a/1", "runs/a/2"]) == {"runs/a/1": b"one"}
    assert store.snapshot().read(["runs/a/1"]) == {"runs/a/1": b"changed"}


@pytest.mark.parametrize("version", ["f" * 40, "main", "--upload-pack=touch /tmp/x", ""])
def test_a_version_that_is_not_there_is_an_error_and_not_todays(tmp_path: Path, version: str) -> None:
    path = bare_repository(tmp_path / "data.git")
    branch_store(f"file://{path}").update(lambda _: {"runs/a/1": b"one"}, message="first")
    with pytest.raises(HistoryError, match=r"no longer there|has no version"):
        branch_store(f"file://{path}").snapshot(version)


def test_a_folder_knows_only_what_it_is_now(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "history")
    then = store.update(lambda _: {"runs/a/1": b"one"}, message="first")
    assert store.snapshot(then.version).read(["runs/a/1"]) == {"runs/a/1": b"one"}
    store.update(lambda _: {"runs/a/2": b"two"}, message="second")
    with pytest.raises(HistoryError, match="has changed since"):
        store.snapshot(then.version)


def test_a_version_that_is_the_newest_needs_a_server_that_gives_away_branches_only(tmp_path: Path) -> None:
    path = bare_repository(tmp_path / "data.git", filters=False)
    then = branch_store(f"file://{path}").update(lambda _: {"runs/a/1": b"one"}, message="first")
    # The old protocol refuses what no branch points at.
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text(f'#!/bin/sh\nexec {shutil.which("git")} -c protocol.version=0 "$@"\n')
    old.chmod(0o755)
    variables = {**os.environ, "PATH": f"{old.parent}{os.pathsep}{os.environ['PATH']}"}
    store = branch_store(f"file://{path}", variables=variables)
    assert store.snapshot(then.version).read(["runs/a/1"]) == {"runs/a/1": b"one"}
    branch_store(f"file://{path}").update(lambda _: {"runs/a/2": b"two"}, message="second")
    with pytest.raises(HistoryError, match="no longer there"):
        branch_store(f"file://{path}", variables=variables).snapshot(then.version)


def test_a_glitch_is_no_compaction(tmp_path: Path) -> None:
    with LoopbackGitHub() as github:
        github.add_repository("octo/widgets", path=bare_repository(tmp_path / "data.git"))
        url, token = f"{github.server_url}/octo/widgets.git", github.add_token()
        then = branch_store(url, token=token).update(lambda _: {"runs/a/1": b"one"}, message="first")
        github.inject(server_error(502), method="POST", path="git-upload-pack")
        assert branch_store(url, token=token).snapshot(then.version).read(["runs/a/1"]) == {"runs/a/1": b"one"}
        assert github.unused_faults == 0
