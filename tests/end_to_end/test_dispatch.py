"""Tiers on machines of the team's, from the push to the comment: every workflow runs under act, against a GitHub.

The dispatched workflow really runs, in a checkout of its own; see `Team` in act.py.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.act import (
    ROOT,
    Machine,
    Team,
    branch,
    commit,
    git,
    make_repository,
    pull_request_event,
    push_event,
    until,
    write,
)
from tests.loopback_github import Hooks, LoopbackGitHub, Pull, Repository, dropped

pytestmark = pytest.mark.act

GPU = ROOT / "workflows" / "gpu-tier.yml"
CONFIG = """\
version: 1
source: [src]
tiers:
  unit:
    paths: [tests/unit]
    when: [push, pull_request]
    budget: 1m
    workers: 1
  gpu:
    paths: [tests/gpu]
    when: [push, pull_request]
    runner: [self-hosted, cuda]
    budget: 5m
    queue: 1h
    workers: 1
"""
PROJECT = {
    "ml-tiers.yml": CONFIG,
    "src/__init__.py": "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n",
    "tests/unit/test_double.py": "import src\n\n\ndef test_double():\n    assert src.double(2) == 4\n",
    "tests/gpu/test_half.py": (
        "import pytest\nimport src\n\n\n"
        "@pytest.mark.parametrize('n', range(8))\ndef test_half(n):\n    assert src.half(2 * n) == n\n"
    ),
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine.make(tmp_path_factory.mktemp("machine"))


class Scene:
    """A repository with both workflows, a pull request of a writer, and the team's machines."""

    def __init__(self, github: LoopbackGitHub, machine: Machine, path: Path, config: str = CONFIG) -> None:
        self.github = github
        self.machine = machine
        self.path = make_repository(path, {**PROJECT, "ml-tiers.yml": config})
        (self.path / ".github" / "workflows" / "gpu-tier.yml").write_text(GPU.read_text())
        commit(self.path, "The dispatched workflow")
        branch(self.path, "feature", {"src/extra.py": "A = 1\n"})
        git(self.path, "config", "receive.denyCurrentBranch", "ignore")
        self.repository: Repository = github.add_repository(path=self.path)
        self.repository.add_workflow(".github/workflows/gpu-tier.yml", GPU.read_text())
        self.repository.collaborators["writer"] = "write"
        self.pull: Pull = self.repository.add_pull_request(head="feature", author="writer")
        self.team = Team(machine, self.path)
        self.team.github = github
        self.team.token = self.token = github.add_token()
        github.hooks = Hooks(on_dispatch=self.team.take, on_cancel=self.team.cancel)

    def status(self, sha: str | None = None) -> tuple[str, str | None]:
        newest = [s for s in self.repository.statuses if s.context == "mltiers/gpu"
                  and s.sha == (sha or self.pull.head_sha)][-1]  # fmt: skip
        return newest.state, newest.description


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


def test_from_the_pull_request_to_one_comment_with_both_tiers(
    github: LoopbackGitHub, machine: Machine, tmp_path: Path
) -> None:
    scene = Scene(github, machine, tmp_path / "project")
    here = machine.run(scene.path, pull_request_event(scene.pull, scene.path), github, token=scene.token)
    assert here.exit_code == 0, here.text
    assert scene.status()[0] in ("pending", "success")
    (there,) = scene.team.finish()
    assert there.exit_code == 0, there.text
    (run,) = scene.repository.runs.values()
    assert run.inputs["sha"] == scene.pull.head_sha
    assert [artifact.name for artifact in run.artifacts][:1] == ["mltiers-test-gpu"]
    assert scene.status() == ("success", scene.status()[1])
    assert "passed: 8 passed" in (scene.status()[1] or "")
    (comment,) = scene.pull.comments
    assert "Tests: passed" in comment.body, comment.body
    assert "| `unit` |" in comment.body
    assert "| `gpu` |" in comment.body
    assert "8 passed" in comment.body


def test_a_failing_gpu_test_is_red_where_it_counts(github: LoopbackGitHub, machine: Machine, tmp_path: Path) -> None:
    scene = Scene(github, machine, tmp_path / "project")
    git(scene.path, "checkout", "--quiet", "feature")
    write(scene.path, {"src/__init__.py": PROJECT["src/__init__.py"].replace("x / 2", "x / 3")})
    scene.pull.head_sha = commit(scene.path, "Break it")
    git(scene.path, "checkout", "--quiet", "main")
    here = machine.run(scene.path, pull_request_event(scene.pull, scene.path), github, token=scene.token)
    assert here.exit_code == 0, here.text  # it did not wait
    (there,) = scene.team.finish()
    assert there.exit_code == 1
    assert scene.status() == ("failure", "failed: 7 of 8 tests failed")
    (comment,) = scene.pull.comments
    assert "Tests: failed" in comment.body
    assert "test_half" in comment.body


def test_an_answer_lost_after_the_run_was_made(github: LoopbackGitHub, machine: Machine, tmp_path: Path) -> None:
    scene = Scene(github, machine, tmp_path / "project")
    github.inject(dropped(effect=True), method="POST", path="/dispatches")
    here = machine.run(scene.path, push_event(scene.repository, scene.path), github, token=scene.token)
    assert here.exit_code == 0, here.text
    (there,) = scene.team.finish()
    assert there.exit_code == 0, there.text
    assert len(scene.repository.runs) == 1
    assert scene.status(git(scene.path, "rev-parse", "main"))[0] == "success"


def test_no_runner_and_the_next_push_says_so(github: LoopbackGitHub, machine: Machine, tmp_path: Path) -> None:
    scene = Scene(github, machine, tmp_path / "project", CONFIG.replace("queue: 1h", "queue: 1s"))
    scene.team.away = True
    first = push_event(scene.repository, scene.path)
    job = machine.run(scene.path, first, github, token=scene.token)
    assert job.exit_code == 0, job.text
    (run,) = scene.repository.runs.values()
    assert run.status == "queued"
    sha = git(scene.path, "rev-parse", "main")
    time.sleep(1.1)  # its queue limit; nothing of ours is running
    write(scene.path, {"src/later.py": "B = 2\n"})
    commit(scene.path, "The next push")
    job = machine.run(scene.path, push_event(scene.repository, scene.path, before=sha), github, token=scene.token)
    assert job.exit_code == 0, job.text
    assert run.conclusion == "cancelled"
    assert scene.status(sha)[0] == "error"
    assert "never-started: no runner" in (scene.status(sha)[1] or "")
    assert "never-started" in job.text


def test_whoever_waits_may_be_killed(github: LoopbackGitHub, machine: Machine, tmp_path: Path) -> None:
    """The run that was started goes on, and its own second job says what became of it."""
    scene = Scene(github, machine, tmp_path / "project")
    starter = scene.path / ".github" / "workflows" / "pull-request.yml"
    starter.write_text(f"{starter.read_text().rstrip()}\n        with:\n          wait: true\n")
    commit(scene.path, "Wait")
    running = machine.start(scene.path, push_event(scene.repository, scene.path), github, token=scene.token)
    until(lambda: scene.repository.runs, seconds=240)
    os.kill(until(running.entry_process), signal.SIGKILL)
    job = running.finish()
    assert job.exit_code != 0
    (there,) = scene.team.finish()
    assert there.exit_code == 0, there.text
    assert scene.status(git(scene.path, "rev-parse", "main"))[0] == "success"


@pytest.mark.parametrize("wait", [False, True], ids=["the last one reports", "the caller waits"])
def test_shards_are_one_tier(github: LoopbackGitHub, machine: Machine, tmp_path: Path, wait: bool) -> None:
    count = 8 if wait else 3
    scene = Scene(github, machine, tmp_path / "project", CONFIG.replace("queue: 1h", f"queue: 1h\n    shards: {count}"))
    if wait:
        starter = scene.path / ".github" / "workflows" / "pull-request.yml"
        starter.write_text(f"{starter.read_text().rstrip()}\n        with:\n          wait: true\n")
        commit(scene.path, "Wait")
    here = machine.run(scene.path, push_event(scene.repository, scene.path), github, token=scene.token)
    assert here.exit_code == 0, here.text
    jobs = scene.team.finish(900)
    assert [job.exit_code for job in jobs] == [0] * count, "\n".join(job.text for job in jobs)
    state, said = scene.status(git(scene.path, "rev-parse", "main"))
    assert (state, (said or "").partition(" in ")[0]) == ("success", "passed: 8 passed")
    if wait:
        (result,) = here.artifacts.rglob("gpu/result.json")
        merged = json.loads(result.read_text())
        assert len(merged["tests"]) == 8
        assert [part["shard"] for part in merged["parts"]] == list(range(1, count + 1))


CALLER = """\
on: push
jobs:
  tiers:
    uses: ./.github/workflows/tiers.yml
    permissions: { contents: write, actions: read, statuses: write, pull-requests: write }
"""


def test_the_called_workflow_runs_every_tier_where_it_belongs(
    github: LoopbackGitHub, machine: Machine, tmp_path: Path
) -> None:
    scene = Scene(github, machine, tmp_path / "project", CONFIG.replace("queue: 1h", "queue: 1h\n    shards: 2"))
    folder = scene.path / ".github" / "workflows"
    write(folder, {"all.yml": CALLER, "tiers.yml": (ROOT / ".github" / "workflows" / "tiers.yml").read_text()})
    write(scene.path, {"requirements.txt": "pytest\n"})
    commit(scene.path, "One line")
    workflow = scene.repository.add_workflow(".github/workflows/all.yml", CALLER)
    event = push_event(scene.repository, scene.path)
    sha = git(scene.path, "rev-parse", "main")
    run = scene.repository.add_run(workflow, event="push", head_branch="main", head_sha=sha, actor="writer")
    job = scene.team.run(run, event)
    assert job.exit_code == 0, job.text
    assert len([artifact for artifact in run.artifacts if "gpu" in artifact.name]) == 2
    assert scene.status(sha)[0] == "success"
    assert "passed: 8 passed" in (scene.status(sha)[1] or "")
    assert list(scene.repository.runs.values()) == [run]  # nothing was dispatched
