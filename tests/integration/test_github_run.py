"""`mltiers run` as a job of GitHub: real command, real git, and a GitHub held to its own description."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_github import ACTIONS_BOT, READ, LoopbackGitHub, dropped, payloads, server_error
from tests.support.project import Done, Project

FILES = {
    "ml-tiers.yml": (
        "version: 1\nsource: [src]\ntiers:\n"
        "  unit: {paths: [tests], workers: 1, budget: 60s, changes: [src/**, tests/**]}\n"
        "  docs: {paths: [tests], workers: 1, changes: ['docs/**']}\n"
        "  gpu: {paths: [tests], when: [pre-merge], runner: [self-hosted, cuda], gpus: 1}\n"
    ),
    "src/calc.py": "def add(a, b):\n    return a + b\n",
    "tests/test_calc.py": "from src.calc import add\n\n\ndef test_add():\n    assert add(1, 1) == 2\n",
}
CHANGE = {"src/calc.py": "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n"}
Make = Callable[..., Project]


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@dataclass
class Scene:
    """A repository on GitHub with a pull request, and its checkout as a job has it."""

    github: LoopbackGitHub
    project: Project
    repository: Any
    pull: Any
    token: str

    def run(self, *arguments: str, payload: dict[str, Any] | None = None, name: str = "pull_request",
            **extra: str) -> Done:  # fmt: skip
        event = self.project.root.parent / "event.json"
        event.write_text(json.dumps(payload or payloads.pull_request(self.pull)))
        return self.project.mltiers(
            *(arguments or ("run",)),
            GITHUB_ACTIONS="true", GITHUB_EVENT_NAME=name, GITHUB_EVENT_PATH=str(event),
            GITHUB_API_URL=self.github.api_url, GITHUB_REPOSITORY=self.repository.full_name,
            GITHUB_RUN_ID="77", GITHUB_RUN_ATTEMPT="1", GITHUB_SHA="f" * 40, GITHUB_TOKEN=self.token,
            **extra,
        )  # fmt: skip

    @property
    def comments(self) -> list[Any]:
        return [comment for comment in self.pull.comments if "mltiers:comment" in comment.body]


def scene(github: LoopbackGitHub, project: Make, change: dict[str, str] = CHANGE, **token: Any) -> Scene:
    subject = project(FILES)
    subject.commit("base")
    subject.git("checkout", "-q", "-b", "feature")
    subject.write(change)
    subject.commit("the change")
    repository = github.add_repository("octo/widgets", path=subject.root / ".git")
    pull = repository.add_pull_request(head="feature")
    return Scene(github, subject, repository, pull, github.add_token(**token))


def test_one_comment_found_again_and_updated(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    first = job.run()
    assert first.code == 0, first.err
    (comment,) = job.comments
    assert comment.author.login == ACTIONS_BOT
    assert "### ✅ Tests: passed · 1 test in 1 tier" in comment.body
    assert "no changed file matches docs/" in comment.body.replace("\\", "")
    assert "waits for the label" in comment.body
    assert "of the change: **50.0%** (1 of 2 lines)" in comment.body
    assert "`src/calc.py`: [6](" in comment.body
    assert f"/blob/{job.pull.head_sha}/src/calc.py#L6)" in comment.body
    assert "actions/runs/77" in comment.body

    job.project.write({"tests/test_calc.py": "def test_add():\n    assert 1 + 1 == 3\n"})
    second = job.run()
    assert second.code == 1
    (updated,) = job.comments
    assert updated.id == comment.id
    assert "failed" in updated.body
    assert "::error file=tests/test_calc.py,line=2," in second.err


def test_the_result_belongs_to_the_head_of_the_pull_request(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    assert job.run().verdict["sha"] == job.pull.head_sha


def test_a_newer_head_supersedes_and_keeps_its_comment(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    payload = payloads.pull_request(job.pull)
    before = job.project.git("rev-parse", "HEAD")
    job.project.write({"src/calc.py": "x = 1\n"})
    job.pull.head_sha = job.project.commit("newer")
    job.project.git("checkout", "-q", "--detach", before)
    done = job.run(payload=payload)
    assert (done.verdict["verdict"], done.code) == ("superseded", 0)
    assert job.comments == []


def test_a_forks_token_may_not_comment_and_that_is_no_failure(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project, permissions=READ)
    payload = payloads.pull_request(job.pull)
    payload["pull_request"]["head"]["repo"]["full_name"] = "stranger/widgets"
    done = job.run(payload=payload)
    assert done.code == 0, done.err
    assert "a fork's token may not comment" in done.err
    assert job.comments == []


def test_a_token_without_permission_is_infrastructure_with_the_remedy(github: LoopbackGitHub, project: Make) -> None:
    done = scene(github, project, permissions=READ).run()
    assert (done.verdict["verdict"], done.code) == ("infrastructure", 3)
    assert "GitHub could not be told" in done.verdict["reasons"][0]
    assert "pull-requests" in done.verdict["reasons"][0] or "issues" in done.verdict["reasons"][0]


def test_a_failure_stays_a_failure_when_github_cannot_be_told(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project, permissions=READ)
    job.project.write({"tests/test_calc.py": "def test_add():\n    assert 0\n"})
    done = job.run()
    assert (done.verdict["verdict"], done.code) == ("failed", 1)


def test_an_answer_that_is_lost_leaves_one_comment(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    github.inject(dropped(effect=True), method="POST", path=r"/comments$", times=1)
    assert job.run().code == 0
    assert len(job.comments) == 1


def test_github_is_down_for_a_moment(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    github.inject(server_error(), method="GET", path=r"/comments$", times=1)
    assert job.run().code == 0
    assert len(job.comments) == 1


def test_a_shallow_clone_asks_github_which_files_changed(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    clone = job.project.root.parent / "a shallow clone"
    origin = job.project.root.as_uri()
    subprocess.run(["git", "clone", "-q", "--depth=1", "--branch=feature", origin, str(clone)], check=True)
    job.project = Project(clone, {})
    done = job.run("plan", "--json")
    plan = json.loads(done.out)
    assert plan["changes"] == {"source": "api", "files": ["src/calc.py"]}
    assert plan["tiers"]["unit"]["reason"] == "src/calc.py changed"
    assert plan["tiers"]["docs"]["run"] is False


def test_the_merge_commit_of_a_checkout_is_compared_with_its_first_parent(
    github: LoopbackGitHub, project: Make
) -> None:
    job = scene(github, project)
    payload = payloads.pull_request(job.pull)
    git = job.project.git
    git("checkout", "-q", "main")
    job.project.write({"docs/other.md": "what the base branch did meanwhile\n"})
    job.project.commit("meanwhile")
    git("merge", "-q", "--no-ff", "-m", "merge", "feature")
    plan = json.loads(job.run("plan", "--json", payload=payload).out)
    assert plan["changes"] == {"source": "git", "files": ["src/calc.py"]}
    assert plan["event"]["sha"] == job.pull.head_sha


def test_a_pull_request_cannot_choose_where_it_runs(github: LoopbackGitHub, project: Make) -> None:
    job = scene(
        github, project, {"ml-tiers.yml": FILES["ml-tiers.yml"].replace("[self-hosted, cuda]", "[the-big-one]")}
    )
    plan = json.loads(job.run("plan", "--json").out)
    assert plan["tiers"]["gpu"]["runner"] == ["self-hosted", "cuda"]
    assert any("tiers.gpu.runner" in note for note in plan["notes"])


def test_pull_request_target_is_refused_with_the_safe_way(github: LoopbackGitHub, project: Make) -> None:
    done = scene(github, project).run(name="pull_request_target")
    assert done.code == 2
    assert "workflow_run" in done.err


def test_a_push_comments_nowhere(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    payload = payloads.push(job.repository, ref="refs/heads/feature", before=job.project.git("rev-parse", "main"),
                            after=job.pull.head_sha)  # fmt: skip
    done = job.run(payload=payload, name="push")
    assert done.code == 0, done.err
    assert job.comments == []
    assert done.document("plan.json")["changes"]["files"] == ["src/calc.py"]


def test_comment_never(github: LoopbackGitHub, project: Make) -> None:
    job = scene(github, project)
    assert job.run("run", "--comment", "never").code == 0
    assert job.comments == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"pull_request": 3}', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_broken_payload_is_a_usage_error(
    github: LoopbackGitHub, project: Make, content: str | bytes, tmp_path: Path
) -> None:
    job = scene(github, project)
    event = tmp_path / "broken.json"
    event.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = job.project.mltiers(
        "run", GITHUB_ACTIONS="true", GITHUB_EVENT_NAME="pull_request", GITHUB_EVENT_PATH=str(event)
    )
    assert done.code == 2
    assert "GITHUB_EVENT_PATH" in done.err
