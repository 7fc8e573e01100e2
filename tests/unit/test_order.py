"""The order of a tier, read off records; and how well a run used its workers."""

from __future__ import annotations

import pytest

from orchestrator.mind.fit import Selection
from orchestrator.mind.order import Order, fit_note, order_document, order_of, schedule_note, schedule_of
from orchestrator.mind.records import Record
from orchestrator.tools.git import parse_old_lines
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Attempt, Ending, TestOutcome, TestResult, TierResult
from tests.support.past import result_of, run_record

A, B, C = "t.py::a", "t.py::b", "t.py::c"
PLAN = TierPlan(name="unit", run=True, reason="", budget=100.0)
FIT = TierPlan(name="unit", run=True, reason="", budget=100.0, fit=True)


def record(*tests: TestResult, seconds: float = 0.0, **more: object) -> Record:
    return run_record(seconds or sum(test.seconds for test in tests), tests=tests, **more)  # type: ignore[arg-type]


def test_nothing_is_known_without_a_record() -> None:
    assert order_of(PLAN, []) == Order()
    assert "nothing is known" in fit_note(Order())


def test_failed_ones_first_the_shortest_of_them_before_the_others() -> None:
    earlier = record(result_of(A, 3.0), result_of(B, 1.0), result_of(C, 2.0))
    newest = record(result_of(A, 0.1, TestOutcome.FAILED), result_of(B, 1.0), result_of(C, 0.1, TestOutcome.ERROR))
    order = order_of(PLAN, [newest, earlier])
    assert order.first == (C, A)
    assert order.seconds == {A: 3.0, B: 1.0, C: 2.0}, "a test that failed may have stopped early"
    assert order.selection is None


def test_only_a_fitted_tier_defers() -> None:
    records = [record(result_of(A, 60.0), result_of(B, 60.0))]
    assert order_of(PLAN, records).deferred == ()  # type: ignore[union-attr]
    order = order_of(FIT, records)
    assert len(order.deferred) == 1
    assert order_document(order)["deferred"] == list(order.deferred)
    assert fit_note(order).startswith("fit: 1 of 2 known tests run")


def test_what_waits_is_first_in_the_next_nightly_till_it_has_run() -> None:
    fitted = record(result_of(A, 60.0), deferred=(B, C))
    nightly = record(result_of(B, 60.0), deferred=(A, C))
    assert order_of(PLAN, [fitted], nightly=True).first == (B, C)  # type: ignore[union-attr]
    assert order_of(PLAN, [nightly, fitted], nightly=True).first == (C, A)  # type: ignore[union-attr]
    assert order_of(PLAN, [nightly, fitted]).first == ()  # type: ignore[union-attr]


def test_a_fitted_nightly_defers_what_did_not_wait() -> None:
    earlier = record(result_of(A, 60.0), result_of(B, 60.0))
    fitted = record(result_of(A, 60.0), deferred=(B,))
    order = order_of(FIT, [fitted, earlier], nightly=True)
    assert (order.first, order.deferred) == ((B,), (A,))


def test_costs_beside_the_tests_are_planned_for() -> None:
    tests = [result_of(f"t.py::t{n}", 10.0) for n in range(12)]
    cheap, dear = record(*tests), record(*tests, seconds=160.0)
    assert len(order_of(FIT, [cheap]).deferred) == 3  # type: ignore[union-attr]
    assert len(order_of(FIT, [dear]).deferred) == 7, "40 s of start-up"  # type: ignore[union-attr]


def test_flaky_ones_before_others_that_nothing_is_said_of() -> None:
    failed = Attempt(outcome=TestOutcome.FAILED, seconds=1.0)
    flaky = TestResult(node_id=B, outcome=TestOutcome.PASSED, seconds=60.0, attempts=(failed,))
    order = order_of(FIT, [record(result_of(A, 60.0), flaky)])
    assert order.deferred == (A,)


def test_a_stopped_run_does_not_hide_the_tests_it_never_reached() -> None:
    stopped = record(result_of(A, 60.0), ending=Ending.DEADLINE)
    whole = record(result_of(A, 60.0), result_of(B, 60.0))
    order = order_of(FIT, [stopped, whole])
    assert len(order.deferred) == 1


def test_a_file_that_could_not_be_collected_is_no_test() -> None:
    order = order_of(FIT, [record(result_of("t.py", 0.0, TestOutcome.ERROR), result_of(A, 1.0))])
    assert order.first == ()
    assert order.selection is not None
    assert order.selection.chosen == (A,)


def timed(node_id: str, start: float, seconds: float, worker: str, outcome: str = "passed") -> TestResult:
    return TestResult(
        node_id=node_id, outcome=TestOutcome(outcome), seconds=seconds, worker=worker, started=1000.0 + start
    )


@pytest.mark.parametrize(
    ("tests", "workers", "first", "idle"),
    [
        ([], 2, None, 0.0),
        ([timed(A, 0, 5, "main")], 1, None, 0.0),
        ([timed(A, 0, 5, "gw0"), timed(B, 0, 2, "gw1")], 2, None, 3.0),
        ([timed(A, 0, 5, "gw0"), timed(B, 0, 2, "gw1"), timed(C, 2, 3, "gw1")], 2, None, 0.0),
        ([timed(A, 0, 5, "gw0")], 3, None, 10.0),
        ([timed(A, 0, 5, "gw0", "failed"), timed(B, 1, 2, "gw1", "error")], 2, 3.0, 2.0),
    ],
)
def test_schedule(tests: list[TestResult], workers: int, first: float | None, idle: float) -> None:
    result = TierResult(name="unit", ending=Ending.EXITED, seconds=6.0, tests=tuple(tests), workers=workers)
    schedule = schedule_of(result)
    assert (schedule.first_failure, schedule.idle) == (first, pytest.approx(idle))


def test_a_note_only_where_there_is_something_to_say() -> None:
    busy = TierResult(name="unit", ending=Ending.EXITED, seconds=6.0, tests=(timed(A, 0, 5, "gw0"),), workers=1)
    idle = TierResult(name="unit", ending=Ending.EXITED, seconds=6.0, tests=(timed(A, 0, 5, "gw0"),), workers=3)
    assert schedule_note(busy) is None
    assert schedule_note(idle) == "workers idled 10.0 s at the end"


def test_the_note_of_what_fits() -> None:
    selection = Selection(chosen=("a", "b"), predicted=3.0, everything=3.0)
    assert fit_note(Order(selection=selection)) == "fit: all 2 known tests are expected to fit (3.0 s)"


DIFF = b"""diff --git a/src/a.py b/src/a.py
--- a/src/a.py
+++ b/src/a.py
@@ -3 +3,2 @@ def f():
-    x = 1
+    x = 2
+    y = 3
@@ -10,2 +11,0 @@
--- a/not a header
-z
@@ -20,0 +20 @@
+new
diff --git a/new.py b/new.py
--- /dev/null
+++ b/new.py
@@ -0,0 +1 @@
+first
"""


def test_lines_as_the_old_file_counts_them() -> None:
    assert parse_old_lines(DIFF) == {"src/a.py": frozenset({3, 10, 11, 20, 21})}
