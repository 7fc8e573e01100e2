"""What this process has done with CUDA, without doing anything with it ourselves."""

from __future__ import annotations

from typing import Any


def cuda_use(torch: Any) -> dict[str, object] | None:
    """The devices this process can use and its largest allocation on any of them, in bytes.

    ``torch`` is the module, or None where nobody imported it. None where it never initialised CUDA: asking for more
    would do that, and take its memory and its time.
    """
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        devices = range(torch.cuda.device_count())
        statistics = [torch.cuda.memory_stats(device) for device in devices]
        peak = max((s.get("allocated_bytes.all.peak", 0) for s in statistics), default=0)
        # A test may have reset the peak (reset_peak_memory_stats) after it had freed everything.
        total = max((s.get("allocated_bytes.all.allocated", 0) for s in statistics), default=0)
        return {"devices": [torch.cuda.get_device_name(d) for d in devices], "peak_bytes": int(peak or total)}
    except Exception:  # noqa: BLE001 -- a broken driver, another torch, a fake: then nothing is known
        return None
