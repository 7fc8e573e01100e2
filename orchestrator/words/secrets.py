"""The environment variables that tests must not see."""

from __future__ import annotations

from collections.abc import Mapping

# What a process that runs tests must never see: tokens (any of them may carry write access) and the files through
# which a step talks to the runner (a test that can append to GITHUB_ENV runs code in every later step).
SECRET_VARIABLES = frozenset(
    {
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "GH_ENTERPRISE_TOKEN",
        "GITHUB_ENTERPRISE_TOKEN",
        "INPUT_TOKEN",
        "MLTIERS_TOKEN",
        "ACTIONS_RUNTIME_TOKEN",
        "ACTIONS_RUNTIME_URL",
        "ACTIONS_RESULTS_URL",
        "ACTIONS_CACHE_URL",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "GITHUB_ENV",
        "GITHUB_OUTPUT",
        "GITHUB_PATH",
        "GITHUB_STATE",
        "GITHUB_STEP_SUMMARY",
    }
)
OWN_PREFIX = "MLTIERS_"


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """What a process that runs tests may see of our environment."""
    return {
        name: value
        for name, value in variables.items()
        if name not in SECRET_VARIABLES and not name.startswith(OWN_PREFIX)
    }
