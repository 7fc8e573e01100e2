"""Failing, flaky and slow tests in the comment: one folded entry for each cause, with its most telling lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.mind.failures import insight
from orchestrator.mind.render.words import code, code_block, details, duration, html_code, plural, sentence
from orchestrator.words.results import TestOutcome, TestResult
from orchestrator.words.verdict import Cause, Flake, Insight, RunVerdict, Standing

_OTHERS = 10  # tests named beside the first of a cause


def insight_of(run: RunVerdict) -> Insight:
    """What is known of the run's tests, with or without earlier runs."""
    return run.insight if run.insight is not None else insight(run)


def failures(found: Insight, *, most: int, lines: int) -> Iterator[str]:
    """The causes, at most ``most`` of them, with ``lines`` of each; 0: as a list."""
    if not found.causes:
        return
    shown = found.causes[:most]
    yield f"#### {heading(found)}"
    if lines:
        yield from (_cause(cause, lines) for cause in shown)
    elif shown:
        yield "\n".join(
            f"- {code(cause.tests[0].node_id)}{_more(cause)} ({_names(cause.tiers)}){_standing(cause)}: "
            f"{sentence(message(cause.tests[0]), limit=200)}"
            for cause in shown
        )
    if hidden := sum(len(cause.tests) for cause in found.causes[most:]):
        yield f"{'and ' if shown else ''}{plural(hidden, 'more failing test')}, listed in the report."


def heading(found: Insight) -> str:
    """12 failing tests with 2 causes, 1 of them new"""
    tests = len({test.node_id for cause in found.causes for test in cause.tests})
    said = plural(tests, "failing test")
    if len(found.causes) < tests:
        said += f" with {plural(len(found.causes), 'cause')}"
    new = sum(cause.standing is Standing.NEW for cause in found.causes)
    before = sum(cause.standing is Standing.BEFORE for cause in found.causes)
    if new and new == len(found.causes):
        return f"{said}, new with this change"
    if before and before == len(found.causes):
        return f"{said}, failing before this change too"
    return said + (f", {new} new with this change" if new else "")


def message(test: TestResult) -> str:
    """One line of why a test failed."""
    if test.outcome is TestOutcome.UNFINISHED:
        return test.message or f"was running for {duration(test.seconds)} when the tier was stopped"
    return test.message or str(test.outcome)


def _cause(cause: Cause, lines: int) -> str:
    first, *others = cause.tests
    title = f"{html_code(first.node_id)}{_more(cause)} · {html_code(message(first), limit=160)}"
    if cause.standing is not Standing.UNKNOWN:
        title += f" · {cause.standing}"
    where = f"tier{'s' if len(cause.tiers) > 1 else ''} {_names(cause.tiers)}"
    if first.worker and not others and len(cause.tiers) == 1:
        where += f", worker {code(first.worker)}"
    parts = [where]
    if cause.excerpt:
        parts.append(code_block(cause.excerpt, lines=lines))
    parts += _list(cause.remarks)
    if others:
        named = ", ".join(code(test.node_id) for test in others[:_OTHERS])
        left = f" and {plural(len(others) - _OTHERS, 'more test')}" if len(others) > _OTHERS else ""
        parts.append(f"The same in {named}{left}.")
    if cause.rerun:
        parts.append(f"Run it again: {code(cause.rerun, limit=2_000)}")
    return details(title, "\n\n".join(parts), title_is_html=True)


def flakes(found: Insight, *, most: int, lines: int) -> Iterator[str]:
    """The tests that passed only when they were tried again."""
    if not found.flakes:
        return
    yield f"#### 🔁 {plural(len(found.flakes), 'flaky test')}: failed first, passed when tried again"
    shown = found.flakes[:most]
    if lines:
        yield from (_flake(flake, lines) for flake in shown)
    elif shown:
        yield "\n".join(f"- {code(flake.test.node_id)} ({_names(flake.tiers)})" for flake in shown)
    if hidden := len(found.flakes) - len(shown):
        yield f"{'and ' if shown else ''}{plural(hidden, 'more flaky test')}, listed in the report."


def _flake(flake: Flake, lines: int) -> str:
    first = flake.test.attempts[0]
    title = f"{html_code(flake.test.node_id)} · {html_code(first.message or str(first.outcome), limit=160)}"
    parts = [f"tier{'s' if len(flake.tiers) > 1 else ''} {_names(flake.tiers)}, its first attempt:"]
    if flake.excerpt:
        parts.append(code_block(flake.excerpt, lines=lines))
    parts += _list(flake.remarks)
    if flake.rerun:
        parts.append(f"Run it again: {code(flake.rerun, limit=2_000)}")
    return details(title, "\n\n".join(parts), title_is_html=True)


def slow(found: Insight, *, most: int) -> Iterator[str]:
    """Tests that take longer than they did, and beside them the slowest."""
    if not found.slower or not most:
        return
    rows = ["| test | tier | took | usually |", "|---|---|--:|--:|"]
    rows += [
        f"| {code(one.node_id)} | {code(one.tier)} | {duration(one.seconds)} | {duration(one.before)} |"
        for one in found.slower[:most]
    ]
    slowest = [f"{code(test.node_id)} {duration(test.seconds)}" for _, test in found.slowest[: min(5, most)]]
    body = "\n".join(rows) + (f"\n\nSlowest of all: {', '.join(slowest)}" if slowest else "")
    yield details(f"{plural(len(found.slower), 'test')} slower than before", body)


def _more(cause: Cause) -> str:
    return f" and {len(cause.tests) - 1} more" if len(cause.tests) > 1 else ""


def _names(tiers: tuple[str, ...]) -> str:
    shown = ", ".join(code(tier) for tier in tiers[:5])
    return shown + (f" and {len(tiers) - 5} more" if len(tiers) > 5 else "")


def _standing(cause: Cause) -> str:
    return f" **{cause.standing}**" if cause.standing is Standing.NEW else ""


def _list(remarks: tuple[str, ...]) -> list[str]:
    return ["\n".join(f"- {sentence(remark)}" for remark in remarks)] if remarks else []
