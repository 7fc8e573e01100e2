"""Numeric features: counts of words, and columns brought to the same scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from src.data.tokenizer import PAD_ID, Tokenizer

Features = TypeVar("Features", torch.Tensor, np.ndarray)


def normalize_features(features: Features, reference: Features | None = None) -> Features:
    """Brings every column of ``features`` (rows, columns) to mean 0 and deviation 1; a constant column becomes 0.

    Mean and (population) deviation are those of ``reference`` where it is given: test data is normalized by the
    training data, never by itself. Takes and returns a torch tensor, which stays on its device, or a NumPy array;
    floating types are kept, integers become float32. Raises ValueError for anything but a matrix of finite numbers
    with at least one row.
    """
    if isinstance(features, np.ndarray):
        normalized = normalize_features(
            torch.from_numpy(features), None if reference is None else torch.as_tensor(reference)
        )
        return normalized.numpy()
    matrix = _matrix(features, "features")
    base = matrix if reference is None else _matrix(reference, "reference")
    if base.shape[1] != matrix.shape[1]:
        raise ValueError(f"reference has {base.shape[1]} columns, features have {matrix.shape[1]}")
    # Brought near 1 before anything is squared: 1e-200 and 1e200 would underflow and overflow.
    largest = base.abs().amax(dim=0)
    largest = torch.where(largest > 0, largest, 1.0)
    matrix, base = matrix / largest, base / largest
    # Moved to 0 before the mean is taken: rounding it would otherwise show in a column that hardly varies.
    low = base.amin(dim=0)
    matrix, base = matrix - low, base - low
    varies = base.amax(dim=0) > 0
    deviation = torch.where(varies, base.std(dim=0, correction=0), 1.0)
    normalized = torch.where(varies, (matrix - base.mean(dim=0)) / deviation, 0.0)
    return normalized.to(features.dtype if features.is_floating_point() else torch.float32)


def bag_of_words(texts: Sequence[str], tokenizer: Tokenizer) -> torch.Tensor:
    """How often each id occurs in each text: (texts, ``tokenizer.vocab_size``), float32."""
    rows = [
        torch.bincount(torch.tensor(tokenizer.encode(text), dtype=torch.long), minlength=tokenizer.vocab_size)
        for text in texts
    ]
    counts = torch.stack(rows) if rows else torch.zeros(0, tokenizer.vocab_size)
    counts[:, PAD_ID] = 0
    return counts.float()


def _matrix(values: torch.Tensor, name: str) -> torch.Tensor:
    if values.ndim != 2 or values.shape[0] == 0:
        raise ValueError(
            f"{name} must be a (rows, columns) matrix with at least one row, not of shape {tuple(values.shape)}"
        )
    matrix = values.double()
    finite = torch.isfinite(matrix).all(dim=0)
    if not finite.all():
        column = int((~finite).nonzero()[0])
        raise ValueError(f"{name} has NaN or infinite values in column {column}")
    return matrix
