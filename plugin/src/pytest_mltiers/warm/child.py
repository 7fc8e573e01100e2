"""A forked process made to look like one that has just been started, and its end without the interpreter's."""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import io
import os
import signal
import stat
import sys
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

from _mltiers_warm import Instead
from _mltiers_warm.frozen import give_back, keep_frozen

PR_SET_PDEATHSIG = 1
ARG_START = 47  # of /proc/self/stat, counted from 0
WATCHED_ENDS = ("LLVM_PROFILE_FILE", "GCOV_PREFIX", "ASAN_OPTIONS", "LSAN_OPTIONS", "HEAPPROFILE", "CPUPROFILE")
"""Variables of tools that write what they found when libc ends the process."""


def fresh_start(*, argv: list[str], orig_argv: list[str], path: list[str], environment: Mapping[str, str]) -> None:
    """What a new interpreter would have: its arguments, path, environment, main module, randomness, streams.

    The standard streams are made anew over descriptors 0 to 2.
    """
    keep_frozen()
    sys.argv, sys.orig_argv, sys.path = argv, orig_argv, path
    if dict(os.environ) != dict(environment):
        os.environ.clear()
        os.environ.update(environment)
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # forked from one state; the standard library's generator sees to itself
    if (tempfile := sys.modules.get("tempfile")) is not None:
        tempfile.tempdir = None


def standard_streams(*, unbuffered: bool) -> None:
    """New file objects for 0, 1 and 2, as ``python`` or ``python -u`` makes them."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, f"__{name}__")
        encoding, errors = (old.encoding, old.errors) if old is not None else ("utf-8", "surrogateescape")
        raw = io.FileIO(fd, "r" if fd == 0 else "w", closefd=False)
        buffer = io.BufferedReader(raw) if fd == 0 else raw if unbuffered else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            buffer,  # type: ignore[arg-type]
            encoding=encoding,
            errors=errors,
            newline=None if fd == 0 else "\n",
            line_buffering=(fd == 2 or raw.isatty()) and not (unbuffered and fd != 0),
            write_through=unbuffered and fd != 0,
        )
        stream.mode = "r" if fd == 0 else "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def retitle(command: list[str]) -> None:
    """Have ``ps`` show this command line for us, as far as the one we were started with leaves room for it."""
    import ctypes  # noqa: PLC0415

    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/cmdline", "rb") as file:  # noqa: PTH123
            shown = file.read()
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            start, end = (int(field) for field in file.read().rpartition(")")[2].split()[ARG_START - 2 :][:2])
        if shown and end - start == len(shown):
            title = b"\0".join(map(os.fsencode, command))[: len(shown) - 1]
            ctypes.memmove(start, title.ljust(len(shown), b"\0"), len(shown))


def die_with_parent(parent: int) -> None:
    """Have the kernel end us when the fork server ends; at once where it has ended already."""
    import ctypes  # noqa: PLC0415

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def ends_here(code: int) -> Iterator[None]:
    """Whatever happens in it, this forked process ends with ``code`` after it, unless it is to do something instead."""
    try:
        yield
    except Instead:
        raise
    except BaseException:  # noqa: BLE001 -- this is the bottom of the process
        os._exit(code)
    os._exit(code)


def run_and_leave(work: Callable[[], object]) -> NoReturn:
    """Leave the stack, run it as the main program of this process, and end as the interpreter would have ended."""
    raise Instead(functools.partial(_run_and_leave, work))


def _run_and_leave(work: Callable[[], object]) -> NoReturn:
    code: int | None = 0
    try:
        work()
    except SystemExit as end:
        code = _exit_code(end)
    except KeyboardInterrupt:
        _excepthook()
        code = None
    except BaseException:  # noqa: BLE001 -- this is the bottom of the process
        _excepthook()
        code = 1
    leave(code)


def leave(code: int | None) -> NoReturn:
    """End the process: wait for threads, run the handlers of ``atexit``, write out files; take nothing apart.

    Taking torch apart costs half a second and up, and the kernel does it as well. ``code`` None: as one that SIGINT
    ended.
    """
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with suppress(BaseException):
        _leave_operators()
    with suppress(BaseException):
        atexit._run_exitfuncs()
    if any(name in os.environ for name in WATCHED_ENDS) and code is not None:
        sys.exit(code)
    # Files that nobody closed: the interpreter would have done it while it took the modules apart.
    if _writes_a_file():
        give_back()
        gc.unfreeze()
        for thing in gc.get_objects():
            if type(thing) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
                with suppress(BaseException):
                    thing.flush()
    with suppress(BaseException):
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).fflush(None)
    if code is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code if code is not None else 130)


def _leave_operators() -> None:
    """Have torch's operators not taken back one by one at the end: their registrations end with the process."""
    take_back = getattr(sys.modules.get("torch.library"), "_del_library", None)
    if take_back is not None:
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            found = finalizer.peek()
            if found is not None and found[1] is take_back:
                finalizer.atexit = False


def _writes_a_file() -> bool:
    """Whether a file of this process is open for writing, beside the standard streams: looking for it takes a while.

    Beside our own, too, which needs no flushing.
    """
    # The plugin may be another version's, installed by the user.
    ours = getattr(sys.modules.get("pytest_mltiers.stacks"), "descriptor", lambda: -1)()
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            with suppress(OSError):
                writes = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
                if fd > 2 and fd != ours and writes and stat.S_ISREG(os.fstat(fd).st_mode):
                    return True
    except OSError:
        return True
    return False


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    with suppress(BaseException):
        print(end.code, file=sys.stderr)  # noqa: T201 -- as the interpreter does
    return 1


def _excepthook() -> None:
    kind, value, trace = sys.exc_info()
    try:
        sys.excepthook(kind, value, trace)  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001
        traceback.print_exception(kind, value, trace)
