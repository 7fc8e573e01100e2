"""The comment: what is in it, what hostile names can do in it (nothing), and that it always fits whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.mind.render.annotations import PER_STEP, command, render_annotations
from orchestrator.mind.render.comment import COMMENT_LIMIT, marker, render_comment, render_summary
from orchestrator.mind.render.links import Links
from orchestrator.mind.render.words import budget, code, code_block, duration, sentence, visible
from orchestrator.words.errors import ExitCode
from orchestrator.words.event import Changes, Event
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Coverage, Ending, FileCoverage, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import PatchCoverage, RunVerdict, TierVerdict, Verdict

HOSTILE = (
    "tests/t.py::test[|</summary></details>]",
    "tests/t.py::test[`` `@octocat` ``]",
    "tests/t.py::test[\u202egnp.exe\u0000\u001b[31m]",
    "tests/t.py::test[a\nb\r\n| c |]",
    "tests/t.py::test[<!-- mltiers:comment config=c0ffee -->]",
    "tests/t.py::test[\ud800]",
    "tests/t.py::test[" + "x" * 5000 + "]",
)
PLAN = TierPlan(name="unit", run=True, reason="runs on push", budget=120.0)


def failing(name: str, text: str = "E   assert 1 == 2", **more: object) -> TestResult:
    values = {"message": "AssertionError: assert 1 == 2", "text": text, "file": "t.py", "line": 3, **more}
    return TestResult(node_id=name, outcome=TestOutcome.FAILED, seconds=0.1, worker="gw0", **values)  # type: ignore[arg-type]


def a_run(*tests: TestResult, tiers: int = 1, **more: object) -> RunVerdict:
    result = TierResult(
        name="unit", ending=Ending.EXITED, exit_code=1, seconds=12.34, tests=tests, has_report=True, coverage=None
    )
    verdict = Verdict.FAILED if tests else Verdict.INFRASTRUCTURE
    tier = TierVerdict(plan=PLAN, result=result, verdict=verdict, reasons=("some failed",), exit_code=ExitCode.FAILED)
    skipped = TierVerdict(
        plan=replace(PLAN, name="gpu", run=False, required=False, budget=1800.0),
        result=None,
        verdict=Verdict.NOT_RUN,
        reasons=("runs on nightly, not on push",),
    )
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="c0ffee",
        event=Event(name="push", sha="a" * 40),
        changes=Changes(files=(), source="git"),
        tiers=(PLAN,),
    )
    return RunVerdict(
        plan=plan, verdict=verdict, exit_code=ExitCode.FAILED, tiers=(tier,) * tiers + (skipped,), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_uncovered_lines_are_links_where_the_commit_has_a_page() -> None:
    patch = PatchCoverage(covered=1, measured=4, uncovered={"src/a b.py": (3, 5, 6)})
    coverage = Coverage(files={"src/a b.py": FileCoverage(executed=frozenset({1}), missing=frozenset({3, 5, 6}))})
    links = Links(source="https://github.com/o/r/blob/abc/")
    text = render_comment(a_run(failing("t.py::t"), coverage=coverage, patch=patch), links=links)
    page = "https://github.com/o/r/blob/abc/src/a%20b.py"
    assert f"- `src/a b.py`: [3]({page}#L3), [5-6]({page}#L5-L6)" in text


def test_the_whole_comment() -> None:
    coverage = Coverage(files={"src/a.py": FileCoverage(executed=frozenset({1, 2}), missing=frozenset({3}))})
    patch = PatchCoverage(covered=1, measured=4, uncovered={"src/a.py": (3, 5, 6)})
    run = a_run(failing("tests/t.py::test_a"), coverage=coverage, patch=patch)
    assert render_comment(run, links=Links(run="https://github.com/o/r/actions/runs/1")) == (
        "<!-- mltiers:comment config=c0ffee -->\n"
        "### ❌ Tests: failed · 1 test in 1 tier\n"
        "\n"
        "| tier | verdict | tests | time / budget | coverage | cost |\n"
        "|---|---|---|---|---|---|\n"
        "| `unit` | ❌ failed | 1 failed | 12.3 s / 2m | unknown | 0.2 min |\n"
        "| `gpu` (optional) | ⚪ not-run | | – / 30m | | |\n"
        "\n"
        "- `unit`: some failed\n"
        "- `gpu`: runs on nightly, not on push\n"
        "\n"
        "**Coverage** 66.6% of 3 lines · of the change: **25.0%** (1 of 4 lines)\n"
        "\n"
        "<details><summary>3 changed lines not covered</summary>\n"
        "\n"
        "- `src/a.py`: 3, 5-6\n"
        "\n"
        "</details>\n"
        "\n"
        "#### 1 failing test\n"
        "\n"
        "<details><summary><code>tests/t.py::test_a</code> · <code>AssertionError: assert 1 == 2</code></summary>\n"
        "\n"
        "tier `unit`, worker `gw0`\n"
        "\n"
        "```text\n"
        "E   assert 1 == 2\n"
        "```\n"
        "\n"
        "- no earlier run is known that could tell whether it is new\n"
        "\n"
        "Run it again: `python -m pytest tests/t.py::test_a`\n"
        "\n"
        "</details>\n"
        "\n"
        "<sub>commit aaaaaaaaaa · push · `ml-tiers.yml` · [run](https://github.com/o/r/actions/runs/1)</sub>\n"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(name: str) -> None:
    text = render_comment(a_run(failing(name, text=name, message=name)), links=Links())
    text.encode()  # no lone surrogate is left
    assert text.count("<!--") == 1
    assert _markup(text).count("<details>") == _markup(text).count("</details>") == 1
    assert visible(text.replace("\u2060", ""), newlines=True) == text.replace("\u2060", "")
    for line in _markup(text).splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 7


def _markup(comment: str) -> str:
    """What Markdown takes for markup: the text outside code blocks and code spans."""
    without_blocks = re.sub(r"^(`{3,})text\n.*?^\1$", "", comment, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", without_blocks)


def test_a_mention_in_a_sentence_reaches_nobody() -> None:
    said = sentence("ping @octocat, see https://evil.example/x and #12 [a](b) <b>")
    assert "@octocat" not in said
    assert "https://" not in said
    assert r"\#12" in said
    assert r"\<b\>" in said


def test_a_code_span_cannot_be_left() -> None:
    assert code("a`b") == "``a`b``"
    assert code("`") == "`` ` ``"
    assert code("a|b") == r"`a\|b`"
    assert code_block("````", lines=3).startswith("`````text\n")


@pytest.mark.parametrize("number", [0, 1, 30, 300, 3000])
@pytest.mark.parametrize("lines", [1, 200])
def test_it_always_fits_and_nothing_is_cut(number: int, lines: int) -> None:
    text = "\n".join(f"line {n} of a long traceback with something in it" for n in range(lines))
    run = a_run(*(failing(f"tests/unit/test_{n}.py::test_case[{n}]", text=text, line=n) for n in range(number)))
    comment = render_comment(run, links=Links(run="https://x/1"))
    assert len(comment.encode()) <= COMMENT_LIMIT
    assert comment.endswith(("</sub>\n", "the [job summary](https://x/1).\n"))
    assert comment.count("```") % 2 == 0
    assert comment.count("<details>") == comment.count("</details>")
    if "Shortened to fit" not in comment:
        assert comment.count("<summary><code>tests/unit") == number
    assert len(render_summary(run, links=Links()).encode()) <= 1_000_000


def test_hundreds_of_tiers_fit() -> None:
    comment = render_comment(a_run(failing("t.py::t", message="m" * 600), tiers=2000), links=Links())
    assert len(comment.encode()) <= COMMENT_LIMIT
    assert "more tiers |" in comment


def test_the_same_results_give_the_same_bytes() -> None:
    tests = [failing(name) for name in HOSTILE]
    assert render_comment(a_run(*tests), links=Links()) == render_comment(a_run(*tests), links=Links())


def test_the_marker_names_the_configuration() -> None:
    assert marker("abc") == "<!-- mltiers:comment config=abc -->"


@settings(max_examples=60)
@given(st.text(), st.text())
def test_any_text_at_all(name: str, text: str) -> None:
    comment = render_comment(a_run(failing(name, text=text, message=text)), links=Links())
    comment.encode()
    assert _markup(comment).count("<details>") == _markup(comment).count("</details>") == 1
    assert comment.count("<!--") == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "40 ms"), (12.34, "12.3 s"), (59.96, "1m 00s"), (65, "1m 05s"), (3600, "1h 00m"), (5400, "1h 30m")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(90, "90s"), (120, "2m"), (5400, "1h30m"), (1800, "30m"), (0.5, "0.5s"), (150, "2m30s")]
)
def test_budgets_read_as_they_are_written(seconds: float, said: str) -> None:
    assert budget(seconds) == said


def test_annotations_cannot_start_another_command() -> None:
    line = command("error", "a\n::set-output name=x::y%\r", file="a,b:c\n.py", title="t::u")
    assert "\n" not in line
    assert line == ("::error file=a%2Cb%3Ac\\n.py,title=t%3A%3Au::a%0A::set-output name=x::y%25\\r")


def test_annotations_point_into_the_repository_and_say_what_is_hidden() -> None:
    run = a_run(*(failing(f"t.py::test_{n}") for n in range(30)))
    lines = render_annotations(run, prefix="sub/dir/")
    assert len(lines) == PER_STEP
    assert lines[0].startswith("::error file=sub/dir/t.py,line=3,title=unit%3A t.py%3A%3Atest_0::AssertionError")
    assert "21 more are in the report" in lines[-1]
