"""Warm workers: pytest and xdist's workers forked from one process that has imported the heavy modules already.

``start.py`` is run as a script in place of ``python -m pytest``: it imports (``preload``), and forks pytest's
controller and, for each worker that xdist asks for, a child (``forkserver``). xdist starts ``shim.py`` where it would
start a Python (``nodes``); that hands its standard streams to the fork server. Where anything is in the way,
``start.py`` becomes the plain command, and ``shim.py`` a plain worker: same tests, same outcomes, slower.

Everything here but ``nodes`` is imported under a name of its own, `_mltiers_warm`: ``pytest_mltiers`` is a pytest
plugin, and one that is imported before pytest starts is not rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

WARM_VARIABLE = "MLTIERS_WARM"
"""The environment variable that names the fork server's socket. Without it xdist's workers are plain."""


class Instead(BaseException):
    """Raised in a forked process, all the way out: it does ``work``, on an empty stack.

    Whoever formats its stack pays for each frame, and torch does so three times for each ``torch.manual_seed``; and how
    deep a test may recurse is counted from the bottom.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.work = work


_LEFT: list[Instead] = []


def on_an_empty_stack(work: Callable[[], object]) -> NoReturn:
    """Do ``work``, and whatever it is left for. Neither is to return; once is enough where a test has seen to that."""
    while True:
        try:
            work()
        except Instead as instead:
            # What its frames hold stays: a socket that goes closes a descriptor, which is somebody else's by then.
            _LEFT.append(instead)
            work = instead.work
        else:
            raise SystemExit(1)
