"""What the elements inside one test case of a JUnit report say about the test."""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from orchestrator.mind.readers.flaws import first_line
from orchestrator.mind.readers.outcomes import worse
from orchestrator.words.results import Attempt, TestOutcome, TestResult

TEXT_LIMIT: Final = 64 * 1024
"""Characters kept of the traceback of a test."""
MESSAGE_LIMIT: Final = 2_000
"""Characters kept of one message."""
UNFINISHED_TYPE: Final = "mltiers.unfinished"
"""The ``type`` of an ``<error>`` with which ``junit_writer`` says that a test was still running."""
RESULTS: Final = frozenset(("failure", "error", "skipped"))
EARLIER: Final = {
    "flakyFailure": TestOutcome.FAILED,
    "rerunFailure": TestOutcome.FAILED,
    "flakyError": TestOutcome.ERROR,
    "rerunError": TestOutcome.ERROR,
}
"""Maven's dialect for the earlier attempts of a test that was tried again."""

_CRASH = re.compile(r"(?P<file>[^\s:][^:]*):(?P<line>\d{1,8}): ")  # the last line of a traceback as pytest prints it


class Element:
    """One result in a test case."""

    __slots__ = ("kind", "message", "tag", "text")

    def __init__(self, tag: str, kind: str | None, message: str | None) -> None:
        self.tag = tag
        self.kind = kind
        self.message = message
        self.text = ""

    @property
    def outcome(self) -> TestOutcome:
        if self.tag == "skipped":
            if self.kind == "pytest.xfail":
                return TestOutcome.XFAILED
            unexpected = (self.message or "").startswith("xfail-marked test passes unexpectedly")
            return TestOutcome.XPASSED if unexpected else TestOutcome.SKIPPED
        if self.kind == UNFINISHED_TYPE:
            return TestOutcome.UNFINISHED
        return TestOutcome.FAILED if self.tag == "failure" else TestOutcome.ERROR


def with_results(test: TestResult, found: list[Element]) -> TestResult:
    """``test`` with the worst of its results, the text of all of them, and the place of the failure."""
    attempts = tuple(
        Attempt(
            outcome=EARLIER[e.tag],
            seconds=0.0,
            message=first_line(e.message or e.text, MESSAGE_LIMIT),
            text=e.text or None,
        )
        for e in found
        if e.tag in EARLIER
    )
    results = [e for e in found if e.tag not in EARLIER]
    if not results:
        return replace(test, attempts=attempts)
    lead = results[0]
    for element in results[1:]:
        if worse(lead.outcome, element.outcome) is not lead.outcome:
            lead = element
    bad = [lead, *(e for e in results if e is not lead)] if lead.outcome.bad else []
    text = "\n\n".join(e.text for e in bad if e.text)[:TEXT_LIMIT] or None
    file, line = test.file, test.line
    if bad and (crash := _CRASH.match(lead.text.rstrip().rpartition("\n")[2])):
        file, line = crash["file"], int(crash["line"])
    message = first_line(lead.message or lead.text, MESSAGE_LIMIT)
    if message == "collection failure":
        message = first_line(f"\n{lead.text}".rpartition("\nE ")[2], MESSAGE_LIMIT)
    return replace(test, outcome=lead.outcome, message=message, text=text, file=file, line=line, attempts=attempts)
