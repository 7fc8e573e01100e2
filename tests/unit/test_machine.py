"""What a container may use, from the files its kernel shows it."""

from __future__ import annotations

import os

import pytest

from orchestrator.tools.machine import effective_cpus, effective_memory
from orchestrator.tools.tree import cgroup_directory

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
# Docker without a cgroup namespace: the container's own cgroup is the root of the mount.
V1_DOCKER = V1.replace(" / /sys", " /docker/c0ffee /sys")
HYBRID = V1 + "33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def files(mountinfo: str, cgroup: str, **limits: str) -> dict[str, str]:
    return {"/proc/self/mountinfo": mountinfo, "/proc/self/cgroup": cgroup, **limits}


CPU = {
    "no cgroup at all": ({}, 8),
    "v2 without a limit": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "max 100000\n"}), 8),
    "v2 root has no cpu.max": (files(V2, "0::/"), 8),
    "v2 two CPUs": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "200000 100000\n"}), 2),
    "v2 one and a half is two": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "150000 100000\n"}), 2),
    "v2 a tenth is one": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "10000 100000\n"}), 1),
    "v2 other period": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "60000 20000\n"}), 3),
    "v2 more than we are bound to": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "6400000 100000\n"}), 8),
    "v2 limit of a parent": (
        files(
            V2,
            "0::/kubepods/pod1/c1\n",
            **{
                "/sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000\n",
                "/sys/fs/cgroup/kubepods/pod1/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/kubepods/cpu.max": "700000 100000\n",
            },
        ),
        3,
    ),
    "v2 nested tighter than parent": (
        files(
            V2,
            "0::/a/b\n",
            **{"/sys/fs/cgroup/a/b/cpu.max": "100000 100000\n", "/sys/fs/cgroup/a/cpu.max": "400000 100000\n"},
        ),
        1,
    ),
    "v2 garbage is no limit": (files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "what\n"}), 8),
    "v1 without a limit": (
        files(
            V1,
            "4:cpu,cpuacct:/\n3:memory:/\n",
            **{
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
        ),
        8,
    ),
    "v1 docker": (
        files(
            V1_DOCKER,
            "4:cpu,cpuacct:/docker/c0ffee\n",
            **{
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
        ),
        4,
    ),
    "v1 nested in docker": (
        files(
            V1_DOCKER,
            "4:cpu,cpuacct:/docker/c0ffee/tier\n",
            **{
                "/sys/fs/cgroup/cpu,cpuacct/tier/cpu.cfs_quota_us": "200000\n",
                "/sys/fs/cgroup/cpu,cpuacct/tier/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
        ),
        2,
    ),
    "hybrid: the limit is in v1": (
        files(
            HYBRID,
            "4:cpu,cpuacct:/x\n0::/\n",
            **{
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "50000\n",
            },
        ),
        2,
    ),
}


@pytest.mark.parametrize("case", CPU)
def test_cpus_of_a_container(case: str) -> None:
    shown, expected = CPU[case]
    assert effective_cpus(shown.get, affinity=8) == expected


def test_affinity_binds_below_the_quota() -> None:
    shown = files(V2, "0::/", **{"/sys/fs/cgroup/cpu.max": "400000 100000\n"})
    assert effective_cpus(shown.get, affinity=3) == 3


GIB = 1 << 30
MEMORY = {
    "no cgroup at all": ({}, 16 * GIB),
    "v2 max": (files(V2, "0::/a", **{"/sys/fs/cgroup/a/memory.max": "max\n"}), 16 * GIB),
    "v2 limit": (files(V2, "0::/a", **{"/sys/fs/cgroup/a/memory.max": f"{GIB}\n"}), GIB),
    "v2 limit of a parent": (
        files(V2, "0::/a/b", **{"/sys/fs/cgroup/a/b/memory.max": "max\n", "/sys/fs/cgroup/a/memory.max": f"{GIB}\n"}),
        GIB,
    ),
    "v1 no limit": (
        files(V1, "3:memory:/", **{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}),
        16 * GIB,
    ),
    "v1 limit": (
        files(V1, "3:memory:/x", **{"/sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{2 * GIB}\n"}),
        2 * GIB,
    ),
    "v1 docker": (
        files(V1_DOCKER, "3:memory:/docker/c0ffee", **{"/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"}),
        GIB,
    ),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory_of_a_container(case: str) -> None:
    shown, expected = MEMORY[case]
    assert effective_memory(shown.get, physical=16 * GIB) == expected


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "controller", "expected"),
    [
        (V2, "0::/", "", ("/sys/fs/cgroup", "/sys/fs/cgroup")),
        (V2, "0::/a/b", "", ("/sys/fs/cgroup", "/sys/fs/cgroup/a/b")),
        (V2, "0::/../other", "", ("/sys/fs/cgroup", "/sys/fs/cgroup")),
        (V2.replace(" / ", " /a "), "0::/a/b", "", ("/sys/fs/cgroup", "/sys/fs/cgroup/b")),
        (V2.replace(" / ", " /a "), "0::/ab", "", ("/sys/fs/cgroup", "/sys/fs/cgroup")),
        (V2.replace("/sys/fs/cgroup", "/mnt/c\\040g"), "0::/a", "", ("/mnt/c g", "/mnt/c g/a")),
        (V1, "4:cpu,cpuacct:/", "", None),
        (V2, "0::/", "cpu", None),
        (HYBRID, "4:cpu,cpuacct:/x\n0::/y", "", ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/y")),
        ("", "", "", None),
    ],
)
def test_where_our_cgroup_is(mountinfo: str, cgroup: str, controller: str, expected: tuple[str, str] | None) -> None:
    assert cgroup_directory(mountinfo, cgroup, controller) == expected


def test_on_this_machine() -> None:
    assert 1 <= effective_cpus() <= (os.cpu_count() or 1)
    assert 0 < effective_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_of_this_process_is_respected() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert effective_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
