"""The HTML report: one file that opens offline, from the artifact, on any machine. Pure.

The header and the table of tiers are plain escaped HTML and need no script. Everything longer (failures, timeline,
coverage, the list of all tests) is data in one JSON block, which ``assets/js`` shows through text nodes only. A content
security policy lets nothing else run and nothing be fetched: a test's name is never markup, whatever it contains.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from html import escape
from string import Template

from orchestrator.mind.render.links import is_sha, repository_url, source_url
from orchestrator.mind.render.report_data import TestColumns, data_chunks, has_charts
from orchestrator.mind.render.words import budget, duration, expected, one_line, percent, plural, tally, visible
from orchestrator.words.event import Event
from orchestrator.words.plan import Plan, PythonFacts, TierPlan
from orchestrator.words.results import Counts, TestOutcome, TierResult
from orchestrator.words.verdict import RunVerdict, TierVerdict, Verdict

VERDICT_WORDS = {verdict: verdict.value.capitalize().replace("-", " ") for verdict in Verdict}
SCRIPTS = (
    "dom",
    "data",
    "details",
    "failures",
    "coverage",
    "skips",
    "charts",
    "timeline",
    "trends",
    "tables",
    "tests",
    "main",
)
NOSCRIPT_FAILURES = 50
OUTPUT_LIMIT = 8_000
FAVICON_COLOURS = {Verdict.PASSED: "#1b7a3d", Verdict.FAILED: "#c4262e", Verdict.OVER_BUDGET: "#b5490b"}


def render_html(run: RunVerdict, *, prefix: str = "") -> str:
    """The whole report. ``prefix``: the configuration's folder from the repository's top ("a/b/"), for source links."""
    return "".join(html_chunks(run, prefix=prefix))


def html_chunks(run: RunVerdict, *, prefix: str = "") -> Iterator[str]:
    """The report piece by piece, for a file: no piece is larger than one column of the tests."""
    columns = TestColumns(run)
    charted = has_charts(run)
    style = _asset("report.css") + (_asset("uplot/uPlot.min.css") if charted else "")
    charts = f"/*\n{_asset('uplot/LICENSE')}\n*/\n{_asset('uplot/uPlot.iife.min.js')}" if charted else ""
    script = _script()
    before, _, after = _asset("report.html").partition("<!-- data -->")
    yield Template(before).substitute(
        csp=_policy(style=style, scripts=(script, charts)),
        title=_e(f"{VERDICT_WORDS[run.verdict]} \u00b7 {run.plan.config_path} \u00b7 {_commit_words(run.plan.event)}"),
        verdict=run.verdict.value,
        colour=FAVICON_COLOURS.get(run.verdict, "#68727d").replace("#", "%23"),
        style=style,
        header=_header(run, columns),
        tiers=_tiers(run, columns),
        notes=_plan_notes(run.plan),
        noscript=_noscript(columns),
    )
    yield from data_chunks(run, columns, source_url=source_url(run.plan.event, prefix))
    yield Template(after).substitute(charts=charts, script=script)


# --- assets and policy ---------------------------------------------------------------------------------------------


def _asset(name: str) -> str:
    """The text of a file of ``assets/``; through the loader, so that it is also found in a zipped wheel."""
    folder = __file__.rpartition("html.py")[0]
    loader = __spec__.loader if __spec__ is not None else None
    data: bytes = loader.get_data(f"{folder}assets/{name}")  # type: ignore[union-attr]
    return data.decode()


def _script() -> str:
    parts = "\n".join(_asset(f"js/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _policy(*, style: str, scripts: tuple[str, ...]) -> str:
    """Only these very texts may run or style; nothing is fetched; no string becomes markup (Trusted Types)."""
    hashes = " ".join(_hash(text) for text in scripts if text)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types mltiers-charts"
    )


def _hash(text: str) -> str:
    digest = binascii.b2a_base64(hashlib.sha256(text.encode()).digest(), newline=False)
    return f"'sha256-{digest.decode()}'"


# --- header --------------------------------------------------------------------------------------------------------


def _header(run: RunVerdict, columns: TestColumns) -> str:
    reasons = "".join(f"<li>{_e(reason)}</li>" for reason in run.reasons)
    facts = "".join(f"<div><dt>{_e(name)}</dt><dd>{value}</dd></div>" for name, value in _facts(run))
    figures = "".join(
        f'<div class="{tone}"><dt>{name}</dt><dd>{value}<small>{_e(beside)}</small></dd></div>'
        for name, value, beside, tone in _figures(run, columns.counts())
    )
    return (
        f'<h1 class="v-{run.verdict.value}">{_icon(run.verdict.value)}{VERDICT_WORDS[run.verdict]}</h1>'
        f'<p class="headline">{_e(headline(run))}</p>'
        + (f'<ul class="reasons">{reasons}</ul>' if reasons else "")
        + f'<dl class="facts">{facts}</dl><dl class="figures">{figures}</dl>'
    )


def _facts(run: RunVerdict) -> Iterator[tuple[str, str]]:
    """Names and values (HTML) of where this run belongs."""
    event = run.plan.event
    repository = repository_url(event)
    if event.repository:
        yield "Repository", _link(repository, event.repository)
    commit = f"{repository}/commit/{event.sha}" if repository and is_sha(event.sha) else None
    yield "Commit", _link(commit, _commit_words(event), code=True)
    pull = event.pull_request
    if pull is not None:
        url = f"{repository}/pull/{pull.number}" if repository else None
        yield "Event", _link(url, f"pull request #{pull.number}") + f" into {_e(pull.base_ref)}"
    else:
        ref = f" on {event.ref.removeprefix('refs/heads/')}" if event.ref else ""
        yield "Event", _e(("local run" if event.name == "local" else event.name.replace("_", " ")) + ref)
    yield "Configuration", f"<code>{_e(run.plan.config_path)}</code>"
    if run.plan.partial:
        yield "Scope", "the tiers asked for by name"
    starts = [tier.result.started for tier in run.tiers if tier.result and tier.result.started is not None]
    if starts and (when := _utc(min(starts))):
        yield "Started", f'<time datetime="{when.replace(" ", "T")}Z">{when} UTC</time>'
    if event.run is not None:
        yield "Run", _link(event.run.url, f"{event.run.run_id}, attempt {event.run.attempt}")


def _figures(run: RunVerdict, counts: Counts) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, what stands beside it, and its tone ("bad" or "")."""
    yield "Tests", f"{counts.total:,}", f"{counts.passed:,} passed", ""
    yield "Failing", f"{counts.bad:,}", "", "bad" if counts.bad else ""
    yield "Skipped", f"{counts.skipped:,}", "", ""
    if run.coverage is not None:
        # Thresholds are for all tiers of the event: see judge.
        minimum = None if run.plan.partial else run.plan.coverage_minimum
        got = run.coverage.percent
        beside = f"minimum {minimum:g}%" if minimum is not None else f"{run.coverage.statements:,} lines"
        yield "Coverage", percent(got), beside, "bad" if minimum is not None and (got or 0) < minimum else ""
    elif run.coverage_note:
        yield "Coverage", "unknown", one_line(run.coverage_note), ""
    if run.patch is not None:
        wanted = None if run.plan.partial else run.plan.coverage_patch
        got = run.patch.percent
        beside = f"{run.patch.covered:,} of {run.patch.measured:,}"
        beside += f", minimum {wanted:g}%" if wanted is not None else ""
        short = wanted is not None and got is not None and got < wanted
        yield (
            "Changed lines",
            "none measured" if got is None else percent(got),
            beside if got is not None else "",
            ("bad" if short else ""),
        )
    spans = [(r.started, r.seconds) for tier in run.tiers if (r := tier.result) and r.started is not None]
    if spans:
        yield "Took", duration(max(s + took for s, took in spans) - min(s for s, _ in spans)), "", ""


# --- tiers ---------------------------------------------------------------------------------------------------------


def _tiers(run: RunVerdict, columns: TestColumns) -> str:
    return "".join(_tier(tier, index, columns.counts(index)) for index, tier in enumerate(run.tiers))


def _tier(tier: TierVerdict, index: int, counts: Counts) -> str:
    plan, result = tier.plan, tier.result
    ran = result is not None and tier.verdict not in (Verdict.NOT_RUN, Verdict.NEVER_STARTED)
    place = "" if plan.where == "here" else f"on {', '.join(plan.runner)}"
    beside = " \u00b7 ".join(word for word in ("" if plan.required else "optional", place) if word)
    cells = (
        (
            "verdict",
            "Verdict",
            f'<span class="v v-{tier.verdict.value}">{_icon(tier.verdict.value)}{tier.verdict.value}</span>',
        ),
        ("tests", "Tests", _count_cell(counts, index) if ran else _DASH),
        ("time", "Time / budget", _time_cell(plan, result if ran else None)),
        ("num", "Coverage", _coverage_cell(tier) if ran else _DASH),
        ("num", "Workers", str(result.workers) if ran and result is not None else _DASH),
    )
    return (
        f'<tbody role="rowgroup" class="tier v-{tier.verdict.value}{"" if ran else " idle"}"><tr role="row">'
        f'<th scope="row" role="rowheader">{_e(tier.name)}<small>{_e(beside)}</small></th>'
        + "".join(
            f'<td role="cell" class="{kind}" data-label="{label}"><span>{value}</span></td>'
            for kind, label, value in cells
        )
        + f'</tr><tr role="row" class="why"><td role="cell" colspan="6"><div>{_why(tier)}</div></td></tr></tbody>'
    )


_DASH = '<span class="none" role="img" aria-label="none">\u2013</span>'


def _count_cell(counts: Counts, index: int) -> str:
    words = [
        f'<a href="#tests" data-tier="{index}" data-outcome="{outcome}"'
        f"{' class=bad' if TestOutcome(outcome).bad else ''}>{number:,} {word}</a>"
        for outcome, word, number in tally(counts)
    ]
    return ", ".join(words) or "no tests"


def _time_cell(plan: TierPlan, result: TierResult | None) -> str:
    if result is None:
        return f'<span class="none">budget {budget(plan.budget)}</span>' if plan.budget else _DASH
    if not plan.budget:
        return duration(result.seconds)
    share = min(1.0, max(0.0, result.seconds / plan.budget))
    tone = "over" if result.seconds > plan.budget else "near" if share > 0.8 else ""
    return (
        f"{duration(result.seconds)} <small>of {budget(plan.budget)}</small>"
        f'<svg class="bar {tone}" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="100" height="4"/><rect class="fill" width="{100 * share:.1f}" height="4"/></svg>'
    )


def _coverage_cell(tier: TierVerdict) -> str:
    if not tier.plan.coverage:
        return '<span class="none">not measured</span>'
    if tier.result is None or tier.result.coverage is None:
        return '<span class="none">unknown</span>'
    return percent(tier.result.coverage.percent)


def _why(tier: TierVerdict) -> str:
    """The sentences under a tier's row, and how it ran, folded."""
    reasons = tier.reasons or ((tier.plan.reason,) if tier.verdict is Verdict.NOT_RUN else ())
    lines = "".join(f"<li>{_e(reason)}</li>" for reason in reasons)
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _how(tier))
    done = "ran" if tier.result is not None else "is planned"
    named = f'<span class="sr">{_e(tier.name)}</span><span aria-hidden="true">it</span>'
    return (
        (f'<ul class="reasons">{lines}</ul>' if lines else "")
        + f"<details><summary>How {named} {done}</summary>"
        + f'<dl class="facts">{rows}</dl></details>'
    )


def _how(tier: TierVerdict) -> Iterator[tuple[str, str]]:
    """Names and values (HTML) of how a tier was run."""
    plan, result = tier.plan, tier.result
    yield "Because", _e(plan.reason)
    if command := (result.command if result is not None and result.command else plan.command):
        yield "Command", f"<code>{_e(shlex.join(command))}</code>"
    if plan.python is not None:
        yield "Python", _e(_python_words(plan.python))
    if plan.needs:
        yield "Needs", _e(", ".join(plan.needs))
    if told := expected(plan):
        yield "Expected to take", _e(told + (f", {plan.predicted_note}" if plan.predicted_note else ""))
    if plan.per_test:
        yield "Limit per test", budget(plan.per_test)
    if plan.retries:
        yield "Retries", f"{plan.retries}, and a flaky test {'fails' if plan.flaky_fails else 'passes'}"
    if plan.coverage_minimum is not None:
        yield "Coverage minimum", f"{plan.coverage_minimum:g}%"
    if plan.coverage_patch is not None:
        got = tier.patch.percent if tier.patch is not None else None
        yield "Changed lines", f"{'none measured' if got is None else percent(got)}, minimum {plan.coverage_patch:g}%"
    for note in (*plan.notes, *plan.details):
        yield "Plan", _e(note)
    if result is not None:
        yield from _evidence(result)


def _evidence(result: TierResult) -> Iterator[tuple[str, str]]:
    code = "" if result.exit_code is None else f", exit code {result.exit_code}"
    yield "Ended", _e(f"{result.ending}{code}" + (f": {result.reason}" if result.reason else ""))
    if result.deselected:
        yield "Deselected", plural(result.deselected, "test")
    if result.deferred:
        names = "\n".join(result.deferred)
        yield "Deferred to the next nightly", f'<pre tabindex="0">{_e(names)}</pre>'
    if result.coverage is None and result.coverage_note:
        yield "Coverage", _e(f"unknown: {result.coverage_note}")
    if result.gpu is not None:
        used = f"{result.gpu.peak_bytes / 2**20:,.0f} MiB at most" if result.gpu.peak_bytes else "never used"
        yield "GPU", _e(f"{', '.join(result.gpu.devices) or 'none'}: {used}")
    for problem in result.problems:
        yield "Problem", _e(problem)
    for note in (*result.notes, *result.details):
        yield "Note", _e(note)
    for name, text in (("Last output", result.output_tail), ("Stacks when stopped", result.stacks)):
        if text.strip():
            yield name, f'<pre tabindex="0">{_e(text[-OUTPUT_LIMIT:].strip(chr(10)))}</pre>'


def _python_words(python: PythonFacts) -> str:
    parts = (("pytest", python.pytest), ("xdist", python.xdist), ("pytest-cov", python.cov), ("torch", python.torch))
    return " \u00b7 ".join([f"{python.executable} {python.version}", *(f"{name} {v}" for name, v in parts if v)])


def _plan_notes(plan: Plan) -> str:
    return f'<ul class="reasons">{"".join(f"<li>{_e(note)}</li>" for note in plan.notes)}</ul>' if plan.notes else ""


def _noscript(columns: TestColumns) -> str:
    bad = columns.counts().bad
    if not bad:
        return ""
    rows = "".join(
        f"<li><code>{_e(test.node_id[:500])}</code> {_e(one_line(test.message or test.outcome.value))}</li>"
        for test in columns.failing(NOSCRIPT_FAILURES)
    )
    rest = f"<p>and {bad - NOSCRIPT_FAILURES:,} more</p>" if bad > NOSCRIPT_FAILURES else ""
    return f"<h2>{plural(bad, 'failing test')}</h2><ul>{rows}</ul>{rest}"


# --- words and links -----------------------------------------------------------------------------------------------


def _e(text: str) -> str:
    return escape(visible(text, newlines=True))


def _icon(name: str) -> str:
    return f'<svg class="icon" aria-hidden="true"><use href="#i-{name}"/></svg>'


def _link(url: str | None, text: str, *, code: bool = False) -> str:
    shown = f"<code>{_e(text)}</code>" if code else _e(text)
    if url is None or not re.match(r"https?://", url):
        return shown
    return f'<a href="{escape(url)}" rel="noopener noreferrer">{shown}</a>'


def _commit_words(event: Event) -> str:
    return event.sha[:10] if event.sha else "no commit"


def _utc(seconds: float) -> str | None:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return None


def headline(run: RunVerdict) -> str:
    """How the tiers ended, the worst first: "1 tier failed, 3 passed, 2 not run"."""
    numbers = Counter(tier.verdict for tier in run.tiers)
    parts = [(VERDICT_WORDS[verdict].lower(), numbers[verdict]) for verdict in Verdict if numbers[verdict]]
    if not parts:
        return "The plan has no tier."
    (word, number), *rest = parts
    first = "stopped by infrastructure" if word == "infrastructure" else word
    return ", ".join([f"{plural(number, 'tier')} {first}", *(f"{n} {w}" for w, n in rest)])
