"""What the history keeps: whole records of what is new, sketches of what is old, nothing that nobody refers to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.mind.records import Record
from orchestrator.mind.records.compaction import COMMITS, EXCESS, LINES, RERUNS, TRUSTED, compacted, due
from orchestrator.mind.records.encoding import BrokenRecordError, decode, encode, quantise, references, seconds_of
from orchestrator.mind.records.names import parse_record_name, record_name, sketch_name
from orchestrator.mind.records.sketches import FORGET_DAYS, Sketch, decode_sketch, encode_sketch, fold
from orchestrator.tools.history import Change, Snapshot
from orchestrator.tools.history.compaction import compact
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import (
    Attempt,
    Benchmark,
    Coverage,
    Ending,
    FileCoverage,
    TestOutcome,
    TestResult,
    TierResult,
)
from orchestrator.words.verdict import TierVerdict, Verdict

EPOCH = 1_700_000_000.0
DAY = 86_400.0
CONFIG = "0123456789ab"
SKETCH = sketch_name(CONFIG, "unit")


def record(
    number: int,
    *,
    tests: Sequence[TestResult] | None = None,
    tier: str = "unit",
    sha: str | None = None,
    fork: bool = False,
    trusted: bool = False,
) -> Record:
    """A run on commit ``number``, an hour after that on the one before; each commit covers other lines."""
    if tests is None:
        tests = [TestResult(node_id=f"t.py::test_{n}", outcome=TestOutcome.PASSED, seconds=0.5 + n) for n in range(3)]
    result = TierResult(
        name=tier,
        ending=Ending.EXITED,
        exit_code=0,
        seconds=12.3456,
        tests=tuple(tests),
        has_report=True,
        coverage=Coverage(files={"a.py": FileCoverage(executed=frozenset({1, 2 + number}), missing=frozenset({1000}))}),
        benchmarks=(Benchmark(name="forward", minimum=0.001234567, median=1, mean=1, stddev=0, rounds=5),),
    )
    plan = TierPlan(name=tier, run=True, reason="runs on push", gpus=2)
    return Record(
        sha=sha or f"{number:040x}",
        time=EPOCH + 3600 * number,
        config_id=CONFIG,
        event="push",
        tier=TierVerdict(plan=plan, result=result, verdict=Verdict.PASSED, reasons=()),
        run=f"{number}.1",
        fork=fork,
        trusted=trusted,
        machine={"cpu": "a CPU"},
    )


def stored(records: Iterable[Record]) -> dict[str, bytes]:
    return {name: data for one in records for name, data in encode(one).items()}


def after(files: Mapping[str, bytes], *, now: float = EPOCH + 400 * 3600.0) -> dict[str, bytes]:
    """The files that are there after a compaction."""
    changes = compacted(files.keys(), lambda names: {n: files[n] for n in names if n in files}, now=now)
    return {name: data for name, data in {**files, **changes}.items() if data is not None}


def records_in(files: Iterable[str]) -> list[str]:
    return sorted(name for name in files if parse_record_name(name))


# --- when ----------------------------------------------------------------------------------------------------------


def test_it_is_due_when_one_tier_has_too_many_records_and_then_not_for_as_many_runs() -> None:
    names = {str(record_name(record(n))) for n in range(COMMITS + EXCESS)}
    assert not due(list(names)[1:])
    assert due(names)
    left = after(stored(record(n) for n in range(COMMITS + EXCESS)))
    assert not due(left)
    assert not due({*left, *(str(record_name(record(200 + n))) for n in range(EXCESS - 1))})
    assert due({*left, *(str(record_name(record(200 + n))) for n in range(EXCESS))})


def test_many_tiers_with_few_records_each_are_not_due() -> None:
    names = {str(record_name(record(n, tier=f"tier{tier}"))) for n in range(60) for tier in range(20)}
    assert not due(names)
    assert not due(["README.md", "version.json", "lists/x.json"] * 1000)


# --- what stays ----------------------------------------------------------------------------------------------------


def test_the_newest_commits_stay_whole_and_the_rest_becomes_a_sketch() -> None:
    files = stored(record(n) for n in range(120))
    left = after(files)
    assert records_in(left) == sorted(str(record_name(record(n))) for n in range(120 - COMMITS, 120))
    sketch = decode_sketch(left[SKETCH])
    assert [row.sha for row in sketch.rows] == [f"{n:040x}" for n in reversed(range(120 - COMMITS))]
    assert {test.count for test in sketch.tests.values()} == {120 - COMMITS}
    for name in records_in(left):
        assert decode(left[name], left).tier.result is not None


def test_compacting_twice_in_pieces_is_compacting_once() -> None:
    files = stored(record(n) for n in range(180))
    first = {
        name: data for name, data in files.items() if (r := parse_record_name(name)) is None or r.stamp < "20231119"
    }
    pieces = after({**after(first), **stored(record(n) for n in range(180))})
    assert decode_sketch(pieces[SKETCH]) == decode_sketch(after(files)[SKETCH])
    assert pieces.keys() == after(files).keys()


def test_a_writer_killed_before_the_deletions_makes_nothing_count_twice() -> None:
    files = stored(record(n) for n in range(120))
    once = after(files)
    again = after({**files, SKETCH: once[SKETCH]})
    assert decode_sketch(again[SKETCH]) == decode_sketch(once[SKETCH])
    assert again.keys() == once.keys()


def test_the_default_branch_is_not_crowded_out_by_pull_requests() -> None:
    files = stored([*(record(n, trusted=True) for n in range(30)), *(record(100 + n) for n in range(COMMITS + 20))])
    left = after(files)
    kept = [decode(left[name], left) for name in records_in(left)]
    trusted = [one for one in kept if one.trusted]
    assert [one.sha for one in trusted] == [f"{n:040x}" for n in range(30 - TRUSTED, 30)]
    assert [one.has_lines for one in trusted] == [False] * (TRUSTED - 1) + [True]
    assert len(kept) == COMMITS + TRUSTED


def test_one_commit_run_over_and_over_does_not_fill_the_history() -> None:
    files = stored([replace(record(n), sha="a" * 40) for n in range(200)])
    assert due(files)
    assert records_in(after(files)) == sorted(
        str(record_name(replace(record(n), sha="a" * 40))) for n in range(200 - RERUNS, 200)
    )


def test_without_git_every_run_is_a_commit_of_its_own() -> None:
    left = after(stored([record(n, sha="none") for n in range(120)]))
    assert len(records_in(left)) == COMMITS


def test_strangers_results_are_bounded_and_never_folded() -> None:
    left = after(stored([record(n, fork=True) for n in range(120)]))
    assert len(records_in(left)) == COMMITS
    assert SKETCH not in left


def test_lines_stay_for_the_newest_records_and_for_young_ones() -> None:
    files = stored(record(n) for n in range(40))
    late = after(files, now=EPOCH + 400 * DAY)
    assert len([name for name in late if name.startswith("lines/")]) == LINES
    soon = after(files, now=EPOCH + 40 * 3600.0)
    assert len([name for name in soon if name.startswith("lines/")]) == 23
    for left in (late, soon):
        have = [decode(left[name], left).has_lines for name in records_in(left)]
        assert have == sorted(have)
        assert all(decode(left[name], left).sums is not None for name in records_in(left))


def test_lists_go_when_the_last_record_that_refers_to_them_goes() -> None:
    old = [TestResult(node_id="t.py::test_old", outcome=TestOutcome.PASSED)]
    files = stored([*(record(n, tests=old) for n in range(30)), *(record(n) for n in range(30, 100))])
    left = after(files)
    assert len([name for name in files if name.startswith("lists/")]) == 2
    referred = {name for one in records_in(left) for name in references(left[one]).lists}
    assert {name for name in left if name.startswith("lists/")} == referred
    assert len(referred) == 1


def test_nothing_is_unreferenced_while_a_record_cannot_be_had() -> None:
    files = stored(record(n) for n in range(20))
    hidden = str(record_name(record(19)))
    changes = compacted(files.keys(), lambda names: {n: files[n] for n in names if n != hidden}, now=EPOCH + 400 * DAY)
    assert changes == {}


@pytest.mark.parametrize(
    ("facts", "stays"),
    [
        ({"dispatched": 0.0, "ended": 1.0}, False),
        ({"dispatched": 0.0}, False),
        ({"dispatched": 393 * DAY, "ended": 394 * DAY}, True),
        ({"dispatched": 391 * DAY, "ended": 392 * DAY}, False),
        ({"dispatched": 370 * DAY, "ended": None}, True),
        ([], True),
        ({"dispatched": "yesterday"}, True),
    ],
)
def test_dispatches_stay_until_a_week_after_their_end(facts: object, stays: bool) -> None:
    left = after({"dispatches/abc.json": json.dumps(facts).encode()}, now=400 * DAY)
    assert bool(left) is stays


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 9}', b"\xff\xfe", b"[" * 100_000])
def test_broken_files_stop_nothing(content: bytes) -> None:
    files = stored(record(n) for n in range(120))
    broken_old, broken_new = str(record_name(record(3))), str(record_name(record(119)))
    left = after({**files, broken_old: content, broken_new: content, SKETCH: content, "dispatches/x.json": content})
    assert broken_old not in left
    assert left[broken_new] == content
    assert left["dispatches/x.json"] == content
    assert len(decode_sketch(left[SKETCH]).rows) == 120 - COMMITS - 1


def test_other_files_are_none_of_its_business() -> None:
    others = dict.fromkeys(("README.md", "version.json", "contexts/a/unit.json", "runs/strange", "runs/a/b"), b"x")
    assert after(others) == others


# --- sketches ------------------------------------------------------------------------------------------------------


def outcomes(*words: str) -> Sketch:
    """The sketch of one test that ended so, run after run; ``flaky``: it failed first."""
    records = []
    for number, word in enumerate(words):
        attempts = (Attempt(outcome=TestOutcome.FAILED, seconds=1.0),) if word == "flaky" else ()
        outcome = TestOutcome.PASSED if word == "flaky" else TestOutcome(word)
        records.append(record(number, tests=[TestResult(node_id="t", outcome=outcome, seconds=2.0, attempts=attempts)]))
    return fold(Sketch(), records)


@pytest.mark.parametrize(
    ("words", "count", "fails", "flakes", "last", "measured"),
    [
        (["passed", "passed"], 2, 0, 0, "passed", 2),
        (["passed", "failed", "skipped"], 2, 1, 0, "failed", 1),
        (["unfinished", "error", "flaky"], 3, 2, 1, "passed", 1),
        (["xfailed", "xpassed"], 2, 0, 0, "xpassed", 2),
    ],
)
def test_what_a_sketch_tells_of_a_test(
    words: list[str], count: int, fails: int, flakes: int, last: str, measured: int
) -> None:
    test = outcomes(*words).tests["t"]
    assert (test.count, test.fails, test.flakes, test.last) == (count, fails, flakes, TestOutcome(last))
    assert sum(test.levels.values()) == measured


def test_a_test_that_only_failed_has_no_duration() -> None:
    assert outcomes("failed").tests["t"].quantile(0.5) is None
    assert outcomes("skipped").tests == {}


def test_quantiles_come_from_what_was_measured() -> None:
    tests = [[TestResult(node_id="t", outcome=TestOutcome.PASSED, seconds=float(n))] for n in range(1, 101)]
    sketch = fold(Sketch(), [record(n, tests=found) for n, found in enumerate(tests)]).tests["t"]
    for q in (0.1, 0.5, 0.9, 1.0):
        assert sketch.quantile(q) == pytest.approx(100 * q, rel=0.12)


def test_a_test_that_has_gone_is_forgotten() -> None:
    gone = record(0, tests=[TestResult(node_id="gone", outcome=TestOutcome.PASSED)])
    later = int((FORGET_DAYS + 1) * 24)
    sketch = fold(Sketch(), [gone, record(later - 48)])
    assert "gone" in sketch.tests
    assert "gone" not in fold(sketch, [record(later)]).tests


def test_a_row_tells_of_the_run() -> None:
    (row,) = fold(Sketch(), [record(7, trusted=True)]).rows
    assert (row.sha, row.run, row.verdict, row.trusted, row.gpus) == (f"{7:040x}", "7.1", "passed", True, 2)
    assert (row.seconds, row.counts, row.covered, row.statements) == (12.35, {"passed": 3}, 2, 3)
    assert row.benchmarks == {"forward": 0.001235}
    assert row.machine == {"cpu": "a CPU"}


@given(
    st.lists(
        st.lists(
            st.builds(
                TestResult,
                node_id=st.sampled_from(["t.py::a", "t.py::b[\ud800-ü\n]", "", "t.py::c"]),
                outcome=st.sampled_from(TestOutcome),
                seconds=st.floats(min_value=0, max_value=1e5),
            ),
            max_size=4,
            unique_by=lambda test: test.node_id,
        ),
        max_size=6,
    )
)
def test_a_sketch_comes_back_from_its_file_as_it_was(runs: list[list[TestResult]]) -> None:
    sketch = fold(Sketch(), [record(number, tests=tests) for number, tests in enumerate(runs)])
    assert decode_sketch(encode_sketch(sketch)) == sketch
    assert fold(sketch, []) == sketch


@pytest.mark.parametrize(
    "mangle",
    [
        lambda facts: facts.pop("ids"),
        lambda facts: facts["counts"].pop(),
        lambda facts: facts.update(levels=["200:1"] * 3),
        lambda facts: facts.update(levels=["x"] * 3),
        lambda facts: facts.update(last="???"),
        lambda facts: facts["rows"].append({"sha": 5}),
        lambda facts: facts["rows"].append(7),
        lambda facts: facts["rows"][0].update(machine=9),
        lambda facts: facts["rows"][0].update(benchmarks=[0]),
        lambda facts: facts.update(version=2),
        lambda facts: facts.update(days=None),
    ],
)
def test_a_broken_sketch_is_called_so(mangle: object) -> None:
    facts = json.loads(encode_sketch(fold(Sketch(), [record(1)])))
    mangle(facts)  # type: ignore[operator]
    with pytest.raises(BrokenRecordError):
        decode_sketch(json.dumps(facts).encode())


def test_the_steps_of_a_sketch_are_those_of_the_records() -> None:
    run = record(0, tests=[TestResult(node_id="t", outcome=TestOutcome.PASSED, seconds=3.0)])
    assert fold(Sketch(), [run]).tests["t"].quantile(0.5) == seconds_of(quantise(3.0))


# --- done to a store -----------------------------------------------------------------------------------------------


class MemoryStore:
    """A store in memory, in which another writer comes first once."""

    def __init__(self, files: Mapping[str, bytes], *, racing: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.racing = dict(racing)
        self.forgot = False

    def snapshot(self) -> Snapshot:
        files = dict(self.files)
        read = lambda names: {name: files[name] for name in names if name in files}  # noqa: E731
        return Snapshot(version=str(len(files)), names=frozenset(files), read=read)

    def update(self, change: Change, *, message: str, forget: bool = False) -> Snapshot:
        assert message
        while True:
            changes = change(self.snapshot())
            if self.racing:
                self.files |= self.racing
                self.racing = {}
                continue
            self.forgot = forget
            self.files = {n: d for n, d in {**self.files, **changes}.items() if d is not None}
            return self.snapshot()


def test_a_compaction_that_is_overtaken_is_computed_again() -> None:
    newest = stored([record(500)])
    store = MemoryStore(stored(record(n) for n in range(120)), racing=newest)
    done = compact(store, now=EPOCH + 400 * DAY)
    assert done.records == 120 - COMMITS + 1
    assert newest.keys() <= store.files.keys()
    assert store.forgot
    assert done.snapshot.names == store.files.keys()
    assert done.files > done.records


def test_an_empty_history_is_left_empty() -> None:
    store = MemoryStore({}, racing={})
    assert compact(store, now=EPOCH).records == 0
    assert store.files == {}
