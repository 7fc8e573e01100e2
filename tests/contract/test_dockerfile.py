"""The Dockerfile as far as reading it tells; tests/end_to_end/test_image.py builds it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stage(name: str) -> list[str]:
    """The instructions of a stage, comments and empty lines left out."""
    (body,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return [line for line in body.splitlines() if line and not line.startswith(("#", " "))]


def test_the_bases_are_arguments_with_pinned_defaults() -> None:
    defaults = dict(re.findall(r"^ARG (\w+_BASE)=(\S+)$", TEXT, re.MULTILINE))
    assert defaults.keys() == {"CPU_BASE", "CUDA_BASE"}
    for image in defaults.values():
        name, _, tag = image.rpartition(":")
        assert name.startswith("docker.io/")
        assert re.search(r"\d+\.\d+\.\d+|\d{8}", tag), tag
    assert set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) == {"${CPU_BASE}", "${CUDA_BASE}"}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_is_not_root_and_has_an_init(target: str) -> None:
    instructions = stage(target)
    assert 'ARG TORCH=""' in instructions
    assert instructions.index("USER runner") > instructions.index("RUN sh /wheels/install.sh")
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in instructions
    assert any(line.startswith("ENV PATH=/opt/tests/bin:$PATH") for line in instructions)


def test_both_targets_are_made_alike() -> None:
    def steps(target: str) -> list[str]:
        return [line for line in stage(target) if not line.startswith(("ENV", "ARG TORCH_INDEX"))]

    assert steps("cpu") == steps("cuda")


def test_the_context_has_what_the_wheels_are_made_of() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (included,) = re.findall(r"\[tool\.hatch\.build\.targets\.wheel\.force-include\]\n(.*?)\n\[", project, re.DOTALL)
    needed = {
        *re.findall(r'^"([^"]+)" =', included, re.MULTILINE),
        "orchestrator",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    assert len(needed) > 4
    assert {path.partition("/")[0] for path in needed} <= kept
    assert "docker" in kept
    assert "requirements/action.txt" in kept


def test_the_script_is_a_script() -> None:
    subprocess.run(["sh", "-n", ROOT / "docker" / "install.sh"], check=True)
