"""How many workers a tier with `workers: auto` gets: what its plan says, and how many fit into memory."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from orchestrator.mind.config import parse_config
from orchestrator.mind.how import Machine
from orchestrator.mind.plan import Request, make_plan
from orchestrator.mind.readers.events import Session
from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import decode, encode
from orchestrator.mind.records.history import History
from orchestrator.mind.render.documents import plan_document
from orchestrator.mind.workers import fitting, phases_of
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import PythonFacts, Suite, TierPlan
from orchestrator.words.results import Ending, Phases, TestOutcome, TestResult
from tests.support.past import MACHINE, NOW, result_of, run_record

GIB = 1 << 30
SLOW_WORKERS = Phases(boot=1.0, workers=3.0, collection=0.5, tests=1.0, closing=4.0, between=0.001)
QUICK_WORKERS = Phases(boot=1.0, workers=1.0, collection=0.5, tests=50.0, closing=1.0, between=0.001)
PYTHON = PythonFacts(executable="python", version="3.11.7", pytest="9", xdist="3", cov="7")


def planned(
    records: list[Record],
    tier: str = "{}",
    *,
    cpus: int = 2,
    memory: int | None = None,
    python: PythonFacts = PYTHON,
    suites: Mapping[str, Suite] | None = None,
) -> TierPlan:
    made = make_plan(
        parse_config(f"version: 1\ntiers:\n  unit: {tier}\n", filename="ml-tiers.yml"),
        Event(name="push"),
        Changes(files=(), source="git"),
        History(version="v", tiers={"unit": tuple(records)}),
        config_path="ml-tiers.yml",
        request=Request(),
        machine=Machine(cpus=cpus, variables={}, fingerprint=MACHINE, memory=memory, suites=suites or {}),
        pythons={"python": python},
    )
    return made.tier("unit")


def ran(
    seconds: float, each: float, *, workers: int = 2, phases: Phases | None = SLOW_WORKERS, **more: object
) -> Record:
    tests = [result_of(f"tests/test_{number % 4}.py::test_{number}", each) for number in range(20)]
    return run_record(seconds, tests=tests, workers=workers, phases=phases, **more)  # type: ignore[arg-type]


def test_short_tests_run_in_one_process_once_a_run_has_shown_what_workers_cost() -> None:
    assert planned([]).workers == 2
    tier = planned([ran(9.0, 0.01)])
    assert tier.workers == 1
    assert tier.predicted_seconds == pytest.approx(3.1, abs=0.1)
    assert tier.predicted_note == "never run so"
    assert tier.command[tier.command.index("-n") + 1] == "0"
    assert not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(tier.env)  # one process has the cores to itself
    assert any("a second worker would cost 5.9 s more than it saves" in detail for detail in tier.details)


def test_long_tests_keep_their_workers() -> None:
    tier = planned([ran(54.0, 5.0, phases=QUICK_WORKERS)])
    assert tier.workers == 2
    assert tier.env["OMP_NUM_THREADS"] == "1"
    assert tier.predicted_note is None


def test_a_run_in_the_middle_of_a_long_history_is_not_taken_for_the_first_of_all() -> None:
    serial = [ran(3.2, 0.01, workers=1, phases=replace(SLOW_WORKERS, workers=0.0)) for _ in range(19)]
    tried = ran(6.0, 0.01, phases=replace(SLOW_WORKERS, boot=4.0))
    assert planned([*serial, tried]).workers == 2, "with nothing before it, it was cold"
    assert planned([*serial, tried, *serial]).workers == 1


def test_what_was_said_is_in_the_plans_document() -> None:
    choice = plan_document_of(planned([ran(9.0, 0.01)]))
    assert choice["workers"] == 1
    assert choice["reason"].startswith("1 worker: ")
    assert [(option["workers"], option["runs"]) for option in choice["options"]] == [(1, 0), (2, 1)]


def plan_document_of(tier: TierPlan) -> dict[str, object]:
    from orchestrator.words.plan import Plan

    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="0",
        event=Event(name="push"),
        changes=Changes(files=(), source="git"),
        tiers=(tier,),
    )
    found: dict[str, object] = plan_document(plan)["tiers"]["unit"]["choice"]
    return found


@pytest.mark.parametrize(
    ("tier", "workers"),
    [("{workers: 2}", 2), ("{workers: 1}", 1), ("{workers: 3}", 3), ("{workers: 3, gpus: 1}", 3)],
)
def test_a_number_that_was_given_is_obeyed(tier: str, workers: int) -> None:
    made = planned([ran(9.0, 0.01)], tier)
    assert made.workers == workers
    assert made.choice is None


SHARING = Suite(gpu_memory=True)
DIED = ran(9.0, 0.01, ending=Ending.SIGNALED)


@pytest.mark.parametrize(
    ("tier", "suite", "records", "workers", "said"),
    [
        ("{gpus: 1}", None, [], 1, "1 process for 1 GPU: no test has a `gpu_memory` mark, so each has one to itself"),
        ("{gpus: 1}", Suite(), [ran(9.0, 0.01)], 1, "1 process for 1 GPU: no test"),
        ("{gpus: 2}", Suite(), [], 2, "2 processes for 2 GPUs: no test has a `gpu_memory` mark, so each has"),
        ("{gpus: 3, shards: 2}", Suite(), [], 3, "3 processes for 3 GPUs: no test"),
        ("{gpus: 16}", Suite(), [], 8, "8 processes for 16 GPUs: no test"),
        ("{gpus: 1}", SHARING, [], 4, "4 processes for 1 GPU: tests with `gpu_memory` marks share it"),
        ("{gpus: 3}", SHARING, [], 8, "8 processes for 3 GPUs: tests with `gpu_memory` marks share them"),
        # One that dies takes no other test along: xdist starts another.
        ("{gpus: 1}", Suite(), [DIED], 2, "2 processes for 1 GPU: in the last run one died in the middle of a test"),
        ("{gpus: 2}", Suite(), [DIED], 2, "2 processes for 2 GPUs: no test"),
    ],
)
def test_a_tier_with_gpus_has_as_many_processes_as_can_use_them(
    tier: str, suite: Suite | None, records: list[Record], workers: int, said: str
) -> None:
    made = planned(records, tier, cpus=8, suites={} if suite is None else {"unit": suite})
    assert made.workers == workers
    assert made.choice is None
    assert any(detail.startswith(f"{said}") for detail in made.details), made.details


def test_runs_of_other_machines_or_without_coverage_decide_nothing() -> None:
    assert planned([ran(9.0, 0.01, machine={**MACHINE, "cpu": "another"})]).choice is None
    assert planned([ran(9.0, 0.01, coverage=False)]).choice is None
    assert planned([ran(9.0, 0.01, phases=None)]).choice is None


def test_whole_files_are_offered_only_where_the_project_leaves_the_order_to_us() -> None:
    ours = ran(9.0, 0.01, order="longest first")
    made = planned([ours])
    assert made.choice is not None
    assert any(option.mode.by_file for option in made.choice.options)
    theirs = ran(9.0, 0.01, order="pytest's own")
    made = planned([theirs])
    assert made.choice is not None
    assert not any(option.mode.by_file for option in made.choice.options)


def test_files_with_long_fixtures_are_kept_whole() -> None:
    tests = [
        result_of(f"tests/test_{file}.py::test_{n}", 11.0 + (10.0 if n == 0 else 0.0))
        for file in "ab"
        for n in range(4)
    ]
    record = run_record(80.0, tests=tests, workers=2, phases=QUICK_WORKERS, order="longest first")
    tier = planned([record])
    assert tier.command[tier.command.index("--dist") + 1] == "loadfile"
    assert any("2 workers, by file" in detail for detail in tier.details)


def test_tests_that_kill_their_process_stay_on_workers() -> None:
    assert planned([ran(9.0, 0.01)]).workers == 1
    died = TestResult(
        node_id="t.py::dies", outcome=TestOutcome.ERROR, message="worker 'gw1' crashed while running 't.py::dies'"
    )
    assert planned([run_record(9.0, tests=[died], workers=2, phases=SLOW_WORKERS), ran(9.0, 0.01)]).workers == 2
    alone = ran(2.0, 0.01, workers=1, ending=Ending.SIGNALED, exit_code=-11)
    assert planned([alone, ran(9.0, 0.01)]).workers == 2


# --- memory --------------------------------------------------------------------------------------------------------


def test_no_more_workers_than_fit_into_memory() -> None:
    heavy = ran(54.0, 5.0, peak_memory=2 * GIB, machine={**MACHINE, "cores": "8"})
    assert fitting([heavy], 7 * GIB, 8, torch=True) == (
        2,
        "7.0 GiB of memory: no more than 2 of 8 workers fit (one held at most 2.0 GiB)",
    )
    assert fitting([heavy], 18 * GIB, 8, torch=True) == (8, None)
    assert fitting([heavy], 1 * GIB, 8, torch=True)[0] == 1
    assert fitting([heavy], None, 8, torch=True) == (8, None)


def test_without_a_measured_worker_there_is_a_floor() -> None:
    assert fitting([], GIB, 8, torch=False) == (
        7,
        "1.0 GiB of memory: no more than 7 of 8 workers fit (one is taken to hold 128 MiB)",
    )
    assert fitting([], GIB, 8, torch=True)[0] == 1
    assert fitting([], GIB, 4, torch=False) == (4, None)


def test_the_plan_keeps_to_what_fits_and_says_so() -> None:
    made = planned([], cpus=8, memory=GIB // 2)
    assert made.workers == 3
    assert "512 MiB of memory: no more than 3 of 8 workers fit (one is taken to hold 128 MiB)" in made.notes
    told = planned([], "{workers: 8}", memory=GIB // 2)
    assert told.workers == 8
    assert told.notes[0].endswith("; 8 were asked for")
    heavy = planned([ran(54.0, 5.0, phases=QUICK_WORKERS, peak_memory=GIB)], memory=2 * GIB)
    assert heavy.workers == 1


# --- where the time of a run went ----------------------------------------------------------------------------------


def session(worker: str, at: float) -> Session:
    return Session(
        worker=worker, started=NOW + at, pid=1, python="3.11", pytest="9", plugin="0", root="", workers=2
    )  # fmt: skip


def timed(worker: str, at: float, seconds: float) -> TestResult:
    return TestResult(
        node_id=f"{worker}{at}", outcome=TestOutcome.PASSED, seconds=seconds, worker=worker, started=NOW + at
    )


def test_the_seconds_of_a_run_are_told_apart_by_its_stream() -> None:
    tests = [timed("gw0", 4.0, 1.0), timed("gw0", 5.5, 1.0), timed("gw1", 4.25, 3.0)]
    sessions = [session("main", 1.0), session("gw0", 2.0), session("gw1", 3.0)]
    assert phases_of(tests, sessions, started=NOW, seconds=10.0) == Phases(
        boot=1.0, workers=2.0, collection=1.0, tests=3.25, closing=2.75, between=round(0.5 / 3, 6)
    )
    alone = phases_of([timed("main", 2.0, 1.0)], [session("main", 1.5)], started=NOW, seconds=4.0)
    assert alone == Phases(boot=1.5, workers=0.0, collection=0.5, tests=1.0, closing=1.0, between=0.0)


def test_a_stream_that_does_not_say_gives_none() -> None:
    assert phases_of([], [session("main", 1.0)], started=NOW, seconds=1.0) is None
    assert phases_of([timed("gw0", 1.0, 1.0)], [session("gw0", 1.0)], started=NOW, seconds=1.0) is None
    assert phases_of([timed("main", 1.0, 1.0)], [session("main", 1.0)], started=None, seconds=1.0) is None


def test_a_record_keeps_where_the_time_went_and_what_was_held() -> None:
    record = ran(9.0, 0.01, peak_memory=3 * GIB)
    files = encode(record)
    name = next(name for name in files if name.endswith(".json") and b'"plan"' in files[name])
    read = decode(files[name], files)
    assert read.tier.result is not None
    assert read.tier.result.phases == SLOW_WORKERS
    assert read.tier.result.peak_memory == 3 * GIB
