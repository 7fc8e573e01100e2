"""The test side of ml-test-action: a pytest plugin that streams what happens while it happens.

Importing this module costs next to nothing: it is loaded into every pytest that has the plugin installed, asked for or
not. Everything else is imported when it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_mltiers import checks
    from pytest_mltiers.contract import ModelContract
    from pytest_mltiers.subject import Subject

__all__ = ["ModelContract", "Subject", "checks"]

__version__ = "0.1.0"

EVENTS_VERSION = 1
"""The version of the event stream this plugin writes."""

EVENTS_VARIABLE = "MLTIERS_EVENTS"
"""The environment variable that names the file to stream to. Without it nothing is streamed."""

STACKS_VARIABLE = "MLTIERS_STACKS"
"""The environment variable that names the folder for the stacks of a run that is stopped. Without it there are none."""

CHECKPOINT_VARIABLE = "MLTIERS_CHECKPOINT"
"""The environment variable that says every how many seconds coverage is saved. Without it only pytest-cov does."""

ORDER_VARIABLE = "MLTIERS_ORDER"
"""The environment variable that names the file with the order of the tests. Without it pytest's own stays."""

PER_TEST_VARIABLE = "MLTIERS_PER_TEST"
"""The environment variable that says how many seconds one test may take. Without it a test has no limit of its own."""

RETRIES_VARIABLE = "MLTIERS_RETRIES"
"""The environment variable that says how often a failed test is tried again. Without it none is."""

SHARD_VARIABLE = "MLTIERS_SHARD"
"""The environment variable that says which part of the tests is to run: ``2/8``. Without it all of them do."""

TIMINGS_VARIABLE = "MLTIERS_TIMINGS"
"""The environment variable that names the JSON file of durations that parts are cut by. Without it all tests count the
same."""

GPUS_VARIABLE = "MLTIERS_GPUS"
"""The environment variable that says how many CUDA devices are promised. Without it nobody looks after them."""

WARM_VARIABLE = "MLTIERS_WARM"
"""The environment variable that names the socket of the fork server that xdist's workers come from. Without it they
are plain."""


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """From here on a signal is answered with stacks: the earliest hook there is, so that a hanging conftest is seen."""
    directory = os.environ.get(STACKS_VARIABLE)
    if directory:
        from pytest_mltiers import stacks  # noqa: PLC0415 -- only where it is asked for

        stacks.enable(directory)
    if _chosen():
        from pytest_mltiers import fixtures  # noqa: PLC0415 -- only where somebody installed us for them

        pluginmanager.register(fixtures, "pytest_mltiers.fixtures")


def _chosen() -> bool:
    """Whether somebody installed this plugin for their tests.

    The copy that the orchestrator carries only streams: options and fixtures in a suite that did not ask for them could
    collide with its own.
    """
    if os.path.basename(os.path.dirname(os.path.dirname(__file__))) != "_plugin":  # noqa: PTH119, PTH120 -- pathlib is slow
        return True
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- in the carried copy only

    try:
        return bool(version("pytest-mltiers"))
    except PackageNotFoundError:
        return False


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
        from pytest_mltiers import ending  # noqa: PLC0415 -- only in a run of ours

        config.pluginmanager.register(ending.QuickEnding(), "pytest_mltiers.ending")
    retries = _own_setting(config, RETRIES_VARIABLE)
    if retries:
        from pytest_mltiers import retries as trying  # noqa: PLC0415 -- only where it is asked for

        trying.start(config, retries)
    shard, timings = (_own_setting(config, name) for name in (SHARD_VARIABLE, TIMINGS_VARIABLE))
    if shard:
        from pytest_mltiers import shards  # noqa: PLC0415 -- only where it is asked for

        shards.start(config, shard, timings)
    order = os.environ.pop(ORDER_VARIABLE, "") if workerinput is None else ""
    told = workerinput.get(ORDER_VARIABLE) if workerinput is not None else None
    if order or told is not None:
        from pytest_mltiers import order as ordering  # noqa: PLC0415 -- only where it is asked for

        ordering.start(config, order, told=told)
    if workerinput is not None and getattr(config.option, "loadgroup", False):  # xdist sets it in its workers
        from pytest_mltiers import groups  # noqa: PLC0415 -- only where it is asked for

        config.pluginmanager.register(groups, "pytest_mltiers.groups")
    if os.environ.get(GPUS_VARIABLE, "0") not in ("", "0"):
        from pytest_mltiers import gpus  # noqa: PLC0415 -- only where it is asked for

        gpus.start(config)
    server = os.environ.pop(WARM_VARIABLE, "")
    if server:
        from pytest_mltiers.warm import nodes  # noqa: PLC0415 -- only where it is asked for

        config.pluginmanager.register(nodes.WarmNodes(server), "pytest_mltiers.warm")
    interval = os.environ.get(CHECKPOINT_VARIABLE)
    if interval:
        from pytest_mltiers import checkpoint  # noqa: PLC0415 -- only where it is asked for

        checkpoint.start(config, float(interval))
    seconds = os.environ.get(PER_TEST_VARIABLE)
    if seconds:
        from pytest_mltiers import limits  # noqa: PLC0415 -- only where it is asked for

        limits.start(config, float(seconds))


def _own_setting(config: pytest.Config, name: str) -> str:
    """A variable that concerns this session alone, and not a pytest that one of its tests starts."""
    workerinput = getattr(config, "workerinput", None)
    return str(workerinput.get(name, "")) if workerinput is not None else os.environ.pop(name, "")


def __getattr__(name: str) -> object:
    """``ModelContract``, ``Subject`` and ``checks``, imported when they are used."""
    homes = {"ModelContract": "contract", "Subject": "subject", "checks": "checks"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 -- only where it is asked for

    module = import_module(f"{__name__}.{homes[name]}")
    return module if name == "checks" else getattr(module, name)
