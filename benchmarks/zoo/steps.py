"""Training steps as people write them: the right one, and the ways it goes wrong.

Each function takes the loss and returns ``step(model, optimizer, batch, ...) -> float``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a tensor, a tuple of tensors or a mapping of tensors."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def right(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def missing_zero_grad(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def zero_grad_after_backward(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.zero_grad()
        optimizer.step()
        return value.item()

    return step


def zero_grad_on_the_wrong_object(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        next(iter(model.children())).zero_grad()  # only the first block
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def flipped_sign(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        (-value).backward()
        optimizer.step()
        return value.item()

    return step


def no_optimizer_step(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        return value.item()

    return step


def step_before_backward(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.step()  # applies what the previous batch left behind
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        return value.item()

    return step


def rewrapped_loss(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = torch.tensor(loss(call(model, inputs), targets).item(), requires_grad=True)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def eval_mode_while_training(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.eval()  # left over from the validation loop
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def backward_twice(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward(retain_graph=True)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def stale_batch(loss):
    seen = []

    def step(model, optimizer, batch):
        seen.append(batch)
        inputs, targets = seen[0]  # the loop variable of an enclosing scope
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def running_total(loss):
    total = torch.zeros(())

    def step(model, optimizer, batch):
        nonlocal total
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        total = total.detach() + loss(call(model, inputs), targets)
        total.backward()
        optimizer.step()
        return total.item()

    return step


def fresh_optimizer_every_step(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer = type(optimizer)(model.parameters(), lr=optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def normalises_the_callers_batch(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        inputs.sub_(inputs.mean(0)).div_(inputs.std(0) + 1e-6)
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def half_the_batch(loss):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        keep = len(targets) // 2
        value = loss(call(model, inputs[:keep]), targets[:keep])
        value.backward()
        optimizer.step()
        return value.item()

    return step


# --- clipping ------------------------------------------------------------------------------------------------------


def clipped(loss, norm):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        return value.item()

    return step


def clipped_after_the_step(loss, norm):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        return value.item()

    return step


def clipped_before_backward(loss, norm):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def clips_one_layer_only(loss, norm):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        nn.utils.clip_grad_norm_(list(model.children())[-1].parameters(), norm)
        optimizer.step()
        return value.item()

    return step


# --- schedules -----------------------------------------------------------------------------------------------------


def scheduled(loss):
    def step(model, optimizer, scheduler, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        optimizer.step()
        scheduler.step()
        return value.item()

    return step


def scheduler_forgotten(loss):
    def step(model, optimizer, scheduler, batch):
        return right(loss)(model, optimizer, batch)

    return step


def scheduler_before_optimizer(loss):
    def step(model, optimizer, scheduler, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        value = loss(call(model, inputs), targets)
        value.backward()
        scheduler.step()
        optimizer.step()
        return value.item()

    return step


def scheduler_twice(loss):
    def step(model, optimizer, scheduler, batch):
        value = scheduled(loss)(model, optimizer, scheduler, batch)
        scheduler.step()  # once in the step, once in the epoch loop that was pasted in
        return value

    return step


# --- accumulation over micro-batches ---------------------------------------------------------------------------------


def accumulating(loss, micro):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        total = 0.0
        for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
            value = loss(model(x), y) / micro
            value.backward()
            total += value.item()
        optimizer.step()
        return total

    return step


def accumulating_undivided(loss, micro):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        total = 0.0
        for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
            value = loss(model(x), y)
            value.backward()
            total += value.item() / micro
        optimizer.step()
        return total

    return step


def accumulating_but_zeroing(loss, micro):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        total = 0.0
        for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
            optimizer.zero_grad()
            value = loss(model(x), y) / micro
            value.backward()
            total += value.item()
        optimizer.step()
        return total

    return step


def accumulating_but_stepping(loss, micro):
    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad()
        total = 0.0
        for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
            value = loss(model(x), y) / micro
            value.backward()
            optimizer.step()
            total += value.item()
        return total

    return step


def accumulating_across_calls(loss, micro):
    def step(model, optimizer, batch, index):
        inputs, targets = batch
        model.train()
        value = loss(model(inputs), targets)
        (value / micro).backward()
        if (index + 1) % micro == 0:
            optimizer.step()
            optimizer.zero_grad()
        return value.item()

    return step


def accumulating_across_calls_off_by_one(loss, micro):
    def step(model, optimizer, batch, index):
        inputs, targets = batch
        model.train()
        value = loss(model(inputs), targets)
        (value / micro).backward()
        if index % micro == 0:  # steps after the very first micro-batch
            optimizer.step()
            optimizer.zero_grad()
        return value.item()

    return step
