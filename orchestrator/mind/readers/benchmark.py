"""pytest-benchmark's JSON as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from orchestrator.mind.readers.document import BrokenReportError, load_json_object
from orchestrator.words.results import Benchmark

MAX_BYTES = 256 * 1024 * 1024


class BenchmarkReport(Struct, frozen=True, kw_only=True):
    """The benchmarks of one process run, and the machine it ran on."""

    benchmarks: tuple[Benchmark, ...]
    machine: Mapping[str, Any]


def read_benchmarks(data: bytes) -> BenchmarkReport:
    """Read ``--benchmark-json``. Times are seconds; of ``extra_info`` ``peak_memory`` (bytes) and ``throughput`` (per
    second) are taken. Raises BrokenReportError.

    pytest-benchmark creates the file when pytest starts: an empty file means that no benchmark finished.
    """
    if not data:
        raise BrokenReportError("no benchmark finished")
    document = load_json_object(data, limit=MAX_BYTES)
    entries = document.get("benchmarks")
    if not isinstance(entries, list):
        raise BrokenReportError("it has no 'benchmarks': not a file of pytest-benchmark")
    machine = document.get("machine_info")
    return BenchmarkReport(
        benchmarks=tuple(_benchmark(position, entry) for position, entry in enumerate(entries)),
        machine=machine if isinstance(machine, dict) else {},
    )


def _benchmark(position: int, entry: Any) -> Benchmark:
    stats = entry.get("stats") if isinstance(entry, dict) else None
    name = (entry.get("fullname") or entry.get("name")) if isinstance(entry, dict) else None
    if not isinstance(stats, dict) or not isinstance(name, str) or not name:
        raise BrokenReportError(f"benchmark {position} has no name or no stats")
    return Benchmark(
        name=name,
        minimum=_seconds(name, stats, "min"),
        median=_seconds(name, stats, "median"),
        mean=_seconds(name, stats, "mean"),
        stddev=_seconds(name, stats, "stddev"),
        rounds=int(_seconds(name, stats, "rounds")),
        peak_memory=None if (peak := _extra(entry, "peak_memory")) is None else int(peak),
        throughput=_extra(entry, "throughput"),
    )


def _extra(entry: dict[str, Any], key: str) -> float | None:
    """A number that the benchmark itself put into ``benchmark.extra_info``; anything else there is its own affair."""
    extra = entry.get("extra_info")
    value = extra.get(key) if isinstance(extra, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _seconds(name: str, stats: dict[str, Any], key: str) -> float:
    value = stats.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise BrokenReportError(f"{key} of benchmark {name!r} is not a time: {value!r}")
    return float(value)
