"""The study of the benchmark gate: its intervals, and that it sees in made-up blocks what was put there."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from benchmarks.gating import study
from benchmarks.gating.rules import PEERS, between, mann_whitney
from benchmarks.gating.study import Study, clopper_pearson, rate, runs

SIDES = {"base": 1.0, "same": 1.0, "+10%": 1.1, "+20%": 1.2}


def blocks(count: int, *, spread: float, tests: int = 3) -> list[dict[str, object]]:
    """Blocks in which every process has its own luck, and every visit some more."""
    rng = random.Random(4)
    made = []
    for _ in range(count):
        visits = []
        for test in range(tests):
            luck = {side: rng.gauss(0, spread) for side in SIDES}
            for _ in range(4):
                visit: dict[str, object] = {"test": f"t{test}", "order": list(SIDES)}
                for side, level in SIDES.items():
                    rounds = [level * (1 + luck[side] + abs(rng.gauss(0, 0.01))) for _ in range(10)]
                    visit[side] = {"minimum": min(rounds), "mean": sum(rounds) / 10, "count": 10, "rounds": rounds}
                visits.append(visit)
        made.append({"visits": visits})
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "RECORDINGS", 10)
    monkeypatch.setattr(study, "SUITES", 10)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 20, 0.0, 0.1684), (20, 20, 0.8316, 1.0), (5, 20, 0.0866, 0.4910), (1, 2000, 0.0000127, 0.00278)],
)
def test_the_exact_interval_of_a_share(hits: int, trials: int, low: float, high: float) -> None:
    assert clopper_pearson(hits, trials) == pytest.approx((low, high), abs=5e-4)


def test_the_wider_of_the_two_intervals_is_given() -> None:
    """Ten recordings that disagree entirely: more suites on each of them make nothing surer."""
    apart = rate([[True] * 50] * 5 + [[False] * 50] * 5)
    assert (apart.low, apart.high) == (0.0, 1.0)
    alike = rate([[True, False] * 25] * 10)
    assert (alike.low, alike.high) == pytest.approx(clopper_pearson(250, 500))


def test_suites_are_drawn_in_runs_of_neighbours() -> None:
    drawn = runs(4000, range(50), random.Random(1))
    following = sum((later - earlier) % 50 == 1 for earlier, later in pairwise(drawn))
    assert 0.7 < following / len(drawn) < 0.8  # three of four, so that a run has four on average
    assert set(drawn) == set(range(50))


@pytest.mark.usefixtures("small")
def test_what_was_put_into_the_blocks_is_found_and_nothing_else() -> None:
    made = Study(blocks(40, spread=0.01))
    null = made.ours(gate=10, head="same", limit=20)
    assert (null.alarms.share, null.slowed.share, null.undecided) == (0.0, 0.0, 0.0)
    assert null.blocks < 15  # nobody waits for the budget's end where all is clear
    assert made.ours(gate=10, head="+20%", limit=20).slowed.share == 1.0
    assert made.ours(gate=10, head="same", limit=20, scale=1.2).slowed.share == 1.0
    assert made.ours(gate=10, head="+20%", limit=8).slowed.share == 0.0  # too few blocks for any verdict


@pytest.mark.usefixtures("small")
def test_rounds_are_no_replicates_of_a_process() -> None:
    """Processes differ by 5 %, their rounds hardly: who counts rounds sees a change in every suite."""
    made = Study(blocks(40, spread=0.05))
    rules = {rule.name: rule for rule in PEERS}
    alarms, _ = made.peer(rules["Mann–Whitney on rounds"], head="+10%", apart=False)
    assert alarms.share > 0.8
    alarms, _ = made.peer(rules["mean > 2 ×"], head="+10%", apart=True)
    assert alarms.share == 0.0


def test_mann_whitney_is_one_sided() -> None:
    block = blocks(1, spread=0.0)[0]
    assert mann_whitney([between(block, block, "t0", "base", "+20%")])
    assert not mann_whitney([between(block, block, "t0", "+20%", "base")])
