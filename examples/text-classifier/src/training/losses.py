"""Losses for classes of unequal difficulty, and for pairs of embeddings."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class FocalLoss(nn.Module):
    """Cross entropy in which a sample counts by ``(1 - p) ** gamma``, p being the probability of its true class.

    ``gamma=0`` is cross entropy; the larger, the less the easy samples count (Lin et al., 2017, arXiv:1708.02002).
    Logits (batch, classes) and targets (batch,) → the mean over the batch.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, not {gamma}")
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = functional.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        # Rounding can bring p to 1 exactly, where the power of a gamma below 1 has an infinite derivative.
        miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return (miss**self.gamma * -log_p).mean()


class ContrastiveLoss(nn.Module):
    """Pulls pairs of the same class together, pushes others at least ``margin`` apart (Hadsell et al., 2006).

    Embeddings (batch, size) twice, and ``same`` (batch,), 1 or True where a pair belongs together → the mean of
    ``d²`` over those and of ``max(0, margin - d)²`` over the others, ``d`` being the Euclidean distance.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be positive, not {margin}")
        self.margin = margin

    def forward(self, first: torch.Tensor, second: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
        squared = (first - second).square().sum(dim=-1)
        # The square root has an infinite derivative at 0, where two embeddings coincide.
        distance = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
        apart = functional.relu(self.margin - distance).square()
        return torch.where(same.bool(), squared, apart).mean()
