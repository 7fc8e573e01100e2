"""`mltiers init`: looks at a repository's tests and writes a first ml-tiers.yml and workflow.

scan    files → RepositoryFacts (the only part that reads)
facts   what one Python file holds: tests, markers, models, losses, preprocessing
draft   facts → the two files as text
advice  facts of a repository without tests → what to test first, and why
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from orchestrator.hands.initialise.draft import InitPlan, plan_init
from orchestrator.hands.initialise.facts import RepositoryFacts
from orchestrator.hands.initialise.scan import repository_top, scan
from orchestrator.words.errors import ExitCode, InfrastructureError, UsageError

__all__ = ["InitPlan", "RepositoryFacts", "plan_init", "run_init", "scan"]

_STARTERS = ("_workflows", "../workflows")  # in the wheel; in a checkout


def run_init(root: Path, *, dry_run: bool, force: bool, out: TextIO) -> ExitCode:
    """Write (or, with ``dry_run``, print) what a repository needs to begin, or say what to test first.

    Raises UsageError, before anything is written, where a file is there already and ``force`` is not given.
    """
    root = root.resolve()
    top = repository_top(root)
    plan = plan_init(scan(root), starter=_starter())
    there = [path for path, _ in plan.files if (top / path).exists()]
    if there and not force and not dry_run:
        raise UsageError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already; nothing was written",
            remedy="`mltiers init --dry-run` prints what would be written, `mltiers init --force` overwrites",
        )
    for path, text in plan.files:
        if dry_run:
            _say(out, f"--- {path}{' (is there already)' if path in there else ''}\n{text}\n")
        else:
            _write(top / path, text)
            _say(out, f"wrote {path}\n")
    _say(out, f"{plan.message}\n")
    if plan.files and not dry_run:
        _say(out, "next: `mltiers check`, then `mltiers run --event push`\n")
    return ExitCode.PASSED


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _starter() -> str:
    package = Path(__file__).resolve().parents[2]
    for folder in _STARTERS:
        path = package / folder / "pull-request.yml"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise InfrastructureError("the starter workflow is missing from this installation", remedy="install mltiers again")


def _say(out: TextIO, text: str) -> None:
    """Names of files may hold what a terminal, or Unicode, has no character for."""
    encoding = out.encoding or "utf-8"
    out.write(text.encode(encoding, errors="replace").decode(encoding))
