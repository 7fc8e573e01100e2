"""Devices for the processes of a tier, with a fake nvidia-smi and a fake torch in real pytest sessions."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_mltiers.gpus import Device, Queue, devices, holders, share, visible

GIB = 2**30
MACHINE = [Device(f"GPU-{n}", f"Fake {n}", 16 * GIB, "550.1") for n in range(4)]

# As much of torch as the plugin asks for: a device is what CUDA_VISIBLE_DEVICES names, and a test allocates by hand.
TORCH = """
import os

__version__ = "9.9"


class version:
    cuda = "12.9"


class cuda:
    used = False
    now = peak = 0

    @staticmethod
    def is_available():
        return bool(os.environ.get("CUDA_VISIBLE_DEVICES", "0"))

    @staticmethod
    def is_initialized():
        return cuda.used

    @staticmethod
    def device_count():
        return len(os.environ.get("CUDA_VISIBLE_DEVICES", "GPU-0").split(","))

    @staticmethod
    def get_device_name(index):
        return "Fake " + os.environ.get("CUDA_VISIBLE_DEVICES", "GPU-0").split(",")[index][-1]

    @staticmethod
    def memory_stats(index):
        return {"allocated_bytes.all.peak": cuda.peak, "allocated_bytes.all.allocated": cuda.peak}

    @staticmethod
    def max_memory_allocated(index=0):
        return cuda.peak

    @staticmethod
    def reset_peak_memory_stats(index=0):
        if not cuda.used:
            raise RuntimeError("Invalid device argument")  # as torch 2.11 on an H100
        cuda.peak = cuda.now

    @staticmethod
    def empty_cache():
        pass


def allocate(size):
    cuda.used = True
    cuda.now += size
    cuda.peak = max(cuda.peak, cuda.now)


def free(size):
    cuda.now -= size
"""


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes a machine with so many devices: gives the variables that put it there."""

    def make(count: int, *, memory: int = 16384, held: str = "") -> dict[str, str]:
        folder = tmp_path / "fakes"
        folder.mkdir(exist_ok=True)
        rows = "".join(f"GPU-{n}, Fake {n}, {memory}, 550.1\n" for n in range(count))
        script = folder / "nvidia-smi"
        printing = f"import sys; print({rows!r} if 'query-gpu' in sys.argv[1] else {held!r}, end='')"
        # A `#!` line cannot name a Python whose path has a space.
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(printing)} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        (folder / "torch").mkdir(exist_ok=True)
        (folder / "torch" / "__init__.py").write_text(TORCH)
        source = Path(__file__).resolve().parent.parent / "src"
        return {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{source}{os.pathsep}{folder}",
            "MLTIERS_GPUS": str(count),
        }

    return make


def test_what_the_driver_says_is_read() -> None:
    rows = {
        "gpu=uuid,name,memory.total,driver_version": [["GPU-a", "NVIDIA H100", "81559", "550.1"], ["broken"]],
        "compute-apps=gpu_uuid,pid,process_name,used_gpu_memory": [["GPU-a", "77", "python", "4000"], ["No devices"]],
    }
    (device,) = devices(rows.__getitem__)
    assert (device.id, device.name, device.memory) == ("GPU-a", "NVIDIA H100", 81559 * 2**20)
    (holder,) = holders(rows.__getitem__)
    assert (holder.pid, holder.name) == (77, "python")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]),
        ("", []),
        ("2,0", ["2", "0"]),
        ("1,-1,2", ["1"]),
        ("GPU-3", ["GPU-3"]),
        ("MIG-77", ["MIG-77"]),
    ],
)
def test_what_the_job_may_see(named: str | None, expected: list[str]) -> None:
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert [device.id for device in visible(environ, MACHINE)] == expected


@pytest.mark.parametrize(
    ("count", "workers", "expected"),
    [
        (4, 4, ["0", "1", "2", "3"]),
        (4, 2, ["02", "13"]),
        (3, 2, ["02", "1"]),
        (2, 5, ["0", "1", "0", "1", "0"]),
        (1, 3, ["0", "0", "0"]),
        (0, 2, ["", ""]),
    ],
)
def test_devices_go_round(count: int, workers: int, expected: list[str]) -> None:
    parts = share(MACHINE[:count], workers)
    assert ["".join(device.id[-1] for device in part) for part in parts] == expected


SUITE = """
    import os, json, pytest
    # Before any test, and before this file: a device that is chosen later is none.
    SEEN = os.environ.get("CUDA_VISIBLE_DEVICES")

    @pytest.mark.parametrize("n", range(12))
    def test_it(n, worker_id):
        import torch
        torch.allocate(1000 + n)
        torch.free(1000 + n)
        assert SEEN == os.environ["CUDA_VISIBLE_DEVICES"]
        with open(os.environ["SEEN_BY"], "a") as file:
            file.write(f"{worker_id} {SEEN}\\n")
    """


def seen(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        worker, devices = line.split()
        found.setdefault(worker, set()).add(devices)
    return found


@pytest.mark.parametrize(("count", "workers"), [(2, 2), (4, 2), (2, 3)])
def test_each_worker_has_devices_of_its_own(
    run_suite: Any, machine: Any, tmp_path: Path, count: int, workers: int
) -> None:
    variables = {**machine(count), "SEEN_BY": str(tmp_path / "seen")}
    run = run_suite(SUITE, "-p", "xdist", "-n", str(workers), "--dist", "load", variables=variables)
    assert run.code == 0, run.out
    expected = {f"gw{n}": {",".join(d.id for d in part)} for n, part in enumerate(share(MACHINE[:count], workers))}
    assert seen(tmp_path / "seen") == expected
    assert run.of("devices")[0]["devices"] == [f"Fake {n}" for n in range(count)]
    assert run.of("devices")[0]["driver"] == "550.1"
    assert {(e["torch"], e["cuda"]) for e in run.of("gpu")} == {("9.9", "12.9")}


def test_a_worker_that_replaces_a_dead_one_has_its_device(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    # The other worker leaves it something to run.
    waits = """if worker_id != "gw2":
            deadline = time.monotonic() + 30
            while "gw2" not in (open(os.environ["SEEN_BY"]).read() if os.path.exists(os.environ["SEEN_BY"]) else ""):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        import torch"""
    suite = SUITE.replace("import torch", waits, 1).replace(
        "    @pytest", "    import time\n    def test_dies(): os._exit(1)\n\n    @pytest", 1
    )
    variables = {**machine(2), "SEEN_BY": str(tmp_path / "seen")}
    run = run_suite(suite, "-p", "xdist", "-n", "2", "--dist", "load", variables=variables)
    assert run.code == 1
    assert "12 passed" in run.out
    (dead,) = {event["worker"] for event in run.of("crash")}
    found = seen(tmp_path / "seen")
    assert found["gw2"] == {f"GPU-{dead.removeprefix('gw')}"}
    assert sorted(map(sorted, found.values())) == [["GPU-0"], ["GPU-1"]]


def test_without_a_promise_nothing_is_touched(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    variables = {**machine(2), "SEEN_BY": str(tmp_path / "seen"), "MLTIERS_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0,1"}
    run = run_suite(SUITE, "-p", "xdist", "-n", "2", variables=variables)
    assert run.code == 0, run.out
    assert set().union(*seen(tmp_path / "seen").values()) == {"0,1"}
    assert run.of("devices") == []


def test_the_peak_of_each_test_and_of_all(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    suite = SUITE.replace(", worker_id", "").replace("{worker_id}", "main")
    run = run_suite(suite, variables={**machine(1), "SEEN_BY": os.devnull, "CUDA_VISIBLE_DEVICES": "GPU-0"})
    assert run.code == 0, run.out
    peaks = {event["nodeid"].partition("::")[2]: event["peak_bytes"] for event in run.of("memory")}
    assert peaks == {f"test_it[{n}]": 1000 + n for n in range(12)}
    assert run.of("gpu")[0]["peak_bytes"] == 1011


def test_a_process_that_was_left_behind_is_named(run_suite: Any, machine: Any) -> None:
    held = "GPU-0, 4242, python train.py, 8000\nGPU-9, 1, somebody elses, 1\n"
    run = run_suite("def test_it(): pass\n", variables=machine(1, held=held))
    assert [event["message"] for event in run.of("gpu-held")] == [
        "python train.py (pid 4242) held 8000 MiB of a GPU before the tests began"
    ]


def test_a_machine_without_a_driver_says_that_there_is_nothing(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    variables = machine(1)
    (tmp_path / "fakes" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    run = run_suite("def test_it(): pass\n", variables=variables)
    assert run.code == 0, run.out
    assert run.of("devices")[0]["devices"] == []


TURNS = """
    import json, os, time, pytest

    def using(size):
        place = os.environ["USED"]
        with open(place, "a") as file:
            file.write(json.dumps([time.time(), size, os.environ["CUDA_VISIBLE_DEVICES"]]) + "\\n")
        time.sleep(0.1)
        with open(place, "a") as file:
            file.write(json.dumps([time.time(), -size, os.environ["CUDA_VISIBLE_DEVICES"]]) + "\\n")

    @pytest.mark.gpu_memory("6GiB")
    @pytest.mark.parametrize("n", range(6))
    def test_six(n): using(6)

    @pytest.mark.gpu_memory("2GiB")
    @pytest.mark.parametrize("n", range(6))
    def test_two(n): using(2)

    @pytest.mark.parametrize("n", range(3))
    def test_alone(n): using(100)
    """


def test_tests_share_a_device_as_far_as_their_marks_fit(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    """16 GiB, of which three workers' contexts take 1.8: six and six and two fit, three times six do not."""
    used = tmp_path / "used"
    run = run_suite(TURNS, "-p", "xdist", "-n", "3", "--dist", "load", variables={**machine(1), "USED": str(used)})
    assert run.code == 0, run.out
    now, most, alone = 0, 0, []
    for _, size, device in sorted(json.loads(line) for line in used.read_text().splitlines()):
        assert device == "GPU-0"
        now += size
        most = max(most, now if now < 100 else 0)
        alone += [now] if now >= 100 else []
    assert most <= 14
    assert most > 6  # and it does share
    assert set(alone) == {100}


def test_the_contexts_of_all_workers_are_left_room(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    """13 GiB, in which there would be room for twice six, were it not for three workers' contexts."""
    used = tmp_path / "used"
    variables = {**machine(1, memory=13 * 1024), "USED": str(used)}
    run = run_suite(TURNS, "-p", "xdist", "-n", "3", "-k", "six", variables=variables)
    assert run.code == 0, run.out
    now = [0]
    for _, size, _ in sorted(json.loads(line) for line in used.read_text().splitlines()):
        now.append(now[-1] + size)
    assert now == [0, 6] * 6 + [0]


def test_a_waiting_test_spends_no_time_of_its_own(run_suite: Any, machine: Any, tmp_path: Path) -> None:
    variables = {**machine(1), "USED": str(tmp_path / "used"), "MLTIERS_PER_TEST": "1.8"}
    slow = TURNS.replace("sleep(0.1)", "sleep(0.8)")
    run = run_suite(slow, "-p", "xdist", "-n", "3", "-k", "alone", variables=variables)
    assert run.code == 0, run.out  # the last of three turns ends after 2.4 s
    assert "3 passed" in run.out


# --- the queue itself ----------------------------------------------------------------------------------------------


def hold(folder: str, memory: int, wanted: int | None, log: str, seconds: float) -> None:
    queue = Queue(Path(folder), memory)
    with queue.turn(wanted):
        with Path(log).open("a") as file:
            file.write(f"+{wanted}\n")
        time.sleep(seconds)
        with Path(log).open("a") as file:
            file.write(f"-{wanted}\n")


def test_whoever_dies_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    process = context.Process(target=hold, args=(str(tmp_path / "q"), 10, None, str(log), 600.0))
    process.start()
    deadline = time.monotonic() + 30
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    queue = Queue(tmp_path / "q", 10)
    with queue.turn(None), pytest.raises(AssertionError), _refused(queue).turn(1):
        pass


def _refused(queue: Queue) -> Queue:
    """The same queue to somebody who does not wait."""

    def impatient(_: float) -> None:
        raise AssertionError("it would wait")

    other = Queue(queue.folder, queue.memory)
    other._sleep = impatient
    return other


@pytest.mark.parametrize(
    ("held", "wanted", "waits"),
    [
        ([4, 4], 2, False),
        ([4, 4], 3, True),
        ([None], 1, True),
        ([1], None, True),
        ([], None, False),
        ([], 99, False),  # more than there is: all of it
        ([1], 99, True),
    ],
)
def test_who_waits_for_whom(tmp_path: Path, held: list[int | None], wanted: int | None, waits: bool) -> None:
    with contextlib.ExitStack() as stack:
        for amount in held:
            stack.enter_context(Queue(tmp_path / "q", 10).turn(amount))
        if waits:
            with pytest.raises(AssertionError, match="it would wait"), _refused(Queue(tmp_path / "q", 10)).turn(wanted):
                pass
        else:
            with _refused(Queue(tmp_path / "q", 10)).turn(wanted):
                pass


def test_a_device_of_unknown_memory_is_not_shared(tmp_path: Path) -> None:
    with Queue(tmp_path / "q", 0).turn(1), pytest.raises(AssertionError), _refused(Queue(tmp_path / "q", 0)).turn(1):
        pass
