"""Seeds and every state that depends on them: set, and put back as they were.

Nothing here imports torch or NumPy: what is not loaded yet has no state to keep.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


def seed_everything(seed: int) -> None:
    """Seed ``random``, NumPy's global generator, and torch on the CPU and all CUDA devices, as far as they are loaded.

    ``seed``: an integer in ``[0, 2**32)``, NumPy's range; a ``ValueError`` says so otherwise.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed must be in [0, 2**32), NumPy's range; got {seed}")
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def _torch_flags(torch: Any) -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """(read, write) of each global switch of torch that changes results."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda

    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    return [
        (deterministic, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1])),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (lambda: cudnn.deterministic, lambda value: setattr(cudnn, "deterministic", value)),
        (lambda: cudnn.benchmark, lambda value: setattr(cudnn, "benchmark", value)),
        (lambda: cudnn.allow_tf32, lambda value: setattr(cudnn, "allow_tf32", value)),
        (lambda: cuda.matmul.allow_tf32, lambda value: setattr(cuda.matmul, "allow_tf32", value)),
    ]


def _restorers() -> list[Callable[[], Any]]:
    """One function per state, each puts back what was there when this was called."""
    state = random.getstate()
    restore: list[Callable[[], Any]] = [lambda: random.setstate(state)]
    if numpy := sys.modules.get("numpy"):
        array_state = numpy.random.get_state()
        restore.append(lambda: numpy.random.set_state(array_state))
    if torch := sys.modules.get("torch"):
        tensor_state = torch.get_rng_state()
        restore.append(lambda: torch.set_rng_state(tensor_state))
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            device_states = torch.cuda.get_rng_state_all()
            restore.append(lambda: torch.cuda.set_rng_state_all(device_states))
        for read, write in _torch_flags(torch):
            restore.append(partial(write, read()))
    return restore


@contextmanager
def seeded(seed: int) -> Iterator[int]:
    """Run a block under ``seed`` and restore every generator and flag afterwards, also after an exception."""
    restore = _restorers()
    seed_everything(seed)
    try:
        yield seed
    finally:
        for put_back in restore:
            put_back()
