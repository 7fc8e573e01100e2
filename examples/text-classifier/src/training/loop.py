"""Training and evaluation over batches of a ``TextDataset``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

Batches = Iterable[Mapping[str, torch.Tensor]]


def set_seed(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators, CUDA's included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def train(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float = 2e-3,
    loss_fn: nn.Module | None = None,
    max_norm: float = 1.0,
) -> list[float]:
    """Trains ``model`` where it is, with AdamW and clipped gradients; returns the mean loss of every epoch.

    ``batches`` is gone through once per epoch (a DataLoader shuffles it). The model is called with token ids alone
    and is left in training mode. Raises ValueError where there is nothing to train on, and FloatingPointError at the
    first loss that is not finite, before it reaches the weights.
    """
    device = next(model.parameters()).device
    loss_fn = loss_fn or nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    model.train()
    history = []
    for epoch in range(epochs):
        total, count = 0.0, 0
        for batch in batches:
            labels = batch["label"].to(device)
            loss = loss_fn(model(batch["input_ids"].to(device)), labels)
            value = loss.item()
            if not np.isfinite(value):
                raise FloatingPointError(f"the loss of epoch {epoch} became {value}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            total, count = total + value * len(labels), count + len(labels)
        if not count:
            raise ValueError("there is nothing to train on: no batches")
        history.append(total / count)
    return history


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> dict[str, Any]:
    """``loss`` (mean cross entropy), ``accuracy`` and ``count``, measured in eval mode; the mode is put back after.

    Raises ValueError where there is nothing to measure.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss, correct, count = 0.0, 0, 0
    try:
        for batch in batches:
            labels = batch["label"].to(device)
            logits = model(batch["input_ids"].to(device))
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(dim=-1) == labels).sum())
            count += len(labels)
    finally:
        model.train(was_training)
    if not count:
        raise ValueError("there is nothing to evaluate: no batches")
    return {"loss": loss / count, "accuracy": correct / count, "count": count}
