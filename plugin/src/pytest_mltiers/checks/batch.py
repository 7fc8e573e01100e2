"""Rows of a batch must not see each other, and any number of rows must do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import Forward, batch_size, farthest, identical, leaves, predict, take


def batch_independent(
    model: nn.Module, inputs: Any, *, forward: Forward | None = None, rows: int = 8, tolerance: float = 32.0
) -> None:
    """Each row's output in eval mode stays the same when all *other* rows of the batch are replaced.

    ``inputs``: tensors of shape (N, ...) with N >= 2. The batch keeps its shape, because ``torch.allclose`` between a
    batch and a single row fails on correct models: other shapes take other kernels. Each of the first ``rows`` rows is
    held while the others become other rows of the same batch, once shifted and once all alike. Bitwise equality passes
    at once; where the hardware or a data-dependent shape (routing, packing) forbids it, differences up to
    ``tolerance * eps * max|out|`` are allowed. Fails with row and distance.
    """
    size = batch_size(inputs)
    if size < 2:
        raise Inapplicable("needs a batch of at least 2 rows")
    expected = predict(model, inputs, forward)
    for path, tensor in leaves(expected):
        if tensor.ndim and len(tensor) != size:
            fail(
                f"output{path} has {len(tensor)} rows for a batch of {size}",
                cause="rows are lost, merged or added on the way",
                fix="keep dimension 0 for the batch; flatten with start_dim=1",
            )
    held = list(range(min(size, rows)))
    for row in held:
        others = [i for i in range(size) if i != row]
        for replacement in (others[1:] + others[:1], [others[-1]] * len(others)):
            order = torch.tensor([*replacement[:row], row, *replacement[row:]])
            output = predict(model, take(inputs, order, size), forward)
            kept, now = take(expected, slice(row, row + 1), size), take(output, slice(row, row + 1), size)
            if identical(kept, now):
                continue
            far = farthest(kept, now, tolerance)
            if far is not None:
                fail(
                    f"output{far[0]} of row {row} changes by {far[1]:.3g} when only other rows change",
                    cause="statistics, softmax or reshape over the batch dimension; attention or recurrence over dim 0 "
                    "(batch_first); order lost after sorting",
                    fix="normalise and attend within a row; pass batch_first=True; restore the order",
                )


def batch_sizes(model: nn.Module, inputs: Any, *, forward: Forward | None = None, tolerance: float = 4096.0) -> None:
    """Batches of 1 and of N-1 rows work in eval mode and give those rows the same answers as the full batch.

    Differences up to ``tolerance * eps * max|out|`` are allowed: other shapes take other kernels. Fails with the size.
    """
    size = batch_size(inputs)
    if size < 2:
        raise Inapplicable("needs a batch of at least 2 rows")
    expected = predict(model, inputs, forward)
    for smaller in sorted({1, size - 1}):
        kept = slice(size - smaller, size)
        try:
            output = predict(model, take(inputs, kept, size), forward)
        except (RuntimeError, ValueError, IndexError) as error:
            fail(
                f"a batch of {smaller} row(s) raises {type(error).__name__}: {error}",
                cause="a hard-coded batch size, or a squeeze() that removes the batch dimension",
                fix="reshape with x.shape[0] or -1; squeeze an explicit dimension",
            )
        wanted = [t[kept] for _, t in leaves(expected) if t.ndim and len(t) == size]
        given = [t for _, t in leaves(output) if t.ndim]
        far = farthest(wanted, given, tolerance) if len(wanted) == len(given) else ("", float("inf"), 0.0)
        if far is not None:
            fail(
                f"a batch of {smaller} of the {size} rows gives another answer (largest difference {far[1]:.3g})",
                cause="a hard-coded batch size, squeeze() without a dimension, or rows that depend on their index",
                fix="reshape with x.shape[0] or -1; squeeze an explicit dimension",
            )
