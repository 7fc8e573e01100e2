"""pytest's node ids and the names its JUnit report has for them."""

from __future__ import annotations

import re

INTERNAL_ERROR = "pytest::internal"
"""The case with which pytest reports an error of its own: no test's name."""
_WORKER = re.compile(r"gw\d+")  # the case of a worker that has collected other tests than another one

# What pytest's junitxml writes as "#x.." (it counts DEL among the illegal, and so do we).
_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def names_tests(node_id: str) -> bool:
    """Whether pytest would find something under that name."""
    return node_id != INTERNAL_ERROR and not _WORKER.fullmatch(node_id)


def printable(text: str) -> str:
    """``text`` with every character that XML cannot hold as pytest writes it: ``#x00``, ``#xD800``."""
    if text.isascii() and text.isprintable():
        return text
    return _ILLEGAL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"#x{code:02X}" if code <= 0xFF else f"#x{code:04X}"


def dotted(file: str) -> str:
    """A file as the beginning of a ``classname``: ``tests/test_a.py`` → ``tests.test_a``."""
    return file.removesuffix(".py").replace("/", ".")


def junit_names(node_id: str) -> tuple[str, str]:
    """The ``classname`` and ``name`` under which pytest's JUnit report has a node id."""
    path, colons, rest = node_id.partition("::")
    if not colons:
        return "", printable(dotted(path))
    stem, bracket, parameters = rest.partition("[")
    *classes, name = stem.split("::")
    return ".".join((dotted(path), *classes)), printable(name + bracket + parameters)


def node_prefix(file: str | None, classname: str) -> str:
    """What comes before the name in a node id, from the attributes ``file`` and ``classname`` of a test case.

    Exact for what pytest writes with ``junit_family=xunit1``. Where ``file`` is missing or another one (of a test
    inherited from a class in another file) it is ``classname::``, for which ``junit_names`` gives the same names as for
    the real node id.
    """
    if file:
        stem = dotted(file)
        if classname == stem:
            return f"{file}::"
        if classname.startswith(f"{stem}."):
            return "::".join((file, *classname[len(stem) + 1 :].split("."), ""))
    return f"{classname}::" if classname else ""
