"""Which Python is started before the configuration is understood."""

from __future__ import annotations

import pytest

from orchestrator.mind.ahead import python_ahead

JOB = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "pull_request"}


@pytest.mark.parametrize(
    ("config", "given", "variables", "expected"),
    [
        ("version: 1\n", None, {}, "python"),
        ("python: python3.12\n", None, {}, "python3.12"),
        ("defaults: {python: .venv/bin/python, workers: 2}\n", None, {}, ".venv/bin/python"),
        ("defaults:\n  'python' : \"a b\"  # which\n", None, {}, "a"),  # a wrong guess costs time alone
        ("# python: other\ntiers: {a: {python: mine}}\n", None, {}, "mine"),
        ("tiers:\n  a:\n    python: one\n  b:\n    python: one\n", None, {}, "one"),
        ("tiers:\n  a:\n    python: one\n  b:\n    python: two\n", None, {}, None),
        ("python: &name\n", None, {}, "&name"),
        ("python:\n  mine\n", None, {}, None),
        ("python: one\n", "two", {}, "two"),
        # In a job the file may be a stranger's.
        ("version: 1\n", None, JOB, "python"),
        ("python: python\n", None, JOB, "python"),
        ("python: curl\n", None, JOB, None),
        ("python: ./evil\n", None, JOB, None),
        ("python: ./evil\n", "/usr/bin/python3", JOB, "/usr/bin/python3"),
        ("version: 1\n", "python", {**JOB, "GITHUB_EVENT_NAME": "workflow_run"}, None),
        ("version: 1\n", None, {**JOB, "GITHUB_EVENT_NAME": "issue_comment"}, None),
        ("version: 1\n", None, {**JOB, "GITHUB_EVENT_NAME": "pull_request_target"}, None),
    ],
)
def test_the_python_that_is_started_ahead(
    config: str, given: str | None, variables: dict[str, str], expected: str | None
) -> None:
    assert python_ahead(config, given=given, variables=variables) == expected
