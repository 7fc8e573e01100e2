"""The bug zoo: known bug classes in small projects, each beside the same project without the bug.

The checks of ``pytest_mltiers`` are measured against it (``benchmarks/checks.py``). Entries are never removed; what the
checks miss stays listed in ``benchmarks/checks.md``.
"""

from benchmarks.zoo import checkpoints, data, parallel, routing, sequences, tabular, traincheck, vision
from benchmarks.zoo.entry import Entry, Parts

ENTRIES: list[Entry] = [
    *tabular.ENTRIES,
    *vision.ENTRIES,
    *sequences.ENTRIES,
    *routing.ENTRIES,
    *data.ENTRIES,
    *checkpoints.ENTRIES,
    *parallel.ENTRIES,
]
TRAINCHECK: list[Entry] = traincheck.ENTRIES

__all__ = ["ENTRIES", "TRAINCHECK", "Entry", "Parts"]
