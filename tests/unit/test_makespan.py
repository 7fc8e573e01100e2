"""Which way of running a tier's tests is taken: the smallest of what was measured, or is predicted, with hysteresis."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.mind.makespan import LEAST_GAIN, PREDICTED_GAIN, Past, candidates, choose, makespan
from orchestrator.words.plan import Mode, WorkersChoice
from orchestrator.words.results import Phases

SERIAL = Mode(workers=1)
TWO = Mode(workers=2)
TWO_BY_FILE = Mode(workers=2, by_file=True)
PHASES = Phases(boot=1.0, workers=1.0, collection=0.5, tests=5.0, closing=1.0, between=0.001)

durations = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 20)).map(lambda pair: f"tests/test_{pair[0]}.py::test_{pair[1]}"),
    st.floats(0.0, 30.0),
    min_size=1,
    max_size=60,
)
phases = st.builds(
    Phases, **dict.fromkeys(("boot", "workers", "collection", "tests", "closing"), st.floats(0, 20)),
    between=st.floats(0, 0.01),
)  # fmt: skip


def ran(mode: Mode, seconds: float, *, tests: int = 100, work: float = 10.0, of: Phases | None = PHASES) -> Past:
    return Past(mode=mode, seconds=seconds, tests=tests, work=work, phases=of)


def suite(tests: int = 100, each: float = 0.1) -> dict[str, float]:
    return {f"tests/test_{number % 10}.py::test_{number}": each for number in range(tests)}


def chosen(past: list[Past], modes: tuple[Mode, ...] = (SERIAL, TWO), **tests: float) -> WorkersChoice:
    found = choose(suite(**tests), past, modes)  # type: ignore[arg-type]
    assert found is not None
    return found


@given(durations, st.integers(1, 9), st.booleans())
def test_no_division_beats_its_lower_bound(seconds: dict[str, float], workers: int, by_file: bool) -> None:
    bound = max(*seconds.values(), sum(seconds.values()) / workers)
    assert makespan(seconds, workers, by_file=by_file) >= bound - 1e-9


@given(durations)
def test_one_worker_takes_what_the_tests_take_together(seconds: dict[str, float]) -> None:
    assert makespan(seconds, 1) == pytest.approx(sum(seconds.values()))


@given(st.lists(st.floats(0.001, 30.0), min_size=1, max_size=50), st.integers(2, 9))
def test_without_shared_fixtures_it_is_within_grahams_bound(took: list[float], workers: int) -> None:
    seconds = {f"tests/test_{number}.py::test": one for number, one in enumerate(took)}
    bound = max(*took, sum(took) / workers)
    assert makespan(seconds, workers) <= bound * (2 - 1 / workers) + 1e-9


def test_a_long_file_is_divided_and_its_fixtures_are_set_up_once_more() -> None:
    plain = {f"tests/test_a.py::test_{n}": 1.0 for n in range(10)}
    assert makespan(plain, 2) == pytest.approx(5.0)
    assert makespan(plain, 2, by_file=True) == pytest.approx(10.0)
    fixtures = {**plain, "tests/test_a.py::test_0": 41.0}
    assert makespan(fixtures, 2, by_file=True) == pytest.approx(50.0)
    assert makespan(fixtures, 2) == pytest.approx(45.0)  # the second worker: 40 s of fixtures, and five tests


def test_files_that_would_be_torn_apart_are_kept_together_where_that_is_faster() -> None:
    """Two files with 10 s of fixtures each, and tests that take longer than them."""
    tests = {f"tests/test_{f}.py::test_{n}": 11.0 + (10.0 if n == 0 else 0.0) for f in "ab" for n in range(4)}
    assert makespan(tests, 2, by_file=True) == pytest.approx(54.0)
    assert makespan(tests, 2) > 54.0
    found = choose(tests, [ran(TWO, 80.0, tests=8, work=108.0)], (SERIAL, TWO, TWO_BY_FILE))
    assert found is not None
    assert found.mode == TWO_BY_FILE


@pytest.mark.parametrize(
    ("boot", "alone", "expected"),
    [
        # toolz: nothing but pytest can be imported ahead, and is for one process as well.
        (0.16, Mode(workers=1, warm=True), Mode(workers=1, warm=True)),
        # The second tier of a job that has torch: what these workers were forked with, one process imports for itself.
        (0.16, SERIAL, Mode(workers=2, warm=True)),
        (1.60, SERIAL, Mode(workers=2, warm=True)),
    ],
)
def test_a_suite_as_small_as_this_needs_no_second_worker(boot: float, alone: Mode, expected: Mode) -> None:
    warm = Mode(workers=2, warm=True)
    of = Phases(boot=boot, workers=0.15, collection=0.07, tests=0.13, closing=0.1, between=0.0008)
    seconds = boot + 0.15 + 0.07 + 0.13 + 0.1
    found = choose(suite(180, 0.0006), [ran(warm, seconds, tests=180, work=0.11, of=of)] * 2, (alone, warm))
    assert found is not None
    assert found.mode == expected


@given(durations, phases, st.integers(2, 8))
def test_what_is_chosen_is_predicted_to_be_no_slower_than_the_rest_but_for_the_hysteresis(
    seconds: dict[str, float], of: Phases, cpus: int
) -> None:
    modes = [Mode(workers=count) for count in candidates(cpus)]
    tests, work = len(seconds), sum(seconds.values())
    found = choose(seconds, [ran(modes[-1], 5.0 + work, tests=tests, work=work, of=of)], modes)
    assert found is not None
    best = min(option.seconds for option in found.options)
    now = next(option.seconds for option in found.options if option.mode == modes[-1])
    assert found.seconds <= best or found.seconds == now <= best + max(LEAST_GAIN, PREDICTED_GAIN * now) + 1e-3


@given(durations, phases, st.integers(1, 7))
def test_more_cores_never_promise_a_later_end(seconds: dict[str, float], of: Phases, cpus: int) -> None:
    tests, work = len(seconds), sum(seconds.values())
    past = [ran(SERIAL, 5.0 + work, tests=tests, work=work, of=of)]

    def best(cores: int) -> float:
        found = choose(seconds, past, [Mode(workers=count) for count in candidates(cores)])
        assert found is not None
        return min(option.seconds for option in found.options)

    assert best(cpus + 1) <= best(cpus)


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 9, 16, 64, 100])
def test_few_numbers_of_workers_are_looked_at_and_all_the_cpus_are_among_them(cpus: int) -> None:
    counts = candidates(cpus)
    assert counts[0] == 1
    assert counts[-1] == cpus
    assert counts == sorted(set(counts))
    assert len(counts) <= 16


def test_without_a_run_that_says_where_its_time_went_nothing_is_chosen() -> None:
    assert choose(suite(), [], [SERIAL, TWO]) is None
    assert choose(suite(), [ran(TWO, 5.0, of=None)], [SERIAL, TWO]) is None
    assert choose({}, [ran(TWO, 5.0)], [SERIAL, TWO]) is None
    assert choose(suite(), [ran(Mode(workers=4), 5.0)], [SERIAL, TWO]) is None


def test_tests_that_are_nothing_beside_the_start_of_workers_run_in_one_process() -> None:
    slow_start = Phases(boot=2.0, workers=2.0, collection=0.5, tests=1.0, closing=4.0, between=0.002)
    found = chosen([ran(TWO, 9.5, work=0.1, of=slow_start)], each=0.001)
    assert found.mode == SERIAL
    assert found.reason.startswith("1 worker: 4.0 s predicted; 100 tests take 0.1 s of it, and a second worker would ")
    assert found.reason.endswith("cost 5.5 s more than it saves (9.5 s in 1 earlier run)")


def test_long_tests_stay_on_workers_and_the_plan_says_what_one_process_would_take() -> None:
    found = chosen([ran(TWO, 55.0, work=100.0)], each=1.0)
    assert found.mode == TWO
    assert found.reason == "2 workers, longest first: 55.0 s in 1 earlier run; in 1 process 78.8 s predicted"


def test_a_tier_that_ran_in_one_process_gets_workers_when_that_promises_much() -> None:
    assert chosen([ran(SERIAL, 102.0, work=100.0)], each=1.0).mode == TWO


@pytest.mark.parametrize(
    ("tests", "work", "seconds", "of", "really"),
    [
        # Real runs with two warm workers on two CPUs, and what the same tests took in one process.
        pytest.param(180, 0.18, 0.55, (0.09, 0.128, 0.067, 0.193, 0.024, 0.00075, 0.012), 0.34, id="toolz"),
        pytest.param(909, 1.80, 2.17, (0.126, 0.182, 0.173, 1.415, 0.136, 0.00113, 0.11), 2.41, id="jinja2"),
        pytest.param(1500, 0.59, 1.35, (0.103, 0.111, 0.128, 0.94, 0.066, 0.00084, 0.011), 1.02, id="tiny"),
        pytest.param(1500, 1.90, 3.93, (0.35, 0.341, 0.384, 3.036, 0.518, 0.00275, 0.019), 2.53, id="tiny, coverage"),
        pytest.param(196, 0.58, 2.54, (1.145, 0.881, 0.045, 0.408, 0.116, 0.00114, 1.855), 3.06, id="fast-shape"),
        pytest.param(
            196, 1.21, 4.27, (1.548, 0.932, 0.142, 0.856, 0.479, 0.00247, 2.084), 6.2, id="fast-shape, coverage"
        ),
        pytest.param(60, 0.04, 2.01, (0.138, 2.117, 0.043, 0.099, 0.057, 0.00096, 2.026), 2.08, id="imports"),
    ],
)
def test_what_one_process_would_take_is_predicted_from_workers_roughly(
    tests: int, work: float, seconds: float, of: tuple[float, ...], really: float
) -> None:
    names = ("boot", "workers", "collection", "tests", "closing", "between", "ahead")
    warm = Mode(workers=2, warm=True)
    past = [ran(warm, seconds, tests=tests, work=work, of=Phases(**dict(zip(names, of, strict=True))))]
    found = choose(suite(tests, work / tests), past, (SERIAL, warm))
    assert found is not None
    predicted = next(option.seconds for option in found.options if option.mode == SERIAL)
    assert 0.62 < predicted / really < 1.6


def test_what_was_tried_and_was_slower_is_not_tried_again() -> None:
    """The prediction alone would choose one process, again and again."""
    slow_start = Phases(boot=2.0, workers=2.0, collection=0.5, tests=1.0, closing=4.0, between=0.002)
    first = ran(TWO, 9.5, work=0.1, of=slow_start)
    assert chosen([first], each=0.001).mode == SERIAL
    tried = ran(SERIAL, 12.0, work=0.1)
    assert chosen([tried, first], each=0.001).mode == TWO
    for _ in range(30):
        again = [ran(TWO, 9.5, work=0.1, of=slow_start)] * 30
        assert chosen([*again, tried, first], each=0.001).mode == TWO


def test_two_modes_that_take_the_same_do_not_take_turns() -> None:
    past = [ran(SERIAL, 10.2, work=5.0), ran(TWO, 10.0, work=5.0)] * 2
    assert chosen(past, each=0.05).mode == SERIAL
    assert chosen(past[::-1], each=0.05).mode == TWO


def test_the_first_run_ever_is_too_cold_to_speak_against_its_mode() -> None:
    """Two workers took 40 s then; one process has taken 20 s since, and two workers should take much less."""
    cold, serial = ran(TWO, 40.0, work=15.0), ran(SERIAL, 20.0, work=15.0)
    found = chosen([serial, cold], each=0.15)
    assert found.mode == TWO
    assert found.seconds < 16.0
    # Once it was tried again, that counts; and the shorter of two runs does.
    again = ran(TWO, 21.0, work=15.0)
    assert chosen([again, serial, cold], each=0.15).mode == SERIAL
    assert chosen([serial, again, serial, cold], each=0.15).mode == SERIAL
    assert chosen([ran(TWO, 16.0, work=15.0), serial, cold], each=0.15).mode == TWO


def test_a_mode_that_was_slower_only_as_everything_was_cold_gets_another_chance() -> None:
    """Its first seconds went into files that were read, and compiled, for the first time."""
    cold_start = replace(PHASES, boot=4.0)
    cold, serial = ran(TWO, 6.0, work=1.0, of=cold_start), ran(SERIAL, 3.2, work=2.0)
    again = chosen([serial, cold], each=0.02)
    assert again.mode == TWO
    assert again.reason == (
        "2 workers, longest first, once more: 6.0 s in the first run of all; 3.2 s in 1 process since"
    )
    assert chosen([ran(TWO, 2.9, work=1.0), serial, cold], each=0.02).mode == TWO
    slower = ran(TWO, 3.5, work=1.0)
    assert chosen([slower, serial, cold], each=0.02).mode == SERIAL
    assert chosen([serial, slower, serial, cold], each=0.02).mode == SERIAL
    assert chosen([serial, cold], (SERIAL,), each=0.02).mode == SERIAL, "two workers no longer fit"
    hopeless = ran(TWO, 8.0, work=1.0, of=cold_start)
    assert chosen([serial, hopeless], each=0.02).mode == SERIAL


def test_one_slow_run_does_not_change_a_choice_that_many_runs_speak_for() -> None:
    usual = [ran(TWO, 10.0, work=10.0)] * 4
    assert chosen([ran(TWO, 30.0, work=14.0), *usual, ran(SERIAL, 12.0)]).mode == TWO


def test_runs_of_another_suite_say_nothing() -> None:
    """One process was slower when there were 400 long tests; now there are 100 short ones."""
    old = [ran(TWO, 25.0, tests=400, work=40.0), ran(SERIAL, 45.0, tests=400, work=40.0)]
    new = ran(TWO, 6.0, tests=100, work=1.0, of=Phases(boot=1, workers=2, collection=0.5, tests=0.5, closing=2))
    found = chosen([new, *old], each=0.01)
    assert [option.runs for option in found.options] == [0, 1]
    assert found.mode == SERIAL
    # The same number of tests, ten times as fast: two runs of the old kind in a row are another suite.
    old = [ran(TWO, 25.0, work=40.0), ran(TWO, 25.0, work=40.0), ran(SERIAL, 45.0, work=40.0)]
    assert [option.runs for option in chosen([new, *old], each=0.01).options] == [0, 1]


def test_a_few_new_tests_are_added_to_what_was_measured() -> None:
    found = chosen([ran(SERIAL, 12.0, tests=90, work=9.0), ran(TWO, 30.0, tests=90)], each=0.1)
    serial = next(option for option in found.options if option.mode == SERIAL)
    assert serial.seconds == pytest.approx(12.0 + 10 * 0.101, abs=0.02)


def test_tests_that_are_not_given_out_by_us_are_not_said_to_be() -> None:
    found = choose(suite(each=1.0), [ran(TWO, 55.0, work=100.0)], [SERIAL, TWO], usual="in their own order")
    assert found is not None
    assert found.reason.startswith("2 workers, in their own order: ")


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.2])
@pytest.mark.parametrize("ratio", [0.6, 0.9, 0.97, 1.0, 1.03, 1.1, 1.6])
def test_over_many_noisy_runs_it_stays_near_the_better_mode_and_seldom_changes(ratio: float, noise: float) -> None:
    """One process truly takes ``ratio`` of what two workers take; each was run twice, and from then on as chosen."""
    random = Random(7)
    truth = {SERIAL: 20.0 * ratio, TWO: 20.0}
    best = min(truth.values())
    lost: list[float] = []
    switches: list[int] = []
    for _ in range(20):
        past: list[Past] = []
        taken = [SERIAL, TWO, TWO, SERIAL]
        for number in range(40):
            if number >= len(taken):
                taken.append(chosen(past).mode)
            seconds = truth[taken[-1] if number >= 4 else taken[number]] * math.exp(random.gauss(0, noise))
            past.insert(0, ran(taken[number], seconds))
        lost += [truth[mode] / best - 1 for mode in taken[4:]]
        switches.append(sum(a != b for a, b in pairwise(taken[4:])))
    assert mean(lost) <= 0.05
    assert mean(switches) <= 3
