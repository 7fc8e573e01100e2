"""The starters that may write: what triggers them, what each job may do, and that none runs a stranger's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import bootstrap

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
PERMISSIONS = {
    "nightly": {"nightly": {"contents": "write", "actions": "write", "statuses": "write"}},
    "commands": {
        "start": {"contents": "write", "actions": "write", "statuses": "write", "pull-requests": "write"},
    },
    "fork-report": {
        "report": {"contents": "write", "actions": "read", "statuses": "write", "pull-requests": "write"},
    },
}


def load(name: str) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8"))
    return document


def triggers(workflow: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workflow[True]  # YAML 1.1 reads `on` as true
    return found


@pytest.mark.parametrize("name", PERMISSIONS)
def test_each_job_may_do_these_things_and_no_other(name: str) -> None:
    workflow = load(name)
    assert workflow["permissions"] == {}
    assert {job: said["permissions"] for job, said in workflow["jobs"].items()} == PERMISSIONS[name]
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"  # never a machine of the team's
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("name", ["commands", "fork-report"])
def test_what_a_stranger_can_cause_checks_out_and_runs_nothing_of_theirs(name: str) -> None:
    (job,) = load(name)["jobs"].values()
    assert [step for step in job["steps"] if "run" in step] == []
    (checkout,) = [step for step in job["steps"] if step["uses"].startswith("actions/checkout@")]
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}  # no `ref`, no `repository`
    assert [step["uses"] for step in job["steps"][1:]] == [
        "org/ml-test-action@v1" if name == "commands" else "org/ml-test-action/report@v1"
    ]
    assert "with" not in job["steps"][1]  # nothing of the event is handed on by the workflow


def test_commands_hear_new_comments_and_labels_only() -> None:
    assert triggers(load("commands")) == {
        "issue_comment": {"types": ["created"]},
        "pull_request": {"types": ["labeled"]},
    }


def test_fork_reports_follow_the_pull_request_starter() -> None:
    assert triggers(load("fork-report")) == {
        "workflow_run": {"workflows": [load("pull-request")["name"]], "types": ["completed"]}
    }


def test_a_night_is_never_cancelled_by_a_newer_one() -> None:
    workflow = load("nightly")
    # A pending run is cancelled by a newer one of its group even without `cancel-in-progress`.
    assert workflow["concurrency"] == {"group": "nightly-${{ github.run_id }}"}
    assert list(triggers(workflow)) == ["schedule"]


def test_no_starter_is_a_pull_request_target() -> None:
    for path in WORKFLOWS.glob("*.yml"):
        assert "pull_request_target" not in triggers(load(path.stem)), path.name


@pytest.mark.parametrize(
    ("event", "payload", "command"),
    [
        ("push", {}, "run"),
        ("pull_request", {"action": "opened"}, "run"),
        ("pull_request", {"action": "labeled"}, "dispatch"),
        ("pull_request", [], "run"),
        ("pull_request", None, "run"),
        ("issue_comment", {"action": "created"}, "dispatch"),
        ("schedule", {}, "run"),
    ],
)
def test_an_approval_starts_what_runs_elsewhere_and_nothing_here(
    event: str, payload: Any, command: str, tmp_path: Path
) -> None:
    told = tmp_path / "event.json"
    told.write_text("no JSON" if payload is None else json.dumps(payload), encoding="utf-8")
    environ = {"GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(told)}
    assert ("dispatch" if bootstrap.approves(environ) else "run") == command
    assert bootstrap.approves({"GITHUB_EVENT_NAME": event}) is (event == "issue_comment")
