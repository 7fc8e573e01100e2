"""One outcome out of several: of the phases of a test, of its parts, of its test cases in a report."""

from __future__ import annotations

from orchestrator.words.results import TestOutcome

# A call that failed says more than the teardown that failed after it; whatever is bad beats whatever is not.
_ORDER = {
    outcome: place
    for place, outcome in enumerate(
        (
            TestOutcome.FAILED,
            TestOutcome.ERROR,
            TestOutcome.UNFINISHED,
            TestOutcome.XFAILED,
            TestOutcome.SKIPPED,
            TestOutcome.XPASSED,
            TestOutcome.PASSED,
        )
    )
}


def worse(one: TestOutcome, other: TestOutcome) -> TestOutcome:
    """The one of two outcomes that stands for both."""
    return one if _ORDER[one] <= _ORDER[other] else other
