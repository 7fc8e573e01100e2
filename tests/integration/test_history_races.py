"""Many processes write one history at once, and some are killed meanwhile: nothing is lost, all of it can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from orchestrator.tools.history import Store
from orchestrator.tools.history.folder import FolderStore
from tests.loopback_github import LoopbackGitHub
from tests.support.stores import BRANCH, bare_repository, branch_store, git

Writer = subprocess.Popen[str]
ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import math, os, sys, time
from pathlib import Path
from random import Random
from orchestrator.tools.history.branch import BranchStore
from orchestrator.tools.history.folder import FolderStore

kind, place, writer, writes, role = sys.argv[1:]
if kind == "folder":
    store = FolderStore(Path(place), patience=60)
else:
    token = sys.stdin.readline().strip() or None
    store = BranchStore(url=place, branch="mltiers-data", token=token, variables=dict(os.environ),
                        deadline=lambda: math.inf, random=Random(int(writer)))

def add(number):
    def change(snapshot):
        counted = int(snapshot.read(["contexts/count"]).get("contexts/count", b"0"))
        content = f"{writer} {number}".encode() * 2000
        return {f"lists/{writer}-{number}": content, f"runs/a/{writer}-{number}": content,
                "contexts/count": str(counted + 1).encode()}
    return change

def fold(snapshot):
    mine = sorted(name for name in snapshot.names if name.startswith("runs/"))
    folded = snapshot.read(["sketches/a"]).get("sketches/a", b"").decode().split()
    return {"sketches/a": "\\n".join(sorted({*folded, *mine})).encode(), **dict.fromkeys(mine)}

print("ready", flush=True)
for number in range(int(writes)):
    if role == "compacts":
        store.update(fold, message="compact", forget=True)
    else:
        store.update(add(number), message=f"{writer} {number}")
    print(number, flush=True)
"""


def writer(kind: str, place: object, number: int, *, writes: int, compacts: bool = False, token: str = "") -> Writer:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, kind, str(place), str(number), str(writes), "compacts" if compacts else "adds"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(token + "\n")
    process.stdin.flush()
    return process


def finish(writers: Sequence[Writer]) -> None:
    for process in writers:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err


def expected(writers: int, writes: int) -> set[str]:
    return {f"runs/a/{writer}-{number}" for writer in range(writers) for number in range(writes)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return bare_repository(tmp_path / "data.git")


def test_sixteen_processes_write_one_branch_and_lose_nothing(data: Path) -> None:
    """From the very beginning: all of them find no branch, and one makes it."""
    finish([writer("branch", f"file://{data}", number, writes=2) for number in range(16)])
    snapshot = branch_store(f"file://{data}").snapshot()
    runs = {name for name in snapshot.names if name.startswith("runs/")}
    assert runs == expected(16, 2)
    assert snapshot.read(["contexts/count"]) == {"contexts/count": b"32"}
    assert git(data, "rev-list", "--count", BRANCH).strip() == "32"
    git(data, "fsck", "--strict")


def test_sixteen_processes_write_one_folder_and_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a history"
    finish([writer("folder", folder, number, writes=5) for number in range(16)])
    snapshot = FolderStore(folder).snapshot()
    assert {name for name in snapshot.names if name.startswith("runs/")} == expected(16, 5)
    assert snapshot.read(["contexts/count"]) == {"contexts/count": b"80"}


def test_writers_over_http_lose_nothing(data: Path) -> None:
    with LoopbackGitHub() as github:
        github.add_repository("octo/widgets", path=data)
        url, token = f"{github.server_url}/octo/widgets.git", github.add_token()
        finish([writer("branch", url, number, writes=2, token=token) for number in range(6)])
        snapshot = branch_store(url, token=token).snapshot()
        assert {name for name in snapshot.names if name.startswith("runs/")} == expected(6, 2)
        assert snapshot.read(["contexts/count"]) == {"contexts/count": b"12"}


def test_compaction_loses_no_racing_write(data: Path) -> None:
    url = f"file://{data}"
    writers = [writer("branch", url, number, writes=4) for number in range(8)]
    finish([*writers, writer("branch", url, 99, writes=6, compacts=True)])
    snapshot = branch_store(url).snapshot()
    kept = {name for name in snapshot.names if name.startswith("runs/")}
    folded = set(snapshot.read(["sketches/a"])["sketches/a"].decode().split())
    assert kept | folded == expected(8, 4)
    assert not kept & folded
    assert len(folded) > 0
    assert snapshot.read(["contexts/count"]) == {"contexts/count": b"32"}
    assert {name for name in snapshot.names if name.startswith("lists/")} == {
        name.replace("runs/a/", "lists/") for name in expected(8, 4)
    }


# --- killed --------------------------------------------------------------------------------------------------------


def whole(store: Store) -> int:
    """How many records there are; each is whole, and so is what it refers to."""
    snapshot = store.snapshot()
    files = snapshot.read(snapshot.names)
    assert files.keys() == snapshot.names
    runs = [name for name in snapshot.names if name.startswith("runs/")]
    for name in runs:
        content = name.removeprefix("runs/a/").replace("-", " ").encode() * 2000
        assert files[name] == content
        assert files[name.replace("runs/a/", "lists/")] == content
    return len(runs)


def kill_at_moments(start: Callable[[int], Writer], store: Callable[[], Store]) -> None:
    generator = Random(7)
    known = 0
    for index in range(12):
        process = start(index)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(generator.uniform(0.0, 0.6))  # the moment
        for child in (*_descendants(process.pid), process.pid):  # git too, wherever it is
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        said, _ = process.communicate(timeout=60)
        known += len(said.split())
        there = whole(store())
        assert there >= known  # what it said was written, and at most what it was about to say
        known = there
        name = f"runs/a/{100 + index}-0"
        content = name.removeprefix("runs/a/").replace("-", " ").encode() * 2000
        store().update(
            lambda _, name=name, content=content: {name: content, name.replace("runs/a/", "lists/"): content},
            message="another",
        )
        known += 1
        # What a killed writer had sent may still arrive after we have looked: the server's processes live on.
        there = whole(store())
        assert known <= there <= known + 1
        known = there


def _descendants(pid: int) -> list[int]:
    """A process's children and theirs, whatever sessions they made."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [*_descendants(child), child]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes to kill in /proc")
def test_a_writer_killed_at_any_moment_leaves_the_branch_whole(data: Path) -> None:
    # Over HTTP, for the server's processes are not the writer's: they live on.
    with LoopbackGitHub() as github:
        github.add_repository("octo/widgets", path=data)
        url, token = f"{github.server_url}/octo/widgets.git", github.add_token()
        kill_at_moments(
            lambda number: writer("branch", url, number, writes=50, token=token),
            lambda: branch_store(url, token=token),
        )
        git(data, "fsck", "--strict")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes to kill in /proc")
def test_a_writer_killed_at_any_moment_leaves_the_folder_whole(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    kill_at_moments(
        lambda number: writer("folder", folder, number, writes=10_000),
        lambda: FolderStore(folder, patience=20),
    )
    assert not [path for path in folder.rglob("*") if path.name.startswith(".new-")]
