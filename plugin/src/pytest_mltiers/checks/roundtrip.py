"""Out and back: checkpoints, exports and modes must return the same model."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import Forward, ModelSource, build, call, clone, farthest, predict


def checkpoint(model: ModelSource, inputs: Any, *, forward: Forward | None = None, passes: int = 3) -> None:
    """A state dict, saved and loaded strictly into a fresh model, carries everything that decides the output.

    Needs a factory. The first model takes ``passes`` forward passes in training mode (running statistics and other
    state move), its parameters are nudged, and its state goes through ``torch.save`` and ``torch.load`` into a model of
    another seed. Eval outputs must be bitwise equal. Fails with the difference.
    """
    if isinstance(model, nn.Module):
        raise Inapplicable("needs a factory (`model=lambda: MyModel()`), not one instance")
    first, second = build(model, 0).train(), build(model, 1)
    with torch.no_grad():
        for _ in range(passes):
            call(first, clone(inputs), forward)
        for p in first.parameters():
            p.add_(0.01 * torch.randn_like(p))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    try:
        second.load_state_dict(torch.load(buffer, weights_only=True))
    except RuntimeError as error:
        fail(
            f"the state does not fit a fresh model: {str(error).splitlines()[-1].strip()}",
            cause="parameters or buffers that are created during forward(), or shapes that depend on data",
            fix="create all parameters and buffers in __init__",
        )
    far = farthest(predict(first, inputs, forward), predict(second, inputs, forward), 0.0)
    if far is not None:
        fail(
            f"after loading the state into a fresh model, output{far[0]} differs by {far[1]:.3g}",
            cause="layers in a plain list or dict, statistics in plain attributes, buffers with persistent=False",
            fix="nn.ModuleList, nn.ParameterDict, register_buffer: only registered state is saved",
        )


def modes(model: ModelSource, inputs: Any, *, forward: Forward | None = None, tolerance: float = 512.0) -> None:
    """eval -> train -> eval, without a training pass in between, returns to the same output.

    Twice over, so that small drifts add up; differences up to ``tolerance * eps * max|out|`` are allowed (a LoRA merge
    and unmerge rounds). Fails with the difference.
    """
    network = build(model, 0)
    expected = predict(network.train(), inputs, forward)
    for _ in range(2):
        network.train()
        network.eval()
        network.train()
        far = farthest(expected, predict(network, inputs, forward), tolerance)
        if far is not None:
            fail(
                f"after eval() -> train() -> eval() output{far[0]} differs by {far[1]:.3g}",
                cause="eval() or train() changes weights (merged adapters, folded norms) and does not change them back",
                fix="make train(True) undo exactly what train(False) did",
            )


def export(model: ModelSource, inputs: Any, *, tolerance: float = 4096.0) -> None:
    """``torch.export`` reproduces the eval-mode outputs within ``tolerance * eps * max|out|``.

    ``inputs``: a tensor or a tuple of tensors. A model that torch cannot export fails with torch's own first line.
    """
    network = build(model, 0).eval()
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if isinstance(inputs, dict):
        raise Inapplicable("torch.export is tried on positional inputs only")
    try:
        program = torch.export.export(network, clone(arguments))
    except Exception as error:  # noqa: BLE001 - torch raises many kinds here; each of them is the finding
        fail(
            f"torch.export fails: {str(error).strip().splitlines()[0]}",
            cause="control flow or shapes that depend on data, or Python side effects in forward()",
            fix="express them with torch operations (torch.where, torch.cond)",
        )
    with torch.no_grad():
        far = farthest(predict(network, inputs), clone(program.module()(*clone(arguments))), tolerance)
    if far is not None:
        fail(
            f"the exported program differs by {far[1]:.3g} in output{far[0]}",
            cause="a value was baked in while tracing: a Python number, a random mask, a shape",
            fix="compute it from the inputs inside forward()",
        )
