"""Gradients: they reach what should learn, they are finite, and they are the derivative of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import Forward, ModelSource, build, call, clone, leaves, map_tensors

Loss = Callable[[Any, Any], Tensor]


def is_frozen(name: str, frozen: Iterable[str]) -> bool:
    """Whether a parameter's name matches one of the glob patterns."""
    return any(fnmatchcase(name, pattern) for pattern in frozen)


def _backward(model: nn.Module, batch: tuple[Any, Any], loss: Loss, forward: Forward | None) -> None:
    inputs, targets = batch
    value = loss(call(model, clone(inputs), forward), clone(targets))
    if not value.requires_grad:
        fail(
            "the loss does not depend on any trainable parameter",
            cause="everything is frozen, detached, or computed under no_grad",
            fix="check requires_grad, .detach(), .item() and no_grad along forward() and the loss",
        )
    value.backward()


def reach_every_parameter(
    model: ModelSource,
    batch: tuple[Any, Any] | Callable[[], tuple[Any, Any]],
    loss: Loss,
    *,
    forward: Forward | None = None,
    frozen: Iterable[str] = (),
    seeds: int = 3,
    lr: float = 0.1,
) -> None:
    """Every trainable parameter gets a gradient.

    ``batch``: (inputs, targets) or a function that draws one; ``loss(output, targets)``: a scalar. A parameter is dead
    only if its gradient is exactly zero (or missing) for each of ``seeds`` fresh models (a factory; else one) *and* is
    still so after a step of plain gradient descent: LoRA's A, ReZero and other zero-initialised layers wake up. Shift
    invariance (a bias before a normalisation, an attention key bias) is no death: what counts there is that
    gradient arrives at the layer's output. Frozen parameters (``requires_grad=False``, or a name that matches
    ``frozen``) are left out. Fails naming each dead parameter with its module's type.
    """
    dead: set[str] | None = None
    kinds: dict[str, str] = {}
    for seed in range(1 if isinstance(model, nn.Module) else seeds):
        network = build(model, seed).train()
        drawn = batch() if callable(batch) else batch
        found = _dead_twice(network, drawn, loss, forward, tuple(frozen), lr)
        dead = found if dead is None else dead & found
        if not dead:
            return
        kinds |= {n: type(network.get_submodule(n.rpartition(".")[0])).__name__ for n in dead}
    listed = ", ".join(f"{name} ({kinds[name]})" for name in sorted(dead))
    fail(
        f"no gradient reaches {len(dead)} parameter(s): {listed}",
        cause="an unused layer, a detached or no_grad branch, a dead activation, rounding or argmax on the way, "
        "a loss term left out, or weights that all start at zero",
        fix="use or remove the layer; remove .detach(); initialise with noise; declare `frozen` what is meant to be",
    )


def _dead_twice(
    network: nn.Module, batch: tuple[Any, Any], loss: Loss, forward: Forward | None, frozen: tuple[str, ...], lr: float
) -> set[str]:
    first = _dead_once(network, batch, loss, forward, frozen)
    if not first:
        return first
    with torch.no_grad():
        for p in network.parameters():
            if p.grad is not None:
                p.sub_(lr * p.grad / (p.grad.norm() + 1e-12))
                p.grad = None
    return first & _dead_once(network, batch, loss, forward, frozen)


def _dead_once(
    network: nn.Module, batch: tuple[Any, Any], loss: Loss, forward: Forward | None, frozen: tuple[str, ...]
) -> set[str]:
    reached: set[int] = set()

    def watch(module: nn.Module, _args: Any, output: Any) -> None:
        for _, tensor in leaves(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda grad: reached.add(id(module)) if bool((grad != 0).any()) else None)

    owners = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [m.register_forward_hook(watch) for m in owners]
    try:
        _backward(network, batch, loss, forward)
    finally:
        for hook in hooks:
            hook.remove()
    dead = set()
    for name, p in network.named_parameters():
        if not p.requires_grad or is_frozen(name, frozen):
            continue
        if p.grad is not None and bool((p.grad != 0).any()):
            continue
        owner = network.get_submodule(name.rpartition(".")[0])
        shift_invariant = name.rpartition(".")[2].endswith("bias") or p.ndim == 1
        if p.grad is not None and shift_invariant and id(owner) in reached:
            continue
        dead.add(name)
    return dead


def finite_gradients(model: nn.Module, batch: tuple[Any, Any], loss: Loss, *, forward: Forward | None = None) -> None:
    """No NaN and no infinity in any gradient of the training-mode loss. Fails naming the first parameter hit."""
    network = build(model).train()
    _backward(network, batch, loss, forward)
    bad = [n for n, p in network.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    if bad:
        fail(
            f"the gradient of {bad[0]} is not finite ({len(bad)} parameter(s))",
            cause="sqrt, norm or std of zero, log of zero, or 0/0 behind a torch.where (NaN all the same)",
            fix="add an epsilon inside the root, clamp before log, guard the denominator itself",
        )


def true_gradients(
    model: ModelSource,
    batch: tuple[Any, Any],
    loss: Loss,
    *,
    forward: Forward | None = None,
    directions: int = 3,
    tolerance: float = 0.02,
) -> None:
    """The gradient of the eval-mode loss is its derivative: it agrees with finite differences along random directions.

    In float64, with central differences of step 1e-6 along ``directions`` random directions in the space of trainable
    parameters. A direction disagrees if both values differ by more than ``tolerance`` of the larger; a bug is a
    disagreement in *every* direction (a ReLU kink can upset one). Finds detached branches, no_grad blocks, states
    detached between steps, and wrong custom backward functions. Does not apply to models that stop gradients on purpose
    (say ``stop_gradient=True``) or cannot run in float64. Source: gradient checking as in torch.autograd.gradcheck.
    """
    network = build(model, 0).double().eval()
    wide = map_tensors(lambda t: t.double() if t.is_floating_point() else t, clone(batch))
    trainable = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():  # off the initial point, where zero-initialised branches hide what is wrong with them
        for p in trainable:
            p.add_(0.05 * torch.randn_like(p))

    def value() -> Tensor:
        return loss(call(network, clone(wide[0]), forward), wide[1])

    try:
        base = value()
    except (RuntimeError, TypeError) as error:
        raise Inapplicable(f"the model does not run in float64 ({str(error).splitlines()[0]})") from error
    if base.dtype != torch.float64 or not base.requires_grad:
        raise Inapplicable("the loss is not a differentiable float64 scalar in eval mode")
    gradients = torch.autograd.grad(base, trainable, allow_unused=True)
    step, worst = 1e-6, ("", 0.0, 0.0)
    for seed in range(directions):
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device) for p in trainable]
        analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
        numeric = _slope(value, trainable, direction, step)
        gap = abs(analytic - numeric)
        if gap <= tolerance * max(abs(analytic), abs(numeric)) + 1e-7:
            return
        worst = max(worst, ("", analytic, numeric), key=lambda w: abs(w[1] - w[2]))
    culprit = _culprit(network, value, gradients, step, tolerance)
    fail(
        f"autograd's derivative is {worst[1]:.4g}, finite differences give {worst[2]:.4g}{culprit}",
        cause="a .detach(), .data, .item() or no_grad() on the way, or a custom backward that is wrong",
        fix="let the gradient through; if a gradient is stopped on purpose, say stop_gradient=True",
    )


def _slope(value: Callable[[], Tensor], parameters: list[nn.Parameter], direction: list[Tensor], step: float) -> float:
    ends = []
    with torch.no_grad():
        for sign in (1.0, -2.0, 1.0):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            ends.append(float(value()))
    return (ends[0] - ends[1]) / (2 * step)


def _culprit(
    network: nn.Module, value: Callable[[], Tensor], gradients: tuple[Tensor | None, ...], step: float, tolerance: float
) -> str:
    """The first parameters whose own slope disagrees, for the message."""
    names = [n for n, p in network.named_parameters() if p.requires_grad]
    parameters = [p for p in network.parameters() if p.requires_grad]
    wrong = []
    for name, p, g in zip(names, parameters, gradients, strict=True):
        d = torch.randn(p.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(p.device)
        analytic = 0.0 if g is None else float((g * d).sum())
        numeric = _slope(value, [p], [d], step)
        if abs(analytic - numeric) > tolerance * max(abs(analytic), abs(numeric)) + 1e-7:
            wrong.append(name)
    return f"; wrong for {', '.join(wrong[:4])}" if wrong else ""
