"""A comparison of benchmarks in words: the same for the comment, the terminal and the report. Pure."""

from __future__ import annotations

from collections import Counter

from orchestrator.mind.compare import interval, moved, percent
from orchestrator.mind.render.words import plural
from orchestrator.words.results import BenchmarkChange, Change, Comparison

__all__ = ["against", "headline", "interval", "moved", "percent", "remarks", "short_time", "tally", "telling"]

_ORDER = (Change.SLOWER, Change.UNDECIDED, Change.FASTER)
_UNITS: tuple[tuple[float, str], ...] = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def short_time(seconds: float) -> str:
    """A duration to three digits: ``12.3 ms``."""
    scale, unit = next(((scale, unit) for scale, unit in _UNITS if seconds >= scale), _UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def tally(comparison: Comparison) -> str:
    """``1 slower, 2 faster, 9 same``: every benchmark that was compared is counted."""
    counted = Counter(change.change for change in comparison.changes)
    return ", ".join(f"{counted[change]} {change}" for change in Change if counted[change])


def against(comparison: Comparison) -> str:
    """``the base 0123456789``, or ``history``."""
    return f"the base {comparison.base[:10]}" if comparison.base else f"the {comparison.against}"


def headline(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    if comparison.problem is not None:
        partly = f"{tally(comparison)}; the rest " if comparison.changes else ""
        return f"{partly}not compared with {against(comparison)}: {comparison.problem}"
    gate = f", gate {comparison.gate:g}%" if comparison.gate is not None else ""
    what = "pair" if comparison.against == "base" else "earlier run"
    pairs = f", {plural(comparison.blocks, what)}{' of runs' if what == 'pair' else ''}" if comparison.blocks else ""
    return f"{tally(comparison) or 'none compared'} against {against(comparison)}{gate}{pairs}"


def telling(comparison: Comparison) -> list[BenchmarkChange]:
    """The benchmarks worth a row, the worst first: everything but those that are the same."""
    rows = [change for change in comparison.changes if change.change in _ORDER]
    return sorted(rows, key=lambda change: (_ORDER.index(change.change), -change.ratio, change.name))


def remarks(comparison: Comparison, *, most: int) -> list[str]:
    """What else is to be said: changed benchmarks, those without a counterpart, notes."""
    said = [
        f"the file of {change.name} differs from the base's; the head's ran on both"
        for change in telling(comparison)
        if change.edited
    ]
    said += [f"{one.name} changed with {one.since[:10]}" for one in telling(comparison) if one.since]
    said += [f"{name} {why}" for name, why in comparison.alone.items()]
    shown = said[:most]
    if hidden := len(said) - len(shown):
        shown.append(f"and {plural(hidden, 'more remark')}")
    return [*shown, *comparison.notes]
