"""Tries failed tests again, as often as it is told, and keeps every attempt.

To the rest of pytest a test that is tried again is one test: nothing of an attempt is reported while another may follow
it, so that a JUnit file has one case, ``-x`` and ``--maxfail`` count one failure, and no total counts a test twice. The
event stream hears of every attempt at once. A test that failed first and passed then is called `flaky` in pytest's own
summary, with its first traceback, and never simply passed.

An attempt has function-scoped fixtures, an instance of its class and a limit of its own. Fixtures of a wider scope stay
as they are, wherever in its module the test stands; one that could not be set up is set up again. Seeds are the same in
every attempt: what fails because of its seed fails again.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

from pytest_mltiers import RETRIES_VARIABLE
from pytest_mltiers.crashes import ATTEMPTS, LEDGER, Crashes, Ledger
from pytest_mltiers.reports import describe, is_part, is_strict_pass

if TYPE_CHECKING:
    from pytest_mltiers.events import TestEvents

_OUTCOMES = (Exception, pytest.fail.Exception, pytest.skip.Exception)  # what pytest takes for the outcome of a test


def start(config: pytest.Config, retries: str) -> None:
    """Has this session try a failed test again up to ``retries`` times. Raises pytest.UsageError."""
    if not retries.isdecimal():
        raise pytest.UsageError(f"{RETRIES_VARIABLE}={retries}: not a number of retries")
    if not int(retries) or config.getoption("usepdb", False):
        return
    config.pluginmanager.register(Retries(config, int(retries)), "pytest_mltiers.retries")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FlakySummary(config), "pytest_mltiers.retries.summary")
        if config.getoption("tx", None) or config.getoption("numprocesses", None):
            config.pluginmanager.register(Crashes(config, int(retries)), "pytest_mltiers.retries.crashes")


class Retries:
    """The hooks of a process that runs tests."""

    def __init__(self, config: pytest.Config, retries: int) -> None:
        self.config = config
        self.retries = retries
        self.broken: dict[Any, Any] = {}  # fixture wider than one test that could not be set up → the request for it
        self.again: Counter[object] = Counter()  # how often such a fixture was given another try
        self.left: set[str] = set()  # to whom tests were left
        folder = getattr(config, "workerinput", {}).get(LEDGER)
        self.ledger = Ledger(folder) if folder else None
        self.before: list[dict[str, str]] | None = (
            None  # attempts at the running test whose workers died; None: not read
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[RETRIES_VARIABLE] = str(self.retries)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Runs the test until it does not fail or may not be tried again, and reports it as one test."""
        other = _taken_by(item)
        if other is not None:
            self._leave_to(other)
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._run(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """The reports of the attempt that counts, with what the others before it said."""
        events: TestEvents | None = self.config.pluginmanager.get_plugin("pytest_mltiers.events.session")
        state = _State(item)
        attempts: list[Attempt] = []
        self.before = None
        while True:
            attempt = Attempt(self, item, nextitem, events, tries=len(attempts) + 1)
            try:
                attempt.run()
            except BaseException:  # the session is being ended from within the test: what is known goes out
                for report in (attempts[-1] if attempts else attempt).reports:
                    item.ihook.pytest_runtest_logreport(report=report)
                raise
            if attempts and not (attempt.failed or attempt.passed):
                break  # skipped, or expected to fail: that does not undo the failure before it
            attempts.append(attempt)
            if not attempt.repeats:
                break
            if self.ledger is not None:  # should this process die in the next one
                told = [*self._before(item.nodeid), *(attempt.told() for attempt in attempts)]
                self.ledger.write(item.nodeid, told)
            if events is not None:
                events.tried_again(item.nodeid)
            state.restore(tries=len(attempts) + 1)
        *earlier, last = attempts
        last.remember(earlier)
        return last.reports

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, None]:
        done = yield
        if done.excinfo is not None and fixturedef.scope != "function":
            self.broken[fixturedef] = request

    def may_repeat(self, attempt: Attempt) -> bool:
        """Whether a failed attempt is followed by another."""
        session = attempt.item.session
        tries = attempt.tries + len(self._before(attempt.item.nodeid))
        if tries > self.retries or session.shouldstop or session.shouldfail:
            return False
        if any(is_strict_pass(report) for report in attempt.reports):
            return False  # it did not fail: it passed, which nobody expected
        # A fixture of a wider scope that cannot be set up costs every test that uses it: it is not tried for each.
        return all(self.again[fixture, self.broken[fixture].node] < self.retries for fixture in attempt.victim_of())

    def _before(self, nodeid: str) -> list[dict[str, str]]:
        if self.before is None:
            self.before = self.ledger.read(nodeid) if self.ledger is not None else []
        return self.before

    def _leave_to(self, other: str) -> None:
        events: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.events")
        if events is not None and other not in self.left:
            events.write("left", plugin=other)
        self.left.add(other)


class Attempt:
    """One attempt at a test. Its reports are held back."""

    def __init__(
        self,
        retries: Retries,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        events: TestEvents | None,
        *,
        tries: int,
    ) -> None:
        self.retries = retries
        self.item = item
        self.nextitem = nextitem
        self.events = events
        self.tries = tries  # which attempt this is, from 1
        self.reports: list[pytest.TestReport] = []
        self.errors: list[BaseException] = []
        self.repeats = False

    @property
    def failed(self) -> bool:
        return any(report.failed for report in self.reports)

    @property
    def passed(self) -> bool:
        """Whether the test's own code ran to a good end."""
        return not self.failed and any(r.when == "call" and r.passed and not is_part(r) for r in self.reports)

    def run(self) -> None:
        session = self.item.session
        original = session.gethookproxy
        session.gethookproxy = lambda fspath: _Hooks(original(fspath), self)  # type: ignore[method-assign,assignment]
        try:
            if self.tries > 1 and self.events is not None:
                self.events.begin(self.item.nodeid)
            runtestprotocol(self.item, nextitem=self.nextitem)
        finally:
            del session.gethookproxy  # type: ignore[method-assign]
        if self.failed and not self.repeats:
            self.repeats = self.retries.may_repeat(self)
        if self.repeats:
            self._mend_fixtures()

    def take(self, report: pytest.TestReport) -> None:
        """A report that would have been logged."""
        self.reports.append(report)
        if self.events is not None:
            self.events.tell_ahead(report)

    def next_for_teardown(self, nextitem: pytest.Item | None) -> pytest.Item | None:
        """What pytest is to believe comes next, when it decides which fixtures to tear down."""
        if not self.failed or not self.retries.may_repeat(self):
            return nextitem
        self.repeats = True
        return copy.copy(self.item)  # another test of the same class: what is wider than one test stays

    def victim_of(self) -> list[Any]:
        """The fixtures of a wider scope that made this attempt fail: pytest remembers how the setup of each failed."""
        raised = [error for one in self.errors for error in _chain(one)]
        return [fixture for fixture in self.retries.broken if any(_failure_of(fixture) is error for error in raised)]

    def _mend_fixtures(self) -> None:
        """Has fixtures of a wider scope whose setup failed set up again."""
        for fixture in self.victim_of():
            request = self.retries.broken.pop(fixture)
            self.retries.again[fixture, request.node] += 1
            with contextlib.suppress(*_OUTCOMES):  # of an attempt that has failed anyway
                fixture.finish(request)

    def remember(self, earlier: Iterable[Attempt]) -> None:
        """Puts what the attempts before this one said into its reports."""
        told = [attempt.told() for attempt in earlier]
        if not told:
            return
        failed = next((report for report in self.reports if report.failed), None)
        if failed is not None:
            failed.sections.append(("Attempts", _words(told)))
            return
        for report in self.reports:
            if report.when == "call" and not is_part(report):
                setattr(report, ATTEMPTS, told)

    def told(self) -> dict[str, str]:
        """What this failed attempt said, as strings: they travel to xdist's controller."""
        root, here = str(self.item.config.rootpath), str(self.item.config.invocation_params.dir)
        described = [describe(report, root=root, here=here) for report in self.reports if report.failed]
        first = described[0]
        texts = [str(one["text"]) for one in described if one.get("text")]
        return {"message": str(first.get("message") or ""), "text": "\n\n".join(texts[:3])}


class _Hooks:
    """The hooks of the test's own file, but for those an attempt keeps to itself."""

    def __init__(self, hooks: Any, attempt: Attempt) -> None:
        self._hooks = hooks
        self._attempt = attempt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)

    def pytest_runtest_makereport(self, *, item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
        if call.excinfo is not None:
            self._attempt.errors.append(call.excinfo.value)
        return self._hooks.pytest_runtest_makereport(item=item, call=call)

    def pytest_runtest_logreport(self, *, report: pytest.TestReport) -> None:
        self._attempt.take(report)

    def pytest_runtest_teardown(self, *, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        return self._hooks.pytest_runtest_teardown(item=item, nextitem=self._attempt.next_for_teardown(nextitem))


class _State:
    """What an attempt leaves on its item, put back for the next."""

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.markers = list(item.own_markers)
        self.properties = list(item.user_properties)

    def restore(self, *, tries: int) -> None:
        item: Any = self.item
        item.own_markers[:] = self.markers  # one may have been added by a fixture
        item.user_properties[:] = [*self.properties, ("attempts", str(tries))]
        item._report_sections.clear()
        vars(item).pop("_excinfo", None)  # of unittest: a second error is still there
        _forget_parts(item)
        parent = item.parent
        named = getattr(item, "originalname", None)
        if isinstance(item, pytest.Function) and isinstance(parent, pytest.Class) and hasattr(parent.obj, str(named)):
            vars(item).pop("_instance", None)
            item._obj = None  # the method of the old instance


def _forget_parts(item: pytest.Item) -> None:
    """pytest 9 counts the failed parts of a test, and lets it fail for them at the end."""
    try:
        from _pytest.subtests import failed_subtests_key  # noqa: PLC0415 -- not there before pytest 9
    except ImportError:
        return
    counts: Any = item.config.stash.get(failed_subtests_key, {})
    for key in (getattr(item, "id", None), item.nodeid):
        counts.pop(key, None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _failure_of(fixture: Any) -> BaseException | None:
    """The exception that pytest raises for every test that asks for the fixture."""
    known = fixture.cached_result[2] if fixture.cached_result is not None else None
    told = known if isinstance(known, tuple) else (known,)  # pytest 8.0 to 8.2 keep it without its traceback
    return next((one for one in told if isinstance(one, BaseException)), None)


def _taken_by(item: pytest.Item) -> str | None:
    """The plugin that tries this test again itself, because somebody asked it to."""
    option = item.config.option
    marked = item.get_closest_marker("flaky") is not None
    if hasattr(option, "reruns"):
        asked = option.reruns or getattr(option, "force_reruns", None) or _ini(item.config, "reruns")
        if marked or asked:
            return "pytest-rerunfailures"
    if hasattr(option, "force_flaky"):
        decorated = getattr(getattr(item, "obj", None), "_flaky_max_runs", None) is not None
        if marked or decorated or option.force_flaky:
            return "flaky"
    if hasattr(option, "retries") and (marked or option.retries):
        return "pytest-retry"
    if getattr(option, "forked", False) or item.get_closest_marker("forked") is not None:
        return "pytest-forked"
    return None


def _ini(config: pytest.Config, name: str) -> object:
    try:
        return config.getini(name)
    except (KeyError, ValueError):
        return None


def _words(told: list[dict[str, str]]) -> str:
    lines = [f"attempt {number} failed: {attempt['message']}" for number, attempt in enumerate(told, 1)]
    return "\n".join([*lines, f"attempt {len(told) + 1} failed as shown above"])


class FlakySummary:
    """What pytest itself says of flaky tests: in the process that speaks, which under xdist is the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.flaky: list[tuple[str, list[dict[str, str]]]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        if not getattr(report, ATTEMPTS, None):
            return None
        return "flaky", "R", ("FLAKY", {"yellow": True})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        attempts = getattr(report, ATTEMPTS, None)
        if attempts:
            self.flaky.append((report.nodeid, attempts))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.flaky:
            return
        terminalreporter.section("FLAKY: failed first, and passed when tried again")
        for nodeid, attempts in self.flaky:
            terminalreporter.write_sep("_", f"{nodeid}: attempt 1 of {len(attempts) + 1}", yellow=True)
            first = attempts[0]
            shown = first["message"] if self.config.getoption("tbstyle", "auto") in ("no", "line") else first["text"]
            terminalreporter.write_line(shown or first["message"])
