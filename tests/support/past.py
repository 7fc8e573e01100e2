"""Earlier runs of a tier, as values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from orchestrator.mind.records import Record
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import Ending, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import TierVerdict, Verdict

NOW = 1_700_000_000.0
DAY = 86_400.0
MACHINE = {"system": "Linux x86_64", "cpu": "a CPU", "cores": "2"}


def result_of(node_id: str, seconds: float, outcome: TestOutcome = TestOutcome.PASSED) -> TestResult:
    return TestResult(node_id=node_id, outcome=outcome, seconds=seconds)


def run_record(
    seconds: float,
    *,
    tier: str = "unit",
    time: float = NOW,
    tests: Iterable[TestResult] = (),
    verdict: Verdict = Verdict.PASSED,
    ending: Ending = Ending.EXITED,
    exit_code: int | None = 0,
    machine: Mapping[str, str] = MACHINE,
    workers: int = 1,
    shards: int = 1,
    coverage: bool = True,
    trusted: bool = True,
    **of_result: object,
) -> Record:
    """One run of a tier."""
    return Record(
        sha="a" * 40,
        time=time,
        config_id="0123456789ab",
        event="push",
        trusted=trusted,
        machine=machine,
        run=f"{time:.0f}",
        tier=TierVerdict(
            plan=TierPlan(name=tier, run=True, reason="runs here", shards=shards, workers=workers, coverage=coverage),
            result=TierResult(
                name=tier,
                ending=ending,
                exit_code=exit_code,
                seconds=seconds,
                tests=tuple(tests),
                workers=workers,
                machine=machine,
                **of_result,  # type: ignore[arg-type]
            ),
            verdict=verdict,
        ),
    )


def past(seconds: Sequence[float], *, every: float = DAY, **of_each: object) -> list[Record]:
    """Runs that took so long, given oldest first, returned newest first as the history has them."""
    runs = [run_record(took, time=NOW + at * every, **of_each) for at, took in enumerate(seconds)]  # type: ignore[arg-type]
    return runs[::-1]


def shapes(random: Random, runs: int) -> dict[str, list[float]]:
    """What durations of tiers look like: seconds of so many runs, oldest first, by the name of the shape."""
    noise = random.gauss
    jump = random.randrange(12, runs - 5)
    level = slow = 0.0
    walk, resembling = [], []
    for _ in range(runs):
        level += noise(0, 0.03)
        walk.append(level + noise(0, 0.04))
        slow = 0.6 * slow + noise(0, 0.05)
        resembling.append(slow)
    numbers = range(runs)
    logs = {
        "5 % noise": [noise(0, 0.05) for _ in numbers],
        "20 % noise": [noise(0, 0.2) for _ in numbers],
        "grows 1 % a run": [0.01 * n + noise(0, 0.05) for n in numbers],
        "a jump of 40 %": [(0.35 if n >= jump else 0) + noise(0, 0.05) for n in numbers],
        "a drop by 30 %": [(-0.35 if n >= jump else 0) + noise(0, 0.05) for n in numbers],
        "a step of 8 % every 8 runs": [0.08 * (n // 8) + noise(0, 0.04) for n in numbers],
        "two machines, one half as fast again": [random.choice((0, 0.4)) + noise(0, 0.04) for _ in numbers],
        "8 % outliers": [
            noise(0, 0.05) + (abs(noise(0, 1)) if random.random() < 0.08 else 0) for _ in numbers
        ],
        "a cold cache in 20 %": [(1.0 if random.random() < 0.2 else 0) + noise(0, 0.04) for _ in numbers],
        "each like the one before": resembling,
        "a random walk": walk,
    }  # fmt: skip
    return {name: [60 * math.exp(value) for value in values] for name, values in logs.items()}
