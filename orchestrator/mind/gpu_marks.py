"""The ``gpu_memory`` marks that tests could carry, from what they were seen to allocate. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from orchestrator.mind.records import Record

HEADROOM = 1.25  # a mark below what a test needs makes its neighbour fail
STEP = 2**29  # bytes: half a GiB


class GpuMark(Struct, frozen=True, kw_only=True):
    """A test, the most it was seen to allocate, and the mark that leaves room for it."""

    node_id: str
    peak_bytes: int

    @property
    def gibibytes(self) -> float:
        return max(1, math.ceil(self.peak_bytes * HEADROOM / STEP)) * STEP / 2**30

    @property
    def mark(self) -> str:
        return f'@pytest.mark.gpu_memory("{self.gibibytes:g}GiB")'


def gpu_marks(records: Sequence[Record]) -> tuple[GpuMark, ...]:
    """A mark for each test that was seen to use CUDA in any of these runs, the largest first."""
    peaks: dict[str, int] = {}
    for record in records:
        gpu = record.tier.result.gpu if record.tier.result is not None else None
        for node_id, peak in gpu.tests.items() if gpu is not None else ():
            peaks[node_id] = max(peak, peaks.get(node_id, 0))
    marks = [GpuMark(node_id=node_id, peak_bytes=peak) for node_id, peak in peaks.items() if peak > 0]
    return tuple(sorted(marks, key=lambda mark: (-mark.peak_bytes, mark.node_id)))
