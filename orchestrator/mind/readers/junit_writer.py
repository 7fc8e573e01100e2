"""Writes the JUnit report of a run that was stopped before pytest could write one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.mind.readers.junit_cases import UNFINISHED_TYPE
from orchestrator.mind.readers.names import junit_names, printable
from orchestrator.words.results import TestOutcome, TestResult

_ELEMENTS = {
    TestOutcome.FAILED: "failure",
    TestOutcome.ERROR: "error",
    TestOutcome.UNFINISHED: "error",
    TestOutcome.SKIPPED: "skipped",
    TestOutcome.XFAILED: "skipped",
}
# A reader makes spaces of line breaks in an attribute, and line feeds of carriage returns in a text.
_IN_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_IN_ATTRIBUTE = _IN_TEXT | str.maketrans({'"': "&quot;", "\n": "&#10;", "\t": "&#9;"})
_TYPES = {
    TestOutcome.UNFINISHED: UNFINISHED_TYPE,
    TestOutcome.SKIPPED: "pytest.skip",
    TestOutcome.XFAILED: "pytest.xfail",
}


def write_junit(tests: Iterable[TestResult], *, name: str, seconds: float) -> bytes:
    """A JUnit report in pytest's ``xunit1`` form, UTF-8, one ``<testcase>`` per test.

    A test that was still running is an ``<error>`` of the type ``mltiers.unfinished``. As in pytest's own reports a
    test that passed unexpectedly is one that passed, earlier attempts are not told, and a character that XML cannot
    hold becomes ``#x00``.
    """
    cases: list[str] = []
    counts = {"error": 0, "failure": 0, "skipped": 0}
    for test in tests:
        cases.append("".join(_case(test)))
        if (element := _ELEMENTS.get(test.outcome)) is not None:
            counts[element] += 1
    suite = {
        "name": name,
        "errors": str(counts["error"]),
        "failures": str(counts["failure"]),
        "skipped": str(counts["skipped"]),
        "tests": str(len(cases)),
        "time": f"{seconds:.3f}",
    }
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f"<testsuites><testsuite{_attributes(suite)}>",
        *cases,
        "</testsuite></testsuites>",
    ]
    return "\n".join(lines).encode("utf-8")


def _case(test: TestResult) -> Iterator[str]:
    classname, name = junit_names(test.node_id)
    path = test.node_id.partition("::")[0]
    attributes = {"classname": classname, "name": name, "file": path}
    if test.line is not None and test.file == path:
        attributes["line"] = str(test.line - 1)  # pytest's is 0-based
    yield f"<testcase{_attributes({**attributes, 'time': f'{test.seconds:.3f}'})}"
    element = _ELEMENTS.get(test.outcome)
    if element is None:
        yield " />"
        return
    kind = {"type": _TYPES[test.outcome]} if test.outcome in _TYPES else {}
    text = printable(test.text or "").translate(_IN_TEXT)
    yield f"><{element}{_attributes({**kind, 'message': test.message or ''})}>{text}</{element}></testcase>"


def _attributes(values: dict[str, str]) -> str:
    return "".join(f' {key}="{printable(value).translate(_IN_ATTRIBUTE)}"' for key, value in values.items())
