"""The event stream, whole, cut off, broken and hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.mind.readers.events import EventLog, read_events
from orchestrator.words.results import GpuUse, TestOutcome

P, F, E, S, XF, XP, U = (
    TestOutcome.PASSED,
    TestOutcome.FAILED,
    TestOutcome.ERROR,
    TestOutcome.SKIPPED,
    TestOutcome.XFAILED,
    TestOutcome.XPASSED,
    TestOutcome.UNFINISHED,
)


class Stream:
    """Builds the lines of a stream, each one second after the one before."""

    def __init__(self, *, session: bool = True) -> None:
        self.lines: list[bytes] = []
        self.time = 1000.0
        if session:
            self.add("session", version=1, pid=7, python="3.11.7", pytest="9.0", plugin="0.1.0", rootdir="/r", xdist=0)

    def add(self, event: str, **fields: Any) -> Stream:
        line = {"event": event, "time": self.time, "worker": "main", **fields}
        self.lines.append(json.dumps(line).encode() + b"\n")
        self.time += 1.0
        return self

    def phase(self, node_id: str, phase: str, outcome: str = "passed", **fields: Any) -> Stream:
        return self.add("phase", nodeid=node_id, phase=phase, outcome=outcome, **{"seconds": 0.5, **fields})

    def test(self, node_id: str, *outcomes: str, **fields: Any) -> Stream:
        """A test from its start to its teardown; ``outcomes`` of setup, call (if setup passed) and teardown."""
        given = outcomes or ("passed", "passed", "passed")
        phases = ("setup", "call", "teardown") if len(given) == 3 else ("setup", "teardown")
        self.add("start", nodeid=node_id, **fields)
        for phase, outcome in zip(phases, given, strict=True):
            self.phase(node_id, phase, outcome, **fields)
        return self

    def end(self, status: int = 0) -> Stream:
        return self.add("end", exitstatus=status, failed=0)

    def read(self) -> EventLog:
        return read_events(self.lines)


def only(log: EventLog) -> Any:
    (test,) = log.tests
    return test


# --- what a stream says --------------------------------------------------------------------------------------------

OUTCOMES = {
    "passed": (("passed", "passed", "passed"), P),
    "failed": (("passed", "failed", "passed"), F),
    "setup failed": (("failed", "passed"), E),
    "teardown failed": (("passed", "passed", "failed"), E),
    "call and teardown failed": (("passed", "failed", "failed"), F),
    "skipped in setup": (("skipped", "passed"), S),
    "skipped in call": (("passed", "skipped", "passed"), S),
    "skipped, then an error": (("passed", "skipped", "failed"), E),
    "only set up": (("passed", "passed"), S),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_phases_make_the_outcome(name):
    phases, outcome = OUTCOMES[name]
    log = Stream().test("t.py::a", *phases).end().read()

    assert log.problems == ()
    assert only(log).outcome is outcome
    assert only(log).seconds == 0.5 * len(phases)


@pytest.mark.parametrize(("call", "outcome"), [("skipped", XF), ("passed", XP), ("failed", F)])
def test_an_expected_failure_has_its_own_outcomes(call, outcome):
    stream = Stream().add("start", nodeid="t.py::a").phase("t.py::a", "setup")
    log = (
        stream.phase("t.py::a", "call", call, xfail="known", message="known").phase("t.py::a", "teardown").end().read()
    )

    assert only(log).outcome is outcome
    assert only(log).message == "known"


def test_a_whole_session():
    stream = Stream().add("collecting", nodeid="t.py").add("collected", count=2, deselected=3)
    log = stream.test("t.py::a").test("t.py::b", "passed", "failed", "passed", message="assert 0").end(1).read()

    assert log.problems == ()
    assert (log.collected, log.deselected, log.starts) == (2, 3, 2)
    assert (log.ended, log.exit_status, log.running, log.collecting) == (True, 1, (), ())
    (session,) = log.sessions
    assert (session.worker, session.pid, session.pytest, session.root, session.seed) == ("main", 7, "9.0", "/r", None)
    assert [(t.node_id, t.outcome, t.worker) for t in log.tests] == [("t.py::a", P, "main"), ("t.py::b", F, "main")]
    assert log.tests[0].started == 1003.0
    assert log.failed_at == {"t.py::b": 1009.0}


def test_a_failure_keeps_its_first_message_and_place_and_all_texts():
    stream = Stream().add("start", nodeid="t.py::a").phase("t.py::a", "setup")
    stream.phase("t.py::a", "call", "failed", message="assert 0", text="call", file="t.py", line=3)
    stream.phase("t.py::a", "teardown", "failed", message="later", text="teardown", file="x.py", line=9)
    test = only(stream.end(1).read())

    assert (test.outcome, test.message, test.file, test.line) == (F, "assert 0", "t.py", 3)
    assert test.text == "call\n\nteardown"


def test_a_part_that_failed_fails_the_test():
    stream = Stream().add("start", nodeid="t.py::a").phase("t.py::a", "setup")
    stream.add("subtest", nodeid="t.py::a", phase="call", outcome="passed")
    stream.add("subtest", nodeid="t.py::a", phase="call", outcome="failed", message="part 2", text="trace")
    test = only(stream.phase("t.py::a", "call").phase("t.py::a", "teardown").end(1).read())

    assert (test.outcome, test.message, test.text) == (F, "part 2", "trace")


def test_reruns_are_attempts_before_the_last():
    stream = Stream()
    for n in (1, 2):
        stream.add("start", nodeid="t.py::a", attempt=n).phase("t.py::a", "setup")
        stream.phase("t.py::a", "call", "rerun", message=f"try {n}", text=f"trace {n}").phase("t.py::a", "teardown")
    log = stream.test("t.py::a").end().read()

    test = only(log)
    assert (test.outcome, test.message) == (P, None)
    assert [(a.outcome, a.message, a.text, a.seconds) for a in test.attempts] == [
        (F, "try 1", "trace 1", 1.5),
        (F, "try 2", "trace 2", 1.5),
    ]
    assert log.repeated == {"t.py::a"}
    assert log.failed_at == {}


def test_a_rerun_that_never_came_leaves_the_failure():
    stream = Stream().test("t.py::a", "passed", "rerun", "passed")

    assert only(stream.read()).outcome is F
    assert only(stream.read()).attempts == ()


@pytest.mark.parametrize("order", [("passed", "failed"), ("failed", "passed")])
def test_of_runs_on_several_workers_the_worse_counts_and_none_is_an_attempt(order):
    stream = Stream()
    for n, outcome in enumerate(order):
        stream.test("t.py::a", "passed", outcome, "passed", worker=f"gw{n}")
    log = stream.end(1).read()

    assert (only(log).outcome, only(log).attempts) == (F, ())
    assert log.repeated == {"t.py::a"}


def test_files_not_collected_are_told_once():
    stream = Stream()
    for worker in ("gw0", "gw1"):
        stream.add("collect-error", nodeid="bad.py", message="no module", text="trace", worker=worker)
        stream.add("collect-skip", nodeid="gpu.py", message="no GPU", file="gpu.py", line=2, worker=worker)
    log = stream.end(2).read()

    assert [(t.node_id, t.outcome, t.message) for t in log.collection] == [
        ("bad.py", E, "no module"),
        ("gpu.py", S, "no GPU"),
    ]
    assert log.tests == ()


def test_a_crashed_worker_is_an_error_of_its_test():
    stream = Stream().add("start", nodeid="t.py::a", worker="gw0").phase("t.py::a", "setup", worker="gw0")
    stream.add("crash", nodeid=None, worker="gw0", message="Not properly terminated")
    stream.add("crash", nodeid="t.py::a", worker="gw0", message="worker 'gw0' crashed").add(
        "crash", nodeid=None, worker="gw1"
    )
    log = stream.end(1).read()

    test = only(log)
    assert (test.outcome, test.message, test.seconds) == (E, "worker 'gw0' crashed", 3.0)
    assert [(c.worker, c.node_id) for c in log.crashes] == [("gw0", "t.py::a"), ("gw1", None)]
    assert log.running == ()


def test_a_crash_that_is_tried_again_is_an_attempt():
    stream = Stream().add("start", nodeid="t.py::a", worker="gw0")
    stream.add("crash", nodeid="t.py::a", worker="gw0", message="crashed", rerun=True)
    log = stream.test("t.py::a", worker="gw2").end().read()

    assert only(log).outcome is P
    assert [a.outcome for a in only(log).attempts] == [E]
    assert log.retried_crashes == 1


def test_devices_and_memory_of_all_processes_count_together():
    stream = Stream().add("gpu", devices=["H100"], peak_bytes=5, worker="gw0")
    log = stream.add("gpu", devices=["H100", "H100"], peak_bytes=3, worker="gw1").end().read()

    assert log.gpu == GpuUse(devices=("H100", "H100"), peak_bytes=5)
    assert Stream().end().read().gpu is None


# --- runs that were stopped ----------------------------------------------------------------------------------------


def test_a_killed_run_keeps_what_was_over_and_names_what_ran():
    stream = Stream().test("t.py::a").add("start", nodeid="t.py::b", worker="gw1")
    stream.phase("t.py::b", "setup", worker="gw1").test("t.py::c")
    log = stream.read()

    assert log.problems == ()
    assert (log.ended, log.exit_status, log.running) == (False, None, ("t.py::b",))
    a, b, c = log.tests
    assert (a.outcome, b.outcome, c.outcome) == (P, U, P)
    assert b.seconds == 5.0  # from its start to the last event of anybody
    assert b.message == "still running in its call, 5.0 s after its start"


def test_a_failure_counts_before_its_teardown_is_over():
    stream = Stream().add("start", nodeid="t.py::a").phase("t.py::a", "setup").phase("t.py::a", "call", "failed")
    log = stream.read()

    assert only(log).outcome is F
    assert log.running == ("t.py::a",)


def test_a_pass_does_not_count_before_its_teardown_is_over():
    stream = Stream().add("start", nodeid="t.py::a").phase("t.py::a", "setup").phase("t.py::a", "call")

    assert only(stream.read()).outcome is U
    assert "in its teardown" in only(stream.read()).message


def test_the_file_being_collected_is_named():
    stream = Stream().add("collecting", nodeid="a.py", worker="gw0").add("collecting", nodeid="a.py", worker="gw1")
    log = stream.add("collecting", nodeid="b.py", worker="gw0").add("collected", count=1, worker="gw1").read()

    assert log.collecting == (("gw0", "b.py"),)


@settings(max_examples=150)
@given(st.integers(0, 2000))
def test_a_stream_cut_anywhere_is_no_problem_and_loses_only_its_end(cut):
    stream = Stream().add("collected", count=2).test("t.py::a").test("t.py::b", "passed", "failed", "passed").end(1)
    whole = b"".join(stream.lines)
    log = read_events(whole[:cut].splitlines(keepends=True))

    assert log.problems == (() if whole[:cut] else ("events.jsonl is empty",)) or b"\n" not in whole[:cut]
    complete = whole[:cut].count(b"\n")
    assert log.tests == read_events(stream.lines[:complete]).tests
    assert log.ended == (cut >= len(whole) - 1)


# --- broken and hostile streams ------------------------------------------------------------------------------------

FIRST = Stream().lines[0]
START = b'{"event":"start","time":1,"worker":"main","nodeid":"t.py::a"}\n'
END = b'{"event":"end","time":2,"worker":"main","exitstatus":0}\n'

BROKEN = {
    "empty": ([], "events.jsonl is empty"),
    "no session": ([START, END], "does not begin with a session"),
    "garbage": ([FIRST, b"garbage\n", END], "line 2 of events.jsonl is not an event"),
    "garbage at the end": ([FIRST, END, b"garbage"], "line 3 of events.jsonl is not an event"),
    "torn in the middle": ([FIRST, START[:30], END], "line 2 of events.jsonl is not an event"),
    "two lines in one": ([FIRST, START[:30] + START, END], "line 2 of events.jsonl is not an event"),
    "zeros": ([FIRST, b"\0" * 100 + b"\n", END], "line 2 of events.jsonl is not an event"),
    "no object": ([FIRST, b"[1, 2]\n", END], "line 2 of events.jsonl is not an event"),
    "not UTF-8": ([FIRST, b'{"event":"\xff"}\n', END], "line 2 of events.jsonl is not an event"),
    "nested without end": (
        [FIRST, b'{"event":' + b"[" * 50_000 + b"\n", END],
        "line 2 of events.jsonl is not an event",
    ),
    "ignored and nested without end": (
        [FIRST, b'{"event":"start","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n", END],
        "line 2 of events.jsonl is not an event",
    ),
    "a name that is a number": (
        [FIRST, b'{"event":"start","nodeid":7}\n', END],
        "line 2 of events.jsonl is not an event",
    ),
    "a test without a name": (
        [FIRST, b'{"event":"start","time":1}\n', END],
        "line 2 of events.jsonl is no proper 'start'",
    ),
    "a phase that does not exist": (
        [FIRST, START, b'{"event":"phase","nodeid":"t.py::a","phase":"lunch","outcome":"passed"}\n', END],
        "line 3 of events.jsonl is no proper 'phase'",
    ),
    "an outcome that does not exist": (
        [FIRST, START, b'{"event":"phase","nodeid":"t.py::a","phase":"call","outcome":"great"}\n', END],
        "line 3 of events.jsonl is no proper 'phase'",
    ),
    "a time before time": ([FIRST, b'{"event":"start","time":-1,"nodeid":"a"}\n', END], "an impossible time"),
    "no time at all": ([FIRST, b'{"event":"start","time":NaN,"nodeid":"a"}\n', END], "line 2 of events.jsonl is not"),
    "an endless time": (
        [FIRST, b'{"event":"start","time":1e400,"nodeid":"a"}\n', END],
        "line 2 of events.jsonl is not",
    ),
    "negative seconds": (
        [FIRST, START, b'{"event":"phase","nodeid":"t.py::a","phase":"call","outcome":"passed","seconds":-5}\n', END],
        "an impossible time",
    ),
    "a line too long": ([FIRST, b'{"event":"start","nodeid":"' + b"x" * (5 << 20) + b'"}\n', END], "longer than 4 MiB"),
    "a later version": (
        [FIRST.replace(b'"version": 1', b'"version": 2'), START],
        "has version 2, and this mltiers reads",
    ),
    "no version": ([b'{"event":"session","time":1}\n', START], "has version 0, and this mltiers reads version 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_is_a_problem_and_never_an_exception(name):
    lines, sentence = BROKEN[name]

    problems = read_events(lines).problems
    assert any(sentence in problem for problem in problems), problems
    assert all(len(problem) < 400 for problem in problems)


def test_many_broken_lines_are_one_sentence():
    (problem,) = read_events([FIRST, *[b"garbage\n"] * 500, END]).problems

    assert problem.endswith("(the first of 500 such places)")


def test_nothing_is_read_from_a_version_we_do_not_know():
    log = read_events([FIRST.replace(b'"version": 1', b'"version": 9'), START, END])

    assert (log.tests, log.sessions, log.ended) == ((), (), False)


def test_events_and_fields_of_a_later_plugin_are_passed_over():
    stream = Stream().add("weather", nodeid="sunny").add("start", nodeid="t.py::a", mood="good").end()

    assert stream.read().problems == ()
    assert only(stream.read()).node_id == "t.py::a"


def test_lines_with_and_without_their_breaks_are_the_same():
    stream = Stream().test("t.py::a").end()

    assert read_events(line.rstrip(b"\n") for line in [*stream.lines, b""]) == stream.read()


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "\udc80", "\ud800x", "\U0001f600", "é", '"\\"', " ", "x" * 100_000])
def test_names_survive(name):
    assert only(Stream().test(name).end().read()).node_id == name


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.fixed_dictionaries(
                {
                    "event": st.sampled_from(
                        ["session", "start", "phase", "subtest", "crash", "end", "collected", "gpu"]
                    )
                },
                optional={
                    "time": st.one_of(st.floats(0, 1e6), st.text(max_size=3)),
                    "worker": st.sampled_from(["main", "gw0", "gw1"]),
                    "nodeid": st.one_of(st.sampled_from(["a", "b"]), st.none(), st.integers()),
                    "phase": st.sampled_from(["setup", "call", "teardown", ""]),
                    "outcome": st.sampled_from(["passed", "failed", "skipped", "rerun", ""]),
                    "seconds": st.floats(allow_nan=True),
                    "version": st.integers(0, 2),
                    "rerun": st.booleans(),
                    "devices": st.lists(st.text(max_size=2), max_size=2),
                },
            ).map(lambda fields: json.dumps(fields).encode() + b"\n"),
        ),
        max_size=25,
    )
)
def test_no_content_raises_and_every_start_is_a_test(lines):
    log = read_events(lines)

    assert len({t.node_id for t in log.tests}) == len(log.tests) <= 2
    assert all(t.seconds >= 0 for t in log.tests)
    assert log.sessions or log.problems
    assert {t.node_id for t in log.tests if t.outcome is U} <= set(log.running)


# --- retries -------------------------------------------------------------------------------------------------------


def retried(*outcomes: str, **last: Any) -> Stream:
    """A test whose call ends so in each attempt; all but the last are followed by another."""
    stream = Stream()
    for number, outcome in enumerate(outcomes, 1):
        final = number == len(outcomes)
        more = last if final else {"message": f"try {number}", "text": f"E   try {number}"}
        stream.add("start", nodeid="t.py::a", attempt=number).phase("t.py::a", "setup")
        stream.phase("t.py::a", "call", outcome, **more).phase("t.py::a", "teardown")
        if not final:
            stream.add("retry", nodeid="t.py::a", attempt=number)
    return stream


def test_a_retry_that_passes_keeps_the_first_traceback():
    log = retried("failed", "failed", "passed").end().read()

    assert log.problems == ()
    assert (only(log).outcome, only(log).seconds) == (P, 1.5)
    assert [(a.outcome, a.message, a.text) for a in only(log).attempts] == [
        (F, "try 1", "E   try 1"),
        (F, "try 2", "E   try 2"),
    ]
    assert log.failed_at == {}
    assert (log.starts, log.repeated) == (1, {"t.py::a"})


def test_a_retry_that_fails_as_well_is_a_failure_with_attempts():
    test = only(retried("failed", "failed", message="again", text="E   again").end(1).read())

    assert (test.outcome, test.message, test.text) == (F, "again", "E   again")
    assert [a.message for a in test.attempts] == ["try 1"]


@pytest.mark.parametrize(("outcome", "more"), [("skipped", {}), ("skipped", {"xfail": "known"})], ids=["skip", "xfail"])
def test_a_retry_that_says_nothing_leaves_the_failure(outcome, more):
    log = retried("failed", outcome, message="gave up", **more).end(1).read()

    assert (only(log).outcome, only(log).message) == (F, "try 1")
    assert only(log).text == f"E   try 1\n\nTried again, it was {'xfailed' if more else 'skipped'}: gave up"
    assert only(log).attempts == ()


def test_a_part_that_failed_makes_an_attempt_one_that_failed():
    stream = Stream().add("start", nodeid="t.py::a").phase("t.py::a", "setup")
    stream.add("subtest", nodeid="t.py::a", phase="call", outcome="failed", message="part 1")
    stream.phase("t.py::a", "call").phase("t.py::a", "teardown").add("retry", nodeid="t.py::a")
    test = only(stream.test("t.py::a").end().read())

    assert test.outcome is P
    assert [(a.outcome, a.message) for a in test.attempts] == [(F, "part 1")]


@pytest.mark.parametrize("cut", ["after retry", "in the retry", "before retry"])
def test_a_run_that_ends_between_attempts_is_never_a_pass(cut):
    lines = retried("failed", "passed").lines
    at = {"before retry": 5, "after retry": 6, "in the retry": 8}[cut]
    test = only(read_events(lines[:at]))

    assert test.outcome is (U if cut == "in the retry" else F)
    assert [a.message for a in test.attempts] == (["try 1"] if cut == "in the retry" else [])


def test_a_test_that_was_retried_does_not_hide_one_that_never_started():
    log = retried("failed", "passed").end().read()

    assert log.starts == 1


def test_who_else_retries_is_told_once():
    log = Stream().add("left", plugin="pytest-rerunfailures").add("left", plugin="pytest-rerunfailures").end().read()

    assert log.left_to == ("pytest-rerunfailures",)


# --- GPUs ----------------------------------------------------------------------------------------------------------


def told(event: str, **fields: object) -> bytes:
    return json.dumps({"event": event, "time": 1.0, "worker": "main", **fields}).encode()


def gpu(visible: str | None, names: list[str], peak: int = 5) -> bytes:
    return told("gpu", devices=names, peak_bytes=peak, visible=visible, torch="2.9", cuda="12.9")


@pytest.mark.parametrize(
    ("lines", "devices", "peak"),
    [
        ([], None, 0),
        ([told("devices", devices=[], driver=None)], (), 0),  # the driver knows of none
        ([told("devices", devices=["H100"], driver="550")], ("H100",), 0),  # one, that no test used
        ([gpu(None, ["H100", "H100"])], ("H100", "H100"), 5),
        ([gpu("0", ["A"], 7), gpu("1", ["B"], 9)], ("A", "B"), 9),  # two workers with a device each
        ([gpu("0", ["A"], 7), gpu("0", ["A"], 9)], ("A",), 9),  # two that share one
        ([gpu("0,2", ["A", "C"]), gpu("1,3", ["B", "D"])], ("A", "C", "B", "D"), 5),
        ([gpu("0", ["A"]), told("memory", nodeid="t.py::a", peak_bytes=11)], ("A",), 11),
    ],
)
def test_the_devices_of_all_processes_are_counted_once_each(lines, devices, peak) -> None:
    found = read_events([told("session", version=1), *lines]).gpu
    assert (None if found is None else found.devices) == devices
    assert found is None or found.peak_bytes == peak


def test_what_is_known_of_the_machine_and_of_each_test() -> None:
    log = read_events(
        [
            told("session", version=1),
            told("devices", devices=["H100"], driver="550.1"),
            told("gpu-held", message="train.py (pid 4) held 9 MiB of a GPU before the tests began"),
            told("memory", nodeid="t.py::a", peak_bytes=3),
            told("memory", nodeid="t.py::a", peak_bytes=2),
            gpu("0", ["H100"], 4),
        ]
    )
    assert log.gpu is not None
    assert (log.gpu.driver, log.gpu.cuda, log.gpu.torch) == ("550.1", "12.9", "2.9")
    assert log.gpu.tests == {"t.py::a": 3}
    assert log.notes == ("train.py (pid 4) held 9 MiB of a GPU before the tests began",)


def test_it_says_with_which_core_coverage_was_measured() -> None:
    assert Stream().read().core is None
    assert Stream().add("coverage", core="sysmon").add("coverage", core="sysmon", worker="gw0").read().core == "sysmon"
    mixed = (
        Stream().add("coverage", core="sysmon").add("coverage", core="ctrace", worker="gw0").add("coverage", core="")
    )
    assert mixed.read().core == "ctrace, sysmon"
