"""What a plan expects of its tiers, and what is said where a run came out far from it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.config import parse_config
from orchestrator.mind.how import Machine
from orchestrator.mind.judge import judge_run, judge_tier
from orchestrator.mind.plan import Request, make_plan
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.documents import plan_document, verdict_document
from orchestrator.mind.render.links import Links
from orchestrator.mind.render.plan_table import render_plan
from orchestrator.mind.render.terminal import render_terminal
from orchestrator.mind.render.words import expected, surprise
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, PythonFacts, TierPlan
from orchestrator.words.results import Ending, TestOutcome, TestResult, TierResult
from tests.support.past import MACHINE, past

CONFIG = """\
version: 1
tiers:
  unit: {workers: 2, budget: 120s}
  gpu: {runner: [cuda], gpus: 1, budget: 30m}
"""
PYTHON = PythonFacts(executable="python", version="3.11", pytest="9", xdist="3", cov="7")


def plan(records: dict[str, list[Record]], machine: dict[str, str] = MACHINE) -> Plan:
    return make_plan(
        parse_config(CONFIG, filename="ml-tiers.yml"),
        Event(name="push"),
        Changes(files=(), source="git"),
        History(version="v", tiers={tier: tuple(found) for tier, found in records.items()}),
        config_path="ml-tiers.yml",
        request=Request(),
        machine=Machine(cpus=4, variables={}, fingerprint=machine),
        pythons={"python": PYTHON},
    )


def test_a_plan_expects_what_earlier_runs_took() -> None:
    made = plan({"unit": past([40.0, 42, 38, 41, 40, 39, 40], workers=2)}).tier("unit")
    assert made.predicted_seconds == 40
    assert made.predicted_low is not None
    assert made.predicted_high is not None
    assert made.predicted_low <= 40 <= made.predicted_high
    assert made.predicted_note is None


def test_runs_with_as_many_workers_on_this_machine_count_before_others() -> None:
    serial = past([80.0] * 9, workers=1)
    made = plan({"unit": [*serial, *past([40.0] * 3, workers=2)]}).tier("unit")
    assert (made.predicted_seconds, made.predicted_note) == (40, None)
    made = plan({"unit": serial}).tier("unit")
    assert (made.predicted_seconds, made.predicted_note) == (80, "from runs with 1 worker")
    elsewhere = plan({"unit": past([40.0] * 3, workers=2)}, {**MACHINE, "cpu": "another"}).tier("unit")
    assert (elsewhere.predicted_seconds, elsewhere.predicted_note) == (40, "from runs on other machines")


def test_where_a_tier_will_run_elsewhere_any_machine_is_as_good() -> None:
    runs = past([300.0] * 4, tier="gpu", machine={"gpu": "H100"}, workers=8)
    made = plan({"gpu": runs}).tier("gpu")
    assert (made.predicted_seconds, made.predicted_note) == (300, None)


def test_growth_into_the_budget_is_a_note_of_the_plan_told_once() -> None:
    growing = past([60.0 + 2 * n + n % 3 for n in range(20)], workers=2)
    made = plan({"unit": growing}).tier("unit")
    assert [note for note in made.notes if "budget" in note or "uses" in note] == [
        "uses 82% of 2m; at this rate it is over in about 10 days"
    ]


def test_the_table_and_the_document_say_what_is_expected() -> None:
    made = plan({"unit": past([40.0, 42, 38, 41, 40, 39, 40], workers=1)})
    low, high = made.tier("unit").predicted_low, made.tier("unit").predicted_high
    assert low is not None
    assert high is not None
    line = next(line for line in render_plan(made).splitlines() if line.startswith("unit "))
    assert f"2m, 40.0 s ({low:.1f} s – {high:.1f} s) expected, from runs with 1 worker" in line
    document = plan_document(made)["tiers"]["unit"]
    assert (document["predicted_seconds"], document["predicted_low"], document["predicted_high"]) == (40, low, high)
    assert document["predicted_note"] == "from runs with 1 worker"


TIER = TierPlan(
    name="unit", run=True, reason="", budget=120, predicted_seconds=38.0, predicted_low=33.0, predicted_high=47.0
)
RESULT = TierResult(
    name="unit",
    ending=Ending.EXITED,
    exit_code=0,
    seconds=61.0,
    has_report=True,
    tests=(TestResult(node_id="t.py::test_a", outcome=TestOutcome.PASSED),),
)
SAID = "took 1m 01s; 38.0 s (33.0 s – 47.0 s) were expected"


def test_far_outside_the_interval_is_said() -> None:
    assert surprise(TIER, RESULT) == SAID
    assert surprise(TIER, replace(RESULT, seconds=20.0)) == "took 20.0 s; 38.0 s (33.0 s – 47.0 s) were expected"


@pytest.mark.parametrize("seconds", [33.0, 47.0, 50.0, 58.0, 27.0])
def test_inside_or_just_outside_is_not(seconds: float) -> None:
    assert surprise(TIER, replace(RESULT, seconds=seconds)) == ""


def test_nor_is_a_run_of_which_little_was_expected_or_that_was_stopped() -> None:
    assert surprise(TIER, None) == ""
    assert surprise(TIER, replace(RESULT, ending=Ending.DEADLINE)) == ""
    assert surprise(TIER, replace(RESULT, deferred=("t.py::test_b",))) == ""
    assert surprise(replace(TIER, predicted_low=None), RESULT) == ""
    short = replace(TIER, predicted_seconds=1.0, predicted_low=0.9, predicted_high=1.1)
    assert surprise(short, replace(RESULT, seconds=4.0)) == ""


def test_an_expectation_without_interval_is_a_number() -> None:
    assert expected(TIER) == "38.0 s (33.0 s – 47.0 s)"
    assert expected(replace(TIER, predicted_low=None)) == "38.0 s"
    assert expected(replace(TIER, predicted_seconds=None)) == ""


def test_every_rendering_of_a_run_says_it() -> None:
    base = plan({})
    tier = judge_tier(replace(TIER, python=PYTHON, coverage=False), RESULT)
    run = judge_run(replace(base, tiers=(tier.plan,)), (tier,), changed_lines=None)
    assert f"unit: {SAID}" in render_terminal(run, width=120, color=False)
    assert f"- `unit`: {SAID}" in render_comment(run, links=Links())
    told = verdict_document(run)["tiers"]["unit"]
    assert (told["seconds"], told["predicted_seconds"], told["predicted_low"], told["predicted_high"]) == (
        61,
        38,
        33,
        47,
    )
