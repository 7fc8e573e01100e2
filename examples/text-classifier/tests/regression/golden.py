"""What the golden file holds: measured anew by the tests, written by ``python -m tests.regression.golden``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from src.data import HashingTokenizer, TextDataset, build_tokenizer, make_topic_corpus, normalize_features
from src.models import MyTransformerModel
from src.training import ContrastiveLoss, FocalLoss, build_and_train_tiny_model, evaluate

PATH = Path(__file__).with_name("golden.json")
TEXTS = [
    "the striker and the goal",
    "simmer the garlic with butter",
    "a comet near the lunar orbit",
    "the drummer and the piano",
    "Hello, World! naïve 日本",
]


def tokens() -> dict[str, list[list[int]]]:
    """The ids of ``TEXTS``: a change makes every saved model useless."""
    learned = build_tokenizer(make_topic_corpus(200, seed=0)[0], vocab_size=320)
    return {"hashed": [HashingTokenizer().encode(t) for t in TEXTS], "learned": [learned.encode(t) for t in TEXTS]}


def numbers() -> dict[str, list[float]]:
    """Deterministic arithmetic on inputs that no random generator has touched."""
    ramp = torch.linspace(-2, 2, 12).reshape(4, 3)
    first, second = ramp.sin(), ramp.cos()
    model = MyTransformerModel(vocab_size=20, hidden_size=16, num_layers=2, num_classes=3).eval()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).add(index).mul(0.7).sin().mul(0.3).reshape(parameter.shape))
        logits = model(torch.tensor([[3, 7, 11, 0], [19, 1, 0, 0]]))
    targets = torch.tensor([0, 1, 2, 0])
    return {
        "focal loss": [FocalLoss(gamma)(ramp.exp(), targets).item() for gamma in (0.0, 2.0)],
        "contrastive loss": [ContrastiveLoss(2.0)(first, second, torch.tensor([1, 0, 1, 0])).item()],
        "normalized features": normalize_features(ramp.sin()).flatten().tolist(),
        "logits of set weights": logits.flatten().tolist(),
    }


def metrics() -> dict[str, float]:
    """How good the tiny model is after training, on texts that it has not seen."""
    unseen = DataLoader(TextDataset(*make_topic_corpus(512, seed=920), max_length=16), batch_size=64)
    measured = evaluate(build_and_train_tiny_model(), unseen)
    return {"accuracy": measured["accuracy"], "loss": measured["loss"]}


def read() -> dict[str, Any]:
    return json.loads(PATH.read_text(encoding="utf-8"))


def _lines(values: dict[str, Any]) -> str:
    """One line for each value, so that a diff shows what moved."""
    return ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    golden = {"tokens": tokens(), "numbers": numbers(), "metrics": metrics()}
    sections = (f'"{name}": {{\n{_lines(values)}\n}}' for name, values in golden.items())
    PATH.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")
