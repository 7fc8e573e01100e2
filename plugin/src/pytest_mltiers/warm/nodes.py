"""The seam to xdist: where it would start a Python for a worker, it starts the shim."""

from __future__ import annotations

import marshal
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SHIM = Path(__file__).parent / "shim.py"


class WarmNodes:
    """Has xdist's local workers come from the fork server at ``socket``."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    @pytest.hookimpl(optionalhook=True, trylast=True)  # others give them their environment
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Only for workers that would run this very Python, here: not for ``--tx ssh=…`` or ``python=…``."""
        for spec in specs:
            if spec.popen and not spec.python and not spec.via and not spec.chdir and not spec.dont_write_bytecode:
                # A plain worker is told these once it runs, before it imports anything; a forked one has imported.
                given = marshal.dumps({str(name): str(value) for name, value in spec.env.items()}).hex()
                words = [sys.executable, "-I", "-S", str(SHIM), self.socket, given, sys.executable]
                spec.python = " ".join(shlex.quote(word) for word in words)
