"""The words of the project as values: what an event, a plan, a test, a tier's result and a verdict are.

Everything here is frozen, keyword-only and free of behaviour beyond derived properties, so that every other module can
be tested with plain values. Durations are seconds (float); times are Unix seconds (float); paths inside the
repository are POSIX strings relative to the folder of ``ml-tiers.yml``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct, field

from orchestrator.words.errors import ExitCode


class Verdict(str, Enum):
    """What a tier's evidence means. The order of the members is the order of severity (worst first)."""

    CANCELLED = "cancelled"
    FAILED = "failed"
    OVER_BUDGET = "over-budget"
    INFRASTRUCTURE = "infrastructure"
    NEVER_STARTED = "never-started"
    FLAKY = "flaky"
    PASSED = "passed"
    SUPERSEDED = "superseded"
    NOT_RUN = "not-run"

    def __str__(self) -> str:
        return str(self.value)

    @property
    def severity(self) -> int:
        """0 is the worst."""
        return list(Verdict).index(self)


VERDICT_EXIT_CODES: Mapping[Verdict, ExitCode] = {
    Verdict.PASSED: ExitCode.PASSED,
    Verdict.FLAKY: ExitCode.PASSED,  # `flaky: fail` makes it FAILED: see judge
    Verdict.FAILED: ExitCode.FAILED,
    Verdict.OVER_BUDGET: ExitCode.FAILED,
    Verdict.NEVER_STARTED: ExitCode.INFRASTRUCTURE,
    Verdict.INFRASTRUCTURE: ExitCode.INFRASTRUCTURE,
    Verdict.CANCELLED: ExitCode.CANCELLED,
    Verdict.SUPERSEDED: ExitCode.PASSED,
    Verdict.NOT_RUN: ExitCode.PASSED,  # a required tier skipped by the GPU cap is FAILED: see judge
}


# --- event ---------------------------------------------------------------------------------------------------------


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


# --- runs elsewhere ------------------------------------------------------------------------------------------------


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


# --- plan ----------------------------------------------------------------------------------------------------------


class PythonFacts(Struct, frozen=True, kw_only=True):
    """What the user's Python has, read from its own metadata. Versions are strings; None: not installed."""

    executable: str
    version: str
    pytest: str | None = None
    xdist: str | None = None
    cov: str | None = None
    benchmark: str | None = None
    plugin: str | None = None  # a pytest-mltiers of the user's own
    torch: str | None = None


class Suite(Struct, frozen=True, kw_only=True):
    """What a tier's test files bring with them when they are imported, as far as their text tells."""

    modules: tuple[str, ...] = ()  # imported from outside the project by its conftests, in order of appearance
    later: tuple[str, ...] = ()  # and by the tests themselves
    own: tuple[str, ...] = ()  # top-level names of the project's own files
    rewritten: tuple[str, ...] = ()  # top-level names whose assertions pytest is asked to rewrite
    sets: tuple[str, ...] = ()  # environment variables that they set


class Warmth(Struct, frozen=True, kw_only=True):
    """Whether a tier's workers are forked from one process that has imported ``suite.modules``, or why not."""

    warm: bool
    reason: str
    suite: Suite = Suite()


class Mode(Struct, frozen=True, kw_only=True):
    """A way of running a tier's tests."""

    workers: int  # 1: in one process, without xdist
    warm: bool = False  # workers are forked from a process that has imported for all of them
    by_file: bool = False  # the tests of a file stay on one worker


class ModeEstimate(Struct, frozen=True, kw_only=True):
    """What a tier would take in a mode."""

    mode: Mode
    seconds: float
    runs: int = 0  # that it was measured in; 0: predicted


class WorkersChoice(Struct, frozen=True, kw_only=True):
    """How many workers a tier with `workers: auto` gets, and why."""

    mode: Mode
    seconds: float
    options: tuple[ModeEstimate, ...]  # all that were looked at, the chosen one among them
    reason: str  # one sentence


class Keeping(Struct, frozen=True, kw_only=True):
    """The process to be kept for a run, and the tiers that are to be forked from it."""

    python: str
    env: Mapping[str, str]  # the tiers' own variables
    modules: tuple[str, ...]
    own: tuple[str, ...]  # as in ``Suite``, of all of these tiers
    rewritten: tuple[str, ...]
    tiers: frozenset[str]


class TierPlan(Struct, frozen=True, kw_only=True):
    """The decision about one tier. ``run`` False needs ``reason``; ``where`` is "here" or "dispatched"."""

    name: str
    run: bool
    reason: str  # why it runs, or why not: one sentence for the comment
    where: str = "here"
    runner: tuple[str, ...] = ()
    gpus: int = 0
    required: bool = True
    priority: int = 0
    needs: tuple[str, ...] = ()
    budget: float = 0.0
    queue: float = 0.0
    per_test: float | None = None
    shard: int = 1
    shards: int = 1
    workers: int = 1  # processes; 1 = no xdist
    retries: int = 0
    flaky_fails: bool = False
    fit: bool = False  # the most telling tests that fit into the budget run, the others are deferred
    defer_fails: bool = False  # that a test is deferred fails the tier
    measure: bool = False  # refreshes estimates and contexts: no limit for a single test
    benchmark: bool = False
    against: str | None = None  # what its benchmarks are compared with: "base" or "history"
    gate: float | None = None  # percent; a slowdown beyond it fails the tier
    markers: str = ""  # the expression that selects its tests
    args: tuple[str, ...] = ()  # further arguments of pytest, as configured
    paths: tuple[str, ...] = ()  # what is collected; empty: what pytest's own configuration says
    command_by_turns: tuple[str, ...] = ()  # what runs its benchmarks in turns with the base's
    coverage: bool = True  # whether coverage is measured
    coverage_minimum: float | None = None  # the tier's own thresholds, percent
    coverage_patch: float | None = None
    known_gaps: tuple[str, ...] = ()  # left out of the tier's own thresholds
    python: PythonFacts | None = None
    command: tuple[str, ...] = ()  # what runs, with {out} standing for the tier's output folder
    env: Mapping[str, str] = field(default_factory=dict)
    warmth: Warmth | None = None  # None: one process, or nobody wants it
    choice: WorkersChoice | None = None  # None: the number of workers was given, or nothing is known to choose by
    notes: tuple[str, ...] = ()  # "pytest-xdist is not installed: runs serially"
    details: tuple[str, ...] = ()  # how it runs, for whoever asks; nobody has to do anything about it
    predicted_seconds: float | None = None  # wall time of the slowest shard
    predicted_low: float | None = None  # from here
    predicted_high: float | None = None  # to here, in four of five runs
    predicted_note: str | None = None  # what makes that doubtful, as a clause
    timings: str | None = None  # version of the history whose durations its shards are split by
    waiting: bool = False  # not run as somebody has to approve it first: its status stays pending
    settled: bool = False  # not run as this commit has been tested already: what was said of it then stands
    capped: bool = False  # not run as the day's GPU minutes are used up: a required tier then fails the run


class Plan(Struct, frozen=True, kw_only=True):
    """What will happen, decided before anything runs. Every tier of the configuration appears exactly once."""

    config_path: str
    config_id: str  # identity of the configuration: one sticky comment per id
    event: Event
    changes: Changes
    tiers: tuple[TierPlan, ...]
    source: tuple[str, ...] = (".",)
    coverage_minimum: float | None = None
    coverage_patch: float | None = None
    known_gaps: tuple[str, ...] = ()
    partial: bool = False  # tiers of the event were left out because others were asked for by name
    notes: tuple[str, ...] = ()

    def tier(self, name: str) -> TierPlan:
        """The plan of one tier. Raises KeyError."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)


# --- what happened -------------------------------------------------------------------------------------------------


class Ending(str, Enum):
    """How the process of a tier ended."""

    EXITED = "exited"  # by itself, with exit_code
    SIGNALED = "signaled"  # by a signal that was not ours; exit_code is -N
    DEADLINE = "deadline"  # we stopped it at its budget
    CANCELLED = "cancelled"  # we stopped it because we were stopped
    NOT_STARTED = "not-started"  # could not be started, or a needed tier did not pass: see reason
    NEVER_STARTED = "never-started"  # no runner took it within its queue limit
    DISPATCHED = "dispatched"  # it runs elsewhere and says there what became of it; nobody waited here
    UNKNOWN = "unknown"  # reported from elsewhere without saying

    def __str__(self) -> str:
        return str(self.value)


class Outcome(Struct, frozen=True, kw_only=True):
    """How the process of one tier (or of one shard of it) ended; its evidence lies in its output folder."""

    tier: str
    ending: Ending
    exit_code: int | None = None
    seconds: float = 0.0
    started: float | None = None  # Unix seconds
    stopped: float | None = None  # Unix seconds at which we began to stop it; None: it ended by itself
    reason: str | None = None  # why it did not start
    problems: tuple[str, ...] = ()  # what makes its evidence untrustworthy
    notes: tuple[str, ...] = ()  # worth saying, without consequence: processes it left behind
    details: tuple[str, ...] = ()  # how it ran, for whoever asks
    output_tail: str = ""
    stacks: str = ""  # of what was running when we stopped it
    machine: Mapping[str, str] = field(default_factory=dict)  # where it ran; empty: unknown
    peak_memory: int | None = None  # bytes: the most that any one of its processes held at once; None: unknown


class TestOutcome(str, Enum):
    """The final outcome of one test, over all its phases and attempts."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    PASSED = "passed"
    FAILED = "failed"  # the call phase failed
    ERROR = "error"  # setup or teardown failed, or its file could not be collected
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    UNFINISHED = "unfinished"  # started and never ended: it was running when its process stopped

    def __str__(self) -> str:
        return str(self.value)

    @property
    def executed(self) -> bool:
        """Whether the test's own code ran to an end that says something."""
        return self not in (TestOutcome.SKIPPED, TestOutcome.UNFINISHED)

    @property
    def bad(self) -> bool:
        """Whether it is a failure. (A strict xpass is reported by pytest as a failure.)"""
        return self in (TestOutcome.FAILED, TestOutcome.ERROR, TestOutcome.UNFINISHED)


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of a test that was tried more than once."""

    outcome: TestOutcome
    seconds: float
    message: str | None = None
    text: str | None = None  # traceback as pytest printed it


class TestResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One test of a tier. There may be a million: a Struct is made in a fifth of the time of a dataclass."""

    __test__ = False

    node_id: str
    outcome: TestOutcome
    seconds: float = 0.0  # setup + call + teardown
    worker: str | None = None  # "main", "gw0", …
    started: float | None = None  # Unix seconds
    message: str | None = None  # one line: exception and text, or why skipped
    text: str | None = None  # traceback as pytest printed it
    file: str | None = None  # where it failed (or is defined), relative to the root
    line: int | None = None  # 1-based
    attempts: tuple[Attempt, ...] = ()  # earlier attempts, oldest first; empty: tried once


class Counts(Struct, frozen=True, kw_only=True):
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    error: int = 0
    skipped: int = 0
    xfailed: int = 0
    xpassed: int = 0
    unfinished: int = 0

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.error + self.skipped + self.xfailed + self.xpassed + self.unfinished

    @property
    def executed(self) -> int:
        return self.total - self.skipped - self.unfinished

    @property
    def bad(self) -> int:
        return self.failed + self.error + self.unfinished


Arc = tuple[int, int]


class FileCoverage(Struct, frozen=True, kw_only=True):
    """One source file as coverage.py counts it: statement lines (1-based) and, where measured, branch arcs."""

    executed: frozenset[int]
    missing: frozenset[int]
    excluded: frozenset[int] = frozenset()
    functions: Mapping[str, frozenset[int]] = field(default_factory=dict)  # statement lines of each, by qualified name
    executed_branches: frozenset[Arc] = frozenset()
    missing_branches: frozenset[Arc] = frozenset()

    @property
    def statements(self) -> int:
        return len(self.executed) + len(self.missing)


class Coverage(Struct, frozen=True, kw_only=True, dict=True):
    """Coverage of one tier, or of several combined. Paths are relative to the configuration's folder."""

    files: Mapping[str, FileCoverage]

    @cached_property
    def covered(self) -> int:
        return sum(len(f.executed) for f in self.files.values())

    @cached_property
    def statements(self) -> int:
        return sum(f.statements for f in self.files.values())

    @cached_property
    def branch_covered(self) -> int:
        return sum(len(f.executed_branches) for f in self.files.values())

    @cached_property
    def branch_total(self) -> int:
        return self.branch_covered + sum(len(f.missing_branches) for f in self.files.values())

    @property
    def percent(self) -> float | None:
        """Line coverage in percent; None where there is no statement to cover."""
        return 100.0 * self.covered / self.statements if self.statements else None


class Benchmark(Struct, frozen=True, kw_only=True):
    """One benchmark of one process run, in seconds."""

    name: str
    minimum: float
    median: float
    mean: float
    stddev: float
    rounds: int
    peak_memory: int | None = None  # bytes on the GPU
    throughput: float | None = None  # what it does per second, in a unit of its own


class Change(str, Enum):
    """What comparing a benchmark with its base says. See `orchestrator.mind.compare`."""

    SLOWER = "slower"  # by more than the gate
    FASTER = "faster"  # by more than the gate
    SAME = "same"  # within the gate
    UNDECIDED = "undecided"  # the time did not suffice to tell

    def __str__(self) -> str:
        return str(self.value)


class BenchmarkChange(Struct, frozen=True, kw_only=True):
    """One benchmark of the head compared with the base. Ratios are head's time over base's."""

    name: str  # node id
    change: Change
    ratio: float
    low: float  # the interval that holds the true ratio; 0 and None: nothing is known of that end
    high: float | None
    blocks: int
    seconds: float  # of the head: median over the blocks
    edited: bool = False  # its file is not the base's: the head's ran on both
    since: str | None = None  # against history: the commit of the first run after the change


class Comparison(Struct, frozen=True, kw_only=True):
    """What came of comparing a tier's benchmarks. ``problem``: why they could not be compared at all."""

    against: str  # "base" or "history"
    base: str | None = None  # the commit
    gate: float | None = None  # percent; None: nothing fails, changes are only shown
    problem: str | None = None
    detail: str = ""  # what the side that could not run printed last
    changes: tuple[BenchmarkChange, ...] = ()
    alone: Mapping[str, str] = field(default_factory=dict)  # benchmarks without a counterpart, and why
    notes: tuple[str, ...] = ()
    blocks: int = 0
    seconds: float = 0.0  # it took
    seed: int = 0  # of the order of its runs


class GpuUse(Struct, frozen=True, kw_only=True):
    """What the processes of a tier saw and used of CUDA."""

    devices: tuple[str, ...]  # names, as torch gives them; the driver's where no test used CUDA
    peak_bytes: int  # largest allocation on any device by any process of the tier; 0: CUDA was never used
    driver: str | None = None  # versions
    cuda: str | None = None
    torch: str | None = None
    tests: Mapping[str, int] = field(default_factory=dict)  # largest allocation of each test that used CUDA, by node id


class ShardPart(Struct, frozen=True, kw_only=True):
    """Which of a tier's tests a result is of, as the pytest that ran them said when it had collected."""

    shard: int  # 1 … shards
    shards: int
    digest: str  # of all that was collected, of the number of shards and the timings: the same in all parts
    collected: int  # tests of all shards together
    selected: int  # tests of this one


class Phases(Struct, frozen=True, kw_only=True):
    """Where the wall seconds of a run went, read off its event stream."""

    boot: float  # till pytest (xdist's controller, where there are workers) began its session: start and imports
    workers: float  # from there till the last worker began its own; 0 without any
    collection: float  # from there till the first test began
    tests: float  # from there till the last test's end
    closing: float  # from there till the process was gone
    between: float = 0.0  # of a worker, for each of its tests, that is in no test: hooks, waiting for the next one


class TierResult(Struct, frozen=True, kw_only=True, dict=True):
    """Everything collected about one tier (or one shard of it), before it is judged."""

    name: str
    ending: Ending
    exit_code: int | None = None
    reason: str | None = None  # why it did not start
    seconds: float = 0.0  # wall time, start to last result
    started: float | None = None
    stopped: float | None = None  # Unix seconds at which we began to stop it
    tests: tuple[TestResult, ...] = ()
    has_report: bool = False  # a JUnit file, or events of a run that was stopped
    problems: tuple[str, ...] = ()  # what is wrong with the evidence; never empty for an untrustworthy one
    coverage: Coverage | None = None
    coverage_note: str | None = None  # why coverage is unknown
    coverage_core: str | None = None  # of coverage.py, as the run said: ctrace, sysmon, pytrace
    benchmarks: tuple[Benchmark, ...] = ()
    benchmark_machine: Mapping[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None  # of its benchmarks, where one was asked for
    gpu: GpuUse | None = None
    random_seed: int | None = None  # by which pytest-randomly shuffled its tests and seeded them
    deselected: int = 0
    contexts: bytes | None = None  # contexts.json of a tier that measured which tests execute which lines
    deferred: tuple[str, ...] = ()  # node ids that did not fit into the budget and wait for a later run
    order: str | None = None  # in which its tests ran, in words; None: nobody said
    parts: tuple[ShardPart, ...] = ()  # the shards it is made of; empty: it was not split
    machine: Mapping[str, str] = field(default_factory=dict)  # where it ran (cpu, gpu, torch …); empty: unknown
    workers: int = 1
    phases: Phases | None = None  # None: its stream does not say, or it was stopped
    peak_memory: int | None = None  # bytes: the most that any one of its processes held at once; None: unknown
    command: tuple[str, ...] = ()
    output_tail: str = ""  # last lines of what the process printed
    stacks: str = ""
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    @cached_property
    def flaky(self) -> int:
        """How many tests failed first and passed when they were tried again."""
        return sum(1 for test in self.tests if test.attempts and not test.outcome.bad)

    @cached_property
    def counts(self) -> Counts:
        """How many of its tests ended how."""
        tally = Counter(map(attrgetter("outcome"), self.tests))
        return Counts(**{outcome.value: tally[outcome] for outcome in TestOutcome})


# --- verdict -------------------------------------------------------------------------------------------------------


class KnownGap(Struct, frozen=True, kw_only=True):
    """A part of the source that the configuration says no test reaches here."""

    name: str  # `file` or `file::function`, as written
    lines: int  # statements left out of the thresholds
    covered: int  # of them, those a test did execute
    found: bool = True  # whether there is such a file or function


class PatchCoverage(Struct, frozen=True, kw_only=True):
    """Coverage of the lines the event changed."""

    covered: int
    measured: int  # changed lines that are statements of a measured file
    uncovered: Mapping[str, tuple[int, ...]]

    @property
    def percent(self) -> float | None:
        return 100.0 * self.covered / self.measured if self.measured else None


class TierVerdict(Struct, frozen=True, kw_only=True):
    """What one tier's evidence means, and why. ``reasons`` are sentences, the most important first."""

    plan: TierPlan
    result: TierResult | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    exit_code: ExitCode = ExitCode.PASSED
    patch: PatchCoverage | None = None  # of its tests alone; None: not asked for, or unknown
    known_gaps: tuple[KnownGap, ...] = ()  # its own

    @property
    def name(self) -> str:
        return self.plan.name


class Standing(str, Enum):
    """Whether a failure is the change's."""

    NEW = "new"  # it passed, or was not there, before the change
    BEFORE = "failing before"
    UNKNOWN = "unknown"  # no run is known to compare with

    def __str__(self) -> str:
        return str(self.value)


class Cause(Struct, frozen=True, kw_only=True):
    """Failing tests with one cause: the same exception in the same line of the project."""

    tests: tuple[TestResult, ...]  # one per node id; the first stands for all
    tiers: tuple[str, ...]
    kind: str  # the exception's name, or how the test ended
    excerpt: str  # the lines of the traceback that say most
    standing: Standing
    remarks: tuple[str, ...] = ()  # sentences: since when, how many are new, what it depends on
    rerun: str = ""  # for a shell, in the configuration's folder


class Flake(Struct, frozen=True, kw_only=True):
    """A test that failed first and passed when it was tried again."""

    test: TestResult
    tiers: tuple[str, ...]
    excerpt: str  # of its first attempt
    remarks: tuple[str, ...] = ()  # how often in its last runs
    rerun: str = ""


class Slowdown(Struct, frozen=True, kw_only=True):
    """A test that takes longer than it did."""

    node_id: str
    tier: str
    seconds: float
    before: float  # what it usually takes


class Point(Struct, frozen=True, kw_only=True):
    """One run in a chart. ``low``, ``high``: what was expected of it, or how far its rounds spread; None: unknown."""

    time: float  # Unix seconds
    sha: str
    seconds: float
    low: float | None = None
    high: float | None = None


class Series(Struct, frozen=True, kw_only=True):
    """What a tier, or one benchmark of it, took in its newest runs on one kind of machine; this run is the last."""

    tier: str
    benchmark: str | None  # None: the tier's own duration
    points: tuple[Point, ...]  # oldest first
    limit: float | None = None  # seconds: the tier's budget


class Insight(Struct, frozen=True, kw_only=True):
    """What earlier runs and a closer look say of a run's tests."""

    causes: tuple[Cause, ...] = ()  # new ones first, then the larger
    flakes: tuple[Flake, ...] = ()
    slower: tuple[Slowdown, ...] = ()
    slowest: tuple[tuple[str, TestResult], ...] = ()  # (tier, test)
    skipped: tuple[SkippedHere, ...] = ()  # and made up for by another tier
    trends: tuple[Series, ...] = ()  # the tiers' durations, then their benchmarks


class SkippedHere(Struct, frozen=True, kw_only=True):
    """Tests that a tier skipped, and how many of them another one executed."""

    tier: str
    skipped: int
    ran: int
    where: str  # the other tier
    sha: str | None = None  # the commit on which it did; None: in this run
    age: float | None = None  # seconds since


class EarlierCoverage(Struct, frozen=True, kw_only=True):
    """What a tier covered in an earlier run."""

    sha: str
    age: float  # seconds since it ended
    coverage: Coverage
    unchanged: frozenset[str] = frozenset()  # the files that are today what they were then


class CarriedLines(Struct, frozen=True, kw_only=True):
    """Lines that no tier of this run executed, and a tier that did not run now did when it last ran."""

    tier: str
    sha: str
    age: float  # seconds
    lines: int


class CoverageChange(Struct, frozen=True, kw_only=True):
    """Line coverage now minus that of the base, in percentage points, over the same tiers."""

    points: float
    sha: str


class RunVerdict(Struct, frozen=True, kw_only=True):
    """The verdict of the whole run."""

    plan: Plan
    verdict: Verdict
    exit_code: ExitCode
    tiers: tuple[TierVerdict, ...]
    reasons: tuple[str, ...] = ()  # of the run itself: thresholds over combined tiers
    coverage: Coverage | None = None
    coverage_note: str | None = None
    patch: PatchCoverage | None = None
    known_gaps: tuple[KnownGap, ...] = ()
    carried: tuple[CarriedLines, ...] = ()
    coverage_change: CoverageChange | None = None  # None: unknown
    untested: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # changed functions that no test enters
    insight: Insight | None = None  # None: nobody has looked (failures.explain)

    def tier_named(self, name: str) -> TierVerdict:
        """The verdict of one tier. Raises KeyError."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)
