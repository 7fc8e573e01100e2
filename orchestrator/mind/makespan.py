"""Which way of running a tier's tests ends first: in one process, or on so many workers. Pure.

What was measured on this machine counts before what is predicted. A way that was never tried is predicted from the
phases of the newest run: what every process pays once (its start, its imports, collecting, writing what it measured),
what every test pays beside its own seconds, and how well its tests divide. The division is that of the plugin's own
scheduler: list scheduling of blocks, the longest first (Graham 1969), whose result lies between max(longest, sum ÷
workers) and 4/3 of it for tests that share no fixtures.

A switch has to promise more than the noise: a run that was predicted to be faster and was slower is evidence, and is
not repeated for as long as the history has it and the suite is about the same.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import neg
from statistics import median

from msgspec import Struct
from msgspec.structs import fields

from orchestrator.words.plan import Mode, ModeEstimate, WorkersChoice
from orchestrator.words.results import Phases

NEWEST = 5  # runs of a mode that its middle is made of
MEASURED_GAIN = 0.03  # of the time, that a mode which was tried must have been faster by to be taken up again
PREDICTED_GAIN = 0.10  # and one that never was must promise
LEAST_GAIN = 0.05  # seconds; a try costs no more than it may lose
SAME_TESTS = 0.25  # of its tests by which a suite may grow or shrink before earlier runs say nothing of it
SAME_WORK = 0.5  # and of its time

# What a mode that was never run costs beside one that was. Read off runs of generated suites both ways on two cores
# (benchmarks/choice.md; the end of warm workers off the phases in result.json of benchmarks/speed.py's fast-shape); one
# run of the mode replaces them.
SPAWN = 0.05  # seconds by which each further worker delays the first test
FORKED_START = 0.15  # seconds till a forked worker begins its session
AHEAD = 1.0  # seconds of what is imported ahead, where nobody has measured it
CONTROLLER = 0.0007  # seconds of the controller for each test
BETWEEN_SERIAL = 0.4  # of the time between tests of a worker is left without xdist
CONTENTION = 0.3  # by which tests take longer where all CPUs are busy: caches, memory, hyperthreads, the controller
CLOSING_SERIAL = 0.35  # of the end of plain workers: nobody hands coverage over
CLOSING_WARM = 0.35  # of the end of one plain process: what was imported ahead is not collected
CLOSING_ALONE = 0.7  # of the end of warm workers is left of one process, for nobody hands coverage over
COLLECTING = 0.1  # of the seconds that imports took, to take the modules apart where they were not imported ahead
AGAIN = 0.15  # by which the first run of all may have been slower for its mode to be given another chance

LONG = 0.05  # of a worker's share makes a test a block of its own; as in the plugin's lanes.py
SMALL = 0.02  # seconds of fixtures that keep no file together


class Past(Struct, frozen=True, kw_only=True):
    """One earlier run that came to its end, on a machine like this one."""

    mode: Mode
    seconds: float  # wall time of all of it
    tests: int
    work: float  # seconds of all its tests
    phases: Phases | None = None


class _File(Struct, frozen=True, kw_only=True):
    """The tests of one file. ``again``: seconds of what its first test sets up for the others, at most."""

    seconds: tuple[float, ...]  # without ``again``, the longest first
    total: float
    again: float = 0.0
    longest: float  # test, with what it sets up

    def tall(self, least: float) -> tuple[float, ...]:
        """Its tests of so many seconds and more."""
        return self.seconds[: bisect_right(self.seconds, -least, key=neg)]


class _Unit(Struct):
    file: int
    seconds: float
    divisible: bool


class _Lane(Struct):
    file: int = -1
    last: _Unit | None = None


def makespan(seconds: Mapping[str, float], workers: int, *, by_file: bool = False) -> float:
    """Seconds from the first test's start to the last one's end. ``seconds``: of each test, by node id.

    ``by_file``: a file's tests stay together whatever that costs (xdist's ``loadfile``). Never below max(longest test,
    sum ÷ workers).
    """
    return _span(_files(seconds), workers, by_file=by_file)


def candidates(cpus: int) -> list[int]:
    """Numbers of workers worth looking at: all up to eight, then in steps of about a third, and all the CPUs."""
    found = list(range(1, min(cpus, 8) + 1))
    step = 8
    while step < cpus:
        found += [count for count in (step * 3 // 2, step * 2) if count < cpus]
        step *= 2
    return sorted({*found, cpus})


def choose(
    seconds: Mapping[str, float],
    past: Sequence[Past],
    modes: Sequence[Mode],
    *,
    usual: str = "longest first",
    complete: bool = True,
) -> WorkersChoice | None:
    """The mode that ends first. ``seconds``: of each test there is now; ``past``: newest first; ``usual``: how
    workers share tests where nothing else is said; ``complete``: whether the last of ``past`` was the first run of all.

    None: nothing is known that could decide it, as no run was in one of ``modes``.
    """
    runs = _of_this_suite(past)
    current = next((run for run in runs if run.mode in modes and run.phases is not None), None)
    if current is None or not seconds:
        return None
    model = _Model(
        files=_files(seconds),
        runs=runs,
        current=current,
        first=past[-1] if complete else None,
        most=max(mode.workers for mode in modes),
    )
    estimates = [_estimate(mode, model) for mode in modes]
    now = next(one for one in estimates if one.mode == current.mode)
    better = [one for one in estimates if now.seconds - one.seconds > _worth(now, one)]
    taken = min(better, key=lambda one: (one.seconds, one.mode.workers), default=now)
    words = _words(taken, estimates, sum(seconds.values()), len(seconds), usual=usual)
    again = model.another_chance(now) if taken is now else None
    if again is not None and again.mode in modes:
        taken = next(one for one in estimates if one.mode == again.mode)
        seen = f"{again.seconds:.1f} s in the first run of all; {now.seconds:.1f} s in {_processes(now.mode)} since"
        words = f"{_named(taken.mode, usual)}, once more: {seen}"
    return WorkersChoice(mode=taken.mode, seconds=taken.seconds, options=tuple(estimates), reason=words)


def _worth(now: ModeEstimate, other: ModeEstimate) -> float:
    """Seconds that a switch must promise."""
    if other.runs:
        return MEASURED_GAIN * now.seconds
    return max(LEAST_GAIN, PREDICTED_GAIN * now.seconds)


class _Model(Struct, frozen=True, kw_only=True):
    """What is known: the tests there are, earlier runs of them (newest first), and the one to go on from."""

    files: Sequence[_File]
    runs: Sequence[Past]
    current: Past
    first: Past | None  # run of all; None: that is not known any more
    most: int = 1  # workers of any mode: all the CPUs, as far as is known

    def took(self, mode: Mode) -> list[float]:
        """Seconds of the newest runs in a mode, had they had the tests that there are now."""
        tests = sum(len(file.seconds) for file in self.files)
        newest = [run for run in self.runs if run.mode == mode][:NEWEST]
        share = [1 - run.tests / tests for run in newest]
        phases = self.phases(mode)
        span = self.tests(mode, mode, phases) if phases is not None and any(share) else 0.0
        return [run.seconds + span * more for run, more in zip(newest, share, strict=True)]

    def tests(self, mode: Mode, known: Mode, phases: Phases) -> float:
        """Seconds of the tests in ``mode``, from ``phases`` of runs in ``known`` and the tests' own of the newest."""
        slower = self.slowed(mode) / self.slowed(self.current.mode)
        between = phases.between * self.slowed(self.current.mode) / self.slowed(known)
        return _tests(self.files, mode, known, between) * slower

    def slowed(self, mode: Mode) -> float:
        """How much longer a test takes beside so many workers than alone."""
        return 1 + CONTENTION * (mode.workers - 1) / max(1, self.most - 1)

    def phases(self, mode: Mode) -> Phases | None:
        """The middle of each phase over the newest runs in a mode."""
        known = [run.phases for run in self.runs if run.mode == mode and run.phases is not None][:NEWEST]
        if not known:
            return None
        middle = {f.name: [s for one in known if (s := getattr(one, f.name)) is not None] for f in fields(Phases)}
        return Phases(**{name: median(seconds) for name, seconds in middle.items() if seconds})

    def cold(self, mode: Mode) -> bool:
        """Whether all that is known of a mode is the first run ever, while others have been run since.

        Nothing was compiled or cached then, and no test in its place.
        """
        return self.current.mode != mode and [run for run in self.runs if run.mode == mode] == [self.first]

    def another_chance(self, now: ModeEstimate) -> Past | None:
        """The first run of all, if nothing else is known of its mode, and it was slower only as everything was cold."""
        phases = self.phases(now.mode)
        first = self.first
        if first is None or not self.cold(first.mode) or first.phases is None or phases is None:
            return None
        warm = first.seconds - max(0.0, first.phases.boot - phases.boot)
        return first if warm < (1 + AGAIN) * now.seconds else None

    def nearest(self, mode: Mode) -> Mode:
        """The mode of the newest other run that had workers as well, or had none; or else of any."""
        alike = (r for r in self.runs if r.phases is not None and (r.mode.workers > 1) is (mode.workers > 1))
        return next((run for run in alike if not self.cold(run.mode)), self.current).mode


def _estimate(mode: Mode, model: _Model) -> ModeEstimate:
    took = model.took(mode)
    if took and not model.cold(mode):
        # What disturbs a run makes it longer: of two, the shorter is nearer to the truth.
        return ModeEstimate(mode=mode, seconds=round(median(took) if len(took) > 2 else min(took), 3), runs=len(took))
    predicted = _predicted(mode, model)
    return ModeEstimate(mode=mode, seconds=round(min([predicted, *took]), 3), runs=0)


def _predicted(mode: Mode, model: _Model) -> float:
    """What a run in a mode would take, from the phases of the runs in another."""
    known = model.nearest(mode)
    phases = model.phases(known)
    assert phases is not None  # noqa: S101 -- that is what it was chosen for
    seconds = model.tests(mode, known, phases) + _beside(mode, known, phases)
    if (known.workers > 1) is (mode.workers > 1):
        # What the model is wrong by is the same for two numbers of workers.
        modelled = model.tests(known, known, phases) + _beside(known, known, phases)
        seconds = max(seconds + median(model.took(known)) - modelled, 0.0)
    return seconds


def _of_this_suite(past: Sequence[Past]) -> list[Past]:
    """The newest runs, as long as they were of about the tests that the newest had.

    Seconds of tests compare within one mode only: beside others they take longer. One run that is out of line was on a
    busy machine; two are another suite.
    """
    kept: list[Past] = []
    newest: dict[Mode, Past] = {}
    unlike: dict[Mode, int] = {}  # where in `kept` the run before was out of line
    for run in past:
        known = newest.setdefault(run.mode, run)
        if abs(past[0].tests - run.tests) > SAME_TESTS * max(past[0].tests, run.tests):
            break
        out_of_line = abs(known.work - run.work) / run.mode.workers > SAME_WORK * min(known.seconds, run.seconds)
        if out_of_line and run.mode in unlike:
            return kept[: unlike[run.mode]]
        if out_of_line:
            unlike[run.mode] = len(kept)
        else:
            unlike.pop(run.mode, None)
        kept.append(run)
    return kept


def _beside(mode: Mode, known: Mode, phases: Phases) -> float:
    """Seconds of a run in ``mode`` before its first test and after its last, from the phases of one in ``known``."""
    ahead = AHEAD if phases.ahead is None else phases.ahead
    if known.workers > 1 and known.warm and mode == Mode(workers=1):
        # It imports for itself what was imported ahead. Controller and workers have waited for a part of that.
        boot = max(phases.boot, phases.boot + phases.workers - FORKED_START - SPAWN * known.workers, ahead)
        return boot + phases.collection + CLOSING_ALONE * phases.closing + COLLECTING * ahead
    closing = phases.closing * _closing(mode) / _closing(known)
    if mode.workers == 1:
        return phases.boot + phases.collection + closing
    if known.workers == 1:
        # Whatever one process has imported, forked workers have from the process that did.
        start = FORKED_START if mode.warm else phases.boot
    else:
        start = max(0.0, phases.workers - SPAWN * known.workers)
        if mode.warm != known.warm:
            start = FORKED_START + AHEAD if mode.warm else max(start, phases.boot, ahead)
    return phases.boot + start + SPAWN * mode.workers + phases.collection + closing


def _closing(mode: Mode) -> float:
    """The end of a run in this mode, of one in a single plain process."""
    if mode.warm:
        return CLOSING_WARM
    return 1.0 if mode.workers == 1 else 1 / CLOSING_SERIAL


def _tests(files: Sequence[_File], mode: Mode, known: Mode, between: float) -> float:
    """Seconds of the tests in ``mode``, with what each costs beside its own code: ``between``, in ``known``."""
    if mode.workers == 1 < known.workers:
        between *= BETWEEN_SERIAL
    elif known.workers == 1 < mode.workers:
        between /= BETWEEN_SERIAL
    span = _span(files, mode.workers, by_file=mode.by_file, between=between)
    count = sum(len(file.seconds) for file in files)
    return max(span, count * CONTROLLER) if mode.workers > 1 else span


# --- dividing tests ------------------------------------------------------------------------------------------------


def _files(seconds: Mapping[str, float]) -> list[_File]:
    by_name: dict[str, list[float]] = {}
    for node_id, took in seconds.items():
        by_name.setdefault(node_id.partition("::")[0], []).append(took)
    files = []
    for tests in by_name.values():
        head, rest = tests[0], sorted(tests[1:], reverse=True)
        again = max(0.0, head - rest[len(rest) // 2]) if rest else 0.0
        own = sorted((head - again, *rest), reverse=True)
        files.append(_File(seconds=tuple(own), total=sum(own) + again, again=again, longest=max(tests)))
    return files


def _span(files: Sequence[_File], workers: int, *, by_file: bool, between: float = 0.0) -> float:
    """Seconds till the last worker is through. ``between``: what each test takes beside its own seconds."""
    total = sum(file.total + between * len(file.seconds) for file in files)
    if workers <= 1:
        return total
    units = _units(files, LONG * total / workers, by_file=by_file, between=between)
    lanes = [_Lane() for _ in range(workers)]
    free = [(0.0, number) for number in range(workers)]
    for unit in sorted(units, key=lambda unit: -unit.seconds):
        at, number = heapq.heappop(free)
        lane = lanes[number]
        set_up = files[unit.file].again if lane.file != unit.file else 0.0
        lane.file, lane.last = unit.file, unit
        heapq.heappush(free, (at + set_up + unit.seconds, number))
    ends = {number: at for at, number in free}
    if not by_file:
        _steal(ends, lanes, files)
    longest = max((file.longest for file in files), default=0.0)
    return max(*ends.values(), longest, total / workers)


def _units(files: Sequence[_File], long: float, *, by_file: bool, between: float) -> list[_Unit]:
    """What is handed out as a whole: a test that is long by itself, and the rest of a file."""
    units = []
    for number, file in enumerate(files):
        least = max(long - between, 0.0 if file.again <= SMALL else file.again)
        alone = () if by_file or long <= 0 else file.tall(least)
        units += [_Unit(file=number, seconds=s + between, divisible=False) for s in alone]
        rest = len(file.seconds) - len(alone)
        if rest:
            seconds = file.total - file.again - sum(alone) + between * rest
            units.append(_Unit(file=number, seconds=seconds, divisible=rest > 1))
    return units


def _steal(ends: dict[int, float], lanes: Sequence[_Lane], files: Sequence[_File]) -> None:
    """Whoever is through first takes the later half of the longest rest, as long as that pays for its fixtures."""
    for _ in lanes:
        last = max(ends, key=lambda number: ends[number])
        first = min(ends, key=lambda number: ends[number])
        unit = lanes[last].last
        if unit is None or not unit.divisible:
            return
        again = files[unit.file].again
        share = min((ends[last] - ends[first] - again) / 2, unit.seconds)
        if share <= 0:
            return
        ends[last] -= share
        ends[first] += share + again


# --- saying it -----------------------------------------------------------------------------------------------------


def _words(taken: ModeEstimate, estimates: Sequence[ModeEstimate], work: float, tests: int, *, usual: str) -> str:
    """One sentence for the plan: the choice, and the best of the other kind (workers, or none)."""
    serial = taken.mode.workers == 1
    others = [one for one in estimates if (one.mode.workers == 1) is not serial]
    rival = min(others, key=lambda one: one.seconds, default=None)
    said = f"{_named(taken.mode, usual)}: {_evidence(taken)}"
    if rival is None:
        return said
    if not serial:
        return f"{said}; in 1 process {_evidence(rival)}"
    count = "a second worker" if rival.mode.workers == 2 else f"{rival.mode.workers} workers"
    saves = "it saves" if rival.mode.workers == 2 else "they save"
    more = rival.seconds - taken.seconds
    costs = f"cost {more:.1f} s more than {saves}" if more > 0 else f"save {-more:.1f} s, which is too little"
    named_tests = f"{tests} test{'s' * (tests > 1)} take{'s' * (tests == 1)} {work:.1f} s of it"
    return f"{said}; {named_tests}, and {count} would {costs} ({_evidence(rival)})"


def _processes(mode: Mode) -> str:
    return "1 process" if mode.workers == 1 else f"{mode.workers} workers"


def _named(mode: Mode, usual: str) -> str:
    """``4 workers, by file``."""
    return "1 worker" if mode.workers == 1 else f"{mode.workers} workers, {'by file' if mode.by_file else usual}"


def _evidence(one: ModeEstimate) -> str:
    runs = "in 1 earlier run" if one.runs == 1 else f"in the middle of {one.runs} earlier runs"
    return f"{one.seconds:.1f} s {runs if one.runs else 'predicted'}"
