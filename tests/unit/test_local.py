"""Which tiers may run at the same time: needs first, priority, and never more workers than cores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.hands.local import startable
from orchestrator.words.plan import TierPlan


def tier(name: str, workers: int = 1, **more: object) -> TierPlan:
    return TierPlan(name=name, run=True, reason="", workers=workers, **more)  # type: ignore[arg-type]


def names(waiting: list[TierPlan], running: list[TierPlan] = [], cpus: int = 4) -> list[str]:  # noqa: B006
    found = startable({t.name: t for t in waiting}, {t.name: t for t in running}, cpus)
    return [t.name for t in found]


@pytest.mark.parametrize(
    ("waiting", "running", "cpus", "expected"),
    [
        ([tier("a", 2), tier("b", 2), tier("c", 1)], [], 4, ["a", "b"]),
        ([tier("a", 4), tier("b", 1)], [], 4, ["a"]),
        ([tier("b", 1)], [tier("a", 4)], 4, []),
        ([tier("a", 1), tier("b", 4)], [], 4, ["a"]),
        ([tier("a", 16)], [], 2, ["a"]),
        ([tier("speed", benchmark=True), tier("a")], [], 4, ["speed"]),
        ([tier("speed", benchmark=True)], [tier("a")], 4, []),
        ([tier("a", 4), tier("urgent", 4, priority=5)], [], 4, ["urgent"]),
        ([tier("b", needs=("a",)), tier("a")], [], 4, ["a"]),
        ([tier("b", needs=("a",))], [tier("a")], 4, []),
        ([tier("b", needs=("a",))], [], 4, ["b"]),
    ],
)
def test_startable(waiting: list[TierPlan], running: list[TierPlan], cpus: int, expected: list[str]) -> None:
    assert names(waiting, running, cpus) == expected


TIERS = st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6).map(
    lambda drawn: [tier(f"t{n}", workers, benchmark=alone) for n, (workers, alone) in enumerate(drawn)]
)


@given(TIERS, st.integers(1, 8))
def test_the_machine_is_never_oversubscribed_and_never_idle_for_ever(tiers: list[TierPlan], cpus: int) -> None:
    waiting = {t.name: t for t in tiers}
    done = 0
    running: dict[str, TierPlan] = {}
    while waiting or running:
        for started in startable(waiting, running, cpus):
            running[started.name] = waiting.pop(started.name)
        assert running, "nothing runs and something waits"
        assert sum(min(t.workers, cpus) for t in running.values()) <= cpus or len(running) == 1
        if any(t.benchmark for t in running.values()):
            assert len(running) == 1
        running.popitem()
        done += 1
    assert done == len(tiers)
