"""The event stream of the plugin (``events.jsonl``, version 1) as untrusted evidence: what every test did, and when.

The plugin's README describes the lines. A stream of a run that was killed ends anywhere, also in the middle of a line;
that is no problem. Whatever else is not as it should be is one, and never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from orchestrator.mind.readers.event_lines import Line, parse_line
from orchestrator.mind.readers.flaws import Flaws, shown
from orchestrator.mind.readers.runs import Run, lead_of, phase_outcome, result_of
from orchestrator.words.results import GpuUse, ShardPart, TestOutcome, TestResult

VERSION: Final = 1
"""The version of the stream this reader knows."""
LINE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a line; the plugin's longest is a quarter of that."""
TEST_LIMIT: Final = 2_000_000
"""Tests of a stream; those beyond it are not read."""

_RUNS_KEPT = 1_000  # of one test
_KEPT = 100_000  # of anything else
_HOLDERS = 20  # processes that held memory of a device
_PLUGINS_KEPT = 10
_LATEST = 1e11  # Unix seconds; a time beyond it is no time


class Session(Struct, frozen=True, kw_only=True):
    """One process of a pytest session, as it introduced itself."""

    worker: str
    started: float  # Unix seconds
    pid: int
    python: str
    pytest: str
    plugin: str
    root: str
    workers: int  # of xdist; 0: without
    seed: int | None = None  # pytest-randomly's


class Crash(Struct, frozen=True, kw_only=True):
    """A worker of xdist that died; ``node_id`` is the test it was running, or None."""

    worker: str
    node_id: str | None
    time: float  # Unix seconds
    message: str | None = None


class EventLog(Struct, frozen=True, kw_only=True):
    """What an event stream says."""

    tests: tuple[TestResult, ...] = ()  # that started, one per node id, in the order they did
    collection: tuple[TestResult, ...] = ()  # files that could not be collected (ERROR) or skip themselves (SKIPPED)
    sessions: tuple[Session, ...] = ()
    collected: int | None = None  # tests after deselection; None: collection was not over
    deselected: int = 0  # without the deferred
    deferred: tuple[str, ...] = ()  # tests that were left out for want of budget
    order: str | None = None  # that the tests ran in, in words
    core: str | None = None  # of coverage.py; several, joined by a comma, where its processes differ
    part: ShardPart | None = None  # which shard's tests these are; None: the tests were not split
    starts: int = 0  # of tests; those that were tried again for a failure count once
    running: tuple[str, ...] = ()  # node ids of tests that began and have not ended, teardown included
    collecting: tuple[tuple[str, str], ...] = ()  # (worker, file) being collected at the end
    repeated: frozenset[str] = frozenset()  # node ids that ran more than once, for whatever reason
    left_to: tuple[str, ...] = ()  # plugins of the user's own that retry tests, and to which tests were left
    retried_crashes: int = 0
    failed_at: Mapping[str, float] = field(default_factory=dict)  # node id → Unix seconds when it turned bad
    crashes: tuple[Crash, ...] = ()
    internal_errors: tuple[str, ...] = ()
    gpu: GpuUse | None = None
    notes: tuple[str, ...] = ()  # worth saying, without consequence
    last: float | None = None  # Unix seconds of the last event
    ended: bool = False  # the main process said so
    exit_status: int | None = None
    problems: tuple[str, ...] = ()


def read_events(lines: Iterable[bytes]) -> EventLog:
    """The stream in ``lines``, with or without their line breaks. Never raises for what is in them."""
    reader = EventReader()
    reader.read(lines)
    return reader.log()


class EventReader:
    """What has been read of a stream so far, which may still be growing."""

    def __init__(self) -> None:
        self._number = 0  # of the last line
        self._torn: str | None = None  # what is wrong with the last line, which may end anywhere
        self._foreign = False  # of a version that is not read
        self.flaws = Flaws()
        self.sessions: list[Session] = []
        self.collection: dict[str, TestResult] = {}
        self.runs: dict[str, list[Run]] = {}  # by node id, oldest first
        self.open: dict[tuple[str, str], Run] = {}  # (worker, node id) → the run its events belong to
        self.collecting: dict[str, str] = {}
        self.crashes: list[Crash] = []
        self.internal_errors: list[str] = []
        self.collected: int | None = None
        self.deselected = 0
        self.part: ShardPart | None = None
        self.deferred: dict[str, None] = {}
        self.order: str | None = None
        self.cores: dict[str, None] = {}
        self.retried_crashes = 0
        self.left_to: dict[str, None] = {}
        self.gpus: list[tuple[str | None, GpuUse]] = []  # of each process, with the devices it was given
        self.machine: GpuUse | None = None  # what the driver says is there
        self.peaks: dict[str, int] = {}
        self.held: list[str] = []
        self.last: float | None = None
        self.main_sessions = self.main_ends = 0
        self.exit_status: int | None = None

    def read(self, lines: Iterable[bytes], *, seen: Callable[[Line], object] | None = None) -> None:
        """Read the lines that follow, each whole but for the stream's last. ``seen`` is given each event. Never raises
        for what is in them.
        """
        take = {
            "start": self._start,
            "phase": self._phase,
            "subtest": self._subtest,
            "retry": self._retry,
            "left": self._left,
            "session": self._session,
            "collecting": self._collecting,
            "collect-error": self._not_collected,
            "collect-skip": self._not_collected,
            "collected": self._collected,
            "shard": self._shard,
            "crash": self._crash,
            "internal-error": self._internal_error,
            "gpu": self._gpu,
            "devices": self._devices,
            "gpu-held": self._held,
            "memory": self._memory,
            "deferred": self._defer,
            "order": self._order,
            "coverage": self._coverage,
            "end": self._end,
        }
        for number, raw in enumerate(lines, self._number + 1):
            self._number = number
            if self._foreign or not raw or raw.isspace():
                continue
            if self._torn is not None:
                self.flaws.add("line", self._torn)
                self._torn = None
            if len(raw) > LINE_LIMIT:
                self.flaws.add("long", f"line {number} of events.jsonl is longer than {LINE_LIMIT // 2**20} MiB")
                continue
            try:
                line = parse_line(raw)
            except (ValueError, RecursionError) as error:
                self._torn = f"line {number} of events.jsonl is not an event: {shown(str(error))}"
                if not raw.startswith(b"{") or raw.endswith(b"\n"):
                    self.flaws.add("line", self._torn)
                    self._torn = None
                continue
            if not (0.0 <= line.time < _LATEST and 0.0 <= line.seconds < _LATEST):
                self.flaws.add("time", f"line {number} of events.jsonl has an impossible time")
                continue
            if line.event == "session" and line.version != VERSION:
                self.flaws.add(
                    "version",
                    f"events.jsonl has version {line.version}, and this mltiers reads version {VERSION}: "
                    "update the older of mltiers and pytest-mltiers",
                )
                self._foreign = True
                continue
            handle = take.get(line.event)
            if handle is not None:  # an event of a later plugin says nothing that changes the others
                self.last = line.time if self.last is None else max(self.last, line.time)
                if not handle(line):
                    self.flaws.add("event", f"line {number} of events.jsonl is no proper {line.event!r} event")
                elif seen is not None:
                    seen(line)

    # --- tests -----------------------------------------------------------------------------------------------------

    def _start(self, line: Line) -> bool:
        return line.nodeid is not None and self._begin(line.worker, line.nodeid, line.time) is not None

    def _begin(self, worker: str, node_id: str, time: float) -> Run | None:
        runs = self.runs.get(node_id)
        if runs is None:
            if len(self.runs) >= TEST_LIMIT:
                return None
            runs = self.runs[node_id] = []
        if len(runs) >= _RUNS_KEPT:
            return None
        run = self.open[worker, node_id] = Run(worker, time)
        runs.append(run)
        return run

    def _run(self, line: Line) -> Run | None:
        """The run an event belongs to; one whose start nobody told begins with it."""
        if line.nodeid is None:
            return None
        run = self.open.get((line.worker, line.nodeid))
        return run if run is not None else self._begin(line.worker, line.nodeid, line.time)

    def _phase(self, line: Line) -> bool:
        run = self._run(line)
        outcome = phase_outcome(line.phase, line.outcome, expected=line.xfail is not None)
        if run is None or outcome is False:
            return False
        run.seconds += line.seconds
        run.phase = line.phase
        if outcome is not None:
            run.add(outcome, line.time, message=line.message, text=line.text, file=line.file, line=line.line)
        if line.outcome == "rerun":
            run.again = True
        if line.phase == "teardown":
            run.over = True
        return True

    def _subtest(self, line: Line) -> bool:
        run = self._run(line)
        if run is not None and line.outcome == "failed":
            run.add(TestOutcome.FAILED, line.time, message=line.message, text=line.text, file=line.file, line=line.line)
        return run is not None

    def _retry(self, line: Line) -> bool:
        run = self._run(line)
        if run is not None:
            run.again = run.over = True
        return run is not None

    def _left(self, line: Line) -> bool:
        if len(self.left_to) < _PLUGINS_KEPT:
            self.left_to.setdefault(shown(line.plugin))
        return True

    def _crash(self, line: Line) -> bool:
        if len(self.crashes) >= _KEPT:
            return False
        self.crashes.append(Crash(worker=line.worker, node_id=line.nodeid, time=line.time, message=line.message))
        if line.nodeid is None:
            return True
        run = self._run(line)
        if run is None:
            return False
        run.seconds = max(run.seconds, line.time - run.started)
        run.add(TestOutcome.ERROR, line.time, message=line.message, text=None, file=None, line=None)
        run.over = True
        if line.rerun:
            run.again = True
            self.retried_crashes += 1
        return True

    # --- the session -----------------------------------------------------------------------------------------------

    def _session(self, line: Line) -> bool:
        if len(self.sessions) >= _KEPT:
            return False
        self.sessions.append(
            Session(
                worker=line.worker,
                started=line.time,
                pid=line.pid,
                python=line.python,
                pytest=line.pytest,
                plugin=line.plugin,
                root=line.rootdir,
                workers=line.xdist,
                seed=line.randomly_seed,
            )
        )
        self.main_sessions += line.worker == "main"
        return True

    def _collecting(self, line: Line) -> bool:
        if line.nodeid is None or len(self.collecting) >= _KEPT:
            return False
        self.collecting[line.worker] = line.nodeid
        return True

    def _not_collected(self, line: Line) -> bool:
        if line.nodeid is None or len(self.collection) >= _KEPT:
            return False
        outcome = TestOutcome.ERROR if line.event == "collect-error" else TestOutcome.SKIPPED
        result = TestResult(
            node_id=line.nodeid,
            outcome=outcome,
            worker=line.worker,
            started=line.time,
            message=line.message,
            text=line.text,
            file=line.file,
            line=line.line,
        )
        self.collection.setdefault(line.nodeid, result)  # each worker of xdist tells of the same
        return True

    def _collected(self, line: Line) -> bool:
        self.collected = max(self.collected or 0, line.count)
        self.deselected = max(self.deselected, line.deselected)
        self.collecting.pop(line.worker, None)
        return True

    def _shard(self, line: Line) -> bool:
        if not (1 <= line.shard <= line.shards and 0 <= line.selected <= line.count and line.digest):
            return False
        part = ShardPart(
            shard=line.shard, shards=line.shards, digest=line.digest, collected=line.count, selected=line.selected
        )
        if self.part not in (None, part):
            self.flaws.add("shard", "the processes of this run did not split the tests alike")
        self.part = part
        return True

    def _internal_error(self, line: Line) -> bool:
        if len(self.internal_errors) < _KEPT:
            self.internal_errors.append(line.message or "")
        return True

    def _defer(self, line: Line) -> bool:
        if len(self.deferred) + len(line.nodeids) > TEST_LIMIT:
            return False
        self.deferred.update(dict.fromkeys(line.nodeids))
        return True

    def _order(self, line: Line) -> bool:
        self.order = line.order[:300] or None
        return True

    def _coverage(self, line: Line) -> bool:
        if line.core and len(self.cores) < _PLUGINS_KEPT:
            self.cores.setdefault(shown(line.core))
        return True

    def _gpu(self, line: Line) -> bool:
        if len(self.gpus) >= _KEPT:
            return False
        use = GpuUse(devices=tuple(line.devices), peak_bytes=max(0, line.peak_bytes), cuda=line.cuda, torch=line.torch)
        self.gpus.append((line.visible, use))
        return True

    def _devices(self, line: Line) -> bool:
        self.machine = GpuUse(devices=tuple(line.devices), peak_bytes=0, driver=line.driver)
        return True

    def _held(self, line: Line) -> bool:
        if line.message and len(self.held) < _HOLDERS:
            self.held.append(line.message)
        return True

    def _memory(self, line: Line) -> bool:
        if line.nodeid is None or len(self.peaks) >= TEST_LIMIT:
            return False
        self.peaks[line.nodeid] = max(self.peaks.get(line.nodeid, 0), line.peak_bytes)
        return True

    def _end(self, line: Line) -> bool:
        self.collecting.pop(line.worker, None)
        if line.worker == "main":
            self.main_ends += 1
            self.exit_status = line.exitstatus
        return True

    # --- all of it -------------------------------------------------------------------------------------------------

    def log(self) -> EventLog:
        """What it says, once all of it has been read."""
        if self._number == 0:
            self.flaws.add("empty", "events.jsonl is empty")
        elif not self.sessions and not self.flaws.sentences():
            self.flaws.add("session", "events.jsonl does not begin with a session")
        last = self.last or 0.0
        leads = ((node_id, lead_of(runs)) for node_id, runs in self.runs.items())
        named = {crash.worker for crash in self.crashes if crash.node_id is not None}
        return EventLog(
            tests=tuple(result_of(node_id, runs, last) for node_id, runs in self.runs.items()),
            collection=tuple(self.collection.values()),
            sessions=tuple(self.sessions),
            collected=self.collected,
            deselected=max(0, self.deselected - len(self.deferred)),
            deferred=tuple(self.deferred),
            order=self.order,
            core=", ".join(sorted(self.cores)) or None,
            part=self.part,
            starts=sum(sum(not run.again for run in runs) or 1 for runs in self.runs.values()),
            running=tuple(node_id for node_id, runs in self.runs.items() if not all(run.over for run in runs)),
            collecting=tuple(self.collecting.items()),
            repeated=frozenset(node_id for node_id, runs in self.runs.items() if len(runs) > 1),
            left_to=tuple(self.left_to),
            retried_crashes=self.retried_crashes,
            failed_at={node_id: run.failed_at for node_id, run in leads if run.failed_at is not None},
            crashes=tuple(crash for crash in self.crashes if crash.node_id is not None or crash.worker not in named),
            internal_errors=tuple(self.internal_errors),
            gpu=_together(self.gpus, self.machine, self.peaks),
            notes=tuple(self.held),
            last=self.last,
            ended=0 < self.main_sessions <= self.main_ends,
            exit_status=self.exit_status,
            problems=self.flaws.sentences(),
        )


def _together(gpus: list[tuple[str | None, GpuUse]], machine: GpuUse | None, peaks: Mapping[str, int]) -> GpuUse | None:
    """What the processes saw and used together. Workers that were given different devices saw each their own."""
    if not gpus:
        return machine
    by_devices: dict[str | None, tuple[str, ...]] = {}
    for visible, gpu in gpus:
        by_devices[visible] = max(by_devices.get(visible, ()), gpu.devices, key=len)
    seen: dict[str, tuple[str, ...]] = {}
    for visible, names in by_devices.items():
        # Two workers may share a device, or one have several: the same device is counted once.
        parts = visible.split(",") if visible else []
        if len(parts) != len(names):
            seen[visible or ""] = names
        else:
            seen |= {part: (name,) for part, name in zip(parts, names, strict=True)}
    last = gpus[-1][1]
    return GpuUse(
        devices=tuple(name for names in seen.values() for name in names),
        peak_bytes=max((*(gpu.peak_bytes for _, gpu in gpus), *peaks.values())),
        driver=machine.driver if machine is not None else None,
        cuda=last.cuda,
        torch=last.torch,
        tests=dict(peaks),
    )
