"""Stacks of a process that cannot answer by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="no SIGURG on this system")

SOURCE = Path(__file__).parents[1] / "src"
BEGIN = f"""
import ctypes, os, sys, time
sys.path.insert(0, {str(SOURCE)!r})
from pytest_mltiers import stacks
stacks.enable(sys.argv[1])
"""

# Without what an outer pytest (under xdist, or mltiers itself) has set for its own.
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "MLTIERS_"))}


@contextmanager
def running(code: str, directory: Path, **env: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A python that runs ``code`` with stacks enabled, and the pids it printed on its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**OUTSIDE, **env},
    ) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        try:
            yield process, pids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


def answer(pid: int, directory: Path) -> str:
    """What the process writes when it is asked; waits for the end of the dump of the main thread."""
    os.kill(pid, signal.SIGURG)
    file = directory / f"{pid}.txt"
    for _ in range(2000):
        text = file.read_text()
        if "in <module>" in text:
            return text
        threading.Event().wait(0.005)
    raise AssertionError(f"no answer: {text}")


@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(60)",
        "ctypes.PyDLL(None).sleep(60)  # holds the GIL",
        "while True: pass",
    ],
)
def test_the_stack_of_a_stuck_process_names_the_function(wait: str, tmp_path: Path) -> None:
    code = f"def stuck():\n print(os.getpid(), flush=True)\n {wait}\nstuck()\n"
    with running(code, tmp_path) as (_, [pid]):
        text = answer(pid, tmp_path)
    assert text.startswith(f"process {pid}: ")
    assert "in stuck" in text


def test_a_worker_says_which_it_is(tmp_path: Path) -> None:
    code = "print(os.getpid(), flush=True)\ntime.sleep(60)\n"
    with running(code, tmp_path, PYTEST_XDIST_WORKER="gw3") as (_, [pid]):
        assert answer(pid, tmp_path).startswith(f"process {pid}, worker gw3: ")


def test_a_forked_process_answers_in_a_file_of_its_own(tmp_path: Path) -> None:
    code = """
r, w = os.pipe()
def loader():
    os.write(w, b"x")
    time.sleep(60)
def parent():
    print(os.getpid(), child, flush=True)
    time.sleep(60)
child = os.fork()
if child == 0:
    loader()
os.read(r, 1)
parent()
"""
    with running(code, tmp_path) as (_, [parent, child]):
        of_child = answer(child, tmp_path)
        of_parent = answer(parent, tmp_path)
    assert "in loader" in of_child
    assert "in parent" in of_parent
    assert "in loader" not in of_parent


def test_enabling_twice_changes_nothing(tmp_path: Path) -> None:
    code = (
        f"stacks.enable({str(tmp_path / 'other')!r})\nimport os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    with running(code, tmp_path) as (_, [pid]):
        answer(pid, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"{pid}.txt"]


def test_a_folder_that_is_not_there_stops_nobody(tmp_path: Path) -> None:
    code = "os.kill(os.getpid(), __import__('signal').SIGURG)  # ignored by default\n"
    subprocess.run([sys.executable, "-c", BEGIN + code, str(tmp_path / "nowhere")], check=True)


@pytest.mark.parametrize("xdist", [False, True])
def test_pytest_answers_from_its_first_conftest_on(xdist: bool, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "conftest.py").write_text(
        "import os, time\ndef stuck():\n"
        f" if bool(os.environ.get('PYTEST_XDIST_WORKER')) == {xdist}:\n"
        "  print(os.getpid(), file=open('pid', 'w'), flush=True)\n  time.sleep(60)\nstuck()\n"
    )
    (suite / "test_it.py").write_text("def test_it(): pass\n")
    os.mkfifo(suite / "pid")
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    command = [sys.executable, "-m", "pytest", "-p", "pytest_mltiers", *(["-p", "xdist", "-n1"] if xdist else [])]
    env = {
        **OUTSIDE,
        "PYTHONPATH": str(SOURCE),
        "MLTIERS_STACKS": str(stacks),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    with subprocess.Popen(command, cwd=suite, env=env, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            text = answer(int((suite / "pid").read_text()), stacks)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert "in stuck" in text
    assert text.startswith("process ")
    assert (", worker gw0: " in text.splitlines()[0]) == xdist
