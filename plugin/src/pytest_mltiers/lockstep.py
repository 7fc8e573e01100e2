"""One side of a comparison: runs benchmarks only when it is told to, one at a time, and says what each took.

Loaded with ``-p pytest_mltiers.lockstep`` by ``orchestrator/tools/lockstep.py``, which starts two pytests, one on the
base commit's source and one on the head's, and gives them turns. ``MLTIERS_LOCKSTEP`` names the two ends of pipes to
it: ``READ,WRITE``. One JSON object a line; first comes the task::

    {"watch": [NAME, ...], "roots": [FOLDER, ...], "move": [FROM, TO] or null, "rounds": false}

``watch``: top-level modules whose files are reported, beside every module that lies in one of ``roots``. ``move``: what
the interpreter would import from the folder FROM (an editable install of the project) is imported from TO. Then
``{"run": NODE_ID, "next": NODE_ID or null}``, answered when it has run, and ``{"end": true}``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import pytest

VARIABLE = "MLTIERS_LOCKSTEP"
ROUNDS = 200  # at most so many of a visit's rounds are told, where they are asked for
_MESSAGE = 2000


class Link:
    """The two pipes to the driver."""

    def __init__(self, reading: IO[str], writing: IO[str]) -> None:
        self._reading = reading
        self._writing = writing

    @classmethod
    def open(cls, variable: str) -> Link:
        """The link that the environment variable's value names. Raises ValueError, OSError."""
        reading, writing = (int(number) for number in variable.split(","))
        return cls(os.fdopen(reading, encoding="utf-8"), os.fdopen(writing, "w", encoding="utf-8"))

    def send(self, **message: Any) -> None:
        self._writing.write(json.dumps(message) + "\n")
        self._writing.flush()

    def receive(self) -> dict[str, Any]:
        """The next message; ``{"end": True}`` when the driver has gone."""
        line = self._reading.readline()
        return json.loads(line) if line else {"end": True}


class Lockstep:
    """The pytest plugin proper."""

    def __init__(self, link: Link, task: dict[str, Any]) -> None:
        self._link = link
        self._task = task
        self._uncollected: dict[str, str] = {}
        self._reports: list[pytest.TestReport] = []
        self._fixture: Any = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._uncollected[report.nodeid] = str(report.longreprtext)[-_MESSAGE:]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items if "benchmark" in getattr(item, "fixturenames", ())}
        self._link.send(
            collected=list(items),
            files={node_id: str(item.path) for node_id, item in items.items()},
            conftests=_conftests(session.config),
            uncollected=self._uncollected,
            modules=self._modules(),
        )
        while not (message := self._link.receive()).get("end"):
            following = items.get(message["next"]) if message["next"] != message["run"] else None
            item = items[message["run"]]
            # Without a next test everything would be torn down, fixtures of the module and the session too.
            self._run(item, following if following is not None else item.parent)
        self._link.send(modules=self._modules())
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.when == "call":  # the item forgets its fixtures when it is torn down
            self._fixture = getattr(item, "funcargs", {}).get("benchmark")

    def _run(self, item: pytest.Item, following: Any) -> None:
        self._reports.clear()
        self._fixture = None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        bad = next((report for report in self._reports if report.failed), None)
        stats = getattr(getattr(self._fixture, "stats", None), "stats", None)
        told: dict[str, Any] = {"test": item.nodeid}
        if bad is not None:
            told["problem"] = str(bad.longreprtext)[-_MESSAGE:]
        elif stats is None or not getattr(stats, "data", None):
            skipped = any(report.skipped for report in self._reports)
            told["problem"] = "it was skipped" if skipped else "it measured nothing"
        else:
            told |= {"minimum": stats.min, "mean": stats.mean, "count": len(stats.data)}
            if self._task.get("rounds"):
                told["rounds"] = list(stats.data[:ROUNDS])
        self._link.send(**told)

    def _modules(self) -> dict[str, str]:
        """The files of the modules that could be the project's."""
        roots = tuple(f"{root}{os.sep}" for root in self._task["roots"])
        watched = set(self._task["watch"])
        found = {}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str):
                continue
            real = os.path.realpath(file)
            if real.startswith(roots) or name.partition(".")[0] in watched:
                found[name] = real
        return found


def _conftests(config: pytest.Config) -> list[str]:
    files = (getattr(plugin, "__file__", None) for plugin in config.pluginmanager.get_plugins())
    return sorted(str(file) for file in files if file and Path(file).name == "conftest.py")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """The earliest hook there is: before any conftest is imported."""
    link = Link.open(os.environ.pop(VARIABLE))
    task = link.receive()
    if task.get("move"):
        redirect(*task["move"])
    pluginmanager.register(Lockstep(link, task), "pytest_mltiers.lockstep:side")


def redirect(source: str, target: str) -> None:
    """Import from ``target`` what the interpreter would import from ``source``: entries of ``sys.path`` (a ``.pth`` of
    an editable install, PYTHONPATH) and the tables of the editable finders of setuptools and of ``editables``.

    What has no counterpart in ``target``, such as a virtual environment inside the project, stays where it is.
    """
    sys.path[:] = [_moved(entry, source, target) for entry in sys.path]
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        for table in (getattr(module, "MAPPING", None), getattr(finder, "_redirections", None)):
            if isinstance(table, dict):
                for name, path in table.items():
                    if isinstance(path, str):
                        table[name] = _moved(path, source, target)


def _moved(path: str, source: str, target: str) -> str:
    real = Path(path).resolve()
    if not path or not real.is_relative_to(source) or real.is_relative_to(target):
        return path
    counterpart = Path(target, real.relative_to(source))
    return str(counterpart) if counterpart.exists() else path
