"""Broken and hostile result files: for each, the verdict and the sentence that says what is wrong. None is green."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.hands.collect import collect_run, collect_tier
from orchestrator.mind.judge import judge_tier
from orchestrator.words.plan import PythonFacts, TierPlan
from orchestrator.words.results import Ending, Outcome
from orchestrator.words.verdict import Verdict

PYTHON = PythonFacts(executable="/usr/bin/python3", version="3.11", pytest="9", xdist="3", cov="7", benchmark="5")
UNIT = TierPlan(name="unit", run=True, reason="runs on push", budget=60.0, python=PYTHON)
SPEED = TierPlan(name="speed", run=True, reason="runs on push", budget=60.0, python=PYTHON, benchmark=True)
ENDED = Outcome(tier="unit", ending=Ending.EXITED, exit_code=0, seconds=1.0)

CASE = '<testcase classname="tests.test_a" name="test_a" file="tests/test_a.py" line="0" time="0.01"/>'


def junit(body: str = CASE, *, tests: int = 1, failures: int = 0, head: str = '<?xml version="1.0"?>') -> str:
    return (
        f'{head}<testsuites><testsuite name="pytest" errors="0" failures="{failures}" skipped="0" tests="{tests}" '
        f'time="0.1">{body}</testsuite></testsuites>'
    )


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE t [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY a{n} "{("&a" + (str(n - 1) if n else "") + ";") * 10}">' for n in range(9))
    + "]><testsuites><testsuite name='x' tests='1'><testcase name='&a8;' classname='c'/></testsuite></testsuites>"
)
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]>'

# name: (what junit.xml holds, what the sentence says)
BROKEN_JUNIT: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "empty"),
    "blank": ("  \n\n", ""),
    "not XML": ("all tests passed, trust me", ""),
    "JSON": ('{"tests": 3, "failures": 0}', ""),
    "HTML": ("<html><body>502 Bad Gateway</body></html>", ""),
    "truncated in a tag": (junit()[:-40], ""),
    "truncated between tests": (junit().split("</testsuite>")[0], ""),
    "no test case": (junit("", tests=0), "no test"),
    "a nameless test case": (junit('<testcase time="0.0"/>'), "name"),
    "an empty name": (junit('<testcase classname="" name="" time="0.0"/>'), "name"),
    "fewer tests than it declares": (junit(tests=5), "5"),
    "more tests than it declares": (junit(CASE + CASE.replace("test_a", "test_b"), tests=1), "1"),
    "a failure it declares and does not show": (junit(failures=1), "failure"),
    "billion laughs": (LAUGHS, "entit"),
    "an external entity": (OUTSIDE + junit("<testcase classname='c' name='&x;'/>", head=""), "entit"),
    "a doctype": ('<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + junit(head=""), ""),
    "wrong encoding": (junit(CASE.replace("test_a", "test_é", 1)).encode("latin-1"), ""),
    "UTF-16 cut in the middle": (junit().encode("utf-16")[:101], ""),
    "an encoding that does not exist": (junit(head='<?xml version="1.0" encoding="klingon"?>'), ""),
    "NUL bytes": (junit().replace("test_a", "te\0st"), ""),
    "two documents": (junit() + junit(head=""), ""),
    "undefined namespace and unclosed": ("<a:testsuites><a:testsuite>", ""),
    "times that are no numbers": (junit(CASE.replace("0.01", "fast")), "time"),
    "negative time": (junit(CASE.replace("0.01", "-5")), "time"),
    "binary noise": (bytes(range(256)) * 40, ""),
    "deeply nested": ("<testsuites>" + "<testsuite>" * 100_000, ""),
}


@pytest.mark.parametrize("case", BROKEN_JUNIT)
def test_broken_junit_is_never_green(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN_JUNIT[case]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "junit.xml").write_bytes(data)
    judged = judge_tier(UNIT, collect_tier(UNIT, ENDED, tmp_path, root=tmp_path))
    assert judged.verdict is Verdict.INFRASTRUCTURE, judged.reasons
    assert any("JUnit" in reason or "no test" in reason for reason in judged.reasons), judged.reasons
    assert sentence in " ".join(judged.reasons)


def test_the_whole_junit_is_green(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(junit())
    assert judge_tier(UNIT, collect_tier(UNIT, ENDED, tmp_path, root=tmp_path)).verdict is Verdict.PASSED


BROKEN_COVERAGE = {
    "empty": ("", "it is empty"),
    "truncated": ('{"files": {"a.py": {"executed_lines": [1,', "not JSON"),
    "a list": ("[1]", "not a JSON object"),
    "no files": ("{}", "no 'files'"),
    "lines that are words": ('{"files": {"a.py": {"executed_lines": ["1"], "missing_lines": []}}}', "line numbers"),
    "lines that are missing": ('{"files": {"a.py": {"executed_lines": [1]}}}', "line numbers"),
    "a file that is a number": ('{"files": {"a.py": 3}}', "not an object"),
    "branches that are none": (
        '{"files": {"a.py": {"executed_lines": [], "missing_lines": [], "executed_branches": [[1]]}}}',
        "not a list of branches",
    ),
    "too deep": ("[" * 100_000, "nested too deeply"),
    "not UTF-8": (b'{"files": {"\xff": {}}}', "not UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN_COVERAGE)
def test_broken_coverage_is_unknown_not_zero_and_not_green(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN_COVERAGE[case]
    (tmp_path / "junit.xml").write_text(junit())
    (tmp_path / "coverage.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = collect_tier(UNIT, ENDED, tmp_path, root=tmp_path)
    assert result.coverage is None
    assert sentence in (result.coverage_note or "")
    assert judge_tier(UNIT, result).verdict is Verdict.INFRASTRUCTURE


STATS = '{"min": 1, "median": 1, "mean": 1, "stddev": 0, "rounds": 3}'
BROKEN_BENCHMARKS = {
    "empty: none finished": ("", "no benchmark finished"),
    "truncated": ('{"benchmarks": [', "not JSON"),
    "of another tool": ('{"results": []}', "no 'benchmarks'"),
    "without a name": (f'{{"benchmarks": [{{"stats": {STATS}}}]}}', "no name"),
    "an infinite time": ('{"benchmarks": [{"name": "a", "stats": {"min": Infinity}}]}', "is not a time"),
    "a time that is a word": ('{"benchmarks": [{"name": "a", "stats": {"min": "fast"}}]}', "is not a time"),
}


@pytest.mark.parametrize("case", BROKEN_BENCHMARKS)
def test_broken_benchmarks_are_not_green(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN_BENCHMARKS[case]
    (tmp_path / "junit.xml").write_text(junit())
    (tmp_path / "benchmark.json").write_text(content)
    judged = judge_tier(SPEED, collect_tier(SPEED, ENDED, tmp_path, root=tmp_path))
    assert judged.verdict is Verdict.INFRASTRUCTURE
    assert sentence in " ".join(judged.reasons)


def test_a_benchmark_tier_without_benchmarks_is_not_green(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(junit())
    assert judge_tier(SPEED, collect_tier(SPEED, ENDED, tmp_path, root=tmp_path)).verdict is Verdict.INFRASTRUCTURE


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    target = path.parent / "elsewhere.xml"
    target.write_text(junit())
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to("/nonexistent")


def _gigantic(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(600 * 1024 * 1024)  # sparse


@pytest.mark.parametrize("make", [_directory, _pipe, _link, _dangling, _gigantic])
@pytest.mark.parametrize("name", ["junit.xml", "events.jsonl", "coverage.json"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    if name != "junit.xml":
        (tmp_path / "junit.xml").write_text(junit())
    make(tmp_path / name)
    judged = judge_tier(UNIT, collect_tier(UNIT, ENDED, tmp_path, root=tmp_path))
    assert judged.verdict is Verdict.INFRASTRUCTURE
    assert name in " ".join(judged.reasons)


def event(**fields: object) -> str:
    return json.dumps({"time": 1.0, "worker": "main", **fields}) + "\n"


SESSION = event(event="session", version=1, pid=1, python="3.11", pytest="9", plugin="0.1", rootdir="/", xdist=0)
NODE = "tests/test_a.py::test_a"


def phases(node: str, outcome: str = "passed") -> str:
    return event(event="start", nodeid=node, attempt=1) + "".join(
        event(event="phase", nodeid=node, attempt=1, phase=phase, outcome=outcome if phase == "call" else "passed",
              seconds=0.1) for phase in ("setup", "call", "teardown")
    )  # fmt: skip


END = event(event="end", exitstatus=0)
BROKEN_EVENTS = {
    "garbage": ("this is not JSON\n" * 3, ""),
    "of a newer plugin": (SESSION.replace('"version": 1', '"version": 99') + phases(NODE), "version"),
    "a test that the report does not have": (
        SESSION + phases(NODE) + phases("tests/test_b.py::test_gone") + END,
        "test_gone",
    ),
    "a failure that the report does not have": (SESSION + phases(NODE, "failed"), NODE),
    "a test that never ended": (SESSION + phases(NODE) + event(event="start", nodeid="t.py::hung", attempt=1), "hung"),
    "a crashed worker": (SESSION + phases(NODE) + event(event="crash", nodeid="t.py::boom"), ""),
    "values of the wrong type": (SESSION + event(event="phase", nodeid=3, phase=[], seconds="x", outcome={}), ""),
}


@pytest.mark.parametrize("case", BROKEN_EVENTS)
def test_events_that_disagree_with_a_green_report(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN_EVENTS[case]
    (tmp_path / "junit.xml").write_text(junit())
    (tmp_path / "events.jsonl").write_text(content)
    judged = judge_tier(UNIT, collect_tier(UNIT, ENDED, tmp_path, root=tmp_path))
    assert judged.verdict in (Verdict.INFRASTRUCTURE, Verdict.FAILED), judged
    assert sentence in " ".join(judged.reasons)


BARE = """<testsuites><testsuite name="pytest" tests="4" failures="0" errors="0" skipped="0">
<testcase classname="tests.test_a.TestB" name="test_c[a::b.c]" time="0.1"/>
<testcase classname="tests.test_a" name="test_d" time="0.1"/>
<testcase classname="tests.test_gone" name="test_e" time="0.1"/>
<testcase classname="{long}" name="test_f" time="0.1"/></testsuite></testsuites>"""


def test_a_report_alone_names_its_tests_as_pytest_does_where_their_files_are_here(tmp_path: Path) -> None:
    long = "x" * 5000
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("")
    (tmp_path / "junit.xml").write_text(BARE.format(long=long))
    result = collect_tier(UNIT, ENDED, tmp_path, root=tmp_path)
    assert [test.node_id for test in result.tests] == [
        "tests/test_a.py::TestB::test_c[a::b.c]",
        "tests/test_a.py::test_d",
        "tests.test_gone::test_e",
        f"{long}::test_f",
    ]


def test_paths_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    plan = replace(UNIT, paths=("tests", "test/unit/test_a.py::test_b"))
    nothing = Outcome(tier="unit", ending=Ending.EXITED, exit_code=5, seconds=1.0)
    judged = judge_tier(plan, collect_run(plan, nothing, tmp_path / "out", root=tmp_path, sha=None))
    assert judged.verdict is Verdict.INFRASTRUCTURE
    assert "`paths` names what is not there: test/unit/test_a.py::test_b" in judged.reasons
