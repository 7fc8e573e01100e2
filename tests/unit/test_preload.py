"""What a suite imports, read from its text; and whether its workers may be forked."""

from __future__ import annotations

import pytest

from orchestrator.mind.preload import keeping, said, survey, warmth
from orchestrator.words.plan import PythonFacts, Suite, TierPlan, Warmth

PYTHON = PythonFacts(executable="python", version="3.11.7", pytest="9", xdist="3.8")


def look(files: dict[str, str], **kwargs: object) -> Suite:
    tests = [path for path in files if "test" in path]
    return survey(tests, files.get, roots=("", "src"), **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("import torch", ("torch",)),
        ("import os, torch.nn as nn, numpy  # both", ("torch.nn", "numpy")),
        ("from torch.utils import data\nfrom torch import nn", ("torch.utils", "torch")),
        ("from scipy import (\n    stats,\n    linalg,\n)", ("scipy",)),
        ("def test():\n    import torch", ()),
        ("if TYPE_CHECKING:\n    import torch", ()),
        ("try:\n    import torch\nexcept ImportError: pass", ()),
        ("import pytest, sys, typing", ()),
        ("importlib.import_module('x')\nimports = 3\nfrom_ = 4", ()),
        ('"""\nimport torch by hand\n"""', ("torch by hand",)),
    ],
)
def test_only_imports_at_the_left_margin_count(text: str, modules: tuple[str, ...]) -> None:
    assert look({"tests/test_it.py": text}).later == modules


def test_the_projects_files_are_followed_and_never_imported_ahead() -> None:
    found = look(
        {
            "tests/conftest.py": "import numpy",
            "tests/test_it.py": "from mine.sub import thing\nfrom . import helpers\nimport beside",
            "tests/helpers.py": "import pandas",
            "tests/beside.py": "import yaml",
            "src/mine/__init__.py": "import torch",
            "src/mine/sub/__init__.py": "from .deep import x",
            "src/mine/sub/deep.py": "import scipy.stats",
            "src/mine/sub/thing.py": "from .. import other",
            "src/mine/other.py": "import sklearn",
            "src/mine/unused.py": "import tensorflow",
        }
    )
    assert found.modules == ("numpy",)
    assert set(found.later) == {"torch", "pandas", "yaml", "scipy.stats", "sklearn"}
    assert set(found.own) == {"mine", "helpers", "beside", "conftest", "test_it"}


def test_a_package_of_tests_is_known_by_its_topmost_folder() -> None:
    found = look({"tests/__init__.py": "", "tests/torch/__init__.py": "", "tests/torch/test_numpy.py": "import torch"})
    assert "tests" in found.own
    assert "torch" not in found.own
    shadowed = look({"tests/torch/__init__.py": "", "tests/torch/test_it.py": "import torch"})
    assert "torch" in shadowed.own
    assert shadowed.later == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("os.environ['A'] = '1'", {"A"}),
        ("    os.environ.setdefault(\n    'A', '1')\nos.putenv('B', 'x')", {"A", "B"}),
        ("if os.environ['A'] == '1': pass", set()),
        ("x = os.environ['A']", set()),
    ],
)
def test_variables_that_the_suite_sets(text: str, names: set[str]) -> None:
    assert set(look({"test_it.py": text}).sets) == names


def test_what_pytest_is_asked_to_rewrite_is_left_to_it() -> None:
    text = "pytest.register_assert_rewrite('helperlib.asserts')\npytest_plugins = ['fixtures.db', \"other\"]\n"
    found = look(
        {"conftest.py": "", "test_it.py": text + "import helperlib\nimport torch\nimport named\n"},
        settings=["-p named.plugin"],
    )
    assert set(found.rewritten) == {"helperlib", "fixtures", "other", "named"}
    assert found.later == ("torch",)


COMPILES = "import torch\ndef test(): torch.compile(net)\n"
TRAINS = "from torch import nn, compile\ndef train(): ...\n"


@pytest.mark.parametrize(
    ("files", "ahead"),
    [
        ({"test_a.py": COMPILES + COMPILES}, True),
        ({"test_a.py": COMPILES, "test_b.py": COMPILES}, True),
        ({"test_a.py": "import torch\n@torch.compile\ndef a(): ...\ndef test(): torch._dynamo.reset()"}, True),
        # One test alone: its worker imports it while another one is busy.
        ({"test_a.py": COMPILES, "test_b.py": "import torch"}, False),
        # What compiles may be a helper, but one that the tests name.
        ({"test_a.py": "from mine.train import train", "test_b.py": "from mine import train"}, True),
        ({"test_a.py": "import mine", "test_b.py": "import mine.other"}, False),
        ({"test_a.py": "import torch", "test_b.py": "import torch", "conftest.py": COMPILES}, True),
        ({"test_a.py": "import re, torch\nA = re.compile('a')\nB = torch.compiler\ntorch.optim.SGD([])\n" * 2}, False),
        ({"test_a.py": COMPILES.replace("torch", "other") * 2}, False),
        ({"test_a.py": "import torch.onnx, torch.export, torch.utils.checkpoint\n" * 2}, False),
        ({"test_a.py": "import torch\n", "conftest.py": "from torch.utils.checkpoint import checkpoint"}, True),
    ],
)
def test_what_torch_imports_to_compile_is_known(files: dict[str, str], *, ahead: bool) -> None:
    package = {"mine/__init__.py": "import mine.train", "mine/train.py": TRAINS, "mine/other.py": "import torch"}
    found = look({**files, **package})
    assert ("torch._dynamo" in (*found.modules, *found.later)) == ahead


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tests/test_a.py": '@pytest.mark.gpu_memory("6GiB")\ndef test_a(): ...'}, True),
        ({"tests/conftest.py": "item.add_marker(pytest.mark.gpu_memory('1GiB'))", "tests/test_a.py": ""}, True),
        ({"tests/test_a.py": "from helpers import s", "helpers.py": "s = pytest.mark.gpu_memory('1GiB')"}, True),
        ({"tests/test_a.py": "@pytest.mark.gpu\ndef test_a(): ..."}, False),
        ({"tests/test_a.py": "", "src/unused.py": "gpu_memory"}, False),
    ],
)
def test_whether_tests_say_how_much_of_a_gpu_they_need(files: dict[str, str], *, expected: bool) -> None:
    assert look(files).gpu_memory is expected


SUITE = Suite(modules=("torch", "torch.nn", "numpy"), own=("mine",), sets=("A",))
DEFAULTS: dict[str, object] = {
    "wanted": "auto", "modules": "auto", "suite": SUITE, "python": PYTHON, "workers": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "warm workers: forked from one process that has imported what there is of torch, numpy"),
        ({"wanted": False}, None),
        ({"workers": 1}, "warm: forked from one process that has imported what there is of torch, numpy"),
        ({"suite": None}, "plain workers: only on Linux"),
        ({"python": PythonFacts(executable="p", version="3.9.1")}, "plain workers: Python 3.9.1 is older than 3.10"),
        ({"suite": Suite()}, "nothing is said"),
        ({"modules": ("jax",)}, "warm workers: forked from one process that has imported what there is of jax"),
    ],
)
def test_whether_workers_are_forked_and_why_not(changed: dict[str, object], expected: str | None) -> None:
    given = {**DEFAULTS, **changed}
    found = warmth(**given)  # type: ignore[arg-type]
    if expected is None:
        assert found is None
    else:
        assert found is not None
        told = said(found, workers=given["workers"])  # type: ignore[arg-type]
        assert (told or "nothing is said").startswith(expected)
        assert found.warm != expected.startswith("plain workers")


def test_true_takes_the_suites_variables_for_harmless() -> None:
    found = {wanted: warmth(**{**DEFAULTS, "wanted": wanted}) for wanted in ("auto", True)}  # type: ignore[arg-type]
    assert found["auto"] is not None
    assert found[True] is not None
    assert found["auto"].suite.sets == ("A",)
    assert found[True].suite.sets == ()


def tier(name: str, modules: str = "torch numpy", later: str = "torch._dynamo", **kwargs: object) -> TierPlan:
    suite = Suite(modules=tuple(modules.split()), later=tuple(later.split()), own=(name,), rewritten=("r" + name,))
    fields: dict[str, object] = {
        "run": True, "reason": "", "workers": 2, "command": ("python", "-m", "pytest"), "env": {"A": "1"},
        "warmth": Warmth(warm=True, reason="", suite=suite), **kwargs,
    }  # fmt: skip
    return TierPlan(name=name, **fields)  # type: ignore[arg-type]


COLD = Warmth(warm=False, reason="x")


@pytest.mark.parametrize(
    ("tiers", "served", "modules"),
    [
        # One tier: its controller must not wait for what only workers need; alone, for what it may not need.
        ([tier("a")], "a", "torch numpy"),
        ([tier("a", workers=1)], "a", "torch numpy"),
        ([tier("a", "", "jax", workers=1)], "a", "jax"),
        # Several: what all of them import.
        ([tier("a"), tier("b")], "a b", "torch numpy torch._dynamo"),
        ([tier("a"), tier("b", "numpy torch pandas", "")], "a b", "torch numpy"),
        ([tier("a"), tier("b", "jax", "numpy")], "a", "torch numpy"),
        ([tier("a", "torch", ""), tier("b", "numpy", "torch", workers=1)], "a b", "torch"),
        # One that imports nothing ahead comes last, and is served only where none does.
        ([tier("a", "", "", workers=1), tier("b")], "b", "torch numpy"),
        # There is time for more where another tier runs before it.
        ([tier("a", "", "", workers=1), tier("b", needs=("a",))], "b", "torch numpy torch._dynamo"),
        ([tier("a", "", "", workers=1), tier("b", "", "", needs=("a",))], "a b", ""),
        # Another Python, another environment, cold, elsewhere, not at all.
        ([tier("a"), tier("b", command=("other", "-m", "pytest"))], "a", "torch numpy"),
        ([tier("a"), tier("b", env={"A": "2"})], "a", "torch numpy"),
        ([tier("a", warmth=COLD), tier("b")], "b", "torch numpy"),
        ([tier("a", where="dispatched"), tier("b", run=False), tier("c")], "c", "torch numpy"),
        # One process has other threads than several workers; these gain more, but not more than two tiers do.
        ([tier("a", workers=1, env={}), tier("b")], "b", "torch numpy"),
        ([tier("a", workers=1, env={}), tier("b"), tier("c", workers=1, env={})], "a c", "torch numpy torch._dynamo"),
        ([tier("a", "", "", env={}), tier("b", "", "", env={}), tier("c")], "c", "torch numpy"),
        # The first to start is the one that it is made for.
        ([tier("a", "jax"), tier("b", priority=1)], "b", "torch numpy"),
        ([tier("a", "jax", needs=("b",)), tier("b")], "b", "torch numpy"),
        ([tier("a", warmth=None)], None, None),
        ([], None, None),
    ],
)
def test_what_is_kept_for_a_run_is_what_its_tiers_have_in_common(
    tiers: list[TierPlan], served: str | None, modules: str | None
) -> None:
    found = keeping(tiers)
    if served is None or modules is None:
        assert found is None
        return
    assert found is not None
    assert found.tiers == frozenset(served.split())
    assert found.modules == tuple(modules.split())
    assert set(found.own) == found.tiers
    assert set(found.rewritten) == {"r" + name for name in found.tiers}


def test_a_folder_without_init_that_a_test_imports_from_is_the_projects_own() -> None:
    files = {"tests/golden/test_it.py": "import numpy\nfrom tests.golden import helper\n", "tests/golden/helper.py": ""}
    found = survey(["tests/golden/test_it.py"], files.get, roots=[""])
    assert found.later == ("numpy",)
    assert "tests" in found.own
