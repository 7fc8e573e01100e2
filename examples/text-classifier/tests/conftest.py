"""Fixtures for every tier."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.models import FeatureClassifier
from src.training import build_and_train_tiny_model, set_seed

# The models here are so small that a second thread costs more than it brings, and xdist uses the other cores.
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")


@pytest.fixture
def device() -> torch.device:
    """CUDA where there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def fixed_seed() -> Iterator[int]:
    """Every generator seeded alike, and put back afterwards: no test depends on the one before it."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    set_seed(1234)
    yield 1234
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


@pytest.fixture
def tiny_model(device: torch.device, fixed_seed: int) -> nn.Module:
    """32 features → 4 classes."""
    return FeatureClassifier(in_features=32, num_classes=4, hidden_size=16).to(device)


@pytest.fixture
def small_batch(device: torch.device) -> dict[str, torch.Tensor]:
    """``inputs`` (8, 32) and ``labels`` (8,), the same in every test."""
    generator = torch.Generator().manual_seed(99)
    return {
        "inputs": torch.randn(8, 32, generator=generator).to(device),
        "labels": torch.randint(0, 4, (8,), generator=generator).to(device),
    }


@pytest.fixture(scope="session")
def trained_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the bare ``state_dict`` of the tiny model, trained once."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(build_and_train_tiny_model().state_dict(), path)
    return path
