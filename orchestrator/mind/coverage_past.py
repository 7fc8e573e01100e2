"""What earlier runs covered, and what that says of this one: lines carried on, the change against the base. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from orchestrator.mind.readers.coverage import carry, combine, leave_out
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.words.results import Coverage
from orchestrator.words.verdict import CarriedLines, CoverageChange, EarlierCoverage, TierVerdict


class CoveragePast(Struct, frozen=True, kw_only=True):
    """What each tier covered when it last ran on the default branch, and what on the commit that a change starts from
    (or, where it did not run there, the same).
    """

    latest: Mapping[str, EarlierCoverage] = field(default_factory=dict)
    base: Mapping[str, EarlierCoverage] = field(default_factory=dict)


NO_PAST = CoveragePast()


def measured_files(history: History) -> frozenset[str]:
    """The files whose present content decides what can be carried on."""
    return frozenset(path for tier in history.tiers for path in (_sources(history.baseline(tier))))


def coverage_past(history: History, *, base_sha: str | None, current: Mapping[str, str], now: float) -> CoveragePast:
    """The past that a history knows. ``current``: git's blob id of each file as it is now."""
    latest, base = {}, {}
    for tier, records in history.tiers.items():
        if (newest := _earlier(history.baseline(tier), current, now)) is not None:
            latest[tier] = newest
        at_base = next((record for record in records if base_sha is not None and record.sha == base_sha), None)
        if (before := _earlier(at_base, current, now) or newest) is not None:
            base[tier] = before
    return CoveragePast(latest=latest, base=base)


def carried_on(
    coverage: Coverage, tiers: Sequence[TierVerdict], past: CoveragePast
) -> tuple[Coverage, tuple[CarriedLines, ...]]:
    """The coverage with what the tiers that do not run now covered when they last did, in files unchanged since."""
    carried = []
    for tier in tiers:
        if tier.plan.run or (before := past.latest.get(tier.name)) is None:
            continue
        coverage, lines = carry(coverage, before.coverage, before.unchanged)
        if lines:
            carried.append(CarriedLines(tier=tier.name, sha=before.sha, age=before.age, lines=lines))
    return coverage, tuple(carried)


def coverage_change(
    coverage: Coverage, tiers: Sequence[TierVerdict], past: CoveragePast, *, known_gaps: Sequence[str]
) -> CoverageChange | None:
    """The coverage against that of the base over the same tiers; None where one of them was not measured there: less
    data would read as less coverage.
    """
    measuring = [t.name for t in tiers if t.result is not None and t.result.coverage is not None]
    idle = [t.name for t in tiers if not t.plan.run and t.name in past.latest]
    if not measuring or not all(name in past.base for name in measuring):
        return None
    before = combine(past.base[name].coverage for name in measuring)
    assert before is not None  # noqa: S101 -- there is at least one
    for name in idle:
        before, _ = carry(before, past.base[name].coverage, frozenset(before.files))
    before, _ = leave_out(before, known_gaps)
    if coverage.percent is None or before.percent is None:
        return None
    return CoverageChange(points=coverage.percent - before.percent, sha=past.base[measuring[0]].sha)


def _sources(record: Record | None) -> Mapping[str, str]:
    return record.sources if record is not None else {}


def _earlier(record: Record | None, current: Mapping[str, str], now: float) -> EarlierCoverage | None:
    if record is None or record.tier.result is None or record.tier.result.coverage is None:
        return None
    return EarlierCoverage(
        sha=record.sha,
        age=max(0.0, now - record.time),
        coverage=record.tier.result.coverage,
        unchanged=frozenset(path for path, blob in record.sources.items() if current.get(path) == blob),
    )
