"""How a check says no: what was seen, what usually causes it, what usually fixes it."""

from __future__ import annotations

from typing import Any, NoReturn


class CheckFailed(AssertionError):  # noqa: N818 - an assertion that did not hold, not a program error
    """A check's verdict. ``seen``, ``cause`` and ``fix`` are the three parts of its message."""

    def __init__(self, seen: str, *, cause: str, fix: str) -> None:
        super().__init__(f"{seen}\n  likely cause: {cause}\n  usual fix:    {fix}")
        self.seen, self.cause, self.fix = seen, cause, fix


class Inapplicable(Exception):  # noqa: N818 - not an error: the reason why a check does not apply
    """This check does not apply; the message says why and what would make it apply."""


def hidden(excinfo: Any) -> bool:
    """For ``__tracebackhide__``: a check's own frames say nothing to who reads its verdict."""
    return bool(excinfo.errisinstance(CheckFailed))


def fail(seen: str, *, cause: str, fix: str) -> NoReturn:
    """Raise :class:`CheckFailed` with the frame of the check hidden from pytest's traceback."""
    __tracebackhide__ = True
    raise CheckFailed(seen, cause=cause, fix=fix)
