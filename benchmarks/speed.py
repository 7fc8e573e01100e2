"""How fast a unit tier is, against what a team would use instead: the same suites, the same Python, pair by pair.

    python benchmarks/speed.py [--pairs 7] [--workers 2] [--cpus 0,1] [--out benchmarks/speed.md] [--only NAME,...]

Every command is one whole process, wall time; the commands of a round follow each other in a rotating order, so that a
drift of the machine hits all alike. A command that does not pass all tests is shown as not working, with its last line.
Peers that are not installed are named as such. `mltiers` is what a tier's command does with warm workers: everything of
ours but the orchestrator's own start is in it (benchmarks/overhead.md has that).
"""

from __future__ import annotations

import argparse
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
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "plugin" / "src"
START = PLUGIN / "pytest_mltiers" / "warm" / "start.py"
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
    """One way to run a suite's tests: the command (None: not installed), its environment, what to do beforehand."""

    name: str
    command: list[str] | None
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None


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


def peers(folder: Path, workers: int) -> list[Peer]:
    """Everything to compare, ours first."""
    python = [sys.executable]
    one = dict.fromkeys(THREADS, "1")
    order = folder / "warm.json"

    def ours() -> None:
        found = {"modules": ["torch"], "later": ["torch._dynamo"], "own": ["mine", "conftest"]}
        order.write_text(json.dumps(found))

    def module(name: str, *words: str) -> list[str] | None:
        return [*python, *words] if importlib.util.find_spec(name) else None

    n = str(workers)
    plugin = {"PYTHONPATH": str(PLUGIN)}
    streamed = {"MLTIERS_EVENTS": str(folder / "events.jsonl")}
    return [
        Peer(
            "mltiers, warm workers",
            [*python, str(START), str(order), "--", "-p", "pytest_mltiers", "-n", n, "tests"],
            {**one, **plugin, **streamed},
            ours,
        ),
        Peer(
            "mltiers, plain workers",
            [*python, "-m", "pytest", "-p", "pytest_mltiers", "-n", n, "tests"],
            {**one, **plugin, **streamed},
        ),
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


def once(peer: Peer, folder: Path, expected: int | None) -> tuple[float, int, str]:
    """(wall seconds, tests passed, last line). Never raises for what the command does."""
    assert peer.command is not None
    for left in (folder / "events.jsonl", folder / ".pytest_cache"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    peer.before()
    kept = {name: value for name, value in os.environ.items() if name not in THREADS and not name.startswith("PYTEST")}
    paths = [peer.env.get("PYTHONPATH"), str(folder), os.environ.get("PYTHONPATH")]
    env = {**kept, **peer.env, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            peer.command, cwd=folder, env=env, stdin=-3, stdout=-1, stderr=-2, timeout=180, check=False
        )
    except subprocess.TimeoutExpired:
        return 180.0, 0, "did not end within 180 s"
    taken = time.perf_counter() - began
    text = done.stdout.decode(errors="replace")
    passed = sum(map(int, re.findall(r"(\d+) passed", text)[-1:]))
    last = (text.strip().splitlines() or [""])[-1][:160]
    if done.returncode or (expected and passed < expected):
        said = [line for line in text.splitlines() if "rror" in line] or [last]
        return taken, -1, f"exit {done.returncode}: {said[0][:160]}"
    return taken, passed, last


def compare(suite: Callable[[Path], None], pairs: int, workers: int, only: list[str]) -> list[str]:
    """The table of one suite."""
    folder = Path(tempfile.mkdtemp(prefix="speed-"))
    suite(folder)
    everyone = [p for p in peers(folder, workers) if not only or any(word in p.name for word in only)]
    expected = once(Peer("collect", [sys.executable, "-m", "pytest", "tests"]), folder, None)[1]  # also compiles
    seen: dict[str, list[float]] = {peer.name: [] for peer in everyone}
    broken: dict[str, str] = {p.name: "is not installed, or not for this Python" for p in everyone if p.command is None}
    for number in range(pairs):
        turn = number % len(everyone)
        for peer in everyone[turn:] + everyone[:turn]:
            if peer.name in broken:
                continue
            taken, passed, last = once(peer, folder, expected)
            if passed != expected:
                broken[peer.name] = f"{passed if passed >= 0 else '?'} of {expected} passed; {last}"
                continue
            seen[peer.name].append(taken)
    shutil.rmtree(folder, ignore_errors=True)
    return rows(seen, broken, expected, suite)


def rows(
    seen: dict[str, list[float]], broken: dict[str, str], expected: int, suite: Callable[[Path], None]
) -> list[str]:
    """Markdown: medians, spread, and the ratio of medians of pairs to ours."""
    own = next(name for name in seen if seen[name])
    lines = [
        f"### {suite.__name__.replace('_', '-')}: {(suite.__doc__ or '').strip()}",
        "",
        f"| {expected} tests | median | quartiles | ours ÷ it, median of pairs | range |",
        "|---|---|---|---|---|",
    ]
    for name, times in seen.items():
        if name in broken or not times:
            lines.append(f"| {name} | – | – | {broken.get(name, 'never ran')} | |")
            continue
        ratios = sorted(a / b for a, b in zip(seen[own], times, strict=False))
        low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
        ratio = "" if name == own else f"{statistics.median(ratios):.2f}"
        spread = "" if name == own else f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
        lines.append(f"| {name} | {statistics.median(times):.2f} s | {low:.2f}–{high:.2f} s | {ratio} | {spread} |")
    return [*lines, ""]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", default="")
    parser.add_argument("--suites", default="fast_shape,skewed")
    parser.add_argument("--only", default="")
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
        lines += compare({"fast_shape": fast_shape, "skewed": skewed}[name], options.pairs, options.workers, only)
        print("\n".join(lines), flush=True)
    if options.out:
        options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
