"""Trends in the comment: Mermaid charts, which GitHub draws. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.mind.render.words import budget, details, duration, html_code, plural
from orchestrator.words.verdict import Insight, Series

# Mermaid's own first colour is all but white. These can be read on light and dark pages: the runs, the budget.
_COLOURS = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#4f7bc9, #d8504f"}}}}%%'


def charts(found: Insight, *, most: int) -> Iterator[str]:
    """One folded block with the tiers' durations over their newest runs; benchmarks have theirs in the report."""
    tiers = [series for series in found.trends if series.benchmark is None][:most]
    if tiers:
        title = f"How long {plural(len(tiers), 'tier')} took in the newest runs"
        yield details(title, "\n\n".join(_chart(series) for series in tiers))


def _chart(series: Series) -> str:
    """A line of minutes or seconds through the runs, oldest first, and one at the budget where that is near."""
    took = [point.seconds for point in series.points]
    highest = max(took)
    unit, name = (60.0, "minutes") if highest >= 120 else (1.0, "seconds")
    near = series.limit is not None and series.limit < 2 * highest
    top = 1.1 * max(highest, series.limit if near and series.limit is not None else 0.0)
    lines = [
        _COLOURS,
        "xychart-beta",
        f'  x-axis "runs, this one last" 1 --> {len(took)}',
        f'  y-axis "{name}" 0 --> {_number(top / unit)}',
        f"  line [{', '.join(_number(seconds / unit) for seconds in took)}]",
    ]
    if near and series.limit is not None:
        lines.append(f"  line [{', '.join([_number(series.limit / unit)] * len(took))}]")
    limit = f", its budget is {budget(series.limit)}" if series.limit is not None else ""
    text = "\n".join(lines)
    return f"{html_code(series.tier)}: {duration(took[-1])}{limit}\n\n```mermaid\n{text}\n```"


def _number(value: float) -> str:
    """Plain decimals: Mermaid's grammar has no exponents."""
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"
