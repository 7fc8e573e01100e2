"""What a run reads of the memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.hands.remember import NEWEST, read_history
from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import encode
from orchestrator.tools.history import Snapshot
from orchestrator.tools.history.folder import FolderStore
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Ending, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

CONFIG = "0" * 12


def record(number: int, *, trusted: bool) -> Record:
    test = TestResult(node_id="tests/test_a.py::test", outcome=TestOutcome.PASSED, seconds=1.0)
    result = TierResult(name="unit", ending=Ending.EXITED, exit_code=0, seconds=2.0, tests=(test,), has_report=True)
    plan = TierPlan(name="unit", run=True, reason="runs on push")
    return Record(
        sha=f"{number:040x}",
        time=1_700_000_000.0 + number,
        config_id=CONFIG,
        event="push",
        tier=TierVerdict(plan=plan, result=result, verdict=Verdict.PASSED),
        run=str(number),
        trusted=trusted,
    )


def store(root: Path, records: Iterable[Record]) -> FolderStore:
    made = FolderStore(root)

    def change(_: Snapshot) -> Mapping[str, bytes | None]:
        return {name: data for record in records for name, data in encode(record).items()}

    made.update(change, message="all")
    return made


def test_a_busy_week_of_pull_requests_does_not_hide_the_baseline(tmp_path: Path) -> None:
    records = [record(number, trusted=number in (3, 4)) for number in range(NEWEST + 10)]
    history = read_history(store(tmp_path, records), config_id=CONFIG, tiers=["unit"], sha=None)
    assert len(history.of("unit")) == NEWEST + 1
    baseline = history.baseline("unit")
    assert baseline is not None
    assert baseline.sha == f"{4:040x}"


def test_without_a_baseline_there_is_none(tmp_path: Path) -> None:
    records = [record(number, trusted=False) for number in range(NEWEST + 10)]
    history = read_history(store(tmp_path, records), config_id=CONFIG, tiers=["unit"], sha=None)
    assert len(history.of("unit")) == NEWEST
    assert history.baseline("unit") is None


class Counting(FolderStore):
    """Counts the round trips that reading takes."""

    trips = 0

    def snapshot(self, version: str | None = None) -> Snapshot:
        found = super().snapshot(version)

        def read(names: Iterable[str]) -> Mapping[str, bytes]:
            Counting.trips += 1
            return found.read(names)

        return Snapshot(version=found.version, names=found.names, read=read)


def test_a_run_reads_in_two_round_trips(tmp_path: Path) -> None:
    store(tmp_path, [record(number, trusted=True) for number in range(5)])
    history = read_history(Counting(tmp_path), config_id=CONFIG, tiers=["unit", "gpu"], sha=None)
    assert len(history.of("unit")) == 5
    assert Counting.trips == 2


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "version.json").write_text('{"version": 99}')
    (note,) = read_history(FolderStore(tmp_path), config_id=CONFIG, tiers=["unit"], sha=None).notes
    assert note.endswith("has version 99, and this mltiers reads version 1 (use a newer mltiers: one that wrote it)")
