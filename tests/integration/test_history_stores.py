"""What every store promises, asked of each: the folder, and the branch on every kind of server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.tools.history import HistoryError, Snapshot, Store
from orchestrator.tools.history.folder import FolderStore
from tests.loopback_github import LoopbackGitHub
from tests.support.stores import bare_repository, branch_store

Open = Callable[[], Store]
KINDS = ("folder", "file url", "path with spaces", "no filters", "http")


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens a store on one place anew each time, as another process would."""
    if request.param == "folder":
        yield lambda: FolderStore(tmp_path / "a project" / ".mltiers" / "history")
    elif request.param == "http":
        with LoopbackGitHub() as github:
            github.add_repository("octo/widgets", path=bare_repository(tmp_path / "widgets.git"))
            token = github.add_token()
            yield lambda: branch_store(f"{github.server_url}/octo/widgets.git", token=token)
    elif request.param == "path with spaces":
        path = bare_repository(tmp_path / "a 'quoted' path")
        yield lambda: branch_store(path)
    else:
        path = bare_repository(tmp_path / "data.git", filters=request.param == "file url")
        yield lambda: branch_store(f"file://{path}")


def everything(snapshot: Snapshot) -> dict[str, bytes]:
    """What is in a store, without what every store has of its own."""
    names = {name for name in snapshot.names if "/" in name}
    return dict(snapshot.read(names))


def test_a_store_that_was_never_written_is_empty(open_store: Open) -> None:
    snapshot = open_store().snapshot()
    assert (snapshot.version, snapshot.names) == (None, frozenset())
    assert snapshot.read(["runs/a/b.json"]) == {}


def test_what_is_written_is_there_for_the_next_one(open_store: Open) -> None:
    files = {"runs/0123/unit/a.json": b"{}\n", "lists/x.json": bytes(range(256)) * 300, "lines/empty.json": b""}
    written = open_store().update(lambda _: files, message="add")
    assert everything(written) == files
    found = open_store().snapshot()
    assert everything(found) == files
    assert found.read(["lists/x.json", "lists/none.json"]) == {"lists/x.json": files["lists/x.json"]}


def test_a_change_sees_what_is_there_and_may_delete_and_replace(open_store: Open) -> None:
    open_store().update(lambda _: {"runs/a/1": b"one", "runs/a/2": b"two", "contexts/a": b"old"}, message="add")

    def change(snapshot: Snapshot) -> dict[str, bytes | None]:
        seen = snapshot.read(["runs/a/1"])["runs/a/1"]
        return {"runs/a/1": None, "contexts/a": b"new " + seen, "runs/a/none": None}

    open_store().update(change, message="change")
    assert everything(open_store().snapshot()) == {"runs/a/2": b"two", "contexts/a": b"new one"}


def test_no_change_writes_nothing(open_store: Open) -> None:
    before = open_store().update(lambda _: {"runs/a/1": b"one"}, message="add").version
    assert open_store().update(lambda _: {}, message="nothing").version == before
    assert open_store().snapshot().version == before


def test_the_version_is_that_of_the_content(open_store: Open) -> None:
    first = open_store().update(lambda _: {"runs/a/1": b"one"}, message="add").version
    second = open_store().update(lambda _: {"runs/a/2": b"two"}, message="add").version
    assert first != second
    assert open_store().snapshot().version == second


def test_forgetting_keeps_what_is_there_now(open_store: Open) -> None:
    store = open_store()
    store.update(lambda _: {"runs/a/1": b"one", "runs/a/2": b"two"}, message="add")
    store.update(lambda _: {"runs/a/1": None, "sketches/a": b"kept"}, message="compact", forget=True)
    assert everything(open_store().snapshot()) == {"runs/a/2": b"two", "sketches/a": b"kept"}
    store.update(lambda _: {"runs/a/3": b"three"}, message="add")
    assert everything(open_store().snapshot()) == {"runs/a/2": b"two", "sketches/a": b"kept", "runs/a/3": b"three"}


@pytest.mark.parametrize(
    "name",
    ["../out", "/etc/passwd", "runs/../../out", "runs//a", ".git/config", "runs/.hidden", "runs/a\nD runs", 'runs/"a"',
     "runs/a\\b", "", "runs/", "runs/ä", "runs/a\0b"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    for store in (FolderStore(tmp_path / "history"), branch_store(bare_repository(tmp_path / "data.git"))):
        with pytest.raises(HistoryError, match="is no name"):
            store.update(lambda _: {name: b"x"}, message="add")
        assert everything(store.snapshot()) == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"version": 2}', "has version 2, and this mltiers reads version 1\n  use a newer mltiers"),
        (b'{"version": 7, "mltiers": "3.1"}', "this mltiers reads version 1\n  use mltiers 3.1 or newer"),
        (b"", "version.json is broken"),
        (b"[]", "version.json is broken"),
        (b"[" * 100_000, "version.json is broken"),
        (b'{"version": "x"}', "version.json is broken"),
    ],
)  # fmt: skip
def test_a_store_of_another_version_is_neither_read_nor_written(
    open_store: Open, content: bytes, sentence: str
) -> None:
    with pytest.raises(HistoryError):
        open_store().update(lambda _: {"version.json": content}, message="a later mltiers")
    for attempt in (open_store().snapshot, lambda: open_store().update(lambda _: {"runs/a": b""}, message="add")):
        with pytest.raises(HistoryError) as caught:
            attempt()
        assert sentence in str(caught.value)
