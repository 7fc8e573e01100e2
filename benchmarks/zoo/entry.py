"""One row of the zoo: a bug, a project that has it, and the same project without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What a user would write into `Subject(...)`: the keyword arguments, nothing of ours.
Parts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A mutant and its correct twin.

    ``correct`` and ``mutant`` build the parts of a subject (models and batches draw from torch's global generator,
    which the caller seeds). Both declare the same intent (``causal=True``, ``clip_norm=1.0`` ...): only the code
    differs.
    ``fidelity`` and ``source`` are for reproductions of published bugs: "original" runs the code that had the bug,
    "analogue" has the same cause in a smaller setting, "stub" only shows the symptom.
    """

    name: str
    kind: str
    bug: str
    correct: Callable[[], Parts]
    mutant: Callable[[], Parts]
    fidelity: str | None = None
    source: str | None = None
