"""Which CUDA devices the processes of a tier use, and when: each worker its own, and none more than fits on one.

Active where ``MLTIERS_GPUS`` promises devices. Under pytest-xdist every worker is given its own devices through
``CUDA_VISIBLE_DEVICES``, round-robin over those the job may see, before any code of the project is imported. Where
there are more workers than devices, workers share one and their tests take turns: tests with ``gpu_memory`` marks run
together as long as the marks fit into the device's memory together, a test without one has the device for itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_mltiers.cuda import peak, reset_peaks

CONTEXT_BYTES = 600 * 2**20
"""What a process takes of a device before its first tensor: CUDA's context and the kernels it has loaded."""

_PAUSE = 0.02
_DEVICES = "uuid,name,memory.total,driver_version"
_PROCESSES = "gpu_uuid,pid,process_name,used_gpu_memory"
_TURN = "mltiers_gpu_turns"


@dataclass(frozen=True)
class Device:
    """A CUDA device as the driver tells of it. ``memory`` in bytes; 0: unknown."""

    id: str  # for CUDA_VISIBLE_DEVICES
    name: str
    memory: int
    driver: str


@dataclass(frozen=True)
class Holder:
    """A process that held memory of a device before the tests."""

    device: str
    pid: int
    name: str
    memory: str


# --- what there is -------------------------------------------------------------------------------------------------


def nvidia_smi(query: str) -> list[list[str]]:
    """The rows that ``nvidia-smi --query-…`` prints; none where it is not there, fails or hangs."""
    command = ["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = done.stdout.splitlines() if done.returncode == 0 else []
    return [[cell.strip() for cell in row.split(",")] for row in rows if row.strip()]


def devices(ask: Callable[[str], list[list[str]]] = nvidia_smi) -> list[Device]:
    """The devices of the machine, in the driver's order."""
    found = []
    for row in ask(f"gpu={_DEVICES}"):
        if len(row) == 4:
            memory = int(row[2]) * 2**20 if row[2].isdecimal() else 0
            found.append(Device(id=row[0], name=row[1], memory=memory, driver=row[3]))
    return found


def holders(ask: Callable[[str], list[list[str]]] = nvidia_smi) -> list[Holder]:
    """The processes that hold memory of a device now."""
    rows = ask(f"compute-apps={_PROCESSES}")
    return [Holder(row[0], int(row[1]), row[2], row[3]) for row in rows if len(row) == 4 and row[1].isdecimal()]


def visible(environ: Mapping[str, str], machine: Sequence[Device]) -> list[Device]:
    """The devices the job may see. What CUDA_VISIBLE_DEVICES names may be a number, (the beginning of) a UUID, or a MIG
    device that only the driver knows.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(machine)
    found = []
    for name in filter(None, (part.strip() for part in named.split(","))):
        if name == "-1":
            break  # CUDA ignores it and everything after it
        known = [d for n, d in enumerate(machine) if name == str(n) or (not name.isdecimal() and d.id.startswith(name))]
        found.append(replace(known[0], id=name) if known else Device(name, "", 0, ""))
    return found


def share(found: Sequence[Device], workers: int) -> list[list[Device]]:
    """The devices of each worker, round-robin: several for each, or several workers for one."""
    if not found:
        return [[] for _ in range(workers)]
    if len(found) >= workers:
        return [list(found[worker::workers]) for worker in range(workers)]
    return [[found[worker % len(found)]] for worker in range(workers)]


# --- the session ---------------------------------------------------------------------------------------------------


def start(config: pytest.Config) -> None:
    """Begins to look after the devices in this process: it is xdist's controller, one of its workers, or alone."""
    workerinput = getattr(config, "workerinput", None)
    if not config.pluginmanager.hasplugin("dsession"):
        config.pluginmanager.register(Peaks(config), "pytest_mltiers.gpus.peaks")
    if workerinput is None:
        config.pluginmanager.register(Controller(config), "pytest_mltiers.gpus")
    elif workerinput.get(_TURN):
        folder, memory = workerinput[_TURN]
        config.pluginmanager.register(Turns(Queue(Path(folder), memory)), "pytest_mltiers.gpus")


class Controller:
    """Hands the devices out, and says what there is."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.found = visible(os.environ, devices())
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.turns: list[tuple[str, int] | None] = []
        self.started = 0

    @pytest.hookimpl(trylast=True)  # the stream has begun by then
    def pytest_sessionstart(self) -> None:
        events: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.events")
        if events is None:
            return
        names = [device.name or device.id for device in self.found]
        events.write("devices", devices=names, driver=next((d.driver for d in self.found if d.driver), None))
        mine = {device.id for device in self.found}
        for holder in holders():
            if holder.device in mine or not any(d.startswith("GPU-") for d in mine):
                said = f"{holder.name} (pid {holder.pid}) held {holder.memory} MiB of a GPU before the tests began"
                events.write("gpu-held", message=said)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        parts = share(self.found, len(specs))
        if not self.found:
            return
        self.folder = tempfile.TemporaryDirectory(prefix="mltiers-gpu-")
        for number, (spec, part) in enumerate(zip(specs, parts, strict=True)):
            # Set before anything is imported in the worker, and kept for the one that replaces it if it dies.
            spec.env["CUDA_VISIBLE_DEVICES"] = ",".join(device.id for device in part)
            sharers = sum(other[0].id == part[0].id for other in parts)
            memory = part[0].memory - sharers * CONTEXT_BYTES if part[0].memory else 0
            folder = Path(self.folder.name) / str(number % len(self.found))
            self.turns.append((str(folder), max(memory, 0)) if sharers > 1 else None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        visible_here = node.gateway.spec.env.get("CUDA_VISIBLE_DEVICES", "")
        known = [
            turn
            for turn, part in zip(self.turns, share(self.found, len(self.turns)), strict=True)
            if turn is not None and part and part[0].id == visible_here
        ]
        if known:
            node.workerinput[_TURN] = known[0]

    def pytest_unconfigure(self) -> None:
        if self.folder is not None:
            self.folder.cleanup()


class Peaks:
    """In a process that runs tests: the largest allocation of each of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.highest = 0

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        self.highest = max(self.highest, peak(sys.modules.get("torch")))
        reset_peaks(sys.modules.get("torch"))
        yield
        used = peak(sys.modules.get("torch"))
        self.highest = max(self.highest, used)
        events: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.events")
        if used and events is not None:
            events.write("memory", nodeid=item.nodeid, peak_bytes=used)


class Turns:
    """In a worker that shares its device: a test waits until its memory is free."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    # Around everything, so that no clock of the test runs while it waits.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        with self.queue.turn(needed(item)):
            yield
            _give_back()


def needed(item: pytest.Item) -> int | None:
    """The bytes a test may allocate, by its ``gpu_memory`` mark; None: it says nothing, and takes the whole device."""
    marker = item.get_closest_marker("gpu_memory")
    if marker is None:
        return None
    from pytest_mltiers.fixtures import memory_limit  # noqa: PLC0415 -- only where it is asked for

    return memory_limit(marker)


def _give_back() -> None:
    """What torch keeps of a device for later is free for the other workers."""
    torch: Any = sys.modules.get("torch")
    with contextlib.suppress(Exception):
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


# --- taking turns --------------------------------------------------------------------------------------------------


class Queue:
    """The memory of one device, shared by processes that may die at any time. First come, first served.

    Every process that waits or holds has a file of its own in ``folder``, named by its place in the queue, with the
    bytes it wants in it; it is locked as long as its process lives, so that the dead hold nothing.
    """

    def __init__(self, folder: Path, memory: int) -> None:
        self.folder = folder
        self.memory = memory
        folder.mkdir(parents=True, exist_ok=True)
        self._sleep = time.sleep  # suites replace it, and clocks

    @contextlib.contextmanager
    def turn(self, wanted: int | None) -> Iterator[None]:
        """Hold ``wanted`` bytes of the device (None: all of it) while the block lasts."""
        alone = wanted is None or self.memory <= 0  # of a device whose memory is not known, nothing can be shared
        ticket = self._queue_up(min(wanted or 0, self.memory), alone=alone)
        try:
            while not self._is_served(ticket):
                self._sleep(_PAUSE)
            yield
        finally:
            with self._locked():
                ticket.path.unlink(missing_ok=True)
                os.close(ticket.descriptor)

    def _queue_up(self, amount: int, *, alone: bool) -> _Ticket:
        with self._locked():
            last = max((int(path.name) for path in self._tickets()), default=0)
            path = self.folder / f"{last + 1:012d}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, b"alone" if alone else str(amount).encode())
            return _Ticket(path, descriptor)

    def _is_served(self, ticket: _Ticket) -> bool:
        """Whether everything before the ticket leaves it enough. (What comes after it waits for it.)"""
        with self._locked():
            before = [self._wants(path) for path in sorted(self._tickets()) if path.name < ticket.path.name]
            wanted = self._wants(ticket.path, own=True)
        held = [amount for amount in before if amount != 0]
        if wanted is None:
            return not held
        return None not in held and sum(amount or 0 for amount in held) + wanted <= self.memory

    def _wants(self, path: Path, *, own: bool = False) -> int | None:
        """The bytes of a ticket; None: all; 0: its process has died."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            if not own:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                    return 0
            text = os.read(descriptor, 32)
            return None if text == b"alone" else int(text)
        finally:
            os.close(descriptor)

    def _tickets(self) -> Iterable[Path]:
        return [path for path in self.folder.iterdir() if path.name.isdecimal()]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True)
class _Ticket:
    path: Path
    descriptor: int
