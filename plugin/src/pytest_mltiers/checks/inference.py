"""What is served: the same answer for a row alone and in a batch, for empty and long inputs, and after serving's own
preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import (
    Forward,
    allowance,
    batch_size,
    clone,
    distance,
    farthest,
    identical,
    leaves,
    map_tensors,
    predict,
    take,
)

Predict = Callable[[nn.Module, Any], Any]


def predicts_like_single(serve: Predict, model: nn.Module, inputs: Any, *, tolerance: float = 4096.0) -> None:
    """``serve(model, inputs)`` gives one answer per row, in order, each the same as for that row alone, every time.

    ``inputs``: N rows. Floating-point answers may differ by ``tolerance * eps * max|out|``, others must be equal.
    """
    size = batch_size(inputs)
    whole = clone(serve(model, clone(inputs)))
    if not identical(whole, clone(serve(model, clone(inputs)))):
        fail(
            "the same request gets two different answers",
            cause="dropout or sampling during prediction: model.eval() is missing",
            fix="model.eval() in the prediction function itself",
        )
    for path, answer in leaves(whole):
        if answer.ndim == 0 or len(answer) != size:
            fail(
                f"{size} rows get {len(answer) if answer.ndim else 'one'} answer(s) in output{path}",
                cause="the last incomplete chunk is dropped, or rows are merged",
                fix="iterate with range(0, len(x), chunk) and concatenate every part",
            )
    for row in range(size):
        one = take(inputs, slice(row, row + 1), size)
        far = farthest(take(whole, slice(row, row + 1), size), clone(serve(model, clone(one))), tolerance)
        if far is not None:
            fail(
                f"row {row} gets another answer alone than in a batch of {size} (difference {far[1]:.3g})",
                cause="statistics or softmax over the request, another order, or padding without a mask",
                fix="use training statistics; softmax(dim=-1); restore the order; mask padding",
            )


def empty_raises(serve: Predict, model: nn.Module, empty: Any, expected: type[BaseException]) -> None:
    """An empty request raises ``expected``: neither another exception nor a made-up answer."""
    try:
        answer = serve(model, empty)
    except expected:
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not what was promised
        fail(
            f"an empty request raises {type(error).__name__} ({error}), expected {expected.__name__}",
            cause="nothing checks for it, so some operation inside fails",
            fix=f"check the input first and raise {expected.__name__} with a message",
        )
    shapes = [tuple(t.shape) for _, t in leaves(answer)]
    fail(
        f"an empty request is answered with {shapes or answer!r}, expected {expected.__name__}",
        cause="a default answer stands in for the missing input",
        fix=f"raise {expected.__name__}",
    )


def truncates(
    model: nn.Module, inputs: Any, max_length: int, *, forward: Forward | None = None, tolerance: float = 4096.0
) -> None:
    """Inputs (N, T, ...) longer than ``max_length`` are cut to their beginning: the answer is that of the cut input.

    The batch is repeated along T past ``max_length``. Outputs are compared within ``tolerance * eps * max|out|``;
    outputs (N, T, ...) over the first ``max_length`` positions.
    """
    lengths = {t.shape[1] for _, t in leaves(inputs) if t.ndim > 1}
    if not lengths:
        raise Inapplicable("no input has a time dimension (N, T, ...)")
    length = min(lengths)
    repeats = max_length // length + 2

    def longer(t: Tensor) -> Tensor:
        if t.ndim < 2 or t.shape[1] != length:
            return t
        return torch.cat([t] + [t.roll(shift, 0) for shift in range(1, repeats)], 1)

    long = map_tensors(longer, inputs)
    cut = map_tensors(lambda t: t[:, :max_length] if t.ndim > 1 and t.shape[1] > max_length else t, long)
    wanted = predict(model, cut, forward)
    try:
        given = predict(model, long, forward)
    except (RuntimeError, IndexError, ValueError) as error:
        fail(
            f"an input of {length * repeats} positions raises {type(error).__name__}: {str(error).splitlines()[0]}",
            cause="nothing cuts inputs to max_length",
            fix=f"x[:, :{max_length}] for tokens and masks alike, before the embeddings",
        )
    for (path, x), (_, y) in zip(leaves(wanted), leaves(given), strict=True):
        kept = y[:, :max_length] if y.ndim > 1 and y.shape[1] > max_length else y
        gap = distance(x, kept) if x.shape == kept.shape else float("inf")
        if gap > allowance(x, tolerance):
            fail(
                f"output{path} for a long input differs by {gap:.3g} from that for its first {max_length} positions",
                cause="the beginning is cut off instead of the end, or tokens and mask are cut differently",
                fix=f"x[:, :{max_length}] for tokens and masks alike",
            )


def generates_at_most(
    generate: Callable[[nn.Module, Any, int], Any],
    model: nn.Module,
    prompts: Sequence[Any],
    *,
    limits: Sequence[int] = (1, 4),
) -> None:
    """``generate(model, prompt, n)`` returns (N, k) new tokens with 1 <= k <= n, for prompts of every length.

    Source: transformers 23723 (TrainCheck, OSDI '25), where long prompts escaped max_new_tokens.
    """
    for prompt in prompts:
        for limit in limits:
            tokens = generate(model, clone(prompt), limit)
            made = tokens.shape[-1]
            if not 1 <= made <= limit:
                length = next(t for _, t in leaves(prompt)).shape[-1]
                fail(
                    f"{made} new tokens for a prompt of {length}, max_new_tokens={limit}",
                    cause="the limit is computed from the prompt's length before it is trimmed to the context",
                    fix="trim first, then count new tokens, not total length",
                )


def same_preprocessing(
    training: Callable[[Any], Any], serving: Callable[[Any], Any], samples: Sequence[Any], *, tolerance: float = 1e-5
) -> None:
    """Training and serving turn each of ``samples`` into the same input (floats within ``tolerance`` of their scale).

    Give raw samples with what breaks such code: mixed case, tabs, non-ASCII text, asymmetric images. Fails with the
    first.
    """
    if not samples:
        raise Inapplicable("no samples given")
    for index, sample in enumerate(samples):
        ours, theirs = training(clone(sample)), serving(clone(sample))
        difference = _difference(ours, theirs, tolerance)
        if difference:
            fail(
                f"sample {index} ({_short(sample)}): training and serving disagree: {difference}",
                cause="another case, tokenisation, channel order, resize, scale or default in the serving code",
                fix="use one preprocessing function for both",
            )


def _difference(a: Any, b: Any, tolerance: float) -> str | None:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:
            return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
        gap = distance(a.double(), b.double())
        return f"values differ by {gap:.3g}" if gap > tolerance * max(float(a.double().abs().max()), 1e-12) else None
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"keys {sorted(a)} and {sorted(b)}"
        return next((d for k in a if (d := _difference(a[k], b[k], tolerance))), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"lengths {len(a)} and {len(b)}"
        return next((d for x, y in zip(a, b, strict=True) if (d := _difference(x, y, tolerance))), None)
    if hasattr(a, "__array__") and hasattr(b, "__array__"):
        return _difference(torch.as_tensor(a), torch.as_tensor(b), tolerance)
    return None if a == b else f"{_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    text = f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def processes_each(processor: Callable[[Sequence[Any]], Any], samples: Sequence[Any]) -> None:
    """``processor(samples)`` gives one row per sample, beginning like the row for that sample alone.

    Outputs: tensors (n, ...), mappings of them, or lists. Rows may be padded to the longest on the right.
    """
    if len(samples) < 2:
        raise Inapplicable("give at least 2 samples")
    together = processor(list(samples))
    columns = list(leaves(together)) or [("", together)]
    for path, column in columns:
        if len(column) != len(samples):
            fail(
                f"{len(samples)} samples give {len(column)} row(s) in output{path}",
                cause="the batch is flattened into one sample",
                fix="process sample by sample, then pad and stack",
            )
    for index, sample in enumerate(samples):
        alone = processor([sample])
        for (path, column), (_, single) in zip(columns, list(leaves(alone)) or [("", alone)], strict=True):
            ours, theirs = column[index], single[0]
            if isinstance(ours, Tensor) and ours.ndim:
                ours = ours[: len(theirs)]
            if _difference(ours, theirs, 1e-5):
                fail(
                    f"sample {index} is processed differently in a batch, in output{path}",
                    cause="statistics, order or truncation shared over the batch",
                    fix="process sample by sample, then pad and stack",
                )
