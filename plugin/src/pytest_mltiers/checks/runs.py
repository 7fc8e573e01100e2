"""Running the user's own training step and writing down what it does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pytest_mltiers.checks.failures import Inapplicable
from pytest_mltiers.checks.trees import batch_size, call, clone, take, to_device
from pytest_mltiers.randomness import seed_everything
from pytest_mltiers.subject import Subject

Batch = tuple[Any, Any]


@dataclass(kw_only=True)
class Update:
    """One ``optimizer.step()``: whether it was the subject's optimiser, the gradients it applied, its learning
    rates."""

    own: bool
    gradients: dict[str, Tensor | None]
    rates: list[float]

    @property
    def norm(self) -> float:
        """The Euclidean norm over all gradients."""
        return float(sum(float(g.double().square().sum()) for g in self.gradients.values() if g is not None)) ** 0.5


@dataclass(kw_only=True)
class Record:
    """What one call of ``step`` did. ``wrong_modes``: modules whose mode was not that of ``model.train()``."""

    value: float | None = None
    updates: list[Update] = field(default_factory=list)
    forwards: int = 0
    wrong_modes: list[str] = field(default_factory=list)


def require(subject: Subject, *names: str) -> None:
    """Raise :class:`Inapplicable` naming the first field that the subject does not have."""
    for name in names:
        if getattr(subject, name) in (None, (), False):
            raise Inapplicable(f"the subject has no `{name}`")


def build_model(subject: Subject) -> nn.Module:
    """A fresh model on the subject's device."""
    require(subject, "model")
    model = subject.model()
    if not isinstance(model, nn.Module):
        raise TypeError(f"Subject.model() returned {type(model).__name__}, not a torch.nn.Module")
    return model if subject.device is None else model.to(subject.device)


def draw(subject: Subject, count: int = 1) -> list[Batch]:
    """``count`` batches on the subject's device. A constant batch is given first as it is, then in other mixtures."""
    require(subject, "batch")
    if callable(subject.batch):
        drawn = [subject.batch() for _ in range(count)]
    else:
        whole = clone(subject.batch)
        size = batch_size(whole)
        mixtures = [torch.arange(size), *(torch.randint(0, size, (size,)) for _ in range(count - 1))]
        drawn = [take(whole, index, size) for index in mixtures]
    for batch in drawn:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise TypeError("Subject.batch must give a pair (inputs, targets)")
    return [to_device((inputs, targets), subject.device) for inputs, targets in drawn]


class Training:
    """A model, its optimiser and schedule, built from a seed, and the user's step on them.

    Two trainings of one seed are the same run: that is how the checks compare "with" and "without" something.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        require(subject, "model", "batch", "optimizer")
        seed_everything(seed)
        self.subject = subject
        self.model = build_model(subject)
        self.optimizer = subject.optimizer(self.model)
        self.scheduler = None if subject.scheduler is None else subject.scheduler(self.optimizer)
        self.index = 0
        if subject.step is None and subject.loss is None:
            raise Inapplicable("the subject has neither `step` nor `loss`")
        self._accepted = None if subject.step is None else set(inspect.signature(subject.step).parameters)

    def step(self, batch: Batch) -> Record:
        """Call the user's step once, on this very batch, and record it."""
        record = Record()
        with self._watching(record):
            value = self._default_step(batch) if self.subject.step is None else self._own_step(batch)
        self.index += 1
        if isinstance(value, Tensor) and value.numel() == 1:
            record.value = float(value.detach())
        elif isinstance(value, (int, float)):
            record.value = float(value)
        return record

    def _own_step(self, batch: Batch) -> Any:
        offered = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "batch": batch,
            "index": self.index,
        }
        if unknown := self._accepted - set(offered):
            raise TypeError(f"Subject.step takes {', '.join(offered)} by name; not {', '.join(sorted(unknown))}")
        return self.subject.step(**{name: value for name, value in offered.items() if name in self._accepted})

    def _default_step(self, batch: Batch) -> Tensor:
        self.model.train()
        self.optimizer.zero_grad()
        value = self.subject.loss(call(self.model, batch[0], self.subject.forward), batch[1])
        value.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return value.detach()

    @contextmanager
    def _watching(self, record: Record) -> Iterator[None]:
        expected = expected_modes(self.model, training=True)

        def before_forward(module: nn.Module, _args: Any) -> None:
            record.forwards += 1
            if not record.wrong_modes:
                record.wrong_modes = [n for n, m in module.named_modules() if m.training != expected.get(n, m.training)]

        def before_update(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            names = {id(p): n for n, p in self.model.named_parameters()}
            held = [p for group in optimizer.param_groups for p in group["params"]]
            record.updates.append(
                Update(
                    own=optimizer is self.optimizer,
                    gradients={
                        names.get(id(p), f"(foreign {tuple(p.shape)})"): None
                        if p.grad is None
                        else p.grad.detach().clone()
                        for p in held
                    },
                    rates=[float(group["lr"]) for group in optimizer.param_groups if "lr" in group],
                )
            )

        hooks = [self.model.register_forward_pre_hook(before_forward), register_optimizer_step_pre_hook(before_update)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def clear_gradients(self) -> None:
        """Forget all gradients, as if no batch had been seen."""
        for p in self.model.parameters():
            p.grad = None

    def parameters(self) -> dict[str, Tensor]:
        """A copy of every parameter."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters()}


def expected_modes(model: nn.Module, *, training: bool) -> dict[str, bool]:
    """The mode of each module after ``model.train(training)``: custom ``train`` methods keep their say.

    The model is switched there and back by its own methods, and every flag is restored.
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    expected = {name: module.training for name, module in model.named_modules()}
    if model.training != before[0][1]:
        model.train(before[0][1])
    for module, mode in before:
        module.training = mode
    return expected
