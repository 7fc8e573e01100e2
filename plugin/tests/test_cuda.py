"""The checks and fixtures on a CUDA device: same verdicts, no false alarm from its atomics and kernels."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

from pytest_mltiers import Subject  # noqa: E402
from pytest_mltiers.contract import examine  # noqa: E402
from pytest_mltiers.randomness import seeded  # noqa: E402

from benchmarks import zoo  # noqa: E402
from benchmarks.zoo import tabular, vision  # noqa: E402

# Correct twins whose code creates no tensors on the CPU in forward.
CORRECT = {
    "mlp": tabular.mlp,
    "regression": tabular.regression,
    "gaussian": tabular.gaussian,
    "two heads": tabular.multitask,
    "clipping": lambda: tabular.clipping(zoo.tabular.steps.clipped),
    "accumulating": lambda: tabular.accumulating(zoo.tabular.steps.accumulating),
    "scheduling": lambda: tabular.scheduling(zoo.tabular.steps.scheduled),
    "cnn": vision.cnn,
    "fine-tuning": vision.fine_tuning,
    "autoencoder": vision.autoencoder,
}
MUTANTS = ("missing-zero-grad", "mlp-softmax-over-rows", "cnn-always-batch-statistics", "cnn-dropout-always-on")


def on_cuda(parts) -> Subject:
    return dataclasses.replace(Subject(**parts), device="cuda")


@pytest.mark.parametrize("name", CORRECT)
def test_no_false_alarms(name):
    for seed in range(5):
        with seeded(seed):
            subject = on_cuda(CORRECT[name]())
        alarms = [(o.name, o.message) for o in examine(subject, seed=seed) if o.status == "failed"]
        assert not alarms, f"seed {seed}"


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name):
    entry = next(e for e in zoo.ENTRIES if e.name == name)
    assert any(o.status == "failed" for o in examine(on_cuda(entry.mutant())))


def test_the_fixtures_know_the_gpu(run_suite):
    run = run_suite(
        """
        import pytest, torch

        @pytest.fixture(scope="module")
        def outside():
            torch.cuda.manual_seed_all(4)
            torch.rand(3, device="cuda")
            return torch.cuda.get_rng_state()

        def test_a(outside, fixed_seed, device):
            assert device.type == "cuda"
            torch.rand(100, device=device)
            torch.backends.cudnn.benchmark = True

        def test_b(outside):
            assert torch.equal(torch.cuda.get_rng_state(), outside)
            assert not torch.backends.cudnn.benchmark

        @pytest.mark.gpu
        @pytest.mark.gpu_memory("1MiB")
        def test_small():
            torch.empty(1000, device="cuda")

        @pytest.mark.gpu_memory("1MiB")
        def test_large():
            torch.empty(10_000_000, device="cuda")
        """
    )
    outcomes = {e["nodeid"].partition("::")[2]: e["outcome"] for e in run.of("phase", phase="call")}
    assert outcomes == {"test_a": "passed", "test_b": "passed", "test_small": "passed", "test_large": "failed"}
    assert "bytes on cuda:0, the limit is 1,048,576" in run.out
