"""Six small tensor jobs."""

import torch
from torch.nn import functional

from small.load import STEPS

Tensor = torch.Tensor


def product(x: Tensor) -> Tensor:
    for _ in STEPS:
        y = x @ x
    return y


def attention(x: Tensor) -> Tensor:
    for _ in STEPS:
        y = functional.softmax(x @ x.T, dim=-1) @ x
    return y


def perceptron(x: Tensor, weight: Tensor) -> Tensor:
    for _ in STEPS:
        y = functional.gelu(functional.layer_norm(x, x.shape[-1:]) @ weight)
    return y


def convolution(x: Tensor, kernel: Tensor) -> Tensor:
    for _ in STEPS:
        y = functional.conv1d(x, kernel)
    return y


def pooled(table: Tensor, ids: Tensor) -> Tensor:
    for _ in STEPS:
        y = functional.embedding(ids, table).mean(dim=1)
    return y


def gradient(x: Tensor, weight: Tensor) -> Tensor:
    for _ in STEPS:
        loss = (x @ weight).square().mean()
        (grad,) = torch.autograd.grad(loss, weight)
    return grad
