"""Fixtures, options and markers, in real pytest sessions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_mltiers import randomness

pytest.importorskip("torch")


def test_importing_the_plugin_imports_neither_torch_nor_numpy():
    code = (
        "import sys, pytest_mltiers, pytest_mltiers.fixtures, pytest_mltiers.subject, pytest_mltiers.contract\n"
        "from pytest_mltiers import checks, Subject, ModelContract\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(randomness.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_without_torch_a_check_says_how_to_get_it():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pytest_mltiers import checks\n"
        "checks.rate_at_least(2995, 2995, 0.999)\n"
        "checks.causal"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(randomness.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr.splitlines()[-1] == (
        'ImportError: checks.causal needs torch: pip install "pytest-mltiers[torch]"'
    )


def test_every_public_check_can_be_imported():
    from pytest_mltiers import checks

    for name in checks.__all__:
        assert callable(getattr(checks, name)), name
        assert getattr(checks, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no check 'nonsense'"):
        _ = checks.nonsense


def test_seeds_are_set_restored_and_shown(run_suite):
    run = run_suite(
        """
        import random
        import numpy, pytest, torch

        def draws():
            return random.random(), float(numpy.random.rand()), float(torch.rand(()))

        @pytest.fixture(scope="module")
        def outside():
            random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
            return draws(), random.getstate(), torch.get_rng_state()

        def test_first(outside, fixed_seed):
            assert fixed_seed == 0
            test_first.drawn = draws()
            torch.use_deterministic_algorithms(True)
            torch.set_default_dtype(torch.float64)
            raise RuntimeError("leaves with everything changed")

        def test_restored(outside):
            assert random.getstate() == outside[1]
            assert torch.equal(torch.get_rng_state(), outside[2])
            assert torch.get_default_dtype() == torch.float32
            assert not torch.are_deterministic_algorithms_enabled()

        def test_same_again(fixed_seed):
            assert draws() == test_first.drawn

        @pytest.mark.seed(5, seeds=3)
        def test_seeds(fixed_seed):
            assert fixed_seed in (5, 6), "seven"

        @pytest.mark.seed(9)
        def test_marker_alone():
            assert random.random() == random.Random(9).random()
        """,
        "-rA",
        "--strict-markers",
    )
    assert run.phases("test_restored")[1] == (1, "call", "passed")
    assert run.phases("test_same_again")[1] == (1, "call", "passed")
    assert run.phases("test_marker_alone")[1] == (1, "call", "passed")
    assert [run.phases(f"test_seeds[seed{n}]")[1][2] for n in (5, 6, 7)] == ["passed", "passed", "failed"]
    assert "failed under seed 7; @pytest.mark.seed(7) repeats it" in run.out
    (failed,) = run.of("phase", phase="call", nodeid="test_it.py::test_seeds[seed7]")
    assert "failed under seed 7" in failed["text"]


def test_a_wrong_seed_marker_is_a_usage_error(run_suite):
    run = run_suite("import pytest\n@pytest.mark.seed(1, sedes=2)\ndef test_a(): pass\n")
    assert run.code != 0
    assert "@pytest.mark.seed(n, seeds=k)" in run.out


def test_gpu_tests_skip_without_a_gpu_and_fail_where_one_was_promised(run_suite):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    suite = "import pytest\n@pytest.mark.gpu\ndef test_a(): pass\ndef test_b(): pass\n"
    skipped = run_suite(suite, "-rs")
    assert skipped.code == 0
    assert "needs a GPU: torch" in skipped.out
    promised = run_suite(suite, variables={"MLTIERS_GPUS": "2"})
    assert promised.code == 1
    assert "this tier promises 2 GPU(s), but torch" in promised.out
    assert promised.phases("test_b")[1] == (1, "call", "passed")


def test_device_golden_and_defaults(run_suite):
    suite = """
        from pytest_mltiers import checks

        def test_a(device, tiny_model, small_batch, golden):
            assert device.type == "cpu"
            inputs, targets = small_batch
            checks.batch_independent(tiny_model.to(device), inputs)
            golden.check("logits", tiny_model(inputs))
    """
    missing = run_suite(suite, "--device", "cpu")
    assert missing.code == 1
    assert "there is no golden 'logits'" in missing.out
    assert "golden.py" not in missing.out.replace("goldens", ""), "the traceback shows our own frames"
    assert run_suite(suite, "--device", "cpu", "--update-goldens").code == 0
    assert run_suite(suite, "--device", "cpu").code == 0
    unknown = run_suite(suite, "--device", "abacus")
    assert unknown.code == 1
    assert "--device abacus: torch cannot use it here" in unknown.out


def test_markers_and_options_have_help(run_suite):
    run = run_suite("def test_a(): pass\n", "--markers")
    for marker in ("slow", "gpu", "convergence", "gpu_memory(limit)", "seed(n, seeds=k)"):
        assert f"@pytest.mark.{marker}:" in run.out
    run = run_suite("def test_a(): pass\n", "--help")
    assert "--update-goldens" in run.out
    assert "--device" in run.out


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_numpys_range_is_refused(seed):
    with pytest.raises(ValueError, match="NumPy's range"):
        randomness.seed_everything(seed)
