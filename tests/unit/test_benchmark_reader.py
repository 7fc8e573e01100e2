"""pytest-benchmark's JSON: what is taken from it, what is refused, and how GPU fields are shown."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.mind.readers.benchmark import read_benchmarks
from orchestrator.mind.readers.document import BrokenReportError
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.links import Links
from orchestrator.words.errors import ExitCode
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending, TierResult
from orchestrator.words.verdict import RunVerdict, TierVerdict, Verdict

STATS = {"min": 0.001, "median": 0.002, "mean": 0.002, "stddev": 0.0, "rounds": 5}


def document(**entry: Any) -> bytes:
    return json.dumps({"benchmarks": [{"fullname": "t::speed", "stats": STATS, **entry}]}).encode()


def test_times_name_and_machine() -> None:
    data = json.dumps({"machine_info": {"cpu": "x"}, "benchmarks": [{"name": "short", "stats": STATS}]}).encode()
    report = read_benchmarks(data)
    (one,) = report.benchmarks
    assert (one.name, one.minimum, one.median, one.rounds) == ("short", 0.001, 0.002, 5)
    assert (one.peak_memory, one.throughput) == (None, None)
    assert report.machine == {"cpu": "x"}


@pytest.mark.parametrize(
    ("extra", "memory", "throughput"),
    [
        ({"peak_memory": 2**30, "throughput": 1250.5}, 2**30, 1250.5),
        ({"peak_memory": 0}, 0, None),
        ({"peak_memory": "much", "throughput": True}, None, None),
        ({"throughput": -1, "peak_memory": -1}, None, None),
        ({"throughput": math.inf, "anything": [1]}, None, None),
        ([], None, None),
    ],
)
def test_what_a_benchmark_says_of_itself(extra: Any, memory: int | None, throughput: float | None) -> None:
    (one,) = read_benchmarks(document(extra_info=extra)).benchmarks
    assert (one.peak_memory, one.throughput) == (memory, throughput)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no benchmark finished"),
        (b"{}", "it has no 'benchmarks'"),
        (document(stats=None), "benchmark 0 has no name or no stats"),
        (document(fullname=""), "benchmark 0 has no name or no stats"),
        (document(stats={**STATS, "min": -1}), "min of benchmark 't::speed' is not a time: -1"),
        (document(stats={**STATS, "median": math.nan}), "median of benchmark 't::speed' is not a time"),
        (document(stats={**STATS, "rounds": True}), "rounds of benchmark 't::speed' is not a time: True"),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BrokenReportError, match=said.replace("(", r"\(")):
        read_benchmarks(data)


def test_gpu_columns_are_there_where_a_benchmark_has_something_for_them() -> None:
    plain = read_benchmarks(document()).benchmarks[0]
    gpu = replace(plain, name="t::gpu", peak_memory=3 * 2**29, throughput=1250.5)
    text = _comment(plain, gpu)
    assert "| benchmark | minimum | median | rounds | GPU memory | throughput |\n|---|--:|--:|--:|--:|--:|" in text
    assert "| `t::gpu` | 1 ms | 2 ms | 5 | 1.50 GiB | 1,250 / s |" in text
    assert "| `t::speed` | 1 ms | 2 ms | 5 |  |  |" in text
    assert "| benchmark | minimum | median | rounds |\n" in _comment(plain)


def _comment(*benchmarks: Any) -> str:
    plan = TierPlan(name="speed", run=True, reason="", benchmark=True)
    result = TierResult(name="speed", ending=Ending.EXITED, exit_code=0, benchmarks=benchmarks)
    run = RunVerdict(
        plan=Plan(
            config_path="ml-tiers.yml", config_id="c", event=Event(name="push"),
            changes=Changes(files=None, source="git"), tiers=(plan,),
        ),
        verdict=Verdict.PASSED, exit_code=ExitCode.PASSED,
        tiers=(TierVerdict(plan=plan, result=result, verdict=Verdict.PASSED),),
    )  # fmt: skip
    return render_comment(run, links=Links())
