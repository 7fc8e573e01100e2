"""A store as it was: the shards of one tier are split by the same durations, whatever is written meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.history import HistoryError
from orchestrator.history.folder import FolderStore
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
