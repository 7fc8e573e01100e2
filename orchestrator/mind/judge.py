"""What the evidence means: one verdict per tier, one for the run. Pure.

Nothing is green by absence. A tier is ``passed`` only when a readable report names at least one executed test, every
test in it is fine, the exit code agrees, it ended by itself within its budget, and every threshold asked for was
measured and met. ``tests/unit/test_judge.py`` shows, for each of these rules, the evidence a naive reading calls green.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from orchestrator.mind.compare import interval, moved
from orchestrator.mind.coverage_past import NO_PAST, CoveragePast, carried_on, coverage_change
from orchestrator.mind.excerpts import last_words
from orchestrator.mind.readers.coverage import combine, leave_out, patch_coverage, untested_functions
from orchestrator.words.errors import ExitCode
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Change, Coverage, Ending, TestOutcome, TierResult
from orchestrator.words.verdict import (
    VERDICT_EXIT_CODES,
    CarriedLines,
    KnownGap,
    PatchCoverage,
    RunVerdict,
    TierVerdict,
    Verdict,
)

# pytest's exit codes: 0 all passed, 1 some failed, 2 interrupted (also: a file could not be collected),
# 3 internal error, 4 usage error, 5 nothing collected.
_PYTEST_EXITS = {
    2: "pytest was interrupted",
    3: "pytest had an internal error",
    4: "pytest refused its command line",
    5: "pytest collected no test",
}
_LISTED = 3  # names in one reason; the report lists them all
NOTHING_CHANGED: Mapping[str, frozenset[int]] = {}


def judge(
    plan: Plan,
    results: Mapping[str, TierResult],
    *,
    changed_lines: Mapping[str, frozenset[int]] | None = None,
    newer_head: str | None = None,
    past: CoveragePast = NO_PAST,
) -> RunVerdict:
    """The verdict of a run.

    ``results``: what was collected, by tier. ``changed_lines``: new-side lines of ``base...head`` per path, or None
    where unknown. ``newer_head``: the head the pull request has by now, if it is no longer the tested commit.
    ``past``: what tiers covered before.
    """
    changed = measurable(plan, changed_lines)
    tiers = tuple(judge_tier(tier, results.get(tier.name), changed=changed) for tier in plan.tiers)
    return judge_run(plan, tiers, changed_lines=changed_lines, newer_head=newer_head, past=past)


def judge_run(
    plan: Plan,
    tiers: tuple[TierVerdict, ...],
    *,
    changed_lines: Mapping[str, frozenset[int]] | None = None,
    newer_head: str | None = None,
    past: CoveragePast = NO_PAST,
) -> RunVerdict:
    """The verdict over tiers that are judged: the worst of the required ones, and the thresholds of them together."""
    coverage = combine(t.result.coverage for t in tiers if t.result is not None and t.result.coverage is not None)
    gaps: tuple[KnownGap, ...] = ()
    carried: tuple[CarriedLines, ...] = ()
    change = None
    if coverage is not None:
        coverage, carried = carried_on(coverage, tiers, past)
        coverage, gaps = leave_out(coverage, plan.known_gaps)
        if all(_has_coverage(tier) for tier in tiers if _measures(tier)):
            change = coverage_change(coverage, tiers, past, known_gaps=plan.known_gaps)
    patch = patch_coverage(coverage, changed_lines) if coverage is not None and changed_lines is not None else None
    note = _unmeasured(tiers)
    failed_thresholds = tuple(_thresholds(plan, tiers, coverage, patch, note))
    if newer_head is not None:
        tiers = tuple(_supersede(tier, newer_head) for tier in tiers)
        failed_thresholds = ()
    verdict = _worst(tiers)
    exit_code = _exit_code(tiers, verdict)
    if failed_thresholds and verdict.severity > Verdict.FAILED.severity:
        verdict = Verdict.FAILED
        exit_code = ExitCode.FAILED
    return RunVerdict(
        plan=plan,
        verdict=verdict,
        exit_code=exit_code,
        tiers=tiers,
        reasons=failed_thresholds,
        coverage=coverage,
        coverage_note=note,
        patch=patch,
        known_gaps=gaps,
        carried=carried,
        coverage_change=change,
        untested=untested_functions(coverage, changed_lines) if coverage is not None and changed_lines else {},
    )


def measurable(plan: Plan, changed_lines: Mapping[str, frozenset[int]] | None) -> Mapping[str, frozenset[int]] | None:
    """The lines that coverage of the change is measured over; None where there is a base and they are not known.

    An event without a base changes nothing that could be measured.
    """
    return NOTHING_CHANGED if changed_lines is None and plan.event.base_sha is None else changed_lines


def judge_tier(
    plan: TierPlan, result: TierResult | None, *, changed: Mapping[str, frozenset[int]] | None = NOTHING_CHANGED
) -> TierVerdict:
    """The verdict of one tier; ``result`` is None where nothing was collected. ``changed``: see `measurable`."""
    return _judged(plan, result, _own_patch(plan, result, changed))


def as_it_was(tier: TierVerdict) -> TierVerdict:
    """The verdict on the commit that was tested, whatever came after it."""
    return _judged(tier.plan, tier.result, tier.patch)


def _own_patch(
    plan: TierPlan, result: TierResult | None, changed: Mapping[str, frozenset[int]] | None
) -> PatchCoverage | None:
    """Coverage of the change by one tier's tests, where it is asked for; None also where it is unknown."""
    if plan.coverage_patch is None or result is None or result.coverage is None or changed is None:
        return None
    return patch_coverage(leave_out(result.coverage, plan.known_gaps)[0], changed)


def _judged(plan: TierPlan, result: TierResult | None, patch: PatchCoverage | None) -> TierVerdict:
    gaps: tuple[KnownGap, ...] = ()
    if plan.known_gaps and result is not None and result.coverage is not None:
        left, gaps = leave_out(result.coverage, plan.known_gaps)
        verdict, reasons = _tier_verdict(plan, replace(result, coverage=left), patch)
    else:
        verdict, reasons = _tier_verdict(plan, result, patch)
    exit_code = VERDICT_EXIT_CODES[verdict]
    if verdict is Verdict.FLAKY and plan.flaky_fails:
        exit_code = ExitCode.FAILED
    if verdict is Verdict.NOT_RUN and result is not None and result.ending is Ending.NOT_STARTED:
        exit_code = ExitCode.FAILED  # it should have run: a tier it needs did not pass
    if plan.capped and not plan.run:
        exit_code = ExitCode.FAILED  # and so should this one: the day's GPU minutes are used up
    return TierVerdict(
        plan=plan,
        result=result,
        verdict=verdict,
        reasons=tuple(reasons),
        exit_code=exit_code,
        patch=patch,
        known_gaps=gaps,
    )


def _tier_verdict(plan: TierPlan, result: TierResult | None, patch: PatchCoverage | None) -> tuple[Verdict, list[str]]:
    if not plan.run:
        return Verdict.NOT_RUN, [plan.reason]
    if result is None:
        return Verdict.INFRASTRUCTURE, ["it was planned, and nothing came back from it"]
    if (unrun := _never_ran(result)) is not None:
        return unrun
    verdict, reasons = _as_run(plan, result, patch)
    if verdict is not Verdict.CANCELLED and (short := _gpus_short(plan, result)) is not None:
        # What fails or takes too long where its GPU is missing says nothing of the code.
        return Verdict.INFRASTRUCTURE, [short, *reasons]
    return verdict, reasons


def _as_run(plan: TierPlan, result: TierResult, patch: PatchCoverage | None) -> tuple[Verdict, list[str]]:
    """The verdict of a tier that ran, as far as its tests go."""
    running = [t.node_id for t in result.tests if t.outcome is TestOutcome.UNFINISHED]
    if result.ending is Ending.CANCELLED:
        return Verdict.CANCELLED, ["somebody stopped it", *_naming("was running", running)]
    over = result.ending is Ending.DEADLINE or (plan.budget > 0 and result.seconds > plan.budget)
    counts = result.counts
    bad = [t.node_id for t in result.tests if t.outcome in (TestOutcome.FAILED, TestOutcome.ERROR)]
    failures = (
        [f"{counts.failed + counts.error} of {counts.total} tests failed", *_naming("failed", bad)] if bad else []
    )
    if over:
        stopped = "was stopped at" if result.ending is Ending.DEADLINE else f"took {result.seconds:.1f} s, over"
        sentence = f"{stopped} its budget of {plan.budget:g} s"
        verdict = Verdict.FAILED if bad else Verdict.OVER_BUDGET
        return verdict, [*failures, sentence, *_naming("was running", running), *result.problems]
    if bad:
        return Verdict.FAILED, [*failures, *result.problems, *_deferred(result)]
    if untrusted := list(_untrusted(result, running)):
        return Verdict.INFRASTRUCTURE, untrusted
    if plan.gpus and (unused := _gpu_unused(plan, result)):
        return Verdict.INFRASTRUCTURE, [unused]
    if unmet := list(_tier_thresholds(plan, result, patch)):
        return Verdict.FAILED, unmet
    waiting = _deferred(result)
    if flaky := [t.node_id for t in result.tests if t.attempts]:
        again = f"{len(flaky)} failed first and passed when tried again"
        return Verdict.FLAKY, [again, *_naming("flaky", flaky), *waiting]
    return Verdict.PASSED, waiting


def _never_ran(result: TierResult) -> tuple[Verdict, list[str]] | None:
    """The verdict of a tier in which no test was even started; None: it ran."""
    if result.ending is Ending.DISPATCHED:
        return Verdict.NOT_RUN, [result.reason or "it runs elsewhere"]
    if result.ending is Ending.NEVER_STARTED:
        return Verdict.NEVER_STARTED, [result.reason or "no runner took it", *result.problems]
    if result.ending is Ending.NOT_STARTED:
        verdict = Verdict.INFRASTRUCTURE if result.problems else Verdict.NOT_RUN
        return verdict, [*dict.fromkeys((result.reason or "it did not start", *result.problems))]
    if result.parts and not any(part.selected for part in result.parts) and result.exit_code == 0:
        return Verdict.NOT_RUN, [*result.notes] or ["its part of the tests is empty"]
    return None


def _deferred(result: TierResult) -> list[str]:
    """What a tier that was fitted to its budget did not run."""
    if not result.deferred:
        return []
    ran, waiting = result.counts.total, len(result.deferred)
    return [f"{ran} of {ran + waiting} run; {waiting} deferred"]


def _untrusted(result: TierResult, running: list[str]) -> Iterator[str]:
    """Everything that keeps evidence without a failure from being a pass."""
    if not result.has_report:
        yield "it left no test report" + _why_no_report(result)
    yield from result.problems
    code = result.exit_code
    if result.ending is Ending.SIGNALED and code is not None:
        yield f"pytest was killed by signal {-code}"
    elif code is not None and code != 0:
        why = f"{result.deselected} deselected" if result.deselected else "though no test is reported as failed"
        yield f"{_PYTEST_EXITS.get(code, 'pytest failed')} (exit code {code}), {why}"
    if running:
        yield from _naming("never ended", running)
    if result.has_report and result.counts.executed == 0:
        skipped = result.counts.skipped
        yield f"no test was executed ({skipped} skipped)" if skipped else "no test was executed"


def _why_no_report(result: TierResult) -> str:
    if result.counts.executed and result.exit_code == 0:
        return ", though its tests ran: look for `-p no:junitxml` in the project's addopts, or who removes junit.xml"
    said = last_words(result.output_tail)
    return f"; its last words: {said[:300]}" if said else ""


def _gpus_short(plan: TierPlan, result: TierResult) -> str | None:
    """That the machine has fewer GPUs than the tier promises; None: it has them, or nobody knows."""
    if result.gpu is None or len(result.gpu.devices) >= plan.gpus:
        return None
    return f"{_promised(plan)}, {len(result.gpu.devices)} found"


def _gpu_unused(plan: TierPlan, result: TierResult) -> str | None:
    if result.gpu is None:
        return f"{_promised(plan)}, and nothing shows that a test ever used CUDA"
    if result.gpu.peak_bytes == 0:
        return f"{_promised(plan)}, and no CUDA memory was ever allocated"
    return None


def _promised(plan: TierPlan) -> str:
    return f"{plan.gpus} GPU{'s' if plan.gpus > 1 else ''} promised"


def _tier_thresholds(plan: TierPlan, result: TierResult, patch: PatchCoverage | None) -> Iterator[str]:
    if plan.defer_fails:
        yield from (f"{said}, which is not allowed here" for said in _deferred(result))
    yield from _slower(plan, result)
    limits = (plan.coverage_minimum, plan.coverage_patch)
    yield from _too_little(result.coverage, patch, limits, why=result.coverage_note, by=" by this tier")


def _too_little(
    coverage: Coverage | None,
    patch: PatchCoverage | None,
    limits: tuple[float | None, float | None],
    *,
    why: str | None,
    by: str = "",
) -> Iterator[str]:
    """What was covered less than it should be. ``limits``: percent of all lines and of the changed ones, None where
    nothing is asked; ``patch`` None: unknown; ``why`` coverage is unknown.
    """
    minimum, wanted = limits
    why = why or "nothing was measured"
    percent = coverage.percent if coverage is not None else None
    if minimum is not None and percent is None:
        yield f"coverage is unknown ({why}), and at least {minimum:g}% is asked for"
    elif minimum is not None and percent is not None and percent < minimum:
        yield f"coverage is {floor_percent(percent)}%, below the minimum of {minimum:g}%"
    if wanted is not None and patch is None:
        why = why if coverage is None else "its lines are not known here"
        yield f"coverage of the change is unknown ({why}), and at least {wanted:g}% is asked for"
    elif wanted is not None and patch is not None and patch.percent is not None and patch.percent < wanted:
        yield f"coverage of the change{by} is {floor_percent(patch.percent)}%, below {wanted:g}%"


def _slower(plan: TierPlan, result: TierResult) -> Iterator[str]:
    """The benchmarks beyond the gate. One that is undecided fails nothing."""
    if plan.gate is None or result.comparison is None:
        return
    slower = [change for change in result.comparison.changes if change.change is Change.SLOWER]
    for change in slower[:_LISTED]:
        far = f"{moved(change)} ({interval(change)})"
        yield f"{change.name} got slower: {far}, beyond the gate of {plan.gate:g}%"
    if len(slower) > _LISTED:
        yield f"and {len(slower) - _LISTED} more benchmarks got slower"


def _thresholds(
    plan: Plan,
    tiers: tuple[TierVerdict, ...],
    coverage: Coverage | None,
    patch: PatchCoverage | None,
    note: str | None,
) -> Iterator[str]:
    """The run's own thresholds, over all tiers that measured coverage; none where no measuring tier ran."""
    if plan.partial or not any(_measures(t) for t in tiers):
        return  # what the tiers left out would have covered is unknown, and unknown is no drop
    if coverage is not None and patch is None and plan.event.base_sha is None:
        patch = patch_coverage(coverage, NOTHING_CHANGED)  # there is no change, so nothing of it is unknown
    yield from _too_little(coverage, patch, (plan.coverage_minimum, plan.coverage_patch), why=note)


def _measures(tier: TierVerdict) -> bool:
    return tier.plan.run and not tier.plan.benchmark and tier.verdict is not Verdict.NOT_RUN


def _has_coverage(tier: TierVerdict) -> bool:
    return tier.result is not None and tier.result.coverage is not None


def floor_percent(percent: float) -> str:
    """A percentage to one decimal, rounded down: 84.96 must not read as the 85.0 it failed to reach."""
    return f"{int(percent * 10) / 10:.1f}"


def _unmeasured(tiers: tuple[TierVerdict, ...]) -> str | None:
    unknown = [
        f"{t.name}: {t.result.coverage_note or 'not measured'}"
        for t in tiers
        if t.plan.run and not t.plan.benchmark and t.result is not None and t.result.coverage is None
    ]
    return "; ".join(unknown) or None


def _supersede(tier: TierVerdict, newer_head: str) -> TierVerdict:
    if tier.verdict in (Verdict.NOT_RUN, Verdict.CANCELLED):
        return tier
    reason = f"the pull request is at {newer_head[:10]} by now; this tested an older commit, and was: {tier.verdict}"
    return replace(
        tier,
        verdict=Verdict.SUPERSEDED,
        reasons=(reason, *tier.reasons),
        exit_code=VERDICT_EXIT_CODES[Verdict.SUPERSEDED],
    )


def _worst(tiers: tuple[TierVerdict, ...]) -> Verdict:
    required = [tier.verdict for tier in tiers if tier.plan.required]
    return min(required, key=lambda verdict: verdict.severity, default=Verdict.NOT_RUN)


def _exit_code(tiers: tuple[TierVerdict, ...], worst: Verdict) -> ExitCode:
    """The code of the worst verdict; a milder one may still carry a failure (a required tier that could not run)."""
    required = [tier for tier in tiers if tier.plan.required]
    code = max((tier.exit_code for tier in required if tier.verdict is worst), default=VERDICT_EXIT_CODES[worst])
    return code or max((tier.exit_code for tier in required), default=code)


def _naming(what: str, node_ids: list[str]) -> list[str]:
    """At most a few names in one sentence; nothing for no names."""
    if not node_ids:
        return []
    more = f" and {len(node_ids) - _LISTED} more" if len(node_ids) > _LISTED else ""
    return [f"{what}: {', '.join(node_ids[:_LISTED])}{more}"]
