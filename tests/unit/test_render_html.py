"""The HTML report as text: what is in it, that nothing foreign is markup, that its data can be read back."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.mind.render.html import SCRIPTS, VERDICT_WORDS, headline, html_chunks, render_html
from orchestrator.mind.render.report_data import Limits, TestColumns, data_chunks
from orchestrator.mind.render.words import duration, line_ranges
from orchestrator.words.event import Changes, Event
from orchestrator.words.results import Attempt, Coverage, FileCoverage, TestOutcome
from orchestrator.words.verdict import KnownGap, PatchCoverage, RunVerdict, TierVerdict, Verdict
from tests.support.report_samples import (
    HOSTILE_NAMES,
    a_test,
    big_run,
    hostile_run,
    not_run_tier,
    run_of,
    sample_run,
    tier_of,
)

ASSETS = Path(__file__).parents[2] / "orchestrator/mind/render/assets"
PASSED, FAILED, SKIPPED = TestOutcome.PASSED, TestOutcome.FAILED, TestOutcome.SKIPPED


class Page(HTMLParser):
    """A page as a browser's tokeniser sees it: every tag with its attributes, the text of each script, the words."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[dict[str, str | None], str]] = []  # scripts and styles
        self.words = ""
        self._inside: dict[str, str | None] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = {"tag": tag, **dict(attrs)}
            self.raw.append((self._inside, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.raw[-1] = (self._inside, self.raw[-1][1] + data)
        else:
            self.words += data

    def script(self, name: str) -> str:
        return next(text for attributes, text in self.raw if attributes.get("id") == name)


def data_of(run: RunVerdict) -> Any:
    return json.loads(Page(render_html(run)).script("data"))


def limited(run: RunVerdict, limits: Limits) -> Any:
    return json.loads("".join(data_chunks(run, TestColumns(run), source_url=None, limits=limits)))


def node_ids(data: Any) -> list[str]:
    tests = data["tests"]
    return [tests["heads"][head] + name for head, name in zip(tests["head"], tests["names"], strict=True)]


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_verdict_is_a_word_an_icon_and_a_tone(verdict: Verdict) -> None:
    text = render_html(run_of(tier_of("unit", [a_test("t.py::a", PASSED)], verdict=verdict)))
    assert f'<h1 class="v-{verdict}"><svg class="icon" aria-hidden="true"><use href="#i-{verdict}"/></svg>' in text
    assert f"{VERDICT_WORDS[verdict]}</h1>" in text


def test_every_verdict_and_outcome_has_a_symbol_and_a_tone() -> None:
    html, css = (ASSETS / "report.html").read_text(), (ASSETS / "report.css").read_text()
    for word in [*Verdict, *TestOutcome]:
        assert f'id="i-{word}"' in html
        assert re.search(rf"\.v-{word}\b", css), word


def test_the_table_of_tiers_needs_no_script() -> None:
    words = " ".join(Page(render_html(sample_run())).words.split())
    assert "1 tier failed, 1 over budget, 1 flaky, 1 passed, 2 not run" in words
    assert "5 failed, 29 passed, 1 xfailed, 1 skipped" in words
    assert "27.4 s of 2m" in words
    assert "needs the label ready-for-gpu, a merge group or the comment /mltiers gpu" in words
    assert "coverage of the change is 63.1%, below 80%" in words
    assert "pull request #218 into main" in words
    assert "6 failing tests" in words  # in <noscript>
    assert "2025-11-22 16:46:40 UTC" in words


def test_coverage_that_was_not_measured_is_not_a_number() -> None:
    tier = tier_of("unit", [a_test("t.py::a", PASSED)], coverage_note="pytest-cov is not installed")
    words = Page(render_html(run_of(tier, coverage_note="unknown for `unit`"))).words
    assert "unknown: pytest-cov is not installed" in words
    assert "100.0%" not in words


def test_coverage_just_below_a_minimum_never_reads_as_the_minimum() -> None:
    files = {"a.py": FileCoverage(executed=frozenset(range(7999)), missing=frozenset(range(7999, 10000)))}
    tier = tier_of("unit", [a_test("t.py::a", PASSED)], coverage=Coverage(files=files))
    assert "79.9%" in Page(render_html(run_of(tier, coverage=Coverage(files=files)))).words


def test_a_tier_that_ran_into_nothing_still_says_how() -> None:
    tier = tier_of(
        "unit",
        verdict=Verdict.INFRASTRUCTURE,
        reasons=("no report was written",),
        problems=("junit.xml is missing",),
        output_tail="Killed\n",
        stacks="Thread 0x1",
        notes=("1 process was left behind",),
    )
    words = Page(render_html(run_of(tier))).words
    for said in ("no report was written", "junit.xml is missing", "Killed", "Thread 0x1", "1 process was left behind"):
        assert said in words
    assert "no tests" in words


def test_an_empty_plan_renders() -> None:
    assert "The plan has no tier." in Page(render_html(run_of())).words


def test_headline_counts_the_worst_first() -> None:
    a = tier_of("a", verdict=Verdict.INFRASTRUCTURE)
    assert headline(run_of(tier_of("b"), a, not_run_tier("c", "no"))) == (
        "1 tier stopped by infrastructure, 1 passed, 1 not run"
    )


# --- nothing from outside runs or is fetched -----------------------------------------------------------------------


@pytest.mark.parametrize("run", [sample_run(), run_of(tier_of("unit"))], ids=["timeline", "no timeline"])
def test_only_what_the_policy_names_may_run(run: RunVerdict) -> None:
    page = Page(render_html(run))
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for attributes, text in page.raw:
        digest = "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        inert = attributes.get("type") == "application/json" or not text
        assert (digest in policy) is not inert, attributes


def test_nothing_in_the_page_names_anything_to_fetch() -> None:
    page = Page(render_html(sample_run()))
    assert {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "base", "form", "video"} == set()
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert "style" not in attributes  # the policy would refuse it
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "link":
            assert str(attributes["href"]).startswith("data:")
        elif tag == "a" and not str(attributes["href"]).startswith("#"):
            assert str(attributes["href"]).startswith("https://github.com/acme/text-classifier")
            assert attributes["rel"] == "noopener noreferrer"


def test_hostile_words_are_never_markup() -> None:
    hostile, harmless = Page(render_html(hostile_run())), Page(render_html(sample_run()))
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in harmless.tags}
    assert len(hostile.raw) == len(harmless.raw)
    names = {name for _, attributes in harmless.tags for name in attributes}
    assert {name for _, attributes in hostile.tags for name in attributes} <= names
    assert "javascript:" not in render_html(hostile_run())
    assert "<" not in hostile.script("data")


def test_hostile_words_survive_as_data_and_are_spelt_out_in_the_page() -> None:
    text = render_html(hostile_run())
    text.encode()  # no lone surrogate is left
    page = Page(text)
    assert node_ids(json.loads(page.script("data")))[: len(HOSTILE_NAMES)] == list(HOSTILE_NAMES)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    assert r"\u202e" in page.words


def test_scripts_have_no_way_to_make_markup_of_a_string() -> None:
    code = "\n".join((ASSETS / f"js/{name}.js").read_text() for name in SCRIPTS)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|fetch\(|\.src\b", code
    )
    assert sorted(SCRIPTS) == sorted(path.stem for path in (ASSETS / "js").iterdir())


@pytest.mark.parametrize("path", sorted(path for path in ASSETS.rglob("*.*s*") if path.suffix in (".js", ".css")))
def test_assets_cannot_end_their_own_element(path: Path) -> None:
    text = path.read_text()
    assert text.isascii() or path.suffix == ".css" or "uplot" not in path.parts
    assert "\r" not in text
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event(name="push"), None),
        (Event(name="push", repository="o/r", sha="abc1234"), "https://github.com/o/r/blob/abc1234/a/b/"),
        (Event(name="push", repository="o/r", sha="abc1234", server_url="javascript:x"), None),
        (Event(name="push", repository="o/r/../x", sha="abc1234"), None),
        (Event(name="push", repository="o/r", sha="abc1234#"), None),
        (
            Event(name="push", repository="o/r", sha="abc1234", server_url="https://ghe.example/"),
            "https://ghe.example/o/r/blob/abc1234/a/b/",
        ),
    ],
)
def test_links_to_source_lines(event: Event, expected: str | None) -> None:
    page = Page(render_html(run_of(event=event), prefix="a/b/"))
    assert json.loads(page.script("data"))["source"] == expected


# --- the charting library ------------------------------------------------------------------------------------------


def test_the_charting_library_comes_only_with_something_to_chart() -> None:
    timed = run_of(tier_of("unit", [a_test("t.py::a", PASSED, started=5.0, worker="gw0")]))
    untimed = run_of(tier_of("unit", [a_test("t.py::a", PASSED)]))
    library = (ASSETS / "uplot/uPlot.iife.min.js").read_text()
    assert render_html(timed).count(library) == 1
    assert (ASSETS / "uplot/LICENSE").read_text() in render_html(timed)
    assert "uPlot (v" not in render_html(untimed)
    assert Page(render_html(untimed)).script("charts") == ""


def test_the_charting_library_is_the_one_the_readme_names() -> None:
    readme = (ASSETS / "README.md").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        digest = hashlib.sha256((ASSETS / "uplot" / name).read_bytes()).hexdigest()
        assert f"| `uplot/{name}` | `{digest}` |" in readme


# --- the data ------------------------------------------------------------------------------------------------------


def test_tests_can_be_read_back() -> None:
    run = sample_run()
    data = data_of(run)
    tests = [test for tier in run.tiers if tier.result for test in tier.result.tests]
    assert node_ids(data) == [test.node_id for test in tests]
    assert [data["outcomes"][code] for code in data["tests"]["codes"]] == [test.outcome.value for test in tests]
    assert [took / data["ticks"] for took in data["tests"]["took"]] == pytest.approx(
        [test.seconds for test in tests], abs=1e-4
    )
    firsts = [tier["first"] for tier in data["tiers"]]
    assert firsts == [0, 36, 42, 44, 48, 48]
    workers = data["tiers"][0]["workers"]
    assert [workers[w] for w in data["tests"]["workers"][:36]] == [test.worker for test in tests[:36]]
    begin = run.tiers[0].result.started if run.tiers[0].result else None
    assert begin is not None
    assert [start / data["ticks"] + begin for start in data["tests"]["started"][:36]] == pytest.approx(
        [test.started for test in tests[:36]], abs=1e-3
    )


def test_workers_stand_in_their_natural_order() -> None:
    names = ["gw10", "gw2", "main", "gw1", "\u0968", None]  # the last name is a digit, only not an ASCII one
    tier = tier_of("unit", [a_test(f"t.py::{n}", PASSED, worker=name) for n, name in enumerate(names)])
    data = data_of(run_of(tier))
    assert data["tiers"][0]["workers"] == ["\u0968", "gw1", "gw2", "gw10", "main"]
    assert data["tests"]["workers"][-1] == -1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_times_that_are_no_times_are_unknown(value: float) -> None:
    tests = [
        a_test("t.py::a", PASSED, seconds=value, started=value),
        a_test("t.py::b", PASSED, seconds=1.0, started=7.0),
    ]
    data = data_of(run_of(tier_of("unit", tests, seconds=value, started=value)))
    assert data["tests"]["took"] == [0, 10_000]
    assert all(isinstance(start, int) for start in data["tests"]["started"])
    assert data["tiers"][0]["took"] == 0


def test_a_failure_keeps_what_is_needed_to_mend_it() -> None:
    tries = (Attempt(outcome=FAILED, seconds=0.5, message="first"),)
    bad = a_test("t.py::a", FAILED, message="E: x", text="trace", file="src/a.py", line=4, attempts=tries)
    flaky = a_test("t.py::b", PASSED, attempts=tries)
    details = data_of(run_of(tier_of("unit", [a_test("t.py::z", PASSED), bad, flaky])))["details"]
    attempts = [["f", 5000, "first"]]
    assert details == [
        {"test": 1, "message": "E: x", "text": "trace", "file": "src/a.py", "line": 4, "attempts": attempts},
        {"test": 2, "attempts": attempts},
    ]


def test_what_is_left_out_for_size_is_counted() -> None:
    texts = ["x" * 5000 + "END", "y" * 900, "z" * 900, "w" * 900, "v" * 10, "never seen"]
    tests = [a_test(f"t.py::{n}", FAILED, text=text) for n, text in enumerate(texts)]
    data = limited(run_of(tier_of("unit", tests)), Limits(text=1000, texts=3500, details=5))
    assert data["limits"] == {"shortened": 1, "withoutText": 1, "leftOut": 1}
    kept = [detail.get("text") for detail in data["details"]]
    assert kept[0].endswith("END")
    assert "4,003 characters left out" in kept[0]
    assert [bool(text) for text in kept] == [True, True, True, False, True]


def test_a_gigantic_name_is_shortened_in_the_middle() -> None:
    names = ["t.py::" + "a" * 100_000 + "END", "b" * 100_000 + "::c"]
    data = data_of(run_of(tier_of("unit", [a_test(name, FAILED, message="m" * 10**6) for name in names])))
    assert all(len(name) < 5_000 for name in node_ids(data))
    assert node_ids(data)[0].startswith("t.py::aaaa")
    assert node_ids(data)[0].endswith("END")
    assert len(data["details"][0]["message"]) < 1_100


def test_skips_are_grouped_by_reason() -> None:
    reasons = ["no CUDA", "slow", "no CUDA", "third", None]
    tests = [a_test(f"t.py::{n}", SKIPPED, message=reason) for n, reason in enumerate(reasons)]
    skips = limited(run_of(tier_of("unit", tests)), Limits(reasons=2))["skips"]
    assert skips["reasons"] == ["no CUDA", "slow", "other reasons"]
    assert skips["tests"] == [0, 1, 2, 3, 4]
    assert skips["reason"] == [0, 1, 0, 2, 2]


def test_files_of_the_change_stand_first_with_their_uncovered_lines() -> None:
    def file(*missing: int) -> FileCoverage:
        return FileCoverage(executed=frozenset({100}), missing=frozenset(missing))

    coverage = Coverage(files={"full.py": file(), "worst.py": file(*range(1, 50)), "changed.py": file(3, 4, 5, 9)})
    patch = PatchCoverage(covered=1, measured=3, uncovered={"changed.py": (4, 5)})
    data = data_of(run_of(tier_of("unit"), coverage=coverage, patch=patch))
    assert data["coverage"]["files"] == [
        ["changed.py", 1, 5, "3-5, 9", "4-5", 0],
        ["worst.py", 1, 50, "1-49", "", 0],
        ["full.py", 1, 1, "", "", 0],
    ]


def test_benchmarks_with_their_machine() -> None:
    (group,) = data_of(sample_run())["benchmarks"]
    assert group["tier"] == "speed"
    assert group["machine"] == ["CPU AMD EPYC 7763 64-Core Processor", "Python 3.11.9", "System Linux"]
    assert group["rows"][0][:3] == ["test_forward[batch=8]", 0.00214, 0.00231]
    assert data_of(hostile_run())["benchmarks"][0]["rows"][0][2] is None  # not a number in the file


def test_chunks_are_the_page_and_stay_small() -> None:
    run = big_run(4_000, tiers=4)
    chunks = list(html_chunks(run))
    assert "".join(chunks) == render_html(run)
    assert len(chunks) > 10
    assert max(map(len, chunks)) < 200_000


def test_the_same_run_gives_the_same_bytes() -> None:
    assert render_html(sample_run()) == render_html(sample_run())


def test_the_size_of_many_tests_is_that_of_their_names_and_numbers() -> None:
    small, large = (len(render_html(big_run(count, failing=0.0))) for count in (1_000, 11_000))
    assert (large - small) / 10_000 < 40


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (KnownGap(name="a.py::f", lines=21, covered=0), "21 lines not counted"),
        (KnownGap(name="a.py", lines=1, covered=1), "no longer one, every line of it is covered"),
        (KnownGap(name="gone.py", lines=0, covered=0, found=False), "there is no such file or function"),
    ],
)
def test_known_gaps_are_shown_as_such(gap: KnownGap, said: str) -> None:
    ((name, words),) = data_of(replace(sample_run(), known_gaps=(gap,)))["coverage"]["gaps"]
    assert name == gap.name
    assert words.startswith(said)


def test_a_run_of_named_tiers_is_held_to_no_threshold() -> None:
    run = sample_run()
    partial = Page(render_html(replace(run, plan=replace(run.plan, partial=True)))).words
    assert "the tiers asked for by name" in partial
    assert "minimum 80%" in Page(render_html(run)).words
    assert "minimum 80%" not in partial


def test_unknown_changes_mark_no_file() -> None:
    run = sample_run()
    unknown = replace(run, plan=replace(run.plan, changes=Changes(files=None, source="shallow clone")))
    assert [row[5] for row in data_of(run)["coverage"]["files"]].count(1) == 2
    assert [row[5] for row in data_of(unknown)["coverage"]["files"]].count(1) == 0


def test_a_never_started_tier_claims_no_time() -> None:
    tier = TierVerdict(
        plan=tier_of("gpu").plan, result=None, verdict=Verdict.NEVER_STARTED, reasons=("no runner took it within 1h",)
    )
    words = Page(render_html(run_of(tier))).words
    assert "no runner took it within 1h" in words
    assert "budget 2m" in words


def test_rendering_imports_nothing_heavy() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import orchestrator.mind.render.html, sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ASSETS.parents[2],
    ).stdout.split()
    assert not {"requests", "yaml", "urllib.request", "subprocess", "importlib.resources"} & set(said)


# --- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.00994, "9.9 ms"),
        (0.00996, "10 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (59.96, "1m 00s"),
        (134, "2m 14s"),
        (3599.6, "1h 00m"),
        (3900, "1h 05m"),
        (math.nan, "unknown"),
        (-1, "unknown"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("lines", "limit", "said"),
    [((), 9, ""), ((3,), 9, "3"), ((9, 3, 5, 4), 9, "3-5, 9"), ((1, 3, 5, 7), 2, "1, 3, … 2 more")],
)
def test_line_ranges(lines: tuple[int, ...], limit: int, said: str) -> None:
    assert line_ranges(lines, limit) == said


def test_causes_name_their_tests_by_index_in_every_tier() -> None:
    first = Attempt(outcome=FAILED, seconds=0.5, message="late", text="E   late")
    tests = [
        a_test("t.py::a", FAILED, message="ValueError: 1", file="src/a.py", line=4),
        a_test("t.py::b", PASSED, attempts=(first,)),
        a_test("t.py::c", FAILED, message="ValueError: 2", file="src/a.py", line=4),
    ]
    run = run_of(tier_of("unit", tests), tier_of("gpu", [a_test("t.py::z", PASSED), tests[0]]))
    data = data_of(run)

    (cause,) = data["insight"]["causes"]
    assert (cause["tests"], cause["standing"]) == ([0, 4, 2], "unknown")
    assert cause["rerun"] == "python -m pytest t.py::a t.py::c"
    assert data["insight"]["flaky"] == [
        {"test": 1, "remarks": ["passed in attempt 2"], "rerun": "python -m pytest t.py::b"}
    ]
    assert next(detail["text"] for detail in data["details"] if detail["test"] == 1) == "E   late"


def test_every_failing_test_is_in_one_cause() -> None:
    tests = [a_test(f"t.py::{n}", FAILED, message=f"E{n % 3}: x", file="a.py", line=n % 2) for n in range(40)]
    causes = data_of(run_of(tier_of("unit", tests)))["insight"]["causes"]

    assert sorted(index for cause in causes for index in cause["tests"]) == list(range(40))
