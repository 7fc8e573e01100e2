"""The series that charts show: which runs are in them, and how the comment and the report draw them."""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace

from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.mind.render.charts import charts
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.html import render_html
from orchestrator.mind.render.links import Links
from orchestrator.mind.trends import LEAST, MOST, trends
from orchestrator.words.errors import ExitCode
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan
from orchestrator.words.results import Benchmark
from orchestrator.words.verdict import Insight, Point, RunVerdict, Series, Verdict
from tests.support.past import MACHINE, NOW, past, run_record

SHA = "b" * 40
BENCHMARK = Benchmark(name="t::speed", minimum=1e-3, median=2e-3, mean=2e-3, stddev=0.0, rounds=5)


def run_now(seconds: float = 40.0, *, benchmarks: tuple[Benchmark, ...] = (), **of_record: object) -> RunVerdict:
    """This run: a tier with a budget of two minutes."""
    record = run_record(seconds, benchmarks=benchmarks, **of_record)  # type: ignore[arg-type]
    tier = replace(record.tier, plan=replace(record.tier.plan, budget=120.0))
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="c",
        event=Event(name="push", sha=SHA),
        changes=Changes(files=None, source="git"),
        tiers=(tier.plan,),
    )
    return RunVerdict(plan=plan, verdict=tier.verdict, exit_code=ExitCode.PASSED, tiers=(tier,))


def known(records: list[Record]) -> History:
    return History(tiers={"unit": tuple(records)})


def took(run: RunVerdict, records: list[Record]) -> list[float]:
    (series,) = trends(run, known(records))
    return [point.seconds for point in series.points]


def test_the_newest_runs_oldest_first_and_this_one_last() -> None:
    numbers = [float(n) for n in range(1, 51)]
    (series,) = trends(run_now(99.0), known(past(numbers)))
    assert [point.seconds for point in series.points] == [*numbers[-(MOST - 1) :], 99.0]
    assert series.limit == 120.0
    assert [point.time for point in series.points] == sorted(point.time for point in series.points)
    assert series.points[-1].sha == SHA


@pytest.mark.parametrize("earlier", range(LEAST))
def test_a_few_runs_are_no_trend(earlier: int) -> None:
    assert bool(trends(run_now(), known(past([1.0] * earlier)))) == (earlier + 1 >= LEAST)


def test_runs_on_another_machine_are_in_another_series() -> None:
    other = past([9.0] * 9, machine=MACHINE | {"cpu": "another"})
    ours = past([1.0, 2.0, 3.0])
    both = sorted([*ours, *other], key=lambda record: -record.time)
    assert took(run_now(4.0, machine=MACHINE), both) == [1.0, 2.0, 3.0, 4.0]
    unknown = run_now(4.0, machine={})
    assert took(unknown, both) == [9.0] * 9 + [4.0]  # that of most runs


def test_other_verdicts_shards_and_this_very_commit_are_left_out() -> None:
    good = past([1.0, 2.0, 3.0])
    stopped = run_record(7.0, verdict=Verdict.OVER_BUDGET, exit_code=-2)
    split = run_record(8.0, shards=2)
    same = replace(run_record(9.0), sha=SHA)
    assert took(run_now(4.0), [stopped, split, same, *good]) == [1.0, 2.0, 3.0, 4.0]


def test_the_default_branch_alone_where_it_has_enough() -> None:
    branch = past([5.0] * 3, trusted=False)
    assert took(run_now(4.0), [*branch, *past([1.0] * 3)]) == [1.0, 1.0, 1.0, 4.0]
    assert took(run_now(4.0), [*past([5.0] * 2, trusted=False), *past([1.0] * 2)]) == [1.0, 1.0, 5.0, 5.0, 4.0]


def test_a_tier_that_did_not_come_to_its_end_has_no_trend() -> None:
    assert trends(run_now(verdict=Verdict.OVER_BUDGET), known(past([1.0] * 9))) == ()


def test_benchmarks_have_series_of_their_own_from_minimum_to_median() -> None:
    records = past([1.0] * 4, benchmarks=(BENCHMARK,))
    fresh = replace(BENCHMARK, name="t::new")
    duration, speed = trends(run_now(benchmarks=(BENCHMARK, fresh)), known(records))
    assert (duration.benchmark, speed.benchmark) == (None, "t::speed")
    assert {(p.seconds, p.low, p.high) for p in speed.points} == {(1e-3, 1e-3, 2e-3)}
    assert len(speed.points) == 5


# --- drawn ---------------------------------------------------------------------------------------------------------


def series(*seconds: float, limit: float | None = None, benchmark: str | None = None) -> Series:
    points = tuple(Point(time=NOW + n, sha=f"{n:040x}", seconds=s) for n, s in enumerate(seconds))
    return Series(tier="unit", benchmark=benchmark, points=points, limit=limit)


def drawn(*found: Series, most: int = 5) -> str:
    return "\n\n".join(charts(Insight(trends=found), most=most))


def test_the_comment_draws_tiers_with_mermaid() -> None:
    text = drawn(series(40, 41.25, 1e-5, 44, limit=60.0))
    chart = re.search(r"```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert chart is not None
    assert chart[1] == (
        '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#4f7bc9, #d8504f"}}}}%%\n'
        'xychart-beta\n  x-axis "runs, this one last" 1 --> 4\n  y-axis "seconds" 0 --> 66\n'
        "  line [40, 41.25, 0, 44]\n  line [60, 60, 60, 60]"
    )
    assert "How long 1 tier took in the newest runs" in text


def test_a_far_budget_is_said_and_not_drawn_and_long_tiers_are_in_minutes() -> None:
    text = drawn(series(150, 180, 240, 300, limit=1800.0))
    assert "line [2.5, 3, 4, 5]" in text
    assert text.count("line [") == 1
    assert "its budget is 30m" in text


def test_benchmarks_and_what_does_not_fit_are_left_to_the_report() -> None:
    assert drawn(series(1, 2, 3, 4, benchmark="t::speed")) == ""
    assert drawn(series(1, 2, 3, 4), most=0) == ""


def test_comment_and_report_show_the_trend_of_a_run() -> None:
    run = run_now(4.0)
    run = replace(run, insight=Insight(trends=trends(run, known(past([1.0, 2.0, 3.0])))))
    assert "```mermaid" in render_comment(run, links=Links())
    page = render_html(run)
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [point[2] for point in data["trends"][0]["points"]] == [1.0, 2.0, 3.0, 4.0]
    assert "uPlot" in page


def test_the_report_has_the_benchmarks_that_moved_most_and_counts_the_others() -> None:
    still = [series(1, 1, 1, 1.01 + n / 1000, benchmark=f"t::still{n}") for n in range(60)]
    found = (series(1, 2, 3, 4), *still, series(1, 1, 1, 3, benchmark="t::slow"))
    run = replace(run_now(), insight=Insight(trends=found))
    data = json.loads(render_html(run).partition('id="data">')[2].partition("</script>")[0])
    assert [one["name"] for one in data["trends"]][:2] == ["unit", "t::slow"]
    assert (len(data["trends"]), data["trendsLeftOut"]) == (51, 11)
