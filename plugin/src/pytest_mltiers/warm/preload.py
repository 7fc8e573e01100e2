"""Imports modules so that a process forked afterwards cannot tell that it did not import them itself.

What would be noticed later is refused: a thread, a child process, an open file, a CUDA context; a pytest plugin (pytest
rewrites the assertions of plugins when it imports them); a module that a file of the project shadows; an environment
variable that was read here and is set by the tests to something else. What warns is hidden (``hidden``), or refused.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

from _mltiers_warm import standin
from _mltiers_warm.hidden import HIDDEN

NATIVE_PREFIXES = (
    "BLIS_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "GOMP_", "GOTO_", "HIP_", "HSA_", "KMP_", "LD_", "LIBOMP",
    "MALLOC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "ROCR_", "TBB_", "TF_",
    "TORCH_", "VECLIB_", "XLA_",
)  # fmt: skip
"""Variables that native code or the interpreter reads when it starts, which nobody sees."""

READ_IN_USE = frozenset(("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"))
"""Of them those that are read when CUDA is first used, and no process is forked in which it was: that opens its
files, which is found when a module is imported, or torch says so (``why_not_now``)."""

BASE = ("pytest", "_pytest", "execnet")
"""What every controller and worker imports, and pytest does not rewrite."""

_SCHEME = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


class Unfit(Exception):  # noqa: N818 -- not an error: a reason
    """``module`` must not be imported ahead; ``why``: the end of a sentence about it; ``done``: those before it."""

    def __init__(self, module: str, why: str) -> None:
        super().__init__(f"{module} {why}")
        self.module = module
        self.why = why
        self.done: tuple[str, ...] = ()


class NotWarm(Exception):  # noqa: N818 -- not an error: a reason
    """Why nothing can be forked from this process."""


class WatchedEnvironment:
    """The names of the environment variables that Python code reads, from now on until ``stop``."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.start()

    def start(self) -> None:
        """Watch (again)."""
        self._plain: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
        read, decode = self.read, os.fsdecode

        class Watched(dict[Any, Any]):
            def __getitem__(self, key: Any) -> Any:
                read.add(decode(key))
                return super().__getitem__(key)

        self._watched = Watched(self._plain)
        os.environ._data = self._watched  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Hand back the plain mapping, with what was set meanwhile."""
        if os.environ._data is self._watched:  # type: ignore[attr-defined]
            self._plain.clear()
            self._plain.update(self._watched)
            os.environ._data = self._plain  # type: ignore[attr-defined]

    def matters(self, name: str) -> bool:
        """Whether a different value of this variable could have led to a different import."""
        return name in self.read or (name.startswith(NATIVE_PREFIXES) and name not in READ_IN_USE)


@dataclass(frozen=True)
class Surroundings:
    """What the project brings that a module imported ahead must not get in the way of."""

    own: frozenset[str] = frozenset()  # top-level names that the project's own files may be imported by
    rewritten: frozenset[str] = frozenset()  # top-level names that the suite has pytest rewrite
    sets: frozenset[str] = frozenset()  # environment variables that the suite's files set when they are imported


def preload(modules: Iterable[str], around: Surroundings, environment: WatchedEnvironment) -> tuple[str, ...]:
    """Import ``modules`` in this order. Returns those that exist. What torch would import for its first optimiser has a
    stand-in after that, unless it is one of them (``standin``).

    Raises Unfit for the first that must not be imported ahead: this process is then of no use, but one that leaves
    that module out may be. Raises NotWarm where no process would be.
    """
    plugins = plugin_packages()
    descriptors, children = _descriptors(), _children()
    if _other_threads():
        raise NotWarm("this Python has threads before it has imported anything")
    monitoring = getattr(sys, "monitoring", None)
    tools = [monitoring.get_tool(number) for number in range(6)] if monitoring is not None else []
    if sys.gettrace() is not None or sys.getprofile() is not None or any(tools):
        raise NotWarm("this Python is traced from its start (coverage of subprocesses, a debugger)")
    done: list[str] = []
    left_alone = plugins | around.rewritten | around.own
    # What an import makes stays: looking for garbage in it, again and again, is a fifth of torch's import.
    collects = gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            if module.partition(".")[0] in left_alone or not _installed(module):
                continue
            before = set(sys.modules)
            with HIDDEN.recording() as seen:
                found = _import(module)
            fresh = set(sys.modules) - before  # also of one that is not there: its packages may be
            _look(module, fresh, around, plugins)
            if why := _left_behind(descriptors, children):
                raise Unfit(module, f"{why} when it is imported")
            if seen and (is_base(module) or not HIDDEN.hide(fresh, seen)):
                raise Unfit(module, f"warns when it is imported: {str(seen[0].message).strip()[:200]}")
            if found:
                done.append(module)
        standin.stand_in()
    except Unfit as unfit:
        unfit.done = tuple(done)
        raise
    finally:
        if collects:
            gc.enable()
    if set_later := sorted(name for name in around.sets if environment.matters(name)):
        raise NotWarm(f"the tests set {set_later[0]}, which is read by what would be imported ahead")
    return tuple(done)


def settle() -> None:
    """Take what was imported out of the garbage collector's sight: pages that are not written to stay shared.

    What an import leaves as garbage stays as well: to look for it takes a tenth of a second, on the way of every test.
    """
    gc.freeze()


def why_not_now(modules: dict[str, ModuleType] = sys.modules) -> str | None:
    """What speaks against a fork at this moment."""
    if others := _other_threads():
        return f"it has {others + 1} threads"
    torch = modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            return "it has initialised CUDA"
    except Exception:  # noqa: BLE001, S110 -- a fake or a broken torch has no CUDA
        pass
    return None


def base() -> Iterator[str]:
    """The modules of ``BASE``, and of pytest those that it imports before it looks at anything else."""
    yield from ("pytest", "execnet")
    found = getattr(sys.modules.get("_pytest.config"), "default_plugins", ())
    yield from (f"_pytest.{name}" for name in found)


def is_base(module: str) -> bool:
    """Whether it is one of those, or of their packages."""
    return module.partition(".")[0] in BASE


@cache
def plugin_packages() -> frozenset[str]:
    """The top-level names of every installed distribution that has a pytest plugin."""
    names: set[str] = set()
    for distribution in metadata.distributions():
        points = [point for point in distribution.entry_points if point.group == "pytest11"]
        if not points:
            continue
        names.update(point.value.partition(":")[0].partition(".")[0].strip() for point in points)
        for file in distribution.files or ():
            first = file.parts[0]
            if not first.endswith((".dist-info", ".egg-info", "..", ".pth")):
                names.add(first.partition(".")[0])
    return frozenset(names) - {"pytest", "_pytest", "py", "__pycache__"}


def _installed(module: str) -> bool:
    """Whether it comes from where packages are installed, and not from the project (editable, on PYTHONPATH)."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    homes = tuple(os.path.join(home, "") for home in {*site.getsitepackages(), site.getusersitepackages(), *_SCHEME})  # noqa: PTH118
    return bool(places) and all(place.startswith(homes) for place in places)


def _import(module: str) -> bool:
    try:
        if module == standin.NAME:
            standin.give_way()
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 -- whatever it raises, the tests shall see it raised
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return False
        raise Unfit(module, f"cannot be imported: {error!r}") from None
    return True


def _look(module: str, fresh: Collection[str], around: Surroundings, plugins: frozenset[str]) -> None:
    tops = {name.partition(".")[0] for name in fresh}
    for which, why in (
        (plugins, "is or imports {}, which has a pytest plugin"),
        (around.rewritten, "is or imports {}, whose assertions pytest is asked to rewrite"),
        (around.own, "is or imports {}, a name that the project's own files have"),
    ):
        if found := sorted(tops & which):
            raise Unfit(module, why.format(found[0]))


def _left_behind(descriptors: set[tuple[str, str]], children: set[str]) -> str | None:
    """What has been started or opened since there were these file descriptors and children."""
    if _children() - children:
        return "starts a process"
    if others := _other_threads():
        return f"starts {others} thread(s)"
    opened = _descriptors() - descriptors
    return f"opens the file {min(opened)[1]}" if opened else None


def _other_threads() -> int:
    """How many threads there are besides this one, once those have ended that end before a fork.

    OpenBLAS starts one for every core when NumPy is imported. Before a fork it ends them all (``pthread_atfork``, in
    its ``driver/others/memory.c``), and whoever then has work for them, parent or child, starts them again.
    """
    tasks = _tasks()
    if tasks > 1 and _has_openblas():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fork beside threads, from Python 3.12 on
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        tasks = _tasks()
    return tasks - 1


def _tasks() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _has_openblas() -> bool:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        return "openblas" in file.read()


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))  # noqa: PTH115
        except OSError:  # the one that lists them
            continue
    return found


def _children() -> set[str]:
    """The processes that this one has started and not waited for; empty also where the kernel does not say."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
            return set(file.read().split())
    except OSError:
        return set()
