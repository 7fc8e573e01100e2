"""A tier with GPUs, by the command: how many processes it gets, which device each has, and what they are forked from.

The driver and torch are stand-ins, as much of them as is asked: real CUDA is in benchmarks/gpu.md.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.tools.machine import effective_cpus
from tests.support.project import Project

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux only")

TORCH = """
import os

__version__ = "9.9"
IMPORTER = os.getpid()


class version:
    cuda = "12.9"


class cuda:
    peak = 0
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: cuda.peak > 0)
    device_count = staticmethod(lambda: len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))
    get_device_name = staticmethod(lambda index: "Fake " + os.environ["CUDA_VISIBLE_DEVICES"].split(",")[index])
    max_memory_allocated = staticmethod(lambda index=0: cuda.peak)
    memory_stats = staticmethod(lambda index: {"allocated_bytes.all.peak": cuda.peak})
    reset_peak_memory_stats = staticmethod(lambda index=0: None)
    empty_cache = staticmethod(lambda: None)
"""
TESTS = """
import os, pytest, torch
SEEN = os.environ.get("CUDA_VISIBLE_DEVICES")  # before any test

{mark}@pytest.mark.parametrize("n", range(8))
def test_it(n):
    torch.cuda.peak = 1000
    who = os.environ.get("PYTEST_XDIST_WORKER", "main")
    with open(os.environ["TOLD"], "a") as file:
        file.write(f"{{who}} {{SEEN}} {{'plain' if torch.IMPORTER == os.getpid() else 'forked'}}\\n")
"""
CONFIG = """version: 1
tiers:
  gpu: {{paths: [tests], when: [push], budget: 2m, gpus: {gpus}, env: {{OPENBLAS_NUM_THREADS: "1"}}}}
"""


@pytest.mark.parametrize(
    ("gpus", "mark", "expected"),
    [
        (1, "", {"main GPU-0,GPU-1 forked"}),
        (2, "", {"gw0 GPU-0 forked", "gw1 GPU-1 forked"}),
        (1, '@pytest.mark.gpu_memory("1GiB")\n', {f"gw{n} GPU-{n % 2} forked" for n in range(4)}),
    ],
)
def test_every_process_has_a_device_to_work_on(
    project: Callable[..., Project], tmp_path: Path, gpus: int, mark: str, expected: set[str]
) -> None:
    made = project({"ml-tiers.yml": CONFIG.format(gpus=gpus), "tests/test_it.py": TESTS.format(mark=mark)})
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    driver = fakes / "nvidia-smi"
    rows = "".join(f"GPU-{n}, Fake, 16384, 550.1\n" for n in range(2))
    printing = f"import sys; print({rows!r} if 'query-gpu' in sys.argv[1] else '', end='')"
    driver.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(printing)} "$@"\n')
    driver.chmod(driver.stat().st_mode | stat.S_IXUSR)
    installed = tmp_path / "base" / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    (installed / "torch").mkdir(parents=True)
    (installed / "torch" / "__init__.py").write_text(TORCH)
    told = tmp_path / "told"
    done = made.mltiers(
        "run",
        "gpu",
        PATH=f"{fakes}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=str(installed),
        PYTHONUSERBASE=str(tmp_path / "base"),
        TOLD=str(told),
        CUDA_VISIBLE_DEVICES="GPU-0,GPU-1",
    )
    assert done.code == 0, done.out + done.err
    count = min(len(expected), effective_cpus())
    assert done.document("gpu/result.json")["workers"] == count
    seen = told.read_text().splitlines()
    assert len(seen) == 8
    assert set(seen) <= expected
    said = f"{count} process{'es' if count > 1 else ''} for {gpus} GPU{'s' if gpus > 1 else ''}: "
    assert any(detail.startswith(said) for detail in done.document("plan.json")["tiers"]["gpu"]["details"])
