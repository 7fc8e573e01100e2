"""What a report of pytest says about a failure or a skip, as plain fields."""

from __future__ import annotations

import os
from typing import Any

import pytest
from _pytest._code.code import ExceptionChainRepr, ReprEntry

MESSAGE_LIMIT = 2_000
"""Characters of a one-line message."""

TEXT_LIMIT = 64 * 1024
"""Characters of a traceback; the beginning and, more of it, the end are kept."""

_STRICT_XPASS = "[XPASS(strict)]"


def describe(report: pytest.TestReport | pytest.CollectReport, *, root: str, here: str) -> dict[str, object]:
    """The fields ``message``, ``text``, ``file``, ``line`` and ``xfail`` of a report that did not simply pass.

    ``root`` is pytest's rootdir, which ``file`` is relative to; ``here`` the folder pytest was started in, which the
    paths of a traceback are relative to. Lines are 1-based.
    """
    longrepr = report.longrepr
    reason = getattr(report, "wasxfail", None)
    if is_strict_pass(report):
        reason = str(longrepr)[len(_STRICT_XPASS) :].strip()
    fields: dict[str, object] = {} if reason is None else {"xfail": one_line(str(reason).removeprefix("reason: "))}
    if report.outcome == "passed":
        return fields
    if report.outcome == "skipped":
        if reason is not None:
            return {**fields, "message": fields["xfail"]}
        if isinstance(longrepr, tuple) and len(longrepr) == 3:
            path, line, why = longrepr
            file = _relative(str(path), root)
            return {"message": one_line(str(why).removeprefix("Skipped: ")), "file": file, "line": line}
        return {"message": one_line(text_of(longrepr))}
    crash = getattr(longrepr, "reprcrash", None)
    text = text_of(longrepr)
    fields["message"] = one_line(crash.message) if crash is not None else message_of(text)
    fields["text"] = text
    where = _where(longrepr, root, here)
    if where is not None:
        fields["file"], fields["line"] = where
    return fields


def is_part(report: object) -> bool:
    """Whether it is of a part of a test: pytest 9's `subtests`, unittest's subTest or the plugin pytest-subtests."""
    return type(report).__name__.lower() == "subtestreport"


def is_strict_pass(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether a test failed as it passed, and is marked ``xfail(strict=True)``."""
    longrepr = report.longrepr
    return report.outcome == "failed" and isinstance(longrepr, str) and longrepr.startswith(_STRICT_XPASS)


def one_line(text: str) -> str:
    """The first line of ``text`` that says something, at most ``MESSAGE_LIMIT`` characters."""
    for line in text[: 2 * MESSAGE_LIMIT].splitlines():
        if line.strip():
            return line.strip() if len(line) <= MESSAGE_LIMIT else line[:MESSAGE_LIMIT].strip() + "…"
    return ""


def message_of(text: str) -> str:
    """One line for a printed failure: its last line of error (``E   ValueError: …``) or else its first line."""
    errors = [line for line in text.splitlines() if line.startswith("E ")]
    return one_line(errors[-1][1:] if errors else text)


def text_of(longrepr: object) -> str:
    """``longrepr`` as pytest prints it, without colours, cut in the middle where it is longer than ``TEXT_LIMIT``."""
    text = _printed(longrepr)
    if len(text) <= TEXT_LIMIT:
        return text
    head, tail = TEXT_LIMIT // 4, TEXT_LIMIT - TEXT_LIMIT // 4
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out here …\n{text[-tail:]}"


def _printed(longrepr: object) -> str:
    """What ``str(longrepr)`` is but for the breaking of long lines of arguments, in a fifth of its time where it is the
    usual chain of tracebacks."""
    if isinstance(longrepr, ExceptionChainRepr) and not longrepr.sections:
        try:
            return _printed_chain(longrepr)
        except Exception:  # noqa: BLE001, S110 -- these are pytest's internals: another version may differ
            pass
    return str(longrepr)


def _printed_chain(longrepr: ExceptionChainRepr) -> str:
    parts: list[str] = []
    for traceback, _, description in longrepr.chain:
        previous = ""
        for entry in traceback.reprentries:
            style = entry.style
            if previous == "long" or (previous == "short" and style == "long"):
                parts.append("_ " * 40 + "\n")
            parts.append(_printed_entry(entry) if type(entry) is ReprEntry else "".join(entry.lines))
            previous = style
        if traceback.extraline:
            parts.append(traceback.extraline + "\n")
        if description is not None:
            parts.append(f"\n{description}\n")
    return "".join(parts).strip()


def _printed_entry(entry: ReprEntry) -> str:
    place = entry.reprfileloc
    where = f"{place.path}:{place.lineno}: {place.message.partition(chr(10))[0]}\n" if place else ""
    lines = "\n".join(entry.lines) + "\n" if entry.lines else ""
    names = entry.reprlocals.lines if entry.reprlocals else ()
    if entry.style == "short":
        return where + lines + "".join(f"        {line}\n" for line in names)
    given = entry.reprfuncargs.args if entry.reprfuncargs else ()
    arguments = ", ".join(f"{name} = {value}" for name, value in given) + "\n\n" if given else ""
    values = "\n" + "".join(f"{name}\n" for name in names) if entry.reprlocals else ""
    before = "\n" if entry.style == "long" else ""
    return before + arguments + lines + values + ("\n" if lines and where else "") + where


def _where(longrepr: Any, root: str, here: str) -> tuple[str, int] | None:
    """The place of a failure: where it was raised or, where that is not the project's own code, the innermost frame
    that is."""
    crash = getattr(longrepr, "reprcrash", None)
    if crash is None:
        return None
    file = _relative(crash.path, root)
    if not _is_project(file):
        entries = getattr(getattr(longrepr, "reprtraceback", None), "reprentries", None) or ()
        for entry in reversed(entries):
            place = getattr(entry, "reprfileloc", None)
            inner = _relative(os.path.join(here, place.path), root) if place is not None else file  # noqa: PTH118
            if place is not None and _is_project(inner):
                return inner, place.lineno
    return file, crash.lineno


def _is_project(file: str) -> bool:
    return not os.path.isabs(file) and not file.startswith("<") and "site-packages" not in file  # noqa: PTH117


def _relative(path: str, root: str) -> str:
    """``path`` relative to ``root`` with ``/``, or as it is where it lies elsewhere."""
    prefix = root.rstrip(os.sep) + os.sep
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else path
