"""A repository with a pull request on a GitHub that knows who may write, as a job of it finds both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.loopback_github import LoopbackGitHub, Pull, Repository, payloads
from tests.support.project import Done, Project

GPU_TIER = Path(__file__).resolve().parents[2] / "workflows" / "gpu-tier.yml"
FILES = {
    "ml-tiers.yml": """\
version: 1
source: [src]
tiers:
  unit: {paths: [tests], workers: 1, budget: 60s}
  gpu: {paths: [tests], when: [nightly, pre-merge], runner: [self-hosted, cuda], gpus: 1, budget: 30m}
  smoke: {paths: [tests], when: [push, pull_request], runner: [self-hosted, cuda], needs: [unit]}
  convergence: {paths: [tests], when: [nightly], runner: [self-hosted, cuda], required: false}
  kernels: {paths: [tests], when: [pre-merge], runner: [self-hosted, cuda], changes: ["kernels/**"]}
""",
    "src/calc.py": "def add(a, b):\n    return a + b\n",
    "tests/test_calc.py": "from src.calc import add\n\n\ndef test_add():\n    assert add(1, 1) == 2\n",
}
Make = Callable[..., Project]


@dataclass
class Scene:
    """A repository with a pull request, as a job finds it: `ann` may write, `bob` may read, `cat` is a maintainer."""

    github: LoopbackGitHub
    project: Project
    repository: Repository
    pull: Pull
    token: str

    def command(self, *arguments: str, name: str, payload: dict[str, Any], **extra: str) -> Done:
        path = self.project.root.parent / "event.json"
        path.write_text(json.dumps(payload), encoding="utf-8")
        variables = {
            "GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": name, "GITHUB_EVENT_PATH": str(path),
            "GITHUB_API_URL": self.github.api_url, "GITHUB_SERVER_URL": self.github.server_url,
            "GITHUB_REPOSITORY": self.repository.full_name, "GITHUB_RUN_ID": "77", "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_SHA": "f" * 40, "GITHUB_TOKEN": self.token, **extra,
        }  # fmt: skip
        return self.project.mltiers(*arguments, **variables)

    def plan(self, name: str, payload: dict[str, Any], *arguments: str, **extra: str) -> dict[str, Any]:
        """The tiers of `mltiers plan --json` for a payload that GitHub could send."""
        done = self.command("plan", "--json", *arguments, name=name, payload=payload, **extra)
        assert done.code == 0, done.err
        document: dict[str, Any] = json.loads(done.out)
        return document

    def labeled(self, by: str, label: str = "ready-for-gpu") -> dict[str, Any]:
        return payloads.pull_request(self.pull, action="labeled", label=label, sender=by)

    def comment(self, by: str, text: str, *, minutes: int = 0) -> dict[str, Any]:
        """A comment by somebody, so many minutes after the head's commit."""
        comment = self.pull.comment(by, text)
        comment.created = comment.updated = comment.created + timedelta(minutes=minutes)
        return payloads.issue_comment(self.pull, comment)

    def push_to_branch(self) -> str:
        """Another commit on the pull request's branch, and the old head."""
        before = self.pull.head_sha
        self.project.git("checkout", "-q", "feature")
        self.project.write({"src/more.py": "x = 1\n"})
        self.pull.head_sha = self.project.commit("more")
        return before


def make_scene(
    github: LoopbackGitHub, project: Make, *, fork: bool = False, files: Mapping[str, str] | None = None, **token: Any
) -> Scene:
    """``files``: instead of some of `FILES`. ``token``: what the job's token may do, as `LoopbackGitHub.add_token`."""
    subject = project({**FILES, **(files or {})})
    subject.commit("base")
    subject.git("checkout", "-q", "-b", "feature")
    subject.write({"src/calc.py": "def add(a, b):\n    return b + a\n"})
    subject.commit("the change")
    repository = github.add_repository("octo/widgets", path=subject.root / ".git")
    repository.collaborators.update(ann="write", bob="read", cat="maintain", tom="triage")
    repository.add_workflow(".github/workflows/gpu-tier.yml", GPU_TIER.read_text(encoding="utf-8"))
    for login in ("ann", "bob", "cat", "tom", "stranger"):
        github.world.account(login)
    source = github.add_repository("stranger/widgets", path=subject.root / ".git", fork=True) if fork else None
    pull = repository.add_pull_request(head="feature", head_repository=source, author="stranger" if fork else "ann")
    return Scene(github, subject, repository, pull, github.add_token(**token))


def starts(plan: dict[str, Any]) -> set[str]:
    """The tiers that a runner of the team's would be started for."""
    return {name for name, tier in plan["tiers"].items() if tier["run"] and tier["where"] == "dispatched"}


def waits(plan: dict[str, Any]) -> set[str]:
    return {name for name, tier in plan["tiers"].items() if tier["waiting"]}
