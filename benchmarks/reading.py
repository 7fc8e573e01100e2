"""What `mltiers report` costs beside the reports it reads: time and memory of whole processes, with floors and peers.

    python benchmarks/reading.py [--rounds 7] [--quick] [--peers FOLDER]        writes benchmarks/reading.md

Everything measured is the command a user types, on generated input: JUnit files of which one test in a hundred fails
with a traceback of thirty lines, and a git repository of 2,000 files with coverage and a change. The floor is a process
that does nothing but have expat pass over the same files. In every round each command runs once, the order moving on by
one, so a drift of the machine hits all alike; quoted are medians with quartiles, and ratios of medians. ``cpu`` is user
and system time by ``wait4``, which a busy machine moves less than wall time; ``peak`` is its ``ru_maxrss``.

The peers are installed into a virtual environment of their own, which is thrown away, or kept in ``--peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

MLTIERS = str(Path(sys.executable).parent / "mltiers")
PEERS = ("junitparser", "diff-cover", "pytest-benchmark")
PROJECT = "version: 1\nsource: [src]\ntiers:\n  unit: {paths: [tests], budget: 60m, when: [push]}\n"

# Handlers that do nothing: that they are called for every element is the least that any reader in Python pays.
FLOOR = """
import sys
from xml.parsers import expat
for name in sys.argv[1:]:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda tag, attributes: None
    parser.EndElementHandler = lambda tag: None
    parser.CharacterDataHandler = lambda text: None
    with open(name, "rb") as file:
        parser.ParseFile(file)
"""
JUNITPARSER = """
import sys
from junitparser import JUnitXml
tests = failed = 0
for name in sys.argv[1:]:
    for suite in JUnitXml.fromfile(name):
        for case in suite:
            tests += 1
            failed += any(result.text is not None for result in case.result)
print(tests, failed)
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one whole process took."""

    wall: float  # seconds
    cpu: float  # seconds, user and system, with its children
    peak: float  # MiB: the most that this process, or any one of its children, held


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to measure. ``codes``: the exit codes it may end with."""

    words: tuple[str, ...]
    cwd: Path
    codes: tuple[int, ...] = (0,)


def measure(command: Command) -> Cost:
    """Run it once. Raises SystemExit with what it printed where it ends otherwise than it should."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "MLTIERS_", "PYTEST_", "PYTHON"))}
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command.words, cwd=command.cwd, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code not in command.codes:
            output.seek(0)
            raise SystemExit(f"{command.words}: exit {code}\n{output.read().decode(errors='replace')[-2000:]}")
    return Cost(wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss / 1024)


def interleaved(commands: Mapping[str, Command], rounds: int) -> dict[str, list[Cost]]:
    """``rounds`` costs of each, after one round that fills caches and does not count."""
    names = list(commands)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            cost = measure(commands[name])
            if turn:
                costs[name].append(cost)
        print(f"round {turn} of {rounds}: {', '.join(names)}", file=sys.stderr)
    return costs


# --- input ---------------------------------------------------------------------------------------------------------


def write_junit(path: Path, tests: range) -> None:
    """A report as pytest writes it: one test in a hundred fails, with a traceback of thirty lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = sum(number % 100 == 7 for number in tests)
    with path.open("w", encoding="utf-8") as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="0" '
            f'failures="{failures}" skipped="0" tests="{len(tests)}" time="{len(tests) * 0.003:.3f}">'
        )
        for number in tests:
            module = f"tests.unit.part_{number // 5000}.test_module_{number // 50}"
            name = f"test_case_{number % 50}[{number % 7}-float32]"
            seconds = 0.001 + number % 13 * 0.0005
            case = f'<testcase classname="{module}.TestGroup{number // 10 % 5}" name="{name}" time="{seconds:.3f}"'
            file.write(f"{case} />" if number % 100 != 7 else f"{case}>{_failure(number, module)}</testcase>")
        file.write("</testsuite></testsuites>\n")


def _failure(number: int, module: str) -> str:
    path = module.replace(".", "/") + ".py"
    lines = [f"    values[{line}] = model(batch, seed={number})  # a line of the traceback" for line in range(27)]
    lines += [f"&gt;       assert loss &lt; {number}", f"E       assert {number + 1} &lt; {number}", ""]
    message = f"AssertionError: assert {number + 1} &lt; {number}"
    text = "\n".join([*lines, f"{path}:{number % 50 + 10}: AssertionError"])
    return f'<failure message="{message}">{text}</failure>'


def write_project(folder: Path) -> Path:
    """A project with one tier, `unit`."""
    (folder / "src").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "ml-tiers.yml").write_text(PROJECT, encoding="utf-8")
    return folder


def write_change(folder: Path, *, files: int, lines: int, changed: int) -> Path:
    """A repository whose branch changes a line in ``changed`` of its ``files``, with the coverage of all of them."""
    root = write_project(folder)
    (root / ".gitignore").write_text("/results\n/out\ncoverage.xml\n.mltiers\n", encoding="utf-8")
    names = [f"src/package_{number // 100}/module_{number}.py" for number in range(files)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(f"value_{line} = {line}\n" for line in range(1, lines + 1)), encoding="utf-8")
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgsign=false")

    def git(*arguments: str) -> None:
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "-m", "base")
    git("checkout", "--quiet", "-b", "change")
    for name in names[:: max(1, files // changed)][:changed]:
        text = (root / name).read_text(encoding="utf-8").replace("value_30 = 30\n", "value_30 = 31\n")
        (root / name).write_text(text, encoding="utf-8")
    git("commit", "--quiet", "-a", "-m", "change")
    write_junit(root / "results" / "unit" / "junit.xml", range(8, 20))
    executed, missing = [line for line in range(1, lines + 1) if line % 10], list(range(10, lines + 1, 10))
    document = {"meta": {"format": 3}, "files": {name: _covered(executed, missing) for name in names}}
    (root / "results" / "unit" / "coverage.json").write_text(json.dumps(document), encoding="utf-8")
    with (root / "coverage.xml").open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" ?><coverage line-rate="0.9"><sources><source>.</source></sources><packages>')
        file.write('<package name="src"><classes>')
        hits = "".join(f'<line number="{line}" hits="{int(line % 10 != 0)}"/>' for line in range(1, lines + 1))
        for name in names:
            file.write(f'<class name="{name}" filename="{name}"><methods/><lines>{hits}</lines></class>')
        file.write("</classes></package></packages></coverage>\n")
    return root


def _covered(executed: list[int], missing: list[int]) -> dict[str, object]:
    """One file as `coverage json` has it, with its regions: ten functions, and what is outside them."""
    regions = {}
    for part in range(10):
        own = range(30 * part + 1, 30 * part + 31)
        regions[f"function_{part}"] = {
            "executed_lines": [line for line in executed if line in own],
            "missing_lines": [line for line in missing if line in own],
            "excluded_lines": [],
        }
    whole = {"executed_lines": executed, "missing_lines": missing, "excluded_lines": []}
    return {**whole, "functions": {**regions, "": {**whole, "executed_lines": []}}, "classes": {"": whole}}


def write_benchmarks(root: Path, count: int) -> tuple[Path, Path]:
    """Two files of pytest-benchmark with ``count`` benchmarks; the first as the result of the tier `unit`."""
    write_junit(root / "results" / "unit" / "junit.xml", range(8, 20))
    paths = (root / "results" / "unit" / "benchmark.json", root / "before.json")
    for slower, path in enumerate(paths):
        rows = [_benchmark(number, slower) for number in range(count)]
        document = {
            "machine_info": {"node": "n", "machine": "x86_64", "python_version": "3.11.7", "system": "Linux"},
            "commit_info": {"id": "0" * 40, "dirty": False, "project": "p", "branch": "b"},
            "benchmarks": rows,
            "datetime": "2026-01-01T00:00:00+00:00",
            "version": "5.2.3",
        }
        path.write_text(json.dumps(document), encoding="utf-8")
    return paths


def _benchmark(number: int, slower: int) -> dict[str, object]:
    middle = 1e-3 * (1 + number % 17 / 10 + slower / 100)
    quarters = {"q1": middle * 0.98, "q3": middle * 1.02, "iqr": middle * 0.04, "ld15iqr": middle, "hd15iqr": middle}
    stats = {"min": middle * 0.95, "max": middle * 1.3, "mean": middle * 1.01, "stddev": middle * 0.03, "rounds": 100}
    outliers = {"iqr_outliers": 1, "stddev_outliers": 1, "outliers": "1;1", "ops": 1 / middle, "total": 100 * middle}
    return {
        "group": None,
        "name": f"test_{number}",
        "fullname": f"tests/test_speed.py::test_{number}",
        "params": None,
        "param": None,
        "extra_info": {},
        "options": {"disable_gc": False, "timer": "perf_counter", "min_rounds": 5, "max_time": 1.0, "min_time": 5e-6},
        "stats": {**stats, "median": middle, **quarters, **outliers, "iterations": 1},
    }


# --- what is measured ----------------------------------------------------------------------------------------------


def report(project: Path, results: Path) -> Command:
    """`mltiers report` of a folder; 1: there are failures."""
    return Command(words=(MLTIERS, "report", str(results), "--out", str(project / "out")), cwd=project, codes=(0, 1))


def junit_commands(folder: Path, peers: Path, *, tests: int, files: int) -> dict[str, Command]:
    """The commands over ``tests`` tests in so many files of one tier each."""
    project, results = write_project(folder / f"of_{tests}_in_{files}"), folder / f"results_{tests}_in_{files}"
    for number in range(files):
        tier = "unit" if files == 1 else f"unit-{number}"
        write_junit(results / tier / "junit.xml", range(tests * number // files, tests * (number + 1) // files))
    paths = tuple(map(str, sorted(results.glob("*/junit.xml"))))
    return {
        "bare expat pass": Command(words=(sys.executable, "-I", "-c", FLOOR, *paths), cwd=folder),
        "`mltiers report`": report(project, results),
        "junitparser, read only": Command(words=(str(peers), "-I", "-c", JUNITPARSER, *paths), cwd=folder),
    }


def change_commands(folder: Path, peers: Path, *, files: int) -> dict[str, Command]:
    root = write_change(folder / "change", files=files, lines=300, changed=min(100, files))
    diff_cover = (str(peers.parent / "diff-cover"), "coverage.xml", "--compare-branch", "main")
    return {
        "`mltiers report`": report(root, root / "results"),
        "diff-cover": Command(words=diff_cover, cwd=root),
    }


def benchmark_commands(folder: Path, peers: Path, *, count: int) -> dict[str, Command]:
    root = write_project(folder / "benchmarks")
    now, before = write_benchmarks(root, count)
    compare = (str(peers.parent / "pytest-benchmark"), "compare", str(before), str(now))
    return {
        "`mltiers report`": report(root, root / "results"),
        "pytest-benchmark compare": Command(words=compare, cwd=root),
    }


def peers_in(folder: Path) -> Path:
    """The Python of the virtual environment with the peers, made where it is not there yet."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "-qq", "--disable-pip-version-check", "install", *PEERS], check=True)
    return python


# --- the page ------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], form: str) -> str:
    """Median (first–third quartile)."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def table(costs: Mapping[str, Sequence[Cost]]) -> list[str]:
    """A row for each command, with its ratios to the first."""
    first = next(iter(costs.values()))
    floor = {what: statistics.median(getattr(cost, what) for cost in first) for what in ("wall", "cpu")}
    lines = ["| | wall, s | cpu, s | peak, MiB | wall ratio | cpu ratio |", "|---|--:|--:|--:|--:|--:|"]
    for name, own in costs.items():
        wall, cpu, peak = ([getattr(cost, what) for cost in own] for what in ("wall", "cpu", "peak"))
        ratios = (statistics.median(wall) / floor["wall"], statistics.median(cpu) / floor["cpu"])
        cells = (name, spread(wall, ".2f"), spread(cpu, ".2f"), f"{max(peak):.0f}", *(f"{r:.2f}" for r in ratios))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(sections: Mapping[str, Mapping[str, Sequence[Cost]]], *, command: str, versions: str, notes: str) -> str:
    lines = [
        "# Reading, judging and rendering",
        "",
        f"`{command}`, {datetime.now(timezone.utc):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} "
        f"cores, load {os.getloadavg()[0]:.1f}; {versions}. Whole processes, interleaved in rotating order; median "
        "(quartiles), the largest peak, ratios of medians to the first row. `mltiers report` reads, judges and writes "
        "comment.md, verdict.json, plan.json and report.html.",
    ]
    for title, costs in sections.items():
        lines += ["", f"## {title}", "", *table(costs)]
    return "\n".join(lines) + "\n" + notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, two rounds; writes nothing")
    parser.add_argument("--peers", type=Path, help="where the peers' virtual environment is kept")
    arguments = parser.parse_args()
    rounds, scale = (2, 10) if arguments.quick else (arguments.rounds, 1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        peers = peers_in(arguments.peers if arguments.peers is not None else folder / "peers")
        listed = [str(peers), "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"]
        found = {one["name"].replace("_", "-"): one["version"] for one in json.loads(subprocess.check_output(listed))}
        sections: dict[str, dict[str, list[Cost]]] = {}
        for tests, files in ((50_000, 1), (50_000, 8), (10_000, 1), (100_000, 1), (1_000_000, 1)):
            commands = junit_commands(folder, peers, tests=tests // scale, files=files)
            title = f"{tests // scale:,} tests in {files} file{'s' if files > 1 else ''}"
            if tests == 1_000_000:
                commands.pop("junitparser, read only")  # gigabytes
            sections[title] = interleaved(commands, rounds if tests < 1_000_000 else min(rounds, 3))
        changed = change_commands(folder, peers, files=2_000 // scale)
        sections[f"Coverage of a change: {2_000 // scale:,} files of 300 lines, 100 of them changed"] = interleaved(
            changed, rounds
        )
        compared = benchmark_commands(folder, peers, count=1_000 // scale)
        sections[f"{1_000 // scale:,} benchmarks"] = interleaved(compared, rounds)
    page_path = Path(__file__).with_suffix(".md")
    _, mark, kept = page_path.read_text(encoding="utf-8").partition("\n## Where") if page_path.exists() else ("",) * 3
    command = " ".join(["python benchmarks/reading.py", "--quick" if arguments.quick else f"--rounds {rounds}"])
    text = page(
        sections,
        command=command,
        versions=", ".join(f"{name} {found.get(name)}" for name in PEERS),
        notes=mark + kept,
    )
    if not arguments.quick:
        page_path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
