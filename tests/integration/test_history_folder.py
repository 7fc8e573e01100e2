"""The folder as a history under attack: links, full disks, files that nobody may read or write."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tools.history import HistoryError, HistoryForbidden
from orchestrator.tools.history.folder import FolderStore
from tests.support.stores import bare_repository, branch_store, git

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


def add(store: FolderStore, name: str = "runs/a/1", content: bytes = b"one") -> None:
    store.update(lambda _: {name: content}, message="add")


def test_git_does_not_see_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    add(FolderStore(tmp_path / ".mltiers" / "history"))
    assert git(tmp_path, "status", "--porcelain") == ""


def test_links_are_neither_read_nor_written_through(tmp_path: Path) -> None:
    folder, outside = tmp_path / "history", tmp_path / "outside"
    add(FolderStore(folder))
    outside.mkdir()
    (outside / "1").write_text("theirs")
    (folder / "lists").symlink_to(outside)
    (folder / "runs" / "secret").symlink_to(outside / "1")
    store = FolderStore(folder)
    assert store.snapshot().names == {"version.json", "runs/a/1"}
    for content in (b"ours", None):
        with pytest.raises(HistoryError, match="is a link"):
            store.update(lambda _, content=content: {"lists/1": content}, message="add")
    assert (outside / "1").read_text() == "theirs"


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    add(FolderStore(tmp_path))
    left = tmp_path / "runs" / "a" / ".new-0123456789abcdef"
    left.write_bytes(b"half")
    assert FolderStore(tmp_path).snapshot().names == {"version.json", "runs/a/1"}
    add(FolderStore(tmp_path), "runs/a/2")
    assert not left.exists()


def test_a_writer_that_does_not_end_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    add(FolderStore(tmp_path))
    pauses: list[float] = []
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HistoryError, match="another mltiers has been writing"):
            add(FolderStore(tmp_path, patience=0.1, sleep=pauses.append), "runs/a/2")
        assert FolderStore(tmp_path).snapshot().names == {"version.json", "runs/a/1"}  # readers wait for nobody
    assert pauses


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("no folder")
    for attempt in (lambda s: s.snapshot(), add):
        with pytest.raises(HistoryError, match="history"):
            attempt(FolderStore(tmp_path / "history"))


def test_a_file_that_went_since_the_snapshot_is_left_out(tmp_path: Path) -> None:
    add(FolderStore(tmp_path))
    add(FolderStore(tmp_path), "runs/a/2", b"two")
    snapshot = FolderStore(tmp_path).snapshot()
    FolderStore(tmp_path).update(lambda _: {"runs/a/1": None}, message="compact", forget=True)
    assert snapshot.read(["runs/a/1", "runs/a/2"]) == {"runs/a/2": b"two"}


AS_NOBODY = """
import os, sys
from pathlib import Path
from orchestrator.tools.history import HistoryError, HistoryForbidden
from orchestrator.tools.history.folder import FolderStore
os.setuid(65534)
store = FolderStore(Path(sys.argv[1]))
try:
    print(sorted(store.snapshot().names))
except HistoryError as error:
    print(type(error).__name__, error)
try:
    store.update(lambda _: {"runs/a/2": b"two"}, message="add")
except HistoryError as error:
    print(type(error).__name__, error)
"""


def as_nobody(folder: Path) -> list[str]:
    for parent in folder.parents:
        if parent.name.startswith(("pytest-", "popen-", "test_")):
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(os.getuid() != 0, reason="becomes somebody else, which only root may")
def test_somebody_who_may_only_read(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    add(FolderStore(folder))
    said = as_nobody(folder)
    assert said[0] == "['runs/a/1', 'version.json']"
    assert said[1].startswith("HistoryForbidden the history in ")
    assert "Permission denied" in said[1]
    assert "history.dir" in said[2]
    (folder / "runs").chmod(0o700)
    assert as_nobody(folder)[0].startswith("HistoryError the history in ")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode(errors='replace').strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(tiny_disk: Path) -> None:
    store = FolderStore(tiny_disk / "history")
    add(store)
    with pytest.raises(HistoryError, match="No space left") as caught:
        store.update(
            lambda _: {f"lists/{n}": os.urandom(100_000) for n in range(20)} | {"runs/a/2": b""}, message="add"
        )
    assert not isinstance(caught.value, HistoryForbidden)
    snapshot = store.snapshot()
    assert "runs/a/2" not in snapshot.names  # what it refers to is not there
    assert snapshot.read(["runs/a/1"]) == {"runs/a/1": b"one"}
    store.update(lambda seen: dict.fromkeys(name for name in seen.names if name.startswith("lists/")), message="room")
    add(store, "runs/a/2")
    assert not list(tiny_disk.rglob(".new-*"))


def test_a_disk_that_may_only_be_read(tiny_disk: Path) -> None:
    store = FolderStore(tiny_disk / "history")
    add(store)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(HistoryForbidden, match="Read-only file system"):
        add(store, "runs/a/2")
    assert store.snapshot().read(["runs/a/1"]) == {"runs/a/1": b"one"}


def test_a_full_disk_under_the_branch(tiny_disk: Path, tmp_path: Path) -> None:
    """Ours, where the copy lies, and then the server's."""
    content = os.urandom(2_000_000)
    here = bare_repository(tmp_path / "data.git")
    store = branch_store(f"file://{here}", variables={**os.environ, "RUNNER_TEMP": str(tiny_disk)})
    with pytest.raises(HistoryError, match="on a copy of the history"):
        store.update(lambda _: {"lists/a": content}, message="add")
    store.close()
    there = tiny_disk / "data.git"
    git(tmp_path, "init", "--quiet", "--bare", "--template=", str(there))
    first = branch_store(f"file://{there}")
    first.update(lambda _: {"runs/a/1": b"one"}, message="add")
    with pytest.raises(HistoryError, match="could not be written") as caught:
        branch_store(f"file://{there}").update(lambda _: {"lists/a": content}, message="add")
    assert not isinstance(caught.value, HistoryForbidden)
    assert branch_store(f"file://{there}").snapshot().read(["runs/a/1"]) == {"runs/a/1": b"one"}
