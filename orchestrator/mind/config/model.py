"""The one typed model of ml-tiers.yml. Validation, defaults, the JSON Schema and the reference page come from it."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo

from orchestrator.mind.config.leaves import (
    Argument,
    Duration,
    EnvName,
    Glob,
    KnownGap,
    Label,
    Markers,
    Module,
    Path,
    Percent,
    Python,
    TestPath,
    Text,
    TierName,
    Word,
    one_or_more,
    parse_duration,
)

VERSION = 1

EventName: TypeAlias = Literal[
    "push",
    "pull_request",
    "merge_group",
    "schedule",
    "workflow_dispatch",
    "release",
    "nightly",
    "pre-merge",
]


def doc(text: str, *, also: tuple[str, ...] = ()) -> Meta:
    """What a key means, and names from elsewhere that people write for it (for "did you mean")."""
    return Meta(description=text, extra={"also": also})


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A mapping of fixed keys."""

    PLACE: ClassVar[str] = ""  # where its keys belong, for somebody who put one elsewhere


class Coverage(_Section, frozen=True, kw_only=True):
    """Coverage thresholds over all tiers of the run."""

    PLACE: ClassVar[str] = "under `coverage`"

    minimum: Annotated[Percent | None, doc("line coverage over all measured files; less fails the run")] = None
    patch: Annotated[Percent | None, doc("coverage of the lines the event changed; less fails the run")] = None
    known_gaps: Annotated[
        tuple[KnownGap, ...],
        one_or_more(),
        doc(
            "what CPU tests cannot reach, such as CUDA kernels: `file` or `file::function` (`file::Class.method`); "
            "left out of both thresholds and named in the comment"
        ),
    ] = ()


class TierCoverage(_Section, frozen=True, kw_only=True):
    """A tier's own coverage thresholds, over that tier's tests alone."""

    PLACE: ClassVar[str] = "under `coverage`"

    minimum: Annotated[Percent | None, doc("line coverage by this tier's tests alone; less fails the tier")] = None
    patch: Annotated[
        Percent | None, doc("coverage of the changed lines by this tier's tests alone; less fails the tier")
    ] = None
    known_gaps: Annotated[
        tuple[KnownGap, ...],
        one_or_more(),
        doc("what this tier's tests cannot reach: left out of its two thresholds and named in the comment"),
    ] = ()


class Benchmark(_Section, frozen=True, kw_only=True):
    """What to do with a tier's pytest-benchmark results."""

    PLACE: ClassVar[str] = "under a tier's `benchmark`"

    gate: Annotated[
        Percent | None, doc("a slowdown of more than this fails the tier; without it, changes are only shown")
    ] = None
    against: Annotated[
        Literal["base", "history"] | None,
        doc(
            "what results are compared with: `base`, the commit the change starts from, run in turns with it; "
            "`history`, earlier results of the default branch on the same kind of machine; without it, `base` where "
            "there is a `gate`, nothing elsewhere"
        ),
    ] = None


class History(_Section, frozen=True, kw_only=True):
    """Where durations, coverage, benchmarks and verdicts of earlier commits are kept."""

    PLACE: ClassVar[str] = "under `history`"

    branch: Annotated[Text, doc("the git branch that holds it on GitHub")] = "mltiers-data"
    dir: Annotated[Path, doc("the folder that holds it on a laptop")] = ".mltiers/history"


class Tier(_Section, frozen=True, kw_only=True):
    """A named group of tests with one cost class: what to collect, where it runs, its budget, its thresholds."""

    PLACE: ClassVar[str] = "under a tier (`tiers: NAME:`) or `defaults`"

    paths: Annotated[
        tuple[TestPath, ...],
        one_or_more(),
        doc(
            "folders, files or tests that pytest collects; without it, what pytest's own `testpaths` says",
            also=("tests",),
        ),
    ] = ()
    markers: Annotated[
        Markers, doc("a marker expression, as for `pytest -m`; without it, all tests", also=("marker", "mark", "marks"))
    ] = ""
    args: Annotated[
        tuple[Argument, ...],
        doc(
            "further arguments for pytest, one list item each; those that mltiers sets itself (`-n`, `-m`, "
            "`--junitxml`, `--cov` …) are refused with the key to use instead",
            also=("arguments", "options", "addopts"),
        ),
    ] = ()
    when: Annotated[
        tuple[EventName, ...],
        one_or_more(),
        doc(
            "the events it runs on: GitHub's names, or `nightly` (the same as `schedule`) or `pre-merge` (a merge "
            "queue, the `pre-merge-label`, or the comment `/mltiers TIER`); `[]`: only when named on the command line",
            also=("on", "events", "triggers"),
        ),
    ] = ("push", "pull_request")
    changes: Annotated[
        tuple[Glob, ...],
        one_or_more(),
        doc(
            "run only if a changed file matches; `**` crosses folders, a later `!pattern` takes files out again and "
            "must be quoted; without it, any change",
            also=("paths-filter", "files"),
        ),
    ] = ()
    needs: Annotated[
        tuple[TierName, ...],
        one_or_more(),
        doc("tiers that come first; this one runs only if they passed", also=("after", "depends-on")),
    ] = ()
    runner: Annotated[
        tuple[Label, ...],
        one_or_more(),
        doc(
            "dispatched to a runner with all these labels; without it, the tier runs where the command runs",
            also=("runs-on", "runners", "labels"),
        ),
    ] = ()
    gpus: Annotated[
        int,
        Meta(ge=0, le=64),
        doc("CUDA devices promised to each shard; a tier that never used a promised one does not pass", also=("gpu",)),
    ] = 0
    shards: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | Literal["auto"],
        doc(
            "machines that a dispatched tier's tests are split over; `auto`: as few as let the slowest one "
            "take no more than 80 % of the budget"
        ),
    ] = 1
    budget: Annotated[
        Duration,
        doc(
            "wall-clock time from start to last result; stopped when it is used up", also=("timeout", "timeout-minutes")
        ),
    ] = parse_duration("10m")
    queue: Annotated[Duration, doc("how long a dispatched tier may wait for a runner")] = parse_duration("1h")
    per_test: Annotated[
        Duration | None, doc("how long one test may take: at that limit it fails by name, and the rest goes on")
    ] = None
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | Literal["auto"],
        doc(
            "test processes (pytest-xdist); `auto`: one per CPU this process may use, as many as fit into memory, and "
            "once a run is known whatever ends first, one process included (with `gpus`: one for each, four where tests"
            " have `gpu_memory` marks); 1: no xdist",
            also=("jobs", "parallel"),
        ),
    ] = "auto"
    env: Annotated[
        dict[EnvName, Word],
        doc(
            "environment variables for the tests; `defaults: {env: …}` is merged in name by name", also=("environment",)
        ),
    ] = {}
    python: Annotated[Python, doc("the Python that runs the tests: a name on PATH, or a path")] = "python"
    retries: Annotated[
        int,
        Meta(ge=0, le=10),
        doc(
            "how often a failed test is tried again, inside the budget; one that passes then is `flaky`, never simply "
            "passed",
            also=("reruns",),
        ),
    ] = 0
    flaky: Annotated[
        Literal["pass", "fail"],
        doc("whether a tier with a flaky test passes (exit code 0) or fails (1); it is called flaky either way"),
    ] = "pass"
    required: Annotated[bool, doc("whether the run's verdict counts this tier; others are shown only")] = True
    priority: Annotated[int, Meta(ge=-1000, le=1000), doc("higher starts first")] = 0
    benchmark: Annotated[
        Benchmark | None, doc("the tier runs benchmarks (without xdist); `{}`: report only", also=("benchmarks",))
    ] = None
    coverage: Annotated[TierCoverage | None, doc("thresholds for this tier alone")] = None
    fit: Annotated[bool, doc("choose the tests that fit into the budget, the most telling first")] = False
    defer: Annotated[Literal["allow", "fail"], doc("whether tests that did not fit may wait for a later run")] = "allow"
    measure: Annotated[bool, doc("ignore `per-test`; refresh estimates and coverage contexts (nightly)")] = False
    warm: Annotated[
        Literal["auto"] | bool,
        doc(
            "fork the test processes from one that has imported what the tests import (Linux; no benchmarks); "
            "`auto`: where nothing speaks against it; true: whatever variables the tests set"
        ),
    ] = "auto"
    preload: Annotated[
        Literal["auto"] | tuple[Module, ...],
        doc("modules the warm process imports before it forks; `auto`: what the tier's test files import"),
    ] = "auto"


class Config(_Section, frozen=True, kw_only=True):
    """ml-tiers.yml: which tests exist, when and where each tier runs, and what it must reach."""

    PLACE: ClassVar[str] = "at the top of the file"

    version: Annotated[
        Literal[1],
        doc("of this file's format; version N is read by mltiers N.0 and every later one"),
    ]
    source: Annotated[
        tuple[Path, ...], one_or_more(), doc("folders whose coverage is measured", also=("sources", "src"))
    ] = (".",)
    defaults: Annotated[Tier, doc("for every tier; a tier's own key replaces it, `env` is merged by name")] = Tier()
    coverage: Annotated[Coverage, doc("thresholds for the run as a whole")] = Coverage()
    pre_merge_label: Annotated[Label, doc("the pull request label that starts `pre-merge` tiers")] = "ready-for-gpu"
    gpu_minutes_per_day: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        doc(
            "GPU minutes (devices × minutes) that tiers with a `runner` may use in a day (UTC), however they were "
            "started but by hand; a tier that would go over it is not run, and fails the run if it is required"
        ),
    ] = None
    history: Annotated[History, doc("where the memory of earlier commits lives")] = History()
    tiers: Annotated[dict[TierName, Tier], Meta(min_length=1), doc("the tiers, by name")]


@cache
def fields_of(section: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    """The fields of a section by their names in the file."""
    return {field.encode_name: field for field in msgspec.structs.fields(section)}


def unwrap(wanted: Any) -> tuple[Any, tuple[Meta, ...]]:
    """A type without its annotations, and the annotations, outermost last."""
    metas = tuple(meta for meta in getattr(wanted, "__metadata__", ()) if isinstance(meta, Meta))
    return (wanted.__origin__ if metas else wanted), metas


def extras(wanted: Any) -> dict[str, Any]:
    """What our own annotations say about a type, merged."""
    merged: dict[str, Any] = {}
    for meta in unwrap(wanted)[1]:
        merged.update(meta.extra or {})
    return merged
