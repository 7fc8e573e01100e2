"""`retries` and `flaky` through the front door: a real project, real pytest, the verdict and all that is said of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from tests.support.project import CHECKOUT, Project

Make = Callable[..., Project]

TESTS = """
tries = {"second": 0, "never": 0}
def test_steady(): pass
def test_second():
    tries["second"] += 1
    loss = 0.41 if tries["second"] == 1 else 0.1
    assert loss < 0.4
"""
FAILS = """
def test_never():
    assert 1 == 2
"""


def tiers(*keys: str) -> str:
    return "version: 1\ntiers:\n  unit:\n    paths: [tests]\n" + "".join(f"    {key}\n" for key in keys)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def create(*keys: str, **files: str) -> Project:
        named = {f"tests/test_{name}.py": text for name, text in files.items()}
        project = Project(tmp_path / "project", {"ml-tiers.yml": tiers(*keys), **named})
        project.commit()
        return project

    return create


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("flaky", "code"), [("pass", 0), ("fail", 1)])
def test_failed_first_and_passed_then_is_flaky(make: Make, workers: int, flaky: str, code: int) -> None:
    project = make("retries: 2", f"flaky: {flaky}", f"workers: {workers}", it=TESTS)
    done = project.mltiers("run")

    assert done.code == code, done.out + done.err
    tier = done.verdict["tiers"]["unit"]
    assert (done.verdict["verdict"], tier["verdict"], tier["exit_code"]) == ("flaky", "flaky", code)
    assert (tier["counts"]["passed"], tier["counts"]["failed"]) == (2, 0)
    tests = {test["node_id"]: test for test in done.document("unit/result.json")["tests"]}
    (first,) = tests["tests/test_it.py::test_second"]["attempts"]
    assert first["outcome"] == "failed"
    assert "assert 0.41 < 0.4" in first["message"]
    assert ">       assert loss < 0.4\nE       assert 0.41 < 0.4" in first["text"]
    cases = [case.get("name") for case in ET.parse(project.root / ".mltiers/unit/junit.xml").iter("testcase")]
    assert sorted(cases) == ["test_second", "test_steady"]


def test_a_test_that_fails_every_time_is_a_failure(make: Make) -> None:
    done = make("retries: 1", "workers: 1", it=TESTS, more=FAILS).mltiers("run")

    assert done.code == 1
    assert done.verdict["verdict"] == "failed"
    assert done.verdict["tiers"]["unit"]["counts"]["failed"] == 1
    tests = {test["node_id"]: test for test in done.document("unit/result.json")["tests"]}
    assert len(tests["tests/test_more.py::test_never"]["attempts"]) == 1
    assert len(tests["tests/test_it.py::test_second"]["attempts"]) == 1


def test_without_retries_nothing_is_tried_again(make: Make) -> None:
    done = make("workers: 1", it=TESTS).mltiers("run")

    assert done.code == 1
    assert done.verdict["verdict"] == "failed"


def test_the_budget_ends_retries_too(make: Make) -> None:
    slow = (
        "import time\nn = []\ndef test_slow():\n    n.append(1)\n    assert len(n) > 1, 'quick'\n    time.sleep(60)\n"
    )
    done = make("retries: 3", "workers: 1", "budget: 4s", it=slow).mltiers("run")

    assert done.code == 1
    assert done.verdict["verdict"] == "over-budget"
    (test,) = done.document("unit/result.json")["tests"]
    assert test["outcome"] == "unfinished"
    assert "quick" in test["attempts"][0]["message"]


BROKEN = """
import pytest
def check(x):
    assert x < LIMIT, "too big"
@pytest.mark.parametrize("x", [1, 2, 3])
def test_many(x): check(x)
"""


def test_a_failure_is_new_with_the_change_and_stays_the_change_s(make: Make) -> None:
    project = make("retries: 1", "workers: 1", it=BROKEN.replace("LIMIT", "9"), flaky=TESTS)
    assert project.mltiers("run").code == 0
    base = project.git("rev-parse", "HEAD")
    project.git("checkout", "-q", "-b", "topic")
    project.write({"tests/test_it.py": BROKEN.replace("LIMIT", "2")})
    first = project.commit()
    done = project.mltiers("run")
    comment = (project.root / ".mltiers/comment.md").read_text()

    assert done.code == 1
    assert "2 failing tests with 1 cause, new with this change" in comment
    assert f"- not so at {base[:10]}" in comment
    assert "- first seen here" in comment
    assert "E       assert 2 < 2" in comment
    assert "python -m pytest 'tests/test_it.py::test_many[2]' 'tests/test_it.py::test_many[3]'" in comment
    assert "1 flaky test: failed first, passed when tried again" in comment
    assert "- flaky in 2 of the last 2 runs" in comment
    assert "new · not so at" in done.out
    (cause,) = done.verdict["causes"]
    assert (cause["standing"], len(cause["tests"])) == ("new", 2)
    assert [flake["node_id"] for flake in done.verdict["flaky"]] == ["tests/test_flaky.py::test_second"]
    jsonschema.validate(done.verdict, json.loads((CHECKOUT / "docs/schemas/verdict.schema.json").read_text()))
    assert "flaky tests/test_flaky.py::test_second" in done.out

    project.commit()
    again = project.mltiers("run")
    assert f"first seen at {first[:10]}" in again.out.replace("\n      ", " ")
