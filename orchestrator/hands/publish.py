"""Says the verdict wherever it may be said: files, the job's outputs and summary, annotations, the pull request.

What costs nothing and cannot fail comes first, GitHub last: a cancelled job has seven seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TextIO

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.hands.collect import write_json
from orchestrator.hands.comment_thread import upsert_comment
from orchestrator.hands.remember import Memory
from orchestrator.mind.coverage_past import CoveragePast
from orchestrator.mind.failures import explain
from orchestrator.mind.records.history import History
from orchestrator.mind.render.annotations import render_annotations
from orchestrator.mind.render.comment import marker, render_comment, render_summary
from orchestrator.mind.render.documents import plan_document, verdict_document
from orchestrator.mind.render.html import html_chunks
from orchestrator.mind.render.links import Links, source_url
from orchestrator.mind.render.outputs import run_outputs
from orchestrator.mind.view import view
from orchestrator.tools.github import Forbidden, GitHub
from orchestrator.tools.history import HistoryError
from orchestrator.tools.job import append
from orchestrator.words.environment import Environment
from orchestrator.words.errors import ExitCode, InfrastructureError
from orchestrator.words.verdict import RunVerdict, Verdict

_VIEWS = 5  # how often a comment is said again because another run has stored something


class Published(Struct, frozen=True, kw_only=True):
    """What was said where; ``run`` carries the verdict after telling GitHub, which may itself have failed."""

    run: RunVerdict
    report: Path
    comment_url: str | None = None


def publish(
    run: RunVerdict,
    *,
    memory: Memory | None,
    history: History,
    changed_lines: Mapping[str, frozenset[int]] | None,
    past: CoveragePast,
    out: Path,
    prefix: str,
    environment: Environment,
    github: GitHub | None,
    comment: str,
    talk: TextIO,
) -> Published:
    """Write, remember and post everything. Never raises for what GitHub answers: that becomes part of the verdict.

    ``comment``: on-change, always or never. ``prefix``: the configuration's folder from the repository's top.
    ``memory``: where the results are kept, None: nowhere. ``history``: what was known of earlier runs before this one.
    ``changed_lines``, ``past``: as `judge` takes them.
    """
    event = run.plan.event
    links = Links(run=event.run.url if event.run is not None else None, source=source_url(event, prefix))
    written = run
    wrong = write_files(run, out=out, prefix=prefix, links=links)
    if wrong:
        run = spoiled(run, f"results could not be written: {'; '.join(wrong)}")
    said = run
    if memory is not None and (unsaid := memory.add(run)) is not None:
        print(unsaid, file=talk)
        run = said = replace(run, plan=replace(run.plan, notes=(*run.plan.notes, unsaid)))
    if environment.in_actions:
        for line in render_annotations(run, prefix=prefix):
            print(line, file=talk)
        talk.flush()
    show = _Shown(memory, history, changed_lines=changed_lines, past=past, talk=talk)
    run, url = _tell(run, show, links, github=github, comment=comment, talk=talk)
    if (shown := show.now(run)) is not written:
        with contextlib.suppress(OSError):
            _write_text(out / "comment.md", render_comment(shown, links=links))
    if run is not said:
        with contextlib.suppress(OSError):
            write_json(out / "verdict.json", verdict_document(run))
    report = out / "report.html"
    if environment.summary_file is not None:
        append(environment.summary_file, render_summary(run, links=links), talk=talk)
    append(environment.output_file, run_outputs(run, report=str(report), comment_url=url), talk=talk)
    return Published(run=run, report=report, comment_url=url)


def write_files(run: RunVerdict, *, out: Path, prefix: str, links: Links) -> list[str]:
    """plan.json, verdict.json, comment.md and report.html; returns what could not be written, and why."""
    writers: dict[str, Callable[[Path], None]] = {
        "plan.json": lambda path: write_json(path, plan_document(run.plan)),
        "verdict.json": lambda path: write_json(path, verdict_document(run)),
        "comment.md": lambda path: _write_text(path, render_comment(run, links=links)),
        "report.html": lambda path: _write_chunks(path, html_chunks(run, prefix=prefix)),
    }
    wrong = []
    for name, write in writers.items():
        try:
            out.mkdir(parents=True, exist_ok=True)
            write(out / name)
        except OSError as error:
            wrong.append(f"{name}: {error.strerror or error}")
    return wrong


class _Shown:
    """What a comment shows of a run: the state of its commit over all runs, as far as it is stored."""

    def __init__(
        self,
        memory: Memory | None,
        history: History,
        *,
        changed_lines: Mapping[str, frozenset[int]] | None,
        past: CoveragePast,
        talk: TextIO,
    ) -> None:
        self.memory = memory
        self.history = history
        self.changed_lines = changed_lines
        self.past = past
        self.talk = talk

    def now(self, run: RunVerdict) -> RunVerdict:
        """The run, completed with what the other runs of its commit have stored."""
        if self.memory is None or not self.memory.head:
            return run
        seen = view(
            run, self.memory.head, run_key=self.memory.run_key, changed_lines=self.changed_lines, past=self.past
        )
        return explain(seen, self.history)

    def changed(self, run: RunVerdict) -> bool:
        """Look again. Whether another run has stored something in the meantime."""
        if self.memory is None or run.plan.event.sha is None:
            return False
        try:
            return self.memory.refresh(run.plan.event.sha)
        except HistoryError as error:
            print(f"what other runs of this commit found is unknown: {error}", file=self.talk)
            return False


def _tell(
    run: RunVerdict, show: _Shown, links: Links, *, github: GitHub | None, comment: str, talk: TextIO
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
    show.changed(run)
    try:
        for _ in range(_VIEWS):
            body = render_comment(show.now(run), links=links)
            own = marker(run.plan.config_id)
            url = upsert_comment(github, number=pull.number, marker=own, body=body, policy=comment)
            # Another run may have stored its results after we read and shown them before we did: the last word would
            # then be ours, and without them. So look again, and say it again.
            if not show.changed(run):
                break
    except Forbidden as error:
        if pull.fork and error.read_only_token:
            print("a fork's token may not comment: the fork-report workflow posts this (comment.md)", file=talk)
            return run, None
        return spoiled(run, f"GitHub could not be told: {error.line}"), None
    except InfrastructureError as error:
        return spoiled(run, f"GitHub could not be told: {error.line}"), None
    return run, url


def spoiled(run: RunVerdict, reason: str) -> RunVerdict:
    """A verdict that could not be said everywhere: that is infrastructure, unless something worse is known already."""
    reasons = (*run.reasons, reason)
    if run.verdict.severity <= Verdict.INFRASTRUCTURE.severity:
        return replace(run, reasons=reasons)
    return replace(run, reasons=reasons, verdict=Verdict.INFRASTRUCTURE, exit_code=ExitCode.INFRASTRUCTURE)


def _write_text(path: Path, text: str) -> None:
    _write_chunks(path, (text,))


def _write_chunks(path: Path, chunks: Iterable[str]) -> None:
    """Write a text so that a reader sees all of it or none, and without holding all of it."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(chunks)
    partial.replace(path)
