"""What is known of a tier when it has ended: how it ended, its tests, coverage and benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct, field


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
    ahead: float | None = None  # seconds of imports in the process it was forked from; None: it was not, or unknown
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
    ahead: float | None = None  # of imports in the process that its processes were forked from; None: as in Outcome


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
