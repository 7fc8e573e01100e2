"""Nights, queues, labels, comments and forks: each starter under act, up to what really ran on the team's machine."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.act import (
    ROOT,
    EventFile,
    Job,
    Machine,
    Team,
    branch,
    commit,
    git,
    make_repository,
    pull_request_event,
    zipped,
)
from tests.loopback_github import READ, Hooks, LoopbackGitHub, Pull, Repository, payloads
from tests.loopback_github.contract import github_contract

pytestmark = pytest.mark.act

STARTERS = ("gpu-tier.yml", "nightly.yml", "commands.yml", "fork-report.yml")
MAIN = "refs/heads/main"
PROJECT = {
    "ml-tiers.yml": """\
version: 1
source: [src]
tiers:
  unit:
    paths: [tests/unit]
    budget: 1m
    workers: 1
  gpu:
    paths: [tests/gpu]
    when: [nightly, pre-merge]
    runner: [self-hosted, cuda]
    budget: 5m
    workers: 1
""",
    "src/__init__.py": "def double(x):\n    return 2 * x\n",
    "tests/unit/test_double.py": "import src\n\n\ndef test_double():\n    assert src.double(2) == 4\n",
    # What a stranger's approved code finds on the team's machine: no token, and no file to speak to later steps by.
    "tests/gpu/test_curious.py": """\
import os
import subprocess
from pathlib import Path


def test_secrets():
    assert not {"GITHUB_TOKEN", "GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH"} & set(os.environ)
    assert "ghs_" not in "".join(os.environ.values())
    assert "bearer" not in Path(".git/config").read_text().lower()


def test_the_environment_of_whoever_started_us():
    pid = os.getpid()
    while Path(f"/proc/{pid}/comm").read_text().strip() != "act":  # the runner itself
        assert b"ghs_" not in Path(f"/proc/{pid}/environ").read_bytes(), Path(f"/proc/{pid}/cmdline").read_text()
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert pid > 1


def test_the_commit():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    Path(os.environ["SEEN"]).write_text(head) if "SEEN" in os.environ else None
""",
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine.make(tmp_path_factory.mktemp("machine"))


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


class Scene:
    """A repository with every starter, a pull request of `ann` (who may write) or a fork, and the machines."""

    def __init__(self, github: LoopbackGitHub, machine: Machine, path: Path, *, fork: bool = False) -> None:
        self.github, self.machine = github, machine
        self.path = make_repository(path, PROJECT)
        self.repository: Repository = github.add_repository(path=self.path)
        for name in STARTERS:
            text = (ROOT / "workflows" / name).read_text(encoding="utf-8")
            (self.path / ".github" / "workflows" / name).write_text(text, encoding="utf-8")
            self.repository.add_workflow(f".github/workflows/{name}", text)
        commit(self.path, "The starters")
        git(self.path, "config", "receive.denyCurrentBranch", "ignore")
        branch(self.path, "feature", {"src/extra.py": "A = 1\n"})
        self.repository.collaborators.update(ann="write", bob="read")
        for login in ("ann", "bob", "stranger"):
            github.world.account(login)
        source = github.add_repository("stranger/widgets", path=self.path, fork=True) if fork else None
        author = "stranger" if fork else "ann"
        self.pull: Pull = self.repository.add_pull_request(head="feature", head_repository=source, author=author)
        self.token = github.add_token()
        self.team = Team(machine, self.path)
        self.team.github, self.team.token = github, self.token
        github.hooks = Hooks(on_dispatch=self.team.take, on_cancel=self.team.cancel)

    def job(self, workflow: str, event: EventFile, *, token: str | None = None) -> Job:
        return self.machine.run(
            self.path, event, self.github, token=token or self.token, workflow_name=f"{workflow}.yml"
        )

    def comment(self, by: str, text: str) -> EventFile:
        comment = self.pull.comment(by, text)
        comment.created = comment.updated = comment.created + timedelta(minutes=1)
        return held("issue_comment", "issue-comment-created", payloads.issue_comment(self.pull, comment), MAIN)

    def label(self, by: str) -> EventFile:
        event = pull_request_event(self.pull, self.path)
        payload = payloads.pull_request(self.pull, action="labeled", label="ready-for-gpu", sender=by)
        return held("pull_request", "pull-request-labeled", payload, event.ref)

    def push_to_branch(self) -> None:
        git(self.path, "checkout", "--quiet", "feature")
        (self.path / "src" / "more.py").write_text("B = 2\n")
        self.pull.head_sha = commit(self.path, "More")
        git(self.path, "checkout", "--quiet", "main")

    def started(self) -> list[tuple[str, str]]:
        return [(run.inputs["tier"], run.inputs["sha"]) for run in self.repository.runs.values() if run.inputs]

    def status(self, sha: str) -> str | None:
        found = [status.state for status in self.repository.statuses if status.sha == sha]
        return found[-1] if found else None


def held(name: str, kind: str, payload: dict[str, Any], ref: str) -> EventFile:
    assert github_contract().payload_problems(kind, payload) == []
    return EventFile(name=name, payload=payload, ref=ref)


@pytest.fixture
def scene(github: LoopbackGitHub, machine: Machine, tmp_path: Path) -> Scene:
    return Scene(github, machine, tmp_path / "project")


def assert_tested(scene: Scene, sha: str) -> None:
    """One run of the team's, of this commit, which passed and said so."""
    (job,) = scene.team.finish()
    assert job.exit_code == 0, job.text
    assert scene.started() == [("gpu", sha)]
    assert scene.status(sha) == "success"


def test_a_night_tests_the_default_branch_once(scene: Scene) -> None:
    sha = git(scene.path, "rev-parse", "main")
    night = EventFile(name="schedule", payload=payloads.schedule(scene.repository), ref=MAIN)
    job = scene.job("nightly", night)
    assert job.exit_code == 0, job.text
    assert_tested(scene, sha)
    again = scene.job("nightly", night)
    assert again.exit_code == 0, again.text
    assert scene.started() == [("gpu", sha)]
    assert "this commit was tested already" in again.summary


def test_a_merge_queue(scene: Scene) -> None:
    event = pull_request_event(scene.pull, scene.path)
    merged = git(scene.path, "rev-parse", event.ref)
    payload = payloads.merge_group(scene.pull, head_sha=merged)
    ref = payload["merge_group"]["head_ref"]
    git(scene.path, "update-ref", ref, merged)
    job = scene.job("pull-request", held("merge_group", "merge-group-checks-requested", payload, ref))
    assert job.exit_code == 0, job.text
    assert_tested(scene, merged)
    (comment,) = scene.pull.comments
    assert "Tests: passed" in comment.body
    assert "| `gpu` |" in comment.body


def test_the_label_of_a_writer(scene: Scene) -> None:
    job = scene.job("commands", scene.label("ann"))
    assert job.exit_code == 0, job.text
    assert_tested(scene, scene.pull.head_sha)


def test_the_label_of_a_reader(scene: Scene) -> None:
    job = scene.job("commands", scene.label("bob"))
    assert job.exit_code == 0, job.text
    assert scene.started() == []
    assert "bob has no write permission here" in job.text


def test_the_command_of_a_writer(scene: Scene) -> None:
    job = scene.job("commands", scene.comment("ann", "/mltiers gpu"))
    assert job.exit_code == 0, job.text
    assert_tested(scene, scene.pull.head_sha)
    (comment,) = [comment for comment in scene.pull.comments if "mltiers:comment" in comment.body]
    assert "| `gpu` |" in comment.body


def test_the_command_of_a_stranger(scene: Scene) -> None:
    job = scene.job("commands", scene.comment("stranger", f"/mltiers gpu {scene.pull.head_sha}"))
    assert job.exit_code == 0, job.text
    assert scene.started() == []
    assert [comment.author.login for comment in scene.pull.comments if comment.author] == ["stranger"]


def test_an_ordinary_comment_takes_no_runner(scene: Scene) -> None:
    job = scene.job("commands", scene.comment("ann", "Nice work, /mltiers is great"))
    assert job.exit_code == 0, job.text
    assert scene.github.exchanges == []


def test_the_head_moved_after_the_approval(scene: Scene) -> None:
    event = scene.label("ann")
    approved = scene.pull.head_sha
    scene.push_to_branch()
    job = scene.job("commands", event)
    assert job.exit_code == 0, job.text
    assert scene.started() == []
    assert f"the head of the pull request is {scene.pull.head_sha[:10]} by now, and {approved[:10]}" in job.text


def test_the_head_moved_between_the_comment_and_the_dispatched_job(
    github: LoopbackGitHub, machine: Machine, tmp_path: Path
) -> None:
    scene = Scene(github, machine, tmp_path / "project", fork=True)
    approved = scene.pull.head_sha
    github.hooks = Hooks()  # no machine takes it yet
    job = scene.job("commands", scene.comment("ann", f"/mltiers gpu {approved}"))
    assert job.exit_code == 0, job.text
    scene.push_to_branch()
    (run,) = [run for run in scene.repository.runs.values() if run.inputs]
    scene.team.take(run)
    (there,) = scene.team.finish()
    assert scene.status(approved) == "success", there.text  # of the commit that was read, and of no other
    assert scene.status(scene.pull.head_sha) is None


def test_a_forks_pull_request_is_tested_there_and_posted_from_here(
    github: LoopbackGitHub, machine: Machine, tmp_path: Path
) -> None:
    scene = Scene(github, machine, tmp_path / "project", fork=True)
    first = scene.job(
        "pull-request", pull_request_event(scene.pull, scene.path), token=github.add_token(permissions=READ)
    )
    assert first.exit_code == 0, first.text
    assert scene.pull.comments == []
    workflow = scene.repository.add_workflow(".github/workflows/pull-request.yml", "name: Tests\non: pull_request\n")
    run = scene.repository.add_run(
        workflow, event="pull_request", head_branch="feature", head_sha=scene.pull.head_sha, actor="stranger"
    )
    run.head_repository = scene.pull.head_repository
    (uploaded,) = first.artifacts.iterdir()
    run.add_artifact(uploaded.name, with_lies(zipped(uploaded)))
    run.finish("success")
    event = held("workflow_run", "workflow-run-completed", payloads.workflow_run(run), MAIN)
    job = scene.job("fork-report", event)
    assert job.exit_code == 0, job.text
    (comment,) = scene.pull.comments
    assert "Tests: passed" in comment.body
    assert "| `unit` |" in comment.body
    assert f"/mltiers gpu {scene.pull.head_sha}" in comment.body.replace("\\", "").replace("\u2060", "")
    assert scene.status(scene.pull.head_sha) == "pending"
    assert scene.started() == []


def with_lies(content: bytes) -> bytes:
    """The artifact as somebody could have made it: with a passed GPU tier that never ran."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("gpu/junit.xml", source.read("unit/junit.xml"))
        told = {"version": 1, "tier": "gpu", "ending": "exited", "exit_code": 0, "seconds": 1.0}
        target.writestr("gpu/result.json", json.dumps(told))
    return changed.getvalue()
