"""Ends a session without collecting a heap again and again in which there is nothing to collect.

With torch imported a full garbage collection takes a tenth of a second and up. pytest makes five of them at its end,
for exceptions in finalisers that nobody has seen yet, and the interpreter some more when it shuts down. Once one of
them has found nothing, the others cannot either.
"""

from __future__ import annotations

import gc

import pytest

MOST = 5  # as pytest's own (_pytest.unraisableexception)


class QuickEnding:
    """Collects until there is nothing to collect, and takes what is left out of the collector's sight."""

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Before pytest's own collections, which come after this hook."""
        for _ in range(MOST):
            if gc.collect() == 0:
                gc.freeze()
                return
