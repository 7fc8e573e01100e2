"""One list of tests out of two reports of them: pytest's JUnit file is the evidence, the event stream completes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter

from msgspec.structs import replace

from orchestrator.mind.readers.events import EventLog
from orchestrator.mind.readers.flaws import shown
from orchestrator.mind.readers.junit import Doubt, JUnitReport
from orchestrator.mind.readers.names import INTERNAL_ERROR, junit_names
from orchestrator.mind.readers.outcomes import worse
from orchestrator.words.results import TestOutcome, TestResult

_COMPLETE = (0, 1)  # exit codes of a pytest that ran what it had collected


def merge_tests(junit: JUnitReport | None, events: EventLog | None) -> tuple[tuple[TestResult, ...], tuple[str, ...]]:
    """Every test either of the two knows, and what keeps them from being believed.

    Events give a test its exact node id, worker, start, time and attempts, and name those that were still running.
    Where there is no JUnit file (a run that was killed) they give the tests alone. A test that only one of the two
    knows, or that the two tell differently, is a problem.

    Every text returned can be encoded: a lone surrogate in a name becomes an escape.
    """
    if junit is None:
        if events is None:
            return (), ()
        return _encodable((*events.collection, *events.tests)), events.problems
    if events is None or not events.sessions:
        return _encodable(junit.tests), (*junit.problems, *(events.problems if events is not None else ()))
    merge = _Merge(junit, events)
    return _encodable(merge.tests()), tuple(merge.problems)


class _Merge:
    """The comparison of two reports about one session."""

    def __init__(self, junit: JUnitReport, events: EventLog) -> None:
        self.junit = junit
        self.events = events
        self.problems: list[str] = []
        self._known = {test.node_id: test for test in (*events.collection, *events.tests)}
        self._names: Mapping[tuple[str, str], str] | None = None

    def tests(self) -> list[TestResult]:
        merged: list[TestResult] = []
        matched: set[str] = set()
        unknown: list[str] = []
        disagreeing: list[str] = []
        for test in self.junit.tests:
            node_id = self._resolve(test.node_id)
            told = self._known.get(node_id) if node_id is not None else None
            if told is None or told.node_id in matched:
                merged.append(test)
                if test.node_id != INTERNAL_ERROR:
                    unknown.append(test.node_id)
                continue
            matched.add(told.node_id)
            agreed = _agree(test, told)
            if not agreed:
                disagreeing.append(f"{told.node_id} ({test.outcome} and {told.outcome})")
            merged.append(_together(test, told, told.outcome if agreed else worse(test.outcome, told.outcome)))
        missing = [test for node_id, test in self._known.items() if node_id not in matched]
        self._judge(unknown, disagreeing, missing)
        return [*merged, *missing]

    # --- finding the same test -------------------------------------------------------------------------------------

    def _resolve(self, node_id: str) -> str | None:
        """The stream's node id of a test of the report."""
        if node_id in self._known:
            return node_id
        if self._names is None:
            self._names = {junit_names(known): known for known in self._known}
        classname, name = junit_names(node_id)
        while True:
            found = self._names.get((classname, name))
            if found is not None or not classname:
                return found
            classname = classname.partition(".")[2]  # what --junitprefix put before it

    # --- comparing -------------------------------------------------------------------------------------------------

    def _judge(self, unknown: list[str], disagreeing: list[str], missing: list[TestResult]) -> None:
        events = self.events
        complete = events.ended and events.exit_status in _COMPLETE
        finished = [test.node_id for test in missing if test.outcome is not TestOutcome.UNFINISHED]
        self.problems += self.junit.flaws
        self.problems += (doubt.text for doubt in self.junit.doubts if not self._explained(doubt, len(missing)))
        self.problems += events.problems
        if not events.ended:
            self.problems.append("events.jsonl stops before the end of the session, though there is a JUnit report")
        if unknown:
            self.problems.append(_named("in the JUnit report and not in events.jsonl", unknown))
        if finished and complete:
            self.problems.append(_named("in events.jsonl and not in the JUnit report", finished))
        if disagreeing:
            self.problems.append(_named("told differently by the JUnit report and events.jsonl", disagreeing))
        if complete and events.exit_status == 0 and (events.collected or 0) > events.starts:
            self.problems.append(f"{events.collected} tests were collected and {events.starts} started")

    def _explained(self, doubt: Doubt, missing: int) -> bool:
        """Whether the stream says why the report looks as it does."""
        events = self.events
        if doubt.kind == "nameless":  # of tests that were interrupted, or whose worker died and that ran again
            return doubt.count <= events.retried_crashes + len(events.running) + missing
        if doubt.kind == "repeated":
            return all(self._resolve(node_id) in events.repeated for node_id in doubt.nodes)
        return bool(events.tests)  # every test has been compared, and its time is that of the stream


def _agree(test: TestResult, told: TestResult) -> bool:
    if told.outcome in (test.outcome, TestOutcome.UNFINISHED):  # JUnit does not know that a teardown never ended
        return True
    if test.outcome is TestOutcome.PASSED and told.outcome is TestOutcome.XPASSED:
        return True  # JUnit has no word for it
    return any(attempt.outcome is test.outcome for attempt in told.attempts)


def _together(test: TestResult, told: TestResult, outcome: TestOutcome) -> TestResult:
    """``told`` with what only the report knows."""
    return TestResult(  # half the time of replace(), and there may be a million
        node_id=told.node_id,
        outcome=outcome,
        seconds=told.seconds,
        worker=told.worker,
        started=told.started,
        message=told.message or test.message,
        text=told.text or test.text,
        file=told.file or test.file,
        line=told.line if told.file else test.line,
        attempts=told.attempts,
    )


def _named(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    tests = "1 test is" if len(names) == 1 else f"{len(names)} tests are"
    return f"{tests} {what}: {', '.join(shown(name) for name in names[:3])}{more}"


def _encodable(tests: Iterable[TestResult]) -> tuple[TestResult, ...]:
    tests = tuple(tests)
    return tests if _are_encodable(tests) else tuple([_escaped(test) for test in tests])


def _are_encodable(tests: tuple[TestResult, ...]) -> bool:
    """Whether all of their texts can be encoded for certain. Field by field: there may be a million tests."""
    return not any(map(attrgetter("attempts"), tests)) and all(
        all(map(str.isascii, filter(None, map(attrgetter(field), tests))))
        for field in ("node_id", "message", "text", "file", "worker")
    )


def _escaped(test: TestResult) -> TestResult:
    def plain(text: str | None) -> str | None:
        return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")

    return replace(
        test,
        node_id=plain(test.node_id) or "",
        message=plain(test.message),
        text=plain(test.text),
        file=plain(test.file),
        worker=plain(test.worker),
        attempts=tuple(replace(a, message=plain(a.message), text=plain(a.text)) for a in test.attempts),
    )
