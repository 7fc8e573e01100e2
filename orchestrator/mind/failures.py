"""What broke, and whether it is the change's: failures by their cause, flaky tests, tests that became slow. Pure.

A cause is the same exception in the same line of the project, however many tests and tiers it breaks. Whether it is new
is read off the history: off the base the change is measured against, or the newest run of the default branch where the
base itself was never run, which is then said. What no earlier run tells is `unknown`, never assumed.
"""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.mind.excerpts import excerpt, kind_of, skeleton
from orchestrator.mind.order import order_words
from orchestrator.mind.readers.names import names_tests
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import SAMPLES, WHOLE, History
from orchestrator.mind.records.names import NO_COMMIT
from orchestrator.mind.skipped import skipped_here
from orchestrator.mind.trends import trends
from orchestrator.words.event import Event
from orchestrator.words.results import TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import Cause, Flake, Insight, RunVerdict, Slowdown, Standing, TierVerdict, Verdict

NAMED = 10
"""Tests named in one command."""
_COMMAND = 1_500  # characters
SLOWEST = 10
SLOWER = 10

_STANDINGS = (Standing.NEW, Standing.UNKNOWN, Standing.BEFORE)  # the order they are shown in
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f'\\]")  # what is spelled out between $' and '
_OWN_SEED = re.compile(r"failed under seed (\d+)")  # what the plugin's fixed_seed says of a failure
# A test is slower than it was where it takes this much longer than it usually did, and than it ever did. Durations of
# the history are within 10 % of the truth, and a shared machine is slower for all tests at times.
_TIMES_USUAL, _TIMES_HIGHEST, _SECONDS_MORE = 2.0, 1.5, 0.5
_SAMPLES_NEEDED = 3
_TESTS_NEEDED = 5  # to tell a slow machine from slow tests
_NO_HISTORY = History()


def explain(run: RunVerdict, history: History = _NO_HISTORY) -> RunVerdict:
    """The run with what can be said of its tests. ``history``: as it was before this run was added to it."""
    return replace(run, insight=insight(run, history))


def insight(run: RunVerdict, history: History = _NO_HISTORY) -> Insight:
    """See `explain`."""
    ran = [
        _sorted_out(tier, tier.result)
        for tier in run.tiers
        if tier.result is not None and tier.verdict is not Verdict.NOT_RUN
    ]
    wanted = {test.node_id for one in ran for test in (*one.bad, *one.flaky)}
    pasts = {one.name: _past(history, one.name, run.plan.event, wanted) for one in ran} if wanted else {}
    return Insight(
        causes=tuple(_causes(ran, pasts)),
        flakes=tuple(_flakes(ran, pasts)),
        slower=tuple(_slower(ran, history)),
        slowest=_slowest(ran),
        skipped=skipped_here(run, history),
        trends=trends(run, history),
    )


class _Ran(Struct, frozen=True, kw_only=True):
    """A tier that ran, and those of its tests there is something to say of."""

    tier: TierVerdict
    result: TierResult
    bad: list[TestResult]
    flaky: list[TestResult]
    slow: list[TestResult]

    @property
    def name(self) -> str:
        return self.tier.name


def _sorted_out(tier: TierVerdict, result: TierResult) -> _Ran:
    bad, flaky, slow = [], [], []
    failed, error, unfinished = TestOutcome.FAILED, TestOutcome.ERROR, TestOutcome.UNFINISHED
    for test in result.tests:  # there may be a million
        outcome = test.outcome
        if outcome is failed or outcome is error or outcome is unfinished:
            bad.append(test)
        elif test.attempts:
            flaky.append(test)
        if test.seconds > _SECONDS_MORE:
            slow.append(test)
    return _Ran(tier=tier, result=result, bad=bad, flaky=flaky, slow=slow)


# --- what is known of the tests ------------------------------------------------------------------------------------


class _Seen(Struct, frozen=True, kw_only=True):
    """A test in one earlier run."""

    record: Record
    test: TestResult | None  # None: the run has no such test

    @property
    def told(self) -> bool:
        """Whether the run says how the test behaves."""
        return self.test is not None and self.test.outcome is not TestOutcome.SKIPPED

    @property
    def bad(self) -> bool:
        return self.test is not None and self.test.outcome.bad


class _Past(Struct, frozen=True, kw_only=True):
    """The earlier runs of a tier, as far as they concern some of its tests. Newest first."""

    base: tuple[Record, ...] = ()  # what a failure is compared with: the base's runs, then the default branch's
    base_sha: str | None = None
    line: tuple[Record, ...] = ()  # of the default branch and of the change itself, without this commit
    here: tuple[Record, ...] = ()  # earlier runs of this very commit
    everywhere: tuple[Record, ...] = ()
    tests: Mapping[int, Mapping[str, TestResult]] = field(default_factory=dict)  # by the identity of the record

    def seen(self, records: Iterable[Record], node_id: str) -> Iterator[_Seen]:
        for record in records:
            yield _Seen(record=record, test=self.tests[id(record)].get(node_id))


def _past(history: History, tier: str, event: Event, wanted: set[str]) -> _Past:
    records = history.of(tier)
    here = [record for record in history.head if record.name == tier]
    pull = event.pull_request.number if event.pull_request is not None else None
    others = [record for record in records if record.sha != event.sha]
    trusted = [record for record in others if record.trusted]
    at_base = [record for record in others if event.base_sha is not None and record.sha == event.base_sha]
    own = [record for record in others if record.trusted or (pull is not None and record.pull_request == pull)]
    tests = {
        id(record): {
            test.node_id: test
            for test in (record.tier.result.tests if record.tier.result is not None else ())
            if test.node_id in wanted
        }
        for record in (*records, *here)
    }
    return _Past(
        base=(*at_base, *(record for record in trusted if record.sha != event.base_sha)),
        base_sha=event.base_sha,
        line=tuple(own),
        here=tuple(here),
        everywhere=records,
        tests=tests,
    )


def _compared(past: _Past, node_id: str) -> tuple[Standing, Record | None]:
    """Whether a failing test failed before the change, and by which run that is known."""
    for seen in past.seen(past.base, node_id):
        if seen.told:
            return (Standing.BEFORE if seen.bad else Standing.NEW), seen.record
        if seen.test is None and seen.record.tier.verdict in WHOLE:
            return Standing.NEW, seen.record
    return Standing.UNKNOWN, None


def _since(past: _Past, node_id: str) -> Record | None:
    """The run in which the test began to fail as it does until now; None: this one."""
    first = None
    for seen in past.seen(past.line, node_id):
        if not seen.told:
            continue
        if not seen.bad:
            break
        first = seen.record
    return first


def _flaky_runs(past: _Past, node_id: str) -> tuple[int, int]:
    """In how many of its earlier runs the test was flaky, and how many there were."""
    told = [seen.test for seen in past.seen(past.everywhere, node_id) if seen.told and seen.test is not None]
    return sum(bool(test.attempts) and not test.outcome.bad for test in told), len(told)


# --- causes --------------------------------------------------------------------------------------------------------


class _Group(Struct, kw_only=True):
    kind: str
    tests: dict[str, TestResult] = field(default_factory=dict)
    tiers: dict[str, tuple[TierVerdict, TierResult]] = field(default_factory=dict)
    places: list[tuple[str, str]] = field(default_factory=list)  # (tier, node id)


def _causes(ran: Sequence[_Ran], pasts: Mapping[str, _Past]) -> list[Cause]:
    groups = _grouped(ran)
    causes = [_cause(group, pasts) for group in groups]

    def rank(cause: Cause) -> tuple[int, int, str]:
        return _STANDINGS.index(cause.standing), -len(cause.tests), cause.tests[0].node_id

    return sorted(causes, key=rank)


def _grouped(ran: Sequence[_Ran]) -> list[_Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    known: dict[tuple[str, str], _Group] = {}  # of a test that failed so in another tier already
    for one in ran:
        for test in one.bad:
            kind = kind_of(test.message) or str(test.outcome)
            group = known.get((test.node_id, kind))
            if group is None:
                group = groups.setdefault(_key(test, kind), _Group(kind=kind))
            known.setdefault((test.node_id, kind), group)
            group.tests.setdefault(test.node_id, test)
            group.tiers.setdefault(one.name, (one.tier, one.result))
            group.places.append((one.name, test.node_id))
    return list(groups.values())


def _key(test: TestResult, kind: str) -> tuple[object, ...]:
    """What tests that fail for one cause have in common."""
    if test.outcome is TestOutcome.UNFINISHED:
        return kind, test.node_id  # each may have been all right
    place = (test.file, test.line) if test.file is not None and test.line is not None else None
    if place is not None and kind == "AssertionError":
        return kind, place  # what follows are the values
    message = skeleton(test.message) if test.message else None
    return kind, place, message, None if place or message else test.node_id


def _cause(group: _Group, pasts: Mapping[str, _Past]) -> Cause:
    # Not as they ended: which worker is faster says nothing, and the same results are to read the same.
    tests = tuple(sorted(group.tests.values(), key=lambda test: test.node_id))
    first = tests[0]
    compared: dict[str, tuple[Standing, Record | None]] = {}
    for name, node_id in group.places:
        found = _compared(pasts[name], node_id)
        compared[node_id] = min(compared.get(node_id, found), found, key=lambda one: _STANDINGS.index(one[0]))
    standings = [standing for standing, _ in compared.values()]
    standing = next(one for one in _STANDINGS if one in standings)
    tier, result = next(iter(group.tiers.values()))
    return Cause(
        tests=tests,
        tiers=tuple(group.tiers),
        kind=group.kind,
        excerpt=excerpt(first.text, first.message, file=first.file, line=first.line),
        standing=standing,
        remarks=tuple(_remarks(first, tier, result, pasts[tier.name], compared, standing)),
        rerun=rerun(tier, result, [test.node_id for test in tests]),
    )


def _remarks(
    first: TestResult,
    tier: TierVerdict,
    result: TierResult,
    past: _Past,
    compared: Mapping[str, tuple[Standing, Record | None]],
    standing: Standing,
) -> Iterator[str]:
    of_this = sum(one is standing for one, _ in compared.values())
    if len(compared) > of_this:
        others = [s for s in _STANDINGS if s is not standing and any(one is s for one, _ in compared.values())]
        counted = [f"{sum(one is s for one, _ in compared.values())} {s}" for s in others]
        yield f"of {len(compared)} tests {of_this} {standing}, {', '.join(counted)}"
    record = next((record for one, record in compared.values() if one is standing), None)
    if record is None:
        yield "no earlier run is known that could tell whether it is new"
    elif past.base_sha is not None and record.sha != past.base_sha:
        yield f"compared with {_commit(record)}: no run of the base {past.base_sha[:10]} is known"
    elif standing is Standing.NEW:
        yield f"not so at {_commit(record)}"
    if (since := _since(past, first.node_id)) is not None:
        yield f"first seen at {_commit(since)}"
    elif standing is Standing.NEW:
        yield "first seen here"
    if first.attempts:
        yield f"failed in each of {len(first.attempts) + 1} attempts"
    flaky, runs = _flaky_runs(past, first.node_id)
    if flaky:
        yield f"it was flaky in {flaky} of its last {runs} runs"
    yield from _depends(first, tier, result, past)


def _depends(test: TestResult, tier: TierVerdict, result: TierResult, past: _Past) -> Iterator[str]:
    """What the failure may depend on, and how to have it again."""
    seed = result.random_seed
    for seen in past.seen(past.here, test.node_id):
        if seen.told and not seen.bad:
            earlier = seen.record.tier.result
            other = earlier.random_seed if earlier is not None else None
            if seed is not None and other is not None and other != seed:
                yield f"it passed at this commit under seed {other}: it depends on the seed or the order of the tests"
                yield f"if it passes alone under seed {seed}, it is the order: {rerun(tier, result, tier.plan.paths)}"
            elif earlier is not None and order_words(earlier) != order_words(result):
                yield f"order-dependent, or flaky: it passed at this commit in order: {order_words(earlier)}"
            else:
                yield "it passed in another run of this commit"
            break
    if seed is not None:
        yield f"pytest-randomly's seed was {seed}"
    own = _OWN_SEED.search(test.text or "")
    if own is not None:
        yield f"failed under seed {own[1]} of its own, the same in every attempt"


def rerun(tier: TierVerdict, result: TierResult, node_ids: Sequence[str]) -> str:
    """The command that runs tests of a tier again, as it ran them, for a shell in the configuration's folder.

    ``node_ids``: or paths; where they are many, the first alone.
    """
    plan = tier.plan
    markers = ["-m", plan.markers] if plan.markers else []
    seed = [f"--randomly-seed={result.random_seed}"] if result.random_seed is not None else []
    start = ["python", "-m", "pytest", *markers, *plan.args, *seed]
    # An error of pytest's own is no test that could be named: whatever it was running may have to do with it.
    node_ids = [_without_group(node_id) for node_id in node_ids if names_tests(node_id)] or [*plan.paths]
    command = _shell([*start, *node_ids[:NAMED]])
    few = len(node_ids) <= NAMED and len(command) <= _COMMAND
    return command if few else _shell([*start, *node_ids[:1]])


def _without_group(node_id: str) -> str:
    """As pytest knows it: under `--dist loadgroup`, pytest-xdist appends `@GROUP`. No name in Python has an `@`."""
    _, colons, name = node_id.rpartition("::")
    group = name.rpartition("]")[2].rpartition("@") if colons else ("", "", "")
    return node_id[: -len(group[2]) - 1] if group[1] else node_id


def _shell(words: Iterable[str]) -> str:
    """The words for bash; a control character in a test's name is spelled out, so that it survives being copied."""
    return " ".join(
        f"$'{_CONTROL.sub(_spelled, word)}'" if _CONTROLS.search(word) else shlex.quote(word) for word in words
    )


def _spelled(found: re.Match[str]) -> str:
    character = found[0]
    return f"\\x{ord(character):02x}" if character < " " or character == "\x7f" else f"\\{character}"


def _commit(record: Record) -> str:
    day = datetime.fromtimestamp(record.time, tz=timezone.utc).strftime("%Y-%m-%d")
    return f"{record.sha[:10]} of {day}" if record.sha != NO_COMMIT else f"the run of {day}"


# --- flaky ---------------------------------------------------------------------------------------------------------


def _flakes(ran: Sequence[_Ran], pasts: Mapping[str, _Past]) -> Iterator[Flake]:
    found: dict[str, list[tuple[TierVerdict, TierResult, TestResult]]] = {}
    for one in ran:
        for test in one.flaky:
            found.setdefault(test.node_id, []).append((one.tier, one.result, test))
    for node_id, places in sorted(found.items()):
        tier, result, test = places[0]
        first = test.attempts[0]
        flaky, runs = _flaky_runs(pasts[tier.name], node_id)
        remarks = [f"passed in attempt {len(test.attempts) + 1}"]
        if runs:
            remarks.append(f"flaky in {flaky + 1} of the last {runs + 1} runs")
        if result.random_seed is not None:
            remarks.append(
                f"each attempt had pytest-randomly's seed {result.random_seed}: it depends on the order of the tests, "
                "on time or on what other tests leave behind"
            )
        yield Flake(
            test=test,
            tiers=tuple(tier.name for tier, _, _ in places),
            excerpt=excerpt(first.text, first.message),
            remarks=tuple(remarks),
            rerun=rerun(tier, result, [node_id]),
        )


# --- slow ----------------------------------------------------------------------------------------------------------


def _slowest(ran: Sequence[_Ran]) -> tuple[tuple[str, TestResult], ...]:
    tests = [(one.name, test) for one in ran for test in one.slow]
    return tuple(sorted(tests, key=lambda place: -place[1].seconds)[:SLOWEST])


def _slower(ran: Sequence[_Ran], history: History) -> list[Slowdown]:
    found = []
    for one in ran:
        candidates = {test.node_id: test.seconds for test in one.slow if test.outcome is TestOutcome.PASSED}
        before = _usual([record for record in history.of(one.name) if record.tier.verdict in WHOLE], candidates.keys())
        machine = _machine([candidates[node_id] / statistics.median(took) for node_id, took in before.items()])
        for node_id, took in before.items():
            seconds, usual = candidates[node_id] / machine, statistics.median(took)
            if seconds > max(_TIMES_USUAL * usual, _TIMES_HIGHEST * max(took), usual + _SECONDS_MORE):
                found.append(Slowdown(node_id=node_id, tier=one.name, seconds=candidates[node_id], before=usual))
    return sorted(found, key=lambda one: (one.before - one.seconds, one.node_id))[:SLOWER]


def _usual(records: Sequence[Record], wanted: Collection[str]) -> dict[str, list[float]]:
    """What each of the tests took in its newest runs, for those that have run often enough to tell."""
    seen: dict[str, list[float]] = {}
    for record in records[:SAMPLES] if wanted else ():
        for test in record.tier.result.tests if record.tier.result is not None else ():
            if test.node_id in wanted and test.outcome is TestOutcome.PASSED and test.seconds > 0:
                seen.setdefault(test.node_id, []).append(test.seconds)
    return {node_id: took for node_id, took in seen.items() if len(took) >= _SAMPLES_NEEDED}


def _machine(ratios: Sequence[float]) -> float:
    """How much slower this machine is than those before: where most tests take longer, none of them became slower."""
    return max(1.0, statistics.median(ratios)) if len(ratios) >= _TESTS_NEEDED else 1.0
