"""Ends a session without collecting a heap again and again in which there is nothing to collect.

With torch imported a full garbage collection takes a tenth of a second and up. pytest makes five of them at its end
(two since 9.2), for exceptions in finalisers that nobody has seen yet, and the interpreter some more when it shuts
down. Once one of them has found nothing, the others cannot either.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

MOST = 5  # as pytest's own before 9.2 (_pytest.unraisableexception)


class QuickEnding:
    """Collects until there is nothing to collect, and takes what is left out of the collector's sight."""

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Iterator[None]:
        """Around pytest's own collections: the first is in this hook since 9.2, the others come after it."""
        frozen = sys.modules.get("_mltiers_warm.frozen")
        if frozen is not None:
            # What these collections are for, the tests have left; what was imported ahead stays out of their sight.
            frozen.give_back(["collect"])
        yield
        if frozen is not None:
            frozen.give_back()
        for _ in range(MOST):
            if gc.collect() == 0:
                gc.freeze()
                return
