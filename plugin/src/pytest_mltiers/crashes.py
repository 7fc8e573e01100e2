"""Tries a test again whose xdist worker died while it ran, in another worker, within the same number of retries.

To the rest of pytest it stays one test, as in :mod:`pytest_mltiers.retries`: the crash is reported only if no other
attempt follows, and the event stream hears of it at once. How often a test was tried already is kept in files, because
those who know it die. xdist's distributions `load` and `worksteal` (and ours) can hand out a test a second time; `each`
and those by groups cannot, and there the crash is the test's failure.

xdist itself does not count a crash towards `-x` and `--maxfail`; a retry that fails is counted. A retry that the end of
the session prevents, also one of pytest-rerunfailures, leaves the crash as the test's failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mltiers.reports import is_part

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = "mltiers_attempts"
"""The attribute of a test's report that holds its earlier attempts."""

LEDGER = "mltiers_ledger"
"""What a worker is told of where they are written down."""

Told = dict[str, str]


class Ledger:
    """What the failed attempts at each test said, for processes that may die at any moment: a small file for each."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self, nodeid: str) -> list[Told]:
        """Earlier attempts, oldest first."""
        with contextlib.suppress(OSError, ValueError), open(self._path(nodeid), encoding="ascii") as file:  # noqa: PTH123
            return list(json.load(file))
        return []

    def write(self, nodeid: str, told: Sequence[Told]) -> None:
        """All of them. A disk that is full costs what they said, and a test may be tried more often."""
        path = self._path(nodeid)
        with contextlib.suppress(OSError):
            with open(f"{path}.{os.getpid()}", "w", encoding="ascii") as file:  # noqa: PTH123
                json.dump(list(told), file)
            os.replace(file.name, path)  # noqa: PTH105

    def _path(self, nodeid: str) -> str:
        name = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.folder}/{name}"


class Crashes:
    """The hooks of xdist's controller."""

    def __init__(self, config: pytest.Config, retries: int) -> None:
        self.config = config
        self.retries = retries
        self.folder = tempfile.TemporaryDirectory(prefix="mltiers-attempts-", ignore_cleanup_errors=True)
        self.ledger = Ledger(self.folder.name)
        self.reported: set[str] = set()
        self.waiting: dict[str, Any] = {}  # crashed, to be tried again, without a result since: node id → the worker
        self.over = False
        self.earlier: dict[str, list[Told]] = {}
        self.fail: Callable[[str, Any], None] | None = None  # xdist's own

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[LEDGER] = self.folder.name

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self) -> Generator[None, None, None]:
        session: Any = self.config.pluginmanager.get_plugin("dsession")
        # xdist's hook (pytest_handlecrashitem) can change the report of a crash, but not withhold it: then JUnit would
        # have a second case, without an outcome.
        self.fail = getattr(session, "handle_crashitem", None)
        if self.fail is not None:
            session.handle_crashitem = self._crashed
            session.worker_collectionfinish = self._known_only(session, session.worker_collectionfinish)
        try:
            yield
        finally:
            self.over = True
            for nodeid, node in list(self.waiting.items()):  # no worker was left for it, or the session was stopped
                self._give_up(nodeid, node)

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """After pytest-rerunfailures, which promises another try, whether or not a worker is left for it."""
        if report.outcome == "rerun" and self.over:
            report.outcome = "failed"
        elif report.outcome == "rerun":
            self.waiting[crashitem] = report.node

    def pytest_unconfigure(self) -> None:
        self.folder.cleanup()

    @staticmethod
    def _known_only(session: Any, collected: Callable[..., None]) -> Callable[..., None]:
        """Keeps from the scheduler what a worker collected that it was never given.

        A worker that comes when every test is given away is told to end. If another one dies before it has collected,
        xdist goes on, and its scheduler raises for a worker that it does not know.
        """

        def finished(node: Any, ids: Sequence[str]) -> None:
            if node in session.sched.nodes:
                collected(node=node, ids=ids)

        return finished

    def _crashed(self, nodeid: str, node: Any) -> None:
        told = [*self.ledger.read(nodeid), {"message": _message(nodeid, node), "text": ""}]
        if len(told) > self.retries or nodeid in self.reported or not self._may_go_on(nodeid):
            self._give_up(nodeid, node)
            return
        try:
            self.ledger.write(nodeid, told)
            self.config.pluginmanager.get_plugin("dsession").sched.mark_test_pending(nodeid)  # type: ignore[union-attr]
        except NotImplementedError:
            self._give_up(nodeid, node)
            return
        self.waiting[nodeid], self.earlier[nodeid] = node, told
        events: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.events.session")
        if events is not None:
            events.crashed(node, nodeid, told[-1]["message"], rerun=True)

    def _may_go_on(self, nodeid: str) -> bool:
        """Whether there will be a worker for it, and nobody else who tries it again."""
        session: Any = self.config.pluginmanager.get_plugin("dsession")
        most = getattr(session, "_max_worker_restart", None)
        if most is not None and getattr(session, "_failed_nodes_count", 0) >= most:
            return False
        if session.shouldstop or getattr(session, "countfailures", 0) >= (session.maxfail or float("inf")):
            return False
        option = self.config.option
        asked = ("reruns", "force_reruns", "force_flaky")
        others: Any = getattr(self.config, "failures_db", None)  # pytest-rerunfailures', with what markers say
        return not any(getattr(option, name, None) for name in asked) and not (
            others is not None and others.get_test_reruns(nodeid)
        )

    def _give_up(self, nodeid: str, node: Any) -> None:
        self.waiting.pop(nodeid, None)
        if self.fail is not None:
            self.fail(nodeid, node)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        nodeid = report.nodeid
        self.reported.add(nodeid)
        if is_part(report) or report.outcome == "rerun" or (report.passed and report.when != "call"):
            return  # not the result
        self.waiting.pop(nodeid, None)
        earlier = self.earlier.pop(nodeid, None)
        if earlier is None:
            return
        if report.passed:
            setattr(report, ATTEMPTS, [*earlier, *getattr(report, ATTEMPTS, ())])
            return
        if report.skipped:  # or expected to fail: that does not undo the crash before it
            report.outcome, report.longrepr = "failed", earlier[-1]["message"]
            vars(report).pop("wasxfail", None)
        lines = [f"attempt {number} failed: {one['message']}" for number, one in enumerate(earlier, 1)]
        report.sections.append(("Attempts before, in workers that died", "\n".join(lines)))


def _message(nodeid: str, node: Any) -> str:
    return f"worker {node.gateway.id!r} crashed while running {nodeid!r}"
