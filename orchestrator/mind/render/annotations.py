"""Workflow commands: failing tests and uncovered changed lines as annotations in GitHub's own views. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchestrator.mind.render.words import shorten, visible
from orchestrator.words.verdict import RunVerdict, Verdict

# GitHub shows ten errors and ten warnings of a step and drops the others without a word; the report has them all.
PER_STEP = 10
_MESSAGE = 2000
_PLACE = re.compile(r"(?P<file>[^\n:]+):(?P<line>\d+):(?P<col>\d+): (?P<what>.*)", re.DOTALL)


def render_annotations(run: RunVerdict, *, prefix: str) -> list[str]:
    """One workflow command per line. ``prefix``: the configuration's folder from the repository's top ("a/b/")."""
    errors = [*_tier_errors(run), *_test_errors(run, prefix)]
    warnings = list(_uncovered(run, prefix))
    return [*_limited(errors, "error"), *_limited(warnings, "warning")]


def render_refusal(problems: Sequence[str]) -> list[str]:
    """Why nothing was run, one workflow command per problem: at its place in ml-tiers.yml where it names one."""
    found = [(problem, _PLACE.fullmatch(problem)) for problem in problems]
    return _limited(
        [
            command("error", place["what"], title="mltiers", file=place["file"], line=place["line"], col=place["col"])
            if place is not None
            else command("error", problem, title="mltiers")
            for problem, place in found
        ],
        "error",
    )


def _tier_errors(run: RunVerdict) -> Iterator[str]:
    for tier in run.tiers:
        if tier.exit_code and tier.verdict is not Verdict.FAILED and tier.plan.required:
            yield command("error", "; ".join(tier.reasons), title=f"{tier.name}: {tier.verdict}")
    for reason in run.reasons:
        yield command("error", reason, title=f"Tests: {run.verdict}")


def _test_errors(run: RunVerdict, prefix: str) -> Iterator[str]:
    for tier in run.tiers:
        for test in tier.result.tests if tier.result is not None else ():
            if test.outcome.bad:
                where = {"file": prefix + test.file, "line": str(test.line or 1)} if test.file else {}
                message = test.message or f"{test.outcome} in tier {tier.name}"
                yield command("error", message, title=f"{tier.name}: {test.node_id}", **where)


def _uncovered(run: RunVerdict, prefix: str) -> Iterator[str]:
    for path, lines in sorted((run.patch.uncovered if run.patch is not None else {}).items()):
        start = previous = lines[0]
        for line in (*lines[1:], -1):
            if line == previous + 1:
                previous = line
                continue
            said = f"line {start} is" if start == previous else f"lines {start} to {previous} are"
            where = {"file": prefix + path, "line": str(start), "endLine": str(previous)}
            yield command("warning", f"Changed {said} not covered by any test", title="Not covered", **where)
            start = previous = line


def _limited(commands: list[str], level: str) -> list[str]:
    if len(commands) <= PER_STEP:
        return commands
    hidden = len(commands) - PER_STEP + 1
    return [
        *commands[: PER_STEP - 1],
        command(level, f"{hidden} more are in the report", title="More than GitHub shows"),
    ]


def command(level: str, message: str, **properties: str) -> str:
    """``::error file=…,line=…::message``, escaped so that nothing in it can start another command."""
    pairs = ",".join(f"{key}={_property(value)}" for key, value in sorted(properties.items()))
    return f"::{level} {pairs}::{_data(shorten(visible(message, newlines=True), _MESSAGE))}"


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(shorten(visible(value), 300)).replace(":", "%3A").replace(",", "%2C")
