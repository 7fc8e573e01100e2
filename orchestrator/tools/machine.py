"""What this process may use of the machine: CPUs and memory, as limited by affinity and by the container's cgroups.

``os.cpu_count()`` is the host's: in a container with two of its 64 cores, ``pytest -n auto`` would start 64 workers.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.tools.tree import cgroup_directory

Read = Callable[[str], str | None]
"""The text of a file, or None where there is none."""


def read_text(path: str) -> str | None:
    """The text of a file, or None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def effective_cpus(read: Read = read_text, affinity: int | None = None) -> int:
    """How many processes can run at once: the CPUs we are bound to, and no more than the quota, rounded up. At least 1.

    Rounded up as Go and Java do: with a quota of 1.5, one process leaves a third of it unused.
    """
    cpus = _affinity() if affinity is None else affinity
    quotas = [quota for quota in (_cpu_quota(directory, read) for directory in _cgroups("cpu", read)) if quota]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def effective_memory(read: Read = read_text, physical: int | None = None) -> int:
    """How much memory, in bytes, this process and its children may use together: physical, or the limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if physical is None else physical
    limits = [limit for limit in (_memory_limit(directory, read) for directory in _cgroups("memory", read)) if limit]
    return min([machine, *limits])


def fingerprint(read: Read = read_text) -> dict[str, str]:
    """What this machine is, as far as it decides how long a computation takes: system, CPU model, cores of ours."""
    cpuinfo = read("/proc/cpuinfo") or ""
    models = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": next(models, "") or platform.processor() or "unknown",
        "cores": str(effective_cpus(read)),
    }


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _cgroups(controller: str, read: Read) -> Iterator[str]:
    """The folders whose limits bind us: our own cgroup's and all above it, of both versions."""
    mountinfo, cgroup = read("/proc/self/mountinfo"), read("/proc/self/cgroup")
    if mountinfo is None or cgroup is None:
        return
    for version in ("", controller):
        found = cgroup_directory(mountinfo, cgroup, version)
        if found is not None:
            point, directory = found
            yield directory
            while len(directory) > len(point):
                directory = directory.rpartition("/")[0]
                yield directory


def _cpu_quota(directory: str, read: Read) -> float | None:
    """CPUs per wall second that the cgroup of this folder grants; None: no limit."""
    text = read(f"{directory}/cpu.max")
    if text is None:
        text = f"{read(f'{directory}/cpu.cfs_quota_us') or 'max'} {read(f'{directory}/cpu.cfs_period_us') or '100000'}"
    try:
        quota, period = (int(field) for field in text.split())
    except ValueError:  # "max 100000"
        return None
    return quota / period if quota > 0 and period > 0 else None


def _memory_limit(directory: str, read: Read) -> int | None:
    """Bytes that the cgroup of this folder grants; None: no limit (version 1 writes a number near 2**63 for that)."""
    text = read(f"{directory}/memory.max") or read(f"{directory}/memory.limit_in_bytes") or ""
    try:
        return int(text) or None
    except ValueError:
        return None
