"""xdist's `load` distribution with the order of :mod:`pytest_mltiers.lanes` instead of chunks as collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScheduling

from pytest_mltiers.lanes import Lanes

if TYPE_CHECKING:
    import pytest

    from pytest_mltiers.order import Order

AHEAD = 0.03
"""Seconds of tests a worker is given beyond the running one: longer than a question to the controller takes."""

MOST = 64
"""Tests that a worker is given at once, however short they are."""

MOST_UNKNOWN = 16
"""The same where no earlier run says that they are short: nobody else can run what one was given."""


class LongestFirst(LoadScheduling):  # type: ignore[misc]  # xdist is not there wherever types are checked
    """Hands every worker the test it runs and the next one: xdist's workers need to know both."""

    def __init__(self, config: pytest.Config, log: Any, order: Order, *, clock: Callable[[], float]) -> None:
        super().__init__(config, log)
        self.order = order
        self.clock = clock

    def schedule(self) -> None:
        """Called by xdist when every worker has collected, and again for one that comes later."""
        if self.collection is None:
            if not self._check_nodes_have_same_collection():
                return
            self.collection = next(iter(self.node2collection.values()))
            # `pending` is what xdist asks for what is left, and gives back what a dead worker did not run.
            self.pending = Lanes(
                self.collection, seconds=self.order.seconds, first=self.order.first, workers=len(self.nodes)
            )
            self.most = MOST_UNKNOWN if self.pending.learns else MOST
            for node in self.nodes:  # the longest to each, before anybody gets a second
                index = self.pending.take(node, self.clock())
                self._send(node, [] if index is None else [index])
        for node in self.nodes:
            self.check_schedule(node)

    def check_schedule(self, node: Any, duration: float = 0) -> None:
        """See that a worker always has a next test; one for which there is none may end."""
        if node.shutting_down or self.collection is None:
            return
        running = self.node2pending[node]
        if len(running) >= 2 and (len(running) > self.most // 2 or self._ahead(node) >= AHEAD):
            return
        # Filled to twice what it must have, so that not every short test costs a message.
        ahead, wanted = self._ahead(node), []
        index: int | None = None
        while len(running) + len(wanted) < 2 or (len(running) + len(wanted) < self.most and ahead < 2 * AHEAD):
            index = self.pending.take(node, self.clock())
            if index is None:
                break
            ahead += self.pending.seconds[index] if running or wanted else 0.0
            wanted.append(index)
        if not self._send(node, wanted) or index is None:
            node.shutdown()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        self.pending.ended(node, item_index, self.clock(), duration)
        super().mark_test_complete(node, item_index, duration)

    def remove_node(self, node: Any) -> str | None:
        if self.collection is not None:
            self.pending.drop(node)
        return super().remove_node(node)  # type: ignore[no-any-return]

    def _send(self, node: Any, indices: list[int]) -> bool:
        """Hand tests to a worker, unless it is no more."""
        if not indices:
            return True
        self.node2pending[node] += indices
        try:
            node.send_runtest_some(indices)
        except OSError:
            # It died since: of an earlier test, before these could reach it. xdist hears of that next (`errordown`).
            del self.node2pending[node][-len(indices) :]
            self.pending.extend(indices)
            return False
        return True

    def _ahead(self, node: Any) -> float:
        """Seconds of what a worker has beyond the test it runs."""
        return sum(self.pending.seconds[index] for index in self.node2pending[node][1:])
