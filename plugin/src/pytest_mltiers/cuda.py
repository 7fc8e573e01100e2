"""What this process has done with CUDA, without doing anything with it ourselves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def cuda_use(torch: Any, earlier: Iterable[int] = ()) -> dict[str, object] | None:
    """The devices this process can use and its largest allocation on any of them, in bytes.

    ``torch`` is the module, or None where nobody imported it. None where it never initialised CUDA: asking for more
    would do that, and take its memory and its time. ``earlier``: peaks from before somebody reset the statistics.
    """
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        devices = range(torch.cuda.device_count())
        statistics = [torch.cuda.memory_stats(device) for device in devices]
        peak = max((s.get("allocated_bytes.all.peak", 0) for s in statistics), default=0)
        # A test may have reset the peak (reset_peak_memory_stats) after it had freed everything.
        total = max((s.get("allocated_bytes.all.allocated", 0) for s in statistics), default=0)
        return {
            "devices": [torch.cuda.get_device_name(d) for d in devices],
            "peak_bytes": max(int(peak or total), *earlier, 0),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "torch": str(getattr(torch, "__version__", "")) or None,
            "cuda": getattr(getattr(torch, "version", None), "cuda", None),
        }
    except Exception:  # noqa: BLE001 -- a broken driver, another torch, a fake: then nothing is known
        return None


def reset_peaks(torch: Any) -> None:
    """Begin a new measurement of what is allocated at once, where CUDA is in use."""
    try:
        if torch is not None and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)
    except Exception:  # noqa: BLE001 -- as above
        return


def peak(torch: Any) -> int:
    """The largest allocation on any device since the last reset; 0 where CUDA was never used."""
    try:
        if torch is None or not torch.cuda.is_initialized():
            return 0
        devices = range(torch.cuda.device_count())
        return max((int(torch.cuda.max_memory_allocated(device)) for device in devices), default=0)
    except Exception:  # noqa: BLE001 -- as above
        return 0
