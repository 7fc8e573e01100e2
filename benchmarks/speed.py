"""How fast a unit tier is, against what a team would use instead: the same suites, the same Python, in one session.

    python benchmarks/speed.py [--python PYTHON] [--rounds 7] [--workers 2] [--suites fast_shape,skewed,tiny,imports]
                               [--project NAME=FOLDER:TESTS ...] [--only NAME,...] [--memory] [--scaling 1,2,4,8]
                               [--growth 100,1000,10000,50000] [--out FILE]

Ours is `mltiers run`, as users start it, with a history of ``--learn`` runs; its tier's own time, of which the plan,
the verdict and the report are no part, is on a row of its own. Peers are whole processes. The tests run in a virtual
environment that is made for them (``.benchmarks/speed``), or by ``--python``: one with pytest, pytest-xdist, torch and
the peers and nothing else, as every pytest plugin that is installed slows all of them down. Without pytest-cov nobody
measures coverage. The commands of a round follow each other in a rotating order, so that a drift of the machine hits
all alike; ratios are of one round. After each median ratio stands the 95 % interval of the median, by order statistics
(Conover, Practical Nonparametric Statistics, 3.2); below six rounds there is none, and it is the range. A command that
does not pass all tests is shown as not working, with its last line. ``--memory``: the most proportional memory (PSS)
that all processes of a run had together. ``--scaling``: more and more workers. ``--growth``: what `mltiers run` takes
beside pytest by hand as the number of tests grows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from orchestrator.tools.tree import descendants, process_table

MLTIERS = str(Path(sys.executable).parent / "mltiers")
WHOLE, ALONE, SECOND = "`mltiers run`", "its tier alone", "the second tier of a job"
OURS = (WHOLE, ALONE, SECOND)
FASTEST = "the fastest peer of each round"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CONFIG = """version: 1
source: [{source}]
tiers:
  unit: {{paths: [{tests}], when: [push], budget: 10m, workers: {workers}}}
  again: {{paths: [{tests}], when: [push], budget: 10m, workers: {workers}, needs: [unit]}}
"""
PEERS = ("pytest", "pytest-xdist", "pytest-forked", "pytest-zygote", "pytest-fast")
TIMEOUT = 400.0  # seconds

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.layers(x)

def step(net, optimizer, x, y):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()
"""

CONFTEST = """
import pytest, torch

@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
"""

FAST = """
import pytest, torch
from mine.model import Net, step

@pytest.mark.parametrize("width", range(2, {count}))
def test_shape_{number}(width):
    assert Net(width)(torch.ones(3, 8)).shape == (3, 4)

def test_learns_{number}():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))
    first = step(net, optimizer, x, y)
    for _ in range(5):
        last = step(net, optimizer, x, y)
    assert last < first
"""

LONG = """
import pytest, torch

@pytest.mark.parametrize("steps", {steps})
def test_overfits_{number}(steps):
    a = torch.randn(256, 256)
    for _ in range(steps):
        a = torch.tanh(a @ a)
    assert a.isfinite().all()
"""


TINY = """
import pytest

@pytest.mark.parametrize("n", range({count}))
def test_adds_{number}(n):
    assert n + n == 2 * n
"""

IMPORTS = """
import networkx, numpy, pytest, sympy, torch, torch.distributions, torch.fx, torch.onnx, torch.utils.data

@pytest.mark.parametrize("n", range(5))
def test_uses_them_{number}(n):
    assert sympy.Integer(n) + n == int(torch.tensor(n) * 2)
"""


@dataclass(frozen=True)
class Peer:
    """One way to run a suite's tests: words after ``python``, and its environment."""

    name: str
    words: list[str]
    env: dict[str, str] = field(default_factory=dict)
    needs: str = "pytest"  # module


def fast_shape(folder: Path) -> None:
    """196 tests of 1 to 20 ms in 14 files; their conftest imports torch."""
    project(folder)
    for number in range(14):
        (folder / "tests" / f"test_{number}.py").write_text(FAST.format(number=number, count=15))


def skewed(folder: Path) -> None:
    """216 tests, of which 30 take nearly all of the time, up to some seconds each, side by side in the last files."""
    project(folder)
    for number in range(14):
        count = 16 if number < 12 else 11
        (folder / "tests" / f"test_{number:02}.py").write_text(FAST.format(number=number, count=count - 1))
    steps = [800, 1200, 1600, 2000, 2400, 2800, 3200, 4000, 4800, 5600]
    for number in range(3):
        (folder / "tests" / f"test_zlong_{number}.py").write_text(LONG.format(number=number, steps=steps))


def tiny(folder: Path, tests: int = 5000) -> None:
    """5,000 tests of less than a millisecond, in 50 files; nothing is imported but pytest."""
    project(folder)
    (folder / "tests" / "conftest.py").write_text("")
    (folder / "mine" / "model.py").write_text("x = 1\n")
    files = min(50, max(1, tests // 20))
    for number in range(files):
        (folder / "tests" / f"test_{number}.py").write_text(TINY.format(number=number, count=tests // files))


def imports(folder: Path) -> None:
    """60 tests of a millisecond in 12 files, which import torch, sympy, networkx and more of torch."""
    project(folder)
    (folder / "tests" / "conftest.py").write_text("")
    for number in range(12):
        (folder / "tests" / f"test_{number}.py").write_text(IMPORTS.format(number=number))


def project(folder: Path) -> None:
    """The files that every suite has."""
    for name, text in {
        "mine/__init__.py": "",
        "mine/model.py": MODEL,
        "tests/conftest.py": CONFTEST,
        "pytest.ini": "[pytest]\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


SUITES: dict[str, Callable[[Path], None]] = {f.__name__: f for f in (fast_shape, skewed, tiny, imports)}


def peers(workers: int, tests: str) -> list[Peer]:
    """What else there is. joshuarli-pytest-parallel needs Python 3.13; dagz may not be used (its licence)."""
    one = dict.fromkeys(THREADS, "1")
    n = str(workers)
    pytest = ["-m", "pytest", tests]
    return [
        Peer(f"pytest -n {n}, as it comes", [*pytest, "-n", n], needs="xdist"),
        Peer(
            f"pytest -n {n} --dist worksteal, one thread each",
            [*pytest, "-n", n, "--dist", "worksteal"],
            one,
            needs="xdist",
        ),
        Peer("pytest, serially", pytest),
        Peer("pytest-forked", [*pytest, "-p", "pytest_forked", "--forked"], one, needs="pytest_forked"),
        Peer("pytest-zygote", [*pytest, "--workers", n], one, needs="pytest_zygote"),
        Peer("pytest-fast, its daemon warm from the second round on", [*pytest, "--fast", "--fast-workers", n], one,
             needs="pytest_fast"),
    ]  # fmt: skip


class Contest:
    """One suite in a folder of its own, and the ways to run it."""

    def __init__(self, options: argparse.Namespace, make: Callable[[Path], None], tests: str = "tests") -> None:
        self.python: str = options.python
        self.tests = tests
        self.folder = Path(tempfile.mkdtemp(prefix="speed-"))
        make(self.folder)
        self.configure("auto")
        self.env = environment(self.folder)
        self.peers = [
            p for p in peers(options.workers, tests) if not options.only or any(w in p.name for w in options.only)
        ]
        self.broken = {p.name: "not installed, or not for this Python" for p in self.peers if not self._has(p.needs)}
        done = self._process([self.python, "-m", "pytest", tests], {})  # it compiles, too
        self.expected = passed(done.stdout.decode(errors="replace"))
        self.chosen = ""

    def configure(self, workers: str) -> None:
        """Write ml-tiers.yml."""
        source = "mine" if (self.folder / "mine").exists() else "."
        text = CONFIG.format(tests=self.tests, workers=workers, source=source)
        (self.folder / "ml-tiers.yml").write_text(text)

    def once(self, name: str) -> dict[str, float]:
        """Run it: seconds by row. Never raises for what the tests do."""
        if name == WHOLE:
            taken = self._ours("unit")
            return {WHOLE: taken, ALONE: self._result("unit")["seconds"]}
        if name == SECOND:
            self._ours("unit", "again")
            return {SECOND: self._result("again")["seconds"]}
        peer = next(p for p in self.peers if p.name == name)
        began = time.perf_counter()
        try:
            done = self._process([self.python, *peer.words], peer.env)
        except subprocess.TimeoutExpired:
            self.broken[name] = f"did not end within {TIMEOUT:.0f} s"
            return {}
        taken = time.perf_counter() - began
        said = done.stdout.decode(errors="replace")
        if done.returncode or passed(said) != self.expected:
            words = [line for line in said.splitlines() if "rror" in line] or [said.strip().rpartition("\n")[2]]
            self.broken[name] = f"exit {done.returncode}, {passed(said)} of {self.expected} passed: {words[0][:120]}"
        return {name: taken}

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ours(self, *tiers: str) -> float:
        began = time.perf_counter()
        done = self._process([MLTIERS, "run", *tiers, "--python", self.python], {})
        taken = time.perf_counter() - began
        result = self._result(tiers[-1])
        if done.returncode or result["counts"]["passed"] != self.expected:
            raise SystemExit(f"mltiers run: exit {done.returncode}\n{done.stdout.decode(errors='replace')[-2000:]}")
        plan = json.loads((self.folder / ".mltiers/plan.json").read_text())
        choice = plan["tiers"][tiers[-1]]["choice"]
        self.chosen = choice["reason"] if choice else f"{result['workers']} workers"
        return taken

    def _result(self, tier: str) -> dict[str, dict[str, int]]:
        return json.loads((self.folder / ".mltiers" / tier / "result.json").read_text())

    def _process(self, command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.env, **env},
            stdin=-3,
            stdout=-1,
            stderr=-2,
            timeout=TIMEOUT,
            check=False,
        )

    def _has(self, module: str) -> bool:
        return subprocess.run([self.python, "-c", f"import {module}"], stderr=-3, check=False).returncode == 0


def environment(folder: Path) -> dict[str, str]:
    """What a command gets: ours without what would give one of them an advantage."""
    # Without compiled files whatever imports late would cost all of them seconds.
    dropped = {*THREADS, "PYTHONDONTWRITEBYTECODE"}
    ours = ("PYTEST", "MLTIERS", "GITHUB", "COV_")
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith(ours)}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def passed(text: str) -> int:
    """How many tests pytest's last line says have passed."""
    return sum(map(int, re.findall(r"(\d+) passed", text)[-1:]))


class Memory:
    """Samples what all processes below this one take together, while it is entered."""

    def __init__(self) -> None:
        self.most = 0  # KiB of PSS, and with how many processes
        self.processes = 0

    def __enter__(self) -> Memory:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            found = [pss(process.pid) for process in descendants(process_table(), [os.getpid()])]
            if sum(found) > self.most:
                self.most, self.processes = sum(found), len([one for one in found if one])


def pss(pid: int) -> int:
    """The proportional set size of a process in KiB; 0 once it is gone."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def memory(title: str, contest: Contest, options: argparse.Namespace) -> list[str]:
    """The table of one suite's memory."""
    lines = [
        f"### {title}: memory, {options.rounds} runs",
        "",
        "| most at any time | PSS of all processes, median | range | processes |",
        "|---|---|---|---|",
    ]
    for name in [WHOLE, *(p.name for p in contest.peers if p.name not in contest.broken)]:
        seen = []
        for _ in range(options.rounds):
            with Memory() as found:
                contest.once(name)
            seen.append((found.most / 1024, found.processes))
        sizes = [size for size, _ in seen]
        middle = f"{statistics.median(sizes):.0f} MiB | {min(sizes):.0f}–{max(sizes):.0f} MiB"
        lines.append(f"| {name} | {middle} | {seen[-1][1]} |")
    return [*lines, ""]


def compare(title: str, contest: Contest, options: argparse.Namespace) -> list[str]:
    """The table of one suite."""
    for _ in range(options.learn):
        contest.once(SECOND)
    everyone = [WHOLE, SECOND, *(peer.name for peer in contest.peers)]
    rounds: list[dict[str, float]] = []
    for number in range(options.rounds):
        turn = number % len(everyone)
        took: dict[str, float] = {}
        for name in everyone[turn:] + everyone[:turn]:
            if name not in contest.broken:
                took |= contest.once(name)
        working = [took[peer.name] for peer in contest.peers if peer.name in took and peer.name not in contest.broken]
        rounds.append({**took, **({FASTEST: min(working)} if working else {})})
    names = [
        *OURS,
        *(peer.name for peer in contest.peers),
        *([FASTEST] if all(FASTEST in one for one in rounds) else []),
    ]
    lines = [
        f"### {title}",
        "",
        f"| {contest.expected} tests | median | quartiles | {' | '.join(f'{name} ÷ it' for name in OURS)} |",
        "|---|--:|---|---|---|---|",
    ]
    lines += [row(name, rounds, contest.broken) for name in names]
    return [*lines, "", f"The last plan said: {contest.chosen}.", ""]


def row(name: str, rounds: Sequence[dict[str, float]], broken: dict[str, str]) -> str:
    """Median and quartiles; of a peer also the median of the ratios of ours to it, round by round, and its interval."""
    if name in broken:
        return f"| {name} | – | {broken[name].replace('|', '/')} | | | |"
    times = [took[name] for took in rounds]
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    cells = [name, f"{statistics.median(times):.2f} s", f"{low:.2f}–{high:.2f} s"]
    for own in OURS:
        ratios = sorted(took[own] / took[name] for took in rounds)
        low, high = interval(ratios)
        told = f"{statistics.median(ratios):.2f} ({low:.2f}–{high:.2f})"
        cells.append("" if name in OURS else told)
    return f"| {' | '.join(cells)} |"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which two of these sorted values their population's median lies, with a confidence of 95 %."""
    count = len(values)
    outside, rank = 0.0, 0  # how probably the median lies below the value of this rank, counted from 0
    while (outside := outside + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    rank = max(rank - 1, 0)
    return values[rank], values[count - 1 - rank]


def scaling(title: str, contest: Contest, options: argparse.Namespace) -> list[str]:
    """Medians for more and more workers, and a plot of them."""
    found: dict[str, list[float]] = {WHOLE: [], "pytest -n N": []}
    for count in options.scaling:
        contest.configure(str(count))
        contest.peers = (
            peers(count, contest.tests) if count > 1 else [Peer("pytest, serially", ["-m", "pytest", contest.tests])]
        )
        contest.once(WHOLE)
        rounds = [contest.once(WHOLE) | contest.once(contest.peers[0].name) for _ in range(options.rounds)]
        found[WHOLE].append(statistics.median(took[WHOLE] for took in rounds))
        found["pytest -n N"].append(statistics.median(took[contest.peers[0].name] for took in rounds))
    top = max(max(values) for values in found.values())
    cells = [f"| {name} | {' | '.join(f'{value:.2f} s' for value in values)} |" for name, values in found.items()]
    return [
        f"### {title}: more workers, medians of {options.rounds}",
        "",
        f"| workers | {' | '.join(map(str, options.scaling))} |",
        "|---|" + "--:|" * len(options.scaling),
        *cells,
        "",
        "```mermaid",
        "xychart-beta",
        f'  title "{title}: seconds by number of workers (lower line: mltiers)"',
        f"  x-axis [{', '.join(map(str, options.scaling))}]",
        f'  y-axis "seconds" 0 --> {top * 1.1:.0f}',
        *(f"  line [{', '.join(f'{value:.2f}' for value in values)}]" for values in found.values()),
        "```",
        "",
    ]


def growth(options: argparse.Namespace) -> list[str]:
    """What `mltiers run` takes in one process beside pytest by hand, as the number of tests grows."""
    lines = [
        f"### tiny: more tests, in one process, medians of {options.rounds}",
        "",
        "| tests | pytest, serially | its tier alone | `mltiers run` | beside pytest | per test |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for count in options.growth:
        contest = Contest(options, lambda folder, count=count: tiny(folder, count))
        contest.configure("1")
        contest.once(WHOLE)
        rounds = [contest.once(WHOLE) | contest.once("pytest, serially") for _ in range(options.rounds)]
        middle = {name: statistics.median(took[name] for took in rounds) for name in rounds[0]}
        more = statistics.median(took[WHOLE] - took["pytest, serially"] for took in rounds)
        lines.append(
            f"| {contest.expected:,} | {middle['pytest, serially']:.2f} s | {middle[ALONE]:.2f} s "
            f"| {middle[WHOLE]:.2f} s | {more:+.2f} s | {1e6 * more / contest.expected:.0f} µs |"
        )
        contest.close()
    return [*lines, ""]


def own_python(folder: Path) -> str:
    """The Python of an environment with what the suites need and the peers, made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        torch = version("torch").partition("+")[0]
        subprocess.run([python, "-m", "pip", "install", "-q", f"torch=={torch}", "numpy", *PEERS], check=True)
    return str(python)


def versions(python: str) -> str:
    """Of the Python that runs the tests, and of what it has."""
    names = (*PEERS, "torch", "numpy")
    code = f"""
import platform
from importlib.metadata import PackageNotFoundError, version
print("Python", platform.python_version(), end="")
for name in {names}:
    try: print(f", {{name}} {{version(name)}}", end="")
    except PackageNotFoundError: pass
"""
    return subprocess.run([python, "-c", code], stdout=-1, text=True, check=True).stdout


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--learn", type=int, default=4)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--project", action="append", default=[], help="NAME=FOLDER:TESTS of a project that is there")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--scaling", type=lambda text: [int(one) for one in text.split(",")], default=[])
    parser.add_argument("--growth", type=lambda text: [int(one) for one in text.split(",")], default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.python = options.python or own_python(Path(__file__).resolve().parent.parent / ".benchmarks" / "speed")
    lines = [
        f"{datetime.now(timezone.utc):%Y-%m-%d}: {options.rounds} rounds, {options.workers} workers on "
        f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f} at the start; {versions(options.python)}; "
        f"{platform.system()} {platform.machine()}.",
        "",
    ]

    def tell(more: list[str]) -> None:
        lines.extend(more)
        print("\n".join(more), flush=True)
        if options.out:
            options.out.write_text("\n".join(lines))

    tell([])
    contests: list[tuple[str, Callable[[Path], None], str]] = []
    for name in filter(None, options.suites.split(",")):
        contests.append((f"{name.replace('_', '-')}: {(SUITES[name].__doc__ or '').strip()}", SUITES[name], "tests"))
    for given in options.project:
        name, _, place = given.partition("=")
        source, _, tests = place.rpartition(":")
        contests.append(
            (name, lambda folder, source=source: shutil.copytree(source, folder, dirs_exist_ok=True), tests)
        )
    for title, make, tests in contests:
        contest = Contest(options, make, tests)
        measure = memory if options.memory else scaling if options.scaling else compare
        tell(measure(title, contest, options))
        contest.close()
    if options.growth:
        tell(growth(options))


if __name__ == "__main__":
    main()
