"""What it means: verdicts, the coverage of the change, and what is to be said of failures and trends."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct, field

from orchestrator.words.errors import ExitCode
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Coverage, TestResult, TierResult


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
