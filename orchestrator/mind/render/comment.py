"""The pull-request comment and the job summary: one table of tiers first, then only what needs action. Pure.

Both are the same document under different limits. Where it does not fit it is rendered again with less: tracebacks
go first, then the list of failures shortens, then details; rows and blocks are left out whole and said to be, never
cut. The report in the artifact has everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.mind.judge import floor_percent
from orchestrator.mind.render.benchmarks import headline, interval, moved, remarks, short_time, telling
from orchestrator.mind.render.causes import failures, flakes, insight_of, slow
from orchestrator.mind.render.charts import charts
from orchestrator.mind.render.links import Links
from orchestrator.mind.render.words import (
    SYMBOLS,
    budget,
    carried_words,
    code,
    code_block,
    cost,
    counts,
    details,
    duration,
    gap_words,
    gpu_minutes,
    html_code,
    linked_ranges,
    memory,
    per_second,
    plural,
    sentence,
    skipped_words,
    surprise,
)
from orchestrator.words.results import Benchmark, Change, Comparison, Ending, TestOutcome
from orchestrator.words.verdict import RunVerdict, TierVerdict, Verdict

# GitHub refuses a comment over 65,536 characters and a step summary over 1 MiB. We count UTF-8 bytes, the stricter.
COMMENT_LIMIT = 65_000
SUMMARY_LIMIT = 1_000_000
_RANGES = 50  # of uncovered lines, per file


class _Detail(Struct, frozen=True, kw_only=True):
    """How much a rendering shows; each step of the ladder shows less."""

    failures: int
    excerpt_lines: int
    skips: int
    tiers: int = 1000
    uncovered: int = 20
    charts: int = 0


_LADDER = (
    _Detail(failures=1000, excerpt_lines=40, skips=50, charts=10),
    _Detail(failures=200, excerpt_lines=25, skips=20, charts=5),
    _Detail(failures=50, excerpt_lines=15, skips=10),
    _Detail(failures=25, excerpt_lines=8, skips=5),
    _Detail(failures=50, excerpt_lines=0, skips=5),
    _Detail(failures=10, excerpt_lines=0, skips=0, uncovered=5),
    _Detail(failures=3, excerpt_lines=0, skips=0, tiers=100, uncovered=0),
    _Detail(failures=0, excerpt_lines=0, skips=0, tiers=50, uncovered=0),
    _Detail(failures=0, excerpt_lines=0, skips=0, tiers=20, uncovered=0),
)


_CHANGED = {Change.SLOWER: "❌", Change.FASTER: "✅", Change.UNDECIDED: "❔"}


def marker(config_id: str) -> str:
    """The hidden line by which we find our comment again: one per configuration."""
    return f"<!-- mltiers:comment config={config_id} -->"


def render_comment(run: RunVerdict, *, links: Links, limit: int = COMMENT_LIMIT) -> str:
    """The document as Markdown, at most ``limit`` bytes of UTF-8, ending in a line feed."""
    run = replace(run, insight=insight_of(run))
    text = ""
    for step, detail in enumerate(_LADDER):
        shortened = "" if step == 0 else "\n\nShortened to fit. " + _more(links)
        last = step == len(_LADDER) - 1
        body = _body(run, links, detail, most=None if last else limit)
        if body is None:
            continue
        text = f"{marker(run.plan.config_id)}\n{body}{shortened}\n"
        if len(text.encode(errors="surrogatepass")) <= limit:
            return text
    return text


def render_summary(run: RunVerdict, *, links: Links) -> str:
    """The job summary: the same, with the room a summary has."""
    return render_comment(run, links=links, limit=SUMMARY_LIMIT)


def _more(links: Links) -> str:
    where = [f"[{name}]({url})" for name, url in (("job summary", links.run), ("report", links.report)) if url]
    return f"Everything is in the {' and the '.join(where) or 'report.html of the run'}."


def _body(run: RunVerdict, links: Links, detail: _Detail, *, most: int | None) -> str | None:
    """The document below its marker; None: it would have more than ``most`` characters, and is not rendered further."""
    parts, length = [], 0
    for part in _parts(run, links, detail):
        if part:
            parts.append(part)
            length += len(part) + 2
        if most is not None and length - 2 > most:
            return None
    return "\n\n".join(parts)


def _parts(run: RunVerdict, links: Links, detail: _Detail) -> Iterator[str]:
    found = insight_of(run)
    yield _headline(run)
    yield _table(run, detail)
    yield from _notes(run)
    yield from _coverage(run, links, detail)
    yield from failures(found, most=detail.failures, lines=detail.excerpt_lines)
    yield from flakes(found, most=detail.failures, lines=detail.excerpt_lines)
    yield from _benchmarks(run, detail)
    yield from slow(found, most=detail.failures)
    yield from charts(found, most=detail.charts)
    yield from _skips(run, detail)
    yield from _deferred(run, detail)
    yield _footer(run, links)


def _headline(run: RunVerdict) -> str:
    ran = [tier for tier in run.tiers if tier.result is not None and tier.verdict is not Verdict.NOT_RUN]
    tests = sum(tier.result.counts.total for tier in ran if tier.result is not None)
    scope = f"{plural(tests, 'test')} in {plural(len(ran), 'tier')}" if ran else "no tier ran"
    return f"### {SYMBOLS[run.verdict]} Tests: {run.verdict} · {scope}"


def _table(run: RunVerdict, detail: _Detail) -> str:
    shown = run.tiers[: detail.tiers]
    rows = ["| tier | verdict | tests | time / budget | coverage | cost |", "|---|---|---|---|---|---|"]
    rows += [_row(tier) for tier in shown]
    if hidden := len(run.tiers) - len(shown):
        rows.append(f"| and {plural(hidden, 'more tier')} | | | | | |")
    return "\n".join(rows)


def _row(tier: TierVerdict) -> str:
    result = tier.result
    name = code(tier.name) + ("" if tier.plan.required else " (optional)")
    said = f"{SYMBOLS[tier.verdict]} {tier.verdict}"
    if result is None or result.ending is Ending.NOT_STARTED:
        return f"| {name} | {said} | | – / {budget(tier.plan.budget)} | | |"
    percent = result.coverage.percent if result.coverage is not None else None
    covered = f"{floor_percent(percent)}%" if percent is not None else ("unknown" if tier.plan.coverage else "–")
    spent = f"{duration(result.seconds)} / {budget(tier.plan.budget)}"
    tests = counts(result.counts, flaky=result.flaky)
    return f"| {name} | {said} | {tests} | {spent} | {covered} | {cost(tier.plan, result.seconds)} |"


def _notes(run: RunVerdict) -> Iterator[str]:
    """Why anything is not simply passed, as one list; then what the plan has to say."""
    lines = [f"- {sentence(reason)}" for reason in run.reasons]
    for tier in run.tiers:
        lines += [f"- {code(tier.name)}: {sentence(reason)}" for reason in tier.reasons]
        lines += [f"- {code(tier.name)}: {sentence(note)}" for note in tier.plan.notes]
        if told := surprise(tier.plan, tier.result):
            lines.append(f"- {code(tier.name)}: {sentence(told)}")
        if tier.result is not None and (used := gpu_minutes(tier.plan, tier.result.seconds)):
            before = tier.plan.predicted_seconds
            lines.append(f"- {code(tier.name)}: {used} used" + (
                f", {gpu_minutes(tier.plan, before)} expected" if before is not None else ""
            ))  # fmt: skip
    lines += [f"- {sentence(note)}" for note in run.plan.notes]
    if lines:
        yield "\n".join(lines)


def _coverage(run: RunVerdict, links: Links, detail: _Detail) -> Iterator[str]:
    if run.coverage is None or (percent := run.coverage.percent) is None:
        return
    said = f"**Coverage** {floor_percent(percent)}% of {run.coverage.statements} lines"
    if run.coverage_note:
        said += f" (unknown for {sentence(run.coverage_note)})"
    if run.coverage_change is not None:
        said += f" ({run.coverage_change.points:+.1f} points against {run.coverage_change.sha[:10]})"
    patch = run.patch
    if patch is not None and patch.percent is not None:
        said += f" · of the change: **{floor_percent(patch.percent)}%** ({patch.covered} of {patch.measured} lines)"
    elif patch is not None:
        said += " · the change touches no measured line"
    yield said
    if run.carried:
        yield "\n".join(f"- {sentence(carried_words(carried))}" for carried in run.carried[: detail.tiers])
    if run.untested and detail.uncovered:
        named = [f"{path}::{name}" for path, names in sorted(run.untested.items()) for name in names]
        more = f" and {len(named) - detail.uncovered} more" if len(named) > detail.uncovered else ""
        yield f"**Changed, and entered by no test:** {', '.join(map(code, named[: detail.uncovered]))}{more}"
    gaps = [f"- known gap {code(gap.name)}: {gap_words(gap)}" for gap in run.known_gaps]
    for tier in run.tiers:
        gaps += [f"- known gap {code(gap.name)} of {code(tier.name)}: {gap_words(gap)}" for gap in tier.known_gaps]
    if gaps:
        yield "\n".join(gaps[: detail.tiers])
    if patch is not None and patch.uncovered and detail.uncovered:
        listed = sorted(patch.uncovered.items())[: detail.uncovered]
        rows = [f"- {code(path)}: {linked_ranges(lines, _RANGES, links.page(path))}" for path, lines in listed]
        if hidden := len(patch.uncovered) - len(listed):
            rows.append(f"- and {plural(hidden, 'more file')}")
        lines = sum(len(numbers) for numbers in patch.uncovered.values())
        yield details(f"{plural(lines, 'changed line')} not covered", "\n".join(rows))


def _benchmarks(run: RunVerdict, detail: _Detail) -> Iterator[str]:
    for tier in run.tiers:
        if tier.result is None:
            continue
        if tier.result.comparison is not None:
            yield from _comparison(tier.name, tier.result.comparison, detail)
        elif tier.result.benchmarks and detail.failures:
            yield _measured(tier.name, tier.result.benchmarks)


def _measured(name: str, benchmarks: Sequence[Benchmark]) -> str:
    listed = benchmarks[:100]
    columns: list[tuple[str, Callable[[Benchmark], str]]] = [
        ("minimum", lambda b: short_time(b.minimum)),
        ("median", lambda b: short_time(b.median)),
        ("rounds", lambda b: str(b.rounds)),
    ]
    if any(b.peak_memory is not None for b in listed):
        columns.append(("GPU memory", lambda b: memory(b.peak_memory)))
    if any(b.throughput is not None for b in listed):
        columns.append(("throughput", lambda b: per_second(b.throughput)))
    rows = [f"| benchmark | {' | '.join(heading for heading, _ in columns)} |", "|---|" + "--:|" * len(columns)]
    rows += [f"| {code(b.name)} | {' | '.join(cell(b) for _, cell in columns)} |" for b in listed]
    if hidden := len(benchmarks) - len(listed):
        rows.append(f"| and {plural(hidden, 'more benchmark')} |{' |' * len(columns)}")
    return details(f"{plural(len(benchmarks), 'benchmark')} in {name}", "\n".join(rows))


def _comparison(name: str, comparison: Comparison, detail: _Detail) -> Iterator[str]:
    """Only what is not the same gets a row; the sentence above counts them all."""
    yield f"**Benchmarks** in {code(name)}: {sentence(headline(comparison))}"
    most = min(100, 2 * detail.failures)
    if found := telling(comparison):
        rows = ["| benchmark | change | time | 99% interval | now |", "|---|---|--:|---|--:|"]
        rows += [
            f"| {code(one.name)} | {_CHANGED[one.change]} {one.change} | {moved(one)} "
            f"| {interval(one)} | {short_time(one.seconds)} |"
            for one in found[:most]
        ]
        if hidden := len(found) - most:
            rows += [f"| and {plural(hidden, 'more benchmark')} | | | | |"] if hidden > 0 else []
        if most:
            yield "\n".join(rows)
    if said := remarks(comparison, most=most):
        yield "\n".join(f"- {sentence(remark)}" for remark in said)
    if comparison.detail and detail.excerpt_lines:
        yield details("What it printed last", code_block(comparison.detail, lines=detail.excerpt_lines))


def _skips(run: RunVerdict, detail: _Detail) -> Iterator[str]:
    reasons: dict[str, int] = {}
    for tier in run.tiers:
        for test in tier.result.tests if tier.result and tier.result.counts.skipped else ():
            if test.outcome is TestOutcome.SKIPPED:
                reasons[test.message or "no reason given"] = reasons.get(test.message or "no reason given", 0) + 1
    if not reasons or not detail.skips:
        return
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = [f"- {number} × {sentence(reason, limit=200)}" for reason, number in ranked[: detail.skips]]
    if (hidden := len(ranked) - detail.skips) > 0:
        rows.append(f"- and {plural(hidden, 'more reason')}")
    rows += [f"- {sentence(skipped_words(one))}" for one in (run.insight.skipped if run.insight is not None else ())]
    yield details(f"{plural(sum(reasons.values()), 'test')} skipped", "\n".join(rows))


def _deferred(run: RunVerdict, detail: _Detail) -> Iterator[str]:
    """The tests that a tier left out for want of budget, by name."""
    for tier in run.tiers:
        waiting = tier.result.deferred if tier.result is not None else ()
        if not waiting or not detail.skips:
            continue
        rows = [f"- {code(node)}" for node in waiting[: 4 * detail.skips]]
        if (hidden := len(waiting) - len(rows)) > 0:
            rows.append(f"- and {hidden} more, named in the report")
        title = f"{plural(len(waiting), 'test')} of {html_code(tier.name)} deferred to the next nightly"
        yield details(title, "\n".join(rows), title_is_html=True)


def _footer(run: RunVerdict, links: Links) -> str:
    event = run.plan.event
    parts = [f"commit {event.sha[:10]}" if event.sha else "no commit", event.name, code(run.plan.config_path)]
    parts += [f"[{name}]({url})" for name, url in (("run", links.run), ("report", links.report)) if url]
    return f"<sub>{' · '.join(parts)}</sub>"
