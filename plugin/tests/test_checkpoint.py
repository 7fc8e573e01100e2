"""The coverage of a run that is stopped, and that of a run that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_cov")

campaign = pytest.mark.campaign  # of the whole project's tests: exhaustive, in `make test-all` only
SOURCE = Path(__file__).parents[1] / "src"
SUBJECT = """
def early():
    a = 1
    return a

def late():
    b = 2
    return b

def never():
    return 3
"""
# Once-executed lines by the thousand: whatever a checkpoint loses, it loses here.
STRAIGHT = "def straight(stop=False):\n" + "".join(f"    x{n} = {n}\n" for n in range(20_000)) + "    return 0\n"


def command(*args: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "pytest_mltiers",
        "-p",
        "pytest_cov",
        "--cov=subject",
        "--cov-report=",
        *args,
    ]


def environment(folder: Path, interval: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST", "MLTIERS"))}
    checkpoint = {} if interval is None else {"MLTIERS_CHECKPOINT": interval}
    return {
        **kept,
        **checkpoint,
        "PYTHONPATH": str(SOURCE),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COVERAGE_FILE": str(folder / ".coverage"),
    }


def suite(folder: Path, subject: str, test: str) -> None:
    (folder / "subject.py").write_text(subject)
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")


def executed(folder: Path, name: str = "subject.py") -> list[int]:
    """The lines of the data files in ``folder``, combined, as a collector of results would."""
    env = {**os.environ, "COVERAGE_FILE": str(folder / ".coverage")}
    if not (folder / ".coverage").exists():
        subprocess.run([sys.executable, "-m", "coverage", "combine", "-q", "--keep"], cwd=folder, env=env, check=True)
    subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", "c.json"], cwd=folder, env=env, check=True)
    lines: list[int] = json.loads((folder / "c.json").read_text())["files"][name]["executed_lines"]
    return lines


HANGING = """
import ctypes, os, pathlib, subject, time

def test_early():
    subject.early()

def test_hangs():
    subject.late()
    {before}
    open("up", "w").write(str(os.getpid()))
    {hang}
"""
# Three: one may have begun before.
WAIT_FOR_CHECKPOINT = (
    "times = set()\n    while len(times) < 3: times |= {f.stat().st_mtime_ns for f in pathlib.Path().glob('.c*.ch*')}"
)


@pytest.mark.parametrize(("branch", "xdist"), [(False, False), (True, True)])
def test_what_was_executed_before_a_kill_is_kept(branch: bool, xdist: bool, tmp_path: Path) -> None:
    suite(tmp_path, SUBJECT, HANGING.format(before=WAIT_FOR_CHECKPOINT, hang="ctypes.PyDLL(None).sleep(60)"))
    os.mkfifo(tmp_path / "up")
    args = [*(["--cov-branch"] if branch else []), *(["-p", "xdist", "-n1"] if xdist else [])]
    with subprocess.Popen(
        command(*args), cwd=tmp_path, env=environment(tmp_path, "0.2"), stdout=-3, start_new_session=True
    ) as process:
        (tmp_path / "up").read_text()
        os.killpg(process.pid, signal.SIGKILL)
    assert executed(tmp_path) == [2, 3, 4, 6, 7, 8, 10]


def test_an_interrupted_run_keeps_everything(tmp_path: Path) -> None:
    suite(tmp_path, SUBJECT, HANGING.format(before="", hang="time.sleep(60)"))
    os.mkfifo(tmp_path / "up")
    with subprocess.Popen(command(), cwd=tmp_path, env=environment(tmp_path, "60"), stdout=-3) as process:
        (tmp_path / "up").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == pytest.ExitCode.INTERRUPTED
    assert executed(tmp_path) == [2, 3, 4, 6, 7, 8, 10]


def test_pytest_cov_alone_loses_everything_then(tmp_path: Path) -> None:
    suite(tmp_path, SUBJECT, HANGING.format(before="", hang="time.sleep(60)"))
    os.mkfifo(tmp_path / "up")
    with subprocess.Popen(command(), cwd=tmp_path, env=environment(tmp_path, None), stdout=-3) as process:
        (tmp_path / "up").read_text()
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert not list(tmp_path.glob(".coverage*"))


@pytest.mark.parametrize(
    "args",
    [
        (),
        pytest.param(("--cov-branch",), marks=campaign),
        pytest.param(("--cov-context=test",), marks=campaign),
        pytest.param(("-p", "xdist", "-n2"), marks=campaign),
    ],
    ids=" ".join,
)
def test_a_run_that_ends_well_measures_the_same(args: tuple[str, ...], tmp_path: Path) -> None:
    test = "import subject\n" + "".join(f"def test_{n}(): subject.straight()\n" for n in range(3))
    found = []
    for interval in (None, "0.01"):
        folder = tmp_path / str(interval)
        folder.mkdir()
        suite(folder, STRAIGHT, test)
        subprocess.run(command(*args), cwd=folder, env=environment(folder, interval), check=True, stdout=-3)
        assert [file.name for file in folder.glob(".coverage*")] == [".coverage"]
        found.append(executed(folder))
    assert found[0] == found[1]
    assert len(found[1]) == 20_002


def test_a_session_inside_a_session_leaves_it_alone(tmp_path: Path) -> None:
    inner = "def test_inner(pytester):\n pytester.makepyfile('def test_it(): pass')\n pytester.runpytest_inprocess()\n"
    test = f"import os, pathlib, subject\npytest_plugins = ['pytester']\n{inner}"
    test += f"def test_hangs():\n    subject.late()\n    {WAIT_FOR_CHECKPOINT}\n    os.kill(os.getpid(), 9)\n"
    suite(tmp_path, SUBJECT, test)
    args = command("-p", "pytester")
    subprocess.run(args, cwd=tmp_path, env=environment(tmp_path, "0.2"), check=False, stdout=-3)
    assert executed(tmp_path) == [2, 6, 7, 8, 10]


def test_without_coverage_there_is_no_file(tmp_path: Path) -> None:
    suite(tmp_path, SUBJECT, "def test_it(): pass\n")
    plain = [sys.executable, "-m", "pytest", "-p", "pytest_mltiers"]
    subprocess.run(plain, cwd=tmp_path, env=environment(tmp_path, "0.001"), check=True, stdout=-3)
    assert not list(tmp_path.glob(".coverage*"))


def test_packed_arcs_are_those_of_the_c_tracer(tmp_path: Path) -> None:
    """The packing is coverage.py's own business: measured and unpacked by both, it must say the same."""
    code = """
import coverage, sys
sys.path.insert(0, sys.argv[1])
from pytest_mltiers.checkpoint import arcs
cov = coverage.Coverage(branch=True, include=["*/subject.py"], data_file=None)
cov.start()
import subject
subject.early()
subject.late()
name, values = next(iter(cov._collector.data.copy().items()))
mine = sorted(arcs(values.copy()))
cov.stop()
assert mine == sorted(cov.get_data().arcs(name)), (mine, cov.get_data().arcs(name))
assert any(first < 0 for first, _ in mine) and any(second < 0 for _, second in mine)
"""
    suite(tmp_path, SUBJECT, "")
    subprocess.run([sys.executable, "-c", code, str(SOURCE)], cwd=tmp_path, check=True)


def test_it_tells_which_core_measures(tmp_path: Path) -> None:
    """Not the one that is usual on any Python, so that it is no guess."""
    suite(tmp_path, "def f():\n    return 1\n", "import subject\n\ndef test_it():\n    subject.f()\n")
    env = environment(tmp_path, "60") | {"COVERAGE_CORE": "pytrace", "MLTIERS_EVENTS": str(tmp_path / "events.jsonl")}
    done = subprocess.run(command(), cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["core"] for event in events if event["event"] == "coverage"] == ["pytrace"]
