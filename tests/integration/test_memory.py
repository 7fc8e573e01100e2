"""`mltiers run` remembers what it found, and what cannot be remembered or read spoils no run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.project import Project

FILES = {
    "ml-tiers.yml": "version: 1\nsource: [src]\ntiers:\n  unit: {paths: [tests], workers: 1, budget: 60s}\n",
    "src/calc.py": "def add(a, b):\n    return a + b\n\n\ndef never():\n    return 1\n",
    "tests/test_calc.py": "from src.calc import add\n\n\ndef test_add():\n    assert add(1, 1) == 2\n",
}
Make = Callable[..., Project]


@pytest.fixture
def kept(project: Make) -> Project:
    made = project(FILES)
    made.commit()
    return made


def records(project: Project) -> list[Path]:
    return sorted((project.root / ".mltiers/history/runs").rglob("*.json"))


def test_every_run_is_remembered_under_its_commit(kept: Project) -> None:
    assert kept.mltiers("run").code == 0
    first = kept.git("rev-parse", "HEAD")
    kept.write({"tests/test_more.py": "def test_fails():\n    assert 1 == 2\n"})
    second = kept.commit()
    assert kept.mltiers("run").code == 1
    told = [json.loads(path.read_text()) for path in records(kept)]
    assert [(record["sha"], record["verdict"], record["outcomes"]) for record in told] == [
        (first, "passed", "."),
        (second, "failed", ".F"),
    ]
    assert told[0]["coverage"]["covered"] == 3
    assert told[0]["coverage"]["statements"] == 4
    assert "assert 1 == 2" in told[1]["told"][0]["text"]


def test_looking_at_a_run_again_is_no_run(kept: Project) -> None:
    kept.mltiers("run")
    assert kept.mltiers("report", ".mltiers").code == 0
    assert len(records(kept)) == 1


def test_a_record_that_cannot_be_read_is_named_and_costs_nothing(kept: Project) -> None:
    kept.mltiers("run")
    (broken,) = records(kept)
    broken.write_text("{")
    done = kept.mltiers("run")
    assert done.code == 0
    assert (
        f"1 of 1 records of the history cannot be read, the first: {broken.relative_to(broken.parents[3])}" in done.out
    )


def test_without_a_place_for_it_a_run_is_as_good_and_says_so(kept: Project) -> None:
    (kept.root / ".mltiers").mkdir()
    (kept.root / ".mltiers/history").write_text("a file")
    done = kept.mltiers("run")
    assert done.code == 0
    assert "the results were not remembered" in done.err


def test_a_folder_outside_git_is_remembered_too(project: Make) -> None:
    made = project(FILES)
    assert made.mltiers("run").code == 0
    assert [json.loads(path.read_text())["sha"] for path in records(made)] == ["none"]


def test_the_folder_is_the_configurations(project: Make) -> None:
    made = project({**FILES, "ml-tiers.yml": FILES["ml-tiers.yml"] + "history: {dir: some where/kept}\n"})
    made.commit()
    assert made.mltiers("run").code == 0
    assert len(list((made.root / "some where/kept/runs").rglob("*.json"))) == 1


def test_the_report_says_how_coverage_changed_and_what_another_tier_covered_before(project: Make) -> None:
    tiers = FILES["ml-tiers.yml"] + "  slow: {paths: [slow], when: [nightly], workers: 1, budget: 60s}\n"
    slow = {"slow/test_never.py": "from src.calc import never\n\n\ndef test_never():\n    assert never() == 1\n"}
    made = project({**FILES, **slow, "ml-tiers.yml": tiers})
    made.commit()
    alone = made.mltiers("run", "--event", "push")
    assert alone.code == 0
    assert alone.verdict["coverage"]["percent"] == 75
    assert made.mltiers("run", "slow").code == 0

    made.write({"src/calc.py": FILES["src/calc.py"], "README.md": "A change that touches no source."})
    made.commit()
    after = made.mltiers("run", "--event", "push").verdict
    assert [(one["tier"], one["lines"]) for one in after["carried"]] == [("slow", 1)]
    assert after["coverage"]["percent"] == 100
    assert after["coverage_change"]["points"] == 0

    made.write({"src/calc.py": FILES["src/calc.py"] + "\n\ndef new():\n    return 2\n"})
    made.commit()
    changed = made.mltiers("run", "--event", "push").verdict
    assert changed["carried"] == []  # the file is another one
    assert changed["coverage_change"]["points"] < 0


def test_marks_are_proposed_only_for_tests_that_used_a_gpu(kept: Project) -> None:
    kept.mltiers("run")
    done = kept.mltiers("history", "show", "--gpu-memory")
    assert (done.code, done.out) == (0, "no test was seen to use CUDA\n")
    assert json.loads(kept.mltiers("history", "show", "--gpu-memory", "--json").out)["gpu_memory"] == {"unit": []}
