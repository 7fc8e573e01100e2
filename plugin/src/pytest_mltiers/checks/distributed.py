"""Data-parallel training: after a step every rank holds the same model, and the one a single process would get."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import allowance, distance

Train = Callable[[int, int], nn.Module]
START = 180.0
"""Seconds that the ranks may take to start Python, import torch and meet."""


def ranks_agree(
    train: Train,
    *,
    world_size: int = 2,
    single: Callable[[int], nn.Module] | None = None,
    timeout: float = 60.0,
    tolerance: float = 512.0,
) -> None:
    """Parameters, gradients and buffers are bitwise equal on all ranks after ``train(rank, world_size)``.

    ``train``: a module-level function; it runs in ``world_size`` processes (2 to 4) with a gloo process group on the
    loopback interface already made, and returns its model after a step. ``single(world_size)``, if given, trains one
    model on all ranks' data in this process: parameters must then agree with it within ``tolerance * eps * max|p|``,
    which finds summed gradients. Fails naming the first tensor that differs, an exception of a rank, or, after
    ``timeout`` seconds, the ranks that still wait in a collective.
    """
    states = _run(train, world_size, timeout)
    for rank, state in enumerate(states[1:], 1):
        missing = set(states[0]) ^ set(state)
        for name in [*sorted(missing), *states[0]]:
            ours, theirs = states[0].get(name), state.get(name)
            if ours is None or theirs is None or ours.shape != theirs.shape or not torch.equal(ours, theirs):
                gap = f" by {distance(ours, theirs):.3g}" if ours is not None and theirs is not None else ""
                fail(
                    f"{name} differs between rank 0 and rank {rank}{gap} ({world_size} ranks)",
                    cause="gradients not exchanged (the wrapper bypassed, hooks lost, no_sync left on), different "
                    "initial weights, rank-dependent rates or clipping, buffers of batch norm",
                    fix="call the wrapped model, seed or broadcast weights, exchange before step(), use SyncBatchNorm",
                )
    if single is not None:
        reference = _state(single(world_size))
        for name, wanted in reference.items():
            if name.startswith("gradient of"):
                continue
            gap = distance(wanted, states[0][name])
            if gap > allowance(wanted, tolerance):
                fail(
                    f"{name} on {world_size} ranks differs by {gap:.3g} from one process on the same data",
                    cause="gradients summed instead of averaged, or the loss divided by the wrong count",
                    fix="divide by the world size once; average over the global batch",
                )


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = {f"parameter {n}": p.detach().cpu() for n, p in model.named_parameters()}
    state |= {f"gradient of {n}": p.grad.detach().cpu() for n, p in model.named_parameters() if p.grad is not None}
    return state | {f"buffer {n}": b.detach().cpu() for n, b in model.named_buffers()}


def _run(train: Train, world_size: int, timeout: float) -> list[dict[str, Tensor]]:
    name = getattr(train, "__qualname__", "")
    if not name or "<" in name or "." in name:
        raise TypeError("train must be a module-level function: every rank is a process that has to find it again")
    path = Path(inspect.getsourcefile(train) or "").resolve()
    with tempfile.TemporaryDirectory(prefix="mltiers-ranks-") as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo"),
            "OMP_NUM_THREADS": "1",
        }
        command = [
            sys.executable,
            "-m",
            __name__,
            train.__module__,
            str(path),
            name,
            folder,
            str(world_size),
            str(timeout),
        ]
        processes = [
            subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for rank in range(world_size)
        ]
        try:
            _wait(processes, folder, timeout)
            return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(world_size)]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.communicate()


def _wait(processes: list[subprocess.Popen[bytes]], folder: str, timeout: float) -> None:
    """Until all ranks are done; fails when one dies, or when time is up.

    The clock starts when every rank has joined the group: importing torch on a busy machine is not the subject's fault.
    """
    end = time.monotonic() + START
    started = False
    while any(p.poll() is None for p in processes):
        if not started and all(Path(folder, f"{rank}.joined").exists() for rank in range(len(processes))):
            started, end = True, time.monotonic() + timeout
        broken = [rank for rank, p in enumerate(processes) if p.poll() not in (None, 0)]
        if broken or time.monotonic() > end:
            break
        time.sleep(0.02)
    broken = [rank for rank, p in enumerate(processes) if p.poll() not in (None, 0)]
    if broken:
        output, _ = processes[broken[0]].communicate()
        last = (output.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        fail(
            f"rank {broken[0]} stopped with: {last}",
            cause="an exception in train(), or ranks that do not all join the same collectives",
            fix="run train() on one rank to see the traceback; join every collective on every rank",
        )
    waiting = [rank for rank, p in enumerate(processes) if p.poll() is None]
    if waiting:
        done = [rank for rank in range(len(processes)) if rank not in waiting]
        fail(
            f"rank(s) {waiting} still wait after {timeout:g} s (finished: {done or 'none'})",
            cause="a rank skips a collective that the others join, or joins them in another order",
            fix="call every collective on every rank, with empty tensors where there is nothing to say",
        )


def _find(module: str, path: str, name: str) -> Any:
    """The function ``name`` of a module, imported by name if that leads to the same file, else from the file."""
    try:
        found = importlib.import_module(module)
        if Path(found.__file__ or "").resolve() == Path(path):
            return getattr(found, name)
    except ImportError:
        pass
    spec = importlib.util.spec_from_file_location(module.rpartition(".")[2], path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def main(argv: list[str]) -> None:
    """One rank: make the process group, train, leave the state in the folder."""
    module, path, name, folder, world_size, _timeout, rank = argv
    torch.set_num_threads(1)
    train = _find(module, path, name)  # before the clock starts: imports are slow on a busy machine
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=int(rank),
        world_size=int(world_size),
        timeout=timedelta(seconds=START),
    )
    Path(folder, f"{rank}.joined").touch()
    model = train(int(rank), int(world_size))
    torch.save({n: t.clone() for n, t in _state(model).items()}, Path(folder, f"{rank}.pt"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
