"""The comment is a view of what is stored of its commit: jobs that know nothing of each other end in the same one."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.loopback_github import READ, Fault, LoopbackGitHub, meeting, payloads
from tests.support.project import Done, Project

FILES = {
    "ml-tiers.yml": (
        "version: 1\nsource: [src]\ntiers:\n"
        "  unit: {paths: [tests/unit], workers: 1, budget: 60s}\n"
        "  slow: {paths: [tests/slow], workers: 1, budget: 60s, when: [nightly]}\n"
    ),
    "src/calc.py": "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n",
    "tests/unit/test_add.py": "from src.calc import add\n\n\ndef test_add():\n    assert add(1, 1) == 2\n",
    "tests/slow/test_sub.py": "from src.calc import sub\n\n\ndef test_sub():\n    assert sub(1, 1) == 0\n",
}
Make = Callable[..., Project]


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@dataclass
class Scene:
    """A pull request, and jobs on machines of their own, each with a checkout of its own."""

    github: LoopbackGitHub
    project: Project
    repository: Any
    pull: Any
    token: str

    def job(self, number: int, *arguments: str, fork: bool = False) -> Done:
        """One job's `mltiers`, on its own machine."""
        machine = self.project.root.parent / f"machine {number}"
        shutil.rmtree(machine, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(self.project.root), str(machine)], check=True)
        payload = payloads.pull_request(self.pull)
        if fork:
            payload["pull_request"]["head"]["repo"]["full_name"] = "stranger/widgets"
        event = machine.parent / f"event {number}.json"
        event.write_text(json.dumps(payload))
        return Project(machine, {}).mltiers(
            *arguments,
            GITHUB_ACTIONS="true", GITHUB_EVENT_NAME="pull_request", GITHUB_EVENT_PATH=str(event),
            GITHUB_API_URL=self.github.api_url, GITHUB_SERVER_URL=self.github.server_url,
            GITHUB_REPOSITORY=self.repository.full_name, GITHUB_RUN_ID=str(number), GITHUB_RUN_ATTEMPT="1",
            GITHUB_SHA="f" * 40, GITHUB_TOKEN=self.token,
        )  # fmt: skip

    @property
    def comment(self) -> str:
        (comment,) = (comment for comment in self.pull.comments if "mltiers:comment" in comment.body)
        return str(comment.body)

    def stored(self) -> list[str]:
        """The names of the records in the branch."""
        listed = subprocess.run(
            ["git", "ls-tree", "-r", "--name-only", "refs/heads/mltiers-data"],
            cwd=self.project.root, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        return [name for name in listed.splitlines() if name.startswith(("runs/", "forks/"))]


@pytest.fixture
def scene(github: LoopbackGitHub, project: Make) -> Scene:
    return set_up(github, project)


def set_up(github: LoopbackGitHub, project: Make, **token: Any) -> Scene:
    subject = project(FILES)
    subject.commit("base")
    subject.git("checkout", "-q", "-b", "feature")
    subject.write({"src/calc.py": FILES["src/calc.py"] + "\n\ndef mul(a, b):\n    return a * b\n"})
    subject.commit("the change")
    repository = github.add_repository("octo/widgets", path=subject.root / ".git")
    return Scene(github, subject, repository, repository.add_pull_request(head="feature"), github.add_token(**token))


def assert_complete(comment: str) -> None:
    assert "### ✅ Tests: passed · 2 tests in 2 tiers" in comment
    assert "| `unit` | ✅ passed | 1 passed" in comment
    assert "| `slow` | ✅ passed | 1 passed" in comment
    assert "**Coverage** 83.3% of 6 lines" in comment  # 66.6 by each tier alone


@pytest.mark.parametrize("order", [("unit", "slow"), ("slow", "unit")], ids="-".join)
def test_the_later_of_two_jobs_shows_both(scene: Scene, order: tuple[str, str]) -> None:
    for number, tier in enumerate(order, 1):
        done = scene.job(number, "run", tier)
        assert done.code == 0, done.err
    assert_complete(scene.comment)


def test_a_job_that_is_overtaken_while_it_comments_says_it_again(scene: Scene, github: LoopbackGitHub) -> None:
    """The first job has rendered what it knew; before its comment arrives, the second runs from start to end."""
    overtaking: list[Done] = []
    overtake = Fault(before=lambda: overtaking.append(scene.job(2, "run", "slow")), effect=True)
    github.inject(overtake, method="POST", path="/comments$")
    first = scene.job(1, "run", "unit")
    assert (first.code, overtaking[0].code) == (0, 0), first.err
    assert_complete(scene.comment)


def test_two_jobs_that_comment_in_the_same_moment_leave_one_complete_comment(
    scene: Scene, github: LoopbackGitHub
) -> None:
    github.inject(meeting(2), method="POST", path="/comments$", times=2)
    done: list[Done] = []
    jobs = [
        threading.Thread(target=lambda number=number, tier=tier: done.append(scene.job(number, "run", tier)))
        for number, tier in enumerate(("unit", "slow"), 1)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.code for job in done] == [0, 0], [job.err for job in done]
    assert_complete(scene.comment)


def test_a_tier_that_failed_elsewhere_fails_the_comment_and_not_the_job(scene: Scene) -> None:
    scene.project.write({"tests/slow/test_sub.py": "def test_sub():\n    assert 1 == 2\n"})
    scene.pull.head_sha = scene.project.commit("a failing test")
    assert scene.job(1, "run", "slow").code == 1
    unit = scene.job(2, "run", "unit")
    assert (unit.code, unit.verdict["verdict"]) == (0, "passed")
    assert "### ❌ Tests: failed · 2 tests in 2 tiers" in scene.comment
    assert "assert 1 == 2" in scene.comment
    assert (unit.folder / ".mltiers/comment.md").read_text().strip() == scene.comment.strip()


def test_the_results_of_an_older_commit_are_not_this_ones(scene: Scene) -> None:
    scene.job(1, "run", "slow")
    scene.project.write({"src/calc.py": FILES["src/calc.py"]})
    scene.pull.head_sha = scene.project.commit("another change")
    scene.job(2, "run", "unit")
    assert "1 test in 1 tier" in scene.comment
    assert "no result of it is known for this commit" in scene.comment
    assert len(scene.stored()) == 2


def test_a_forks_own_job_stores_nothing_even_with_a_token_that_could(scene: Scene) -> None:
    done = scene.job(1, "run", "unit", fork=True)
    assert done.code == 0, done.err
    assert scene.stored() == []


def test_a_token_that_may_not_write_is_said_with_the_remedy_and_fails_nothing(
    github: LoopbackGitHub, project: Make
) -> None:
    scene = set_up(github, project, permissions={**READ, "issues": "write", "pull_requests": "write"})
    done = scene.job(1, "run", "unit")
    assert done.code == 0, done.err
    assert "the results were not remembered" in done.err
    assert "contents: write" in scene.comment
    assert scene.stored() == []
