"""What only a CUDA device can show. Each test computes there and says so by what it checks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from src.data import TextDataset, make_topic_corpus
from src.inference import Predictor
from src.models import MyTransformerModel
from src.models.cuda_ops import CapturedForward
from src.training import evaluate, set_seed, train

pytestmark = pytest.mark.gpu

VOCAB, CLASSES = 512, 4


@pytest.fixture
def model(fixed_seed: int) -> MyTransformerModel:
    """On the CPU, in eval mode."""
    return MyTransformerModel(VOCAB, hidden_size=64, num_layers=2, num_classes=CLASSES).eval()


@pytest.fixture
def ids(fixed_seed: int) -> torch.Tensor:
    """(16, 40) with padding of different lengths, on the CPU."""
    ids = torch.randint(1, VOCAB, (16, 40))
    for row, length in enumerate(range(5, 37, 2)):
        ids[row, length:] = 0
    return ids


def test_cuda_and_cpu_agree(model, ids):
    expected = model(ids)
    logits = model.cuda()(ids.cuda())
    assert logits.is_cuda
    assert torch.cuda.max_memory_allocated() > 0
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_gradients_on_cuda_and_cpu_agree(model, ids):
    labels = torch.arange(16) % CLASSES

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        device = next(model.parameters()).device
        nn.functional.cross_entropy(model(ids.to(device)), labels.to(device)).backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients()
    model.cuda()
    found = gradients()
    assert all(gradient.is_cuda for gradient in found)
    for gradient, on_cpu in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.cpu(), on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_mixed_precision_stays_close(model, ids, dtype):
    if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
        pytest.skip("this CUDA device has no bfloat16")
    model, ids = model.cuda(), ids.cuda()
    with torch.no_grad():
        expected = model(ids)
        with torch.autocast("cuda", dtype=dtype):
            logits = model(ids)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


def test_padding_alone_is_finite_on_cuda(model):
    """CUDA's attention kernels treat a row without any visible key in their own way."""
    logits = model.cuda()(torch.zeros(4, 12, dtype=torch.long, device="cuda"))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_training_on_cuda_learns(tmp_path: Path, fixed_seed):
    """And what it learned is served on a machine without CUDA. Chance is 0.25; the worst of 32 seeds was 0.95."""
    set_seed(3)
    loader = DataLoader(TextDataset(*make_topic_corpus(1024, seed=1), max_length=16), batch_size=32, shuffle=True)
    model = MyTransformerModel(VOCAB, hidden_size=32, num_layers=1, num_classes=CLASSES).cuda()
    history = train(model, loader, epochs=5, learning_rate=3e-3)
    assert history[-1] < 0.5 * history[0]
    assert all(p.is_cuda for p in model.parameters())
    texts, labels = make_topic_corpus(256, seed=912)
    accuracy = evaluate(model, DataLoader(TextDataset(texts, labels, max_length=16), batch_size=64))["accuracy"]
    assert accuracy > 0.85

    torch.save(model.state_dict(), tmp_path / "model.pt")
    on_cpu, on_cuda = Predictor(tmp_path / "model.pt"), Predictor(tmp_path / "model.pt", device="cuda")
    assert next(on_cuda.model.parameters()).is_cuda
    for cpu, cuda in zip(on_cpu.predict_batch(texts), on_cuda.predict_batch(texts), strict=True):
        assert cpu["confidence"] == pytest.approx(cuda["confidence"], abs=1e-3)
        assert cpu["label"] == cuda["label"] or cpu["confidence"] < 0.51


def test_training_does_not_hold_on_to_memory(ids, model):
    """The classic leak: a loss kept with its graph. After the first steps, the memory in use must not grow."""
    model = model.cuda().train()
    batch = {"input_ids": ids, "label": torch.arange(16) % CLASSES}
    train(model, [batch], epochs=2)
    before = torch.cuda.memory_allocated()
    train(model, [batch] * 30, epochs=1)
    assert torch.cuda.memory_allocated() <= before + 2**16


def test_a_captured_graph_gives_what_the_model_gives(model, ids):
    model, ids = model.cuda(), ids.cuda()
    captured = CapturedForward(model, ids)
    with torch.no_grad():
        for batch in (ids, ids.flip(0), torch.randint_like(ids, 1, VOCAB)):
            torch.testing.assert_close(captured(batch), model(batch), rtol=1e-4, atol=1e-5)


def test_a_captured_graph_keeps_earlier_results_and_sees_new_weights(model, ids):
    model, ids = model.cuda(), ids.cuda()
    captured = CapturedForward(model, ids)
    first = captured(ids)
    kept = first.clone()
    with torch.no_grad():
        model.head.bias += 1.0
    torch.testing.assert_close(captured(ids), kept + 1.0, rtol=1e-4, atol=1e-5)
    assert torch.equal(first, kept)


def test_a_graph_that_could_not_be_right_is_refused(model, ids):
    with pytest.raises(ValueError, match="on a CUDA device"):
        CapturedForward(model, ids)
    model, ids = model.cuda(), ids.cuda()
    with pytest.raises(ValueError, match="eval mode"):
        CapturedForward(model.train(), ids)
    captured = CapturedForward(model.eval(), ids)
    with pytest.raises(ValueError, match=r"captured for inputs of shape \(16, 40\), got \(16, 39\)"):
        captured(ids[:, :39])
