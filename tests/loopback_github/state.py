"""What the loopback GitHub remembers: accounts, repositories, pull requests, comments, statuses, runs.

Plain mutable records, shared by the server's threads and the test; ``World.lock`` is held around every request. A test
reads and changes them directly (``pull.comments``, ``run.finish("success")``). A repository may stand on a real git
repository (``path``); then its commits, branches, comparisons and a pull request's files are git's own answers.
"""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from tests.loopback_github.gitstore import GitStore

ACTIONS_BOT = "github-actions[bot]"
WEB = "https://github.com"
JOB_CONCLUSIONS = ("success", "failure", "neutral", "cancelled", "skipped", "timed_out", "action_required")
SHA = re.compile(r"[0-9a-f]{40}")

READ = dict.fromkeys(("actions", "checks", "contents", "issues", "metadata", "pull_requests", "statuses"), "read")
WRITE = {**READ, **dict.fromkeys(("actions", "checks", "contents", "issues", "pull_requests", "statuses"), "write")}


def now() -> datetime:
    """The present, in whole seconds as GitHub tells it."""
    return datetime.now(timezone.utc).replace(microsecond=0)


@dataclass(kw_only=True)
class Account:
    """A user, bot or organization. ``kind``: User, Bot, Organization."""

    id: int
    login: str
    kind: str = "User"


@dataclass(frozen=True, kw_only=True)
class Token:
    """Who a token speaks for and what it may do. An installation (``GITHUB_TOKEN``, an app) has no /user."""

    value: str
    login: str
    installation: bool
    permissions: Mapping[str, str]


@dataclass(kw_only=True)
class Comment:
    """An issue comment."""

    id: int
    author: Account | None  # None: a deleted account
    body: str
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """One file of a diff. ``status``: added, removed, modified, renamed, copied, changed, unchanged."""

    filename: str
    status: str = "modified"
    previous: str | None = None
    additions: int = 1
    deletions: int = 0
    sha: str = "bbcd538c8e72b8c175046e27cc8f907076331401"


@dataclass(kw_only=True)
class Status:
    """A commit status; a newer one of the same context stands for it."""

    id: int
    sha: str
    state: str
    context: str
    description: str | None
    target_url: str | None
    creator: Account
    created: datetime = field(default_factory=now)


@dataclass(kw_only=True)
class CheckRun:
    """A check run, as ``checks/create`` and ``checks/update`` left it."""

    id: int
    suite: int
    head_sha: str
    name: str
    status: str = "queued"
    conclusion: str | None = None
    details_url: str | None = None
    external_id: str = ""
    started: datetime | None = None
    completed: datetime | None = None
    output: dict[str, Any] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(kw_only=True)
class Job:
    """A job of a run."""

    id: int
    name: str
    labels: tuple[str, ...]
    runner: str | None = None
    status: str = "queued"
    conclusion: str | None = None
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    completed: datetime | None = None


@dataclass(kw_only=True)
class Artifact:
    """An uploaded zip."""

    id: int
    name: str
    content: bytes
    expired: bool = False
    created: datetime = field(default_factory=now)


@dataclass(kw_only=True)
class Workflow:
    """A workflow file of the default branch, parsed from its text."""

    id: int
    path: str
    text: str

    @property
    def file_name(self) -> str:
        """``gpu-tier.yml``."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def document(self) -> dict[object, Any]:
        """The parsed YAML."""
        loaded: dict[object, Any] = yaml.safe_load(self.text)
        return loaded

    @property
    def name(self) -> str:
        return str(self.document.get("name", self.path))

    @property
    def dispatch_inputs(self) -> Mapping[str, Mapping[str, Any]] | None:
        """The declared inputs of ``workflow_dispatch``; None: it has no such trigger."""
        triggers = self.document.get("on", self.document.get(True))  # YAML 1.1 reads a bare `on` as true
        if not isinstance(triggers, dict):
            triggers = dict.fromkeys([triggers] if isinstance(triggers, str) else triggers or ())
        if "workflow_dispatch" not in triggers:
            return None
        declared = (triggers["workflow_dispatch"] or {}).get("inputs") or {}
        return {name: spec or {} for name, spec in declared.items()}

    def title(self, inputs: Mapping[str, Any], actor: str) -> str:
        """The run's title: ``run-name`` with its inputs filled in, or the workflow's name."""
        values = {"github.actor": actor}
        for name, value in inputs.items():
            values[f"inputs.{name}"] = values[f"github.event.inputs.{name}"] = value
        template = str(self.document.get("run-name", self.name))
        return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda m: str(values.get(m[1], "")), template)


@dataclass(kw_only=True)
class Run:
    """A workflow run. ``inputs`` is what it was dispatched with, defaults filled in."""

    id: int
    number: int
    workflow: Workflow
    repository: Repository = field(repr=False)
    event: str
    head_branch: str
    head_sha: str
    title: str
    actor: Account
    inputs: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    status: str = "queued"
    conclusion: str | None = None
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)
    jobs: list[Job] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    cancel_requested: bool = False
    head_repository: Repository | None = field(default=None, repr=False)  # of a fork's pull request; None: its own
    hidden_listings: int = 0  # how many listings still miss it: a new run is not listed at once

    def add_job(self, name: str, labels: Sequence[str] = ("self-hosted", "linux", "cuda")) -> Job:
        """A queued job."""
        job = Job(id=self.repository.world.next_id(), name=name, labels=tuple(labels))
        self.jobs.append(job)
        return job

    def start(self, runner: str = "runner-1") -> None:
        """A runner picks the run and all its queued jobs up."""
        self.status, self.updated = "in_progress", now()
        for job in self.jobs:
            if job.status == "queued":
                job.status, job.runner, job.started = "in_progress", runner, now()

    def finish(self, conclusion: str) -> None:
        """The run and all its unfinished jobs end."""
        self.status, self.conclusion, self.updated = "completed", conclusion, now()
        for job in self.jobs:
            if job.status != "completed":
                job.status, job.completed = "completed", now()
                job.conclusion = conclusion if conclusion in JOB_CONCLUSIONS else "failure"
                job.started = job.started or now()

    def add_artifact(self, name: str, content: bytes) -> Artifact:
        """An uploaded zip of the run."""
        artifact = Artifact(id=self.repository.world.next_id(), name=name, content=content)
        self.artifacts.append(artifact)
        self.repository.artifacts[artifact.id] = (self, artifact)
        return artifact


@dataclass(kw_only=True)
class Pull:
    """A pull request. ``head_repository`` None: the fork was deleted. ``files`` None: ask git."""

    id: int
    number: int
    repository: Repository = field(repr=False)
    author: Account
    title: str
    head_ref: str
    head_sha: str
    head_repository: Repository | None = field(repr=False)
    base_ref: str
    base_sha: str
    body: str | None = None
    state: str = "open"
    draft: bool = False
    labels: list[str] = field(default_factory=list)
    files: Sequence[FileChange] | None = None
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)

    @property
    def comments(self) -> list[Comment]:
        """Its comments, oldest first."""
        return [comment for pull, comment in self.repository.comments.values() if pull is self]

    def comment(self, login: str | None, body: str) -> Comment:
        """Adds a comment as anybody (None: an account deleted since)."""
        world = self.repository.world
        author = None if login is None else world.account(login)
        comment = Comment(id=world.next_id(), author=author, body=body)
        self.repository.comments[comment.id] = (self, comment)
        return comment

    def changed_files(self) -> Sequence[FileChange]:
        """The files it changes."""
        if self.files is not None:
            return self.files
        return self.repository.changes(self.base_sha, self.head_sha)


@dataclass(kw_only=True)
class Repository:
    """A repository and everything that lives in it."""

    id: int
    world: World = field(repr=False)
    owner: Account
    name: str
    default_branch: str
    store: GitStore | None
    fork: bool = False
    private: bool = False
    collaborators: dict[str, str] = field(default_factory=dict)  # login → admin, maintain, write, triage, read
    branches: dict[str, str] = field(default_factory=dict)  # without git: branch → sha
    pulls: dict[int, Pull] = field(default_factory=dict)
    comments: dict[int, tuple[Pull, Comment]] = field(default_factory=dict)
    statuses: list[Status] = field(default_factory=list)
    check_runs: dict[int, CheckRun] = field(default_factory=dict)
    workflows: dict[int, Workflow] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    artifacts: dict[int, tuple[Run, Artifact]] = field(default_factory=dict)
    created: datetime = field(default_factory=now)

    @property
    def full_name(self) -> str:
        """``owner/name``."""
        return f"{self.owner.login}/{self.name}"

    def resolve(self, ref: str) -> str | None:
        """The commit of a branch, tag, full ref or SHA; None: no such thing. Without git any full SHA is one."""
        if self.store is not None:
            return self.store.resolve(ref)
        return ref if SHA.fullmatch(ref) else self.branches.get(ref.removeprefix("refs/").removeprefix("heads/"))

    def changes(self, base: str, head: str) -> list[FileChange]:
        """``base...head`` by git; nothing without it."""
        if self.store is None:
            return []
        return [
            FileChange(
                filename=file.path,
                status=file.status,
                previous=file.previous,
                additions=file.added,
                deletions=file.removed,
                sha=file.blob,
            )
            for file in self.store.changes(base, head)
        ]

    def add_pull_request(
        self,
        *,
        head: str = "feature",
        head_sha: str | None = None,
        base: str | None = None,
        base_sha: str | None = None,
        author: str = "contributor",
        title: str = "A change",
        labels: Sequence[str] = (),
        files: Sequence[FileChange] | None = None,
        head_repository: Repository | None = None,
    ) -> Pull:
        """Opens one; the SHAs are the branches' own where not given (a random one where there is no git)."""
        base = base or self.default_branch
        source = head_repository or self
        pull = Pull(
            id=self.world.next_id(),
            number=max(self.pulls, default=0) + 1,
            repository=self,
            author=self.world.account(author),
            title=title,
            head_ref=head,
            head_sha=head_sha or source.resolve(head) or secrets.token_hex(20),
            head_repository=source,
            base_ref=base,
            base_sha=base_sha or self.resolve(base) or secrets.token_hex(20),
            labels=list(labels),
            files=files,
        )
        self.pulls[pull.number] = pull
        return pull

    def add_workflow(self, path: str, text: str) -> Workflow:
        """A workflow on the default branch; ``path`` is ``.github/workflows/NAME.yml``."""
        workflow = Workflow(id=self.world.next_id(), path=path, text=text)
        self.workflows[workflow.id] = workflow
        return workflow

    def add_run(
        self,
        workflow: Workflow,
        *,
        event: str,
        head_branch: str,
        head_sha: str,
        actor: str,
        inputs: Mapping[str, Any] | None = None,
    ) -> Run:
        """A queued run."""
        run = Run(
            id=self.world.next_id(),
            number=1 + sum(other.workflow is workflow for other in self.runs.values()),
            workflow=workflow,
            repository=self,
            event=event,
            head_branch=head_branch,
            head_sha=head_sha,
            title=workflow.title(inputs or {}, actor),
            actor=self.world.account(actor),
            inputs=dict(inputs or {}),
            hidden_listings=self.world.new_run_hidden_listings,
        )
        self.runs[run.id] = run
        return run


class World:
    """Everything the server knows. Ids only grow, as GitHub's do, so a lower one is older."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.api_url = "https://api.github.com"  # the server sets its own
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, Token] = {}
        self.repositories: dict[str, Repository] = {}
        self.run_details = "supported"  # or "ignored" (always 204), or "rejected" (an older server: 422)
        self.new_run_hidden_listings = 0
        self.rate_limit = 5000
        self.rate_used: dict[str, int] = {}
        self.rate_reset = now() + timedelta(hours=1)
        self._ids = itertools.count(1001)

    def next_id(self) -> int:
        """A new id, higher than every other."""
        return next(self._ids)

    def account(self, login: str) -> Account:
        """The account of that login, made on first use (``x[bot]`` is a Bot)."""
        with self.lock:
            if login not in self.accounts:
                kind = "Bot" if login.endswith("[bot]") else "User"
                self.accounts[login] = Account(id=self.next_id(), login=login, kind=kind)
            return self.accounts[login]

    def add_token(
        self, login: str = ACTIONS_BOT, *, installation: bool | None = None, permissions: Mapping[str, str] = WRITE
    ) -> str:
        """A token that speaks for ``login``; a bot's is an installation's unless told otherwise."""
        self.account(login)
        installation = login.endswith("[bot]") if installation is None else installation
        value = ("ghs_" if installation else "ghp_") + secrets.token_hex(18)
        self.tokens[value] = Token(value=value, login=login, installation=installation, permissions=dict(permissions))
        return value

    def add_repository(
        self, full_name: str, *, path: Path | None = None, default_branch: str = "main", fork: bool = False
    ) -> Repository:
        """A repository, on the git repository at ``path`` if there is one."""
        owner, name = full_name.split("/")
        repository = Repository(
            id=self.next_id(),
            world=self,
            owner=self.account(owner),
            name=name,
            default_branch=default_branch,
            store=GitStore(path) if path is not None else None,
            fork=fork,
        )
        if path is None:
            repository.branches[default_branch] = secrets.token_hex(20)
        repository.collaborators[owner] = "admin"
        self.repositories[full_name.lower()] = repository
        return repository
