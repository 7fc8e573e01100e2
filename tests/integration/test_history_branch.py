"""The branch as a history on real servers: one round trip, nothing of the user's, every refusal in words."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.tools.history import HistoryError, HistoryForbidden, Snapshot
from orchestrator.tools.history.branch import BranchStore
from tests.loopback_github import READ, LoopbackGitHub, dropped, hanging, server_error
from tests.support.stores import BRANCH, bare_repository, branch_store, git

REPOSITORY = "octo/widgets"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return bare_repository(tmp_path / "data.git")


@pytest.fixture
def github(data: Path) -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        server.add_repository(REPOSITORY, path=data)
        yield server


def on(github: LoopbackGitHub, **options: object) -> BranchStore:
    options = {"token": github.add_token(), **options}
    return branch_store(f"{github.server_url}/{REPOSITORY}.git", **options)  # type: ignore[arg-type]


def add(store: BranchStore, name: str = "runs/a/1", content: bytes = b"one") -> None:
    store.update(lambda _: {name: content}, message=f"add {name}")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# --- what is transferred -------------------------------------------------------------------------------------------


def test_a_run_reads_what_it_needs_in_two_fetches(github: LoopbackGitHub) -> None:
    files = {f"runs/a/{number}": os.urandom(50_000) for number in range(60)}
    on(github).update(lambda _: files, message="add")
    github.exchanges.clear()
    store = on(github)
    snapshot = store.snapshot()
    wanted = [f"runs/a/{number}" for number in range(50)]
    assert snapshot.read(wanted) == {name: files[name] for name in wanted}
    assert [x.path.rpartition("/")[2] for x in github.exchanges] == [
        *("refs", "git-upload-pack", "git-upload-pack"),  # the tip: which branches there are, its commit and trees
        *("refs", "git-upload-pack"),  # fifty files at once
    ]
    copy = sum(path.stat().st_size for path in store._repository.path.rglob("*") if path.is_file())
    assert copy < 52 * 50_000
    snapshot.read(wanted)
    assert len(github.exchanges) == 5


def test_only_the_newest_commit_is_fetched(data: Path) -> None:
    for number in range(5):
        add(branch_store(f"file://{data}"), f"runs/a/{number}")
    store = branch_store(f"file://{data}")
    store.snapshot()
    commits = store._repository.ask("cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    assert commits.split().count(b"commit") == 1


def test_forgetting_leaves_one_commit_and_sends_only_what_is_new(github: LoopbackGitHub, data: Path) -> None:
    content = os.urandom(400_000)
    on(github).update(lambda _: {"lists/big": content, "runs/a/1": b"one"}, message="add")
    github.exchanges.clear()
    on(github).update(lambda _: {"runs/a/1": None}, message="compact", forget=True)
    assert git(data, "rev-list", "--count", BRANCH).strip() == "1"
    (push,) = github.asked("POST", "git-receive-pack")
    assert int(push.headers["content-length"]) < 5_000
    assert on(github).snapshot().read(["lists/big"]) == {"lists/big": content}


def test_the_branch_has_nothing_to_do_with_the_project(github: LoopbackGitHub, data: Path) -> None:
    add(on(github))
    assert git(data, "for-each-ref", "--format=%(refname)").split() == [f"refs/heads/{BRANCH}"]
    assert git(data, "log", "--format=%an|%ae|%s|%P", BRANCH).strip() == "mltiers|mltiers@localhost|add runs/a/1|"
    assert "[skip ci]" in git(data, "log", "-1", "--format=%b", BRANCH)
    assert "by itself" in git(data, "show", f"{BRANCH}:README.md")
    git(data, "fsck", "--strict")


@pytest.mark.parametrize("forget", [False, True])
def test_a_change_is_computed_again_on_what_another_wrote_first(github: LoopbackGitHub, forget: bool) -> None:
    add(on(github))
    seen: list[frozenset[str]] = []

    def change(snapshot: Snapshot) -> dict[str, bytes | None]:
        if not seen:
            add(on(github), "runs/a/2", b"two")
        seen.append(snapshot.names)
        return {"runs/a/1": None, "runs/a/3": b"three"}

    on(github).update(change, message="change", forget=forget)
    assert ["runs/a/2" in names for names in seen] == [False, True]
    assert on(github).snapshot().names == {"runs/a/2", "runs/a/3", "version.json", "README.md"}


# --- servers and gits that can less --------------------------------------------------------------------------------


def test_a_server_that_filters_but_gives_no_single_files(data: Path) -> None:
    git(data, "config", "uploadpack.allowAnySHA1InWant", "false")
    files = {f"runs/a/{number}": os.urandom(1000) for number in range(3)}
    branch_store(f"file://{data}").update(lambda _: files, message="add")
    # The old protocol refuses what no branch points at; the new one gives everything away.
    old = script(data.parent / "bin" / "git", f'exec {real_git()} -c protocol.version=0 "$@"')
    store = branch_store(f"file://{data}", variables=with_path(old))
    snapshot = store.snapshot()
    assert dict(snapshot.read(files)) == files
    add(store, "runs/a/4")
    assert dict(branch_store(f"file://{data}").snapshot().read(files)) == files


@pytest.mark.parametrize("version", ["2.20.1", "2.30.9"])
def test_an_older_git(github: LoopbackGitHub, tmp_path: Path, version: str) -> None:
    """A git without filters, without configuration by numbered variables, and that says so by its version."""
    old = script(
        tmp_path / "bin" / "git",
        f'case "$*" in version) echo "git version {version}"; exit 0;; esac\n'
        'for word; do case "$word" in --filter*) echo "error: unknown option" >&2; exit 129;; esac; done\n'
        f'unset GIT_CONFIG_COUNT\nexec {real_git()} "$@"',
    )
    store = on(github, variables=with_path(old))
    add(store)
    add(store, "runs/a/2", b"two")
    again = on(github, variables=with_path(old)).snapshot()
    assert dict(again.read(["runs/a/1", "runs/a/2"])) == {"runs/a/1": b"one", "runs/a/2": b"two"}


def test_no_git_at_all(data: Path, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="git is not installed"):
        branch_store(data, variables={"PATH": str(tmp_path)}).snapshot()


def real_git() -> str:
    return subprocess.check_output(["which", "git"], text=True).strip()


def with_path(program: Path) -> Mapping[str, str]:
    return {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


# --- the user's own git --------------------------------------------------------------------------------------------


def test_nothing_of_the_users_git_gets_in(github: LoopbackGitHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    touched = tmp_path / "touched"
    hook = script(home / "hooks" / "pre-push", f"echo hook >> '{touched}'; exit 1")
    for name in ("post-commit", "reference-transaction", "pre-commit"):
        script(home / "hooks" / name, f"echo {name} >> '{touched}'; exit 1")
    helper = script(home / "helper", f"echo helper >> '{touched}'; echo password=stolen")
    (home / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {hook.parent}\n\taskPass = {helper}\n\tfsmonitor = {helper}\n"
        "[commit]\n\tgpgsign = true\n[push]\n\tgpgSign = true\n[user]\n\tsigningkey = 0\n\tname = somebody\n"
        f"[credential]\n\thelper = !'{helper}'\n[init]\n\ttemplateDir = {home}\n"
        f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {github.server_url}/\n[http]\n\textraHeader = X-Own: theirs\n'
    )
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(checkout, "init", "--quiet")
    before = (checkout / ".git" / "config").read_bytes()
    misleading = {
        "HOME": str(home),
        "GIT_DIR": str(checkout / ".git"),
        "GIT_INDEX_FILE": str(tmp_path / "index"),
        "GIT_WORK_TREE": str(checkout),
        "GIT_OBJECT_DIRECTORY": str(tmp_path / "objects"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(hook.parent),
        "GIT_ASKPASS": str(helper),
        "SSH_ASKPASS": str(helper),
        "GIT_AUTHOR_NAME": "somebody",
    }
    add(on(github, variables={**os.environ, **misleading}))
    # Nor is anybody asked for a password where ours is not enough.
    with pytest.raises(HistoryError):
        add(on(github, variables={**os.environ, **misleading}, token="wrong"))
    assert not touched.exists()
    assert (checkout / ".git" / "config").read_bytes() == before
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "objects").exists()
    assert all("x-own" not in exchange.headers for exchange in github.exchanges)


def test_the_network_of_the_users_git_is_used(data: Path, github: LoopbackGitHub, tmp_path: Path) -> None:
    """Behind a company's proxy nothing else reaches the server. (This server is its own proxy.)"""
    (tmp_path / ".gitconfig").write_text(f"[http]\n\tproxy = {github.server_url}\n")
    variables = {**os.environ, "HOME": str(tmp_path)}
    store = branch_store(f"http://git.invalid/{REPOSITORY}.git", token=github.add_token(), variables=variables)
    add(store)
    assert github.asked("POST", "git-receive-pack")


def test_the_token_is_in_no_argument_and_in_no_file(github: LoopbackGitHub, tmp_path: Path) -> None:
    log = tmp_path / "arguments"
    spy = script(tmp_path / "bin" / "git", f'echo "$@" >> \'{log}\'\nexec {real_git()} "$@"')
    token = github.add_token()
    folder = tmp_path / "runner"
    folder.mkdir()
    store = on(github, token=token, variables={**with_path(spy), "RUNNER_TEMP": str(folder), "GITHUB_TOKEN": token})
    add(store)
    store.snapshot().read(["runs/a/1"])
    secrets = [token.encode(), base64.b64encode(f"x-access-token:{token}".encode())]
    assert all(secret not in log.read_bytes() for secret in secrets)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert all(secret not in path.read_bytes() for path in files for secret in secrets)
    assert stat.S_IMODE(next(folder.iterdir()).stat().st_mode) == 0o700
    store.close()
    assert list(folder.iterdir()) == []
    writes = github.asked("POST", "git-receive-pack")
    assert writes[0].headers["authorization"] == f"basic {secrets[1].decode()}"


def test_a_temporary_folder_that_is_not_there_is_no_obstacle(data: Path, tmp_path: Path) -> None:
    """A container may inherit the variable without the folder."""
    add(branch_store(data, variables={**os.environ, "RUNNER_TEMP": str(tmp_path / "none"), "TMPDIR": str(tmp_path)}))
    assert branch_store(data).snapshot().read(["runs/a/1"]) == {"runs/a/1": b"one"}


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_token_that_may_only_read(github: LoopbackGitHub) -> None:
    add(on(github))
    store = on(github, token=github.add_token(permissions=READ))
    assert store.snapshot().read(["runs/a/1"]) == {"runs/a/1": b"one"}
    with pytest.raises(HistoryForbidden) as caught:
        add(store, "runs/a/2")
    assert "Permission to octo/widgets.git denied to github-actions[bot]" in caught.value.message
    assert "permissions: contents: write" in (caught.value.remedy or "")
    assert len(github.asked("POST", "git-receive-pack")) == 1  # the first writer's: nothing was tried again


def test_no_token(github: LoopbackGitHub) -> None:
    add(on(github))
    assert on(github, token=None).snapshot().read(["runs/a/1"]) == {"runs/a/1": b"one"}
    with pytest.raises(HistoryForbidden, match="may not be written") as caught:
        add(on(github, token=None), "runs/a/2")
    assert "token" in (caught.value.remedy or "")


def test_a_repository_that_may_not_be_read(github: LoopbackGitHub) -> None:
    github.world.repositories[REPOSITORY].private = True
    for token in (None, "ghs_wrong", github.add_token(permissions={})):
        with pytest.raises(HistoryError, match="may not be read") as caught:
            on(github, token=token).snapshot()
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        ("pre-receive", "GH013: Repository rule violations found for refs/heads/mltiers-data."),
        ("update", "GH006: Protected branch update failed for refs/heads/mltiers-data."),
    ],
)
def test_a_protected_branch(github: LoopbackGitHub, data: Path, hook: str, sentence: str) -> None:
    script(data / "hooks" / hook, f"echo 'error: {sentence}' >&2; exit 1")
    with pytest.raises(HistoryForbidden) as caught:
        add(on(github))
    assert sentence in caught.value.message
    assert "ruleset" in (caught.value.remedy or "")
    assert BRANCH in (caught.value.remedy or "")


def test_a_branch_that_nobody_may_rewrite_is_compacted_all_the_same(github: LoopbackGitHub, data: Path) -> None:
    git(data, "config", "receive.denyNonFastForwards", "true")
    add(on(github))
    on(github).update(lambda _: {"runs/a/1": None, "sketches/a": b"kept"}, message="compact", forget=True)
    assert set(on(github).snapshot().names) == {"sketches/a", "version.json", "README.md"}
    assert git(data, "rev-list", "--count", BRANCH).strip() == "2"


def test_a_server_that_is_gone(data: Path) -> None:
    with pytest.raises(HistoryError, match="could not be read: ") as caught:
        branch_store("http://127.0.0.1:9/octo/widgets.git", token="t").snapshot()
    assert not isinstance(caught.value, HistoryForbidden)
    with pytest.raises(HistoryError, match="could not be read"):
        branch_store(data.parent / "nowhere.git").snapshot()


# --- a network with moods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["info/refs", "git-upload-pack", "git-receive-pack"])
def test_one_failure_of_the_server_is_survived(github: LoopbackGitHub, where: str) -> None:
    add(on(github))
    for fault in (server_error(502), dropped(effect=False)):
        github.inject(fault, method="GET" if where == "info/refs" else "POST", path=where)
        store = on(github)
        add(store, "runs/a/2", os.urandom(8))
        assert store.snapshot().read(["runs/a/1"]) == {"runs/a/1": b"one"}
    assert github.unused_faults == 0


def test_a_push_whose_answer_is_lost_is_not_made_twice(github: LoopbackGitHub, data: Path) -> None:
    add(on(github))
    github.inject(dropped(effect=True), method="POST", path="git-receive-pack")
    calls = []

    def change(snapshot: object) -> dict[str, bytes]:
        calls.append(snapshot)
        return {"runs/a/2": b"two"}

    on(github).update(change, message="add")
    assert git(data, "rev-list", "--count", BRANCH).strip() == "2"
    assert len(calls) == 1


def test_a_server_that_does_not_recover(github: LoopbackGitHub) -> None:
    add(on(github))
    github.inject(server_error(503), method="POST", path="git-receive-pack", times=10)
    with pytest.raises(HistoryError, match=r"could not be written: .*503"):
        add(on(github), "runs/a/2")
    assert github.unused_faults == 7


def test_a_job_that_is_being_cancelled_waits_for_nobody(github: LoopbackGitHub) -> None:
    add(on(github))
    github.inject(hanging(), method="GET", path="info/refs", times=20)
    began = time.monotonic()
    end = began + 2.0
    with pytest.raises(HistoryError):
        add(on(github, deadline=lambda: end - time.monotonic()), "runs/a/2")
    assert time.monotonic() - began < 4.0
    with pytest.raises(HistoryError, match="no time left"):
        on(github, deadline=lambda: 0.0).snapshot()
    assert not _orphans(github.server_url)


def _orphans(url: str) -> list[str]:
    """git's helpers that still speak to the server."""
    listed = subprocess.check_output(["ps", "-eo", "pid,args"], text=True).splitlines()
    return [line for line in listed if url in line and "remote-http" in line]


# --- what is in the branch that nobody of us wrote -----------------------------------------------------------------


def test_files_that_are_not_ours_are_left_alone(data: Path, tmp_path: Path) -> None:
    add(branch_store(data))
    checkout = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", "--branch", BRANCH, str(data), str(checkout))
    strange = ["runs/ä.json", "runs/with space", "-rf", ".hidden/x", 'runs/"quoted"', "runs/new\nline"]
    for name in strange:
        path = checkout / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("theirs")
    (checkout / "runs" / "link").symlink_to("/etc/passwd")
    git(checkout, "add", "--all")
    git(checkout, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--message", "strange")
    git(checkout, "push", "--quiet", "origin", BRANCH)
    store = branch_store(data)
    assert set(store.snapshot().names) == {"runs/a/1", "version.json", "README.md"}
    add(store, "runs/a/2")
    store.update(lambda _: {"runs/a/1": None}, message="compact", forget=True)
    left = git(data, "ls-tree", "-r", "-z", "--name-only", BRANCH).split("\0")
    assert set(strange) <= set(left)
    assert "runs/link" in left
