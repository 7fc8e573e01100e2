"""The decision before anything runs: which tiers run, where, how, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from orchestrator.words.event import Changes, Event


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
    gpu_memory: bool = False  # whether tests are marked with how much of a GPU they need


class Warmth(Struct, frozen=True, kw_only=True):
    """Whether a tier's processes are forked from one that has imported ``suite.modules``, or why not."""

    warm: bool
    reason: str  # why it is not
    suite: Suite = Suite()


class Mode(Struct, frozen=True, kw_only=True):
    """A way of running a tier's tests."""

    workers: int  # 1: in one process, without xdist
    warm: bool = False  # forked from a process that has imported what the tests import
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
