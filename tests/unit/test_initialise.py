"""`mltiers init`: what it finds in a repository, what it drafts, and what it says where there are no tests."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from _pytest.mark.expression import Expression
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.hands.initialise import RepositoryFacts, plan_init, run_init, scan
from orchestrator.hands.initialise.facts import Case, PytestSettings, PythonFile, read_python
from orchestrator.hands.initialise.tiers import draft_tiers, is_inside
from orchestrator.mind.config import Config, Tier, parse_config
from orchestrator.words.errors import ExitCode, UsageError

STARTER = (Path(__file__).parents[2] / "workflows" / "pull-request.yml").read_text(encoding="utf-8")
TEST = "def test_one():\n    pass\n"


def marked(*markers: str) -> str:
    return "import pytest\n" + "".join(f"@pytest.mark.{marker}\n" for marker in markers) + TEST


EXAMPLE = {
    "pyproject.toml": "[build-system]\nrequires = []\n[tool.pytest.ini_options]\n"
    'testpaths = ["tests"]\nmarkers = ["slow: minutes", "gpu: needs CUDA", "nightly"]\n',
    "requirements.txt": "torch\n",
    "src/data/features.py": "def normalize_features(x):\n    return x\n",
    "src/models/net.py": "import torch\nclass Net(torch.nn.Module):\n    pass\n",
    "tests/conftest.py": "",
    "tests/unit/test_data.py": TEST + "def test_two():\n    pass\n",
    "tests/unit/test_model.py": marked("slow") + "def test_quick():\n    pass\n",
    "tests/integration/test_training.py": marked("convergence") + "def test_short():\n    pass\n",
    "tests/regression/test_golden.py": TEST,
    "tests/benchmarks/test_speed.py": "def test_speed(benchmark):\n    benchmark(len, [])\n",
    "tests/unit/test_cuda.py": "import pytest\npytestmark = pytest.mark.gpu\n" + TEST,
}


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def drafted(facts: RepositoryFacts) -> Config:
    return parse_config(plan_init(facts, starter=STARTER).files[0][1], filename="ml-tiers.yml")


def run(root: Path, *, dry_run: bool = False, force: bool = False) -> str:
    out = io.StringIO()
    assert run_init(root, dry_run=dry_run, force=force, out=out) is ExitCode.PASSED
    return out.getvalue()


# --- reading a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "cases", "markers"),
    [
        (TEST, [set()], set()),
        ("async def test_x(): pass", [set()], set()),
        ("def helper(): pass\ndef testable(): pass", [set()], set()),
        (marked("slow", "skip", "parametrize('a', [1])"), [{"slow"}], {"slow"}),
        ("from pytest import mark\n@mark.gpu\ndef test_x(): pass", [{"gpu"}], {"gpu"}),
        ("import pytest\npytestmark = [pytest.mark.gpu, pytest.mark.skipif(True)]\n" + TEST, [{"gpu"}], {"gpu"}),
        (
            "import pytest\n@pytest.mark.slow\nclass TestA:\n    @pytest.mark.gpu\n    def test_x(self): pass\n"
            "    def test_y(self): pass\n    def other(self): pass\n    class TestB:\n        def test_z(self): pass\n",
            [{"slow", "gpu"}, {"slow"}, {"slow"}],
            {"slow", "gpu"},
        ),
        ("import unittest\nclass Old(unittest.TestCase):\n    def test_x(self): pass", [set()], set()),
        ("class NotATest:\n    def test_x(self): pass", [], set()),
        (
            "import pytest\n@pytest.mark.parametrize('d', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])\n"
            "def test_x(d): pass",
            [set()],
            {"gpu"},
        ),
        ("", [], set()),
    ],
)
def test_cases_and_markers_of_a_file(source: str, cases: list[set[str]], markers: set[str]) -> None:
    file = read_python("tests/test_x.py", source)
    assert [set(case.markers) for case in file.cases] == cases
    assert file.markers == markers
    assert file.problem is None


def test_benchmark_fixture_is_seen() -> None:
    file = read_python("t.py", "def test_a(benchmark): pass\ndef test_b(): pass\ndef helper(benchmark): pass\n")
    assert [case.benchmark for case in file.cases] == [True, False]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def test_x(:\n", "SyntaxError, line 1"),
        ("print 'python 2'\n", "SyntaxError, line 1"),
        ("a\x00b", "SyntaxError|ValueError"),
        ("(" * 5_000 + ")" * 5_000, "SyntaxError|MemoryError|RecursionError"),
    ],
)
def test_what_python_cannot_parse_is_a_problem_of_the_file(source: str, problem: str) -> None:
    file = read_python("tests/test_x.py", source)
    assert re.match(problem, file.problem or "")
    assert not file.cases


def test_findings_name_what_deserves_a_test() -> None:
    source = (
        "import torch\nfrom torch import nn\nfrom torch.utils.data import Dataset\n"
        "def normalize_features(x): ...\ndef _normalize(x): ...\ndef plot(x): ...\ndef focal_loss(x): ...\n"
        "class Net(nn.Module): ...\nclass FocalLoss(nn.Module): ...\nclass Texts(Dataset[int]): ...\n"
        "class Config: ...\n"
        "def train_step(): ...\ndef predict_batch(): ...\nasync def tokenize(): ...\nclass Predictor: ...\n"
        "class _Layer(nn.Module): ...\n"
    )
    found = {(finding.kind, finding.name, finding.line) for finding in read_python("src/a.py", source).findings}
    assert found == {
        ("data", "normalize_features", 4),
        ("loss", "focal_loss", 7),
        ("model", "Net", 8),
        ("loss", "FocalLoss", 9),
        ("data", "Texts", 10),
        ("training", "train_step", 12),
        ("inference", "predict_batch", 13),
        ("data", "tokenize", 14),
        ("inference", "Predictor", 15),
    }


# --- the draft -----------------------------------------------------------------------------------------------------


def test_draft_of_a_repository_like_the_example(tmp_path: Path) -> None:
    config = drafted(scan(write(tmp_path, EXAMPLE)))
    assert config.source == ("src",)
    cheap = "not gpu and not convergence and not slow"
    assert {name: (tier.paths, tier.markers) for name, tier in config.tiers.items()} == {
        "unit": (("tests/unit",), cheap),
        "integration": (("tests/integration",), cheap),
        "regression": (("tests/regression",), cheap),
        "speed": (("tests/benchmarks",), cheap),
        "convergence": (("tests",), "convergence and not gpu"),
        "slow": (("tests",), "slow and not convergence and not gpu"),
        "gpu": (("tests",), "gpu"),
    }
    assert config.tiers["speed"].benchmark is not None
    assert config.tiers["gpu"].runner == ("self-hosted", "linux", "cuda")
    assert config.tiers["gpu"].gpus == 1
    assert config.tiers["gpu"].when == ("nightly", "pre-merge")
    assert not config.tiers["convergence"].required


def test_draft_names_counts_and_what_it_left_aside(tmp_path: Path) -> None:
    write(
        tmp_path, {**EXAMPLE, "tests/unit/test_other.py": marked("flaky_network"), ".github/workflows/ci.yml": "pytest"}
    )
    plan = plan_init(scan(tmp_path), starter=STARTER)
    text = plan.files[0][1]
    assert "# A first draft by `mltiers init`, from 10 test functions in 7 files" in text
    assert "every push waits for. (4 test functions found)" in text
    assert "# Markers in use that no tier singles out: flaky_network." in text
    assert "note: .github/workflows/ci.yml runs tests as well; the same ones would run twice" in plan.message
    if sys.version_info >= (3, 11):
        assert "# Registered, but on no test that was found: nightly." in text
    assert "$schema=https://raw.githubusercontent.com/org/ml-test-action/v1/docs/ml-tiers.schema.json" in text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"test_a.py": TEST}, {"unit": ("test_a.py",)}, id="one file"),
        pytest.param({"tests/test_a.py": TEST}, {"unit": ("tests",)}, id="flat"),
        pytest.param(
            {"tests/test_a.py": TEST, "tests/integration/test_b.py": TEST},
            {"unit": ("tests", "--ignore=tests/integration"), "integration": ("tests/integration",)},
            id="flat and a folder",
        ),
        pytest.param(
            {"tests/integration/test_b.py": TEST, "tests/integration/gpu/test_c.py": TEST, "tests/test_a.py": TEST},
            {
                "unit": ("tests", "--ignore=tests/integration"),
                "integration": ("tests/integration", "--ignore=tests/integration/gpu"),
                "gpu": ("tests/integration/gpu",),
            },
            id="gpu folder inside",
        ),
        pytest.param(
            {"tests/gpu/test_a.py": TEST, "tests/test_b.py": marked("cuda")},
            {"gpu": ("tests/gpu",), "gpu-marked": ("tests", "--ignore=tests/gpu")},
            id="gpu folder and marker",
        ),
        pytest.param(
            {"pkg/training/test_loop.py": TEST, "pkg/gpu/tests/test_x.py": TEST},
            {"unit": ("pkg/gpu/tests", "pkg/training")},
            id="folders of code say nothing",
        ),
        pytest.param({"benchmarks/test_a.py": TEST}, {"speed": ("benchmarks",)}, id="top-level benchmarks"),
        pytest.param(
            {"tests/test_a.py": "def test_a(benchmark): pass\ndef test_b(): pass"},
            {"unit": ("tests",), "speed": ("tests/test_a.py", "--benchmark-only")},
            id="benchmarks among tests",
        ),
        pytest.param(
            {"tests/unit/test_a.py": marked("slow"), "tests/integration/test_b.py": TEST},
            {"integration": ("tests/integration",), "slow": ("tests",)},
            id="no tier without a test",
        ),
        pytest.param(
            {"tests/test_a.py": marked("slow", "gpu")}, {"gpu": ("tests",)}, id="slow only where there is a GPU"
        ),
        pytest.param(
            {"tests/test_a.py": marked("parametrize('x', [pytest.param(1, marks=pytest.mark.gpu)])")},
            {"unit": ("tests",), "gpu": ("tests",)},
            id="a marker on a parameter",
        ),
        pytest.param({"tests/convergence/test_a.py": TEST}, {"convergence": ("tests/convergence",)}, id="convergence"),
    ],
)  # fmt: skip
def test_tiers_of(tmp_path: Path, files: dict[str, str], expected: dict[str, tuple[str, ...]]) -> None:
    tiers = drafted(scan(write(tmp_path, files))).tiers
    assert {name: (*tier.paths, *tier.args) for name, tier in tiers.items()} == expected


NAMES = st.sampled_from(
    ["tests", "unit", "integration", "gpu", "src", "benchmarks", "convergence", "a b", "тест", "it's", "a,b]", "#x",
     "-dash", "we*rd", "c:d", "true", "a: b", "~", "*", "&x", "${{ x }}", "\udcff", "new\nline", "tab\t", "null", "1.5",
     "x::y", " lead"]
)  # fmt: skip
MARKERS = st.frozensets(st.sampled_from(["gpu", "cuda", "slow", "convergence", "other"]), max_size=3)
FILES = st.builds(
    lambda folders, name, cases: PythonFile(
        path="/".join([*folders, f"test_{name}.py"]),
        cases=tuple(cases),
        markers=frozenset(marker for case in cases for marker in case.markers),
    ),
    st.lists(NAMES, max_size=4),
    st.sampled_from(["a", "b", "ü", "we*rd"]),
    st.lists(st.builds(Case, markers=MARKERS, benchmark=st.booleans()), min_size=1, max_size=3),
)


def collects(tier: Tier, path: str, case: Case) -> bool:
    """Whether pytest, told what the tier says, would run this test."""
    ignored = [argument.removeprefix("--ignore=") for argument in tier.args if argument.startswith("--ignore=")]
    if not is_inside(path, tier.paths) or is_inside(path, ignored):
        return False
    if "--benchmark-only" in tier.args and not case.benchmark:
        return False
    return not tier.markers or Expression.compile(tier.markers).evaluate(lambda marker, **_: marker in case.markers)


@settings(max_examples=400)
@given(st.lists(FILES, min_size=1, max_size=6, unique_by=lambda file: file.path), NAMES)
def test_every_draft_is_valid_and_leaves_no_test_out(files: list[PythonFile], prefix: str) -> None:
    facts = RepositoryFacts(files=tuple(files), test_paths=frozenset(file.path for file in files), prefix=prefix)
    plan = plan_init(facts, starter=STARTER)
    config = parse_config(plan.files[0][1], filename="ml-tiers.yml")
    for _, text in plan.files[1:]:
        assert yaml.safe_load(text)["jobs"]["tests"]["steps"][-1]["with"]["config"] == f"{prefix}/ml-tiers.yml"
    for tier in draft_tiers(facts):
        assert tier.count(facts) > 0
    for file in files:
        for case in file.cases:
            assert any(collects(tier, file.path, case) for tier in config.tiers.values()), (file.path, case)


# --- the workflow --------------------------------------------------------------------------------------------------


def test_workflow_is_the_starter_with_this_repository_in_it(tmp_path: Path) -> None:
    write(tmp_path, {**EXAMPLE, ".git/refs/remotes/origin/HEAD": "ref: refs/remotes/origin/develop\n"})
    run(tmp_path)
    text = (tmp_path / ".github/workflows/pull-request.yml").read_text(encoding="utf-8")
    ours, starter = yaml.safe_load(text), yaml.safe_load(STARTER)
    assert ours[True]["push"]["branches"] == ["develop"]  # `on` is a boolean to YAML 1.1
    install = ours["jobs"]["tests"]["steps"][2].pop("run")
    assert install == "python -m pip install -r requirements.txt -e . pytest pytest-xdist pytest-cov pytest-benchmark"
    starter["jobs"]["tests"]["steps"][2].pop("run")
    assert ours["jobs"] == starter["jobs"]
    assert ours["permissions"] == starter["permissions"]
    assert not re.search(r"\bmain\b|Copy to", text)


@pytest.mark.parametrize(
    ("git", "branch"),
    [
        ({".git/HEAD": "ref: refs/heads/x"}, "main"),
        ({".git/refs/heads/master": "0" * 40}, "master"),
        ({".git/packed-refs": f"{'0' * 40} refs/heads/master\n"}, "master"),
        ({".git/refs/heads/master": "0" * 40, ".git/refs/heads/main": "0" * 40}, "main"),
        ({".git/refs/remotes/origin/HEAD": "ref: refs/remotes/origin/$(x)"}, "main"),
        ({".git": "gitdir: elsewhere"}, "main"),
        ({}, "main"),
    ],
)
def test_default_branch(tmp_path: Path, git: dict[str, str], branch: str) -> None:
    assert scan(write(tmp_path, {**git, "test_a.py": TEST})).default_branch == branch


def test_a_project_below_the_top_of_its_repository(tmp_path: Path) -> None:
    write(tmp_path, {".git/HEAD": ""})
    run(write(tmp_path / "my: project's #1", EXAMPLE))
    steps = yaml.safe_load((tmp_path / ".github/workflows/pull-request.yml").read_text(encoding="utf-8"))["jobs"][
        "tests"
    ]["steps"]
    folder = "my: project's #1"
    assert steps[-1]["with"] == {"config": f"{folder}/ml-tiers.yml"}
    quoted = folder.replace("'", "'\"'\"'")
    assert steps[2]["run"].startswith(
        f"python -m pip install -r '{quoted}/requirements.txt' -e './{quoted}' pytest "
    )  # fmt: skip
    assert (tmp_path / folder / "ml-tiers.yml").is_file()


def test_a_project_without_requirements_is_told(tmp_path: Path) -> None:
    said = run(write(tmp_path, {"tests/test_a.py": TEST}))
    assert "note: nothing that pip could install was found" in said
    text = (tmp_path / ".github/workflows/pull-request.yml").read_text(encoding="utf-8")
    assert "pip install pytest pytest-xdist" in text


# --- scanning ------------------------------------------------------------------------------------------------------


def test_odd_files_neither_stop_the_scan_nor_go_unmentioned(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "tests/unit tests/test_ü.py": TEST,
            "tests/test_broken.py": "def test_x(:\n",
            "tests/test_latin.py": "# -*- coding: latin-1 -*-\n# é\n".encode("latin-1") + TEST.encode(),
            "tests/test_undeclared.py": "# é\n".encode("latin-1") + TEST.encode(),
            "tests/test_wrong_codec.py": b"# -*- coding: no-such-codec -*-\n" + TEST.encode(),
            "tests/test_huge.py": b"#" * 1_000_001,
            "tests/test_nul.py": b"\x00",
            "venv/pyvenv.cfg": "",
            "venv/lib/test_installed.py": TEST,
            "myenv/pyvenv.cfg": "",
            "myenv/test_installed.py": TEST,
            ".hidden/test_h.py": TEST,
            "vendored/.git": "gitdir: x",
            "vendored/test_v.py": TEST,
            "tests/data/notes.txt": "def test_x(): pass",
        },
    )
    (tmp_path / "tests" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "tests" / "test_dangling.py").symlink_to("nowhere")
    (tmp_path / "tests" / "test_folder.py").mkdir()
    facts = scan(tmp_path)
    assert {file.path for file in facts.tests} == {"tests/unit tests/test_ü.py", "tests/test_latin.py"}
    noted = {note.partition(":")[0] for note in facts.notes}
    assert noted == {
        f"tests/test_{name}.py" for name in ("broken", "undeclared", "wrong_codec", "huge", "nul")
    }  # fmt: skip
    assert list(drafted(facts).tiers) == ["unit"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system refuses such names")
def test_a_file_name_that_is_not_unicode(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/tests/\xff")
    Path(folder).mkdir(parents=True)
    (Path(folder) / "test_a.py").write_text(TEST)
    (Path(folder) / "test_b.py").write_text("(")
    said = run(tmp_path)
    assert drafted(scan(tmp_path)).tiers["unit"].paths == ("tests",)
    assert "note: tests/?/test_b.py: not looked at (SyntaxError, line 1)" in said


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"pytest.ini": "[pytest]\ntestpaths = spec\npython_files = s_*.py\nmarkers =\n  slow: x\n  gpu(n): y\n"},
            PytestSettings(file="pytest.ini", testpaths=("spec",), python_files=("s_*.py",), markers=("slow", "gpu")),
            id="pytest.ini",
        ),
        pytest.param({"setup.cfg": "[tool:pytest]\ntestpaths = ./spec/ none\n"},
                     PytestSettings(file="setup.cfg", testpaths=("spec",)), id="setup.cfg"),
        pytest.param({"tox.ini": "[tox]\n[pytest]\nmarkers = slow\n"},
                     PytestSettings(file="tox.ini", markers=("slow",)), id="tox.ini"),
        pytest.param({"pytest.ini": "", "setup.cfg": "[tool:pytest]\nmarkers = slow\n"},
                     PytestSettings(file="pytest.ini"), id="an empty pytest.ini is one"),
        pytest.param({"setup.cfg": "not [an ini\n%%"}, PytestSettings(), id="broken ini"),
        pytest.param({"tox.ini": "[tox]\n"}, PytestSettings(), id="tox.ini of tox alone"),
    ],
)  # fmt: skip
def test_pytest_settings(tmp_path: Path, files: dict[str, str], expected: PytestSettings) -> None:
    assert scan(write(tmp_path, {**files, "spec/spec_a.py": TEST})).settings == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
@pytest.mark.parametrize(
    ("name", "text", "markers"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]\nmarkers = ['slow: x', 'gpu']", ("slow", "gpu")),
        ("pyproject.toml", "[tool.pytest.ini_options]\nmarkers = '''\nslow: x\ngpu'''", ("slow", "gpu")),
        ("pyproject.toml", "[tool.pytest]\nmarkers = ['slow']", ("slow",)),
        ("pytest.toml", "[pytest]\nmarkers = ['slow']", ("slow",)),
        ("pyproject.toml", "tool = 3", ()),
        ("pyproject.toml", "[broken", ()),
    ],
)
def test_pytest_settings_in_toml(tmp_path: Path, name: str, text: str, markers: tuple[str, ...]) -> None:
    facts = scan(write(tmp_path, {name: text, "test_a.py": TEST}))
    assert facts.settings.markers == markers
    assert bool(facts.notes) == (text == "[broken")


# --- the command ---------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_both_files_and_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, EXAMPLE)
    before = sorted(tmp_path.rglob("*"))
    said = run(tmp_path, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert said.startswith("--- ml-tiers.yml\n# yaml-language-server")
    assert "\n--- .github/workflows/pull-request.yml\n" in said
    assert "unit: 3 test functions, on push, pull_request" in said


@pytest.mark.parametrize("there", [["ml-tiers.yml"], [".github/workflows/pull-request.yml"]])
def test_nothing_is_overwritten_unless_forced(tmp_path: Path, there: list[str]) -> None:
    write(tmp_path, {**EXAMPLE, **dict.fromkeys(there, "mine")})
    with pytest.raises(UsageError, match="already; nothing was written") as caught:
        run_init(tmp_path, dry_run=False, force=False, out=io.StringIO())
    assert "--force" in str(caught.value)
    assert [(tmp_path / name).read_text() for name in there] == ["mine"]
    assert sum((tmp_path / name).exists() for name in ("ml-tiers.yml", ".github/workflows/pull-request.yml")) == 1
    assert f"--- {there[0]} (is there already)" in run(tmp_path, dry_run=True)
    said = run(tmp_path, force=True)
    assert "wrote ml-tiers.yml\nwrote .github/workflows/pull-request.yml\n" in said
    assert "mine" not in {(tmp_path / name).read_text(encoding="utf-8") for name in there}


def test_without_tests_it_says_what_to_test_first_and_writes_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "src/data/features.py": "def normalize_features(x): ...\n",
            "src/model.py": "import torch\n\nclass Net(torch.nn.Module): ...\nclass FocalLoss(torch.nn.Module): ...\n",
            "src/train.py": "".join(f"def train_{n}(): ...\n" for n in range(9)),
            "tests/conftest.py": "",
        },
    )
    before = sorted(tmp_path.rglob("*"))
    said = run(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert said.startswith("There are no tests here yet (no test functions in test_*.py or *_test.py).")
    order = [
        "Preprocessing",
        "normalize_features",
        "Shapes and gradients",
        "Net",
        "FocalLoss",
        "The overfit test",
        "train_0",
    ]
    places = [said.index(word) for word in order]
    assert places == sorted(places)
    assert "src/model.py:3  Net" in said
    assert "and 3 more" in said
    assert "inference" not in said


def test_an_empty_folder_gets_the_advice_too(tmp_path: Path) -> None:
    said = run(tmp_path)
    assert said.count("(nothing of the kind was recognized here by its name or base class)") == 3


def test_an_unwritable_place_is_a_usage_error(tmp_path: Path) -> None:
    write(tmp_path, {"test_a.py": TEST, ".github": "a file"})
    with pytest.raises(UsageError, match=r"pull-request\.yml cannot be written"):
        run(tmp_path, force=True)


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    write(tmp_path, {"tests/test_ü.py": "(", "tests/test_a.py": TEST})
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    run_init(tmp_path, dry_run=False, force=False, out=out)
    out.flush()
    assert b"note: tests/test_?.py: not looked at" in raw.getvalue()
