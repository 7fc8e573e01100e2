"""Starts the tests' Python at once: it imports what every pytest needs, while we import what we need to make a plan."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.mind.ahead import python_ahead
from orchestrator.tools.interpreter import PROBE, find_python
from orchestrator.tools.kept import Kept
from orchestrator.tools.plugin import plugin_folder
from orchestrator.words.errors import UsageError
from orchestrator.words.secrets import without_secrets

_ENOUGH = 1 << 20  # bytes of a configuration


def start_ahead(config: Path, *, python: str | None, variables: Mapping[str, str]) -> Kept | None:
    """The process that tiers may be forked from, which waits to be told what they import. None where there is no use
    for one. Imports nothing that takes long. ``variables``: our environment.
    """
    if not sys.platform.startswith("linux"):
        return None
    root = config.absolute().parent
    try:
        with config.open("rb") as file:
            text = file.read(_ENOUGH).decode(errors="replace")
        name = python_ahead(text, given=python, variables=variables)
        if name is None:
            return None
        executable = find_python(name, variables=variables, root=root)
        return Kept(executable, root=root, variables=without_secrets(variables), plugin=plugin_folder(), probe=PROBE)
    except (OSError, UsageError):
        return None  # whoever needs the file, or a Python, says what is wrong
