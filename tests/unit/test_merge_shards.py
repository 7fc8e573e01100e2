"""The parts of a tier that ran apart, as one result: nothing of a part is lost, and no part excuses another."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.shard_results import merge_shards
from orchestrator.words.results import Coverage, Ending, FileCoverage, GpuUse, TestOutcome, TestResult, TierResult

ONE = TierResult(
    name="gpu",
    ending=Ending.EXITED,
    exit_code=0,
    seconds=3.0,
    has_report=True,
    tests=(TestResult(node_id="t.py::a", outcome=TestOutcome.PASSED),),
    coverage=Coverage(files={"a.py": FileCoverage(executed=frozenset({1}), missing=frozenset({2}))}),
    gpu=GpuUse(devices=("H100",), peak_bytes=5),
    deselected=1,
)
OTHER = replace(
    ONE,
    seconds=5.0,
    tests=(TestResult(node_id="t.py::b", outcome=TestOutcome.PASSED),),
    coverage=Coverage(files={"a.py": FileCoverage(executed=frozenset({2}), missing=frozenset({1}))}),
    gpu=GpuUse(devices=("H100",), peak_bytes=9),
)


def test_tests_coverage_and_times_come_together() -> None:
    merged = merge_shards([ONE, OTHER])
    assert [test.node_id for test in merged.tests] == ["t.py::a", "t.py::b"]
    assert (merged.seconds, merged.deselected, merged.problems) == (5.0, 2, ())
    assert merged.coverage is not None
    assert merged.coverage.percent == 100.0


def test_one_part_is_itself() -> None:
    assert merge_shards([ONE]) is ONE


def test_a_test_that_ran_in_two_parts_is_a_problem() -> None:
    assert merge_shards([ONE, ONE]).problems == ("1 test ran in more than one part: t.py::a",)


@pytest.mark.parametrize("gpu", [None, GpuUse(devices=("H100",), peak_bytes=0)])
def test_a_part_that_never_used_its_gpu_is_not_excused_by_one_that_did(gpu: GpuUse | None) -> None:
    for parts in ([ONE, replace(OTHER, gpu=gpu)], [replace(OTHER, gpu=gpu), ONE]):
        assert merge_shards(parts).gpu == gpu


def test_a_part_without_coverage_makes_it_unknown_and_the_worst_ending_counts() -> None:
    lost = replace(OTHER, coverage=None, coverage_note="it left no coverage report", ending=Ending.DEADLINE)
    merged = merge_shards([ONE, lost])
    assert (merged.coverage, merged.coverage_note) == (None, "it left no coverage report")
    assert merged.ending is Ending.DEADLINE


def test_a_part_without_a_report_is_missed() -> None:
    assert not merge_shards([ONE, replace(OTHER, has_report=False)]).has_report
