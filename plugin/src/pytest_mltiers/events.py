"""Streams a test session as it happens: one JSON line per event, written by the process that knows it first.

A worker of pytest-xdist writes what its tests do, so that nothing is lost where the controller hangs or dies; the
controller writes what only it knows: that a worker died. The plugin's README describes every line.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

import pytest

from pytest_mltiers import EVENTS_VARIABLE, EVENTS_VERSION, __version__, junit
from pytest_mltiers.cuda import cuda_use
from pytest_mltiers.reports import describe, is_part, one_line, text_of
from pytest_mltiers.stream import EventStream

_PHASES = frozenset(("setup", "call", "teardown"))

_PASSED = {phase: f',"phase":"{phase}","outcome":"passed","seconds":' for phase in _PHASES}
_HELD = 1_000
"""Microseconds of a setup, or of a teardown that another test follows at once, that is told of together with what comes
next: half of what the stream costs a short test. That the test began is told before it, and that its call passed before
its teardown: that is what is known of a process that dies in one of them."""

_quoted = encode_basestring_ascii  # a string as JSON, in ASCII


class EventsWarning(pytest.PytestWarning):
    """The event stream had to stop; the tests go on."""


def start(config: pytest.Config, path: str) -> None:
    """Registers the stream to ``path`` with this pytest session."""
    stream = EventStream(path, lambda reason: _warn(config, reason))
    config.pluginmanager.register(SessionEvents(config, stream, path), "pytest_mltiers.events")


def _warn(config: pytest.Config, reason: str) -> None:
    # Handed to pytest's summary directly. warnings.warn would become an exception under `-W error`, and would land in
    # the `recwarn` of the test that happens to run.
    message = warnings.WarningMessage(EventsWarning(reason), EventsWarning, __file__, 0)
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={"warning_message": message, "when": "runtest", "nodeid": "", "location": None}
    )


class SessionEvents:
    """What every process of a session tells: that it began and ended, and what went wrong in pytest itself."""

    def __init__(self, config: pytest.Config, stream: EventStream, path: str) -> None:
        self.config = config
        self.stream = stream
        self.path = path
        workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.workerinput = workerinput
        self.worker: str = workerinput["workerid"] if workerinput is not None else "main"

    def write(self, event: str, **fields: object) -> None:
        """Appends one event of this process, now."""
        self.stream.write({"event": event, "time": self.stream.now(), "worker": self.worker, **fields})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        controls = self.config.pluginmanager.hasplugin("dsession")
        seed = self.config.getoption("randomly_seed", None)
        self.write(
            "session",
            version=EVENTS_VERSION,
            pid=os.getpid(),
            python=".".join(map(str, sys.version_info[:3])),
            pytest=pytest.__version__,
            plugin=__version__,
            rootdir=str(self.config.rootpath),
            xdist=self._workers() if controls or self.workerinput else 0,
            **({"randomly_seed": seed} if isinstance(seed, int) else {}),
        )
        if self.workerinput is None:
            junit.start(self.config)
        events = WorkerEvents(self) if controls else TestEvents(self)
        self.config.pluginmanager.register(events, "pytest_mltiers.events.session")

    def _workers(self) -> int:
        if self.workerinput is not None:
            return int(self.workerinput["workercount"])
        specs: Sequence[str] = self.config.getoption("tx", None) or ()
        return sum(int(count) if count.isdecimal() else 1 for count in (spec.partition("*")[0] for spec in specs))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[EVENTS_VARIABLE] = os.fsencode(self.path)

    def pytest_internalerror(self, excrepr: object) -> None:
        text = text_of(excrepr)
        last = text.rstrip().rpartition("\n")[2]
        self.write("internal-error", message=one_line(last), text=text)

    # Around everything else that runs at the end, so that this line says: the result files are written.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
        yield
        measured: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.gpus.peaks")
        earlier = () if measured is None else (measured.highest,)
        if (gpu := cuda_use(sys.modules.get("torch"), earlier)) is not None:
            self.write("gpu", **gpu)
        self.write("end", exitstatus=int(getattr(session, "exitstatus", exitstatus)), failed=session.testsfailed)

    def pytest_unconfigure(self) -> None:
        self.stream.close()
        if self.workerinput is None:
            os.environ[EVENTS_VARIABLE] = self.path


class TestEvents:
    """What a process that runs tests tells of them: xdist's workers, and a pytest without xdist."""

    __test__ = False

    def __init__(self, session: SessionEvents) -> None:
        self.session = session
        self.stream = session.stream
        self.worker = session.worker
        self.root = str(session.config.rootpath)
        self.alone = session.workerinput is None  # one of xdist's workers may wait long before its next test
        self.attempts: dict[str, int] = {}
        self.deselected = 0
        self.running = self.about = ""  # the running test, and what every line of it says
        self.began = self.told = self.stream.microseconds()  # its start, and its last event
        self.ahead: list[pytest.TestReport] = []  # told of before pytest logs them

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        nodeid = collector.nodeid
        if nodeid not in ("", ".") and "::" not in nodeid:
            self.session.write("collecting", nodeid=nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            event = "collect-error" if report.failed else "collect-skip"
            self.session.write(event, nodeid=report.nodeid, **self._described(report))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.deselected += len(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.session.write("collected", count=len(session.items), deselected=self.deselected)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, None, None]:
        yield
        self.stream.flush()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.ahead.clear()
        self.begin(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.ahead or not any(report is told for told in self.ahead):
            self._tell(report)

    def tell_ahead(self, report: pytest.TestReport) -> None:
        """Tells of a report that pytest logs later, or never."""
        self.ahead.append(report)
        self._tell(report)

    def tried_again(self, nodeid: str) -> None:
        """Tells that the attempt that just ended failed, and is followed by another."""
        attempt = self.attempts.get(nodeid, 1)
        self.session.write("retry", nodeid=nodeid, attempt=attempt)

    def begin(self, nodeid: str) -> None:
        """Tells that an attempt at a test begins."""
        attempt = self.attempts.get(nodeid, 0) + 1
        self.attempts[nodeid] = attempt
        self.running = nodeid
        self.about = about = f'"worker":{_quoted(self.worker)},"nodeid":{_quoted(nodeid)},"attempt":{attempt}'
        self.began = self.told = now = self.stream.microseconds()
        self.stream.append(f'{{"event":"start","time":{now}e-6,{about}}}\n')

    def _tell(self, report: pytest.TestReport) -> None:
        now = self.stream.microseconds()
        took = report.duration * 1e6
        if not 0.0 <= took <= now - self.began + 1e6:
            took = now - self.told  # freezegun stops pytest's own clock, and sets it to other years
        self.told = now
        nodeid, phase = report.nodeid, report.when
        passed = _PASSED.get(phase) if report.outcome == "passed" and type(report) is pytest.TestReport else None
        if passed and nodeid == self.running and not report.longrepr and not hasattr(report, "wasxfail"):
            # What most lines say, without a dictionary and an encoder: it is there three times for every test.
            line = f'{{"event":"phase","time":{now}e-6,{self.about}{passed}{took:.0f}e-6}}\n'
            if took < _HELD and (phase == "setup" or (phase == "teardown" and self.alone)):
                self.stream.hold(line)
            else:
                self.stream.append(line)
            return
        fields: dict[str, object] = {
            "event": "subtest" if is_part(report) else "phase",
            "time": now / 1e6,
            "worker": self.worker,
            "nodeid": nodeid,
            "attempt": self.attempts.get(nodeid, 1),
            "phase": phase,
            "outcome": report.outcome,
            "seconds": round(took) / 1e6,
        }
        if report.longrepr or hasattr(report, "wasxfail"):
            fields.update(self._described(report))
        self.stream.write(fields)

    def _described(self, report: pytest.TestReport | pytest.CollectReport) -> dict[str, object]:
        try:
            return describe(report, root=self.root, here=str(self.session.config.invocation_params.dir))
        except Exception as error:  # noqa: BLE001 -- a longrepr is any object a plugin likes
            return {"message": f"its report cannot be read: {error!r}"}


class WorkerEvents:
    """What only xdist's controller knows: that a worker died, and what it was running."""

    def __init__(self, session: SessionEvents) -> None:
        self.session = session

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        if error and error != "keyboard-interrupt":
            self.crashed(node, None, one_line(str(error)), rerun=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when not in _PHASES:  # xdist's own report: a worker died in this test
            message = one_line(text_of(report.longrepr))
            self.crashed(getattr(report, "node", None), report.nodeid, message, rerun=report.outcome != "failed")

    def crashed(self, node: Any, nodeid: str | None, message: str, *, rerun: bool) -> None:
        """Tells that a worker died. ``rerun``: what it ran is tried again."""
        worker = getattr(getattr(node, "gateway", None), "id", "?")
        fields = {"event": "crash", "time": self.session.stream.now(), "worker": worker, "nodeid": nodeid}
        self.session.stream.write({**fields, "message": message, **({"rerun": True} if rerun else {})})
