"""Marker expressions by the grammar of `pytest -m`, checked before anything runs. Pure.

The grammar is _pytest/mark/expression.py's, with the keyword arguments of pytest 8.3: `not device(name="cuda")`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from keyword import iskeyword

from orchestrator.mind.config.positions import quote

_TOKEN = re.compile(r"[ \t\n]*(?:(?P<string>'[^'\\]*'|\"[^\"\\]*\")|(?P<word>[\w:+\-.\[\]\\/]+)|(?P<sign>[()=,]))")
_MAX_MARKER_DEPTH = 50


def check_markers(text: str) -> None:
    """Raises ValueError, naming the column inside the expression, where pytest would refuse it.

    One state and a depth are enough for this grammar, and unlike pytest's recursive descent cannot overflow the stack.
    """
    depth, nots, want_operand = 0, 0, True
    tokens = _tokens(text)
    index = 0
    while index < len(tokens):
        kind, token, column = tokens[index]
        index += 1
        if want_operand and token == "not":  # noqa: S105
            nots += 1
        elif want_operand and token == "(":  # noqa: S105
            depth += 1
        elif want_operand and kind == "word" and token not in ("and", "or"):
            index = _after_arguments(tokens, index)
            want_operand, nots = False, 0
        elif not want_operand and token in ("and", "or"):
            want_operand = True
        elif not want_operand and token == ")" and depth:  # noqa: S105
            depth -= 1
        else:
            expected = "a marker" if want_operand else "`and`, `or` or the end" + (" or `)`" if depth else "")
            raise _marker_error(f"expected {expected}, got {quote(token)}", column)
        if max(depth, nots) > _MAX_MARKER_DEPTH:
            raise _marker_error("nested too deeply", column)
    if want_operand:
        raise _marker_error("a marker is missing at the end", len(text) + 1)
    if depth:
        raise _marker_error("a `)` is missing at the end", len(text) + 1)


def selects(text: str, markers: Collection[str]) -> bool:
    """Whether a (valid) expression takes a test that has these markers and no others, all without arguments."""
    if not text:
        return True
    words = []
    tokens = _tokens(text)
    index = 0
    while index < len(tokens):
        kind, token, _ = tokens[index]
        index += 1
        if kind == "word" and token not in ("and", "or", "not"):
            after = _after_arguments(tokens, index)
            words.append(str(after == index and token in markers))
            index = after
        else:
            words.append(token)
    # Nothing but True, False, and, or, not and parentheses: Python has the same precedence.
    return bool(eval(" ".join(words), {"__builtins__": {}}))  # noqa: S307


def names_in(text: str) -> tuple[str, ...]:
    """The markers that a (valid) expression speaks of, each once, in its order."""
    found: dict[str, None] = {}
    tokens, index = _tokens(text), 0
    while index < len(tokens):
        kind, token, _ = tokens[index]
        index += 1
        if kind == "word" and token not in ("and", "or", "not"):
            found[token] = None
            index = _after_arguments(tokens, index)
    return tuple(found)


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _marker_error(f"unexpected {quote(text[at:].strip()[:1])}", at + 1)
        kind = str(match.lastgroup)
        tokens.append((kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return tokens


def _after_arguments(tokens: list[tuple[str, str, int]], index: int) -> int:
    """The index after ``(name=value, …)``, or the same index where none begins. Positions are of the expression."""
    if index >= len(tokens) or tokens[index][1] != "(":
        return index
    while True:
        name, equals, value, end = (tokens[index + 1 : index + 5] + [("end", "", 0)] * 4)[:4]
        if not name[1].isidentifier() or iskeyword(name[1]) or equals[1] != "=" or value[0] not in ("string", "word"):
            raise _marker_error("expected `name=value` in the parentheses after a marker", tokens[index][2])
        if value[0] == "word" and not re.fullmatch(r"-?[0-9]+|True|False|None", value[1]):
            raise _marker_error(f"the value {quote(value[1])} needs quotes", value[2])
        index += 4
        if end[1] == ")":
            return index + 1
        if end[1] != ",":
            raise _marker_error("a `)` is missing after a marker's arguments", tokens[index - 1][2])


def _marker_error(sentence: str, column: int) -> ValueError:
    return ValueError(
        f"not a marker expression: {sentence} (at its character {column}). Write it like `not gpu and slow`"
    )
