"""The small phrases every rendering shares, and the escapes that keep hostile names from becoming markup."""

from __future__ import annotations

import re
import unicodedata
from html import escape

from orchestrator.model import Counts, Verdict

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
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # controls, bidi overrides, surrogates, private use, separators


def duration(seconds: float) -> str:
    """12.3 s, 2m 05s, 1h 30m."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    return f"{minutes // 60}h {minutes % 60:02}m"


def budget(seconds: float) -> str:
    """As it is written in ml-tiers.yml: 90s, 2m, 1h30m. Nothing (0) is the budget of a tier that none is known of."""
    if not seconds:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if whole < 120 and rest:
        return f"{seconds:g}s"
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n) or f"{seconds:g}s"


def counts(tally: Counts) -> str:
    """80 passed, 2 skipped; the worst first, zeros left out."""
    parts = [
        (tally.failed, "failed"),
        (tally.error, "error" if tally.error == 1 else "errors"),
        (tally.unfinished, "unfinished"),
        (tally.passed, "passed"),
        (tally.xpassed, "xpassed"),
        (tally.xfailed, "xfailed"),
        (tally.skipped, "skipped"),
    ]
    return ", ".join(f"{number} {word}" for number, word in parts if number) or "no tests"


def plural(number: int, word: str) -> str:
    """1 test, 2 tests."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


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


def sentence(text: str, *, limit: int = 600) -> str:
    """Plain text inside Markdown: nothing in it is markup, a link or a mention."""
    text = shorten(visible(text), limit)
    text = re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)
    # A word joiner keeps the text readable and the mention or autolink dead.
    text = re.sub(r"@(?=\w)", "@\u2060", text)
    return re.sub(r"(https?|ftp)://", "\\1:\u2060//", text)
