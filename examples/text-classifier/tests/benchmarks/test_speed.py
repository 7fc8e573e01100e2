"""How fast the parts that serving pays for are, on one core. pytest-benchmark measures, nothing is asserted of time."""

from __future__ import annotations

import pytest
import torch

from src.data import HashingTokenizer, build_tokenizer, make_topic_corpus
from src.models import MyTransformerModel
from src.training import FocalLoss

TEXTS = make_topic_corpus(64, seed=0)[0]

pytestmark = pytest.mark.benchmark(min_rounds=20, warmup=True, warmup_iterations=5)


@pytest.fixture
def model(fixed_seed: int) -> MyTransformerModel:
    return MyTransformerModel(vocab_size=512, hidden_size=64, num_layers=2, num_classes=4).eval()


@pytest.mark.parametrize(("batch", "length"), [(1, 32), (32, 32)], ids=["one text", "32 texts"])
def test_forward(benchmark, model, batch, length):
    ids = torch.randint(1, 512, (batch, length))
    with torch.inference_mode():
        logits = benchmark(model, ids)
    assert logits.shape == (batch, 4)


def test_forward_and_backward(benchmark, model):
    ids, labels = torch.randint(1, 512, (16, 32)), torch.arange(16) % 4
    loss_fn = FocalLoss()

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        loss = loss_fn(model(ids), labels)
        loss.backward()
        return loss

    assert torch.isfinite(benchmark(step))


@pytest.mark.parametrize("tokenizer", [build_tokenizer(TEXTS), HashingTokenizer()], ids=["learned", "hashing"])
def test_tokenizer(benchmark, tokenizer):
    encoded = benchmark(lambda: [tokenizer.encode(text) for text in TEXTS])
    assert all(encoded)


def test_focal_loss(benchmark, fixed_seed):
    logits, targets = torch.randn(4096, 4), torch.arange(4096) % 4
    assert benchmark(FocalLoss(), logits, targets) > 0
