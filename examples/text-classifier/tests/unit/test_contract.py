"""The transformer keeps the contract of pytest-mltiers: one test per property, from one description of the model."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from src.data import PAD_ID
from src.models import MyTransformerModel
from src.training import evaluate

mltiers = pytest.importorskip("pytest_mltiers", reason="pip install pytest-mltiers, or run the tiers with mltiers")

VOCABULARY, CLASSES, LENGTH = 50, 3, 9


def draw_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight texts of different lengths with their labels."""
    ids = torch.randint(PAD_ID + 1, VOCABULARY, (8, LENGTH))
    for row, length in enumerate((9, 9, 7, 5, 9, 3, 8, 6)):
        ids[row, length:] = PAD_ID
    return ids, torch.randint(0, CLASSES, (8,))


def pad(batch, extra):
    """The same texts with more padding."""
    ids, labels = batch
    return functional.pad(ids, (0, extra), value=PAD_ID), labels


class TestTransformer(mltiers.ModelContract):
    def subject(self):
        return mltiers.Subject(
            model=lambda: MyTransformerModel(VOCABULARY, hidden_size=32, num_layers=2, num_classes=CLASSES),
            batch=draw_batch,
            output_shape=("N", CLASSES),
            padding=lambda ids: ids == PAD_ID,
            pad=pad,
            ordered=True,
            loss=functional.cross_entropy,
            task="classification",
            classes=CLASSES,
            optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
            evaluate=lambda model, batch: evaluate(model, [{"input_ids": batch[0], "label": batch[1]}])["loss"],
        )
