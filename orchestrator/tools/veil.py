"""Takes secrets out of what other processes of the same user can read of ours: ``/proc/PID/environ``.

The tests run as the user we run as, and the kernel shows a process's *initial* environment to that user for as long as
the process lives, whatever it later deletes. Python has its own copy, so the original may be overwritten. This is no
wall against root, who may read all memory: docs/security.md says what is.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection
from pathlib import Path

_ENV_START, _ENV_END = 49, 50  # fields of /proc/self/stat, counted from 0


def veil_environment(names: Collection[str]) -> bool:
    """Overwrite the values of these variables in the kernel's view of our environment. False where it has none."""
    if sys.platform != "linux":
        return False
    try:
        shown = Path("/proc/self/environ").read_bytes()
        # The name of the program, in parentheses, may itself hold spaces: count from after it.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ENV_START - 2]), int(fields[_ENV_END - 2])
    except (OSError, ValueError, IndexError):
        return False
    if end - start != len(shown):
        return False  # the view is cut, or something has moved it: then this is not ours to write to
    offset = 0
    for entry in shown.split(b"\0"):
        name, separator, value = entry.partition(b"=")
        if separator and value and name.decode(errors="replace") in names:
            ctypes.memset(start + offset + len(name) + 1, ord("*"), len(value))
        offset += len(entry) + 1
    return True
