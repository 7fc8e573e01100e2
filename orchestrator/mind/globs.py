"""The globs of ``changes``: GitHub's own rules for ``paths:``, so that nobody has to learn another dialect.

Patterns are tried in order and the last one that matches decides; ``!`` takes files away again. ``*`` and ``?`` stay
inside one folder, ``**`` crosses folders, and a list of exclusions only means "everything but".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache


def any_match(paths: Iterable[str], patterns: Sequence[str]) -> str | None:
    """The first of ``paths`` that the patterns select, or None. No patterns select everything."""
    return next((path for path in paths if matches(path, patterns)), None)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether the patterns, in their order, select the path."""
    selected = not patterns or all(pattern.startswith("!") for pattern in patterns)
    for pattern in patterns:
        wanted = not pattern.startswith("!")
        if wanted != selected and compile_glob(pattern.removeprefix("!")).fullmatch(path):
            selected = wanted
    return selected


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """One glob as a regular expression over POSIX paths. A trailing ``/`` means everything below."""
    if pattern.endswith("/"):
        pattern += "**"
    out, position = "", 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            out, position = out + "(?:[^/]+/)*", position + 3
        elif rest.startswith("**"):
            out, position = out + ".*", position + 2
        elif rest[0] == "*":
            out, position = out + "[^/]*", position + 1
        elif rest[0] == "?":
            out, position = out + "[^/]", position + 1
        elif rest[0] == "[" and (end := pattern.find("]", position + 2)) != -1:
            inside = pattern[position + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            out, position = out + f"[{'^' + inside[1:] if inside[0] == '!' else inside}]", end + 1
        else:
            out, position = out + re.escape(rest[0]), position + 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error:  # a bracket that is no character class stands for itself
        return re.compile(re.escape(pattern))
