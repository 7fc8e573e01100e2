"""Which Python the tests will run in, as far as that can be said before anything is read that decides it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMED = re.compile(r"""^[^#\n]*\bpython["']?[ \t]*:[ \t]*["']?([^"'#,}\s]*)""", re.MULTILINE)
_OF_ANOTHERS_CODE = ("issue_comment", "pull_request_target", "workflow_run")


def python_ahead(config: str, *, given: str | None, variables: Mapping[str, str]) -> str | None:
    """The name or path of the Python to start before the configuration is understood; None: better none.

    ``config``: the text of ml-tiers.yml. ``given``: what the command line says. That it is the wrong one costs time
    alone. In a job, where the file may be a stranger's, no program is started for the file's sake that is not called
    ``python``, and none at all for events whose job may hold a token that can write.
    """
    if variables.get("GITHUB_EVENT_NAME") in _OF_ANOTHERS_CODE:
        return None
    if given:
        return given
    named = set(_NAMED.findall(config)) or {"python"}
    if len(named) > 1 or (variables.get("GITHUB_ACTIONS") == "true" and named != {"python"}):
        return None
    return named.pop() or None
