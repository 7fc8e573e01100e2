"""What was imported ahead, out of the garbage collector's sight till somebody uses the collector.

A collection writes to every object that it looks at. After a fork each of those writes copies a page: with torch
imported, every process copies its heap, a fifth of a second at a time, for objects that the import has made to stay.
So they stay frozen. Code that asks the collector for anything finds them there, as in a process that imported them
itself: the first call puts them back.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any

_ASKS = ("collect", "freeze", "get_freeze_count", "get_objects", "get_referrers")
"""What would tell a process with frozen objects from one without."""

_plain: dict[str, Callable[..., Any]] = {}


def keep_frozen() -> None:
    """Leave frozen what is frozen, till one of these functions is called. In a process that was just forked."""
    for name in _ASKS:
        _plain.setdefault(name, getattr(gc, name))
        setattr(gc, name, _thawing(_plain[name]))


def give_back(names: Sequence[str] = _ASKS) -> None:
    """These functions as they were, with what is frozen still frozen. Idempotent."""
    for name in names:
        function = _plain.pop(name, None)
        if function is not None and getattr(getattr(gc, name), "__wrapped__", None) is function:  # and not a test's
            setattr(gc, name, function)


def _thawing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def first(*args: Any, **kwargs: Any) -> Any:
        if _plain:
            give_back()
            gc.unfreeze()
        return function(*args, **kwargs)

    return first
