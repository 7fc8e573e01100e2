"""Has faulthandler answer a signal from outside with what every thread of this process is doing.

The orchestrator sends it before it stops a run that is over its budget. faulthandler answers from the C signal
handler, so also where a C extension holds the GIL for ever. The signal is ``SIGURG``: it is ignored by default, so it
does no harm to a process that has not registered for it, and training code does not use it (unlike ``SIGUSR1``:
Lightning, SLURM).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from typing import TextIO

_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = -1

_directory: str | None = None
_file: TextIO | None = None  # faulthandler keeps the descriptor only


def enable(directory: str) -> None:
    """Opens ``directory/PID.txt`` and registers faulthandler to write to it, in this process and in its forks.

    The first line names the process; nothing else is written before the signal comes. Never raises: a run without
    stacks is better than none.
    """
    global _directory  # noqa: PLW0603 -- signal handlers belong to the process
    if _directory is None and hasattr(signal, "SIGURG"):
        _directory = directory
        _register()
        os.register_at_fork(after_in_child=_register)


def file() -> TextIO | None:
    """Where the stacks of this process go; None where they are not enabled."""
    return _file


def descriptor() -> int:
    """Its descriptor, or -1. It is not closed before the process ends: that may hang, too."""
    return -1 if _file is None or _file.closed else _file.fileno()


def _register() -> None:
    global _file  # noqa: PLW0603
    pid = os.getpid()
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        # Not closed here: a forked process shares the handler with its parent until register() replaces it.
        _file = open(f"{_directory}/{pid}.txt", "w", encoding="utf-8")  # noqa: SIM115, PTH123
        name = f"process {pid}, worker {worker}" if worker else f"process {pid}"
        _file.write(f"{name}: {' '.join(' '.join(sys.orig_argv).split())[:200]}\n")
        _file.flush()
        faulthandler.register(signal.SIGURG, file=_file, all_threads=True, chain=False)
    _allow_py_spy()


def _allow_py_spy() -> None:
    """Lets py-spy look at us where the kernel (Yama, on Ubuntu) lets only parents do so."""
    with contextlib.suppress(OSError, AttributeError, ImportError):
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:  # noqa: PTH123
            if file.read().strip() != "1":
                return
        import ctypes  # noqa: PLC0415 -- 4 ms that only such a kernel costs

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
