"""The tiers that `mltiers init` drafts, given to the real pytest: together they collect every test."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from orchestrator.hands.initialise import run_init
from orchestrator.mind.config import Tier, parse_config

PASSING = "def test_{name}():\n    pass\n"
FILES = {
    "pytest.ini": "[pytest]\nmarkers =\n    slow\n    gpu\naddopts = --strict-markers\n",
    "tests/test_flat.py": PASSING.format(name="flat"),
    "tests/unit/test_unit.py": PASSING.format(name="unit"),
    "tests/integration tests/test_odd.py": PASSING.format(name="odd"),
    "tests/integration/test_parts.py": "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\n"
    "def test_quick(): pass\n",
    "tests/integration/gpu/test_kernel.py": "def test_kernel(): pass\n",
    "tests/test_marked.py": "import pytest\npytestmark = pytest.mark.gpu\n"
    "@pytest.mark.slow\ndef test_both(): pass\ndef test_gpu(): pass\n"
    "@pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.slow)])\ndef test_parameters(x): pass\n",
    "tests/benchmarks/test_speed.py": "def test_speed(benchmark): benchmark(len, [])\n",
}


def collected(root: Path, *arguments: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def of_tier(tier: Tier) -> list[str]:
    return [*tier.paths, *(["-m", tier.markers] if tier.markers else []), *tier.args]


def test_the_drafted_tiers_collect_every_test_and_each_has_one(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run_init(tmp_path, dry_run=False, force=False, out=io.StringIO())
    config = parse_config((tmp_path / "ml-tiers.yml").read_bytes(), filename="ml-tiers.yml")
    tiers = {name: collected(tmp_path, *of_tier(tier)) for name, tier in config.tiers.items()}
    assert set().union(*tiers.values()) == collected(tmp_path)
    assert all(tiers.values())
    assert tiers["gpu"] == {"tests/integration/gpu/test_kernel.py::test_kernel"}
    assert tiers["integration"] == {"tests/integration/test_parts.py::test_quick"}
    assert tiers["speed"] == {"tests/benchmarks/test_speed.py::test_speed"}
    assert sum(len(tests) for tests in tiers.values()) == len(collected(tmp_path))  # and each test is in one tier
