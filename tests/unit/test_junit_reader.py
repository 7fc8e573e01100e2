"""JUnit reports that lie, are broken or are hostile: what a naive reading makes of each, and what ours says."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.mind.readers.junit import Limits, read_junit
from orchestrator.words.results import TestOutcome

P, F, E, S, XF = (
    TestOutcome.PASSED,
    TestOutcome.FAILED,
    TestOutcome.ERROR,
    TestOutcome.SKIPPED,
    TestOutcome.XFAILED,
)


def report(*cases: str, attributes: str = "") -> str:
    """A report of pytest's shape with these elements in its suite."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">'
        f'<testsuite name="pytest" time="1.5" {attributes}>{"".join(cases)}</testsuite></testsuites>'
    )


def case(name: str = "test_a", inside: str = "", attributes: str = 'time="0.25"') -> str:
    """One test case as pytest writes it with the family xunit1."""
    where = 'classname="tests.test_x" file="tests/test_x.py" line="3"'
    return f'<testcase {where} name="{name}" {attributes}>{inside}</testcase>'


OK = case()
FAILURE = '<failure message="assert 0">trace</failure>'


def naive_failures(data: bytes) -> int:
    """How many failures a reader finds that looks for the elements, as many do."""
    return len(re.findall(rb"<(?:failure|error)\b", data))


# name: (the file, the sentence about it). In none of them would a count of failures find one.
GREEN_TO_THE_NAIVE: dict[str, tuple[bytes | str, str]] = {
    "empty file": (b"", "the JUnit report is empty"),
    "only blanks": (b"  \n\t ", "the JUnit report is empty"),
    "only a byte order mark": (codecs.BOM_UTF8, "is not XML"),
    "no case": (report(), "holds no test case"),
    "no case, and it says so": (report(attributes='tests="0" failures="0"'), "holds no test case"),
    "a bare suite without a case": ("<testsuite/>", "holds no test case"),
    "truncated before a case ends": (report(OK, OK)[:-60], "is truncated"),
    "truncated between cases": (report(OK, case("test_b"))[:-26], "is truncated"),
    "truncated in the XML declaration": (report(OK)[:20], "is not XML"),
    "truncated inside a character": (report(case("test_é")).encode()[:197], "is truncated"),
    "interrupted: a nameless case": (
        report(OK, '<testcase time="0.1"/>', attributes='tests="1"'),
        "a test case without a name",
    ),
    "an empty name": (report(OK, '<testcase classname="x" name="" time="0"/>'), "a test case without a name"),
    "more failures declared": (report(OK, attributes='failures="1"'), "declares 1 failures and holds 0"),
    "more errors declared": (report(OK, attributes='errors="2"'), "declares 2 errors and holds 0"),
    "more tests declared": (report(OK, attributes='tests="5"'), "declares 5 tests and holds 1: pytest 9"),
    "fewer tests declared": (report(OK, case("test_b"), attributes='tests="1"'), "declares 1 tests and holds 2"),
    "declared by the root": (
        f'<testsuites failures="3"><testsuite>{OK}</testsuite></testsuites>',
        "declares 3 failures and holds 0",
    ),
    "a count that is none": (report(OK, attributes='failures="none"'), "declares 'none' as its number of failures"),
    "a negative count": (report(OK, attributes='tests="-1"'), "declares '-1' as its number of tests"),
    "a case twice": (report(OK, OK), "1 of its tests more than once, the first tests/test_x.py::test_a"),
    "a failure in another case of letters": (
        report(case(inside='<Failure message="x"/>')),
        "an unknown element <Failure> in a test case",
    ),
    "a failure by another name": (report(case(inside="<failed/>")), "an unknown element <failed> in a test case"),
    "cases by another name": (f"<testsuite><test name='a'/>{OK}</testsuite>", "an unknown element <test>"),
    "a time below zero": (report(case(attributes='time="-3"')), "gives tests/test_x.py::test_a an impossible time: -3"),
    "a time that is no number": (report(case(attributes='time="fast"')), "an impossible time: fast"),
    "not a number": (report(case(attributes='time="nan"')), "an impossible time: nan"),
    "an endless time": (report(case(attributes='time="inf"')), "an impossible time: inf"),
    "a time of the suite below zero": (
        f'<testsuite time="-1">{OK}</testsuite>',
        "gives a suite an impossible time: -1",
    ),
    "another root": ("<html><body>502 Bad Gateway</body></html>", "no JUnit report: its root element is <html>"),
    "a case as root": (OK, "no JUnit report: its root element is <testcase>"),
    "JSON": (b'{"tests": 3, "failures": 0}', "is not XML"),
    "text": ("3 passed in 0.12s", "is not XML"),
    "compressed": (gzip.compress(report(OK).encode(), mtime=0), "is not XML"),
    "zeros": (b"\0" * 4096, "is not XML"),
    "two documents": (report(OK) + report(OK), "is broken in line 1, column"),
    "text after the end": (report(OK) + "done", "is broken in line 1, column"),
    "mismatched tags": (f"<testsuite>{OK}</testsuites>", "mismatched tag"),
    "an attribute twice": (f'<testsuite tests="1" tests="1">{OK}</testsuite>', "duplicate attribute"),
    "Latin-1 that says UTF-8": (report(case("test_é")).encode("latin-1"), "bytes that are not in its encoding"),
    "UTF-16 that says UTF-8": (report(OK).encode("utf-16"), "in an encoding that cannot be read"),
    "an unknown encoding": (report(OK).replace("utf-8", "utf-9"), "in an encoding that cannot be read"),
    "an encoding of several bytes": (report(OK).replace("utf-8", "shift_jis"), "in an encoding that cannot be read"),
    "a character XML does not have": (report(case("test_&#0;")), "is broken in line 1"),
    "a raw control character": (report(case("test_\x01")), "is broken in line 1"),
    "an undeclared entity": (report(case("test_&nbsp;")), "undefined entity"),
    "entities": (
        f'<!DOCTYPE x [<!ENTITY a "b">]><testsuite>{case("&a;")}</testsuite>',
        "declares entities or a document type",
    ),
    "a billion laughs": (
        '<!DOCTYPE l [<!ENTITY a0 "lol">'
        + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
        + f"]><testsuite>{case('&a9;')}</testsuite>",
        "declares entities or a document type",
    ),
    "a file of the machine": (
        f'<!DOCTYPE x [<!ENTITY p SYSTEM "file:///etc/passwd">]><testsuite>{case(inside="&p;")}</testsuite>',
        "declares entities or a document type",
    ),
    "a document type from elsewhere": (
        f'<!DOCTYPE testsuite SYSTEM "http://127.0.0.1:9/x.dtd"><testsuite>{OK}</testsuite>',
        "declares entities or a document type",
    ),
    "suites without end": ("<testsuite>" * 5000 + OK + "</testsuite>" * 5000, "nests more than 100 elements"),
    "elements without end": (report(case(inside="<a>" * 5000 + "</a>" * 5000)), "nests more than 100 elements"),
}

# The same for files in which a naive count does find failures, where they cannot be believed either.
OTHERS: dict[str, tuple[bytes | str, str]] = {
    "a failure outside any case": (report(OK, FAILURE), "a result <failure> outside any test case"),
    "an error of the suite": (report(OK, "<error>crashed</error>"), "a result <error> outside any test case"),
    "fewer failures declared": (
        report(case(inside=FAILURE), attributes='failures="0"'),
        "declares 0 failures and holds 1",
    ),
    "a failure in a nameless case": (
        report(f"<testcase>{FAILURE}</testcase>"),
        "a failure in a test case without a name",
    ),
    "a failure hidden in printed text": (
        report(case(inside=f"<system-out>{FAILURE}</system-out>")),
        "a <failure> inside a <system-out>",
    ),
    "a case inside a failure": (report(case(inside=f"<failure>{OK}</failure>")), "a <testcase> inside a <failure>"),
}


def encoded(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


@pytest.mark.parametrize("name", GREEN_TO_THE_NAIVE)
def test_what_a_naive_reading_calls_green_is_a_problem(name):
    data, sentence = GREEN_TO_THE_NAIVE[name]

    assert naive_failures(encoded(data)) == 0
    problems = read_junit(encoded(data)).problems
    assert any(sentence in problem for problem in problems), problems


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_believed_is_a_problem(name):
    data, sentence = OTHERS[name]

    problems = read_junit(encoded(data)).problems
    assert any(sentence in problem for problem in problems), problems


@pytest.mark.parametrize("name", [*GREEN_TO_THE_NAIVE, *OTHERS])
@pytest.mark.parametrize("size", [1, 7])
def test_the_size_of_the_chunks_makes_no_difference(name, size):
    data = encoded({**GREEN_TO_THE_NAIVE, **OTHERS}[name][0])[:20_000]

    whole = read_junit(data)
    parts = read_junit(data[at : at + size] for at in range(0, len(data), size))
    assert parts.tests == whole.tests
    assert len(parts.problems) == len(whole.problems)


def test_at_least_thirty_files_are_told_apart():
    assert len(GREEN_TO_THE_NAIVE) + len(OTHERS) >= 30
    assert len({sentence for _, sentence in [*GREEN_TO_THE_NAIVE.values(), *OTHERS.values()]}) >= 30


def test_a_thousand_wrong_things_are_one_sentence():
    data = report(*(case(f"test_{n}", attributes='time="-1"') for n in range(1000)))

    (problem,) = read_junit(data.encode()).problems
    assert problem == (
        "the JUnit report gives tests/test_x.py::test_0 an impossible time: -1 (the first of 1000 such places)"
    )


def test_names_in_sentences_are_short_and_on_one_line():
    data = report(case("x" * 100_000 + "&#10;y", attributes='time="-1"'))

    (problem,) = read_junit(data.encode()).problems
    assert len(problem) < 300
    assert "\n" not in problem


def test_what_could_be_read_of_a_truncated_file_is_kept():
    read = read_junit(report(OK, case("test_b", FAILURE), case("test_c"))[:-80].encode())

    assert [(t.node_id, t.outcome) for t in read.tests] == [
        ("tests/test_x.py::test_a", P),
        ("tests/test_x.py::test_b", F),
    ]


# --- limits --------------------------------------------------------------------------------------------------------


def test_a_report_too_large_is_refused_without_being_held():
    def endless() -> Iterator[bytes]:
        yield b"<testsuite>"
        for n in range(10_000):
            assert n < 1000, "it reads on"
            yield f'<testcase name="t{n}"/>'.ljust(4096).encode()

    assert any(
        "is larger than 1 MiB: refused" in problem
        for problem in read_junit(endless(), limits=Limits(size=1 << 20)).problems
    )


def test_too_many_tests_are_not_read():
    read = read_junit(report(*(case(f"test_{n}") for n in range(50))).encode(), limits=Limits(tests=10))

    assert len(read.tests) == 10
    assert any("more than 10 tests" in problem for problem in read.problems)


def test_a_tag_too_long_is_not_held():
    read = read_junit(report(OK, case("x" * (4 << 20))).encode(), limits=Limits(tag=1 << 20))

    assert [t.node_id for t in read.tests] == ["tests/test_x.py::test_a"]
    assert any("a tag of more than 1 MiB" in problem for problem in read.problems)


def test_a_thousand_results_in_one_case_do_not_hide_the_last():
    (test,) = read_junit(report(case(inside="<skipped/>" * 1000 + FAILURE)).encode()).tests

    assert test.outcome is F


def test_long_texts_are_cut():
    (test,) = read_junit(
        report(case(inside=f"<failure message='{'m' * 9000}'>{'t' * 300_000}</failure>")).encode()
    ).tests

    assert test.message == "m" * 2000
    assert test.text == "t" * 65536


# --- what a good report says ---------------------------------------------------------------------------------------

INSIDE = {
    "passed": ("", P, None),
    "properties and output": ("<properties><property name='a'/></properties><system-out>x</system-out>", P, None),
    "failed": (FAILURE, F, "assert 0"),
    "failed without a message": ("<failure>ValueError: x\nmore</failure>", F, "ValueError: x"),
    "message of several lines": ("<failure message='AssertionError: a&#10;assert 1'/>", F, "AssertionError: a"),
    "error": ('<error message="failed on setup with &quot;E&quot;">x</error>', E, 'failed on setup with "E"'),
    "failure, then error": (FAILURE + '<error message="failed on teardown">x</error>', F, "assert 0"),
    "skip, then error": ("<skipped/><error message='failed on teardown'/>", E, "failed on teardown"),
    "skipped": ('<skipped type="pytest.skip" message="no GPU">tests/test_x.py:3: no GPU</skipped>', S, "no GPU"),
    "expected failure": ('<skipped type="pytest.xfail" message="known"/>', XF, "known"),
    "unexpected pass of old": (
        '<skipped message="xfail-marked test passes unexpectedly"/>',
        TestOutcome.XPASSED,
        "xfail-marked test passes unexpectedly",
    ),
    "strict unexpected pass": ('<failure message="[XPASS(strict)] known">x</failure>', F, "[XPASS(strict)] known"),
    "not collected": (
        '<error message="collection failure">Traceback:\nE   ModuleNotFoundError: no torch</error>',
        E,
        "ModuleNotFoundError: no torch",
    ),
    "not collected alike": (
        '<error message="collection failure">Different tests were collected between gw1 and gw0.\n--- gw1</error>',
        E,
        "Different tests were collected between gw1 and gw0.",
    ),
    "still running": (
        '<error type="mltiers.unfinished" message="still running"/>',
        TestOutcome.UNFINISHED,
        "still running",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_the_elements_of_a_case_make_its_outcome(name):
    inside, outcome, message = INSIDE[name]

    read = read_junit(report(case(inside=inside)).encode())
    assert read.problems == ()
    (test,) = read.tests
    assert (test.outcome, test.message) == (outcome, message)
    assert (test.seconds, test.file, test.line) == (0.25, "tests/test_x.py", 4)


NODE_IDS = {
    "a function": ('classname="tests.test_x" name="test_a" file="tests/test_x.py"', "tests/test_x.py::test_a"),
    "a method": ('classname="t.test_x.TestA" name="test_a" file="t/test_x.py"', "t/test_x.py::TestA::test_a"),
    "a nested class": ('classname="test_x.A.B" name="t" file="test_x.py"', "test_x.py::A::B::t"),
    "parameters": ('classname="test_x" name="t[a.b-c::d/e]" file="test_x.py"', "test_x.py::t[a.b-c::d/e]"),
    "a line break": ('classname="test_x" name="t[a&#10;b]" file="test_x.py"', "test_x.py::t[a\nb]"),
    "a file not collected": ('classname="" name="tests.test_x" file="tests/test_x.py"', "tests/test_x.py"),
    "a document": ('classname="README.md" name="README.md" file="README.md"', "README.md::README.md"),
    "inherited from elsewhere": ('classname="test_x.TestA" name="t" file="bases.py"', "test_x.TestA::t"),
    "without a file": ('classname="tests.test_x.TestA" name="t"', "tests.test_x.TestA::t"),
    "without anything else": ('name="t"', "t"),
}


@pytest.mark.parametrize("name", NODE_IDS)
def test_node_ids_are_rebuilt(name):
    attributes, node_id = NODE_IDS[name]

    (test,) = read_junit(f"<testsuite><testcase {attributes}/></testsuite>".encode()).tests
    assert test.node_id == node_id


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "us-ascii", "windows-1252"])
def test_any_encoding_that_expat_knows_is_read(encoding):
    name = "test_a" if encoding == "us-ascii" else "test_é"
    data = report(case(name)).replace('encoding="utf-8"', f'encoding="{encoding}"').encode(encoding)

    read = read_junit(data)
    assert read.problems == ()
    assert [t.node_id for t in read.tests] == [f"tests/test_x.py::{name}"]


def test_suites_may_be_many_and_nested_and_their_times_add_up():
    data = """<testsuites>
      <testsuite tests="2" failures="1" time="2.5"><testcase name="a"/>
        <testsuite tests="1" failures="1"><testcase name="b"><failure/></testcase></testsuite></testsuite>
      <testsuite tests="1" failures="0" time="1"><testcase name="c"/></testsuite></testsuites>"""

    read = read_junit(data.encode())
    assert read.problems == ()
    assert (read.seconds, dict(read.declared)) == (3.5, {"tests": 3, "failures": 1})
    assert [t.outcome for t in read.tests] == [P, F, P]


def test_a_suite_may_declare_without_those_nested_in_it():
    data = "<testsuite tests='1'><testcase name='a'/><testsuite tests='1'><testcase name='b'/></testsuite></testsuite>"

    assert read_junit(data.encode()).problems == ()


def test_without_a_time_of_the_suite_that_of_the_cases_counts():
    data = "<testsuite><testcase name='a' time='1.5'/><testcase name='b' time='0.5'/><testcase name='c'/></testsuite>"

    assert read_junit(data.encode()).seconds == 2.0


def test_a_call_and_its_teardown_in_two_cases_are_one_failed_test():
    teardown = '<error message="failed on teardown with &quot;E&quot;">later trace</error>'
    read = read_junit(report(case(inside=FAILURE), case(inside=teardown), attributes='tests="2"').encode())

    assert read.problems == ()
    (test,) = read.tests
    assert (test.outcome, test.message, test.seconds) == (F, "assert 0", 0.5)
    assert test.text == "trace\n\nlater trace"


@pytest.mark.parametrize("cases", [(OK, case(inside=FAILURE)), (case(inside=FAILURE), OK)])
def test_of_a_case_that_is_there_twice_the_worse_counts(cases):
    read = read_junit(report(*cases).encode())

    assert [t.outcome for t in read.tests] == [F]
    assert "more than once" in read.problems[0]


def test_the_place_of_a_failure_is_that_of_its_traceback():
    trace = "def test():\n>   assert 0\nE   assert 0\n\ntests/helpers.py:17: AssertionError"
    (test,) = read_junit(report(case(inside=f"<failure>{trace.replace('>', '&gt;')}</failure>")).encode()).tests

    assert (test.file, test.line) == ("tests/helpers.py", 17)


def test_attempts_in_mavens_dialect_are_attempts():
    flaky = '<flakyFailure message="first">trace 1</flakyFailure><flakyError message="second"/>'
    read = read_junit(report(case(inside=flaky)).encode())

    (test,) = read.tests
    assert test.outcome is P
    assert [(a.outcome, a.message) for a in test.attempts] == [(F, "first"), (E, "second")]


# --- anything at all -----------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        *("<testsuites>", "</testsuites>", "<testsuite>", "</testsuite>", '<testsuite tests="1" time="x">'),
        *("<testcase", ' name="a"', ' time="1e999"', ' line="-5"', ">", "/>", "</testcase>", "<system-out>"),
        *("<failure>", "</failure>", "<skipped/>", "<error type='mltiers.unfinished'/>", "<flakyError/>"),
        *("<!DOCTYPE a>", "<![CDATA[", "]]>", "&lt;", "&#1;", "<?xml version='1.0'?>", "<a>", "</a>", "<!--"),
        *("é", "\0", "</system-out>"),
    ]
)


@settings(max_examples=400)
@given(st.lists(st.one_of(FRAGMENTS, st.text(max_size=5)), max_size=40), st.integers(1, 50))
def test_no_content_raises(fragments, size):
    data = "".join(fragments).encode("utf-8", "surrogatepass")

    read = read_junit(data[at : at + size] for at in range(0, len(data), size))
    bad = sum(t.outcome.bad for t in read.tests)
    assert read.problems or read.tests
    assert read.problems or bad == 0 or naive_failures(data)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_raise(data):
    assert read_junit(data).problems


@settings(max_examples=150)
@given(st.integers(0, 2000))
def test_a_report_cut_anywhere_is_a_problem(cut):
    data = report(OK, case("test_b", FAILURE), case("test_c", "<skipped/>"), attributes='tests="3"').encode()

    assert bool(read_junit(data[:cut]).problems) == (cut < len(data))
