"""What surrounds the sequential test: whose turn it is, whether two sides are two programs, what is said and judged."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.hands.base_tree import environment_differs, find_base, importable_names, lay_over
from orchestrator.hands.pairs import IncomparableError, check_sides
from orchestrator.mind.judge import judge_tier
from orchestrator.mind.readers.comparison import comparison_document, merge_comparisons, read_comparison
from orchestrator.mind.readers.document import BrokenReportError
from orchestrator.mind.render.benchmarks import headline, interval, percent, remarks, telling
from orchestrator.mind.render.comment import render_comment
from orchestrator.mind.render.html import render_html
from orchestrator.mind.render.links import Links
from orchestrator.tools.git import Git
from orchestrator.tools.lockstep import schedule
from orchestrator.words.event import Event
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import (
    Benchmark,
    BenchmarkChange,
    Change,
    Comparison,
    Ending,
    TestOutcome,
    TestResult,
    TierResult,
)
from orchestrator.words.verdict import TierVerdict, Verdict
from tests.support.project import Project
from tests.support.report_samples import run_of

SPEED = TierPlan(name="speed", run=True, reason="", budget=300.0, benchmark=True, against="base", gate=10.0)


def change(name: str, what: Change, ratio: float = 1.0, **more: Any) -> BenchmarkChange:
    told: dict[str, Any] = {"low": ratio * 0.97, "high": ratio * 1.03, "blocks": 20, "seconds": 0.01, **more}
    return BenchmarkChange(name=name, change=what, ratio=ratio, **told)


COMPARED = Comparison(
    against="base",
    base="0123456789abcdef",
    gate=10.0,
    blocks=20,
    changes=(
        change("t::same", Change.SAME),
        change("t::worse", Change.SLOWER, 1.3),
        change("t::open", Change.UNDECIDED, 1.1, low=0.0, high=None),
        change("t::better", Change.FASTER, 0.5, edited=True),
    ),
    alone={"t::new": "is not there on the base"},
)


# --- turns ---------------------------------------------------------------------------------------------------------


def test_every_side_has_every_test_as_often_and_as_often_first() -> None:
    turns = list(schedule(["a.py::x", "b.py::y", "a.py::z"], ["base", "head"], 6, random.Random(1)))
    assert Counter(test for test, _, _ in turns) == {"a.py::x": 6, "a.py::z": 6, "b.py::y": 6}
    for name in ("a.py::x", "a.py::z", "b.py::y"):
        assert Counter(order[0] for test, _, order in turns if test == name) == {"base": 3, "head": 3}
    assert all(sorted(order) == ["base", "head"] for _, _, order in turns)


def test_a_file_is_visited_at_one_go_and_each_turn_names_the_next() -> None:
    turns = list(schedule(["a.py::x", "b.py::y", "a.py::z"], ["base", "head"], 2, random.Random(1)))
    tests = [test for test, _, _ in turns]
    assert tests == ["a.py::x", "a.py::z", "a.py::x", "a.py::z", "b.py::y", "b.py::y"]
    assert [following for _, following, _ in turns] == [*tests[1:], None]


def test_the_order_is_the_seed_s() -> None:
    def drawn(seed: int) -> list[Any]:
        return list(schedule([f"a.py::{n}" for n in range(20)], ["base", "head"], 4, random.Random(seed)))

    assert drawn(1) == drawn(1) != drawn(2)


# --- two programs --------------------------------------------------------------------------------------------------


def sides(head: dict[str, str], base: dict[str, str]) -> dict[str, Any]:
    return {"head": {"modules": head}, "base": {"modules": base}}


@pytest.mark.parametrize(
    ("head", "base", "said"),
    [
        pytest.param({"sums": "/h/src/sums.py"}, {"sums": "/b/src/sums.py"}, None, id="two trees"),
        pytest.param({"sums": "/h/src/sums.py"}, {"sums": "/h/src/sums.py"}, "the base imports `sums`", id="editable"),
        pytest.param(
            {"sums": "/h/.venv/lib/site-packages/sums.py"},
            {"sums": "/h/.venv/lib/site-packages/sums.py"},
            "an installed copy",
            id="copy inside the project",
        ),
        pytest.param({"sums": "/usr/sums.py"}, {"sums": "/usr/sums.py"}, "the head imports `sums`", id="copy"),
        pytest.param(
            {"sums": "/h/src/sums.py", "sums._fast": "/h/src/sums/_fast.so"},
            {"sums": "/b/src/sums.py", "sums._fast": "/h/src/sums/_fast.so"},
            "`sums._fast`",
            id="extension built for the head",
        ),
        pytest.param({}, {}, "import nothing of `source`", id="nothing"),
        pytest.param({"other": "/x/o.py"}, {"other": "/x/o.py"}, "import nothing of `source`", id="only others"),
        pytest.param(
            {"test_speed": "/h/tests/test_speed.py"},
            {"test_speed": "/b/tests/test_speed.py"},
            "import nothing of `source`",
            id="only the benchmarks themselves",
        ),
        pytest.param(
            {"sums": "/h/src/sums.py", "sums.new": "/h/src/new.py"}, {"sums": "/b/src/sums.py"}, None, id="a new module"
        ),
    ],
)
def test_two_sides_are_two_programs_or_are_refused(
    head: dict[str, str], base: dict[str, str], said: str | None
) -> None:
    def check() -> None:
        check_sides(
            sides(head, base),
            names={"sums", "test_speed"},
            head=Path("/h"),
            base=Path("/b"),
            tests={"tests/test_speed.py"},
            root=Path("/h"),
        )

    if said is None:
        check()
        return
    with pytest.raises(IncomparableError) as refused:
        check()
    assert said in str(refused.value)


def test_the_top_level_names_of_source_folders(tmp_path: Path) -> None:
    for file in (
        "src/sums/__init__.py",
        "src/sums/core.py",
        "src/single.py",
        "lib/deep/pkg/__init__.py",
        "own/__init__.py",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "env/lib").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    (tmp_path / "env/lib/foreign.py").touch()
    assert importable_names(tmp_path, ["src"]) == {"sums", "single"}
    assert importable_names(tmp_path, ["own"]) == {"own"}
    assert importable_names(tmp_path, ["src/single.py"]) == {"single"}
    assert importable_names(tmp_path, ["."]) == {"sums", "single", "pkg", "own"}
    assert importable_names(tmp_path, ["nowhere"]) == set()


def test_the_tests_are_the_heads_and_the_source_is_not(tmp_path: Path) -> None:
    head, base = tmp_path / "head", tmp_path / "base"
    for file in ("tests/conftest.py", "tests/speed/test_a.py", "tests/speed/data/x.csv", "src/sums.py"):
        (head / file).parent.mkdir(parents=True, exist_ok=True)
        (head / file).write_text("head")
    base.mkdir()
    over = lay_over(head, base, paths=["tests/speed"], source=["src"], files=["tests/speed/test_a.py"])
    assert over == {"tests/conftest.py", "tests/speed/test_a.py", "tests/speed/data/x.csv"}
    assert all((base / file).read_text() == "head" for file in over)
    # A path with the source in it gives only what holds benchmarks.
    over = lay_over(head, base, paths=["."], source=["src"], files=["tests/speed/test_a.py"])
    assert over == {"tests/conftest.py", "tests/speed/test_a.py"}
    assert not (base / "src").exists()


def test_files_by_which_another_environment_may_be_meant() -> None:
    changed = ["requirements-dev.txt", "a/uv.lock", "pyproject.toml", "src/sums.py", "environment.yml", "docs/lock.md"]
    assert environment_differs(changed) == ["a/uv.lock", "environment.yml", "pyproject.toml", "requirements-dev.txt"]


def test_the_base_of_a_merge_is_what_it_was_merged_into(tmp_path: Path) -> None:
    made = Project(tmp_path / "project", {"a.txt": "1"})
    made.commit("old")
    made.git("checkout", "-q", "-b", "change")
    made.write({"b.txt": "1"})
    change = made.commit("change")
    made.git("checkout", "-q", "main")
    made.write({"a.txt": "2"})
    moved_on = made.commit("moved on")
    made.git("merge", "-q", "--no-ff", "-m", "merge", "change")
    git = Git(root=made.root, variables=dict(os.environ))
    event = Event(name="pull_request", sha=change, base_sha=moved_on)
    base = find_base(git, event, (moved_on, "HEAD"), prefix="ml/")
    assert (base.sha, base.prefix) == (moved_on, "ml/")
    made.git("checkout", "-q", "change")  # without GitHub's merge commit: where the branch began
    assert find_base(git, event, (moved_on, None), prefix="").sha == git.merge_base(moved_on, change)


def test_without_git_or_a_base_the_reason_is_said(tmp_path: Path) -> None:
    assert "no git repository" in find_base(None, Event(name="push"), None, prefix="").absent
    git = Git(root=tmp_path, variables={})
    assert "`schedule` has no base" in find_base(git, Event(name="schedule"), None, prefix="").absent
    assert "`fetch-depth: 0`" in find_base(git, Event(name="push", base_sha="0" * 40), None, prefix="").absent


# --- what is judged and said ---------------------------------------------------------------------------------------


def tier_with(comparison: Comparison | None) -> TierResult:
    return TierResult(
        name="speed",
        ending=Ending.EXITED,
        exit_code=0,
        seconds=200.0,
        tests=(TestResult(node_id="t::worse", outcome=TestOutcome.PASSED),),
        has_report=True,
        comparison=comparison,
    )


def test_only_a_slowdown_beyond_a_gate_fails() -> None:
    judged = judge_tier(SPEED, tier_with(COMPARED))
    assert judged.verdict is Verdict.FAILED
    assert judged.reasons == ("t::worse got slower: +30.0% (+26.1% to +33.9%), beyond the gate of 10%",)
    harmless = replace(COMPARED, changes=tuple(one for one in COMPARED.changes if one.change is not Change.SLOWER))
    assert judge_tier(SPEED, tier_with(harmless)).verdict is Verdict.PASSED
    assert judge_tier(replace(SPEED, gate=None), tier_with(COMPARED)).verdict is Verdict.PASSED
    refused = Comparison(against="base", problem="the base cannot run these benchmarks")
    assert judge_tier(SPEED, tier_with(refused)).verdict is Verdict.PASSED


def test_many_slower_ones_are_counted() -> None:
    many = replace(COMPARED, changes=tuple(change(f"t::{n}", Change.SLOWER, 1.5) for n in range(5)))
    assert judge_tier(SPEED, tier_with(many)).reasons[-1] == "and 2 more benchmarks got slower"


def test_the_words() -> None:
    assert headline(COMPARED) == (
        "1 slower, 1 faster, 1 same, 1 undecided against the base 0123456789, gate 10%, 20 pairs of runs"
    )
    assert [one.name for one in telling(COMPARED)] == ["t::worse", "t::open", "t::better"]
    assert [interval(one) for one in telling(COMPARED)] == ["+26.1% to +33.9%", "not known yet", "-51.5% to -48.5%"]
    assert remarks(COMPARED, most=5) == [
        "the file of t::better differs from the base's; the head's ran on both",
        "t::new is not there on the base",
    ]
    assert remarks(COMPARED, most=1)[1] == "and 1 more remark"
    refused = Comparison(against="base", base="0123456789abcdef", problem="it is shallow")
    assert headline(refused) == "not compared with the base 0123456789: it is shallow"
    assert (percent(1.0), percent(2.5), percent(0.5)) == ("+0.0%", "× 2.5", "-50.0%")


def test_the_comment_lists_what_is_not_the_same() -> None:
    run = run_of(TierVerdict(plan=SPEED, result=tier_with(COMPARED), verdict=Verdict.FAILED))
    text = render_comment(run, links=Links())
    assert "**Benchmarks** in `speed`: 1 slower, 1 faster, 1 same, 1 undecided" in text
    assert "| `t::worse` | ❌ slower | +30.0% | +26.1% to +33.9% | 10 ms |" in text
    assert "t::same" not in text
    refused = replace(COMPARED, changes=(), problem="the base cannot run", detail="ModuleNotFoundError: no sums")
    run = run_of(TierVerdict(plan=SPEED, result=tier_with(refused), verdict=Verdict.PASSED))
    text = render_comment(run, links=Links())
    assert "not compared with the base 0123456789: the base cannot run" in text
    assert "ModuleNotFoundError: no sums" in text
    for number in (1, 3000):
        many = replace(COMPARED, changes=tuple(change(f"t::{n}" * number, Change.UNDECIDED) for n in range(2000)))
        run = run_of(TierVerdict(plan=SPEED, result=tier_with(many), verdict=Verdict.PASSED))
        assert len(render_comment(run, links=Links()).encode()) <= 65_000


def test_the_report_has_the_comparison_beside_the_times() -> None:
    measured = Benchmark(name="t::worse", minimum=0.01, median=0.01, mean=0.01, stddev=0.0, rounds=5)
    result = replace(tier_with(COMPARED), benchmarks=(measured,))
    page = render_html(run_of(TierVerdict(plan=SPEED, result=result, verdict=Verdict.FAILED)))
    assert '["t::worse","slower","+30.0%","+26.1% to +33.9%",0.01]' in page
    assert headline(COMPARED) in page


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_comparison_survives_its_file() -> None:
    assert read_comparison(json.dumps(comparison_document(COMPARED)).encode()) == COMPARED


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "against": "base"}',
        b'{"version": 1}',
        b'{"version": 1, "against": "base", "changes": [{"name": "x"}]}',
        b'{"version": 1, "against": "base", "changes": [{"name": "x", "change": "slower", "ratio": -1, "low": 0, '
        b'"high": 1, "blocks": 1, "seconds": 1}]}',
        b'{"version": 1, "against": "base", "changes": [{"name": "x", "change": "odd", "ratio": 1, "low": 0, '
        b'"high": 1, "blocks": 1, "seconds": 1}]}',
    ],
)
def test_a_strangers_file_is_refused_or_read_never_more(broken: bytes) -> None:
    with pytest.raises(BrokenReportError):
        read_comparison(broken)


def test_parts_make_one_comparison() -> None:
    one = replace(COMPARED, changes=COMPARED.changes[:2], alone={})
    other = replace(COMPARED, changes=COMPARED.changes[2:], notes=("a lock differs",))
    whole = merge_comparisons([one, other])
    assert whole is not None
    assert (whole.changes, whole.alone, whole.blocks) == (COMPARED.changes, COMPARED.alone, 40)
    broken = merge_comparisons([one, Comparison(against="base", base=COMPARED.base, problem="it broke")])
    assert broken is not None
    assert headline(broken) == "1 slower, 1 same; the rest not compared with the base 0123456789: it broke"
    assert merge_comparisons([]) is None
