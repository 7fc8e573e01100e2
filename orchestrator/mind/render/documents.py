"""plan.json, result.json and verdict.json as plain dictionaries. Their schemas are in docs/schemas/."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from orchestrator.mind.dispatched import GRACE, Dispatch
from orchestrator.mind.order import schedule_of
from orchestrator.mind.readers.comparison import comparison_document
from orchestrator.mind.render.causes import insight_of
from orchestrator.mind.shards import ShardName
from orchestrator.words.event import Event
from orchestrator.words.plan import Plan, PythonFacts, TierPlan
from orchestrator.words.results import Counts, Coverage, TestResult, TierResult
from orchestrator.words.verdict import Cause, KnownGap, PatchCoverage, RunVerdict, TierVerdict

VERSION = 1


def plan_document(plan: Plan) -> dict[str, Any]:
    """plan.json: what would run, where, how, and why the rest would not."""
    changed = None if plan.changes.files is None else [file.path for file in plan.changes.files]
    return {
        "version": VERSION,
        "config": plan.config_path,
        "config_id": plan.config_id,
        "event": _event(plan.event),
        "changes": {"source": plan.changes.source, "files": changed},
        "source": list(plan.source),
        "coverage": {
            "minimum": plan.coverage_minimum,
            "patch": plan.coverage_patch,
            "known_gaps": list(plan.known_gaps),
        },
        "partial": plan.partial,
        "notes": list(plan.notes),
        "tiers": {tier.name: _tier_plan(tier) for tier in plan.tiers},
    }


def result_document(result: TierResult, *, sha: str | None) -> dict[str, Any]:
    """result.json of one tier: every test with node id, outcome, seconds and worker."""
    schedule = schedule_of(result)
    return {
        "version": VERSION,
        "tier": result.name,
        "sha": sha,
        "ending": str(result.ending),
        "exit_code": result.exit_code,
        "reason": result.reason,
        "seconds": round(result.seconds, 6),  # as a report of it later shows them
        "started": result.started,
        "stopped": result.stopped,
        "machine": dict(result.machine),
        "workers": result.workers,
        "phases": None if result.phases is None else asdict(result.phases),
        "peak_memory": result.peak_memory,
        "command": list(result.command),
        "has_report": result.has_report,
        "problems": list(result.problems),
        "notes": list(result.notes),
        "details": list(result.details),
        "counts": _counts(result.counts),
        "deselected": result.deselected,
        "deferred": list(result.deferred),
        "order": result.order,
        "schedule": {
            "first_failure": None if schedule.first_failure is None else round(schedule.first_failure, 3),
            "idle": round(schedule.idle, 3),
        },
        "random_seed": result.random_seed,
        "parts": [
            {
                "shard": part.shard,
                "shards": part.shards,
                "digest": part.digest,
                "collected": part.collected,
                "selected": part.selected,
            }
            for part in result.parts
        ],
        "coverage": coverage_summary(result.coverage),
        "coverage_note": result.coverage_note,
        "coverage_core": result.coverage_core,
        "benchmarks": [
            {
                "name": b.name,
                "minimum": b.minimum,
                "median": b.median,
                "mean": b.mean,
                "stddev": b.stddev,
                "rounds": b.rounds,
                "peak_memory": b.peak_memory,
                "throughput": b.throughput,
            }
            for b in result.benchmarks
        ],
        "comparison": None if result.comparison is None else comparison_document(result.comparison),
        "gpu": None
        if result.gpu is None
        else {
            "devices": list(result.gpu.devices),
            "peak_bytes": result.gpu.peak_bytes,
            "driver": result.gpu.driver,
            "cuda": result.gpu.cuda,
            "torch": result.gpu.torch,
            "tests": dict(result.gpu.tests),
        },
        "stacks": result.stacks,
        "tests": [_test(test) for test in result.tests],
    }


def verdict_document(run: RunVerdict) -> dict[str, Any]:
    """verdict.json: the verdict of the run and of each tier, with the reasons, and what is known of its tests."""
    found = insight_of(run)
    return {
        "version": VERSION,
        "verdict": str(run.verdict),
        "exit_code": int(run.exit_code),
        "reasons": list(run.reasons),
        "sha": run.plan.event.sha,
        "event": run.plan.event.name,
        "config": run.plan.config_path,
        "coverage": coverage_summary(run.coverage),
        "coverage_note": run.coverage_note,
        "patch_coverage": _patch(run.patch),
        "coverage_change": None
        if run.coverage_change is None
        else {"points": round(run.coverage_change.points, 3), "sha": run.coverage_change.sha},
        "carried": [
            {"tier": one.tier, "sha": one.sha, "age": round(one.age), "lines": one.lines} for one in run.carried
        ],
        "untested": {path: list(names) for path, names in sorted(run.untested.items())},
        "known_gaps": _gaps(run.known_gaps),
        "causes": [_cause(cause) for cause in found.causes],
        "flaky": [
            {
                "node_id": flake.test.node_id,
                "tiers": list(flake.tiers),
                "remarks": list(flake.remarks),
                "rerun": flake.rerun,
            }
            for flake in found.flakes
        ],
        "slower": [
            {"node_id": one.node_id, "tier": one.tier, "seconds": round(one.seconds, 6), "before": round(one.before, 6)}
            for one in found.slower
        ],
        "tiers": {
            tier.name: {
                "verdict": str(tier.verdict),
                "reasons": list(tier.reasons),
                "exit_code": int(tier.exit_code),
                "required": tier.plan.required,
                "where": tier.plan.where,
                "budget": tier.plan.budget,
                "seconds": None if tier.result is None else round(tier.result.seconds, 3),
                "predicted_seconds": tier.plan.predicted_seconds,
                "predicted_low": tier.plan.predicted_low,
                "predicted_high": tier.plan.predicted_high,
                "counts": None if tier.result is None else _counts(tier.result.counts),
                "coverage": None if tier.result is None else coverage_summary(tier.result.coverage),
                "patch_coverage": _patch(tier.patch),
                "known_gaps": _gaps(tier.known_gaps),
                "notes": _said_of(tier),
            }
            for tier in run.tiers
        },
    }


def _said_of(tier: TierVerdict) -> list[str]:
    """What its plan and its result have to say beside the reasons: what has to be known first, then how it ran."""
    planned, ran = tier.plan, tier.result
    said = (*planned.notes, *(ran.notes if ran else ()), *planned.details, *(ran.details if ran else ()))
    return list(dict.fromkeys(said))


def _patch(patch: PatchCoverage | None) -> dict[str, Any] | None:
    if patch is None:
        return None
    return {
        "percent": patch.percent,
        "covered": patch.covered,
        "measured": patch.measured,
        "uncovered": {path: list(lines) for path, lines in sorted(patch.uncovered.items())},
    }


def _gaps(gaps: Sequence[KnownGap]) -> list[dict[str, Any]]:
    return [{"name": gap.name, "lines": gap.lines, "covered": gap.covered, "found": gap.found} for gap in gaps]


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "tests": [test.node_id for test in cause.tests],
        "tiers": list(cause.tiers),
        "kind": cause.kind,
        "message": cause.tests[0].message,
        "standing": str(cause.standing),
        "remarks": list(cause.remarks),
        "rerun": cause.rerun,
    }


def dispatch_document(dispatches: Sequence[Dispatch], *, verdict: dict[str, Any] | None) -> dict[str, Any]:
    """What `mltiers dispatch --json` prints: what was started (or ended by a sweep), and the verdict of ``--wait``."""
    return {
        "version": VERSION,
        "dispatched": [
            {
                "tier": one.tier,
                "shard": one.shard,
                "shards": one.shards,
                "sha": one.sha,
                "nonce": one.nonce,
                "run_id": one.run_id,
                "url": one.url,
                "verdict": one.verdict,
                "reason": one.reason,
            }
            for one in dispatches
        ],
        "verdict": verdict,
    }


def matrix_document(plan: Plan) -> dict[str, Any]:
    """What ``strategy.matrix`` takes: the tiers of the plan that belong on other runners."""
    return {
        "include": [
            {
                "tier": tier.name,
                "shard": shard,
                "shards": tier.shards,
                "part": _part(tier, shard),
                "runner": list(tier.runner),
                "gpus": tier.gpus,
                "budget-minutes": max(1, -int(-tier.budget // 60)),
                "timeout-minutes": -int(-(tier.budget + GRACE) // 60),
            }
            for tier in plan.tiers
            if tier.run and tier.where == "dispatched"
            for shard in range(1, tier.shards + 1)
        ]
    }


def _part(tier: TierPlan, shard: int) -> str:
    """The action's input `shard`; empty for a tier that is not split."""
    return str(ShardName(shard=shard, shards=tier.shards, timings=tier.timings)) if tier.shards > 1 else ""


def coverage_summary(coverage: Coverage | None) -> dict[str, Any] | None:
    """Totals of a coverage report; None where it is unknown."""
    if coverage is None:
        return None
    return {
        "percent": coverage.percent,
        "covered": coverage.covered,
        "statements": coverage.statements,
        "branches_covered": coverage.branch_covered,
        "branches": coverage.branch_total,
    }


def _event(event: Event) -> dict[str, Any]:
    pull = event.pull_request
    return {
        "name": event.name,
        "action": event.action,
        "repository": event.repository,
        "sha": event.sha,
        "base_sha": event.base_sha,
        "ref": event.ref,
        "pull_request": None if pull is None else {"number": pull.number, "fork": pull.fork},
        "run": None if event.run is None else {"id": event.run.run_id, "attempt": event.run.attempt},
    }


def _tier_plan(tier: TierPlan) -> dict[str, Any]:
    return {
        "run": tier.run,
        "reason": tier.reason,
        "where": tier.where,
        "runner": list(tier.runner),
        "gpus": tier.gpus,
        "required": tier.required,
        "priority": tier.priority,
        "needs": list(tier.needs),
        "budget": tier.budget,
        "queue": tier.queue,
        "shards": tier.shards,
        "workers": tier.workers,
        "benchmark": tier.benchmark,
        "coverage": tier.coverage,
        "coverage_minimum": tier.coverage_minimum,
        "coverage_patch": tier.coverage_patch,
        "known_gaps": list(tier.known_gaps),
        "python": None if tier.python is None else tier.python.executable,
        "installed": None if tier.python is None else _installed(tier.python),
        "command": list(tier.command),
        "env": dict(tier.env),
        "notes": list(tier.notes),
        "details": list(tier.details),
        "choice": _choice(tier),
        "predicted_seconds": tier.predicted_seconds,
        "predicted_low": tier.predicted_low,
        "predicted_high": tier.predicted_high,
        "predicted_note": tier.predicted_note,
        "waiting": tier.waiting,
        "capped": tier.capped,
    }


def _installed(python: PythonFacts) -> dict[str, str | None]:
    """The versions of what the tests' Python has; None: it has none."""
    facts: dict[str, str | None] = asdict(python)
    return {name: version for name, version in facts.items() if name != "executable"}


def _choice(tier: TierPlan) -> dict[str, Any] | None:
    """What the number of workers was chosen from; None: it was given, or nothing was known."""
    if tier.choice is None:
        return None
    return {
        "reason": tier.choice.reason,
        "seconds": tier.choice.seconds,
        **asdict(tier.choice.mode),
        "options": [
            {**asdict(option.mode), "seconds": option.seconds, "runs": option.runs} for option in tier.choice.options
        ],
    }


def _counts(counts: Counts) -> dict[str, int]:
    return {
        "total": counts.total,
        "passed": counts.passed,
        "failed": counts.failed,
        "error": counts.error,
        "skipped": counts.skipped,
        "xfailed": counts.xfailed,
        "xpassed": counts.xpassed,
        "unfinished": counts.unfinished,
    }


def _test(test: TestResult) -> dict[str, Any]:
    document: dict[str, Any] = {
        "node_id": test.node_id,
        "outcome": str(test.outcome),
        "seconds": round(test.seconds, 6),
        "worker": test.worker,
    }
    optional = {
        "started": test.started,
        "message": test.message,
        "text": test.text,
        "file": test.file,
        "line": test.line,
    }
    document |= {key: value for key, value in optional.items() if value is not None}
    if test.attempts:
        document["attempts"] = [
            {"outcome": str(a.outcome), "seconds": round(a.seconds, 6), "message": a.message, "text": a.text}
            for a in test.attempts
        ]
    return document
