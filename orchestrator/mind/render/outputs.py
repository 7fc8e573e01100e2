"""The action's outputs, as text for ``GITHUB_OUTPUT``. Pure but for the delimiter."""

from __future__ import annotations

import json
import secrets

from orchestrator.mind.render.documents import matrix_document, plan_document
from orchestrator.words.plan import Plan
from orchestrator.words.verdict import RunVerdict


def plan_outputs(plan: Plan) -> str:
    """What a planning job can already give: ``plan`` and ``matrix``."""
    return _outputs({"plan": json.dumps(plan_document(plan)), "matrix": json.dumps(matrix_document(plan))})


def run_outputs(run: RunVerdict, *, report: str, comment_url: str | None) -> str:
    """Every output of the action."""
    own = {
        "verdict": str(run.verdict),
        "exit-code": str(int(run.exit_code)),
        "report-path": report,
        "comment-url": comment_url or "",
    }
    return _outputs(own) + plan_outputs(run.plan)


def _outputs(values: dict[str, str]) -> str:
    """Each in the form that survives any value: a delimiter nobody can guess."""
    text = ""
    for name, value in values.items():
        delimiter = f"mltiers-{secrets.token_hex(16)}"
        text += f"{name}<<{delimiter}\n{value}\n{delimiter}\n"
    return text
