"""The verdict for a terminal or a plain log. Pure."""

from __future__ import annotations

import textwrap

from orchestrator.mind.judge import floor_percent
from orchestrator.mind.render.benchmarks import headline, interval, moved, remarks, telling
from orchestrator.mind.render.causes import insight_of
from orchestrator.mind.render.words import SYMBOLS, budget, counts, duration, plural, shorten, surprise, visible
from orchestrator.words.results import Ending
from orchestrator.words.verdict import Insight, RunVerdict, Standing, TierVerdict, Verdict

_LISTED = 20
_COLORS = {
    Verdict.PASSED: "32",
    Verdict.FLAKY: "33",
    Verdict.NOT_RUN: "2",
    Verdict.SUPERSEDED: "2",
}
_BAD = "31"


def render_terminal(run: RunVerdict, *, width: int, color: bool) -> str:
    """The table of tiers, why anything is not simply passed, and the failing tests; ends in a line feed.

    ``width`` is in columns; nothing but reasons and commands may be longer. ``color``: with ANSI colours.
    """
    header = ("tier", "verdict", "tests", "time / budget", "coverage")
    rows = [header, *(_row(tier) for tier in run.tiers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [""]
    for row, tier in zip(rows, (None, *run.tiers), strict=True):
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=True)]
        if tier is not None:
            cells[1] = _paint(cells[1], tier.verdict, color=color)
        lines.append(f"{SYMBOLS[tier.verdict] if tier is not None else '  '} {'  '.join(cells).rstrip()}")
    lines += _reasons(run)
    found = insight_of(run)
    lines += _failures(found, width)
    lines += _flakes(found, width)
    lines += _slower(found, width)
    lines += _comparisons(run)
    lines += ["", _paint(_headline(run), run.verdict, color=color)]
    return "\n".join(lines) + "\n"


def _row(tier: TierVerdict) -> tuple[str, ...]:
    name = tier.name if tier.plan.required else f"{tier.name} (optional)"
    result = tier.result
    if result is None or result.ending is Ending.NOT_STARTED:
        return name, str(tier.verdict), "", f"– / {budget(tier.plan.budget)}", ""
    percent = result.coverage.percent if result.coverage is not None else None
    covered = f"{floor_percent(percent)}%" if percent is not None else ("unknown" if tier.plan.coverage else "–")
    spent = f"{duration(result.seconds)} / {budget(tier.plan.budget)}"
    return name, str(tier.verdict), counts(result.counts, flaky=result.flaky), spent, covered


def _reasons(run: RunVerdict) -> list[str]:
    lines = [f"  {visible(reason)}" for reason in run.reasons]
    for tier in run.tiers:
        if tier.verdict is not Verdict.PASSED or (tier.result is not None and tier.result.deferred):
            lines += [f"  {tier.name}: {visible(reason)}" for reason in tier.reasons]
        lines += [f"  {tier.name}: {visible(note)}" for note in (*tier.plan.notes, *_notes(tier))]
    lines += [f"  {visible(note)}" for note in run.plan.notes]
    return ["", *lines] if lines else []


def _notes(tier: TierVerdict) -> tuple[str, ...]:
    told = surprise(tier.plan, tier.result)
    return (*(tier.result.notes if tier.result is not None else ()), *((told,) if told else ()))


def _failures(found: Insight, width: int) -> list[str]:
    lines = []
    for cause in found.causes[:_LISTED]:
        first = cause.tests[0]
        tiers = ", ".join(cause.tiers[:3])
        said = f" · {visible(first.message)}" if first.message else ""
        lines.append("  " + shorten(f"{tiers}: {first.outcome} {visible(first.node_id)}{said}", max(40, width - 2)))
        if (others := len(cause.tests) - 1) > 0:
            lines.append(f"    and {plural(others, 'more test')} with the same cause")
        remarks = [str(cause.standing)] if cause.standing is not Standing.UNKNOWN else []
        lines += _within("    " + " · ".join([*remarks, *map(visible, cause.remarks)]), width)
        lines.append(f"    {visible(cause.rerun)}")
    if (hidden := len(found.causes) - _LISTED) > 0:
        lines.append(f"  and {plural(hidden, 'more cause')}, listed in the report")
    return ["", *lines] if lines else []


def _flakes(found: Insight, width: int) -> list[str]:
    lines = []
    for flake in found.flakes[:_LISTED]:
        said = " · ".join(map(visible, flake.remarks))
        lines += _within(f"  {', '.join(flake.tiers[:3])}: flaky {visible(flake.test.node_id)} · {said}", width)
        excerpt = visible(flake.excerpt, newlines=True).splitlines()
        lines += [shorten(f"    | {line}", max(40, width)) for line in excerpt]
    if (hidden := len(found.flakes) - _LISTED) > 0:
        lines.append(f"  and {plural(hidden, 'more flaky test')}, listed in the report")
    return ["", *lines] if lines else []


def _slower(found: Insight, width: int) -> list[str]:
    lines = []
    for one in found.slower[:_LISTED]:
        took = f"{duration(one.seconds)}, usually {duration(one.before)}"
        lines += _within(f"  {one.tier}: slower {visible(one.node_id)} · {took}", width)
    return ["", *lines] if lines else []


def _within(line: str, width: int) -> list[str]:
    """The line, folded at spaces: half a sentence is worth nothing."""
    return textwrap.wrap(
        line, max(40, width), subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )


def _comparisons(run: RunVerdict) -> list[str]:
    """What the benchmarks are against their base; only those that are not the same get a line."""
    lines: list[str] = []
    for tier in run.tiers:
        comparison = tier.result.comparison if tier.result is not None else None
        if comparison is None:
            continue
        found = telling(comparison)
        lines += ["", f"  {tier.name}: benchmarks: {visible(headline(comparison))}"]
        lines += [f"    {one.change} {visible(one.name)}: {moved(one)} ({interval(one)})" for one in found[:_LISTED]]
        if len(found) > _LISTED:
            lines.append(f"    and {len(found) - _LISTED} more, listed in the report")
        lines += [f"    {visible(remark)}" for remark in remarks(comparison, most=_LISTED)]
    return lines


def _headline(run: RunVerdict) -> str:
    said = f"{SYMBOLS[run.verdict]} {run.verdict}"
    ran = sum(1 for tier in run.tiers if tier.result is not None)
    said += f" · {ran} of {plural(len(run.tiers), 'tier')} run"
    if run.coverage is not None and (percent := run.coverage.percent) is not None:
        said += f" · coverage {floor_percent(percent)}%"
    if run.patch is not None and run.patch.percent is not None:
        said += f" · of the change {floor_percent(run.patch.percent)}%"
    return said


def _paint(text: str, verdict: Verdict, *, color: bool) -> str:
    return f"\x1b[{_COLORS.get(verdict, _BAD)}m{text}\x1b[0m" if color else text
