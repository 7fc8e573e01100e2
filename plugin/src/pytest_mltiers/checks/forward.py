"""What one forward pass must satisfy: shape, dtype, finite values, and that it depends on its input and on nothing
else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import (
    Forward,
    ModelSource,
    batch_size,
    build,
    call,
    clone,
    farthest,
    identical,
    leaves,
    map_tensors,
    predict,
    take,
)

Shape = Sequence[Any]


def output_shape(
    model: nn.Module,
    inputs: Any,
    shape: Shape,
    *,
    forward: Forward | None = None,
    dims: Mapping[str, int] | None = None,
) -> None:
    """The output has ``shape``: integers are exact, names are symbolic dimensions that must agree wherever they occur.

    ``"N"`` is the batch size and ``"T"`` the length of dimension 1 of the first input, unless ``dims`` says otherwise.
    For several outputs give a tuple of shapes, or a mapping like the output's. Fails with the expected and the seen
    shape. Method: symbolic shapes as in jaxtyping; checked in eval mode.
    """
    output = predict(model, inputs, forward)
    first = next(t for _, t in leaves(inputs))
    known = {"N": batch_size(inputs)} | ({"T": first.shape[1]} if first.ndim > 1 else {}) | dict(dims or {})
    nested = isinstance(shape, Mapping) or any(isinstance(part, (tuple, list)) for part in shape)
    expected = list(shape.values() if isinstance(shape, Mapping) else shape) if nested else [shape]
    tensors = list(leaves(output))
    if len(tensors) != len(expected):
        fail(
            f"the model returns {len(tensors)} tensor(s), {len(expected)} expected",
            cause="an output was added or dropped",
            fix="return what callers expect, or describe every output in `output_shape`",
        )
    for (path, tensor), want in zip(tensors, expected, strict=True):
        resolved = [
            known.setdefault(d, s) if isinstance(d, str) else d for d, s in zip(want, tensor.shape, strict=False)
        ]
        if len(want) != tensor.ndim or resolved != list(tensor.shape):
            names = ", ".join(f"{d}={known[d]}" if isinstance(d, str) and d in known else str(d) for d in want)
            fail(
                f"output{path} has shape {tuple(tensor.shape)}, expected ({names})",
                cause="a reshape, squeeze or reduction over the wrong dimension",
                fix="print shapes along forward(); squeeze and mean with an explicit dim",
            )


def output_dtype(
    model: nn.Module, inputs: Any, dtype: torch.dtype | None = None, *, forward: Forward | None = None
) -> None:
    """Floating-point outputs have ``dtype``; by default that of the model's own floating-point parameters.

    Fails naming the output. Integer outputs are not looked at.
    """
    wanted = dtype or next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    for path, tensor in leaves(predict(model, inputs, forward)):
        if tensor.is_floating_point() and tensor.dtype != wanted:
            fail(
                f"output{path} is {tensor.dtype}, expected {wanted}",
                cause="a stray .half(), .double() or a float64 NumPy constant promotes or truncates on the way",
                fix="create constants with dtype=x.dtype; cast once, at the boundary",
            )


def autocast_applies(
    model: nn.Module, inputs: Any, dtype: torch.dtype = torch.bfloat16, *, forward: Forward | None = None
) -> None:
    """Under ``torch.autocast`` every linear and convolution layer of the model computes in ``dtype``.

    Looks at the outputs of the layers themselves (forward hooks), because the model's output may be cast back on
    purpose. Fails naming the first layer that ignored it. Source: lightning-thunder 725 (TrainCheck, OSDI '25).
    """
    ignored: list[str] = []
    eligible = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out, name=name: ignored.append(name) if out.dtype != dtype else None
        )
        for name, module in model.named_modules()
        if isinstance(module, eligible)
    ]
    if not hooks:
        raise Inapplicable("the model has no linear or convolution layer for autocast to act on")
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, dtype=dtype):
            predict(model, inputs, forward)
    finally:
        for hook in hooks:
            hook.remove()
    if ignored:
        fail(
            f"under autocast, layer {ignored[0]!r} computes in another dtype than {dtype} ({len(ignored)} layer(s))",
            cause="a traced or compiled region, or autocast(enabled=False), runs as it was recorded",
            fix="enter autocast inside the compiled function, or trace under autocast",
        )


def finite(model: nn.Module, inputs: Any, *, forward: Forward | None = None) -> None:
    """No NaN and no infinity in any output, in eval and in training mode. Fails with the output and the first row
    hit."""
    for mode in ("eval", "training"):
        if mode == "eval":
            output = predict(model, inputs, forward)
        else:
            trained = build(model).train()
            with torch.no_grad():
                output = call(trained, clone(inputs), forward)
        for path, tensor in leaves(output):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = (~torch.isfinite(tensor)).nonzero()[0].tolist()
                fail(
                    f"output{path} is not finite in {mode} mode: {tensor[tuple(bad)].item()} at {bad}",
                    cause="division by a zero standard deviation, count or norm; log or sqrt of zero; overflow",
                    fix="add an epsilon to the denominator, clamp before log and sqrt",
                )


def sums_to_one(output: Tensor, dim: int = -1, *, tolerance: float = 1e-4) -> None:
    """``output`` holds probabilities along ``dim``: in [0, 1], sum 1 within ``tolerance`` (absolute).

    Fails with the worst sum; says so when another dimension sums to one instead.
    """
    wide = output.detach().double()
    worst = float((wide.sum(dim) - 1).abs().max())
    if worst <= tolerance and float(wide.min()) >= -tolerance:
        return
    elsewhere = [d for d in range(wide.ndim) if float((wide.sum(d) - 1).abs().max()) <= tolerance]
    hint = f"; dimension {elsewhere[0]} sums to one instead" if elsewhere else ""
    fail(
        f"no probabilities along dim {dim}: smallest value {float(wide.min()):.3g}, sums off by {worst:.3g}{hint}",
        cause="logits returned as probabilities, or softmax over the wrong dimension",
        fix="softmax(dim=-1), once, at the end of prediction",
    )


def deterministic(model: nn.Module, inputs: Any, *, forward: Forward | None = None, repeats: int = 3) -> None:
    """In eval mode the same input gives bitwise the same output, whatever the random state and whatever ran before.

    Between the repeats another batch goes through the model, and training mode is switched on and off once. Fails
    with the largest difference. Differences within 32*eps*max|out| (GPU atomics) are tolerated off the CPU only.
    """
    expected = predict(model, inputs, forward)
    size = batch_size(inputs)
    on_cpu = all(t.device.type == "cpu" for _, t in leaves(expected))
    for repeat in range(repeats):
        torch.manual_seed(1000 + repeat)
        predict(model, take(inputs, torch.arange(size).roll(1), size), forward)
        torch.manual_seed(2000 + repeat)
        again = predict(model, inputs, forward)
        if not identical(expected, again):
            far = farthest(expected, again, 0.0 if on_cpu else 32.0)
            if far is not None:
                fail(
                    f"two eval-mode passes on the same input differ by {far[1]:.3g} in output{far[0]}",
                    cause="dropout or noise that ignores eval(), a random first state, or state kept between calls",
                    fix="pass training=self.training to functional dropout; register layers; reset caches",
                )


def depends_on_input(
    model: ModelSource,
    inputs: Any,
    *,
    forward: Forward | None = None,
    ignored: Tensor | None = None,
    positions: int = 48,
    seeds: int = 3,
) -> None:
    """Changing any one input feature or position (over all rows) changes some output.

    ``inputs``: tensors of shape (N, ...); the first ``positions`` entries behind the batch dimension are tried one by
    one. A replacement value comes from other rows at the same place, so tokens stay tokens; features that are constant
    over the batch get noise if they are floating point, else they are skipped. A feature counts as dead only if it is
    dead in ``seeds`` fresh models (a factory) or in this one (a module). ``ignored``: bool (N, T), true at padding,
    whose positions are left out. Masks and lengths are tried as a whole. Fails naming tensor and index.
    """
    dead: set[tuple[str, tuple[int, ...] | None]] | None = None
    for seed in range(1 if isinstance(model, nn.Module) else seeds):
        network = build(model, seed)
        found = _dead_features(network, inputs, forward, ignored, positions)
        dead = found if dead is None else dead & found
        if not dead:
            return
    path, index = sorted(dead, key=str)[0]
    where = f"input{path}" + (f" at index {index} of each row" if index is not None else "")
    fail(
        f"the output does not depend on {where} ({len(dead)} such place(s))",
        cause="an off-by-one slice, an argument that forward() never uses, a dead path",
        fix="follow that input through forward(); remove it if it is not meant to matter",
    )


def _dead_features(
    model: nn.Module, inputs: Any, forward: Forward | None, ignored: Tensor | None, positions: int
) -> set[tuple[str, tuple[int, ...] | None]]:
    size = batch_size(inputs)
    expected = predict(model, inputs, forward)
    dead: set[tuple[str, tuple[int, ...] | None]] = set()
    for path, leaf in leaves(inputs):
        if leaf.ndim == 0 or len(leaf) != size or size < 2:
            continue
        whole = leaf.ndim == 1 or leaf.dtype == torch.bool
        places: list[tuple[int, ...] | None] = [None]
        if not whole:
            places = [tuple(i.tolist()) for i in torch.ones(leaf.shape[1:]).nonzero()[:positions]]
        for place in places:
            timed = place is not None and ignored is not None and leaf.ndim > 1 and leaf.shape[1] == ignored.shape[1]
            if timed and bool(ignored[:, place[0]].any()):
                continue
            changed = _with_other_values(leaf, place)
            if changed is None:
                continue
            swapped = map_tensors(lambda t, old=leaf, new=changed: new if t is old else t, inputs)
            if not _differs(expected, model, swapped, forward):
                dead.add((path, place))
    return dead


def _with_other_values(leaf: Tensor, place: tuple[int, ...] | None) -> Tensor | None:
    """``leaf`` with the values at ``place`` of every row replaced by those of other rows; None if that changes
    nothing."""
    changed = leaf.detach().clone()
    column = (slice(None),) if place is None else (slice(None), *place)
    values = leaf[column].detach()
    for shift in range(1, len(leaf)):
        rolled = values.roll(shift, 0)
        if bool((rolled != values).any()):
            changed[column] = rolled
            return changed
    if leaf.is_floating_point():
        changed[column] = values + 1.0 + torch.rand_like(values)
        return changed
    return None


def _differs(expected: Any, model: nn.Module, inputs: Any, forward: Forward | None) -> bool:
    return not identical(expected, predict(model, inputs, forward))


def input_unchanged(model: nn.Module, inputs: Any, *, forward: Forward | None = None) -> None:
    """``forward`` leaves its input tensors as they were, in eval and in training mode. Fails naming the tensor."""
    for mode in (False, True):
        network = build(model).train(mode)
        given = clone(inputs)
        with torch.no_grad():
            call(network, given, forward)
        for (path, before), (_, after) in zip(leaves(inputs), leaves(given), strict=True):
            if not identical(before, after):
                fail(
                    f"forward() changes input{path} in place ({'training' if mode else 'eval'} mode)",
                    cause="an in-place operation (x -= m, x.clamp_(), x[mask] = 0) on the caller's tensor",
                    fix="use the out-of-place form, or clone first",
                )


def instances_independent(model: ModelSource, inputs: Any, *, forward: Forward | None = None) -> None:
    """Two models from one factory share nothing: changing and running the second leaves the first as it was.

    Needs a factory. Every parameter and buffer of the second is overwritten with noise and other inputs go through it
    in both modes; the first must keep its outputs and its state bitwise. Fails naming the shared tensor if there is
    one.
    """
    if isinstance(model, nn.Module):
        raise Inapplicable("needs a factory (`model=lambda: MyModel()`), not one instance")
    first, second = build(model, 0), build(model, 1)
    if first is second:
        fail(
            "the model factory returns the same object twice",
            cause="a cached or module-level model",
            fix="build a new model in the factory",
        )
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    name = next((n for n, p in first.named_parameters() if id(p) in shared), "no parameter is shared; look at buffers")
    size = batch_size(inputs)
    expected = predict(first, inputs, forward)
    with torch.no_grad():
        for tensor in [*second.parameters(), *second.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) + 0.1)
    other = take(inputs, torch.arange(size).roll(1), size)
    predict(second, other, forward)
    with torch.no_grad():
        call(second.train(), clone(other), forward)
    far = farthest(expected, predict(first, inputs, forward), 0.0)
    if far is not None:
        fail(
            f"changing one instance changes another's output{far[0]} by {far[1]:.3g} (shared: {name})",
            cause="a layer in a default argument or class attribute, or a cache shared by all instances",
            fix="create layers and caches in __init__, one per instance",
        )
