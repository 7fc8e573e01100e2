"""The HTML report in a real browser: offline, by keyboard, on a phone, with fifty thousand tests, under attack."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from playwright.sync_api import expect

from orchestrator.mind.failures import insight
from orchestrator.mind.render.html import render_html
from orchestrator.mind.render.words import duration, percent, visible
from orchestrator.words.results import TestOutcome
from orchestrator.words.verdict import Point, RunVerdict, Series
from tests.support.browser import chromium, launched
from tests.support.report_samples import HOSTILE_NAMES, SHA, a_test, big_run, hostile_run, run_of, sample_run, tier_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
]

CLIPBOARD = ["clipboard-read", "clipboard-write"]
ASSETS = Path(__file__).parents[2] / "orchestrator/mind/render/assets"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


class Opened:
    """A page with a report, and everything it asked for or complained about."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(path.as_uri())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that renders a run and opens it; afterwards nothing was fetched and nobody complained."""
    contexts: list[Any] = []
    pages: list[Opened] = []

    def open_run(run: RunVerdict, **context: Any) -> Opened:
        path = tmp_path / f"report {len(pages)}.html"
        path.write_text(render_html(run), encoding="utf-8")
        settings = {"viewport": {"width": 1200, "height": 800}, "reduced_motion": "reduce"} | context
        contexts.append(browser.new_context(**settings))
        pages.append(Opened(contexts[-1].new_page(), path))
        return pages[-1]

    yield open_run
    for page in pages:
        assert page.requests == [page.url.partition("#")[0]]
        assert page.complaints == []
    for context in contexts:
        context.close()


def test_every_section_is_there_and_in_the_navigation(opened: Any) -> None:
    page = opened(sample_run())
    ids = page.eval_on_selector_all("main section", "nodes => nodes.map(node => node.id)")
    assert ids == ["tiers", "failures", "flaky", "coverage", "benchmarks", "timeline", "slowest", "skips", "tests"]
    links = page.eval_on_selector_all("nav a", "nodes => nodes.map(node => node.getAttribute('href'))")
    assert links == [f"#{name}" for name in ids]


def test_without_javascript_the_tiers_and_failures_are_there(opened: Any) -> None:
    page = opened(sample_run(), java_script_enabled=False)
    assert page.texts(".tiers tbody th")[0] == "unit"
    assert page.locator("noscript li").count() == 6
    assert "Index tensor must have the same number" in page.locator("main").inner_text()


# --- failures ------------------------------------------------------------------------------------------------------


def test_failures_with_one_cause_are_one_entry(opened: Any) -> None:
    page = opened(sample_run())
    cards = page.locator("#failures .card")
    assert cards.count() == 3
    assert "4 tests with one cause" in cards.nth(0).inner_text()
    assert "python -m pytest 'tests/unit/test_losses.py::test_loss_matches_reference[0.0]'" in cards.nth(0).inner_text()
    assert "small_batch = {" not in cards.nth(0).inner_text()  # the head of a long traceback is folded
    page.get_by_role("button", name="Show all 19 lines").click()
    assert "small_batch = {" in cards.nth(0).inner_text()
    link = cards.nth(0).get_by_role("link", name="src/training/losses.py:58")
    assert link.get_attribute("href").endswith(f"/blob/{SHA}/src/training/losses.py#L58")


def test_a_flaky_test_shows_its_first_attempt(opened: Any) -> None:
    page = opened(sample_run())
    page.locator("#flaky summary").click()
    assert (
        "failed after 8.30 s: AssertionError: loss 0.412 > 0.400 after 50 steps" in page.locator("#flaky").inner_text()
    )


def test_hundreds_of_failures_are_folded(opened: Any) -> None:
    page = opened(big_run(2_000, failing=0.3))
    assert page.locator("#failures .card").count() == 37  # one for each line that failed
    assert page.locator("#failures pre").count() == 1
    page.locator("#failures .card > summary").nth(1).click()
    page.locator("#failures pre").nth(1).wait_for()


# --- attack --------------------------------------------------------------------------------------------------------


def test_hostile_names_are_only_text(opened: Any) -> None:
    page = opened(hostile_run())
    closed = page.locator("#failures .card:not([open]) > summary")
    while closed.count():
        closed.first.click()
    page.locator("#skips summary").first.click()
    page.locator("#tests .rows .row").first.click()
    page.locator("dialog[open]").wait_for()
    assert page.evaluate("document.body.dataset.pwned") is None
    assert page.locator("main img, main script, svg[onload]").count() == 0
    shown = page.locator("main").inner_text()
    for name in HOSTILE_NAMES:
        assert visible(name) in shown
    assert not {"\u202e", "\x1b", "\x00"} & set(shown)


def test_a_script_that_slips_in_is_refused(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    evil = "<script>document.body.dataset.pwned = 1</script><img src=x onerror='document.body.dataset.pwned = 2'>"
    path.write_text(render_html(sample_run()).replace("</main>", f"{evil}</main>"), encoding="utf-8")
    page = Opened(browser.new_page(), path)
    assert page.evaluate("document.body.dataset.pwned") is None
    assert sum("Content Security Policy" in complaint for complaint in page.complaints) >= 2
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.1:9/')")
    page.close()


@pytest.mark.parametrize("name", [*HOSTILE_NAMES[:6], HOSTILE_NAMES[8], "t.py::plain", "t.py::it's"])
def test_the_copied_command_names_exactly_this_test(opened: Any, name: str) -> None:
    page = opened(run_of(tier_of("unit", [a_test(name, TestOutcome.FAILED)])), permissions=CLIPBOARD)
    page.locator("#failures").get_by_role("button", name="Copy the command").click()
    expect(page.locator("#status")).to_have_text("Copied the command")
    command = page.evaluate("navigator.clipboard.readText()")
    prefix = "python -m pytest "
    assert command.startswith(prefix)
    echoed = subprocess.run(
        ["bash", "-c", f"printf %s {command.removeprefix(prefix)}"], capture_output=True, check=True
    )
    assert echoed.stdout == name.partition("\0")[0].encode()  # no argument of a process can hold a NUL


# --- the list of all tests -----------------------------------------------------------------------------------------


def counted(page: Any, said: str) -> None:
    """Wait until the list says so."""
    expect(page.locator("#tests-count")).to_have_text(said)


def test_search_and_filters(opened: Any) -> None:
    page = opened(sample_run())
    count = page.locator("#tests-count")
    assert count.inner_text() == "48 tests"
    page.get_by_label("Search names and messages").fill("losses gamma")
    counted(page, "1 of 48 tests")
    assert page.texts("#tests .rows .tail") == ["test_focal_equals_cross_entropy_at_gamma_zero"]
    page.get_by_label("Search names and messages").fill("index tensor")  # a message
    counted(page, "4 of 48 tests")
    page.get_by_label("Search names and messages").fill("no such test")
    counted(page, "0 of 48 tests")
    assert page.locator("#tests .rows .row").count() == 0
    page.get_by_label("Search names and messages").fill("")
    counted(page, "48 tests")
    page.get_by_role("button", name="failed 5").click()
    assert count.inner_text() == "5 of 48 tests"
    page.get_by_label("Worker", exact=True).select_option("gw3")
    assert count.inner_text() == f"{page.locator('#tests .rows .row').count()} of 48 tests"
    page.get_by_label("Worker", exact=True).select_option("")
    page.get_by_role("button", name="failed 5").click()
    page.get_by_label("Tier", exact=True).select_option("integration")
    assert count.inner_text() == "6 of 48 tests"
    page.get_by_label("Order", exact=True).select_option("Slowest first")
    assert page.texts("#tests .rows .tail")[0] == "test_overfits_one_batch"
    page.get_by_label("Order", exact=True).select_option("By name")
    assert page.texts("#tests .rows .tail")[0] == "test_end_to_end_prediction"


def test_a_number_of_the_table_leads_to_its_tests(opened: Any) -> None:
    page = opened(sample_run())
    page.get_by_role("link", name="5 failed").click()
    assert page.locator("#tests-count").inner_text() == "5 of 48 tests"
    assert page.get_by_role("button", name="failed 5").get_attribute("aria-pressed") == "true"


def test_the_list_by_keyboard(opened: Any) -> None:
    page = opened(sample_run(), permissions=CLIPBOARD)
    page.locator("#tests .rows .row").first.focus()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.querySelector('.tail')?.textContent"))

    names = [
        test.node_id.rpartition("::")[2] for tier in sample_run().tiers if tier.result for test in tier.result.tests
    ]
    assert focused() == names[0]
    page.keyboard.press("ArrowDown")
    assert focused() == names[1]
    page.keyboard.press("End")
    assert focused() == names[-1]
    page.keyboard.press("ArrowDown")
    assert focused() == names[-1]
    page.keyboard.press("Home")
    page.keyboard.press("PageDown")
    assert focused() in names[5:40]
    assert page.locator("#tests .rows [tabindex='0']").count() == 1
    page.keyboard.press("Control+c")
    expect(page.locator("#status")).to_have_text("Copied the node id")
    assert page.evaluate("navigator.clipboard.readText()").endswith(focused())
    here = focused()
    page.keyboard.press("Enter")
    assert here in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert focused() == here


def test_the_first_stop_of_the_keyboard_skips_to_the_report(opened: Any) -> None:
    page = opened(sample_run())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_fifty_thousand_tests_do_not_freeze_it(opened: Any) -> None:
    page = opened(big_run(50_000, tiers=3))
    assert page.locator("#tests-count").inner_text() == "50,000 tests"
    assert page.locator("#tests .rows .row").count() < 80
    assert page.locator("*").count() < 4_000
    page.locator("#tests").scroll_into_view_if_needed()
    page.evaluate("""() => {
      window.longest = 0;
      new PerformanceObserver(list => list.getEntries().forEach(e => longest = Math.max(longest, e.duration)))
        .observe({ entryTypes: ["longtask"] });
    }""")
    page.get_by_label("Search names and messages").press_sequentially("case[4999", delay=20)
    counted(page, "11 of 50,000 tests")
    page.get_by_label("Search names and messages").fill("")
    counted(page, "50,000 tests")
    page.get_by_label("Order", exact=True).select_option("Slowest first")
    page.get_by_label("Order", exact=True).select_option("By name")
    page.locator("#tests .rows .row").first.focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.querySelector('.tail').textContent") == "test_case[49999]"
    assert page.locator("#tests .rows .row").count() < 80
    page.wait_for_timeout(50)  # long tasks are reported after they end
    # A quarter of a second is a hiccup on the slowest machine we know; a frozen page takes seconds.
    assert page.evaluate("longest") < 1_000


def test_a_list_taller_than_a_browser_allows_reaches_its_end(opened: Any) -> None:
    tests = [a_test(f"t.py::test[{n}]", TestOutcome.PASSED) for n in range(400_000)]
    page = opened(run_of(tier_of("unit", tests)))
    page.locator("#tests .rows .row").first.focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.querySelector('.tail').textContent") == "test[399999]"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.querySelector('.tail').textContent") == "test[399998]"
    assert page.evaluate("""() => {
      const row = document.activeElement.getBoundingClientRect();
      const view = document.querySelector('.viewport').getBoundingClientRect();
      return row.top >= view.top - 1 && row.bottom <= view.bottom + 1;
    }""")


# --- the timeline --------------------------------------------------------------------------------------------------


def test_the_timeline_is_drawn_when_it_comes_into_view(opened: Any) -> None:
    page = opened(sample_run(), viewport={"width": 1200, "height": 500})
    assert page.evaluate("typeof uPlot") == "undefined"
    page.locator("#timeline").scroll_into_view_if_needed()
    page.locator("#timeline canvas").first.wait_for()
    assert page.texts("#timeline figcaption")[2] == (
        "regression 1 worker, busy 96.0% of 1m 00s; longest idle: main, 2.00 s before its first test"
    )
    colours = page.evaluate("""() => {
      const canvas = document.querySelector('#timeline canvas');
      const row = canvas.getContext('2d').getImageData(0, 16, canvas.width, 1).data;
      const seen = {};
      for (let x = 0; x < row.length; x += 4) {
        const key = [row[x], row[x + 1], row[x + 2]].join();
        seen[key] = (seen[key] ?? 0) + 1;
      }
      return seen;
    }""")
    wide = {key for key, pixels in colours.items() if pixels > 20}
    assert {"143,176,232", "111,151,221", "191,36,48", "238,240,243"} <= wide  # two tests, a failure, idle


def test_trends_are_drawn_and_have_a_table(opened: Any) -> None:
    points = tuple(
        Point(time=1.7e9 + 86_400 * n, sha=f"{n:040x}", seconds=30.0 + n, low=29.0 + n, high=33.0 + n)
        for n in range(12)
    )
    run = sample_run()
    trend = Series(tier="unit", benchmark=None, points=points, limit=60.0)
    page = opened(replace(run, insight=replace(insight(run), trends=(trend,))), viewport={"width": 1200, "height": 500})
    assert page.texts("#trends figcaption") == ["unit 41.0 s of 1m 00s, 35.0 s in the 11 runs before"]
    page.locator("#trends").scroll_into_view_if_needed()
    page.locator("#trends canvas").first.wait_for()
    box = page.locator("#trends .u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 20)
    assert "41.0 s" in page.locator("#trends .tip:not([hidden])").inner_text()
    page.locator("#trends summary").click()
    assert "2023-11-25" in page.texts("#trends tbody tr")[0]  # the newest first
    assert "40.0 s – 44.0 s" in page.texts("#trends tbody tr")[0].replace("\xa0", " ")


def test_a_test_of_the_timeline_opens(opened: Any) -> None:
    page = opened(sample_run())
    page.locator("#timeline .chart").nth(2).scroll_into_view_if_needed()
    chart = page.locator("#timeline .chart").nth(2).locator(".u-over")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2)
    assert "test_metrics_match_golden[small]" in page.locator(".tip:not([hidden])").inner_text()
    page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2)
    assert "unfinished" in page.get_by_role("dialog").inner_text()


def test_dragging_over_the_timeline_zooms_and_opens_nothing(opened: Any) -> None:
    page = opened(sample_run())
    chart = page.locator("#timeline .chart").nth(2)
    chart.scroll_into_view_if_needed()
    over = chart.locator(".u-over")
    over.scroll_into_view_if_needed()
    before = chart.locator("canvas").screenshot()
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 5, steps=4)
    page.mouse.up()
    page.mouse.move(5, 5)
    assert page.get_by_role("dialog").count() == 0
    assert chart.locator("canvas").screenshot() != before


# --- every reader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [sample_run(), hostile_run(), big_run(200)], ids=["sample", "hostile", "big"])
def test_a_phone_needs_no_sideways_scrolling(opened: Any, run: RunVerdict) -> None:
    page = opened(run, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    row = page.locator("#tests .rows .row").first
    assert row.bounding_box()["height"] >= 44  # a thumb's
    row.tap()
    assert page.get_by_role("dialog").bounding_box()["width"] <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_background(opened: Any, scheme: str) -> None:
    page = opened(sample_run(), color_scheme=scheme)
    lowest = page.evaluate("""() => {
      const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(c => {
          const s = c / 255;
          return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = node => {
        for (; node; node = node.parentElement) {
          const colour = getComputedStyle(node).backgroundColor;
          if (colour !== 'rgba(0, 0, 0, 0)') return colour;
        }
        return 'rgb(255, 255, 255)';
      };
      let worst = [99, ''];
      for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        if (!own || !node.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 200)];
      }
      return worst;
    }""")
    assert lowest[0] >= 4.5, lowest  # WCAG AA
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark is (scheme == "dark")


def test_what_a_screen_reader_needs(opened: Any) -> None:
    page = opened(sample_run())
    wrong = page.evaluate("""() => {
      const all = selector => [...document.querySelectorAll(selector)];
      const found = [];
      const ids = all('[id]').map(node => node.id);
      found.push(...ids.filter((id, at) => ids.indexOf(id) !== at).map(id => `id twice: ${id}`));
      for (const name of ['aria-labelledby', 'aria-describedby'])
        found.push(...all(`[${name}]`).filter(n => !ids.includes(n.getAttribute(name))).map(n => n.outerHTML));
      found.push(...all('table').filter(n => !n.caption?.textContent).map(() => 'table without caption'));
      found.push(...all('th').filter(n => !n.scope).map(n => n.outerHTML));
      const named = n => n.textContent.trim() || n.getAttribute('aria-label');
      found.push(...all('button, a[href]').filter(n => !named(n)).map(n => n.outerHTML));
      found.push(...all('svg:not([aria-hidden]):not(.uplot svg)').map(n => n.outerHTML));
      found.push(...all('ul > :not(li), ol > :not(li), dl > :not(div)').map(n => n.outerHTML));
      return found;
    }""")
    assert wrong == []
    for role in ("banner", "navigation", "main", "contentinfo", "search", "grid"):
        assert page.get_by_role(role).count() == 1, role
    assert page.locator("#tests-count[aria-live=polite]").count() == 1


def test_on_paper_failures_are_unfolded_and_controls_gone(opened: Any) -> None:
    page = opened(sample_run())
    page.evaluate("for (const card of document.querySelectorAll('#failures details')) card.open = false")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#failures details:not([open])").count() == 0
    assert not page.locator("#tests .controls").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("#failures pre").first.is_visible()
    assert len(page.pdf()) > 10_000


def test_an_empty_run_opens(opened: Any) -> None:
    page = opened(run_of())
    assert page.texts("nav a") == ["Tiers"]


# --- the same words in Python and in the script --------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.evaluate(
        (ASSETS / "js/dom.js").read_text() + "; Object.assign(window, { visible, duration, percent, shellWord })"
    )
    yield page
    page.close()


def test_durations_are_written_as_python_writes_them(words: Any) -> None:
    values = [
        0,
        0.0004,
        0.00994,
        0.00996,
        0.12,
        0.9994,
        0.9996,
        3.42,
        9.996,
        42.14,
        59.94,
        59.96,
        134,
        3599.6,
        3900,
        -1,
    ]
    assert words.evaluate("values => values.map(duration)", values) == [duration(value) for value in values]


def test_percentages_are_written_as_python_writes_them(words: Any) -> None:
    values = [[7999, 10000], [7996, 10000], [1, 3], [2, 3], [29, 100], [57, 100], [1, 1]]
    said = [percent(100.0 * part / whole) for part, whole in values]
    assert words.evaluate("values => values.map(([part, whole]) => percent(part, whole))", values) == said


def test_hidden_characters_are_spelt_as_python_spells_them(words: Any) -> None:
    names = [*HOSTILE_NAMES[:7], *HOSTILE_NAMES[8:], "a\r\nb\tc", "\u200d\u2060\ue000\U000e0001", "\xa0\u3000", "\x85"]
    shown = words.evaluate("names => names.map(visible)", names)
    assert shown == [visible(name, newlines=True) for name in names]
