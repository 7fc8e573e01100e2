"""comparison.json: what came of comparing a tier's benchmarks with the base's. Untrusted, as all results are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from orchestrator.mind.readers.document import BrokenReportError, load_json_object
from orchestrator.words.results import Comparison

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as the document that `read_comparison` reads."""
    document: dict[str, Any] = msgspec.to_builtins(comparison)
    return {"version": VERSION, **document}


def read_comparison(data: bytes) -> Comparison:
    """Raises BrokenReportError for anything that `comparison_document` does not make."""
    facts = load_json_object(data, limit=MAX_BYTES)
    if facts.pop("version", None) != VERSION:
        raise BrokenReportError(f"this mltiers reads version {VERSION} of it")
    try:
        comparison = msgspec.convert(facts, Comparison, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise BrokenReportError(f"it is no comparison: {error}") from None
    for change in comparison.changes:
        numbers = (change.ratio, change.low, change.high or 0.0, change.seconds)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise BrokenReportError(f"it has no such times: {change.name}")
    return comparison


def merge_comparisons(parts: Sequence[Comparison]) -> Comparison | None:
    """One comparison of the parts of a tier that was split over machines; None of none."""
    if not parts:
        return None
    troubled = next((part for part in parts if part.problem is not None), parts[0])
    return replace(
        troubled,
        changes=tuple(change for part in parts for change in part.changes),
        alone={name: why for part in parts for name, why in part.alone.items()},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        blocks=sum(part.blocks for part in parts),
        seconds=max(part.seconds for part in parts),
    )
