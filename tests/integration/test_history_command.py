"""`mltiers history`: what earlier runs left, shown, exported, compacted, and turned into an edit that git takes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.mind.plan import config_identity
from orchestrator.mind.records import CoverageSums, Record
from orchestrator.mind.records.encoding import encode
from orchestrator.tools.history.folder import FolderStore
from orchestrator.words.results import Attempt, TestOutcome, TestResult
from orchestrator.words.verdict import Verdict
from tests.support.past import DAY, NOW, result_of, run_record
from tests.support.project import Project

Make = Callable[..., Project]

FILES = {
    "ml-tiers.yml": """\
version: 1
source: [src]
tiers:
  unit:
    paths: [tests]
    markers: not gpu
    budget: 100s # a promise
    workers: 1
""",
    "pytest.ini": "[pytest]\naddopts = --strict-markers\nmarkers =\n    gpu: needs one\n",
    "tests/test_a.py": '''\
"""Tests of a."""

import os


def test_fast():
    assert os


@__import__("pytest").mark.parametrize("n", [1, 2])
def test_params(n):
    assert n


class TestModel:
    def test_fit(self):
        pass

    def test_predict(self):
        pass
''',
}
SECONDS = {
    "tests/test_a.py::test_fast": 0.5,
    "tests/test_a.py::test_params[1]": 20.0,
    "tests/test_a.py::test_params[2]": 20.0,
    "tests/test_a.py::TestModel::test_fit": 28.0,
    "tests/test_a.py::TestModel::test_predict": 25.0,
}


@pytest.fixture
def kept(project: Make) -> Project:
    made = project(FILES)
    made.commit()
    return made


def remember(project: Project, records: Sequence[Record]) -> None:
    store = FolderStore(project.root / ".mltiers/history")
    files: dict[str, bytes | None] = {}
    for record in records:
        files |= encode(record)
    store.update(lambda _: files, message="x")


def earlier(
    count: int = 10, seconds: dict[str, float] | None = None, *, config: str = "ml-tiers.yml", grow: float = 0.0
) -> list[Record]:
    """Daily runs of the tier, oldest first."""
    from msgspec.structs import replace

    found = []
    for day in range(count):
        tests = [result_of(node_id, took * (1 + grow * day)) for node_id, took in (seconds or SECONDS).items()]
        record = run_record(sum(test.seconds for test in tests) + 2, time=NOW + day * DAY, tests=tests)
        sums = CoverageSums(covered=85, statements=100)
        found.append(replace(record, config_id=config_identity(config), sha=f"{day:040x}", sums=sums))
    return found


def test_nothing_remembered_is_no_error(kept: Project) -> None:
    done = kept.mltiers("history", "show")
    assert (done.code, done.out) == (0, "unit: 0 runs, budget 100s\n")
    assert kept.mltiers("history", "compact").out == "nothing is remembered yet: nothing to compact\n"
    assert kept.mltiers("history", "export").out == ""
    assert json.loads(kept.mltiers("history", "show", "--json").out)["tiers"]["unit"]["runs"] == []
    assert kept.mltiers("history", "show", "--advice").out == ""


def test_what_a_run_left_is_shown(kept: Project) -> None:
    kept.mltiers("run")
    done = kept.mltiers("history", "show", "unit")
    assert done.code == 0
    head = kept.git("rev-parse", "--short=10", "HEAD")
    lines = done.out.splitlines()
    assert lines[0] == "unit: 1 run, budget 100s"
    assert lines[1].split() == ["commit", "age", "event", "verdict", "tests", "seconds", "expected", "coverage"]
    assert lines[2].split()[:7] == [head, "0", "min", "local", "passed", "5", "passed"]
    assert "expected next: " in done.out


def test_runs_slowest_tests_flaky_tests_and_the_trend_are_shown(kept: Project) -> None:
    runs = earlier(20, grow=0.02)
    first = Attempt(outcome=TestOutcome.FAILED, seconds=1.0, message="once")
    again = TestResult(node_id="tests/test_a.py::test_fast", outcome=TestOutcome.PASSED, seconds=1.0, attempts=(first,))
    flaky = run_record(140.0, time=NOW + 20 * DAY, tests=[again], verdict=Verdict.FLAKY)
    remember(kept, [*runs, with_config(flaky)])
    out = kept.mltiers("history", "show").out
    assert "and 11 older" in out
    assert "  trend: uses 13" in out
    assert " s  tests/test_a.py::TestModel::test_fit" in out
    assert "  flaky tests:\n    1 of 21 runs  tests/test_a.py::test_fast\n" in out
    assert "85.0%" in out


def with_config(record: Record, config: str = "ml-tiers.yml") -> Record:
    from msgspec.structs import replace

    return replace(record, config_id=config_identity(config))


def test_one_document_says_the_same_to_programs(kept: Project) -> None:
    remember(kept, earlier(12))
    document = json.loads(kept.mltiers("history", "show", "unit", "--json", "--advice").out)
    tier = document["tiers"]["unit"]
    assert len(tier["runs"]) == 12
    assert tier["runs"][0]["time"] > tier["runs"][1]["time"]
    assert tier["expected"]["seconds"] == pytest.approx(95.5, rel=0.01)
    assert tier["tests"]["tests/test_a.py::test_fast"]["seconds"] == pytest.approx(0.5, rel=0.11)
    assert tier["advice"]["move"] == ["tests/test_a.py::test_params"]
    assert document["edit"].startswith("diff --git a/ml-tiers.yml")


def test_a_tier_that_is_not_there_is_named_with_those_that_are(kept: Project) -> None:
    done = kept.mltiers("history", "show", "unti")
    assert (done.code, done.out) == (2, "")
    assert "there is no tier 'unti'" in done.err
    assert "there are: unit" in done.err


def test_a_tier_that_was_taken_out_of_the_configuration_is_still_shown(kept: Project) -> None:
    gone = with_config(run_record(5.0, tier="gone"))
    remember(kept, [gone])
    assert "gone: 1 run\n" in kept.mltiers("history", "show").out


# --- advice ----------------------------------------------------------------------------------------------------------


def collected(project: Project, expression: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", expression, "-p", "no:cacheprovider", "tests"],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 5), done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def apply(project: Project, edit: str, folder: Path | None = None) -> None:
    command = ["git", "apply", "--whitespace=error-all", "-"]
    done = subprocess.run(command, cwd=folder or project.root, input=edit, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_advised_edit_moves_the_tests_to_a_tier_of_its_own(kept: Project) -> None:
    remember(kept, earlier())
    done = kept.mltiers("history", "show", "--advice")
    assert done.code == 0
    assert "move 1 function to `slow` with the marker `slow`: 1m 36s become 52.8 s" in done.err
    apply(kept, done.out)
    assert kept.git("diff", "--name-only").split() == ["ml-tiers.yml", "pytest.ini", "tests/test_a.py"]
    assert collected(kept, "slow") == {"tests/test_a.py::test_params[1]", "tests/test_a.py::test_params[2]"}
    plan = json.loads(kept.mltiers("plan", "--json").out)["tiers"]
    assert "not gpu and not slow" in plan["unit"]["command"]
    assert (plan["slow"]["run"], plan["slow"]["budget"]) == (False, 300)
    nightly = json.loads(kept.mltiers("plan", "--json", "--event", "schedule").out)["tiers"]
    assert "not gpu and slow" in nightly["slow"]["command"]
    # What is left is what the advice promised, and then nothing has to move any more.
    kept.git("commit", "-qam", "slow tests")
    left = {node_id: took for node_id, took in SECONDS.items() if "params" not in node_id}
    remember(kept, earlier(20, left)[10:])
    again = kept.mltiers("history", "show", "unit", "--advice")
    assert again.out == ""
    assert "nothing has to move" in again.err


def test_where_a_slower_tier_takes_a_marker_only_the_tests_are_edited(kept: Project) -> None:
    kept.write(
        {
            "ml-tiers.yml": FILES["ml-tiers.yml"].replace("not gpu", "not gpu and not big")
            + "  nightly: {paths: [tests], markers: big, when: [nightly], budget: 30m}\n",
            "pytest.ini": "[pytest]\naddopts = --strict-markers\n",
            "conftest.py": 'def pytest_configure(config):\n    config.addinivalue_line("markers", "big: x")\n'
            '    config.addinivalue_line("markers", "gpu: x")\n',
        }
    )
    kept.commit()
    heavy = {**SECONDS, "tests/test_a.py::TestModel::test_fit": 60.0, "tests/test_a.py::TestModel::test_predict": 50.0}
    remember(kept, earlier(seconds=heavy))
    done = kept.mltiers("history", "show", "--advice")
    assert "by hand" not in done.err
    apply(kept, done.out)
    assert kept.git("diff", "--name-only") == "tests/test_a.py"
    assert "@pytest.mark.big\nclass TestModel:" in (kept.root / "tests/test_a.py").read_text()
    assert collected(kept, "big") == {
        "tests/test_a.py::TestModel::test_fit",
        "tests/test_a.py::TestModel::test_predict",
    }


def test_in_a_folder_of_the_repository_the_edit_names_files_from_its_top(project: Make) -> None:
    made = project({f"some where/{name}": text for name, text in FILES.items()})
    made.commit()
    inner = Project(made.root / "some where", {})
    remember(inner, earlier(config="some where/ml-tiers.yml"))
    done = inner.mltiers("history", "show", "--advice")
    assert "diff --git a/some where/tests/test_a.py b/some where/tests/test_a.py" in done.out
    apply(made, done.out)
    assert collected(inner, "slow") == {"tests/test_a.py::test_params[1]", "tests/test_a.py::test_params[2]"}


def test_tests_that_are_gone_or_inherited_are_left_to_a_human(kept: Project) -> None:
    remember(kept, earlier(seconds={"tests/test_gone.py::test_a": 90.0}))
    done = kept.mltiers("history", "show", "--advice")
    assert "by hand: tests/test_gone.py cannot be read: mark its tests with @pytest.mark.slow" in done.err
    remember(kept, earlier(20, {"tests/test_a.py::TestModel::test_inherited": 90.0})[10:])
    done = kept.mltiers("history", "show", "--advice")
    assert "tests/test_a.py: TestModel::test_inherited is not defined there" in done.err


# --- export, compact, branch -----------------------------------------------------------------------------------------


def test_everything_is_exported_a_run_or_a_test_a_line(kept: Project) -> None:
    remember(kept, earlier(3))
    documents = [json.loads(line) for line in kept.mltiers("history", "export").out.splitlines()]
    assert [document["sha"][-1] for document in documents] == ["2", "1", "0"]
    assert {test["node_id"] for test in documents[0]["tests"]} == set(SECONDS)
    done = kept.mltiers("history", "export", "--format", "csv", "--out", "all.csv")
    assert (done.code, done.out) == (0, "")
    rows = list(csv.DictReader(io.StringIO((kept.root / "all.csv").read_text())))
    assert len(rows) == 15
    assert {row["outcome"] for row in rows} == {"passed"}
    assert float(rows[0]["run_seconds"]) == pytest.approx(95.5)


def test_an_export_that_cannot_be_written_leaves_nothing(kept: Project) -> None:
    done = kept.mltiers("history", "export", "--out", "no/such/folder.csv")
    assert done.code == 2
    assert "--out: no/such/folder.csv cannot be written: No such file or directory\n  give a file" in done.err


def test_compacted_runs_are_still_shown_and_exported(kept: Project) -> None:
    remember(kept, earlier(60))
    done = kept.mltiers("history", "compact")
    assert done.code == 0
    assert done.out.startswith("10 runs were folded into sketches, ")
    assert "unit: 60 runs" in kept.mltiers("history", "show").out
    documents = [json.loads(line) for line in kept.mltiers("history", "export").out.splitlines()]
    assert len(documents) == 60
    assert [document["tests"] is None for document in documents] == [False] * 50 + [True] * 10
    assert documents[-1]["seconds"] == pytest.approx(95.5)


def test_the_branch_of_the_remote_is_read_from_a_laptop(kept: Project, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
    kept.git("remote", "add", "origin", str(remote))
    from orchestrator.tools.history.branch import BranchStore

    store = BranchStore(
        url=str(remote), branch="mltiers-data", token=None, variables=kept.environment(), deadline=lambda: 60.0
    )
    files: dict[str, bytes | None] = {}
    for record in earlier(4):
        files |= encode(record)
    store.update(lambda _: files, message="x")
    assert "unit: 0 runs" in kept.mltiers("history", "show").out
    assert "unit: 4 runs" in kept.mltiers("history", "show", "--branch").out


def test_without_a_remote_there_is_no_branch(kept: Project) -> None:
    done = kept.mltiers("history", "show", "--branch")
    assert done.code == 2
    assert "this clone has no remote called origin" in done.err


def test_a_record_that_is_broken_is_named(kept: Project) -> None:
    remember(kept, earlier(3))
    broken = sorted((kept.root / ".mltiers/history/runs").rglob("*.json"))[0]
    broken.write_text("{")
    done = kept.mltiers("history", "show")
    assert done.code == 0
    assert "1 of 3 records of the history cannot be read" in done.out


def test_a_plan_and_its_run_say_what_was_expected(kept: Project) -> None:
    kept.mltiers("run")
    kept.mltiers("run")
    assert " expected" in kept.mltiers("plan").out
    kept.mltiers("run")
    tier = kept.mltiers("run").verdict["tiers"]["unit"]
    assert 0 < tier["predicted_seconds"] < 60
