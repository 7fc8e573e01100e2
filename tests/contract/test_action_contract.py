"""action.yml and every workflow: valid, clean under the linters, and saying the same as the code that reads them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import bootstrap
from orchestrator.config import parse_config
from orchestrator.gather import missing_paths

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ACTION = ROOT / "action.yml"
STARTERS = sorted((ROOT / "workflows").glob("*.yml"))
OWN = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = STARTERS + OWN

# DESIGN: "Interface: the action (fixed)".
INPUTS = {
    "config": "ml-tiers.yml",
    "tiers": "",
    "python": "",
    "token": "${{ github.token }}",
    "comment": "on-change",
    "dispatch": "true",
    "wait": "false",
    "shard": "",
    "sha": "",
    "pr": "",
    "out": ".mltiers",
}
OUTPUTS = {"verdict", "exit-code", "plan", "matrix", "report-path", "comment-url"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def load(path: Path) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def steps(document: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    """The steps of an action or of all jobs of a workflow."""
    for part in [document.get("runs", {}), *document.get("jobs", {}).values()]:
        yield from part.get("steps", [])


def tool(*command: str) -> str:
    """Runs a tool of the environment in the repository; gives what it said. Its exit code must be 0."""
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_there_are_workflows() -> None:
    assert {"pull-request.yml"} <= {path.name for path in STARTERS}
    assert {"ci.yml"} <= {path.name for path in OWN}


def test_zizmor_finds_nothing() -> None:
    # A copy of each starter is audited as the workflow it becomes.
    tool(
        "zizmor",
        "--offline",
        "--strict-collection",
        "--config=.github/zizmor.yml",
        *map(relative, [ACTION, *WORKFLOWS]),
    )


def test_zizmor_would_find_something(tmp_path: Path) -> None:
    text = (ROOT / "workflows" / "pull-request.yml").read_text(encoding="utf-8")
    bad = re.sub(r"actions/checkout@\S+", "actions/checkout@v6", text)
    assert bad != text
    (tmp_path / "bad.yml").write_text(bad, encoding="utf-8")
    command = [BIN / "zizmor", "--offline", "--config", ROOT / ".github/zizmor.yml", tmp_path / "bad.yml"]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_actionlint_finds_nothing() -> None:
    tool("actionlint", *map(relative, WORKFLOWS))


def test_the_action_is_valid_by_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-actions", relative(ACTION))


def test_the_workflows_are_valid_by_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(relative, WORKFLOWS))


def test_inputs_and_outputs_are_the_design() -> None:
    action = load(ACTION)
    assert {name: value["default"] for name, value in action["inputs"].items()} == INPUTS
    assert set(action["outputs"]) == OUTPUTS
    assert all(value["description"] for part in ("inputs", "outputs") for value in action[part].values())
    assert action["branding"].keys() == {"icon", "color"}


def test_inputs_declared_are_forwarded_and_read() -> None:
    action = load(ACTION)
    env = action["runs"]["steps"][0]["env"]
    # The token goes where every tool of GitHub looks for it; all others by one rule, the one the bootstrap reads by.
    forwarded = {
        "token" if variable == "GITHUB_TOKEN" else variable[len(bootstrap.PREFIX) :].lower().replace("_", "-"): value
        for variable, value in env.items()
        if variable == "GITHUB_TOKEN" or variable.startswith(bootstrap.PREFIX)
    }
    assert forwarded == {name: f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert set(bootstrap.INPUTS) | {"token"} == set(action["inputs"])
    given = {bootstrap.PREFIX + name.upper().replace("-", "_"): f"<{name}>" for name in bootstrap.INPUTS}
    assert bootstrap.read_inputs(given) == {name: f"<{name}>" for name in bootstrap.INPUTS}


def test_every_forwarded_input_changes_the_command_line() -> None:
    values = {name: "true" if name in ("dispatch", "wait") else "value" for name in bootstrap.INPUTS}
    whole = bootstrap.command_line(values)
    for name in bootstrap.INPUTS:
        assert bootstrap.command_line({key: value for key, value in values.items() if key != name}) != whole, name


def test_outputs_come_from_the_step_that_runs_the_tiers() -> None:
    action = load(ACTION)
    (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "run"]
    assert "bootstrap.py" in step["run"]
    for name, output in action["outputs"].items():
        assert output["value"] == f"${{{{ steps.run.outputs.{name} }}}}"


def test_the_report_is_kept_whatever_happened() -> None:
    (upload,) = [step for step in steps(load(ACTION)) if "upload-artifact" in step.get("uses", "")]
    assert upload["if"].startswith("${{ always()")
    assert upload["with"]["include-hidden-files"] is True  # .mltiers is one
    assert upload["with"]["if-no-files-found"] == "ignore"


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=relative)
def test_no_expression_inside_a_script(path: Path) -> None:
    assert not [step["run"] for step in steps(load(path)) if "${{" in step.get("run", "")]


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=relative)
def test_uses_are_pinned_by_commit_with_their_version_beside(path: Path) -> None:
    lines = re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|org/ml-test-action@v1|\./", line), line


def test_the_action_uses_at_most_the_upload() -> None:
    uses = [step["uses"].split("@")[0] for step in steps(load(ACTION)) if "uses" in step]
    assert uses == ["actions/upload-artifact"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=relative)
def test_workflows_ask_for_little(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, name
        assert set(job["permissions"]) <= {"contents", "pull-requests"}, name
        assert job["permissions"]["contents"] == "read", name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


def test_the_first_starter_is_short_and_cancels_only_what_was_superseded() -> None:
    path = ROOT / "workflows" / "pull-request.yml"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    concurrency = load(path)["concurrency"]
    assert "github.event.pull_request.number || github.sha" in concurrency["group"]
    assert concurrency["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_this_project_uses_its_own_action() -> None:
    assert "./" in [step.get("uses") for step in steps(load(ROOT / ".github" / "workflows" / "ci.yml"))]


def test_this_projects_tiers_are_all_of_its_tests() -> None:
    path = ROOT / "ml-tiers.yml"
    config = parse_config(path.read_bytes(), filename=path.name)
    assert missing_paths(config, ROOT) == []
    tested = {path for tier in config.tiers.values() for path in tier.paths}
    assert {relative(path) for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))} <= tested
