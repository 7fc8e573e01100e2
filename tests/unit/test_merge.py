"""A JUnit report and an event stream about one session: who is believed, and what is said where they differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.mind.readers.events import EventLog, Session
from orchestrator.mind.readers.junit import JUnitReport, read_junit
from orchestrator.mind.readers.junit_writer import write_junit
from orchestrator.mind.readers.merge import merge_tests
from orchestrator.mind.readers.names import dotted, junit_names, node_prefix, printable
from orchestrator.words.results import Attempt, TestOutcome, TestResult

P, F, E, S, XF, XP, U = (
    TestOutcome.PASSED,
    TestOutcome.FAILED,
    TestOutcome.ERROR,
    TestOutcome.SKIPPED,
    TestOutcome.XFAILED,
    TestOutcome.XPASSED,
    TestOutcome.UNFINISHED,
)
SESSION = Session(
    worker="main", started=1.0, pid=1, python="3.11", pytest="9", plugin="0.1", root="/r", workers=0, seed=None
)
A, B, C = "tests/test_x.py::test_a", "tests/test_x.py::test_b", "tests/test_x.py::test_c"


def result(node_id: str = A, outcome: TestOutcome = P, **more: Any) -> TestResult:
    return TestResult(node_id=node_id, outcome=outcome, **more)


def log(*tests: TestResult, status: int | None = 0, **more: Any) -> EventLog:
    """The log of a session that ran these tests and ended."""
    fields = {"collected": len(tests), "starts": len(tests), "ended": status is not None, "exit_status": status}
    return EventLog(tests=tests, sessions=(SESSION,), **{**fields, **more})


def report(*tests: TestResult, **more: Any) -> JUnitReport:
    """What the reader makes of pytest's report about these tests."""
    return replace(read_junit(write_junit(tests, name="pytest", seconds=1.0)), **more)


def test_events_complete_what_the_report_says():
    told = result(
        A, F, seconds=0.123456, worker="gw1", started=9.0, message="assert 0", text="full", file="x.py", line=7
    )
    tests, problems = merge_tests(report(result(A, F, seconds=0.1, message="short", text="cut")), log(told, status=1))

    assert problems == ()
    assert tests == (told,)


def test_the_report_completes_what_the_events_lack():
    known = report(result(A, F, message="assert 0", text="trace\n\ntests/h.py:3: AssertionError"))
    ((test,), problems) = merge_tests(known, log(result(A, F, worker="gw0"), status=1))

    assert problems == ()
    assert (test.message, test.file, test.line, test.worker) == ("assert 0", "tests/h.py", 3, "gw0")


def test_with_one_of_the_two_that_one_counts_with_its_problems():
    known = report(result(A), flaws=("it is truncated",))
    told = log(result(A, worker="gw0"), problems=("line 3 is no event",))

    assert merge_tests(known, None) == (known.tests, ("it is truncated",))
    assert merge_tests(None, told) == (told.tests, ("line 3 is no event",))
    assert merge_tests(None, None) == ((), ())


def test_a_stream_without_a_session_is_as_good_as_none():
    tests, problems = merge_tests(report(result(A)), EventLog(problems=("events.jsonl has version 2",)))

    assert [t.node_id for t in tests] == [A]
    assert problems == ("events.jsonl has version 2",)


def test_files_not_collected_come_with_the_tests_of_a_stopped_run():
    broken = result("tests/bad.py", E)

    assert merge_tests(None, log(result(A), status=None, collection=(broken,)))[0] == (broken, result(A))


# --- where they differ ---------------------------------------------------------------------------------------------

DIFFERENCES = {
    "a test only the report has": (
        report(result(A), result(B)),
        log(result(A)),
        "1 test is in the JUnit report and not in events.jsonl: tests/test_x.py::test_b",
    ),
    "a test only the events have": (
        report(result(A)),
        log(result(A), result(B)),
        "1 test is in events.jsonl and not in the JUnit report: tests/test_x.py::test_b",
    ),
    "a failure only the events have": (
        report(result(A)),
        log(result(A, F)),
        "1 test is told differently by the JUnit report and events.jsonl: tests/test_x.py::test_a (passed and failed)",
    ),
    "a failure only the report has": (
        report(result(A, F)),
        log(result(A)),
        "1 test is told differently by the JUnit report and events.jsonl: tests/test_x.py::test_a (failed and passed)",
    ),
    "an unexpected pass the report fails": (report(result(A, F)), log(result(A, XP)), "(failed and xpassed)"),
    "a stream that stops": (report(result(A)), log(result(A), status=None), "stops before the end of the session"),
    "tests that never started": (
        report(result(A)),
        log(result(A), collected=3),
        "3 tests were collected and 1 started",
    ),
    "a flaw of the report": (report(result(A), flaws=("it is odd",)), log(result(A)), "it is odd"),
    "a flaw of the stream": (report(result(A)), log(result(A), problems=("it is torn",)), "it is torn"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_a_problem(name):
    known, told, sentence = DIFFERENCES[name]

    _, problems = merge_tests(known, told)
    assert any(sentence in problem for problem in problems), problems
    assert len(problems) == 1


@pytest.mark.parametrize(("known", "told"), [(P, F), (F, P), (S, E), (XF, F)])
def test_of_two_outcomes_the_worse_counts(known, told):
    ((test,), problems) = merge_tests(report(result(A, known)), log(result(A, told), status=1))

    assert test.outcome in (F, E)
    assert problems


def test_many_differences_are_one_sentence():
    tests = [result(f"tests/test_x.py::test_{n}") for n in range(1000)]
    (_, (problem, *others)) = merge_tests(report(*tests), log())

    assert problem.startswith("1000 tests are in the JUnit report and not in events.jsonl: tests/test_x.py::test_0, ")
    assert problem.endswith(" and 997 more")
    assert others == []


# --- where they may differ -----------------------------------------------------------------------------------------


def test_an_unexpected_pass_has_no_word_in_a_report():
    ((test,), problems) = merge_tests(report(result(A, P)), log(result(A, XP)))

    assert (test.outcome, problems) == (XP, ())


def test_a_test_whose_teardown_never_ended_has_not_passed():
    ((test,), problems) = merge_tests(report(result(A, P)), log(result(A, U), status=2, running=(A,)))

    assert (test.outcome, problems) == (U, ())


def test_the_reports_outcome_may_be_that_of_an_earlier_attempt():
    told = result(A, P, attempts=(Attempt(outcome=F, seconds=1.0, message="first"),))
    ((test,), problems) = merge_tests(report(result(A, F)), log(told, repeated=frozenset({A}), starts=2))

    assert (test.outcome, problems) == (P, ())


@pytest.mark.parametrize("status", [2, 3, None])
def test_a_report_of_a_stopped_session_may_lack_what_ended_last(status):
    tests, problems = merge_tests(report(result(A)), log(result(A), result(B), result(C, U), status=status))

    assert [t.node_id for t in tests] == [A, B, C]
    assert not any("not in the JUnit report" in problem for problem in problems)


DOUBTS = {
    "nameless": '<testsuite><testcase name="t" classname="a"/><testcase time="0"/></testsuite>',
    "repeated": '<testsuite><testcase name="t" classname="a"/><testcase name="t" classname="a"/></testsuite>',
    "miscounted": '<testsuite tests="9"><testcase name="t" classname="a"/></testsuite>',
    "mistimed": '<testsuite><testcase name="t" classname="a" time="-1.2e9"/></testsuite>',
}
EXPLANATIONS = {
    "nameless": log(result("a.py::t"), result(B, U), status=2, running=(B,)),
    "repeated": log(result("a.py::t"), repeated=frozenset({"a.py::t"})),
    "miscounted": log(result("a.py::t")),
    "mistimed": log(result("a.py::t")),
}


@pytest.mark.parametrize("kind", DOUBTS)
def test_a_doubt_is_a_problem_until_the_events_explain_it(kind):
    known = read_junit(DOUBTS[kind].encode())

    assert [doubt.kind for doubt in known.doubts] == [kind]
    assert merge_tests(known, None)[1] == (known.doubts[0].text,)
    assert merge_tests(known, EXPLANATIONS[kind])[1] == ()


@pytest.mark.parametrize("kind", ["nameless", "repeated"])
def test_a_doubt_the_events_do_not_explain_stays_a_problem(kind):
    known = read_junit(DOUBTS[kind].encode())

    assert known.doubts[0].text in merge_tests(known, log(result("a.py::t")))[1]


def test_a_report_twice_of_one_node_id_is_not_matched_twice():
    known = report(result(A), tests=(result("tests.test_x::test_a"), result(A)))
    tests, problems = merge_tests(known, log(result(A)))

    assert len(tests) == 2
    assert "in the JUnit report and not in events.jsonl" in problems[0]


# --- names ---------------------------------------------------------------------------------------------------------

OTHER_NAMES = {
    "a report without files": '<testcase classname="tests.test_x.TestA" name="test_a"/>',
    "inherited from another file": '<testcase classname="tests.test_x.TestA" name="test_a" file="bases.py"/>',
    "a prefix": '<testcase classname="gpu.h100.tests.test_x.TestA" name="test_a" file="tests/test_x.py"/>',
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_the_same_test_is_found_under_another_name(name):
    told = result("tests/test_x.py::TestA::test_a", worker="gw0")
    tests, problems = merge_tests(read_junit(f"<testsuite>{OTHER_NAMES[name]}</testsuite>".encode()), log(told))

    assert problems == ()
    assert [(t.node_id, t.worker) for t in tests] == [(told.node_id, "gw0")]


def test_characters_that_xml_cannot_hold_come_back_from_the_events():
    node_id = "tests/test_x.py::test_a[a\0b\x7f]"
    tests, problems = merge_tests(report(result(node_id)), log(result(node_id)))

    assert (tests[0].node_id, problems) == (node_id, ())


def test_every_text_that_comes_out_can_be_encoded():
    told = result(
        "tests/test_\udc80.py::t[\ud800]",
        F,
        message="\udcff",
        text="a\udc80b",
        file="\udc80",
        attempts=(Attempt(outcome=F, seconds=0.0, message="\udc81", text="\udc82"),),
    )
    ((test,), _) = merge_tests(None, log(told))

    assert test.node_id == "tests/test_\\udc80.py::t[\\ud800]"
    texts = (test.node_id, test.message, test.text, test.file, test.attempts[0].message, test.attempts[0].text)
    assert all(text.encode() for text in texts if text is not None)


NAMES = st.text(st.characters(exclude_characters=".:[]/#", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


@settings(max_examples=300)
@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, max_size=2), NAMES, st.text(max_size=10))
def test_a_node_id_survives_its_way_through_a_report(folders, classes, name, parameters):
    file = "/".join(folders) + ".py"
    node_id = "::".join((file, *classes, f"{name}[{printable(parameters)}]"))
    classname, short = junit_names(node_id)

    assert node_prefix(file, classname) + short == node_id
    assert classname.startswith(dotted(file))


# --- the report of a run that was stopped --------------------------------------------------------------------------

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\0\r\n\t\ud800\udfff<>&\"']]>\x7f")), max_size=12)
RESULTS = st.builds(
    TestResult,
    node_id=st.builds(lambda file, name: f"{file}.py::{name}", NAMES, NAMES),
    outcome=st.sampled_from(TestOutcome),
    seconds=st.floats(0, 1e5),
    message=st.one_of(st.none(), TEXTS),
    text=st.one_of(st.none(), TEXTS),
    line=st.one_of(st.none(), st.integers(1, 10**6)),
)


@settings(max_examples=200)
@given(st.lists(RESULTS, max_size=6, unique_by=lambda test: test.node_id), TEXTS)
def test_a_written_report_is_read_back_without_a_problem(tests, name):
    read = read_junit(write_junit(tests, name=name, seconds=2.5))

    assert read.problems == (() if tests else ("the JUnit report holds no test case",))
    assert [t.node_id for t in read.tests] == [printable(t.node_id) for t in tests]
    assert [t.outcome for t in read.tests] == [P if t.outcome is XP else t.outcome for t in tests]
    assert all(abs(t.seconds - w.seconds) < 1e-3 for t, w in zip(read.tests, tests, strict=True))
    assert read.seconds == 2.5


def test_a_written_report_is_pytests_own_form():
    written = write_junit(
        [
            result("tests/a.py::TestA::test[<\0>]", P, seconds=0.25, file="tests/a.py", line=4),
            result(B, U, message='still running "here"'),
            result("tests/bad.py", E, message="no module", text="trace\x1b[0m & more"),
        ],
        name="unit",
        seconds=3.0,
    )

    assert written.decode().splitlines() == [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<testsuites><testsuite name="unit" errors="2" failures="0" skipped="0" tests="3" time="3.000">',
        '<testcase classname="tests.a.TestA" name="test[&lt;#x00&gt;]" file="tests/a.py" line="3" time="0.250" />',
        '<testcase classname="tests.test_x" name="test_b" file="tests/test_x.py" time="0.000">'
        '<error type="mltiers.unfinished" message="still running &quot;here&quot;"></error></testcase>',
        '<testcase classname="" name="tests.bad" file="tests/bad.py" time="0.000">'
        '<error message="no module">trace#x1B[0m &amp; more</error></testcase>',
        "</testsuite></testsuites>",
    ]
