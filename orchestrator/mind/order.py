"""In which order a tier's tests run, and which of them wait for a later run: read off earlier runs. Pure.

What this decides reaches pytest as a file (``order.json``, version 1), which the plugin applies: ``first`` (node ids
that come before all others), ``seconds`` (estimates: xdist's workers are given the longest first), ``deferred`` (node
ids that are not run). Tests that the file does not know always run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from msgspec import Struct, field

from orchestrator.mind.fit import Selection, TestFacts, select
from orchestrator.mind.records import Record
from orchestrator.mind.records.contexts import Contexts
from orchestrator.mind.records.history import Estimate, estimates, last_outcomes
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Ending, TestResult, TierResult

VERSION = 1

_RUNS = 5  # newest whole runs that say what a run costs beside its tests
_FLAKY_RUNS = 20
_OLD = 3  # runs after which a test that is in one of them only is new
_MOST_SLACK = 2.0


class Order(Struct, frozen=True, kw_only=True):
    """What the plugin is told. ``selection``: of a tier that is fitted."""

    first: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()  # last time
    seconds: Mapping[str, float] = field(default_factory=dict)
    selection: Selection | None = None

    @property
    def deferred(self) -> tuple[str, ...]:
        return self.selection.deferred if self.selection is not None else ()


class Schedule(Struct, frozen=True, kw_only=True):
    """How well a run used its workers, and how soon it said that something is wrong."""

    first_failure: float | None = None  # seconds from the first test's start to the end of the first that failed
    idle: float = 0.0  # seconds that workers, together, had nothing to do before the last of them ended


def order_of(
    plan: TierPlan,
    records: Sequence[Record],
    *,
    contexts: Contexts | None = None,
    touched: Mapping[str, int] | None = None,
    nightly: bool = False,
) -> Order:
    """The order of a tier; where nothing is known of earlier runs, one that says nothing. ``records``: newest first.

    ``touched``: how near each test is to the change. ``nightly``: what had to wait comes first.
    """
    known = [record for record in records if record.tier.result is not None and not record.fork]
    nodes = _nodes(known)
    if not nodes:
        return Order()
    learnt = estimates(known, of=None if plan.fit else nodes)  # a fit's costs are those of whole runs
    took = {node: estimate.seconds for node, estimate in learnt.items()}
    outcomes = last_outcomes(known, nodes)
    waiting = _waiting(known)
    failed = sorted(
        (node for node in nodes if node in outcomes and outcomes[node].bad), key=lambda node: took.get(node, 0.0)
    )
    selection = None
    if plan.fit:
        facts = _facts(nodes, known, learnt, contexts=contexts, touched=touched or {}, failed=failed, waiting=waiting)
        startup, slack = _costs(known, learnt)
        selection = select(
            facts,
            seconds=plan.budget,
            workers=plan.workers,
            pieces=contexts.pieces if contexts is not None else (),
            startup=startup,
            slack=slack,
            deferred_first=nightly,
        )
    waited = sorted((node for node in nodes if node in waiting), key=lambda node: took.get(node, 0.0))
    first = [*(waited if nightly else ()), *failed]
    dropped = set(selection.deferred) if selection is not None else set()
    return Order(
        first=tuple(dict.fromkeys(node for node in first if node not in dropped)),
        failed=tuple(failed),
        seconds={node: took[node] for node in nodes if node in took},
        selection=selection,
    )


def order_document(order: Order) -> dict[str, Any]:
    """order.json."""
    return {
        "version": VERSION,
        "first": list(order.first),
        "seconds": {node: round(seconds, 4) for node, seconds in order.seconds.items()},
        "deferred": list(order.deferred),
    }


def fit_note(order: Order) -> str:
    """What became of `fit`, for the plan: one sentence."""
    if order.selection is None:
        return "fit: nothing is known of earlier runs, so everything runs"
    chosen = order.selection
    total = len(chosen.chosen) + len(chosen.deferred)
    if not chosen.deferred:
        return f"fit: all {total} known tests are expected to fit ({chosen.everything:.1f} s)"
    return (
        f"fit: {len(chosen.chosen)} of {total} known tests run (about {chosen.predicted:.1f} s; all would take "
        f"{chosen.everything:.1f} s), {len(chosen.deferred)} are deferred"
    )


def schedule_of(result: TierResult) -> Schedule:
    """Read off when each test of a run started, how long it took, and where."""
    timed = [test for test in result.tests if test.started is not None]
    if not timed:
        return Schedule()
    began = min(_start(test) for test in timed)
    bad = [_start(test) + test.seconds for test in timed if test.outcome.bad]
    ends: dict[str, float] = {}
    for test in timed:
        worker = test.worker or "main"
        ends[worker] = max(ends.get(worker, began), _start(test) + test.seconds)
    last = max(ends.values())
    unused = max(0, result.workers - len(ends)) * (last - began)
    return Schedule(
        first_failure=min(bad) - began if bad else None, idle=sum(last - end for end in ends.values()) + unused
    )


def schedule_note(result: TierResult) -> str | None:
    """One short line, where there is something to say."""
    schedule = schedule_of(result)
    said = []
    if schedule.first_failure is not None:
        said.append(f"first failure after {schedule.first_failure:.1f} s")
    if result.workers > 1 and schedule.idle > max(1.0, 0.1 * result.seconds * result.workers):
        said.append(f"workers idled {schedule.idle:.1f} s at the end")
    return "; ".join(said) or None


def order_words(result: TierResult) -> str:
    """The order of a run; one that the plugin was not told to arrange is pytest's own, or pytest-randomly's."""
    if result.order is not None:
        return result.order
    return f"random: pytest-randomly, seed {result.random_seed}" if result.random_seed is not None else "pytest's own"


def _start(test: TestResult) -> float:
    return test.started or 0.0


def _nodes(records: Sequence[Record]) -> list[str]:
    """The tests there are, in the order of the newest run that came to its end; and those of newer runs."""
    nodes: dict[str, None] = {}
    for record in records[:_RUNS]:
        if (result := record.tier.result) is None:
            continue
        # A file that could not be collected stands among the tests under its own name; it is none.
        nodes.update(dict.fromkeys(test.node_id for test in result.tests if "::" in test.node_id))
        nodes.update(dict.fromkeys(result.deferred))
        if result.ending is Ending.EXITED and len(result.tests) > 0:
            break
    return list(nodes)


def _waiting(records: Sequence[Record]) -> set[str]:
    """The tests that were deferred and have not been run since."""
    if not any(record.tier.result is not None and record.tier.result.deferred for record in records):
        return set()
    seen: set[str] = set()
    waiting: set[str] = set()
    for record in records:
        if (result := record.tier.result) is None:
            continue
        seen.update(test.node_id for test in result.tests if test.outcome.executed)
        waiting.update(node for node in result.deferred if node not in seen)
    return waiting


def _facts(
    nodes: Sequence[str],
    records: Sequence[Record],
    known: Mapping[str, Estimate],
    *,
    contexts: Contexts | None,
    touched: Mapping[str, int],
    failed: Sequence[str],
    waiting: set[str],
) -> list[TestFacts]:
    bad = set(failed)
    runs: dict[str, int] = {}
    flaky: set[str] = set()
    spent: dict[str, float] = {}  # by tests that only ever failed
    for age, record in enumerate(records):
        for test in record.tier.result.tests if record.tier.result is not None else ():
            runs[test.node_id] = runs.get(test.node_id, 0) + 1
            spent.setdefault(test.node_id, test.seconds)
            if test.attempts and age < _FLAKY_RUNS:
                flaky.add(test.node_id)
    covers = contexts.tests if contexts is not None else {}
    facts = []
    for node in nodes:
        estimate = known.get(node)
        facts.append(
            TestFacts(
                node_id=node,
                seconds=estimate.seconds if estimate is not None else spent.get(node),
                highest=estimate.highest if estimate is not None else None,
                failed_last=node in bad,
                touched=touched.get(node, 0),
                new=len(records) >= _OLD and runs.get(node, 0) < 2,
                flaky=node in flaky,
                deferred_last=node in waiting,
                covers=covers.get(node, ()),
            )
        )
    return facts


def _costs(records: Sequence[Record], known: Mapping[str, Estimate]) -> tuple[float, float]:
    """Seconds of a run that are not its tests', and how much longer its tests took than estimated, as a factor."""
    beside: list[float] = []
    factors: list[float] = []
    for record in records:
        result = record.tier.result
        if result is None or result.ending is not Ending.EXITED or not result.tests or len(beside) >= _RUNS:
            continue
        took = sum(test.seconds for test in result.tests)
        expected = sum(known[test.node_id].seconds for test in result.tests if test.node_id in known)
        beside.append(max(0.0, result.seconds - took / max(1, result.workers)))
        if expected > 0:
            factors.append(took / expected)
    slack = min(max([1.0, *factors]), _MOST_SLACK)
    return (max(median(beside), max(beside) * 0.9) if beside else 0.0), slack
