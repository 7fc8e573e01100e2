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

from orchestrator import __version__, bootstrap
from orchestrator.hands.gather import missing_paths
from orchestrator.mind.config import parse_config
from orchestrator.mind.dispatched import WORKFLOW, Dispatch, workflow_inputs

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ACTION = ROOT / "action.yml"
ACTIONS = [ACTION, ROOT / "plan" / "action.yml", ROOT / "report" / "action.yml"]
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
        *map(relative, [*ACTIONS, *WORKFLOWS]),
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


def test_the_actions_are_valid_by_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-actions", *map(relative, ACTIONS))


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


@pytest.mark.parametrize("name", ["plan", "report"])
def test_the_other_actions_are_this_one_with_another_command(name: str) -> None:
    action, main = load(ROOT / name / "action.yml"), load(ACTION)
    step, whole = action["runs"]["steps"][0], main["runs"]["steps"][0]
    assert step["run"] == whole["run"].replace("$GITHUB_ACTION_PATH/", "$GITHUB_ACTION_PATH/../")
    assert step["env"]["MLTIERS_COMMAND"] == name
    assert set(bootstrap.COMMANDS[name]) | {"token"} == set(action["inputs"])
    expected = {bootstrap.PREFIX + key.upper(): f"${{{{ inputs.{key} }}}}" for key in bootstrap.COMMANDS[name]}
    assert step["env"] == {"MLTIERS_COMMAND": name, "GITHUB_TOKEN": "${{ inputs.token }}", **expected}
    for key, value in action["inputs"].items():
        assert value["description"]
        if key in main["inputs"]:
            assert value["default"] == main["inputs"][key]["default"]
    for key, output in action["outputs"].items():
        assert output["value"] == main["outputs"][key]["value"]
    assert action["runs"]["steps"][1:] == (main["runs"]["steps"][1:] if name == "report" else [])


def test_what_the_other_actions_run() -> None:
    said = {"config": "c.yml", "tiers": "gpu", "nonce": "n", "sha": "s", "pr": "7"}
    assert bootstrap.command_line(said, "report") == [
        "report", "--tier=gpu", "--config=c.yml", "--nonce=n", "--sha=s", "--pr=7",
    ]  # fmt: skip
    assert bootstrap.command_line({"tiers": "gpu"}, "plan") == ["plan", "gpu"]
    environ = {"MLTIERS_COMMAND": "report", "MLTIERS_INPUT_WAIT": "true", "MLTIERS_INPUT_NONCE": "n"}
    assert bootstrap.read_inputs(environ) == {"nonce": "n"}
    assert bootstrap.artifact_name({"tiers": "gpu"}, {**environ, "GITHUB_JOB": "report"}) == "report-report-gpu"


def test_folders_with_results_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("results/b", "results/a", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "results" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert bootstrap.command_line({"results": "results/*\nother\n"}, "report") == [
        "report", "--", "results/a", "results/b", "other",
    ]  # fmt: skip
    with pytest.raises(bootstrap.BootstrapError, match="there is no such folder"):
        bootstrap.command_line({"results": "none/*"}, "report")


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


@pytest.mark.parametrize("path", [*ACTIONS, *WORKFLOWS], ids=relative)
def test_no_expression_inside_a_script(path: Path) -> None:
    assert not [step["run"] for step in steps(load(path)) if "${{" in step.get("run", "")]


@pytest.mark.parametrize("path", [*ACTIONS, *WORKFLOWS], ids=relative)
def test_uses_are_pinned_by_commit_with_their_version_beside(path: Path) -> None:
    lines = re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines or path.parent.name == "plan"
    ours = rf"org/ml-test-action(/plan|/report)?@{'v' + __version__ if path.name == 'tiers.yml' else 'v1'}"
    for line in lines:
        assert re.fullmatch(rf"[\w-]+/[\w-]+@[0-9a-f]{{40}} # v\d+\.\d+\.\d+|{ours}|\./", line), line


def test_the_action_uses_at_most_the_upload() -> None:
    uses = [step["uses"].split("@")[0] for step in steps(load(ACTION)) if "uses" in step]
    assert uses == ["actions/upload-artifact"]


def assert_little(path: Path, name: str, job: dict[str, Any]) -> None:
    if path.name in ("nightly.yml", "commands.yml"):
        return  # held to their very words in test_starters.py
    assert set(job["permissions"]) <= {"contents", "pull-requests"}, name
    if (path.name, name) not in (("pull-request.yml", "tests"), ("ci.yml", "tiers")):  # these also remember
        assert job["permissions"]["contents"] == "read", name
    if job["runs-on"] != "ubuntu-latest":  # a machine of the team's
        assert job["permissions"] == {"contents": "read"}, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=relative)
def test_workflows_ask_for_little(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, name
        if name == "report":  # it runs no code of the commit
            assert not any(step.get("run") for step in job["steps"])
            assert set(job["permissions"]) <= {"contents", "actions", "statuses", "pull-requests"}
        else:
            assert_little(path, name, job)
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


def test_every_starter_is_short() -> None:
    for path in STARTERS:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path.name


def test_the_dispatched_workflow_takes_what_is_given_to_it() -> None:
    workflow = load(ROOT / "workflows" / WORKFLOW)
    dispatch = Dispatch(nonce="n", tier="gpu", sha="s", dispatched=0.0, queue=1.0, budget=1.0)
    declared = workflow[True]["workflow_dispatch"]["inputs"]  # YAML 1.1 reads `on` as true
    assert declared.keys() == workflow_inputs(dispatch).keys()
    assert {name for name, one in declared.items() if one.get("required")} <= workflow_inputs(dispatch).keys()
    assert len(declared) <= 10  # what GitHub Enterprise Server takes
    assert "${{ inputs.nonce }}" in workflow["run-name"].split("  ")[0]
    assert re.search(r"(^| )\$\{\{ inputs.nonce \}\}( |$)", workflow["run-name"])  # a word of its own
    assert workflow["jobs"]["test"]["runs-on"] == "${{ fromJSON(inputs.runner) }}"
    assert workflow["jobs"]["report"]["needs"] == "test"


# --- releases ------------------------------------------------------------------------------------------------------


def test_a_release_moves_what_the_called_workflow_names(tmp_path: Path) -> None:
    """A called workflow cannot say "this very release" by itself."""
    named = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in (".ci/release", ".github/workflows/tiers.yml", *filter(None, named.split("\0"))):
        if name.startswith((".github", ".ci", "plugin", "orchestrator", "pyproject", "CHANGELOG", "workflows")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, tmp_path / ".ci" / "release", "7.8.9"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / ".github" / "workflows" / "tiers.yml").read_text()
    assert set(re.findall(r"- uses: org/ml-test-action\S*@(\S+)", text)) == {"v7.8.9"}
    for name in ("orchestrator/__init__.py", "plugin/src/pytest_mltiers/__init__.py"):
        assert '__version__ = "7.8.9"' in (tmp_path / name).read_text()
    for name in ("pyproject.toml", "plugin/pyproject.toml"):
        assert '\nversion = "7.8.9"\n' in (tmp_path / name).read_text()
    assert re.search(r"^## 7\.8\.9 - \d{4}-\d\d-\d\d$", (tmp_path / "CHANGELOG.md").read_text(), re.MULTILINE)
    again = subprocess.run([*command[:2], "7.8"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "7.8" in again.stderr
