"""What xdist's workers are told by our scheduler, and how often."""

from __future__ import annotations

from typing import Any

import pytest

scheduling = pytest.importorskip("pytest_mltiers.scheduling", reason="needs pytest-xdist")


class Config:
    """What xdist's scheduler asks of pytest's configuration."""

    def getvalue(self, name: str) -> list[str] | None:
        return {"tx": ["2*popen"], "maxschedchunk": None}[name]

    getoption = getvalue


class Worker:
    """Runs what it is sent, one test at a time; its xdist needs to know the next one before it begins."""

    def __init__(self, name: str, *, dead: bool = False) -> None:
        self.id = name
        self.dead = dead
        self.queue: list[int] = []
        self.messages = 0
        self.shutting_down = False
        self.gateway: Any = self

    def send_runtest_some(self, indices: list[int]) -> None:
        if self.dead:
            raise OSError("cannot send (already closed?)")
        self.messages += 1
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def session(seconds: list[float | None], *workers: Worker) -> Any:
    """A scheduler of so many tests; None: nobody knows how long it takes."""
    tests = [f"test_{number // 50}.py::test_{number}" for number in range(len(seconds))]
    known = {test: value for test, value in zip(tests, seconds, strict=True) if value is not None}
    order = pytest.importorskip("pytest_mltiers.order").Order(seconds=known)
    scheduler = scheduling.LongestFirst(Config(), None, order, clock=lambda: 0.0)
    for worker in workers:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, tests)
    scheduler.schedule()
    return scheduler


def run(scheduler: Any, *workers: Worker, takes: float = 0.0) -> list[int]:
    """Every worker runs a test in turn, as long as it may begin one."""
    done = []
    while any(len(worker.queue) > (not worker.shutting_down) for worker in workers):
        for worker in workers:
            if len(worker.queue) > (not worker.shutting_down):
                done.append(worker.queue.pop(0))
                scheduler.mark_test_complete(worker, done[-1], takes)
                scheduler.check_schedule(worker)
    return done


@pytest.mark.parametrize("seconds", [None, 0.0, 0.001, 0.02, 1.0])
def test_every_test_is_run_once_and_a_worker_always_has_a_next_one(seconds):
    workers = Worker("gw0"), Worker("gw1")
    scheduler = session([seconds] * 401, *workers)

    assert sorted(run(scheduler, *workers)) == list(range(401))
    assert scheduler.tests_finished


def test_short_tests_share_a_message():
    workers = Worker("gw0"), Worker("gw1")
    scheduler = session([0.001] * 2_000, *workers)
    run(scheduler, *workers)

    assert sum(worker.messages for worker in workers) <= 2_000 / 20


def test_long_tests_are_handed_out_as_late_as_can_be():
    workers = Worker("gw0"), Worker("gw1")
    session([1.0] * 100, *workers)

    assert [len(worker.queue) for worker in workers] == [2, 2]


def test_what_nobody_knows_is_learnt_and_shares_a_message_then():
    workers = Worker("gw0"), Worker("gw1")
    scheduler = session([None] * 2_000, *workers)
    assert [len(worker.queue) for worker in workers] == [2, 2]
    run(scheduler, *workers, takes=0.001)

    assert sum(worker.messages for worker in workers) <= 2_000 / 5


def test_what_a_dead_worker_was_sent_goes_to_the_others():
    alive, dead = Worker("gw0"), Worker("gw1", dead=True)
    scheduler = session([0.001] * 100, alive, dead)
    scheduler.remove_node(dead)
    alive.shutting_down = False
    scheduler.check_schedule(alive)

    assert sorted(run(scheduler, alive)) == list(range(100))
