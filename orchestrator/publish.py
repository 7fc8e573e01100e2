"""Says the verdict wherever it may be said: files, the job's outputs and summary, annotations, the pull request.

What costs nothing and cannot fail comes first, GitHub last: a cancelled job has seven seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from orchestrator.collect import write_json
from orchestrator.comment_thread import upsert_comment
from orchestrator.environment import Environment
from orchestrator.errors import ExitCode, InfrastructureError
from orchestrator.github import Forbidden, GitHub
from orchestrator.job import append
from orchestrator.model import RunVerdict, Verdict
from orchestrator.render.annotations import render_annotations
from orchestrator.render.comment import Links, marker, render_comment, render_summary
from orchestrator.render.documents import plan_document, verdict_document
from orchestrator.render.html import render_html
from orchestrator.render.outputs import run_outputs


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was said where; ``run`` carries the verdict after telling GitHub, which may itself have failed."""

    run: RunVerdict
    report: Path
    comment_url: str | None = None


def publish(
    run: RunVerdict,
    *,
    out: Path,
    prefix: str,
    environment: Environment,
    github: GitHub | None,
    comment: str,
    talk: TextIO,
) -> Published:
    """Write and post everything. Never raises for what GitHub answers: that becomes part of the verdict.

    ``comment``: on-change, always or never. ``prefix``: the configuration's folder from the repository's top.
    """
    links = Links(run=run.plan.event.run.url if run.plan.event.run is not None else None)
    report = write_files(run, out=out, prefix=prefix, links=links)
    if environment.in_actions:
        for line in render_annotations(run, prefix=prefix):
            print(line, file=talk)
        talk.flush()
    run, url = _tell(run, links, github=github, comment=comment, talk=talk)
    if run.reasons or run.exit_code:
        write_json(out / "verdict.json", verdict_document(run))
    append(environment.summary_file, render_summary(run, links=links), talk=talk)
    append(environment.output_file, run_outputs(run, report=str(report), comment_url=url), talk=talk)
    return Published(run=run, report=report, comment_url=url)


def write_files(run: RunVerdict, *, out: Path, prefix: str, links: Links) -> Path:
    """plan.json, verdict.json, comment.md and report.html; returns the report's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "plan.json", plan_document(run.plan))
    write_json(out / "verdict.json", verdict_document(run))
    _write_text(out / "comment.md", render_comment(run, links=links))
    report = out / "report.html"
    _write_text(report, render_html(run, prefix=prefix))
    return report


def _tell(
    run: RunVerdict, links: Links, *, github: GitHub | None, comment: str, talk: TextIO
) -> tuple[RunVerdict, str | None]:
    """The comment on the event's pull request. The verdict becomes infrastructure if it cannot be told."""
    pull = run.plan.event.pull_request
    if pull is None or comment == "never" or not run.plan.event.on_github:
        return run, None
    if run.verdict is Verdict.SUPERSEDED:
        print("the pull request has a newer head: its comment is left to that run", file=talk)
        return run, None
    if github is None:
        print("no GITHUB_TOKEN: the comment was not posted (it is in comment.md)", file=talk)
        return run, None
    body = render_comment(run, links=links)
    try:
        url = upsert_comment(github, number=pull.number, marker=marker(run.plan.config_id), body=body, policy=comment)
    except Forbidden as error:
        if pull.fork and error.read_only_token:
            print("a fork's token may not comment: the fork-report workflow posts this (comment.md)", file=talk)
            return run, None
        return _untold(run, error), None
    except InfrastructureError as error:
        return _untold(run, error), None
    return run, url


def _untold(run: RunVerdict, error: InfrastructureError) -> RunVerdict:
    """GitHub could not be told: that is infrastructure, unless something worse is known already."""
    reasons = (*run.reasons, f"GitHub could not be told: {error}")
    if run.verdict.severity <= Verdict.INFRASTRUCTURE.severity:
        return replace(run, reasons=reasons)
    return replace(run, reasons=reasons, verdict=Verdict.INFRASTRUCTURE, exit_code=ExitCode.INFRASTRUCTURE)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
