"""What a run remembers decides in which order the next one runs, and what of it has to wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from msgspec import structs
from msgspec.structs import replace

from orchestrator.hands.remember import read_history
from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import encode
from orchestrator.tools.history.folder import FolderStore
from orchestrator.words.results import Phases
from tests.support.project import CHECKOUT, Done, Project

Make = Callable[..., Project]

CONFIG = """
version: 1
source: [src]
tiers:
  unit:
    paths: [tests]
    when: [push, schedule]
    budget: {budget}
    workers: {workers}
{more}"""
SOURCE = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n"
SUITE = (
    "import time\nimport pytest\nfrom src import calc\n\n"
    "@pytest.mark.parametrize('n', range(6))\ndef test_{name}(n):\n"
    "    time.sleep({pause} * n)\n    assert calc.{name}(n, 1) is not None\n"
)


def files(*, workers: int | str = 1, budget: str = "60s", pause: float = 0.0, more: str = "") -> dict[str, str]:
    return {
        ".gitignore": ".mltiers\n",
        "pytest.ini": "[pytest]\npythonpath = .\n",
        "src/__init__.py": "",
        "src/calc.py": SOURCE,
        "tests/test_add.py": SUITE.format(name="add", pause=pause),
        "tests/test_sub.py": SUITE.format(name="sub", pause=pause),
        "ml-tiers.yml": CONFIG.format(workers=workers, budget=budget, more=more),
    }


def nodes(name: str, *numbers: int) -> list[str]:
    return [f"tests/test_{name}.py::test_{name}[{n}]" for n in numbers]


def started(done: Done, worker: str | None = None) -> list[str]:
    """Node ids in the order in which they began; `worker`: of this one only."""
    lines = (done.folder / ".mltiers/unit/events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "start"]
    events = [event for event in events if worker in (None, event["worker"])]
    return [event["nodeid"] for event in sorted(events, key=lambda event: event["time"])]


def result(done: Done) -> Any:
    return done.document("unit/result.json")


def remember_as_taking(project: Project, seconds: float) -> None:
    """Have the history say that each test took so long, in a run that cost nothing beside them."""
    told = last(project).tier.result
    assert told is not None
    tests = tuple(structs.replace(test, seconds=seconds) for test in told.tests)
    remember(project, tests=tests, seconds=seconds * len(tests) / told.workers)


def remember(project: Project, **changed: Any) -> None:
    """Have the history say something else of the last run."""
    record = last(project)
    assert record.tier.result is not None
    told = replace(record, tier=replace(record.tier, result=replace(record.tier.result, **changed)))
    FolderStore(project.root / ".mltiers/history").update(lambda _: encode(told), message="changed")


def last(project: Project) -> Record:
    store = FolderStore(project.root / ".mltiers/history")
    config_id = json.loads((project.root / ".mltiers/plan.json").read_text())["config_id"]
    return read_history(store, config_id=config_id, tiers=("unit",), sha=None).of("unit")[0]


def test_the_second_run_takes_its_order_from_the_first(project: Make) -> None:
    made = project(files(workers=2, pause=0.1))
    first = made.mltiers("run", "--event", "push")
    assert first.code == 0, first.err
    assert result(first)["order"] == "file by file"
    second = made.mltiers("run", "--event", "push")
    assert second.code == 0, second.err
    assert sorted(started(second)) == sorted(started(first))
    for worker in {test["worker"] for test in result(second)["tests"]}:
        its = [node[-3:] for node in started(second, worker)]
        assert its[:2] == ["[5]", "[4]"], started(second)
    assert result(second)["schedule"]["first_failure"] is None


def test_workers_that_cost_more_than_they_save_are_not_started_again(project: Make) -> None:
    made = project(files(workers="auto", more="    retries: 1\n    per-test: 30s\n"))
    first = made.mltiers("run", "--event", "push")
    assert first.code == 0, first.err
    assert result(first)["peak_memory"] > 1 << 20
    if result(first)["workers"] == 1:
        pytest.skip("there is one CPU, so nothing to choose")
    told = dict(result(first)["phases"])
    assert told["workers"] > 0
    remember(made, seconds=60.0, phases=Phases(**{**told, "workers": 30.0, "closing": 20.0}))
    second = made.mltiers("run", "--event", "push")
    assert second.code == 0, second.err
    assert (result(second)["workers"], {test["worker"] for test in result(second)["tests"]}) == (1, {"main"})
    assert result(second)["coverage"]["covered"] == result(first)["coverage"]["covered"] > 0
    plan = second.document("plan.json")
    jsonschema.validate(plan, json.loads((CHECKOUT / "docs/schemas/plan.schema.json").read_text()))
    assert plan["tiers"]["unit"]["choice"]["reason"] in second.verdict["tiers"]["unit"]["notes"]
    assert "more than" in plan["tiers"]["unit"]["choice"]["reason"]


def test_what_failed_is_tried_first(project: Make) -> None:
    made = project(
        {**files(), "tests/test_zoo.py": "def test_fine():\n    pass\n\ndef test_bad():\n    assert 1 == 2\n"}
    )
    assert made.mltiers("run", "--event", "push").code == 1
    again = made.mltiers("run", "--event", "push")
    assert started(again)[:2] == ["tests/test_zoo.py::test_bad", *nodes("add", 0)]
    assert result(again)["schedule"]["first_failure"] < 5.0
    assert any(note.startswith("first failure after") for note in result(again)["notes"])


def test_a_fitted_tier_runs_what_fits_and_names_what_waits_and_the_nightly_runs_that_first(project: Make) -> None:
    made = project(files(more="    measure: true\n"))
    made.commit()
    assert made.mltiers("run", "--event", "schedule").code == 0
    remember_as_taking(made, 100.0)
    made.write(
        {
            "ml-tiers.yml": CONFIG.format(workers=1, budget="8m", more="    fit: true\n"),
            "src/calc.py": SOURCE.replace("a - b", "a - b + 0"),
        }
    )
    planned = made.mltiers("plan", "--event", "push")
    assert "4 of 12 known tests run" in planned.out, planned.out
    done = made.mltiers("run", "--event", "push")
    assert done.code == 0, done.err
    assert done.verdict["verdict"] == "passed"
    assert done.verdict["tiers"]["unit"]["reasons"] == ["4 of 12 run; 8 deferred"]
    assert "4 of 12 run; 8 deferred" in done.out
    assert all(node in nodes("sub", *range(6)) for node in started(done)), "what the change touches comes first"
    waiting = result(done)["deferred"]
    assert sorted([*started(done), *waiting]) == sorted([*nodes("add", *range(6)), *nodes("sub", *range(6))])
    assert result(done)["deselected"] == 0
    schema = json.loads((CHECKOUT / "docs/schemas/result.schema.json").read_text())
    jsonschema.validate(result(done), schema)
    for name in ("comment.md", "report.html"):
        text = (done.folder / ".mltiers" / name).read_text()
        assert all(node in text for node in waiting), name
    remember_as_taking(made, 100.0)
    night = made.mltiers("run", "--event", "schedule")
    assert night.code == 0, night.err
    assert len(started(night)) == 4
    assert set(started(night)) <= set(waiting)
    rest = set(waiting) - set(started(night))
    assert rest <= set(result(night)["deferred"])


def test_a_deferral_that_is_not_allowed_fails_the_tier(project: Make) -> None:
    made = project(files())
    assert made.mltiers("run", "--event", "push").code == 0
    remember_as_taking(made, 100.0)
    made.write({"ml-tiers.yml": CONFIG.format(workers=1, budget="8m", more="    fit: true\n    defer: fail\n")})
    done = made.mltiers("run", "--event", "push")
    assert done.code == 1
    assert done.verdict["verdict"] == "failed"
    assert done.verdict["tiers"]["unit"]["reasons"] == ["4 of 12 run; 8 deferred, which is not allowed here"]


@pytest.mark.parametrize(("earlier", "said"), [(0, "nothing is known of earlier runs"), (1, "all 12 known tests")])
def test_nothing_is_deferred_without_need(project: Make, earlier: int, said: str) -> None:
    made = project(files())
    for _ in range(earlier):
        made.mltiers("run", "--event", "push")
    done = made.mltiers("run", "--event", "push", "--fit")
    assert done.code == 0, done.err
    assert len(started(done)) == 12
    assert result(done)["deferred"] == []
    assert said in done.out
