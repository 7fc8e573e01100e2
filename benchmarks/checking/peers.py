"""Other libraries of checks on the same projects: what applies of theirs, called as their documentation says.

Each gets the model in eval mode for its inference checks, the project's own step and optimiser where it can run them,
and the loss. What they have no check for (data, splits, serving, ranks) counts as not caught.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.zoo.entry import Parts

Check = tuple[str, Callable[[], Any]]


def available(peer: str) -> bool:
    """Whether this library can be imported here."""
    try:
        __import__(peer.split(maxsplit=1)[0].replace("-", "_"))
    except ImportError:
        return False
    return True


def judge(peer: str, parts: Parts) -> dict[str, Any]:
    """``failed``: the names and first lines of this library's checks that fail on a project; ``ran``: how many ran."""
    if "model" not in parts:
        return {"failed": {}, "ran": 0}
    found = _pytest_torch(parts) if peer.startswith("pytest-torch") else _torchtest2(parts)
    failed, ran = {}, 0
    for name, check in found:
        ran += 1
        try:
            check()
        except Exception as error:
            failed[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return {"failed": failed, "ran": ran}


def _data(parts: Parts) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return parts["batch"]()


def _fresh(parts: Parts) -> Any:
    torch.manual_seed(0)
    return parts["model"]()


def _arguments(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


class _Named(torch.nn.Module):
    """A model of (ids, mask) under the names that pytest-torch's padding checks expect."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.inner(input_ids, attention_mask.bool())


def _pytest_torch(parts: Parts) -> Iterator[Check]:
    import pytest_torch as theirs
    from pytest_torch.training_loop import TrainingSetup

    inputs, targets = _data(parts)
    yield "inference_contract", lambda: theirs.check_inference_contract(_fresh(parts).eval(), inputs)
    yield "checkpoint_roundtrip", lambda: theirs.assert_checkpoint_roundtrip(parts["model"], inputs)
    if "probabilities" in parts and "predict" in parts:
        spec = theirs.Probabilities(("B", None), dim=parts["probabilities"])
        yield "output_spec", lambda: theirs.assert_output_spec(parts["predict"](_fresh(parts), inputs), spec)
    shape = parts.get("output_shape")
    if shape and not any(isinstance(d, tuple) for d in shape):
        wanted = theirs.TensorSpec(shape)
        yield "output_shape", lambda: theirs.assert_output_spec(_fresh(parts).eval()(*_arguments(inputs)), wanted)
    if "pad" in parts and isinstance(inputs, tuple) and inputs[1].dtype == torch.bool:
        named = {"input_ids": inputs[0], "attention_mask": inputs[1].long()}
        yield "padding_invariant", lambda: theirs.assert_padding_invariant(_Named(_fresh(parts)).eval(), named)
        yield "mask_invariant", lambda: theirs.assert_mask_invariant(_Named(_fresh(parts)).eval(), named, vocab_size=12)
    if "loss" in parts:

        def loss_of(output: Any) -> Any:
            return parts["loss"](output, targets)

        yield "gradients_finite", lambda: theirs.assert_gradients_finite(_fresh(parts), inputs, loss_of)
        yield "all_params_receive_grad", lambda: theirs.assert_all_params_receive_grad(_fresh(parts), inputs, loss_of)
        yield (
            "overfits_one_batch",
            lambda: theirs.assert_overfits_one_batch(
                _fresh(parts), inputs, loss_of, max_final_ratio=parts.get("overfit_fraction", 0.1)
            ),
        )
        if parts.get("frozen"):
            yield (
                "frozen",
                lambda: theirs.assert_frozen(_fresh(parts), inputs, loss_of, list(parts["frozen"])),
            )
    if "step" not in parts:
        return

    def setup() -> Any:
        model = parts["model"]()
        optimizer = parts["optimizer"](model)
        schedulers = parts["scheduler"](optimizer) if "scheduler" in parts else None
        return TrainingSetup(model, optimizer, schedulers=schedulers)

    def step(state: Any, batch: Any) -> Any:
        offered = {
            "model": state.model,
            "optimizer": state.optimizer,
            "scheduler": state.scheduler if state.schedulers else None,
            "batch": copy.deepcopy(batch),
            "index": state.step_index,
        }
        return parts["step"](**{k: offered[k] for k in inspect.signature(parts["step"]).parameters})

    torch.manual_seed(0)
    batches = [parts["batch"]() for _ in range(12)]

    def healthy() -> None:
        run = theirs.run_training(setup, batches[0], step, steps=20)
        limit, every = parts.get("clip_norm"), parts.get("accumulate", 1)
        run.assert_healthy(max_grad_norm=limit * 1.001 if limit else None, min_relative_decrease=0.05, every=every)

    def coverage() -> None:
        state = setup()
        theirs.assert_optimizer_coverage(state.model, state.optimizers)

    yield "run_training", healthy
    yield "optimizer_coverage", coverage
    yield "resume_equivalent", lambda: theirs.assert_resume_equivalent(setup, batches, step, steps=8)


def _torchtest2(parts: Parts) -> Iterator[Check]:
    import torchtest2 as theirs

    inputs, targets = _data(parts)

    def report() -> None:
        model = _fresh(parts)
        shape = parts.get("output_shape")
        flat = shape and not any(isinstance(d, tuple) for d in shape)
        theirs.assert_model_ok(
            model,
            inputs,
            targets,
            loss_fn=parts.get("loss"),
            optimizer=parts["optimizer"](model) if "optimizer" in parts else None,
            output_shape=[None if isinstance(d, str) else d for d in shape] if flat else None,
            frozen=tuple(n for n, _ in model.named_parameters() if _matches(n, parts.get("frozen", ()))),
            overfit_ratio=parts.get("overfit_fraction", 0.1),
        )

    yield "check_model", report


def _matches(name: str, patterns: Any) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, p) for p in patterns)
