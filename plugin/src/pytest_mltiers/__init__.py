"""The test side of ml-test-action: a pytest plugin that streams what happens while it happens.

Importing this module costs next to nothing: it is loaded into every pytest that has the plugin installed, asked for or
not. Everything else is imported when it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__version__ = "0.1.0"

EVENTS_VERSION = 1
"""The version of the event stream this plugin writes."""

EVENTS_VARIABLE = "MLTIERS_EVENTS"
"""The environment variable that names the file to stream to. Without it nothing is streamed."""

STACKS_VARIABLE = "MLTIERS_STACKS"
"""The environment variable that names the folder for the stacks of a run that is stopped. Without it there are none."""

CHECKPOINT_VARIABLE = "MLTIERS_CHECKPOINT"
"""The environment variable that says every how many seconds coverage is saved. Without it only pytest-cov does."""


def pytest_addoption() -> None:
    """From here on a signal is answered with stacks: the earliest hook there is, so that a hanging conftest is seen."""
    directory = os.environ.get(STACKS_VARIABLE)
    if directory:
        from pytest_mltiers import stacks  # noqa: PLC0415 -- only where it is asked for

        stacks.enable(directory)


def pytest_configure(config: pytest.Config) -> None:
    """Starts the event stream where the environment, or the xdist controller, asks for one."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        path = os.fsdecode(workerinput.get(EVENTS_VARIABLE, b""))
    else:
        # Taken out of the environment while we run: a pytest that a test starts must not write into our stream.
        path = os.environ.pop(EVENTS_VARIABLE, "")
    if path:
        from pytest_mltiers import events  # noqa: PLC0415 -- only where it is asked for

        events.start(config, path)
    interval = os.environ.get(CHECKPOINT_VARIABLE)
    if interval:
        from pytest_mltiers import checkpoint  # noqa: PLC0415 -- only where it is asked for

        checkpoint.start(config, float(interval))
