"""The contract of a loss function, tested on outputs we make ourselves: no training, no luck."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import batch_size, clone, concatenate, distance, leaves, map_tensors, take

Loss = Callable[[Any, Any], Tensor]
TASKS = ("classification", "binary", "regression", "causal-lm")
CONFIDENCE = 20.0
"""The logit of a perfect prediction: softmax over it misses one by less than 1e-8 per other class."""


def perfect_outputs(task: str, outputs: Tensor, targets: Tensor, inputs: Any = None) -> Tensor:
    """Outputs that predict ``targets`` perfectly, shaped like ``outputs``.

    ``classification``: logits (N, C), (N, T, C) or (N, C, ...), targets one dimension less. ``binary``: logits and 0/1
    targets. ``regression``: the targets themselves. ``causal-lm``: logits (N, T, V) where position t is certain of the
    token at t + 1 *of the inputs*; the last position of the last target.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}: one of {', '.join(TASKS)}, or give `perfect`, a function of the targets")
    if task == "regression":
        return targets.reshape(outputs.shape).to(outputs.dtype)
    if task == "binary":
        return (CONFIDENCE * (2 * targets.reshape(outputs.shape) - 1)).to(outputs.dtype)
    if task == "causal-lm":
        tokens = next(t for _, t in leaves(inputs) if not t.is_floating_point() and t.dtype != torch.bool)
        following = torch.cat([tokens[:, 1:], targets[:, -1:].clamp(min=0)], 1)
        return CONFIDENCE * F.one_hot(following, outputs.shape[-1]).to(outputs.dtype)
    last = outputs.shape[:-1] == targets.shape
    classes = outputs.shape[-1] if last else outputs.shape[1]
    hot = CONFIDENCE * F.one_hot(targets.clamp(0, classes - 1), classes).to(outputs.dtype)
    return hot if last else hot.movedim(-1, 1)


def _noise_like(outputs: Any, generator: torch.Generator, scale: float = 1.0) -> Any:
    def noise(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        return scale * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device)

    return map_tensors(noise, outputs)


def _mix(a: Any, b: Any, share: float) -> Any:
    seconds = iter([t for _, t in leaves(b)])
    return map_tensors(lambda t: (1 - share) * t + share * next(seconds), a)


def _value(loss: Loss, outputs: Any, targets: Any) -> float:
    return float(loss(clone(outputs), clone(targets)))


def zero_when_perfect(
    loss: Loss, perfect: Any, targets: Any, *, share: float = 0.02, shifted: Callable[[int], Any] | None = None
) -> None:
    """Perfect predictions cost next to nothing: at most ``share`` of what random predictions cost.

    ``perfect``: outputs that predict ``targets`` (see :func:`perfect_outputs`). ``shifted(k)``, if given, returns
    outputs that are perfect for targets shifted by k; on failure it is used to say by how much the labels are off.
    """
    best = _value(loss, perfect, targets)
    generator = torch.Generator().manual_seed(0)
    random = sum(_value(loss, _noise_like(perfect, generator), targets) for _ in range(8)) / 8
    if math.isfinite(best) and best <= share * abs(random):
        return
    hint = ""
    if shifted is not None:
        off = [k for k in (1, -1, 2, -2) if abs(_value(loss, shifted(k), targets)) <= share * abs(random)]
        hint = f"; it is zero for labels shifted by {off[0]:+d}" if off else ""
    fail(
        f"perfect predictions have loss {best:.4g}, random ones {random:.4g}{hint}",
        cause="softmax before cross entropy, probabilities where logits are expected, labels shifted or misaligned, "
        "the wrong dimension reshaped, ignored labels or padding counted, targets cast",
        fix="pass raw logits to cross_entropy; compare shapes and label order of output and target",
    )


def worse_when_worse(loss: Loss, perfect: Any, targets: Any) -> None:
    """The loss grows as predictions move away from perfect ones: at the start, half way, and at random outputs.

    Averaged over 8 random directions of standard deviation 3 around the perfect outputs. Fails with the three values: a
    flipped sign shows as a falling sequence.
    """
    generator = torch.Generator().manual_seed(1)
    values = []
    far = [_mix(perfect, _noise_like(perfect, generator, 3.0), 1.0) for _ in range(8)]
    for share in (0.0, 0.5, 1.0):
        values.append(sum(_value(loss, _mix(perfect, f, share), targets) for f in far) / len(far))
    if not (values[0] <= values[1] * (1 + 1e-6) + 1e-9 and values[0] < values[2]):
        fail(
            f"the loss goes {values[0]:.4g} -> {values[1]:.4g} -> {values[2]:.4g} from perfect to random predictions",
            cause="a flipped sign, a missing abs or square, or a term subtracted instead of added",
            fix="check the sign of each term: smaller must mean better",
        )


def never_negative(loss: Loss, outputs: Any, targets: Any, *, draws: int = 16) -> None:
    """The loss is not negative on ``draws`` random outputs shaped like ``outputs`` (scales 0.3 to 10). Fails with
    one."""
    generator = torch.Generator().manual_seed(2)
    for draw in range(draws):
        value = _value(loss, _noise_like(outputs, generator, (0.3, 1.0, 3.0, 10.0)[draw % 4]), targets)
        if value < -1e-6:
            fail(
                f"the loss is {value:.4g} on random predictions",
                cause="a flipped sign, a missing minus before a log likelihood, probabilities given to nll_loss",
                fix="use log_softmax with nll_loss; if the loss may be negative, say nonnegative=False",
            )


def averages_rows(loss: Loss, outputs: Any, targets: Any, *, reduction: str = "mean", tolerance: float = 1e-3) -> None:
    """The loss of a batch is the mean (or ``reduction="sum"``) of the losses of its rows.

    One test for the whole family: sum where the mean was meant, silent broadcasting of (N, 1) against (N,), a row that
    does not count, a loss that mixes rows. ``outputs`` and ``targets`` have N rows; relative ``tolerance``. Does not
    apply to losses that compare rows (contrastive, or weighted by a count over the batch: say ``separable=False``).
    """
    size = batch_size(outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of broadcasting; the numbers below decide
        whole = _value(loss, outputs, targets)
        parts = []
        for row in range(size):
            one = slice(row, row + 1)
            parts.append(_value(loss, take(outputs, one, size), take(targets, one, size)))
    parts = [p for p in parts if math.isfinite(p)]  # a row in which every label is ignored
    expected = sum(parts) / (max(len(parts), 1) if reduction == "mean" else 1)
    scale = max(abs(whole), abs(expected), 1e-8)
    if abs(whole - expected) > tolerance * scale:
        fail(
            f"the loss of {size} rows is {whole:.5g}, the {reduction} over single rows is {expected:.5g}",
            cause="(N, 1) against (N,) broadcasts to (N, N); reduction='sum'; a row that does not count",
            fix="give output and target the same shape; use reduction='mean'; if rows are compared, separable=False",
        )


def duplicate_invariant(
    loss: Loss, outputs: Any, targets: Any, *, reduction: str = "mean", tolerance: float = 1e-3
) -> None:
    """Every row twice gives the same loss (``mean``) or twice the loss (``sum``). Relative ``tolerance``."""
    once = _value(loss, outputs, targets)
    twice = _value(loss, concatenate(outputs, outputs), concatenate(targets, targets))
    expected = once if reduction == "mean" else 2 * once
    if abs(twice - expected) > tolerance * max(abs(once), 1e-8):
        fail(
            f"the loss is {once:.5g}, and {twice:.5g} with every row twice; expected {expected:.5g}",
            cause="a term is summed over the batch while the rest is averaged",
            fix="average every term over the batch, so that the learning rate does not depend on its size",
        )


def local(loss: Loss, outputs: Any, targets: Any, *, tolerance: float = 1e-3) -> None:
    """A row's gradient does not depend on the other rows' targets and outputs, and no row's gradient is zero.

    ``outputs`` (N, ...) are random; for each of the first 4 rows all others become one row. Relative ``tolerance``
    of the row's own gradient. Does not apply to losses that compare rows (``separable=False``).
    """
    size = batch_size(outputs)
    if size < 3:
        raise Inapplicable("needs at least 3 rows")
    base = _row_gradients(loss, outputs, targets)
    silent = [i for i in range(size) if all(not bool((g[i] != 0).any()) for g in base if len(g) == size)]
    if silent:
        fail(
            f"row {silent[0]} has no influence on the loss ({len(silent)} of {size} rows)",
            cause="only part of the batch enters the loss, or the output is detached inside it",
            fix="use every row; do not index or detach before the reduction",
        )
    for row in range(min(4, size)):
        index = torch.full((size,), (row + 1) % size)  # all others alike: an exchange among them would keep every sum
        index[row] = row
        moved = _row_gradients(loss, take(outputs, index, size), take(targets, index, size))
        for before, after in zip(base, moved, strict=True):
            gap = distance(before[row], after[row])
            if len(before) == size and gap > tolerance * float(before[row].abs().max()) + 1e-9:
                fail(
                    f"the gradient at row {row} changes by {gap:.3g} when only other rows change",
                    cause="(N, 1) against (N,) broadcasts to (N, N), or statistics over the batch inside the loss",
                    fix="give output and target the same shape; if rows are compared on purpose, separable=False",
                )


def _row_gradients(loss: Loss, outputs: Any, targets: Any) -> list[Tensor]:
    free = map_tensors(lambda t: t.requires_grad_() if t.is_floating_point() else t, clone(outputs))
    tensors = [t for _, t in leaves(free) if t.requires_grad]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = loss(free, clone(targets))
    if not value.requires_grad:
        fail(
            "the loss has no gradient with respect to the outputs",
            cause="a detach(), item(), argmax or round inside the loss",
            fix="compute the loss with differentiable operations on the outputs themselves",
        )
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def every_output_counts(loss: Loss, outputs: Any, targets: Any) -> None:
    """Each output tensor of a model with several has a gradient: no task's loss was left out. Fails with its index."""
    gradients = _row_gradients(loss, outputs, targets)
    unused = [i for i, g in enumerate(gradients) if not bool((g != 0).any())]
    if unused:
        fail(
            f"output {unused[0]} of {len(gradients)} has no influence on the loss",
            cause="one head's or one view's loss is missing, or it is detached",
            fix="add its term to the loss, or stop returning it",
        )


def smooth_when_perfect(loss: Loss, perfect: Any, targets: Any) -> None:
    """The gradient at (nearly) perfect predictions is finite: exactly there, and 1e-6 away."""
    for nudge in (0.0, 1e-6):
        nudged = map_tensors(lambda t, n=nudge: t + n if t.is_floating_point() else t, perfect)
        if any(not bool(torch.isfinite(g).all()) for g in _row_gradients(loss, nudged, targets)):
            fail(
                "the gradient is not finite at perfect predictions",
                cause="sqrt or norm of zero (RMSE without epsilon), log of zero",
                fix="add an epsilon inside the root; clamp before log",
            )


def starts_near_chance(losses: list[float], classes: int) -> None:
    """Fresh models start at about ln C: the mean of ``losses`` (nats) lies in [0.5 ln C, ln C + max(ln C, 1.5)].

    ``losses``: of freshly built models on a batch with ``classes`` classes. Below: answers leak into the inputs, or the
    loss is not cross entropy. Above: the initial logits are far too large. Source: Karpathy, "A Recipe for Training
    Neural Networks" (verify loss at init).
    """
    chance, mean = math.log(classes), sum(losses) / len(losses)
    low, high = 0.5 * chance, chance + max(chance, 1.5)
    if not low <= mean <= high:
        fail(
            f"the loss of fresh models is {mean:.3g}, chance is ln {classes} = {chance:.3g}",
            cause="initial weights far too large, a sum instead of a mean, or answers leaking into inputs",
            fix="scale the initialisation (0.02 for embeddings), average the loss, look for leaks",
        )


def ignores_padding(
    loss: Loss, outputs: Tensor, targets: Any, padded_outputs: Tensor, padded_targets: Any, *, tolerance: float = 1e-3
) -> None:
    """More padding does not change the loss.

    ``outputs`` (N, T, ...) for ``targets``; ``padded_outputs`` and ``padded_targets`` are the same with more columns of
    padding, in which the outputs are arbitrary. Relative ``tolerance``.
    """
    before, after = _value(loss, outputs, targets), _value(loss, padded_outputs, padded_targets)
    if abs(before - after) > tolerance * max(abs(before), 1e-8):
        fail(
            f"the loss goes from {before:.5g} to {after:.5g} when only padding is added",
            cause="padding is trained as a token (no ignore_index), or the mean divides by padded positions",
            fix="set targets at padding to ignore_index and divide by the number of real tokens",
        )
