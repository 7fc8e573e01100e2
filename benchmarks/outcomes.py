"""Whether suites end under warm workers as they do under plain ones, test by test: real projects, pytest-xdist's own.

    python benchmarks/outcomes.py [NAME==VERSION:TESTS[+NEED,...] ...]          prints the table of benchmarks/speed.md

Each project's source distribution is downloaded and unpacked; its tests run as two tiers of `mltiers run`, with two
plain workers and with two that are forked (`warm: true`). ``TESTS`` is a path in it, ``NEED`` what its tests need
beside it. Without arguments: three projects that need nothing, and pytest-xdist's tests of itself.

pytest-xdist's tests start pytests of their own, a hundred of them, which no front door of ours sees: there, every such
pytest is started as a warm tier starts it, with NumPy imported by the copy that its workers are forked from. Each of
those says whether it was forked. They run under pytest 8.4.1, of pytest-xdist's time.

Ends with 1 if a test ended otherwise that does not race, and also if there were no tests or nothing was forked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "plugin" / "src"
MLTIERS = str(Path(sys.executable).parent / "mltiers")
DEFAULT = ("click==8.5.1:tests", "more-itertools==11.2.1:tests", "toolz==1.0.0:toolz", "pytest-xdist==3.8.0:testing")
XDIST = "pytest-xdist==3.8.0"
TOOLS = ("pytest==9.2.0", XDIST)
XDISTS_TOOLS = ("pytest==8.4.1", XDIST, "numpy", "filelock", "psutil", "setproctitle")
# They fail now and then under plain workers, too: two want gw0 to be ready first, one that workers crash in turn.
RACES = (
    "::test_workqueue_ordered_by_input",
    "::test_workqueue_ordered_by_size",
    "::test_max_worker_restart_tests_queued",
)
START = str(PLUGIN / "pytest_mltiers" / "warm" / "start.py")
CONFIG = """version: 1
tiers:
  plain: {{paths: [{tests}], when: [push], budget: 20m, workers: 2, warm: false}}
  warm: {{paths: [{tests}], when: [push], budget: 20m, workers: 2, warm: true}}
"""
# Loaded with -p in pytest-xdist's suite: the pytests that it starts are forked, each with an order of its own.
FORKING = f"""
import itertools, json, os, sys
from _pytest.pytester import Pytester

numbers = itertools.count()

def _getpytestargs(self):
    order = os.path.join(os.environ["ORDERS"], f"{{os.getpid()}}-{{next(numbers)}}.json")
    with open(order, "w") as file:
        json.dump({{"modules": [], "later": ["numpy"]}}, file)
    return (sys.executable, {START!r}, order, "--", "-p", "pytest_mltiers", "-p", "forked")

Pytester._getpytestargs = _getpytestargs
"""
# Loaded with -p in those: each of their workers says whether it was forked.
FORKED = """
import os, sys

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        with open(os.environ["WORKERS"], "a") as file:
            file.write("forked\\n" if "_mltiers_warm" in sys.modules else "plain\\n")
"""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The outcome of each test both ways, whether anything was forked in the warm run, and what was said of it."""

    plain: Mapping[str, str]
    warm: Mapping[str, str]
    forked: bool
    said: str

    def different(self) -> list[str]:
        """The tests that ended otherwise, or in one of the runs only."""
        return sorted(t for t in {*self.plain, *self.warm} if self.plain.get(t) != self.warm.get(t))


def clean() -> dict[str, str]:
    """The environment without what this process itself was told."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MLTIERS", "GITHUB_", "PYTHONPATH"))}


def unpacked(requirement: str, folder: Path, python: str) -> Path:
    """The source distribution of ``NAME==VERSION``."""
    name = requirement.partition("==")[0]
    command = [python, "-m", "pip", "-q", "download", "--no-deps", "--no-binary", name, "-d", str(folder), requirement]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return source


def through_the_front_door(source: Path, tests: str, python: str) -> Runs:
    """Both tiers of one `mltiers run`."""
    (source / "ml-tiers.yml").write_text(CONFIG.format(tests=tests))
    command = [MLTIERS, "run", "plain", "warm", "--event", "push", "--python", python]
    subprocess.run(command, cwd=source, env=clean(), stdout=-3, stderr=-3, check=False)
    results = {t: json.loads((source / ".mltiers" / t / "result.json").read_text()) for t in ("plain", "warm")}
    outcomes = {t: {test["node_id"]: test["outcome"] for test in found["tests"]} for t, found in results.items()}
    told = json.loads((source / ".mltiers" / "warm" / "warm.json").read_text())
    said = ", ".join(told["modules"]) or "–" if told["warm"] else f"plain: {told['reason']}"
    return Runs(**outcomes, forked=told["warm"], said=said)


def of_xdist(source: Path, tests: str, python: str) -> Runs:
    """The tests of pytest-xdist, whose own pytests are plain or forked."""
    orders = source.parent / "orders"
    orders.mkdir()
    (source.parent / "forking.py").write_text(FORKING)
    (source.parent / "forked.py").write_text(FORKED)
    workers = source.parent / "workers"
    workers.touch()
    suite = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--runpytest=subprocess", "-n", "2", tests]
    outcomes = {}
    for name, more, paths in (("plain", [], [PLUGIN]), ("warm", ["-p", "forking"], [PLUGIN, source.parent])):
        junit = source.parent / f"{name}.xml"
        path = os.pathsep.join(map(str, paths))
        env = {**clean(), "PYTHONPATH": path, "ORDERS": str(orders), "WORKERS": str(workers)}
        env["OPENBLAS_NUM_THREADS"] = "1"
        subprocess.run([*suite, *more, f"--junitxml={junit}"], cwd=source, env=env, stdout=-3, stderr=-3, check=False)
        outcomes[name] = {
            f"{case.get('classname')}::{case.get('name')}": next((c.tag for c in case), "passed")
            for case in ET.parse(junit).iter("testcase")
        }
    ways = Counter(workers.read_text().split())
    pytests = len(list(orders.glob("*.json")))
    said = f"numpy; {ways['forked']} of {ways.total()} workers of {pytests} pytests were forked"
    return Runs(**outcomes, forked=ways["forked"] > 0, said=said)


def main() -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs="*", default=DEFAULT, metavar="NAME==VERSION:TESTS[+NEED,...]")
    failed = False
    print("| project | outcomes both ways | imported ahead |\n|---|---|---|")
    for project in parser.parse_args().projects:
        place, _, needs = project.partition("+")
        requirement, _, tests = place.partition(":")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            venv.create(folder / "env", with_pip=True)
            python = str(folder / "env" / "bin" / "python")
            of_itself = requirement == XDIST
            wanted = [*(XDISTS_TOOLS if of_itself else TOOLS), requirement, *filter(None, needs.split(","))]
            subprocess.run([python, "-m", "pip", "-q", "install", *wanted], check=True)
            (folder / "source").mkdir()
            source = unpacked(requirement, folder / "source", python)
            run = of_xdist if of_itself else through_the_front_door
            runs = run(source, tests or ".", python)
        different = runs.different()
        races = [test for test in different if of_itself and test.endswith(RACES)]
        failed |= len(different) > len(races) or not runs.plain or not runs.forked
        counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(runs.plain.values()).most_common())
        print(f"| {requirement.replace('==', ' ')} | {counts or '**no tests**'} | {runs.said} |", flush=True)
        for test in different:
            ways = f"{runs.plain.get(test)} plain, {runs.warm.get(test)} warm"
            print(f"| | **{test}: {ways}** | {'a race' if test in races else ''} |", flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
