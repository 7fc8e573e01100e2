"""What the memory costs: its size after many commits, the time to read what a run needs, to write, to write in a race.

    python benchmarks/history.py [--commits 200] [--tests 10000]        writes benchmarks/history.md

Every commit is written by the real `BranchStore` with the real encoding, compaction included, to a bare repository on
this disk. Durations wander by 5 % from run to run, 1 test in 500 fails, 1 in 2,000 fails first and passes then, a test
is added with every fifth commit, and every commit changes 5 of 200 source files.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.mind.records import Record  # noqa: E402
from orchestrator.mind.records.encoding import decode, encode, references  # noqa: E402
from orchestrator.mind.records.names import parse_record_name, record_name, sketch_name  # noqa: E402
from orchestrator.tools.history.branch import BranchStore  # noqa: E402
from orchestrator.tools.history.compaction import compact, due  # noqa: E402
from orchestrator.words.errors import ExitCode  # noqa: E402
from orchestrator.words.plan import TierPlan  # noqa: E402
from orchestrator.words.results import (  # noqa: E402
    Attempt,
    Benchmark,
    Coverage,
    Ending,
    FileCoverage,
    TestOutcome,
    TestResult,
    TierResult,
)
from orchestrator.words.verdict import TierVerdict, Verdict  # noqa: E402
from tests.loopback_github import LoopbackGitHub  # noqa: E402

CONFIG, TIER = "0123456789ab", "unit"
EPOCH = 1_700_000_000.0
RACERS = 16
READS = 5


class Project:
    """A project whose suite runs on one commit after the other."""

    def __init__(self, tests: int) -> None:
        self.random = Random(5)
        self.seconds = {self.node_id(n): self.random.lognormvariate(-4.0, 1.5) for n in range(tests)}
        self.files = {f"src/package_{n % 20}/module_{n}.py": self.coverage() for n in range(200)}

    @staticmethod
    def node_id(number: int) -> str:
        return f"tests/unit/test_area_{number % 97}.py::TestThing{number % 13}::test_case[{number}-fp32]"

    def coverage(self) -> FileCoverage:
        lines = range(1, self.random.randrange(60, 400))
        executed = frozenset(line for line in lines if self.random.random() < 0.9)
        return FileCoverage(executed=executed, missing=frozenset(lines) - executed)

    def record(self, commit: int) -> Record:
        """The run on a commit."""
        if commit % 5 == 0:
            self.seconds[self.node_id(len(self.seconds))] = self.random.lognormvariate(-4.0, 1.5)
        for path in self.random.sample(sorted(self.files), 5):
            self.files[path] = self.coverage()
        tests = tuple(self.test(node_id, seconds) for node_id, seconds in self.seconds.items())
        failed = any(test.outcome.bad for test in tests)
        result = TierResult(
            name=TIER,
            ending=Ending.EXITED,
            exit_code=int(failed),
            seconds=sum(test.seconds for test in tests) / 8,
            started=EPOCH,
            tests=tests,
            has_report=True,
            coverage=Coverage(files=dict(self.files)),
            benchmarks=tuple(
                Benchmark(name=f"bench_{n}", minimum=0.01 * self.random.uniform(1, 1.1), median=0.0111, mean=0.0112,
                          stddev=0.0001, rounds=50)
                for n in range(10)
            ),
            workers=8,
        )  # fmt: skip
        plan = TierPlan(name=TIER, run=True, reason="runs on push", budget=600.0)
        verdict = Verdict.FAILED if failed else Verdict.PASSED
        return Record(
            sha=f"{self.random.getrandbits(160):040x}",
            time=EPOCH + 3600.0 * commit,
            config_id=CONFIG,
            event="push",
            tier=TierVerdict(plan=plan, result=result, verdict=verdict, reasons=(), exit_code=verdict_exit(failed)),
            run=f"{10_000_000_000 + commit}.1",
            ref="refs/heads/main",
            trusted=commit % 3 == 0,
            machine={"cpu": "a CPU", "cores": "8", "python": "3.12.4", "torch": "2.13.0"},
            sources={path: f"{self.random.getrandbits(160):040x}" for path in list(self.files)[:5]},
        )

    def test(self, node_id: str, seconds: float) -> TestResult:
        """One test of one run."""
        seconds *= self.random.gauss(1.0, 0.05)
        luck = self.random.random()
        if luck < 1 / 500:
            text = f"    def test_case(self):\n>       assert model(x) == {luck}\nE       AssertionError\n" * 8
            return TestResult(
                node_id=node_id, outcome=TestOutcome.FAILED, seconds=seconds, message=text[-60:], text=text
            )
        if luck < 1 / 500 + 1 / 2000:
            first = Attempt(outcome=TestOutcome.FAILED, seconds=seconds, message="AssertionError: flaky")
            return TestResult(node_id=node_id, outcome=TestOutcome.PASSED, seconds=seconds, attempts=(first,))
        return TestResult(node_id=node_id, outcome=TestOutcome.PASSED, seconds=seconds)


def verdict_exit(failed: bool) -> ExitCode:
    return ExitCode.FAILED if failed else ExitCode.PASSED


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


def open_store(url: str, token: str | None = None, seed: int = 0) -> BranchStore:
    return BranchStore(
        url=url,
        branch="mltiers-data",
        token=token,
        variables=dict(os.environ),
        deadline=lambda: math.inf,
        random=Random(seed),
    )


def add(store: BranchStore, record: Record) -> bool:
    """Write a record as a run does, and compact where that is due. Returns whether it was."""
    files = encode(record)
    snapshot = store.update(
        lambda seen: {name: data for name, data in files.items() if name not in seen.names}, message=record.sha[:10]
    )
    if not due(snapshot):
        return False
    compact(store, now=record.time)
    return True


@dataclass(frozen=True, kw_only=True)
class Read:
    """What one reading took, in seconds; ``cpu`` with all processes, the server's included."""

    fetch: float
    fetch_cpu: float
    decode_cpu: float
    records: int


def cpu() -> float:
    """Seconds that this process and those it has waited for have computed."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read_what_a_run_needs(open_one: Callable[[], BranchStore]) -> Read:
    """Fetch the newest 50 records with what they refer to, then decode them."""
    began, computed = time.perf_counter(), cpu()
    snapshot = open_one().snapshot()
    names = sorted(filter(None, map(parse_record_name, snapshot.names)), reverse=True)[:50]
    found = snapshot.read([str(name) for name in names])
    needed: list[str] = [sketch_name(CONFIG, TIER)]
    for index, name in enumerate(names):
        refers = references(found[str(name)])
        needed += [*refers.lists, *(refers.lines if index == 0 else ())]
    files = snapshot.read(dict.fromkeys(needed))
    fetched, fetched_cpu = time.perf_counter() - began, cpu() - computed
    computed = cpu()
    records = [decode(found[str(name)], files) for name in names]
    return Read(fetch=fetched, fetch_cpu=fetched_cpu, decode_cpu=cpu() - computed, records=len(records))


def packed_size(bare: Path, copy: Path) -> tuple[float, float]:
    """MB after `git gc`: with what a server may keep of the branch's earlier versions for a while, and without."""
    sizes = []
    for prune in ("never", "now"):
        folder = bare
        if prune == "now":
            folder = copy
            git(copy.parent, "clone", "--quiet", "--mirror", "--no-local", str(bare), str(copy))
        git(folder, "-c", "gc.reflogExpire=now", "gc", "--quiet", f"--prune={prune}")
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6)
    return sizes[0], sizes[1]


def race(url: str, records: list[Record]) -> float:
    """Seconds until all of these are written, each by a process of its own at the same moment."""
    code = (
        "import sys, pickle, runpy; names = runpy.run_path(sys.argv[1], run_name='racer');"
        "record = pickle.load(sys.stdin.buffer); files = names['encode'](record); print('ready', flush=True);"
        "sys.stdin.buffer.read();"
        "names['open_store'](sys.argv[2], seed=int(sys.argv[3])).update(lambda _: files, message='race')"
    )
    command, pipe = [sys.executable, "-c", code, __file__, url], subprocess.PIPE
    writers = [subprocess.Popen([*command, str(n)], stdin=pipe, stdout=pipe) for n in range(len(records))]
    for process, record in zip(writers, records, strict=True):
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(record))
        process.stdin.flush()
    for process in writers:
        process.stdout.readline()  # type: ignore[union-attr]
    began = time.perf_counter()
    for process in writers:
        process.stdin.close()  # type: ignore[union-attr]
    with ThreadPoolExecutor(len(writers)) as pool:
        codes = list(pool.map(lambda process: process.wait(timeout=300), writers))
    if any(codes):
        raise SystemExit(f"writers of the race failed: {codes}")
    taken = time.perf_counter() - began
    lost = {str(record_name(record)) for record in records} - open_store(url).snapshot().names
    if lost:
        raise SystemExit(f"the race lost {lost}")
    return taken


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--tests", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mltiers-bench-") as name, LoopbackGitHub() as github:
        folder = Path(name)
        bare = folder / "data.git"
        subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
        for setting in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
            git(bare, "config", setting, "true")
        github.add_repository("octo/data", path=bare)
        token = github.add_token()
        local, remote = f"file://{bare}", f"{github.server_url}/octo/data.git"
        project = Project(options.tests)
        store = open_store(local)
        writes: list[float] = []
        compactions: list[float] = []
        for commit in range(options.commits):
            record = project.record(commit)
            began = time.perf_counter()
            times = compactions if add(store, record) else writes
            times.append(time.perf_counter() - began)
            if commit % 100 == 99:
                print(f"{commit + 1} commits, a write {writes[-1]:.2f} s", file=sys.stderr)
                store.close()  # as another run would: nothing is at hand
        store.close()
        reads = {
            "`file://`": [read_what_a_run_needs(lambda: open_store(local)) for _ in range(READS)],
            "HTTP on loopback": [read_what_a_run_needs(lambda: open_store(remote, token)) for _ in range(READS)],
        }
        fresh = []
        for number in range(READS):
            files = encode(project.record(options.commits + number))
            began = time.perf_counter()
            open_store(remote, token).update(lambda _, files=files: files, message="one")
            fresh.append(time.perf_counter() - began)
        raced = race(local, [project.record(options.commits + 100 + n) for n in range(RACERS)])
        kept, size = packed_size(bare, folder / "clone.git")
    records = next(iter(reads.values()))[0].records
    computer = f"{os.cpu_count()} cores shared with other work (load {os.getloadavg()[0]:.1f})"
    rows = [
        (f"packed size after {options.commits} commits × {options.tests} tests", "< 20 MB", f"{size:.1f} MB"),
        ("the same with what a server has not pruned yet", "", f"{kept:.1f} MB"),
    ]
    for where, taken in reads.items():
        what = f"open and read {records} records, their tests, one run's lines, the sketch: {where}"
        rows.append((what, "< 1 s", spread([seen.fetch for seen in taken])))
        rows.append(("… of which computing, the server's included", "", spread([seen.fetch_cpu for seen in taken])))
    decoding = [seen.decode_cpu for taken in reads.values() for seen in taken]
    rows += [
        (f"make {records} × {options.tests} values of them (computing)", "", spread(decoding)),
        ("write one record, `file://`, copy at hand", "", spread(writes)),
        ("write one record, HTTP, from nothing", "", spread(fresh)),
        ("write one record and compact (every 50 runs)", "", spread(compactions) if compactions else "never due"),
        (f"{RACERS} processes write at once, until the last is done", "nothing lost", f"{raced:.1f} s"),
    ]
    lines = [
        "# What the memory costs",
        "",
        f"`python benchmarks/history.py --commits {options.commits} --tests {options.tests}`, "
        f"{datetime.now(timezone.utc):%Y-%m-%d}, Python {platform.python_version()}, "
        f"{git(ROOT, 'version').strip()}, {computer}. One tier; wall time, median (fastest–slowest). A network adds "
        "its round trips: reading is two fetches, writing one fetch and one push.",
        "",
        "| | goal | seen |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
