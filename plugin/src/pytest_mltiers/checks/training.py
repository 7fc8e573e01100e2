"""The contract of a training step, tested on the user's own step: what it applies, to what, when and in which mode."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.gradients import is_frozen
from pytest_mltiers.checks.runs import Batch, Record, Training, Update, build_model, draw, expected_modes, require
from pytest_mltiers.checks.trees import call, clone, copy_of, farthest, identical, leaves, predict
from pytest_mltiers.randomness import seed_everything
from pytest_mltiers.subject import Subject

Gradients = dict[str, Tensor | None]


def _norm(gradients: Gradients) -> float:
    return float(sum(float(g.double().square().sum()) for g in gradients.values() if g is not None)) ** 0.5


def _gap(ours: Gradients, theirs: Gradients) -> float:
    """The norm of the difference of two sets of gradients over the parameters of either; a missing one is zero."""
    total = 0.0
    for name in ours.keys() | theirs.keys():
        a, b = ours.get(name), theirs.get(name)
        if a is None and b is None:
            continue
        difference = (a if b is None else b if a is None else a - b).double()  # type: ignore[operator]
        total += float(difference.square().sum())
    return total**0.5


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _window(training: Training, batches: list[Batch], seed: int) -> list[Record]:
    """One optimiser update's worth of calls, each under its own seed."""
    records = []
    for offset, batch in enumerate(batches):
        seed_everything(seed + offset)
        records.append(training.step(clone(batch)))
    return records


def _only_update(records: list[Record], accumulate: int) -> Update:
    """The single update of a window, in its last call; fails otherwise."""
    counts = [len(r.updates) for r in records]
    foreign = [u for r in records for u in r.updates if not u.own]
    if foreign:
        fail(
            "the step uses another optimiser than the one it was given",
            cause="an optimiser is created inside the step, so its moments never build up",
            fix="create the optimiser once, outside the loop, and pass it in",
        )
    if sum(counts) == 0:
        fail(
            f"optimizer.step() was not called in {len(records)} call(s) of the step",
            cause="optimizer.step() is missing",
            fix="call optimizer.step() after backward()",
        )
    if sum(counts) > 1 or counts[-1] != 1:
        fail(
            f"optimizer.step() per call of the step: {counts}; expected one, in call {accumulate} of {accumulate}",
            cause="the optimiser steps on every micro-batch, or the window is off by one",
            fix="step once per batch; across calls, when (index + 1) % accumulate == 0",
        )
    return next(u for r in records for u in r.updates)


def gradients_forget(subject: Subject, *, seed: int = 0) -> None:
    """The gradients a step applies do not depend on earlier batches' gradients.

    Two runs of one seed take a step on batch 1; one of them then has its gradients wiped; both take a step on batch 2
    (a whole window of ``accumulate`` calls each). The second updates must agree within 1e-4 of their norm: they
    differ if
    ``zero_grad`` is missing, incomplete or misplaced. Catches in every seed what training curves show in one of
    hundreds.
    """
    require(subject, "step")
    seed_everything(seed)
    batches = draw(subject, 2 * subject.accumulate)
    first, second = batches[: subject.accumulate], batches[subject.accumulate :]
    updates = []
    for wipe in (False, True):
        training = Training(subject, seed)
        _window(training, first, 100)
        if wipe:
            training.clear_gradients()
        updates.append(_only_update(_window(training, second, 200), subject.accumulate))
    kept, wiped = updates
    gap, norm = _gap(kept.gradients, wiped.gradients), max(kept.norm, wiped.norm)
    if norm == 0:
        fail(
            "the optimiser is given no gradients at all, or zeros",
            cause="zero_grad() between backward() and step(), backward on a re-created tensor, everything frozen",
            fix="order: zero_grad, forward, backward, step; call backward on the loss itself",
        )
    if gap > 1e-4 * norm:
        fail(
            f"the second update changes by {gap / norm:.1%} if the first batch's gradients are wiped",
            cause="zero_grad() is missing, misplaced, or reaches only part of the parameters",
            fix="optimizer.zero_grad() at the start of every step (every window, when accumulating)",
        )


def gradients_are_this_batchs(subject: Subject, *, seed: int = 0, tolerance: float = 1e-2) -> None:
    """What the optimiser is given is the gradient of ``subject.loss`` on this very batch.

    The user's step runs on two batches (windows of ``accumulate`` calls); before the second update the expected
    gradient is computed by autograd from the same weights, the same batch and the same random state. Agreement within
    ``tolerance`` of the norm; with ``clip_norm`` up to the common scale. ``nn.Dropout`` layers are set to p=0 in both,
    because micro-batches draw other masks. Does not apply where training-mode outputs stay random, or depend on the
    batch's composition while the step splits it (batch norm with accumulation).
    """
    require(subject, "step", "loss")
    seed_everything(seed)
    batches = draw(subject, 2 * subject.accumulate)
    training = Training(subject, seed)
    _without_dropout(training.model)
    _window(training, batches[: subject.accumulate], 100)
    reference = copy_of(training.model)
    records = _window(training, batches[subject.accumulate :], 200)
    applied = _only_update(records, subject.accumulate).gradients
    expected, value = _expected(subject, reference, batches[subject.accumulate :])
    _check_same_gradient(subject, applied, expected, tolerance, reference, records)
    reported = [r.value for r in records if r.value is not None]
    if len(reported) == len(records) and not _unsettled(subject, reference, batches[0], records):
        mean = sum(reported) / len(reported)
        if abs(mean - value) > tolerance * max(abs(value), 1e-6):
            fail(
                f"the step reports a loss of {mean:.5g}; the loss of this batch is {value:.5g}",
                cause="a running total, an undivided or last micro-batch's loss, or another batch's is reported",
                fix="return loss.item() of this batch, averaged over micro-batches",
            )


def _expected(subject: Subject, model: nn.Module, batches: list[Batch]) -> tuple[Gradients, float]:
    """The mean gradient and loss over ``batches`` from the model's present weights, in training mode."""
    for p in model.parameters():
        p.grad = None
    total = 0.0
    model.train()
    for offset, (inputs, targets) in enumerate(batches):
        seed_everything(200 + offset)
        value = subject.loss(call(model, clone(inputs), subject.forward), clone(targets)) / len(batches)
        if not value.requires_grad:
            raise Inapplicable("the loss does not depend on any trainable parameter")
        value.backward()
        total += float(value.detach())
    return {n: p.grad for n, p in model.named_parameters()}, total


def _unsettled(subject: Subject, model: nn.Module, batch: Batch, records: list[Record]) -> bool:
    """Whether the training-mode output is random, or depends on the batch while the step splits it."""
    split = any(r.forwards > 1 for r in records)
    twin = copy_of(model).train()
    outputs = []
    with torch.no_grad():
        for seed in (1, 2):
            seed_everything(seed)
            outputs.append(clone(call(copy_of(twin), clone(batch[0]), subject.forward)))
    if not identical(*outputs):
        return True
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    return split and normed


def _check_same_gradient(
    subject: Subject,
    applied: Gradients,
    expected: Gradients,
    tolerance: float,
    model: nn.Module,
    records: list[Record],
) -> None:
    held = {n: expected.get(n) for n in applied if n in expected}
    ours, theirs = _norm(applied), _norm(held)
    dot = sum(float((a * held[n]).sum()) for n, a in applied.items() if a is not None and held.get(n) is not None)
    scale = ours / theirs if theirs else 0.0
    scaled = {n: None if g is None else g * scale for n, g in held.items()}
    clipped = subject.clip_norm is not None
    gap = _gap(applied, scaled if clipped else held) / max(ours if clipped else theirs, 1e-12)
    if gap <= tolerance:
        return
    if _unsettled(subject, model, draw(subject)[0], records):
        raise Inapplicable("training-mode outputs are random or depend on how the batch is split")
    cosine = dot / max(ours * theirs, 1e-12)
    what = f"applied gradient: norm {ours:.4g}, cosine {cosine:+.3f} to this batch's gradient of norm {theirs:.4g}"
    if cosine < -0.5:
        cause, fix = "the sign is flipped: the step climbs the loss", "call backward on the loss, not on its negative"
    elif cosine > 0.999:
        cause = f"the scale is off by {scale:.3g}: accumulation not divided, backward called twice, loss summed"
        fix = "divide each micro-batch's loss by their number; call backward once"
    else:
        cause = "another batch, part of the batch, another loss, or gradients left from before"
        fix = "use the batch that is passed in, all of it, and zero_grad() first"
    fail(what, cause=cause, fix=fix)


def clips_before_step(subject: Subject, *, seed: int = 0) -> None:
    """Every update's gradient norm is at most ``clip_norm`` (plus 0.1 %), on a batch whose raw gradient exceeds it.

    The raw norm comes from autograd on the same weights; if it stays below ``clip_norm`` over 4 batches the check does
    not apply. Measured where it matters, as ``optimizer.step()`` begins.
    """
    require(subject, "step", "loss", "clip_norm")
    seed_everything(seed)
    training = Training(subject, seed)
    largest = 0.0
    for batch in draw(subject, 4):
        raw = _norm(_expected(subject, copy_of(training.model), [batch])[0])
        largest = max(largest, raw)
        for update in training.step(clone(batch)).updates:
            if update.norm > subject.clip_norm * 1.001:
                fail(
                    f"an update's gradient norm is {update.norm:.4g}, clip_norm is {subject.clip_norm:g}",
                    cause="clipping after optimizer.step(), before backward(), per layer, or not at all",
                    fix="clip_grad_norm_(model.parameters(), max_norm) between backward() and optimizer.step()",
                )
    if largest <= subject.clip_norm:
        raise Inapplicable(f"raw gradient norms stay at {largest:.3g}, below clip_norm={subject.clip_norm:g}")


def parameters_change(subject: Subject, *, seed: int = 0, windows: int = 3) -> None:
    """After ``windows`` updates every trainable parameter has moved, and what is declared ``frozen`` has not, bitwise.

    Buffers whose name matches ``frozen`` must stay too (statistics of a frozen batch norm). Parameters with
    ``requires_grad=False`` that no pattern of ``frozen`` covers are an accident until declared. A parameter that got no
    gradient in any update is left to `reach_every_parameter`.
    """
    seed_everything(seed)
    training = Training(subject, seed)
    before, buffers = training.parameters(), {n: b.detach().clone() for n, b in training.model.named_buffers()}
    touched: set[str] = set()
    for batch in draw(subject, windows * subject.accumulate):
        for update in training.step(clone(batch)).updates:
            floor = 1e-6 * update.norm  # below it is rounding: a bias before a normalisation has no gradient but that
            touched |= {n for n, g in update.gradients.items() if g is not None and float(g.norm()) > floor}
    after = dict(training.model.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n].detach())}
    surprised = sorted(n for n, p in after.items() if not p.requires_grad and not is_frozen(n, subject.frozen))
    if surprised:
        fail(
            f"{len(surprised)} parameter(s) do not require gradients: {', '.join(surprised[:4])}",
            cause="frozen for an experiment and forgotten",
            fix='requires_grad_(True), or declare it: frozen=("encoder.*",)',
        )
    thawed = sorted(n for n in moved if is_frozen(n, subject.frozen))
    thawed += sorted(
        n for n, b in training.model.named_buffers() if is_frozen(n, subject.frozen) and not identical(buffers[n], b)
    )
    if thawed:
        fail(
            f"declared frozen, yet changed by training: {', '.join(thawed[:4])}",
            cause="requires_grad left on, frozen too late, or a frozen batch norm in training mode",
            fix="requires_grad_(False) in __init__; keep frozen norms in eval() from an overridden train()",
        )
    if not moved:
        fail(
            f"no parameter changed in {windows} updates",
            cause="optimizer.step() missing, gradients cleared before it, another model's parameters in the optimiser",
            fix="order: zero_grad, forward, backward, step; build the optimiser from this model",
        )
    still = sorted(n for n, p in after.items() if p.requires_grad and n not in moved and n in touched)
    trained_late = _reached_late(training, draw(subject)[0]) - moved if subject.loss is not None else set()
    still = sorted(
        set(still) | {n for n in trained_late if after[n].requires_grad and not is_frozen(n, subject.frozen)}
    )
    if still:
        fail(
            f"{len(still)} trainable parameter(s) never change although gradient reaches them: {', '.join(still[:4])}",
            cause="not in the optimiser, a learning rate of 0 in its group, or a step that skips them",
            fix="build the optimiser from all of model.parameters(), after the model is complete",
        )


def _reached_late(training: Training, batch: Batch) -> set[str]:
    """The parameters that a plain backward pass of the loss reaches now."""
    model = copy_of(training.model).train()
    try:
        gradients, _ = _expected(training.subject, model, [batch])
    except Inapplicable:
        return set()
    total = _norm(gradients)
    return {n for n, g in gradients.items() if g is not None and float(g.norm()) > 1e-6 * total}


def modes_are_right(subject: Subject, *, seed: int = 0) -> None:
    """The step runs every module in the mode of ``model.train()``, also right after ``evaluate`` if there is one.

    Custom ``train`` methods (frozen norms) keep their say. Fails naming the module.
    """
    require(subject, "step")
    seed_everything(seed)
    training = Training(subject, seed)
    for moment in ("in the first step", "in a step after evaluate()"):
        batch = draw(subject)[0]
        if moment != "in the first step":
            if subject.evaluate is None:
                return
            subject.evaluate(training.model, clone(batch))
        record = training.step(clone(batch))
        if record.wrong_modes:
            fail(
                f"module {record.wrong_modes[0] or 'model'!r} is in the wrong mode {moment} "
                f"({len(record.wrong_modes)} module(s))",
                cause="model.eval() left on from validation, or a step without model.train()",
                fix="model.train() at the start of every training step or epoch",
            )


def evaluation_is_clean(subject: Subject, *, seed: int = 0) -> None:
    """``evaluate`` runs in eval mode, gives the same number twice, and leaves weights, buffers and gradients alone."""
    require(subject, "evaluate", "model", "batch")
    seed_everything(seed)
    model, batch = build_model(subject).train(), draw(subject)[0]
    expected, wrong = expected_modes(model, training=False), set()

    def look(module: nn.Module, _args: Any) -> None:
        wrong.update(n for n, m in module.named_modules() if m.training != expected.get(n, m.training))

    before = {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}
    hook = model.register_forward_pre_hook(look)
    values = []
    for repeat in (1, 2):
        seed_everything(seed + repeat)
        values.append(subject.evaluate(model, clone(batch)))
    hook.remove()
    changed = [
        n for n, t in [*model.named_parameters(), *model.named_buffers()] if not identical(before[n], t.detach())
    ]
    left = [n for n, p in model.named_parameters() if p.grad is not None]
    same = identical(*values) if isinstance(values[0], Tensor) else values[0] == values[1] or values[0] != values[0]
    for bad, seen, cause in [
        (
            wrong,
            f"evaluate() runs {next(iter(wrong), '') or 'the model'!r} in training mode",
            "model.eval() is missing",
        ),
        (changed, f"evaluate() changes {', '.join(changed[:3])}", "running statistics are updated during validation"),
        (left, f"evaluate() leaves gradients behind ({', '.join(left[:3])})", "backward() in the validation loop"),
        (not same, f"evaluate() gives {values[0]} and then {values[1]}", "dropout or sampling during validation"),
    ]:
        if bad:
            fail(seen, cause=cause, fix="model.eval() and torch.no_grad() around validation, model.train() after it")


def follows_schedule(subject: Subject, *, seed: int = 0, updates: int = 12) -> None:
    """The learning rate of update k is what the schedule says after k // ``scheduler_every`` advances, k = 0, 1, ...

    Compared over ``updates`` updates with the same schedule on an optimiser of its own; relative tolerance 1e-6.
    """
    require(subject, "step", "scheduler")
    seed_everything(seed)
    training = Training(subject, seed)
    batches = draw(subject, updates * subject.accumulate)
    seen = [u.rates for b in batches for u in training.step(clone(b)).updates]
    seed_everything(seed)
    twin = subject.optimizer(build_model(subject))
    schedule = subject.scheduler(twin)
    wanted = []
    for k in range(len(seen)):
        wanted.append([float(g["lr"]) for g in twin.param_groups])
        twin.step()
        if (k + 1) % subject.scheduler_every == 0:
            schedule.step()
    if all(w == wanted[0] for w in wanted):
        raise Inapplicable(f"the schedule is constant over {updates} updates")
    for k, (ours, theirs) in enumerate(zip(seen, wanted, strict=True)):
        if any(abs(a - b) > 1e-6 * abs(b) + 1e-15 for a, b in zip(ours, theirs, strict=True)):
            fail(
                f"update {k} uses learning rate {ours[0]:.6g}, the schedule says {theirs[0]:.6g}",
                cause="the scheduler never steps, steps twice, steps before the optimiser, or at another cadence",
                fix="scheduler.step() once, after optimizer.step(); declare scheduler_every for other cadences",
            )


def optimizer_holds_parameters(subject: Subject, *, seed: int = 0) -> None:
    """The optimiser's parameters are exactly the model's trainable ones, by identity, after construction and a step.

    Fails naming those it lacks and the shapes of those it holds but the model does not.
    """
    training = Training(subject, seed)
    for moment in ("after construction", "after a step"):
        if moment == "after a step":
            training.step(clone(draw(subject)[0]))
        held = {id(p): p for g in training.optimizer.param_groups for p in g["params"]}
        owned = {id(p) for p in training.model.parameters()}
        lacking = [n for n, p in training.model.named_parameters() if p.requires_grad and id(p) not in held]
        foreign = [tuple(p.shape) for i, p in held.items() if i not in owned]
        if foreign:
            fail(
                f"{moment} the optimiser holds {len(foreign)} parameter(s) of another model, of shapes {foreign[:3]}",
                cause="it was built from another model, or a layer was replaced afterwards",
                fix="build the optimiser last, from the finished model",
            )
        if lacking:
            fail(
                f"{moment} the optimiser lacks {len(lacking)} trainable parameter(s): {', '.join(lacking[:4])}",
                cause="it was given part of the model, or a layer was added afterwards",
                fix="build the optimiser from model.parameters(), after the model is complete; else freeze and declare",
            )


def batch_unchanged_by_step(subject: Subject, *, seed: int = 0) -> None:
    """The step leaves the caller's batch as it was. Fails naming the tensor."""
    require(subject, "step")
    seed_everything(seed)
    training, batch = Training(subject, seed), draw(subject)[0]
    given = clone(batch)
    training.step(given)
    for (path, before), (_, after) in zip(leaves(batch), leaves(given), strict=True):
        if not identical(before, after):
            fail(
                f"the step changes batch{path} in place",
                cause="in-place normalisation or augmentation of the caller's tensors",
                fix="use the out-of-place form, or clone first",
            )


def resumes_identically(subject: Subject, *, seed: int = 0, before: int = 3, after: int = 3) -> None:
    """Training that is saved, loaded into fresh objects and continued equals training that went on.

    ``before`` windows, then save; ``after`` more windows, once going on, once in a fresh model of another seed after
    load. Parameters, buffers and eval outputs must agree bitwise or within 512*eps of the largest value. Uses the
    subject's ``save``/``load``, else the state dicts of model, optimiser and scheduler through ``torch.save``.
    """
    seed_everything(seed)
    batches = draw(subject, (before + after) * subject.accumulate)
    cut = before * subject.accumulate
    straight = Training(subject, seed)
    _window(straight, batches[:cut], 300)
    state = _save(subject, straight)
    _window(straight, batches[cut:], 400)
    resumed = Training(subject, seed + 1)
    try:
        _load(subject, state, resumed)
    except (RuntimeError, KeyError, ValueError) as error:
        fail(
            f"loading the checkpoint raises {type(error).__name__}: {str(error).splitlines()[0]}",
            cause="names or shapes of a fresh model differ from the saved one",
            fix="build the same model before loading; save and load by the same code",
        )
    resumed.index = cut
    _window(resumed, batches[cut:], 400)
    ours = {n: t.detach() for n, t in [*straight.model.named_parameters(), *straight.model.named_buffers()]}
    theirs = dict([*resumed.model.named_parameters(), *resumed.model.named_buffers()])
    ours["output"] = predict(straight.model, batches[0][0], subject.forward)
    theirs["output"] = predict(resumed.model, batches[0][0], subject.forward)
    for name, tensor in ours.items():
        far = farthest(tensor, clone(theirs[name]), 512.0)
        if far is not None:
            fail(
                f"after resuming, {name} differs by {far[1]:.3g} from the run that went on",
                cause="optimiser or scheduler state not saved, buffers or plain attributes missing from the state, "
                "strict=False, rounding, or a checkpoint that aliases the live weights",
                fix="save and load all three state dicts, strictly; register_buffer what must persist; deep-copy",
            )


def _save(subject: Subject, training: Training) -> Any:
    if subject.save is not None:
        return subject.save(training.model, training.optimizer, training.scheduler)
    buffer = io.BytesIO()
    parts = [training.model, training.optimizer, training.scheduler]
    torch.save([None if part is None else part.state_dict() for part in parts], buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def _load(subject: Subject, state: Any, training: Training) -> None:
    if subject.load is not None:
        subject.load(state, training.model, training.optimizer, training.scheduler)
        return
    for part, saved in zip([training.model, training.optimizer, training.scheduler], state, strict=True):
        if part is not None:
            part.load_state_dict(saved)
