"""The bootstrap's decisions: inputs to a command line, names, folders."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from orchestrator import bootstrap
from orchestrator.words.errors import ExitCode

DEFAULTS = {"config": "ml-tiers.yml", "comment": "on-change", "dispatch": "true", "wait": "false", "out": ".mltiers"}
DEFAULT_LINE = ["--config=ml-tiers.yml", "--comment=on-change", "--out=.mltiers", "--dispatch"]


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        ({}, ["run"]),
        (DEFAULTS, ["run", *DEFAULT_LINE]),
        ({"tiers": "unit"}, ["run", "unit"]),
        ({"tiers": "unit, gpu"}, ["run", "unit", "gpu"]),
        ({"tiers": "unit\n  gpu\tspeed,,"}, ["run", "unit", "gpu", "speed"]),
        ({"dispatch": "false"}, ["run", "--no-dispatch"]),
        ({"dispatch": "True", "wait": "TRUE"}, ["run", "--dispatch", "--wait"]),
        ({"shard": "2/8", "tiers": "gpu"}, ["run", "gpu", "--shard=2/8"]),
        ({"sha": "abc", "pr": "7"}, ["run", "--sha=abc", "--pr=7"]),
        ({"python": "/opt/my env/bin/python"}, ["run", "--python=/opt/my env/bin/python"]),
        ({"config": "--force"}, ["run", "--config=--force"]),
    ],
)
def test_inputs_become_the_command_line(inputs: dict[str, str], arguments: list[str]) -> None:
    assert bootstrap.command_line(inputs) == arguments


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"dispatch": "yes"}, "input 'dispatch': 'yes' is neither true nor false"),
        ({"wait": "1"}, "input 'wait': '1' is neither true nor false"),
        ({"tiers": "unit --force"}, "input 'tiers': '--force' is not a name of a tier"),
    ],
)
def test_wrong_inputs_are_named(inputs: dict[str, str], message: str) -> None:
    with pytest.raises(bootstrap.BootstrapError, match=re.escape(message)) as caught:
        bootstrap.command_line(inputs)
    assert caught.value.exit_code == ExitCode.USAGE


def test_blank_inputs_are_absent_and_other_variables_are_not_inputs() -> None:
    environ = {"MLTIERS_INPUT_TIERS": "  ", "MLTIERS_INPUT_SHARD": "1/2 ", "MLTIERS_INPUT_TOKEN": "x", "CONFIG": "y"}
    assert bootstrap.read_inputs(environ) == {"shard": "1/2"}


@pytest.mark.parametrize(
    ("inputs", "environ", "name"),
    [
        (DEFAULTS, {"GITHUB_JOB": "test"}, "mltiers-test"),
        (DEFAULTS, {}, "mltiers"),
        ({**DEFAULTS, "config": "pkg/a b/ml-tiers.yml"}, {"GITHUB_JOB": "t"}, "mltiers-t-pkg-a-b-ml-tiers.yml"),
        ({"tiers": "unit, gpu", "shard": "2/8"}, {"GITHUB_JOB": "t"}, "mltiers-t-unit-gpu-2of8"),
        ({}, {"GITHUB_JOB": "t", "MLTIERS_JOB_INDEX": "3", "MLTIERS_JOB_TOTAL": "4"}, "mltiers-t-3"),
        ({}, {"GITHUB_JOB": "t", "MLTIERS_JOB_INDEX": "0", "MLTIERS_JOB_TOTAL": "1"}, "mltiers-t"),
        ({}, {"GITHUB_JOB": "t", "MLTIERS_JOB_INDEX": "", "MLTIERS_JOB_TOTAL": ""}, "mltiers-t"),
        ({"tiers": 'x"<>|*?:\r\n\\/y'}, {}, "mltiers-x-y"),
    ],
)
def test_artifact_names(inputs: dict[str, str], environ: dict[str, str], name: str) -> None:
    assert bootstrap.artifact_name(inputs, environ) == name


def test_long_artifact_names_stay_apart() -> None:
    names = {bootstrap.artifact_name({"tiers": "t" * 300, "shard": f"{shard}/8"}, {}) for shard in range(1, 9)}
    assert len(names) == 8
    assert max(map(len, names)) <= 120


def test_the_environment_is_named_by_all_that_it_depends_on() -> None:
    key = bootstrap.environment_key(b"lock", "/usr/bin/python3.11")
    assert key == bootstrap.environment_key(b"lock", "/usr/bin/python3.11")
    assert key != bootstrap.environment_key(b"lock 2", "/usr/bin/python3.11")
    assert key != bootstrap.environment_key(b"lock", "/opt/other/python3.11")
    assert re.fullmatch(r"3\.\d+\.\d+-\w+-\w+-[0-9a-f]{16}", key)


def test_the_first_folder_that_can_be_written_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    environ = {"RUNNER_TOOL_CACHE": str(tmp_path / "file"), "RUNNER_TEMP": str(tmp_path / "job temp")}
    assert bootstrap.writable_folder(environ) == tmp_path / "job temp" / "mltiers"
    assert bootstrap.writable_folder({**environ, "RUNNER_TOOL_CACHE": str(tmp_path / "tools")}) == (
        tmp_path / "tools" / "mltiers"
    )


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "is not what action.txt locks"),
        ("ERROR: In --require-hashes mode, all requirements must have their versions pinned", "is not what"),
        ("ERROR: Invalid requirement: '!!'", "is damaged"),
        ("ERROR: No matching distribution found for idna==3.20", "could not be installed"),
    ],
)
def test_what_pip_says_becomes_a_sentence(output: str, sentence: str) -> None:
    error = bootstrap._install_error(output)
    assert sentence in error.message
    assert output in error.message
    assert error.exit_code == ExitCode.INFRASTRUCTURE


def test_an_old_python_can_read_it() -> None:
    source = Path(bootstrap.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    # 3.6 knows every syntax of 3.7 but one, which is an import.
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


def test_the_exit_codes_are_the_orchestrators() -> None:
    ours = (bootstrap.USAGE, bootstrap.INFRASTRUCTURE, bootstrap.CANCELLED)
    assert ours == (ExitCode.USAGE, ExitCode.INFRASTRUCTURE, ExitCode.CANCELLED)


def test_the_probe_names_what_the_lock_installs() -> None:
    locked = set(re.findall(r"^([A-Za-z0-9-]+)==", bootstrap.LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    imported = {name.replace("-", "_").replace("pyyaml", "yaml") for name in locked}
    assert imported == {*bootstrap.COMPILED, *bootstrap.PURE}
