"""Batches and outputs are trees of tensors (tuples, lists, mappings); this is all we do with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import Inapplicable

Forward = Callable[[Any, Any], Any]
ModelSource = nn.Module | Callable[[], nn.Module]


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a tree with its path, depth first: ``[0]``, ``['mask']``, or ``""`` for a bare tensor."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{path}[{index}]")


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same tree with ``function`` applied to every tensor; mappings become dicts, named tuples stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


def clone(tree: Any) -> Any:
    """A detached copy that shares no storage."""
    return map_tensors(lambda t: t.detach().clone(), tree)


def batch_size(tree: Any) -> int:
    """The length of dimension 0 of the first tensor. ``ValueError`` if there is none."""
    for _, tensor in leaves(tree):
        if tensor.ndim:
            return len(tensor)
    raise ValueError("a batch needs at least one tensor with a batch dimension")


def take(tree: Any, index: Tensor | slice, size: int) -> Any:
    """Rows ``index`` of every tensor whose dimension 0 is ``size``; everything else as it is."""
    return map_tensors(lambda t: t[index] if t.ndim and len(t) == size else t, tree)


def concatenate(first: Any, second: Any) -> Any:
    """Rows of ``second`` after those of ``first``, tensor by tensor."""
    seconds = iter([t for _, t in leaves(second)])
    return map_tensors(lambda t: torch.cat([t, next(seconds)]), first)


def to_device(tree: Any, device: Any) -> Any:
    """Every tensor on ``device``; ``None`` leaves the tree alone."""
    return tree if device is None else map_tensors(lambda t: t.to(device), tree)


def call(model: Any, inputs: Any, forward: Forward | None = None) -> Any:
    """``forward(model, inputs)``, or the model on a mapping (by keyword), a tuple (by position) or anything else."""
    if forward is not None:
        return forward(model, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def predict(model: Any, inputs: Any, forward: Forward | None = None) -> Any:
    """The output in eval mode, without gradients, on a copy of the inputs; the modes are put back afterwards."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.no_grad():
            return clone(call(model, clone(inputs), forward))
    finally:
        if modes and modes[0][1]:
            model.train()  # by the model's own train(), which may do more than set flags
        for module, mode in modes:
            module.training = mode


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy; :class:`Inapplicable` where torch cannot make one (legacy weight_norm and spectral_norm)."""
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise Inapplicable(f"the model cannot be copied: {str(error).splitlines()[0]}") from error


def build(model: ModelSource, seed: int | None = None) -> nn.Module:
    """A model of one's own: a copy of a module, or a fresh one from a factory (under torch's ``seed`` if given)."""
    if isinstance(model, nn.Module):
        return copy_of(model)
    if seed is not None:
        torch.manual_seed(seed)
    built = model()
    if not isinstance(built, nn.Module):
        raise TypeError(f"the model factory returned {type(built).__name__}, not a torch.nn.Module")
    return built


# --- comparing -------------------------------------------------------------------------------------------------------


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise equality in which NaN equals NaN."""
    if not a.is_floating_point():
        return a == b
    return (a == b) | (a.isnan() & b.isnan())


def identical(a: Any, b: Any) -> bool:
    """Bitwise equality of two trees; NaN equals NaN."""
    ours, theirs = [t for _, t in leaves(a)], [t for _, t in leaves(b)]
    return len(ours) == len(theirs) and all(
        x.shape == y.shape and x.dtype == y.dtype and bool(_same(x, y).all()) for x, y in zip(ours, theirs, strict=True)
    )


def distance(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; infinite where only one side is NaN; 0 for empty tensors."""
    if a.numel() == 0:
        return 0.0
    if not a.is_floating_point():
        return float((a != b).any())
    wide = torch.float64
    gap = (a.to(wide) - b.to(wide)).abs()
    gap = torch.where(_same(a, b), torch.zeros_like(gap), gap)
    return float(torch.nan_to_num(gap, nan=torch.inf, posinf=torch.inf).max())


def allowance(a: Tensor, factor: float = 32.0) -> float:
    """``factor * eps * max|a|``: what rounding alone may change in numbers of this size and dtype."""
    if not a.is_floating_point() or a.numel() == 0:
        return 0.0
    finite = a[torch.isfinite(a)]
    return factor * torch.finfo(a.dtype).eps * float(finite.abs().max() if finite.numel() else 0.0)


def farthest(a: Any, b: Any, factor: float = 32.0) -> tuple[str, float, float] | None:
    """The tensor that differs most beyond its allowance as (path, distance, allowance); None if all are close."""
    worst: tuple[str, float, float] | None = None
    for (path, x), (_, y) in zip(leaves(a), leaves(b), strict=True):
        if x.shape != y.shape:
            return path, float("inf"), 0.0
        gap, allowed = distance(x, y), allowance(x, factor)
        if gap > allowed and (worst is None or gap > worst[1]):
            worst = path, gap, allowed
    return worst
