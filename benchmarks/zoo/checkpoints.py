"""Saving and resuming: what the user's own save and load functions forget."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from benchmarks.zoo import steps, tabular, vision
from benchmarks.zoo.entry import Entry, Parts


def saves(model, optimizer, scheduler):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    return copy.deepcopy(state)


def loads(state, model, optimizer, scheduler):
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])


def loads_model_only(state, model, optimizer, scheduler):
    model.load_state_dict(state["model"])


def loads_without_scheduler(state, model, optimizer, scheduler):
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def loads_leniently(state, model, optimizer, scheduler):
    renamed = {f"module.{name}": value for name, value in state["model"].items()}
    model.load_state_dict(renamed, strict=False)  # saved under DataParallel: nothing matches, nothing is said
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])


def saves_references(model, optimizer, scheduler):
    return {
        "model": model.state_dict(),  # the "best" checkpoint keeps training
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "scheduler": scheduler.state_dict(),
    }


def saves_trainable_only(model, optimizer, scheduler):
    state = saves(model, optimizer, scheduler)
    state["model"] = {n: p.detach().clone() for n, p in model.named_parameters()}  # no buffers
    return state


def loads_trainable_only(state, model, optimizer, scheduler):
    model.load_state_dict(state["model"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])


def saves_half(model, optimizer, scheduler):
    state = saves(model, optimizer, scheduler)
    state["model"] = {n: v.half() if v.is_floating_point() else v for n, v in state["model"].items()}
    return state


def warming_up(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / 10))


def resuming(save=saves, load=loads, base=tabular.mlp) -> Parts:
    return base(step=steps.scheduled(F.cross_entropy), scheduler=warming_up, save=save, load=load)


def _row(name, bug, mutant, correct=resuming) -> Entry:
    return Entry(name=f"resume-{name}", kind="checkpoint", bug=bug, correct=correct, mutant=mutant)


ENTRIES = [
    _row("without-optimizer", "the optimiser's moments are not restored", lambda: resuming(load=loads_model_only)),
    _row("without-scheduler", "the schedule starts again", lambda: resuming(load=loads_without_scheduler)),
    _row("lenient", "strict=False hides that no key matched", lambda: resuming(load=loads_leniently)),
    _row("references", "the checkpoint aliases the live weights", lambda: resuming(saves_references)),
    _row("in-half-precision", "weights are rounded to float16", lambda: resuming(saves_half)),
    _row(
        "without-buffers",
        "batch norm statistics are not saved",
        lambda: resuming(saves_trainable_only, loads_trainable_only, vision.cnn),
        lambda: resuming(base=vision.cnn),
    ),
]
