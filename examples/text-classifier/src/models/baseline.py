"""A classifier of numeric features: the baseline."""

from __future__ import annotations

import torch
from torch import nn


class FeatureClassifier(nn.Module):
    """(batch, ``in_features``) → logits (batch, ``num_classes``); without ``hidden_size`` a linear model."""

    def __init__(self, in_features: int, num_classes: int, hidden_size: int | None = None) -> None:
        super().__init__()
        self.layers = (
            nn.Linear(in_features, num_classes)
            if hidden_size is None
            else nn.Sequential(nn.Linear(in_features, hidden_size), nn.ReLU(), nn.Linear(hidden_size, num_classes))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)
