"""What coverage costs a suite of plain Python code, by core: `PYTHON benchmarks/cores.py [--rounds 5]`, with the Python
whose cost is asked for (pytest and pytest-cov are all it needs). Prints a table.

CPU seconds of whole processes, less those of a suite without tests; the ways of a round follow each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

CODE = """
def collatz(n):
    steps = 0
    while n != 1:
        if n % 2:
            n = 3 * n + 1
        else:
            n //= 2
        steps += 1
    return steps

def total(limit):
    return sum(collatz(n) for n in range(1, limit))
"""
TESTS = """
import pytest
from code_under_test import total

@pytest.mark.parametrize("n", range(60))
def test_total(n):
    assert total(1500) > 0
"""
CORE = """
import json, pathlib
def pytest_collection_finish():
    from coverage import Coverage
    current = Coverage.current()
    pathlib.Path("core.json").write_text(json.dumps(current._collector.tracer_name() if current else ""))
"""
WAYS = {
    "without coverage": ("", []),
    "C tracer, lines": ("ctrace", ["--cov=code_under_test"]),
    "sys.monitoring, lines": ("sysmon", ["--cov=code_under_test"]),
    "C tracer, branches": ("ctrace", ["--cov=code_under_test", "--cov-branch"]),
    "sys.monitoring, branches": ("sysmon", ["--cov=code_under_test", "--cov-branch"]),
}


def once(folder: Path, core: str, words: list[str], tests: str) -> tuple[float, str]:
    """(CPU seconds, the tracer that ran)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))} | {"PYTHONPATH": str(folder)}
    env |= {"COVERAGE_CORE": core} if core else {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "--cov-report=", tests]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout.decode(errors="replace"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, json.loads((folder / "core.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seen: dict[str, list[float]] = {way: [] for way in WAYS}
    ran: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "code_under_test.py").write_text(CODE)
        (folder / "conftest.py").write_text(CORE)
        (folder / "test_all.py").write_text(TESTS)
        (folder / "test_none.py").write_text("import code_under_test\n\ndef test_nothing():\n    pass\n")
        for _ in range(rounds):
            for way, (core, words) in WAYS.items():
                idle, _ = once(folder, core, words, "test_none.py")
                used, ran[way] = once(folder, core, words, "test_all.py")
                seen[way].append(used - idle)
    print(f"Python {platform.python_version()}, coverage {version('coverage')}, {rounds} rounds\n")
    print("| asked for | ran | CPU of the tests | × without coverage, median | range |\n|---|---|---|---|---|")
    bare = seen["without coverage"]
    for way, used in seen.items():
        ratios = sorted(a / b for a, b in zip(used, bare, strict=True))
        ratio = f"{statistics.median(ratios):.2f} | {ratios[0]:.2f}–{ratios[-1]:.2f}"
        print(f"| {way} | {ran[way] or '–'} | {statistics.median(used):.2f} s | {ratio} |")


if __name__ == "__main__":
    main()
