"""The decision before anything runs: which tiers run, where and how, and why the others do not. Pure.

Every tier of the configuration appears in the plan exactly once. ``make_plan`` asks its questions in a fixed order and
the first that says no gives the reason: named? this event? trusted? changed files? a runner? the tiers it needs?
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.mind.config import Config, Tier
from orchestrator.mind.drift import drift_of, drift_words
from orchestrator.mind.event import LOCAL, cadences
from orchestrator.mind.globs import any_match
from orchestrator.mind.how import Machine, how_here
from orchestrator.mind.predict import Conditions, predict
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import WHOLE, History, estimates
from orchestrator.mind.shards import ShardName, Timings, choose, slowest
from orchestrator.mind.trust import Allowance, Standing, gpu_minutes_today, may_run_here, may_start, of_fork
from orchestrator.words.errors import UsageError
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, PythonFacts, TierPlan

NOT_ASKED_FOR = "not among the tiers asked for"
NO_STANDING = Standing()


class Request(Struct, frozen=True, kw_only=True):
    """What the person or job asked for, beside the configuration."""

    tiers: tuple[str, ...] = ()  # named ones; empty: those of the event
    dispatch: bool = True
    force: bool = False  # run although no file of `changes` was touched, or the commit has been tested already
    fit: bool = False  # every tier to its budget
    shard: ShardName | None = None  # the part of each tier that runs here
    out: str = ".mltiers"  # the output folder as pytest is told it: relative to the configuration's folder, or absolute


class Decision(Struct, frozen=True, kw_only=True):
    """Whether a tier runs, and why; what it waits for. See the fields of the same names of `TierPlan`."""

    run: bool
    reason: str
    waiting: bool = False
    capped: bool = False
    settled: bool = False


def config_identity(config_path: str) -> str:
    """What tells two configurations of one repository apart: their comments, their history. ``config_path``: from the
    repository's top.
    """
    return hashlib.sha256(config_path.encode(errors="surrogateescape")).hexdigest()[:12]


def make_plan(
    config: Config,
    event: Event,
    changes: Changes,
    history: History,
    *,
    config_path: str,
    request: Request,
    machine: Machine,
    pythons: Mapping[str, PythonFacts],
    standing: Standing = NO_STANDING,
    barred: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan. ``config_path``: from the repository's top. ``pythons``: the facts of the interpreters that tiers name;
    a tier whose Python was not looked at (results reported from elsewhere) has no command line. ``barred``: tiers that
    may start no runner, and why.

    Raises UsageError for a named tier that is not in the configuration.
    """
    for name in request.tiers:
        if name not in config.tiers:
            raise UsageError(f"there is no tier {name!r} in {config_path}", remedy=f"it has: {', '.join(config.tiers)}")
    words = cadences(event, pre_merge_label=config.pre_merge_label)
    allowance = _allowance(config, history, standing)
    decided: dict[str, TierPlan] = {}
    for name in _in_order(config.tiers):
        tier = config.tiers[name]
        where = "here" if not tier.runner or (name in request.tiers and not request.dispatch) else "dispatched"
        decision = _decide(name, tier, config, event, words, changes, request)
        if decision.run and tier.runner:
            decision = _trusted(name, event, standing, barred or {}, granted=decision)
        if tier.runner and event.name == "schedule" and not (request.force or request.tiers):
            decision = _untested(name, history, granted=decision)
        if decision.run and where == "here":
            decision = _here(event, standing, granted=decision)
        if decision.run and where == "dispatched" and not request.dispatch:
            labels = ", ".join(tier.runner)
            decision = Decision(run=False, reason=f"belongs on a runner with [{labels}], and --no-dispatch was given")
        planned = _tier_plan(name, tier, decision, where=where, request=request)
        planned = _split(planned, tier, history, request)
        planned = _expected(planned, history, machine)
        missing = [need for need in tier.needs if need in decided and not decided[need].run]
        if planned.run and missing:
            if request.tiers or event.command is not None:
                planned = replace(planned, notes=(f"needs {', '.join(missing)}, not part of this run",))
            else:
                because = f"needs {missing[0]}, which does not run: {decided[missing[0]].reason}"
                planned = replace(planned, run=False, reason=because)
        if planned.run and where == "dispatched":
            planned, allowance = _within(planned, allowance, event)
        if planned.run and where == "here" and (python := pythons.get(tier.python)) is not None:
            here = how_here(planned, tier, config, python, machine, history.of(name), out=request.out)
            planned = _expected(here, history, machine)
        decided[name] = planned
    return Plan(
        config_path=config_path,
        config_id=config_identity(config_path),
        event=event,
        changes=changes,
        tiers=tuple(decided[name] for name in config.tiers),
        source=tuple(config.source),
        coverage_minimum=config.coverage.minimum,
        coverage_patch=config.coverage.patch,
        known_gaps=tuple(config.coverage.known_gaps),
        partial=bool(request.tiers) and any(name not in request.tiers for name in config.tiers),
        notes=(*notes, *history.notes),
    )


def _in_order(tiers: Mapping[str, Tier]) -> list[str]:
    """Needed tiers before those that need them (the configuration has no cycles), otherwise as written."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        for need in tiers[name].needs:
            visit(need)
        ordered.setdefault(name)

    for name in tiers:
        visit(name)
    return list(ordered)


def _decide(
    name: str, tier: Tier, config: Config, event: Event, words: frozenset[str], changes: Changes, request: Request
) -> Decision:
    """Whether the tier runs as far as the event, what was asked for and the changed files go."""
    if request.tiers:
        named = name in request.tiers
        return Decision(run=named, reason="asked for by name" if named else NOT_ASKED_FOR)
    touched = _touched(tier, changes, request)
    wanted = bool(words & set(tier.when))
    if event.command is not None and tier.runner:
        # Somebody asked for it: which files changed is no reason against that.
        return Decision(run=wanted, reason="asked for by a comment" if wanted else _wrong_event(tier, event))
    if not wanted and "pull_request" in words and event.name != LOCAL and "pre-merge" in tier.when:
        if touched is None:
            return Decision(run=False, reason=_untouched(tier))
        waits = f"waits for the label '{config.pre_merge_label}' (runs on {', '.join(tier.when)})"
        by_comment = of_fork(name, event) if tier.runner else None
        return Decision(run=False, reason=by_comment or waits, waiting=True)
    if not wanted:
        return Decision(run=False, reason=_wrong_event(tier, event))
    return Decision(run=touched is not None, reason=_untouched(tier) if touched is None else touched or _runs(event))


def _touched(tier: Tier, changes: Changes, request: Request) -> str | None:
    """Which change concerns the tier, in words ("": it asks for none); None: no change does."""
    if not tier.changes or request.force:
        return ""
    if changes.files is None:
        return f"changed files are unknown ({changes.source}), so it runs"
    paths = [path for file in changes.files for path in (file.path, file.old_path) if path]
    found = any_match(paths, tier.changes)
    return f"{found} changed" if found else None


def _untouched(tier: Tier) -> str:
    return f"no changed file matches {', '.join(tier.changes)}"


def _runs(event: Event) -> str:
    return f"runs on {event.name}" if event.name != LOCAL else "runs here"


def _wrong_event(tier: Tier, event: Event) -> str:
    starts = ", ".join(tier.when) or "nothing"
    if event.name == LOCAL:
        return f"runs on {starts}; name it to run it now"
    return f"runs on {starts}, not on {event.name}"


def _trusted(name: str, event: Event, standing: Standing, barred: Mapping[str, str], *, granted: Decision) -> Decision:
    """The same decision, if the event may use a machine of the team's for the tier."""
    if name in barred:
        return Decision(run=False, reason=barred[name])
    consent = may_start(name, event, standing)
    return granted if consent.allowed else Decision(run=False, reason=consent.reason, waiting=consent.waiting)


def _here(event: Event, standing: Standing, *, granted: Decision) -> Decision:
    """The same decision, if this job may run the commit's code. Raises UsageError for the wrong commit."""
    if standing.checkout is not None and event.sha is not None and not standing.checkout.startswith(event.sha):
        raise UsageError(
            f"the checkout is at {standing.checkout}, and the commit to test is {event.sha}: nothing was run",
            remedy="check out that commit: `ref:` of actions/checkout",
        )
    consent = may_run_here(event, standing)
    return granted if consent.allowed else Decision(run=False, reason=consent.reason, waiting=consent.waiting)


def _untested(name: str, history: History, *, granted: Decision) -> Decision:
    """The same decision, unless a night before has tested this very commit."""
    told = next((r for r in history.head if r.name == name and r.tier.verdict in WHOLE), None)
    if told is None or not granted.run:
        return granted
    return Decision(run=False, reason=f"this commit was tested already: {told.tier.verdict}", settled=True)


def _split(planned: TierPlan, tier: Tier, history: History, request: Request) -> TierPlan:
    """The plan with the tier's machines: how many, and by which durations its tests are split over them."""
    if not planned.run:
        return planned
    if planned.where == "here":
        if request.shard is None:
            return planned
        own = request.shard
        return replace(planned, shard=own.shard, shards=own.shards, timings=own.timings)
    records = history.of(planned.name)
    seconds = {test: estimate.seconds for test, estimate in estimates(records).items()}
    workers, overhead = _as_last_time(records, seconds)
    workers = workers if tier.workers == "auto" else int(tier.workers)
    timings = Timings(snapshot=history.version, seconds=seconds, overhead=overhead)
    if tier.shards == "auto":
        shards, why = choose(timings, budget=tier.budget, workers=workers)
        planned = replace(planned, notes=(*planned.notes, why))
    else:
        shards = tier.shards
    if shards == 1:
        return planned
    predicted = slowest(seconds, seconds, shards) / workers + overhead if seconds else planned.predicted_seconds
    return replace(planned, shards=shards, timings=history.version if seconds else None, predicted_seconds=predicted)


def _expected(planned: TierPlan, history: History, machine: Machine) -> TierPlan:
    """The plan with what the tier is expected to take, and a note where it grows into its budget.

    Where it will run elsewhere, and nobody knows on what, any machine's runs are as good as another's.
    """
    here = planned.where == "here" and bool(planned.command)
    records = history.of(planned.name)
    conditions = Conditions(
        machine=machine.fingerprint if here else {},
        workers=planned.workers if here else None,
        shards=planned.shards,
        coverage=planned.coverage if here else None,
    )
    found = predict(records, conditions)
    grows = drift_of(planned.name, records, None, budget=planned.budget, shards=planned.shards) if planned.run else None
    if grows is not None and drift_words(grows) not in planned.notes:
        planned = replace(planned, notes=(*planned.notes, drift_words(grows)))
    if planned.choice is not None and (found is None or found.note):
        said = None if any(o.runs for o in planned.choice.options if o.mode == planned.choice.mode) else "never run so"
        expected = planned.choice.seconds
        return replace(
            planned, predicted_seconds=expected, predicted_low=None, predicted_high=None, predicted_note=said
        )
    if found is None or (found.note and planned.shards > 1 and planned.predicted_seconds is not None):
        return planned  # what its tests add up to on so many machines is worth more than runs on another number of them
    return replace(
        planned,
        predicted_seconds=found.seconds,
        predicted_low=found.low,
        predicted_high=found.high,
        predicted_note=found.note,
    )


def _as_last_time(records: Sequence[Record], seconds: Mapping[str, float]) -> tuple[int, float]:
    """The processes of the newest run of a tier, and its seconds beside its tests (start, imports, collection)."""
    last = next((record.tier for record in records if record.tier.result is not None), None)
    if last is None or (result := last.result) is None:
        return 1, 0.0
    tests = [test.node_id for test in result.tests]
    alone = slowest(tests, seconds, last.plan.shards) / max(result.workers, 1)
    return max(result.workers, 1), max(result.seconds - alone, 0.0)


def _allowance(config: Config, history: History, standing: Standing) -> Allowance:
    if config.gpu_minutes_per_day is None:
        return Allowance()
    readable = history.version is not None or not history.notes
    records = [record for name in history.tiers for record in history.of(name)]
    used = gpu_minutes_today(records, now=standing.now) if readable else None
    return Allowance(cap=config.gpu_minutes_per_day, used=used)


def _within(planned: TierPlan, allowance: Allowance, event: Event) -> tuple[TierPlan, Allowance]:
    """The plan of a dispatched tier, if the day's GPU minutes allow it, and what is left of them then.

    What somebody starts by hand is their own decision.
    """
    devices = planned.gpus * planned.shards
    seconds = planned.predicted_seconds or planned.budget
    over = allowance.refuse(devices=devices, seconds=seconds, guessed=planned.predicted_seconds is None)
    if over is not None and event.name not in ("workflow_dispatch", LOCAL):
        return replace(planned, run=False, reason=over, capped=True), allowance
    return planned, allowance.spend(devices=devices, seconds=seconds)


def _tier_plan(name: str, tier: Tier, decision: Decision, *, where: str, request: Request) -> TierPlan:
    return TierPlan(
        name=name,
        run=decision.run,
        reason=decision.reason,
        waiting=decision.waiting,
        settled=decision.settled,
        where=where,
        runner=tuple(tier.runner),
        gpus=tier.gpus,
        required=tier.required,
        priority=tier.priority,
        needs=tuple(need for need in tier.needs if not request.tiers or need in request.tiers),
        budget=tier.budget,
        queue=tier.queue,
        per_test=None if tier.measure else tier.per_test,
        fit=(tier.fit or request.fit) and tier.benchmark is None,
        defer_fails=tier.defer == "fail",
        measure=tier.measure,
        markers=tier.markers,
        args=tuple(tier.args),
        retries=tier.retries,
        flaky_fails=tier.flaky == "fail",
        benchmark=tier.benchmark is not None,
        against=_against(tier),
        gate=tier.benchmark.gate if tier.benchmark is not None else None,
        paths=tuple(tier.paths),
        coverage_minimum=tier.coverage.minimum if tier.coverage is not None else None,
        coverage_patch=tier.coverage.patch if tier.coverage is not None else None,
        known_gaps=tuple(tier.coverage.known_gaps) if tier.coverage is not None else (),
    )


def _against(tier: Tier) -> str | None:
    """What the tier's benchmarks are compared with: a gate without a word on it means the base."""
    if tier.benchmark is None or (tier.benchmark.gate is None and tier.benchmark.against is None):
        return None
    return tier.benchmark.against or "base"
