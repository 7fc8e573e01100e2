"""A stream that is read while it grows says what it says when it is read at once, whatever becomes of its file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from orchestrator.hands.stream import Stream
from orchestrator.mind.readers.events import read_events


def _lines(tests: int, *, worker: str = "main") -> bytes:
    events: list[dict[str, object]] = [{"event": "session", "version": 1, "pid": 1}]
    for number in range(tests):
        node = {"nodeid": f"t.py::test_é{number}", "worker": worker}
        events.append({"event": "start", "time": 10.0 + number, **node})
        for phase in ("setup", "call", "teardown"):
            outcome = "failed" if number % 7 == 3 and phase == "call" else "passed"
            events.append({"event": "phase", "time": 10.5 + number, "phase": phase, "outcome": outcome, **node})
    events.append({"event": "end", "worker": "main", "exitstatus": 1, "time": 1000.0})
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


WHOLE = _lines(40)
LONG = b"x" * 5_000_000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "end", [b"", b'{"event": "pha', b"no event\n", b"\n\n", b"x" * (5 << 20), b"y" * (5 << 20) + b"\n"]
)
def test_however_it_grows(tmp_path: Path, seed: int, end: bytes) -> None:
    path, told = tmp_path / "events.jsonl", WHOLE + end
    stream, seen = Stream(path), []
    stream.read_on(seen.append)  # there is none yet
    for cut in sorted(random.Random(seed).sample(range(len(told)), 12)):
        path.open("wb" if not path.exists() else "ab").write(told[path.stat().st_size if path.exists() else 0 : cut])
        stream.read_on(seen.append)
    path.open("ab").write(told[path.stat().st_size :])
    problems: list[str] = []

    assert stream.log(problems) == read_events(told.splitlines(keepends=True))
    assert problems == []
    whole = read_events(WHOLE.splitlines())
    assert len(whole.tests) == 40
    assert {event.nodeid for event in seen} - {None} <= {test.node_id for test in whole.tests}


@pytest.mark.parametrize("how", ["another file", "cut short"])
def test_another_stream_in_its_place_is_read_from_its_beginning(tmp_path: Path, how: str) -> None:
    path, other = tmp_path / "events.jsonl", _lines(3, worker="gw0")
    path.write_bytes(WHOLE)
    stream = Stream(path)
    stream.read_on(lambda _: None)
    if how == "another file":
        (tmp_path / "new").write_bytes(other)
        (tmp_path / "new").rename(path)
    else:
        path.write_bytes(other)
    assert stream.log([]) == read_events(other.splitlines())


def test_what_is_no_plain_file_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(WHOLE)
    (tmp_path / "events.jsonl").symlink_to("real")
    stream, problems = Stream(tmp_path / "events.jsonl"), []
    stream.read_on(lambda _: None)
    assert stream.log(problems) is None
    assert len(problems) == 1
    assert Stream(tmp_path / "none").log(problems) is None
    assert len(problems) == 1


def test_an_empty_one_and_one_that_does_not_begin_say_so(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for text, problem in ((b"", "events.jsonl is empty"), (WHOLE.partition(b"\n")[2], "does not begin with a session")):
        path.write_bytes(text)
        stream = Stream(path)
        stream.read_on(lambda _: None)
        log = stream.log([])
        assert log is not None
        assert problem in log.problems[0]
