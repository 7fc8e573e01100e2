"""The small phrases every rendering shares, and the escapes that keep hostile names from becoming markup.

``assets/js/dom.js`` writes durations, counts and percentages the same way.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from html import escape

from orchestrator.mind.judge import floor_percent
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Counts, Ending, TierResult
from orchestrator.words.verdict import CarriedLines, KnownGap, SkippedHere, Verdict

SYMBOLS = {
    Verdict.PASSED: "✅",
    Verdict.FLAKY: "🔁",
    Verdict.FAILED: "❌",
    Verdict.OVER_BUDGET: "⏱️",
    Verdict.NEVER_STARTED: "💤",
    Verdict.INFRASTRUCTURE: "🔧",
    Verdict.CANCELLED: "⛔",
    Verdict.SUPERSEDED: "⏭️",
    Verdict.NOT_RUN: "⚪",
}

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_MARKUP = {ord(character): f"\\{character}" for character in "\\`*_{}[]<>#|~$"}
_MENTION = re.compile(r"@(?=\w)")
_SCHEME = re.compile(r"(https?|ftp)://")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # controls, bidi overrides, surrogates, private use, separators


def duration(seconds: float) -> str:
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


def budget(seconds: float) -> str:
    """As it is written in ml-tiers.yml: 90s, 2m, 1h30m. Nothing (0) is the budget of a tier that none is known of."""
    if not seconds:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if whole < 120 and rest:
        return f"{seconds:g}s"
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n) or f"{seconds:g}s"


def expected(plan: TierPlan) -> str:
    """What a tier was expected to take: "38.0 s (33.0 s – 47.0 s)"; nothing where nobody knew."""
    if plan.predicted_seconds is None:
        return ""
    said = duration(plan.predicted_seconds)
    if plan.predicted_low is None or plan.predicted_high is None:
        return said
    return f"{said} ({duration(plan.predicted_low)} – {duration(plan.predicted_high)})"


def gpu_minutes(plan: TierPlan, seconds: float) -> str:
    """What so many seconds on all machines of a tier cost: "12.5 GPU minutes"; nothing for a tier without GPUs."""
    minutes = plan.gpus * plan.shards * seconds / 60
    return f"{minutes:.1f} GPU minutes" if plan.gpus else ""


def cost(plan: TierPlan, seconds: float) -> str:
    """What so many seconds on all machines of a tier cost, for a table: "12.5 GPU min", "0.2 min"."""
    minutes = max(plan.gpus, 1) * plan.shards * seconds / 60
    return ("<0.1" if 0 < minutes < 0.05 else f"{minutes:.1f}") + (" GPU min" if plan.gpus else " min")


def memory(size: int | None) -> str:
    """Bytes for people: "1.25 GiB", "310 MiB"; nothing for what is not known."""
    if size is None:
        return ""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def per_second(number: float | None) -> str:
    """A throughput: "1,250 / s", "3.2 / s"; nothing for what is not known."""
    if number is None:
        return ""
    return f"{number:,.0f} / s" if number >= 100 else f"{number:.3g} / s"


def surprise(plan: TierPlan, result: TierResult | None) -> str:
    """That a tier took much more, or less, than expected; nothing where it did not, or did not come to its end."""
    low, high = plan.predicted_low, plan.predicted_high
    if result is None or result.ending is not Ending.EXITED or result.deferred or low is None or high is None:
        return ""
    # One run in five is outside its interval: what is worth a line is one that is far outside.
    near = high if result.seconds > high else low if result.seconds < low else result.seconds
    if abs(result.seconds - near) < max(5.0, 0.25 * near):
        return ""
    return f"took {duration(result.seconds)}; {expected(plan)} were expected"


def counts(found: Counts, *, flaky: int = 0) -> str:
    """80 passed (1 flaky), 2 skipped; the worst first, zeros left out. ``flaky``: passed when they were tried again."""
    beside = {"passed" if found.passed else "xpassed": f" ({flaky} flaky)" if flaky else ""}
    words = [f"{number} {word}{beside.get(outcome, '')}" for outcome, word, number in tally(found)]
    return ", ".join(words) or "no tests"


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


def plural(count: int, noun: str) -> str:
    """``count`` with its noun and thousands told apart: "1 test", "50,000 tests"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def visible(text: str, *, newlines: bool = False) -> str:
    """The text without colours and with nothing invisible left in it: controls, bidi overrides … become escapes.

    ``newlines``: keep line breaks and tabs (a code block); otherwise they become escapes too (one line).
    """
    if text.isprintable():
        return text
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    return "".join(
        c if c.isprintable() or (newlines and c in "\n\t") or unicodedata.category(c) not in _INVISIBLE else _escaped(c)
        for c in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", errors="backslashreplace").decode("ascii")


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` characters; what is cut is cut in the middle, as both ends of a node id matter."""
    if len(text) <= limit:
        return text
    keep = limit - 1
    return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"


def code(text: str, *, limit: int = 300) -> str:
    """A Markdown code span for a table cell or a sentence: no name in it can break out, or mention anybody."""
    text = shorten(visible(text), limit)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    # An HTML comment inside a code span would still hide from readers of the source what it says of itself.
    text = text.replace("<!--", "<!\u2060--")
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", r"\|")


def html_code(text: str, *, limit: int = 300) -> str:
    """The same inside an HTML element of a comment (a details summary)."""
    return f"<code>{escape(shorten(visible(text), limit))}</code>"


def code_block(text: str, *, lines: int, width: int = 400) -> str:
    """A fenced block with the last ``lines`` lines: pytest puts the cause at the end."""
    wanted = [shorten(line.rstrip(), width) for line in visible(text, newlines=True).strip("\n").split("\n")]
    if len(wanted) > lines:
        wanted = [f"… {len(wanted) - lines} lines above", *wanted[-lines:]]
    body = "\n".join(wanted).replace("<!--", "<!\u2060--")
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", body)), default=0) + 1)
    return f"{fence}text\n{body}\n{fence}"


def details(title: str, body: str, *, title_is_html: bool = False) -> str:
    """A folded part of a comment."""
    head = title if title_is_html else sentence(title)
    return f"<details><summary>{head}</summary>\n\n{body}\n\n</details>"


def sentence(text: str, *, limit: int = 600) -> str:
    """Plain text inside Markdown: nothing in it is markup, a link or a mention."""
    text = shorten(visible(text), limit)
    text = text.translate(_MARKUP)
    # A word joiner keeps the text readable and the mention or autolink dead.
    text = _MENTION.sub("@\u2060", text)
    return _SCHEME.sub("\\1:\u2060//", text)


def one_line(text: str, limit: int = 200) -> str:
    """The first line of ``text`` that says something, made visible, at most ``limit`` characters."""
    for line in text[: 20 * limit].splitlines():
        if stripped := visible(line).strip():
            return stripped if len(stripped) <= limit else stripped[: limit - 1] + "…"
    return ""


def percent(value: float | None) -> str:
    """``value`` percent, rounded down: 79.96 never reads as the 80 it failed to reach."""
    return "unknown" if value is None else f"{floor_percent(value)}%"


def gap_words(gap: KnownGap) -> str:
    """What became of a part of the source that the configuration says no test reaches."""
    if not gap.found:
        return "there is no such file or function in what was measured: take it out of known-gaps"
    if gap.lines and gap.covered == gap.lines:
        return "no longer one, every line of it is covered: take it out of known-gaps"
    return f"{plural(gap.lines, 'line')} not counted"


def carried_words(carried: CarriedLines) -> str:
    """What a tier that did not run now covered when it last did."""
    return f"{plural(carried.lines, 'line')} covered by {carried.tier} at {carried.sha[:10]}, {age(carried.age)} ago"


def skipped_words(skipped: SkippedHere) -> str:
    """Who makes up for a tier's skips."""
    when = "in this run" if skipped.sha is None else f"at {skipped.sha[:10]}"
    ago = f", {age(skipped.age)} ago" if skipped.age is not None else ""
    return f"{skipped.skipped} skipped in {skipped.tier}; {skipped.ran} of them ran in {skipped.where} {when}{ago}"


def age(seconds: float) -> str:
    """How long ago: "3 min", "5 h", "12 d"."""
    minutes = max(0, round(seconds / 60))
    if minutes < 100:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{round(seconds / 86400)} d"


def line_ranges(lines: Iterable[int], limit: int) -> str:
    """Line numbers folded into ranges: {3, 4, 5, 9} is "3-5, 9"; after ``limit`` ranges "… 12 more"."""
    return _ranges_words([_range(first, last) for first, last in folded(lines)], limit)


def linked_ranges(lines: Iterable[int], limit: int, page: str | None) -> str:
    """The same as Markdown, each range a link into the file's page on GitHub; None: there is none."""
    if page is None:
        return line_ranges(lines, limit)
    words = [
        f"[{_range(first, last)}]({page}#L{first}{f'-L{last}' if last > first else ''})"
        for first, last in folded(lines)
    ]
    return _ranges_words(words, limit)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _ranges_words(words: list[str], limit: int) -> str:
    more = [f"… {len(words) - limit} more"] if len(words) > limit else []
    return ", ".join([*words[:limit], *more])


def folded(lines: Iterable[int]) -> list[list[int]]:
    """Line numbers as [first, last] of each unbroken range, in order."""
    ranges: list[list[int]] = []
    for line in sorted(lines):
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ranges
