"""What the suites of a JUnit report declare about themselves, held against what they hold."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.mind.readers.flaws import Flaws, shown

_PLAUSIBLE_SECONDS = 1e8
_SUBTESTS = ": pytest 9 counts subtests that passed but leaves them out, which events.jsonl beside it would explain"


def plausible_seconds(text: str) -> float | None:
    """The duration that an attribute ``time`` gives, or None where it is none."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < _PLAUSIBLE_SECONDS else None


class Suites:
    """The suites that are open, and what those that are closed have declared.

    A tally is what the whole report has held so far: ``cases``, of which ``merged`` into an earlier one of the same
    test, the elements ``failures``, ``errors`` and ``skipped``, and ``extra``: how many tests more than cases pytest
    may count. A suite knows its own share by the tallies at its beginning and at its end.
    """

    def __init__(self, flaws: Flaws) -> None:
        self.flaws = flaws
        # Doubts, not flaws: pytest's own number of tests is not always that of its cases, and a test that freezes the
        # clock makes its durations those of another year.
        self.miscounted = Flaws()
        self.mistimed = Flaws()
        self.seconds: float | None = None  # of the outermost suites, where they say so
        self.declared: dict[str, int] = {}  # by the outermost suites
        self._open: list[_Suite] = []

    def open(self, tag: str, attributes: dict[str, str], tally: Mapping[str, int]) -> None:
        """A suite begins."""
        self._open.append(_Suite(tag, attributes, tally))

    def close(self, tally: Mapping[str, int]) -> None:
        """The innermost suite ends."""
        suite = self._open.pop()
        parent = self._open[-1] if self._open else None
        inclusive = {key: tally[key] - suite.before[key] for key in tally}
        if parent is not None:
            for key, share in inclusive.items():
                parent.nested[key] = parent.nested.get(key, 0) + share
        counts = self._checked_counts(suite, inclusive)
        seconds = self._seconds(suite)
        if suite.tag == "testsuite" and (parent is None or parent.tag == "testsuites"):
            for key, count in counts.items():
                self.declared[key] = self.declared.get(key, 0) + count
            if seconds is not None:
                self.seconds = (self.seconds or 0.0) + seconds

    def _checked_counts(self, suite: _Suite, inclusive: Mapping[str, int]) -> dict[str, int]:
        own = {key: share - suite.nested.get(key, 0) for key, share in inclusive.items()}
        counts: dict[str, int] = {}
        for key in ("tests", "failures", "errors", "skipped"):
            text = suite.attributes.get(key)
            if text is None:
                continue
            if not text.isdecimal() or len(text) > 12:
                self.flaws.add("count", f"the JUnit report declares {shown(text)!r} as its number of {key}")
                continue
            count = counts[key] = int(text)
            if key == "tests":
                if not any(_may_count(count, share) for share in (inclusive, own)):
                    held = inclusive["cases"]
                    why = _SUBTESTS if count > held else ""
                    self.miscounted.add("tests", f"the JUnit report declares {count} tests and holds {held}{why}")
            elif count not in (inclusive[key], own[key]):  # of nested suites some producers count, some do not
                self.flaws.add(key, f"the JUnit report declares {count} {key} and holds {inclusive[key]}")
        return counts

    def _seconds(self, suite: _Suite) -> float | None:
        text = suite.attributes.get("time")
        if text is None:
            return None
        seconds = plausible_seconds(text)
        if seconds is None:
            self.mistimed.add("suite", f"the JUnit report gives a suite an impossible time: {shown(text)}")
        return seconds


def _may_count(declared: int, share: Mapping[str, int]) -> bool:
    return share["cases"] - share["merged"] <= declared <= share["cases"] + share["extra"]


class _Suite:
    """One suite that is open: its attributes, and what had been seen before it."""

    __slots__ = ("attributes", "before", "nested", "tag")

    def __init__(self, tag: str, attributes: dict[str, str], before: Mapping[str, int]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.before = before
        self.nested: dict[str, int] = {}
