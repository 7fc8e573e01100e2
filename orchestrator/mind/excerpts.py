"""What a printed failure says in a few lines: its exception, its place, the assertion with its values. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct, field

LINES = 12
"""Lines of an excerpt."""

_KIND = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Z]\w*)(?=:|$)")
_PLACE = re.compile(r"(?P<file>[^\s:][^:\n]*):(?P<line>\d{1,8}):(?: (?P<kind>\S.*)?)?")
_MARKS = " \t^~"  # of a line that marks a part of the one above
_RULE = re.compile(r"(?:_ ){10,}_?\s*")
_REFUSED = re.compile(r"(?:^|: )error: ")  # of a command line, by argparse
_SETTINGS = ("inifile:", "rootdir:")
# What differs between two failures with one cause. Applied in this order.
_VARIABLE = (
    (re.compile(r"0x[0-9a-fA-F]+"), "ADDRESS"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "ID"),
    (re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]*"), "PATH"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b"), "ID"),
    (re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:[._]\d+)*(?:[eE][-+]?\d+)?"), "N"),
    (re.compile(r"'[^']*'|\"[^\"]*\""), "TEXT"),
)


class _Entry(Struct, kw_only=True):
    """One frame of a traceback as pytest prints it."""

    source: list[str] = field(default_factory=list)  # the statement that raised, or called what did
    errors: list[str] = field(default_factory=list)  # E lines
    file: str | None = None
    line: int | None = None
    before: str | None = None  # the last other line: the statement, where pytest puts no mark before it

    def take(self, line: str) -> None:
        said = line.removeprefix("E ").strip(_MARKS)
        if said in ("", "E", "Use -v to get more diff"):
            return
        if line.startswith("E "):
            self._find_source()
            self.errors.append(line if line.startswith("E  ") else f"E   {line[1:].strip()}")
        elif line.startswith(">"):
            self.source.append(f">   {line[1:].strip()}")
        elif self.source and not self.errors and line.startswith("    "):
            self.source.append(line)  # the statement goes on
        elif not self.errors:
            self.before = line

    def says_something(self) -> bool:
        if self.file is not None:
            self._find_source()
        return bool(self.source or self.errors)

    def _find_source(self) -> None:
        if not self.source and not self.errors and self.before is not None:
            self.source.append(f">   {self.before.strip()}")


def kind_of(message: str | None) -> str | None:
    """The name of the exception that a message begins with: "ValueError", "AssertionError"; None: it names none."""
    if not message:
        return None
    if message.startswith("assert "):
        return "AssertionError"
    found = _KIND.match(message)
    return found[1] if found is not None else None


def skeleton(message: str) -> str:
    """A message without what differs from run to run: numbers, addresses, ids, paths, quoted texts."""
    for pattern, word in _VARIABLE:
        message = pattern.sub(word, message)
    return message[:500]


def excerpt(
    text: str | None, message: str | None, *, file: str | None = None, line: int | None = None, lines: int = LINES
) -> str:
    """The shortest part of a traceback that says what is wrong: where, the statement, and pytest's explanation of it.

    ``file``, ``line``: the project's innermost frame; its statement is shown where the exception was raised elsewhere.
    """
    entries = list(_entries(text or ""))
    raised = _raised(entries, message)
    if raised is None:
        kept = [one for one in (text or message or "").splitlines() if one.strip()]
        return "\n".join(kept[-min(lines, 4) :])
    shown: list[str] = []
    if (raised.file, raised.line) != (file, line):
        own = [one for one in entries if one.source and (one.file, one.line) == (file, line)]
        if own and own[-1] is not raised:
            shown += [*_placed(own[-1]), *own[-1].source[:3]]
    shown += [*_placed(raised), *raised.source[:4]]
    left = max(1, lines - len(shown))
    errors = raised.errors if len(raised.errors) <= left else [*raised.errors[: left - 1], "E   …"]
    return "\n".join([*shown, *errors][:lines])


def _placed(entry: _Entry) -> list[str]:
    return [f"{entry.file}:{entry.line}"] if entry.file is not None else []


def _raised(entries: list[_Entry], message: str | None) -> _Entry | None:
    """The frame that raised what the message is of; a text may hold more than one failure (a call, then a teardown)."""
    with_errors = [entry for entry in entries if entry.errors]
    if message:
        start = message[:40].removeprefix("AssertionError: ")
        for entry in with_errors:
            said = entry.errors[0][1:].strip().removeprefix("AssertionError: ")
            if said and (said.startswith(start) or start.startswith(said[:40])):
                return entry
    return with_errors[-1] if with_errors else None


def _entries(text: str) -> Iterator[_Entry]:
    """The frames of all tracebacks in a text, in pytest's long style (a place ends each) or short (begins it)."""
    entry = _Entry()
    for raw in text.splitlines():
        line = raw.rstrip()
        place = _PLACE.fullmatch(line) if line[:1] not in " >" and not line.startswith("E ") else None
        begins = place is not None and (place["kind"] or "").startswith("in ")
        ends = place is not None and not begins and entry.file is None and bool(entry.source or entry.errors)
        if not (begins or ends or (line[:1] == "_" and _RULE.fullmatch(line))):
            entry.take(line)
            continue
        if ends and place is not None:
            entry.file, entry.line = place["file"], int(place["line"])
        if entry.says_something():
            yield entry
        entry = _Entry(file=place["file"], line=int(place["line"])) if begins and place is not None else _Entry()
    if entry.says_something():
        yield entry


def last_words(output: str) -> str | None:
    """What a process that left no report said of its end, in one line; None: nothing.

    Python's own last words are followed by a stack, and those on a command line by where its settings come from.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for number, line in reversed([*enumerate(lines)]):
        _, fatal, what = line.partition("Fatal Python error: ")
        if fatal:
            stack = lines[number + 1 :]
            own = next((after + 1 for after, one in enumerate(stack) if one.startswith("Current thread ")), None)
            return f"{fatal}{what}" + (f", {stack[own]}" if own is not None and own < len(stack) else "")
        if _REFUSED.search(line) and all(after.startswith(_SETTINGS) for after in lines[number + 1 :]):
            return line
    return lines[-1] if lines else None
