"""The suites of the study: copies to be broken, what their tests take and execute, and the faults that they find."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.selecting.mutants import Fault, drawn, faults_of, is_runnable
from orchestrator.mind.records.contexts import Contexts, contexts_document, read_contexts
from orchestrator.tools.contexts import read_coverage_contexts

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".benchmarks" / "selection"
RUNNER = Path(__file__).with_name("runner.py")
HOT = 0.25  # a line that this share of the tests executes, or more, is hot


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A project whose tests are run again and again."""

    name: str
    fetch: Callable[[Path], None]  # puts the project into a folder
    sources: tuple[str, ...]  # globs of the files that faults go into
    preload: str  # libraries imported once
    source: str  # what coverage measures
    args: tuple[str, ...] = ()
    path: tuple[str, ...] = ()  # folders of the project on PYTHONPATH


def _example(folder: Path) -> None:
    shutil.copytree(
        ROOT / "examples" / "text-classifier", folder, ignore=shutil.ignore_patterns(".mltiers", "__pycache__")
    )


def _jinja(folder: Path) -> None:
    archives = CACHE / "archives"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    if not list(archives.glob("jinja2-3.1.6*")):
        subprocess.run(
            [*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", archives, "jinja2==3.1.6"], check=True
        )
    with tarfile.open(next(archives.glob("jinja2-3.1.6*"))) as archive:
        archive.extractall(folder.parent, filter="data")
    (folder.parent / "jinja2-3.1.6").rename(folder)
    subprocess.run([*pip, "install", "--target", folder / "site", "trio==0.32.0"], check=True)


SUITES = {
    "text-classifier": Suite(
        name="text-classifier",
        fetch=_example,
        sources=("src/**/*.py", "tests/conftest.py", "tests/regression/golden.*"),
        preload="pytest,torch,numpy,torch.utils.data",
        source="src",
        args=("tests/unit", "tests/integration", "tests/regression", "-m", "not gpu and not slow and not convergence"),
    ),
    "jinja2": Suite(
        name="jinja2",
        fetch=_jinja,
        sources=("src/jinja2/*.py", "tests/conftest.py", "tests/res/**/*.html", "tests/res/templates*/**/*"),
        preload="pytest,markupsafe,trio,asyncio",
        source="src/jinja2",
        args=("tests",),
        path=("src", "site"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One fault and what the suite says about it."""

    name: str
    path: str
    line: int
    place: str  # "local", "hot", "import" or "data"
    failed: tuple[str, ...]
    broken: bool  # files could not be collected: every order sees that before the first test
    over: bool


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything measured of one suite."""

    suite: str
    seconds: dict[str, float]  # of each test, without a fault: median of three runs
    order: tuple[str, ...]  # as pytest collects
    contexts: Contexts
    faults: tuple[Observed, ...]
    texts: dict[str, str]  # of every file of the project that is text


def study(
    suite: Suite, *, wanted: int, seed: int, processes: int, seconds: float, talk: Callable[[str], None]
) -> Study:
    """What is known of a suite: from the cache, or measured now, for at most so many seconds."""
    folder = CACHE / suite.name
    home = folder / "project"
    if not home.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        suite.fetch(home)
    base = _cached(folder / "base.json", lambda: _base(suite, home, talk))
    contexts = read_contexts(base["contexts"])
    cached = folder / f"faults-{seed}.json"
    found = (
        [Observed(**{**o, "failed": tuple(o["failed"])}) for o in json.loads(cached.read_text())]
        if cached.is_file()
        else []
    )
    if sum(tells(o) for o in found) < wanted:
        until = time.monotonic() + seconds
        _inject(
            suite,
            home,
            base,
            contexts,
            found,
            cached,
            wanted=wanted,
            seed=seed,
            processes=processes,
            until=until,
            talk=talk,
        )
    texts = {
        str(p.relative_to(home)): p.read_text(errors="replace") for p in sorted(home.rglob("*")) if _is_text(p, home)
    }
    return Study(
        suite=suite.name,
        seconds=base["seconds"],
        order=tuple(base["order"]),
        contexts=contexts,
        faults=tuple(found),
        texts=texts,
    )


def _is_text(path: Path, home: Path) -> bool:
    inside = path.relative_to(home).parts
    return path.is_file() and inside[0] not in ("site", "docs") and path.suffix not in (".zip", ".pyc", ".png")


def _cached(path: Path, make: Callable[[], Any]) -> Any:
    if not path.is_file():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def tells(observed: Observed) -> bool:
    """Whether it says something about an order: the tests see it, and collecting them does not."""
    return bool(observed.failed) and not observed.broken


def _environment(suite: Suite, home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "MLTIERS_", "GITHUB_"))}
    folders = os.pathsep.join(str(home / name) for name in suite.path)
    return {**kept, "PYTHONPATH": folders, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def _base(suite: Suite, home: Path, talk: Callable[[str], None]) -> dict[str, Any]:
    """What the suite does without a fault: three runs for the durations, one for the contexts."""
    talk(f"{suite.name}: three runs without a fault, and one with contexts")
    with _Runner(suite, home) as runner:
        runs = [runner.ask({"id": n, "args": list(suite.args), "limit": 600}) for n in range(3)]
    bad = {node for run in runs for node in run["failed"]}
    order = [node for node in runs[0]["seconds"] if node not in bad]
    data = home.parent / "contexts.coverage"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_cov", *suite.args]
    command += [f"--cov={suite.source}", "--cov-context=test", "--cov-report="]
    env = {
        **_environment(suite, home),
        "COVERAGE_FILE": str(data),
        "COVERAGE_CORE": "ctrace",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    subprocess.run(command, cwd=home, env=env, stdout=subprocess.DEVNULL, check=True)
    return {
        "order": order,
        "seconds": {node: statistics.median(run["seconds"][node] for run in runs) for node in order},
        "excluded": sorted(bad),
        "contexts": contexts_document(read_coverage_contexts(data, root=home)),
    }


class _Runner:
    """One process that forks for every fault, on a folder of its own."""

    def __init__(self, suite: Suite, home: Path) -> None:
        command = [sys.executable, str(RUNNER), str(home), suite.preload]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(suite, home),
            cwd=home,
        )

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def _inject(
    suite: Suite,
    home: Path,
    base: dict[str, Any],
    contexts: Contexts,
    found: list[Observed],
    cached: Path,
    *,
    wanted: int,
    seed: int,
    processes: int,
    until: float,
    talk: Callable[[str], None],
) -> None:
    """Run the suite on one fault after the other, till it has seen as many as wanted."""
    tests_of = _tests_by_line(contexts)
    known = {o.name for o in found}
    todo = [f for f in _candidates(suite, home, tests_of, len(base["order"]), seed) if f[0].name not in known]
    homes = [home.parent / f"copy-{n}" for n in range(processes)]
    for copy in homes:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(home, copy)
    if not base["order"]:
        raise SystemExit(f"{suite.name}: its tests do not run")
    order, limit = set(base["order"]), 10 + 4 * sum(base["seconds"].values())
    began = time.monotonic()

    def work(copy: Path, mine: Sequence[tuple[Fault, str]]) -> None:
        with _Runner(suite, copy) as runner:
            for fault, place in mine:
                if sum(tells(o) for o in found) >= wanted or time.monotonic() > until:
                    return
                if not is_runnable(fault):
                    continue
                executing = tests_of.get((fault.path, fault.line))
                job = {
                    "id": fault.name,
                    "path": fault.path,
                    "text": fault.text,
                    "limit": limit,
                    "args": list(suite.args),
                }
                told = runner.ask({**job, "tests": sorted(executing) if executing else None})
                failed = tuple(node for node in told["failed"] if node in order)
                observed = Observed(
                    name=fault.name,
                    path=fault.path,
                    line=fault.line,
                    place=place,
                    failed=failed,
                    broken=bool(told["broken"]),
                    over=told["over"],
                )
                found.append(observed)
                if len(found) % 25 == 0:
                    cached.write_text(json.dumps([asdict(o) for o in list(found)]))
                    hits = sum(tells(o) for o in found)
                    talk(f"{suite.name}: {len(found)} faults, {hits} seen by tests, {time.monotonic() - began:.0f} s")

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(lambda n: work(homes[n], todo[n::processes]), range(processes)))
    for copy in homes:
        shutil.rmtree(copy, ignore_errors=True)
    cached.write_text(json.dumps([asdict(o) for o in found]))


def _tests_by_line(contexts: Contexts) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for node, pieces in contexts.tests.items():
        for piece in pieces:
            file, bits = contexts.pieces[piece]
            for line in range(bits.bit_length()):
                if bits >> line & 1:
                    found.setdefault((contexts.files[file], line), set()).add(node)
    return found


def _candidates(
    suite: Suite, home: Path, tests_of: dict[tuple[str, int], set[str]], count: int, seed: int
) -> list[tuple[Fault, str]]:
    """Faults in turn from each kind of place, so that what is rare (data, configuration, hot code) is half of them."""
    paths = sorted({str(p.relative_to(home)) for glob in suite.sources for p in home.glob(glob) if p.is_file()})
    places: dict[str, list[Fault]] = {"local": [], "hot": [], "import": [], "data": []}
    for path in paths:
        imported = _imported_lines(home / path) if path.endswith(".py") else set()
        for fault in faults_of(path, (home / path).read_text(encoding="utf-8")):
            executing = tests_of.get((path, fault.line), set())
            if not path.endswith(".py"):
                places["data"].append(fault)
            elif fault.line in imported or path.endswith("conftest.py"):
                places["import"].append(fault)
            elif executing:
                places["hot" if len(executing) >= HOT * count else "local"].append(fault)
    rng = random.Random(seed)
    streams = {place: drawn(faults, rng) for place, faults in places.items()}
    turn = ["local", "hot", "local", "import", "local", "data"]
    chosen = []
    while streams:
        for place in turn:
            if place in streams:
                fault = next(streams[place], None)
                if fault is None:
                    del streams[place]
                else:
                    chosen.append((fault, place))
    return chosen


def _imported_lines(path: Path) -> set[int]:
    """Lines that run when the module is imported, whatever a test does later."""
    import ast

    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            body = node.body if isinstance(node.body, list) else [node.body]
            for statement in body:
                inside.update(range(statement.lineno, statement.end_lineno + 1))
    return set(range(1, 1 + len(path.read_text(encoding="utf-8").splitlines()))) - inside
