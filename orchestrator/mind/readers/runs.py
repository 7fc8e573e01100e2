"""The runs of one test, put together from its events, and the one result of them."""

from __future__ import annotations

from typing import Literal

from orchestrator.mind.readers.outcomes import worse
from orchestrator.words.results import Attempt, TestOutcome, TestResult

_TEXTS_KEPT = 10  # a call, a teardown, and some of its parts
_NEXT = {"": "", "setup": " in its call", "call": " in its teardown"}


def phase_outcome(phase: str, outcome: str, *, expected: bool) -> TestOutcome | Literal[False] | None:
    """What the outcome of a phase means for the test; None: nothing by itself; False: there is no such phase.

    ``expected``: the test is marked xfail. A setup or teardown that passed says nothing: a test of which only those ran
    (``--setup-only``) has not passed.
    """
    if phase not in ("setup", "call", "teardown"):
        return False
    if outcome == "passed":
        if phase != "call":
            return None
        return TestOutcome.XPASSED if expected else TestOutcome.PASSED
    if outcome in ("failed", "rerun"):
        return TestOutcome.FAILED if phase == "call" else TestOutcome.ERROR
    if outcome == "skipped":
        return TestOutcome.XFAILED if expected else TestOutcome.SKIPPED
    return False


class Run:
    """One attempt at a test: what its phases have said so far."""

    __slots__ = (
        "again",
        "failed_at",
        "file",
        "line",
        "message",
        "outcome",
        "over",
        "phase",
        "seconds",
        "started",
        "texts",
        "worker",
    )

    def __init__(self, worker: str, started: float) -> None:
        self.worker = worker
        self.started = started
        self.seconds = 0.0
        self.phase = ""  # the last one that is over
        self.outcome: TestOutcome | None = None
        self.over = False
        self.again = False  # it failed, and was to be tried again
        self.failed_at: float | None = None
        self.message: str | None = None
        self.texts: list[str] = []
        self.file: str | None = None
        self.line: int | None = None

    def add(
        self,
        outcome: TestOutcome,
        time: float,
        *,
        message: str | None,
        text: str | None,
        file: str | None,
        line: int | None,
    ) -> None:
        """Takes in what one phase or part says. The first failure gives the message and the place."""
        before = self.outcome
        self.outcome = outcome if before is None else worse(before, outcome)
        if text and len(self.texts) < _TEXTS_KEPT:
            self.texts.append(text)
        if outcome.bad and self.failed_at is None:
            self.failed_at = time
        elif before is not None and (before.bad or not message):
            return
        self.message, self.file, self.line = message, file, line

    def final(self) -> TestOutcome:
        """What is known of it: a failure stays one, anything else needs a teardown to count."""
        if self.outcome is not None and self.outcome.bad:
            return self.outcome
        if not self.over:
            return TestOutcome.UNFINISHED
        return self.outcome if self.outcome is not None else TestOutcome.SKIPPED

    @property
    def undoes(self) -> bool:
        """Whether, as a retry, it says anything about the failure before it: a skip or an expected failure does not."""
        return self.final() not in (TestOutcome.SKIPPED, TestOutcome.XFAILED)

    def spent(self, last: float) -> float:
        """Seconds of its phases or, while it runs, from its start to ``last``."""
        return self.seconds if self.over else max(self.seconds, last - self.started, 0.0)

    def said(self, last: float) -> str | None:
        """Its message; one that never ended says where it was."""
        if self.final() is TestOutcome.UNFINISHED:
            return f"still running{_NEXT.get(self.phase, '')}, {self.spent(last):.1f} s after its start"
        if self.outcome is None and self.over:
            return "its call never ran"
        return self.message


def result_of(node_id: str, runs: list[Run], last: float) -> TestResult:
    """One result of all runs of a test: earlier attempts are those after which it was to be tried again."""
    lead = lead_of(runs)
    earlier = [run for run in runs if run.again and run is not lead]
    texts = lead.texts
    if lead.again and runs[-1] is not lead:
        texts = [*texts, f"Tried again, it was {runs[-1].final()}: {runs[-1].said(last) or 'no reason given'}"]
    return TestResult(
        node_id=node_id,
        outcome=lead.final(),
        seconds=lead.spent(last),
        worker=lead.worker,
        started=lead.started,
        message=lead.said(last),
        text="\n\n".join(texts) or None,
        file=lead.file,
        line=lead.line,
        attempts=tuple(
            Attempt(
                outcome=run.final(),
                seconds=run.spent(last),
                message=run.said(last),
                text="\n\n".join(run.texts) or None,
            )
            for run in earlier
        ),
    )


def lead_of(runs: list[Run]) -> Run:
    """The run that stands for all: the worst of those that were not to be tried again, or else the last.

    Where a retry says nothing of the failure before it, that failure stands.
    """
    final = [run for run in runs if not run.again] or runs[-1:]
    failed = [run for run in runs if run.again]
    if failed and not any(run.undoes for run in final):
        return failed[-1]
    lead = final[0]
    for run in final[1:]:
        if worse(lead.final(), run.final()) is not lead.final():
            lead = run
    return lead
