"""The coverage of a run that was stopped: a report from the data files that its processes had already written.

pytest-cov writes nothing when it is interrupted. The plugin's checkpoints (``pytest_mltiers.checkpoint``) lie beside
where its data would be; the user's own coverage.py, which wrote them, combines them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from orchestrator.tools.process import Containment, supervise
from orchestrator.words.results import Ending

CHECKPOINT_VARIABLE = "MLTIERS_CHECKPOINT"
"""Tells the plugin every how many seconds to save what coverage.py has measured."""

CHECKPOINT_SECONDS = 3.0


def salvage_coverage(
    python: str, folder: Path, *, cwd: Path, env: Mapping[str, str], stopped: float, patience: float = 10.0
) -> str | None:
    """Write ``folder/coverage.json`` from the data files in ``folder``, with the ``python`` that ran the tests.

    ``stopped`` is when the stop began (Unix seconds), ``patience`` how many seconds this may take. Returns the sentence
    that says what is missing from the report; None: there is none, since nothing was measured or it cannot be read.
    """
    report = folder / "coverage.json"
    lost = _seconds_lost(folder, stopped)
    if report.exists() or lost is None:
        return None
    env = {**env, "COVERAGE_FILE": str(folder.absolute() / ".coverage")}
    limit = patience
    for arguments in (
        ["combine", "--quiet", "--append"],
        ["json", "--quiet", "--ignore-errors", "--fail-under=0", "-o", str(report.absolute())],
    ):
        command = [python, "-m", "coverage", *arguments]
        done = supervise(command, cwd=cwd, env=env, deadline=limit, containment=Containment.SUBREAPER)
        limit -= done.seconds
        if done.ending is not Ending.EXITED or done.exit_code != 0 or limit <= 0:
            report.unlink(missing_ok=True)
            return None
    return f"measured up to {lost:.0f} s before the stop" if lost >= 1 else "measured up to the stop"


def _seconds_lost(folder: Path, stopped: float) -> float | None:
    """How long before the stop the last checkpoint was, of the process whose was the earliest; None: there is none."""
    ages = []
    for file in (folder / ".coverage", *folder.glob(".coverage.*")):
        with contextlib.suppress(OSError):
            age = max(0.0, stopped - file.stat().st_mtime)
            ages.append(age if ".checkpoint." in file.name else 0.0)
    return max(ages, default=None)
