"""Which tests run, and in which order: what the orchestrator read off earlier runs, applied to this one; without any,
workers are given one file after the other.

The file that ``MLTIERS_ORDER`` names says which tests wait for a later run (``deferred``), which come first (``first``)
and how long each takes (``seconds``). Every process of a run reads it from the controller's words, not from the disk,
so that all collect the same. A project that orders its tests itself, or at random, keeps its order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mltiers import ORDER_VARIABLE

if TYPE_CHECKING:
    from pytest_mltiers.events import SessionEvents

VERSION = 1
"""The version of the file this plugin reads."""

_ORDERING = (
    "dependency",
    "pytest_dependency",
    "pytest_order",
    "ordering",
    "pytest_ordering",
    "depends",
    "reverse_order",
)
"""Plugins by which a project says that its tests need their order."""

_NAMED = 1_000
"""Deferred tests in one event."""


@dataclass(frozen=True)
class Order:
    """What the file says. Node ids as pytest writes them."""

    first: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    deferred: frozenset[str] = frozenset()


class OrderWarning(pytest.PytestWarning):
    """The order could not be applied; the tests run as pytest collects them."""


def start(config: pytest.Config, path: str, *, told: str | None = None) -> None:
    """Applies the file at ``path`` (or its text, in a worker) to this session. A file that is none changes nothing."""
    try:
        text = told if told is not None else _read(path)
        order = read_order(text)
    except (OSError, ValueError) as error:
        config.issue_config_time_warning(OrderWarning(f"the order of the tests is pytest's own: {error}"), 2)
        return
    config.pluginmanager.register(Ordering(config, order, text, path), "pytest_mltiers.order")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123 -- pathlib is slow to import
        return file.read()


def read_order(text: str) -> Order:
    """The file's text as a value. Raises ValueError for anything else."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError(f"{ORDER_VARIABLE} names a file that is not of version {VERSION}")
    try:
        return Order(
            first=tuple(map(str, document.get("first", ()))),
            seconds={str(node): float(seconds) for node, seconds in document.get("seconds", {}).items()},
            deferred=frozenset(map(str, document.get("deferred", ()))),
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{ORDER_VARIABLE}: {error}") from None


class Ordering:
    """The hooks of one process of the session."""

    def __init__(self, config: pytest.Config, order: Order, text: str, path: str) -> None:
        self.config = config
        self.text = text
        self.path = path
        self.input: Mapping[str, Any] | None = getattr(config, "workerinput", None)
        self.order = order if self.distribution != "loadgroup" else _without_groups(order)
        self.applied = "pytest's own"

    @property
    def distribution(self) -> str:
        """xdist's mode, also in a worker, where xdist's own option says "no"."""
        return str(self.input["mltiers_dist"] if self.input is not None else self.config.getoption("dist", "no"))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[ORDER_VARIABLE] = self.text
        node.workerinput["mltiers_dist"] = self.distribution
        node.workerinput["mltiers_reorders"] = self._reorders_groups()

    def _reorders_groups(self) -> bool:
        """xdist sorts groups by how many tests they have. Somebody who switched that off has an order of their own."""
        option = self.config.option
        if self.distribution not in ("loadfile", "loadscope", "loadgroup"):
            return True
        if not self.order.seconds:
            return False
        mine = getattr(option, "mltiers_reorders", getattr(option, "loadscopereorder", True))
        option.mltiers_reorders = mine
        if mine:
            option.loadscopereorder = False  # or else xdist would sort what the workers have put in order
        return bool(mine)

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """After every other plugin has chosen and ordered."""
        yield
        waiting = [item for item in items if self._name(item) in self.order.deferred]
        kept = [item for item in items if self._name(item) not in self.order.deferred] if waiting else list(items)
        random = self._random()
        if random is None and not self._ordered():
            kept = self._arranged(kept)
        items[:] = kept
        if waiting:
            self.config.hook.pytest_deselected(items=waiting)
        if self.input is None or self.input.get("workerid") == "gw0":
            self._tell(waiting, random)

    def _arranged(self, items: list[pytest.Item]) -> list[pytest.Item]:
        place = {name: number for number, name in enumerate(self.order.first)}
        groups = {"loadfile": _file, "loadscope": _scope, "loadgroup": _group}.get(self.distribution)
        if groups is not None:
            if self.input is not None and not self.input["mltiers_reorders"]:
                return items
            weights: dict[str, tuple[int, float]] = {}
            for item in items:
                group, name = groups(item.nodeid), self._name(item)
                rank, seconds = weights.get(group, (len(place), 0.0))
                rank = min(rank, place.get(name, len(place)))
                weights[group] = (rank, seconds - self.order.seconds.get(name, 0.0))
            self.applied = f"longest first, by {self.distribution}"
            return sorted(items, key=lambda item: weights[groups(item.nodeid)])
        if self.distribution == "load":
            self.applied = "longest first" if self.order.seconds else "file by file"
            return items  # the scheduler's task: what it hands out first is first
        if self.distribution != "no" or not place:
            return items
        self.applied = "what failed or waited first"
        return sorted(items, key=lambda item: place.get(self._name(item), len(place)))

    def _name(self, item: pytest.Item) -> str:
        """What an item is looked up by: under ``--dist loadgroup`` its group is, or is not, a part of its node id."""
        return _plain(item.nodeid) if self.distribution == "loadgroup" else item.nodeid

    def _random(self) -> str | None:
        """By whose random order this session runs, with its seed."""
        option = self.config.option
        if self.config.pluginmanager.hasplugin("randomly") and getattr(option, "randomly_reorganize", False):
            return f"pytest-randomly, seed {getattr(option, 'randomly_seed', 'unknown')}"
        chosen = [str(getattr(option, f"random_order_{name}", "default:")) for name in ("seed", "bucket")]
        if getattr(option, "random_order_enabled", False) or not all(c.startswith("default:") for c in chosen):
            return f"pytest-random-order, seed {chosen[0].removeprefix('default:')}"
        return None

    def _ordered(self) -> bool:
        return any(self.config.pluginmanager.hasplugin(name) for name in _ORDERING)

    def _tell(self, waiting: Sequence[pytest.Item], random: str | None) -> None:
        events: SessionEvents | None = self.config.pluginmanager.get_plugin("pytest_mltiers.events")
        if events is None:
            return
        events.write("order", order=f"random: {random}" if random else self.applied)
        for begin in range(0, len(waiting), _NAMED):
            events.write("deferred", nodeids=[item.nodeid for item in waiting[begin : begin + _NAMED]])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object | None:
        """Ours for xdist's usual distribution; None leaves it to xdist."""
        if config.getoption("dist") != "load" or config.getoption("maxschedchunk", None) is not None:
            return None
        if self._random() is not None or self._ordered():
            return None
        from pytest_mltiers.scheduling import LongestFirst  # noqa: PLC0415 -- only where there is xdist

        return LongestFirst(config, log, self.order, clock=time.perf_counter)

    def pytest_unconfigure(self) -> None:
        if self.input is None:
            os.environ[ORDER_VARIABLE] = self.path


def _plain(node_id: str) -> str:
    """A node id without the group that ``--dist loadgroup`` appends."""
    return node_id[: node_id.rfind("@")] if node_id.rfind("@") > node_id.rfind("]") else node_id


def _without_groups(order: Order) -> Order:
    """The same of tests whose group is not a part of their names: earlier runs may have made no groups."""
    return Order(
        first=tuple(dict.fromkeys(map(_plain, order.first))),
        seconds={_plain(node): seconds for node, seconds in order.seconds.items()},
        deferred=frozenset(map(_plain, order.deferred)),
    )


def _file(node_id: str) -> str:
    return node_id.split("::", 1)[0]


def _scope(node_id: str) -> str:
    return node_id.rsplit("::", 1)[0]


def _group(node_id: str) -> str:
    """As xdist's own scheduler tells groups apart."""
    return node_id.rsplit("@", maxsplit=1)[-1] if node_id.rfind("@") > node_id.rfind("]") else node_id
