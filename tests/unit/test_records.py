"""What the history keeps of a run comes back from its files as it was, or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import (
    BrokenRecordError,
    decode,
    encode,
    parse_ranges,
    quantise,
    ranges,
    references,
    seconds_of,
)
from orchestrator.mind.records.names import parse_record_name, record_name
from orchestrator.words.errors import ExitCode
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import (
    Attempt,
    Benchmark,
    Coverage,
    Ending,
    FileCoverage,
    GpuUse,
    TestOutcome,
    TestResult,
    TierResult,
)
from orchestrator.words.verdict import TierVerdict, Verdict

SHA = "a" * 40
COVERAGE = Coverage(
    files={
        "src/model.py": FileCoverage(
            executed=frozenset({1, 2, 3, 9}),
            missing=frozenset({5}),
            excluded=frozenset({7}),
            functions={"Net.forward": frozenset({2, 3})},
            executed_branches=frozenset({(2, 3), (2, -1)}),
            missing_branches=frozenset({(3, 5)}),
        )
    }
)
TESTS = (
    TestResult(node_id="tests/test_a.py::test_passes", outcome=TestOutcome.PASSED, seconds=1.5),
    TestResult(
        node_id="tests/test_a.py::test_fails[\udc80-\n-ü]",
        outcome=TestOutcome.FAILED,
        seconds=0.25,
        worker="gw1",
        message="AssertionError: assert 1 == 2",
        text="def test_fails():\n>   assert 1 == 2",
        file="tests/test_a.py",
        line=7,
        attempts=(Attempt(outcome=TestOutcome.FAILED, seconds=0.25, message="first"),),
    ),
    TestResult(node_id="tests/test_b.py::test_skipped", outcome=TestOutcome.SKIPPED, message="no GPU here"),
)
RESULT = TierResult(
    name="unit",
    ending=Ending.EXITED,
    exit_code=1,
    seconds=12.25,
    started=1_700_000_000.0,
    tests=tuple(sorted(TESTS, key=lambda test: test.node_id)),
    has_report=True,
    coverage=COVERAGE,
    benchmarks=(Benchmark(name="b", minimum=0.001, median=0.002, mean=0.002, stddev=0.0, rounds=5),),
    benchmark_machine={"cpu": {"brand_raw": "a CPU"}},
    machine={"cpu": "a CPU", "cores": "2"},
    gpu=GpuUse(devices=("H100",), peak_bytes=123),
    deferred=("tests/test_b.py::test_later",),
    workers=2,
    notes=("left a process behind",),
)
PLAN = TierPlan(name="unit", run=True, reason="runs on push", budget=120.0, env={"SECRET": "s3cret"}, command=("x",))
RECORD = Record(
    sha=SHA,
    time=1_700_000_012.25,
    config_id="0123456789ab",
    event="push",
    tier=TierVerdict(
        plan=PLAN, result=RESULT, verdict=Verdict.FAILED, reasons=("1 of 3 tests failed",), exit_code=ExitCode.FAILED
    ),
    others=(
        TierVerdict(
            plan=TierPlan(name="gpu", run=False, reason="waits"),
            result=None,
            verdict=Verdict.NOT_RUN,
            reasons=("waits",),
        ),
    ),
    run="77.1",
    ref="refs/heads/main",
    trusted=True,
    partial=True,
    machine={"cpu": "a CPU", "cores": "2"},
    sources={"src/model.py": "b" * 40},
)


def read_back(record: Record) -> Record:
    files = encode(record)
    return decode(files[str(record_name(record))], files)


def test_a_record_comes_back_as_it_was_but_for_what_is_cut_on_purpose() -> None:
    back = read_back(RECORD)
    assert back.tier.result is not None
    exact = tuple(structs.replace(test, seconds=0.0) for test in back.tier.result.tests)
    assert exact == tuple(structs.replace(test, seconds=0.0) for test in RESULT.tests)
    assert replace(back.tier.result, tests=()) == replace(RESULT, tests=())
    assert replace(back.tier, result=None, plan=PLAN) == replace(RECORD.tier, result=None)
    assert back.tier.plan == replace(PLAN, env={}, command=())
    assert back.sums is not None
    assert (back.sums.covered, back.sums.statements) == (4, 5)
    assert replace(back, tier=RECORD.tier, sums=None) == RECORD


def test_a_secret_of_the_environment_is_not_kept() -> None:
    assert b"s3cret" not in b"".join(encode(RECORD).values())


def test_a_record_can_be_read_without_its_lines_and_says_so() -> None:
    files = encode(RECORD)
    data = files[str(record_name(RECORD))]
    needed = references(data)
    assert {*needed.lists, *needed.lines, str(record_name(RECORD))} == set(files)
    assert needed.trusted
    back = decode(data, {name: files[name] for name in needed.lists})
    assert not back.has_lines
    assert back.tier.result is not None
    assert back.tier.result.coverage is None
    assert back.sums is not None
    assert back.sums.covered == 4


def test_what_a_record_refers_to_comes_before_it() -> None:
    assert list(encode(RECORD))[-1] == str(record_name(RECORD))


def test_runs_with_the_same_tests_share_their_list() -> None:
    other = replace(RECORD, sha="c" * 40, time=RECORD.time + 60)
    shared = set(encode(RECORD)) & set(encode(other))
    assert {name.partition("/")[0] for name in shared} == {"lists", "lines"}


@given(st.floats(min_value=0.0006, max_value=14_000))
def test_a_duration_is_kept_within_ten_percent(seconds: float) -> None:
    assert seconds_of(quantise(seconds)) == pytest.approx(seconds, rel=0.101)


@pytest.mark.parametrize("seconds", [0.0, 0.0004, -1.0, float("nan")])
def test_what_is_too_short_to_matter_is_nothing(seconds: float) -> None:
    assert seconds_of(quantise(seconds)) == 0.0


def test_a_duration_beyond_the_scale_is_its_end() -> None:
    assert seconds_of(quantise(1e9)) > 14_000


@given(st.frozensets(st.integers(min_value=0, max_value=10_000)))
def test_ranges_are_the_numbers(numbers: frozenset[int]) -> None:
    assert parse_ranges(ranges(numbers)) == numbers


def test_a_name_says_what_the_record_is() -> None:
    name = record_name(RECORD)
    assert str(name) == f"runs/0123456789ab/unit/20231114T221332Z-{SHA}-77.1.json"
    assert parse_record_name(str(name)) == name
    assert name.time == 1_700_000_012
    assert str(record_name(replace(RECORD, fork=True))).startswith("forks/")
    for other in ("version.json", "lists/abc.json", "runs/x/unit/y.json", f"{name}.tmp"):
        assert parse_record_name(other) is None


BROKEN = {
    "not JSON": b"{",
    "not an object": b"[]",
    "a newer version": b'{"version": 99}',
    "without a plan": b'{"version": 1, "sha": "a", "time": 1, "config_id": "x", "event": "push", "verdict": "passed"}',
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_named_as_one(data: bytes) -> None:
    with pytest.raises(BrokenRecordError):
        decode(data, {})


@pytest.mark.parametrize(
    "change",
    [
        {"outcomes": "..."[:1]},
        {"outcomes": "??."},
        {"seconds": '"""'},
        {"list": "0" * 24},
        {"verdict": "splendid"},
        {"exit_code": 42},
        {"told": [{"index": "x"}]},
        {"told": [{"index": 3}]},
        {"told": [{"index": -1}]},
    ],
    ids=str,
)
def test_a_record_whose_parts_disagree_is_broken(change: dict[str, object]) -> None:
    files = encode(RECORD)
    facts = json.loads(files[str(record_name(RECORD))])
    with pytest.raises(BrokenRecordError):
        decode(json.dumps({**facts, **change}).encode(), files)


def test_a_later_mltiers_may_say_more() -> None:
    files = encode(RECORD)
    facts = json.loads(files[str(record_name(RECORD))])
    assert decode(json.dumps({**facts, "mood": "good"}).encode(), files).sha == SHA
