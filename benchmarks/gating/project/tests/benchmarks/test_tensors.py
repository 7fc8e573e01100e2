import pytest
import torch
from small import tensors


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_product(benchmark):
    benchmark(tensors.product, torch.randn(64, 64))


def test_attention(benchmark):
    benchmark(tensors.attention, torch.randn(48, 32))


def test_perceptron(benchmark):
    benchmark(tensors.perceptron, torch.randn(16, 64), torch.randn(64, 128))


def test_convolution(benchmark):
    benchmark(tensors.convolution, torch.randn(2, 4, 128), torch.randn(8, 4, 5))


def test_pooled(benchmark):
    benchmark(tensors.pooled, torch.randn(500, 32), torch.randint(500, (16, 32)))


def test_gradient(benchmark):
    benchmark(tensors.gradient, torch.randn(32, 32), torch.randn(32, 8, requires_grad=True))
