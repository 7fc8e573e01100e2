"""What happened on GitHub or on the laptop: the event, the change it is about, workflow runs and their jobs."""

from __future__ import annotations

from msgspec import Struct


class PullRequest(Struct, frozen=True, kw_only=True):
    """The pull request of an event."""

    number: int
    head_sha: str
    head_repository: str | None  # None: the fork was deleted
    base_ref: str
    base_sha: str
    labels: tuple[str, ...] = ()
    fork: bool = False
    closed: bool = False  # or merged


class Command(Struct, frozen=True, kw_only=True):
    """A comment on a pull request that asks for a tier: ``/mltiers TIER [SHA]``, as it was when it was created."""

    tier: str
    sha: str | None  # the commit it names; None: the head at that time
    time: float  # Unix seconds
    problem: str | None = None  # why it is none


class SourceRun(Struct, frozen=True, kw_only=True):
    """The workflow run that a ``workflow_run`` event is about. All of it is GitHub's word, none of it the run's own."""

    run_id: int
    event: str  # what started it
    head_repository: str | None  # "owner/name"; None: deleted
    head_branch: str
    head_sha: str


class GithubRun(Struct, frozen=True, kw_only=True):
    """The workflow run we are part of."""

    run_id: int
    attempt: int
    url: str  # link for humans


class Event(Struct, frozen=True, kw_only=True):
    """Why we run, and on which commit. ``name`` is GitHub's event name, or ``local`` without one."""

    name: str
    action: str | None = None
    repository: str | None = None  # "owner/name"
    sha: str | None = None  # the commit under test: results and statuses belong to it; None outside git
    base_sha: str | None = None  # what changes are measured against (base...head); None: unknown
    base_ref: str | None = None
    ref: str | None = None
    default_branch: str | None = None
    pull_request: PullRequest | None = None
    label: str | None = None  # the label this event added
    command: Command | None = None  # of an issue_comment event
    source_run: SourceRun | None = None  # of a workflow_run event
    actor: str | None = None
    run: GithubRun | None = None
    api_url: str | None = None
    server_url: str = "https://github.com"

    @property
    def on_github(self) -> bool:
        """Whether this runs inside a GitHub Actions job."""
        return self.run is not None

    @property
    def of_default_branch(self) -> bool:
        """Whether the commit is one of the default branch, whose results are baselines; a laptop has only its own."""
        ours = self.default_branch is not None and self.ref == f"refs/heads/{self.default_branch}"
        return not self.on_github or (ours and self.name in ("push", "schedule", "workflow_dispatch"))

    @property
    def may_remember(self) -> bool:
        """Whether this job may write the history: the job that runs a stranger's code never does."""
        return self.name != "pull_request" or self.pull_request is None or not self.pull_request.fork


class ChangedFile(Struct, frozen=True, kw_only=True):
    """One file of ``base...head``. ``status``: added, modified, deleted, renamed, copied, type-changed."""

    path: str
    status: str
    old_path: str | None = None  # of a rename or copy


class Changes(Struct, frozen=True, kw_only=True):
    """The files an event changes; ``files is None`` means unknown, for the reason given, and every tier then runs."""

    files: tuple[ChangedFile, ...] | None
    source: str  # "git", "api", or why unknown


class WorkflowRun(Struct, frozen=True, kw_only=True):
    """A workflow run. ``status``: queued, in_progress, completed, waiting, requested, pending."""

    id: int
    title: str  # its `run-name`
    status: str
    conclusion: str | None  # of a completed one: success, failure, cancelled, timed_out, …
    url: str  # for humans
    event: str
    created: float = 0.0  # Unix seconds

    @property
    def over(self) -> bool:
        return self.status == "completed"


class WorkflowJob(Struct, frozen=True, kw_only=True):
    """A job of a run. ``started``: Unix seconds; GitHub gives one also to a job that still waits for a runner."""

    name: str
    status: str
    conclusion: str | None
    labels: tuple[str, ...]  # asked for by `runs-on`
    runner: str | None  # that took it
    started: float | None
    completed: float | None
