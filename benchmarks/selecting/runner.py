"""Runs a suite again and again, each time with another file changed, forking from a process that has the libraries.

    python runner.py ROOT MODULE,...      jobs as JSON lines on standard input, answers on standard output

A job is {"id", "path", "text", "tests": [node ids] or null, "limit": seconds, "args": [...]}; an answer has "failed",
"seconds" of every test that ended, "broken" (files that could not be collected) and "over" (it did not end by itself).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


class Recorder:
    """Writes one line per test as it ends; keeps only the wanted tests."""

    def __init__(self, file: int, tests: list[str] | None) -> None:
        self.file = file
        self.tests = set(tests) if tests is not None else None
        self.seconds: dict[str, float] = {}
        self.bad: set[str] = set()

    def tell(self, *words: object) -> None:
        os.write(self.file, (json.dumps(words) + "\n").encode())

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.tests is not None:
            items[:] = [item for item in items if item.nodeid in self.tests]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell("broken", report.nodeid)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell("start", nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.bad.add(report.nodeid)
        if report.when == "teardown":
            self.tell("end", report.nodeid, round(self.seconds[report.nodeid], 6), report.nodeid in self.bad)

    def pytest_sessionfinish(self) -> None:
        self.tell("finish")


def child(job: dict[str, Any], root: Path, write: int) -> None:
    import pytest

    os.chdir(root)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    recorder = Recorder(write, job.get("tests"))
    pytest.main(["-q", "-p", "no:cacheprovider", "--tb=no", *job.get("args", ())], plugins=[recorder])
    os._exit(0)


def answer(job: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run one job in a child with a limit, and put the file back."""
    path = root / job["path"] if job.get("path") else None
    before = path.read_bytes() if path is not None else b""
    if path is not None:
        path.write_text(job["text"], encoding="utf-8")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(read)
        try:
            child(job, root, write)
        finally:
            os._exit(1)
    os.close(write)
    os.set_blocking(read, False)
    told = b""
    until = time.monotonic() + job["limit"]
    over = True
    while time.monotonic() < until:
        try:
            chunk = os.read(read, 1 << 16)
        except BlockingIOError:
            time.sleep(0.005)
            continue
        if not chunk:
            over = False
            break
        told += chunk
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    if path is not None:
        path.write_bytes(before)
    seconds: dict[str, float] = {}
    failed: list[str] = []
    broken: list[str] = []
    running: str | None = None
    finished = False
    for line in told.split(b"\n")[:-1]:
        word, *rest = json.loads(line)
        if word == "start":
            running = rest[0]
        elif word == "end":
            running = None
            seconds[rest[0]] = rest[1]
            if rest[2]:
                failed.append(rest[0])
        elif word == "broken":
            broken.append(rest[0])
        else:
            finished = True
    if running is not None:
        failed.append(running)
        seconds[running] = job["limit"]
    over = over or not finished
    return {"id": job["id"], "failed": failed, "seconds": seconds, "broken": broken, "over": over}


def main() -> None:
    root = Path(sys.argv[1])
    sys.dont_write_bytecode = True
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for module in filter(None, sys.argv[2].split(",")):
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), root)), flush=True)


if __name__ == "__main__":
    main()
