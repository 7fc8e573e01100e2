"""How the report writes durations, tallies and line numbers. ``assets/js/dom.js`` writes them the same way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from orchestrator.judge import floor_percent
from orchestrator.model import Counts, KnownGap, RunVerdict, Verdict
from orchestrator.render.words import visible

VERDICT_WORDS = {verdict: verdict.value.capitalize().replace("-", " ") for verdict in Verdict}


def one_line(text: str, limit: int = 200) -> str:
    """The first line of ``text`` that says something, made visible, at most ``limit`` characters."""
    for line in text[: 20 * limit].splitlines():
        if stripped := visible(line).strip():
            return stripped if len(stripped) <= limit else stripped[: limit - 1] + "…"
    return ""


def fine_duration(seconds: float) -> str:
    """From tests of 0.4 ms to tiers of 1h 05m: "0.4 ms", "120 ms", "3.42 s", "42.1 s", "2m 14s"."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if 0 < milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s"


def percent(value: float | None) -> str:
    """``value`` percent, rounded down: 79.96 never reads as the 80 it failed to reach."""
    return "unknown" if value is None else f"{floor_percent(value)}%"


def many(count: int, noun: str) -> str:
    """``count`` with its noun and thousands told apart: "1 test", "50,000 tests"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def tally(counts: Counts) -> list[tuple[str, str, int]]:
    """What is worth saying of ``counts``, the worst first, as (outcome, word, number)."""
    rows = (
        ("failed", "failed", counts.failed),
        ("error", "error" if counts.error == 1 else "errors", counts.error),
        ("unfinished", "unfinished", counts.unfinished),
        ("passed", "passed", counts.passed),
        ("xpassed", "xpassed", counts.xpassed),
        ("xfailed", "xfailed", counts.xfailed),
        ("skipped", "skipped", counts.skipped),
    )
    return [row for row in rows if row[2]]


def headline(run: RunVerdict) -> str:
    """How the tiers ended, the worst first: "1 tier failed, 3 passed, 2 not run"."""
    numbers = Counter(tier.verdict for tier in run.tiers)
    parts = [(VERDICT_WORDS[verdict].lower(), numbers[verdict]) for verdict in Verdict if numbers[verdict]]
    if not parts:
        return "The plan has no tier."
    (word, number), *rest = parts
    first = "stopped by infrastructure" if word == "infrastructure" else word
    return ", ".join([f"{many(number, 'tier')} {first}", *(f"{n} {w}" for w, n in rest)])


def gap_words(gap: KnownGap) -> str:
    """What became of a part of the source that the configuration says no test reaches."""
    if not gap.found:
        return "there is no such file or function in what was measured: take it out of known-gaps"
    if gap.lines and gap.covered == gap.lines:
        return "no longer one, every line of it is covered: take it out of known-gaps"
    return f"{many(gap.lines, 'line')} not counted"


def line_ranges(lines: Iterable[int], limit: int) -> str:
    """Line numbers folded into ranges: {3, 4, 5, 9} is "3-5, 9"; after ``limit`` ranges "… 12 more"."""
    ranges: list[list[int]] = []
    for line in sorted(lines):
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:limit]]
    if len(ranges) > limit:
        words.append(f"… {len(ranges) - limit} more")
    return ", ".join(words)
