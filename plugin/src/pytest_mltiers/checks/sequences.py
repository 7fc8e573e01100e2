"""Order, future and padding: what a sequence model may see, and what it must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import (
    Forward,
    allowance,
    batch_size,
    distance,
    identical,
    leaves,
    map_tensors,
    predict,
    take,
)

Padding = Callable[[Any], Tensor]


def _length(inputs: Any) -> int:
    """T: dimension 1 of the first tensor that has one."""
    for _, tensor in leaves(inputs):
        if tensor.ndim > 1:
            return tensor.shape[1]
    raise Inapplicable("no input has a time dimension (N, T, ...)")


def _replaced(inputs: Any, where: Tensor) -> Any:
    """The inputs with other content at ``where``, bool (N, T); masks stay. Tokens come from the next row, so they
    exist."""

    def other(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bool or tensor.ndim < 2 or tensor.shape[:2] != where.shape:
            return tensor
        chosen = where.to(tensor.device).reshape(*where.shape, *[1] * (tensor.ndim - 2))
        if tensor.is_floating_point():
            return torch.where(chosen, tensor.roll(1, 0) + 1.0 + torch.randn_like(tensor), tensor)
        fresh = tensor.roll(1, 0)
        same = (fresh == tensor) & chosen
        if bool(same.any()):  # take any other token that occurs in the batch
            known = tensor.unique()
            if len(known) < 2:
                return tensor
            index = torch.searchsorted(known, tensor)
            fresh = torch.where(same, known[(index + 1) % len(known)], fresh)
        return torch.where(chosen, fresh, tensor)

    return map_tensors(other, inputs)


def _change_at(before: Any, after: Any, kept: Tensor, tolerance: float) -> tuple[str, float] | None:
    """The largest change at ``kept``, bool (N, T), over outputs of shape (N, T, ...); None within rounding."""
    worst: tuple[str, float] | None = None
    for (path, x), (_, y) in zip(leaves(before), leaves(after), strict=True):
        if x.ndim < 2 or x.shape[:2] != kept.shape:
            continue
        gap = distance(x[kept], y[kept])
        if gap > allowance(x, tolerance) and (worst is None or gap > worst[1]):
            worst = path, gap
    return worst


def causal(model: nn.Module, inputs: Any, *, forward: Forward | None = None, tolerance: float = 32.0) -> None:
    """Outputs (N, T, ...) up to position t do not change when the inputs (N, T, ...) after t do, for every t.

    Masks (bool) stay. Bitwise or within ``tolerance * eps * max|out|``. Fails with the position, how far ahead it saw,
    and the change. Method: perturb the future, as in Karpathy's "backprop to chart dependencies".
    """
    size, length = batch_size(inputs), _length(inputs)
    expected = predict(model, inputs, forward)
    if not any(t.ndim > 1 and t.shape[1] == length for _, t in leaves(expected)):
        raise Inapplicable("no output has the input's time dimension")
    moved = False
    positions = torch.arange(length).expand(size, length)
    for t in range(length - 1):
        output = predict(model, _replaced(inputs, positions > t), forward)
        moved = moved or not identical(expected, output)
        change = _change_at(expected, output, positions <= t, tolerance)
        if change is not None:
            fail(
                f"output{change[0]} at or before position {t} changes by {change[1]:.3g} when only later inputs change",
                cause="no causal mask, a mask off by one or transposed, symmetric padding of a convolution, "
                "normalisation over time, or heads split with view instead of transpose",
                fix="mask with tril() before softmax using -inf; pad on the left only; normalise over features",
            )
    if not moved:
        fail(
            "the output never changes, whatever the inputs are",
            cause="the input is not used",
            fix="follow the input through forward()",
        )


def padding_ignored(
    model: nn.Module, inputs: Any, padding: Padding, *, forward: Forward | None = None, tolerance: float = 32.0
) -> None:
    """What stands at padded positions does not matter.

    ``padding(inputs)``: bool (N, T), true at padding; at least one row must have some. Contents there are replaced;
    pooled outputs, and outputs (N, T, ...) at real positions, must stay bitwise or within ``tolerance * eps *
    max|out|``. Does not apply where the content itself marks the padding (a pad token): `padding_invariant` covers
    that.
    """
    where = padding(inputs)
    if not bool(where.any()):
        raise Inapplicable("no row of the batch is padded; give a batch with rows of different lengths")
    changed = _replaced(inputs, where)
    if not torch.equal(padding(changed), where):
        raise Inapplicable("the padding is recognised by its content, so there is nothing to replace")
    if identical(inputs, changed):
        raise Inapplicable("no input has content at the padded positions")
    expected, output = predict(model, inputs, forward), predict(model, changed, forward)
    for (path, x), (_, y) in zip(leaves(expected), leaves(output), strict=True):
        per_position = x.ndim > 1 and x.shape[:2] == where.shape
        gap = distance(x[~where], y[~where]) if per_position else distance(x, y)
        if gap > allowance(x, tolerance):
            fail(
                f"output{path} changes by {gap:.3g} when only the contents of padding change",
                cause="the mask is ignored, inverted or applied to queries; pooling or the last state includes padding",
                fix="mask keys with -inf before softmax; pool with the mask; read the state at length - 1",
            )


def padding_invariant(
    model: nn.Module,
    batch: tuple[Any, Any],
    pad: Callable[[Any, int], Any],
    padding: Padding | None = None,
    *,
    extra: int = 3,
    forward: Forward | None = None,
    tolerance: float = 4096.0,
) -> None:
    """Padding a batch further changes no prediction.

    ``batch``: (inputs, targets); ``pad(batch, k)`` returns it with k more padded columns. Pooled outputs must stay,
    outputs (N, T, ...) at the old positions too (at real ones, if ``padding`` tells them). Differences up to
    ``tolerance * eps * max|out|`` are allowed: another length takes other kernels.
    """
    inputs, _ = batch
    expected, output = predict(model, inputs, forward), predict(model, pad(batch, extra)[0], forward)
    length = _length(inputs)
    real = None if padding is None else ~padding(inputs)
    for (path, x), (_, y) in zip(leaves(expected), leaves(output), strict=True):
        if x.ndim > 1 and x.shape[1] == length and y.ndim > 1 and y.shape[1] == length + extra:
            y = y[:, :length]  # noqa: PLW2901
            if real is not None and real.shape == x.shape[:2]:
                x, y = x[real], y[real]  # noqa: PLW2901
        gap = distance(x, y) if x.shape == y.shape else float("inf")
        if gap > allowance(x, tolerance):
            fail(
                f"output{path} changes by {gap:.3g} when the batch is padded by {extra} more position(s)",
                cause="padding is attended to, pooled or normalised over; the last column is read, not the last token",
                fix="mask keys with -inf before softmax; pool with the mask; read the state at length - 1",
            )
    if padding is not None:
        _unpadded_rows_agree(model, inputs, padding(inputs), expected, forward, tolerance)


def _unpadded_rows_agree(
    model: nn.Module, inputs: Any, where: Tensor, expected: Any, forward: Forward | None, tolerance: float
) -> None:
    """Each padded row alone, cut to its real length, gets the answer it got in the batch (padding on the right)."""
    size, length = where.shape
    for row in range(size):
        real = int((~where[row]).sum())
        if real in (0, length) or bool(where[row, :real].any()):
            continue
        one = take(inputs, slice(row, row + 1), size)
        cut = map_tensors(lambda t, n=real: t[:, :n] if t.ndim > 1 and t.shape[1] == length else t, one)
        output = predict(model, cut, forward)
        for (path, x), (_, y) in zip(leaves(take(expected, slice(row, row + 1), size)), leaves(output), strict=True):
            kept = x[:, :real] if x.ndim > 1 and x.shape[1] == length and y.shape[1] == real else x
            gap = distance(kept, y) if kept.shape == y.shape else float("inf")
            if gap > allowance(kept, tolerance):
                fail(
                    f"output{path} of row {row} differs by {gap:.3g} from that of the same row without its padding",
                    cause="padding is attended to, pooled or normalised over (zeros win a maximum over negatives)",
                    fix="mask keys and pooling with -inf or the mask; read the state at length - 1",
                )


def position_sensitive(
    model: nn.Module, inputs: Any, padding: Padding | None = None, *, forward: Forward | None = None
) -> None:
    """Swapping two early positions of a row changes what the model says afterwards.

    Positions 0 and 1 (real in every row that is looked at) are swapped in all inputs (N, T, ...). Pooled outputs must
    change; of outputs (N, T, ...) those at positions >= 2 must. Rows whose two positions are equal do not count.
    """
    size, length = batch_size(inputs), _length(inputs)
    if length < 3:
        raise Inapplicable("needs at least 3 positions")
    order = torch.arange(length)
    order[:2] = torch.tensor([1, 0])
    swapped = map_tensors(lambda t: t[:, order] if t.ndim > 1 and t.shape[1] == length else t, inputs)
    if identical(inputs, swapped):
        raise Inapplicable("positions 0 and 1 are equal in every row")
    expected, output = predict(model, inputs, forward), predict(model, swapped, forward)
    usable = torch.ones(size, dtype=torch.bool) if padding is None else ~padding(inputs)[:, :3].any(1)
    moved = 0.0
    for (_, x), (_, y) in zip(leaves(expected), leaves(output), strict=True):
        after_x, after_y = (x[:, 2:], y[:, 2:]) if x.ndim > 1 and x.shape[1] == length else (x, y)
        keep = usable.to(x.device) if x.ndim and len(x) == size else slice(None)
        moved = max(moved, distance(after_x[keep], after_y[keep]) - allowance(x, 64.0))
    if moved <= 0:
        fail(
            "swapping two positions changes nothing: the model sees a bag of tokens",
            cause="position embeddings are not added, or all positions get the same one",
            fix="add positions(torch.arange(T)) to the token embeddings",
        )


def weights_tied(model: nn.Module, pairs: Sequence[Sequence[str]], *, after: str = "construction") -> None:
    """Each group of parameter names in ``pairs`` is one parameter (one storage), not equal copies.

    ``after`` goes into the message. Fails with the names and whether the values still agree.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for names in pairs:
        missing = [n for n in names if n not in named]
        if missing:
            known = ", ".join(list(named)[:8])
            raise ValueError(f"tied: no parameter named {missing[0]!r}; the model has {known} ...")
        first, *rest = (named[n] for n in names)
        if any(other.data_ptr() != first.data_ptr() for other in rest):
            same = all(torch.equal(first, other) for other in rest if other.shape == first.shape)
            fail(
                f"{' and '.join(names)} are two parameters after {after} ({'equal' if same else 'unequal'} values)",
                cause="weights were cloned, or one side was re-created (resized, re-initialised) after tying",
                fix="assign the same Parameter to both, after everything that creates parameters",
            )
