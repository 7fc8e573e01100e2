"""How fast a unit tier is, against what a team would use instead: the same suites, the same Python, pair by pair.

    python benchmarks/speed.py [--pairs 7] [--workers 2] [--cpus 0,1] [--out benchmarks/speed.md] [--only NAME,...]
                               [--suites fast_shape,skewed] [--memory]

Every command is one whole process, wall time; the commands of a round follow each other in a rotating order, so that a
drift of the machine hits all alike. A command that does not pass all tests is shown as not working, with its last line.
Peers that are not installed are named as such. `mltiers` is what `mltiers run` does for its tiers, from the start of
the process that is kept for the run: supervised, streamed, with coverage off as the peers have it. Planning is not in
it (benchmarks/overhead.md has that), though the kept process imports while it goes on. `--memory`: instead of times,
the most proportional memory (PSS) that all processes of a run had together, sampled every 50 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
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
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from orchestrator.kept import Kept
from orchestrator.model import Keeping
from orchestrator.process import supervise
from orchestrator.tree import descendants, process_table

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "plugin" / "src"
START = PLUGIN / "pytest_mltiers" / "warm" / "start.py"
COLD, SECOND = "mltiers, the only tier of a job", "mltiers, second tier of a job"
ALONE = "mltiers, third tier, one worker"
Result = tuple[str, float, int, str]  # name, wall seconds, tests passed, last line
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

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


@dataclass(frozen=True)
class Peer:
    """One way to run a suite's tests: the command (None: not installed) and its environment."""

    name: str
    command: list[str] | None
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Tiers of ours, one after the other, forked from one process: their names, and the workers of each."""

    tiers: tuple[tuple[str, int], ...]
    modules: tuple[str, ...]  # that the process imports which is kept

    @property
    def name(self) -> str:
        return self.tiers[-1][0]


def fast_shape(folder: Path) -> None:
    """196 tests of 1 to 20 ms in 14 files; their conftest imports torch."""
    project(folder)
    for number in range(14):
        (folder / "tests" / f"test_{number}.py").write_text(FAST.format(number=number, count=15))


def skewed(folder: Path) -> None:
    """224 tests, of which 30 take nearly all of the time, side by side in the last files."""
    project(folder)
    for number in range(14):
        count = 16 if number < 12 else 11
        (folder / "tests" / f"test_{number:02}.py").write_text(FAST.format(number=number, count=count - 1))
    steps = [80, 120, 160, 200, 240, 280, 320, 400, 480, 560]
    for number in range(3):
        (folder / "tests" / f"test_zlong_{number}.py").write_text(LONG.format(number=number, steps=steps))


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


def jobs(workers: int) -> list[Job]:
    """Ours: a job with one tier, which is as cold as it gets, and one with more."""
    return [
        Job(((COLD, workers),), ("torch",)),
        Job((("mltiers, first of three tiers", workers), (SECOND, workers), (ALONE, 1)), ("torch", "torch._dynamo")),
    ]


def peers(workers: int) -> list[Peer]:
    """What else there is."""
    python = [sys.executable]
    one = dict.fromkeys(THREADS, "1")

    def module(name: str, *words: str) -> list[str] | None:
        return [*python, *words] if importlib.util.find_spec(name) else None

    n = str(workers)
    return [
        Peer(f"pytest -n {n}, as it comes", [*python, "-m", "pytest", "-n", n, "tests"]),
        Peer(f"pytest -n {n}, one thread each", [*python, "-m", "pytest", "-n", n, "tests"], one),
        Peer(
            f"pytest -n {n} --dist worksteal, one thread each",
            [*python, "-m", "pytest", "-n", n, "--dist", "worksteal", "tests"],
            one,
        ),
        Peer("pytest, serially", [*python, "-m", "pytest", "tests"]),
        Peer("pytest-forked", module("pytest_forked", "-m", "pytest", "-p", "pytest_forked", "--forked", "tests"), one),
        Peer("pytest-zygote", module("pytest_zygote", "-m", "pytest", "--workers", n, "tests"), one),
        Peer("joshuarli-pytest-parallel", module("pytest_parallel", "-m", "pytest", "-j", n, "tests"), one),
        Peer("pytest-fast", module("pytest_fast", "-m", "pytest", "--fast", "--fast-workers", n, "tests"), one),
    ]  # fmt: skip


def environment(folder: Path, extra: dict[str, str]) -> dict[str, str]:
    """What a command gets: ours without what would give one of them an advantage."""
    # Without compiled files a plugin that imports at the end (hypothesis) would cost all of them seconds.
    dropped = {*THREADS, "PYTHONDONTWRITEBYTECODE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("PYTEST")}
    paths = [extra.get("PYTHONPATH"), str(folder), os.environ.get("PYTHONPATH")]
    return {**kept, **extra, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def once(peer: Peer | Job, folder: Path, expected: int | None) -> list[Result]:
    """Run it. Never raises for what the tests do."""
    for left in (folder / "events.jsonl", folder / ".pytest_cache"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    if isinstance(peer, Job):
        return once_ours(peer, folder, expected)
    assert peer.command is not None
    began = time.perf_counter()
    try:
        done = subprocess.run(
            peer.command,
            cwd=folder,
            env=environment(folder, peer.env),
            stdin=-3,
            stdout=-1,
            stderr=-2,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [(peer.name, 180.0, 0, "did not end within 180 s")]
    taken = time.perf_counter() - began
    return [(peer.name, taken, *verdict(done.returncode, done.stdout.decode(errors="replace"), expected))]


def once_ours(job: Job, folder: Path, expected: int | None) -> list[Result]:
    """The tiers of a job; the first one's time begins with the start of the process that is kept."""
    ours = {**dict.fromkeys(THREADS, "1"), "PYTHONPATH": str(PLUGIN), "MLTIERS_EVENTS": str(folder / "events.jsonl")}
    env = environment(folder, ours)
    order, log = folder / "warm.json", folder / "output.log"
    own = ("conftest", "mine")
    keeping = Keeping(
        python=sys.executable, env={}, modules=job.modules, own=own, rewritten=(), tiers=frozenset(dict(job.tiers))
    )
    results: list[Result] = []
    began = time.perf_counter()
    with Kept(keeping, root=folder, variables=env, plugin=PLUGIN) as kept:
        for name, workers in job.tiers:
            told = {"modules": ["torch"], "later": ["torch._dynamo"], "own": own, "alone": workers == 1}
            order.write_text(json.dumps(told))
            xdist = ["-n", str(workers)] if workers > 1 else []
            words = [str(START), str(order), "--", "-p", "pytest_mltiers", *xdist, "tests"]
            done = supervise([sys.executable, *words], cwd=folder, env=env, deadline=180, log=log, kept=kept)
            taken = time.perf_counter() - began
            said = log.read_text(errors="replace")
            passed, last = verdict(done.exit_code or 0, said, expected)
            told = json.loads(order.read_text())
            if passed == expected and not (told["warm"] and told["kept"]):
                passed, last = -1, f"not warm: {told}"
            results.append((name, taken, passed, last))
            (folder / "events.jsonl").unlink(missing_ok=True)
            began = time.perf_counter()
    return results


def verdict(code: int, text: str, expected: int | None) -> tuple[int, str]:
    """(tests passed, last line); -1 and why where it did not work."""
    passed = sum(map(int, re.findall(r"(\d+) passed", text)[-1:]))
    last = (text.strip().splitlines() or [""])[-1][:160]
    if code or (expected and passed < expected):
        said = [line for line in text.splitlines() if "rror" in line] or [last]
        return -1, f"exit {code}: {said[0][:160]}"
    return passed, last


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


def memory(suite: Callable[[Path], None], runs: int, workers: int, only: list[str]) -> list[str]:
    """The table of one suite's memory."""
    folder = Path(tempfile.mkdtemp(prefix="speed-"))
    suite(folder)
    lines = [
        f"### {suite.__name__.replace('_', '-')}: memory, {workers} workers, {runs} runs",
        "",
        "| most at any time | PSS of all processes, median | range | processes |",
        "|---|---|---|---|",
    ]
    for peer in chosen(workers, only):
        if isinstance(peer, Peer) and peer.command is None:
            continue
        seen = []
        for _ in range(runs):
            with Memory() as found:
                once(peer, folder, None)
            seen.append((found.most / 1024, found.processes))
        sizes = [size for size, _ in seen]
        middle = f"{statistics.median(sizes):.0f} MiB | {min(sizes):.0f}–{max(sizes):.0f} MiB"
        lines.append(f"| {peer.name} | {middle} | {seen[-1][1]} |")
    shutil.rmtree(folder, ignore_errors=True)
    return [*lines, ""]


def chosen(workers: int, only: list[str]) -> list[Peer | Job]:
    """All, or those whose name holds one of these words."""
    everyone: list[Peer | Job] = [*jobs(workers), *peers(workers)]
    return [p for p in everyone if not only or any(word in p.name for word in only)]


def compare(suite: Callable[[Path], None], pairs: int, workers: int, only: list[str]) -> list[str]:
    """The table of one suite."""
    folder = Path(tempfile.mkdtemp(prefix="speed-"))
    suite(folder)
    everyone = chosen(workers, only)
    # It compiles, too.
    expected = once(Peer("collect", [sys.executable, "-m", "pytest", "tests"]), folder, None)[0][2]
    seen: dict[str, list[float]] = {}
    for peer in everyone:
        seen |= {name: [] for name in (dict(peer.tiers) if isinstance(peer, Job) else (peer.name,))}
    missing = [p.name for p in everyone if isinstance(p, Peer) and p.command is None]
    broken = dict.fromkeys(missing, "is not installed, or not for this Python")
    for number in range(pairs):
        turn = number % len(everyone)
        for peer in everyone[turn:] + everyone[:turn]:
            if peer.name in broken:
                continue
            for name, taken, passed, last in once(peer, folder, expected):
                if passed != expected:
                    broken[name] = f"{passed if passed >= 0 else '?'} of {expected} passed; {last}"
                seen[name].append(taken)
    shutil.rmtree(folder, ignore_errors=True)
    return rows(seen, broken, expected, suite)


def rows(
    seen: dict[str, list[float]], broken: dict[str, str], expected: int, suite: Callable[[Path], None]
) -> list[str]:
    """Markdown: medians, spread, and the median and range of the ratios of ours to it, round by round."""
    owns = [name for name in (COLD, SECOND) if seen.get(name)]
    lines = [
        f"### {suite.__name__.replace('_', '-')}: {(suite.__doc__ or '').strip()}",
        "",
        f"| {expected} tests | median | quartiles | {' | '.join(f'{name} ÷ it' for name in owns)} |",
        "|---|---|---|" + "---|" * len(owns),
    ]
    for name, times in seen.items():
        if name in broken or not times:
            lines.append(f"| {name} | – | – | {broken.get(name, 'never ran')} |" + " |" * (len(owns) - 1))
            continue
        low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
        cells = [name, f"{statistics.median(times):.2f} s", f"{low:.2f}–{high:.2f} s"]
        for own in owns:
            ratios = sorted(a / b for a, b in zip(seen[own], times, strict=False))
            told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
            cells.append("" if name.startswith("mltiers") else told)
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", default="")
    parser.add_argument("--suites", default="fast_shape,skewed")
    parser.add_argument("--only", default="")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})
    cpus = len(os.sched_getaffinity(0))
    names = ("pytest", "pytest-xdist", "execnet", "torch", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    lines = [
        f"{datetime.now(timezone.utc):%Y-%m-%d}: {options.pairs} rounds, {options.workers} workers on {cpus} CPUs,",
        f"load {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, {versions};",
        f"{platform.platform()}.",
        "",
    ]
    only = [word for word in options.only.split(",") if word]
    for name in options.suites.split(","):
        measure = memory if options.memory else compare
        lines += measure({"fast_shape": fast_shape, "skewed": skewed}[name], options.pairs, options.workers, only)
        print("\n".join(lines), flush=True)
    if options.out:
        options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
