"""The contract: which check runs on which fields of a subject, and which bugs it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mltiers.checks import (
    batch,
    data,
    distributed,
    forward,
    gradients,
    inference,
    loss,
    overfit,
    roundtrip,
    sequences,
    training,
)
from pytest_mltiers.checks.failures import Inapplicable
from pytest_mltiers.checks.runs import build_model, draw
from pytest_mltiers.checks.trees import batch_size, call, clone, leaves, predict
from pytest_mltiers.contract import Item
from pytest_mltiers.subject import Subject

Run = Callable[[Subject, int], Any]


def _factory(s: Subject) -> Callable[[], nn.Module]:
    return lambda: build_model(s)


def _inputs(s: Subject) -> Any:
    return draw(s)[0][0]


def _on_model(check: Callable[..., Any]) -> Run:
    """A check of (model, inputs)."""
    return lambda s, seed: check(build_model(s), _inputs(s), forward=s.forward)


def _on_factory(check: Callable[..., Any]) -> Run:
    """A check of (factory, inputs)."""
    return lambda s, seed: check(_factory(s), _inputs(s), forward=s.forward)


def _on_subject(check: Callable[..., Any]) -> Run:
    return lambda s, seed: check(s, seed=seed)


def _batch_independent(s: Subject, seed: int) -> None:
    if not s.batch_independent:
        raise Inapplicable("the subject says batch_independent=False")
    batch.batch_independent(build_model(s), _inputs(s), forward=s.forward)


def _depends_on_input(s: Subject, seed: int) -> None:
    inputs = _inputs(s)
    ignored = None if s.padding is None else s.padding(inputs)
    forward.depends_on_input(_factory(s), inputs, forward=s.forward, ignored=ignored)


def _probabilities(s: Subject, seed: int) -> None:
    model, inputs = build_model(s), _inputs(s)
    output = s.predict(model, inputs) if s.predict is not None else predict(model, inputs, s.forward)
    for _, tensor in leaves(output):
        forward.sums_to_one(tensor, s.probabilities if s.probabilities is not None else -1)


def _weights_tied(s: Subject, seed: int) -> None:
    model = build_model(s)
    sequences.weights_tied(model, s.tied)
    if s.optimizer is not None and (s.step is not None or s.loss is not None):
        run = training.Training(s, seed)
        for drawn in draw(s, max(2, s.accumulate)):
            run.step(clone(drawn))
        sequences.weights_tied(run.model, s.tied, after="training steps")


def _padding_ignored(s: Subject, seed: int) -> None:
    sequences.padding_ignored(build_model(s), _inputs(s), s.padding, forward=s.forward)


def _padding_invariant(s: Subject, seed: int) -> None:
    sequences.padding_invariant(build_model(s), draw(s)[0], s.pad, s.padding, forward=s.forward)


def _reach(s: Subject, seed: int) -> None:
    gradients.reach_every_parameter(_factory(s), lambda: draw(s)[0], s.loss, forward=s.forward, frozen=s.frozen)


def _true_gradients(s: Subject, seed: int) -> None:
    if s.stop_gradient:
        raise Inapplicable("the subject says stop_gradient=True")
    gradients.true_gradients(_factory(s), draw(s)[0], s.loss, forward=s.forward)


# --- loss: outputs are made here, shaped like the model's -------------------------------------------------------------


def _seen(s: Subject) -> tuple[Any, Any, Any]:
    """(inputs, targets, outputs of a fresh model in eval mode)."""
    inputs, targets = draw(s)[0]
    return inputs, targets, predict(build_model(s), inputs, s.forward)


def _perfect(s: Subject, inputs: Any, targets: Any, outputs: Any) -> Any:
    if s.perfect is not None:
        return s.perfect(targets)
    if s.task is None:
        raise Inapplicable("the subject has neither `task` nor `perfect`")
    return loss.perfect_outputs(s.task, next(t for _, t in leaves(outputs)), targets, inputs)


def _zero_when_perfect(s: Subject, seed: int) -> None:
    if not s.nonnegative:
        raise Inapplicable("the subject says nonnegative=False, so zero is nothing special")
    inputs, targets, outputs = _seen(s)
    shifted = None
    if s.task == "classification" and s.classes:
        first, classes = next(t for _, t in leaves(outputs)), s.classes

        def shifted(k: int) -> Tensor:
            return loss.perfect_outputs("classification", first, (targets + k) % classes)

    loss.zero_when_perfect(s.loss, _perfect(s, inputs, targets, outputs), targets, shifted=shifted)


def _worse_when_worse(s: Subject, seed: int) -> None:
    inputs, targets, outputs = _seen(s)
    loss.worse_when_worse(s.loss, _perfect(s, inputs, targets, outputs), targets)


def _never_negative(s: Subject, seed: int) -> None:
    if not s.nonnegative:
        raise Inapplicable("the subject says nonnegative=False")
    _, targets, outputs = _seen(s)
    loss.never_negative(s.loss, outputs, targets)


def _averages_rows(s: Subject, seed: int) -> None:
    if not s.separable or s.reduction is None:
        raise Inapplicable("the subject says separable=False or reduction=None")
    _, targets, outputs = _seen(s)
    loss.averages_rows(s.loss, outputs, targets, reduction=s.reduction)


def _duplicate_invariant(s: Subject, seed: int) -> None:
    if s.reduction is None:
        raise Inapplicable("the subject says reduction=None")
    _, targets, outputs = _seen(s)
    loss.duplicate_invariant(s.loss, outputs, targets, reduction=s.reduction)


def _local(s: Subject, seed: int) -> None:
    if not s.separable:
        raise Inapplicable("the subject says separable=False")
    _, targets, outputs = _seen(s)
    loss.local(s.loss, outputs, targets)


def _every_output_counts(s: Subject, seed: int) -> None:
    _, targets, outputs = _seen(s)
    loss.every_output_counts(s.loss, outputs, targets)


def _smooth_when_perfect(s: Subject, seed: int) -> None:
    inputs, targets, outputs = _seen(s)
    loss.smooth_when_perfect(s.loss, _perfect(s, inputs, targets, outputs), targets)


def _starts_near_chance(s: Subject, seed: int) -> None:
    if s.task not in ("classification", "causal-lm"):
        raise Inapplicable("needs task='classification' or 'causal-lm'")
    values = []
    for offset in range(4):
        torch.manual_seed(seed + offset)
        model = build_model(s)
        inputs, targets = draw(s)[0]
        with torch.no_grad():
            values.append(float(s.loss(call(model.eval(), inputs, s.forward), targets)))
    scale = 1 if s.reduction != "sum" else batch_size(draw(s)[0])
    loss.starts_near_chance([v / scale for v in values], s.classes)


def _loss_ignores_padding(s: Subject, seed: int) -> None:
    before = draw(s)[0]
    after = s.pad(clone(before), 3)
    outputs = predict(build_model(s), before[0], s.forward)
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        raise Inapplicable("needs one output of shape (N, T, ...)")
    length = next((t.shape[1] for _, t in leaves(before[0]) if t.ndim > 1), None)
    if outputs.shape[1] != length:
        raise Inapplicable("the output has no time dimension")
    more = torch.randn(len(outputs), 3, *outputs.shape[2:], dtype=outputs.dtype, device=outputs.device)
    loss.ignores_padding(s.loss, outputs, before[1], torch.cat([outputs, more], 1), after[1])


# --- data and inference ----------------------------------------------------------------------------------------------


def _on_dataset(check: Callable[..., Any]) -> Run:
    def run(s: Subject, seed: int) -> None:
        check(s.dataset())

    return run


def _unless_augmented(run: Run) -> Run:
    def guarded(s: Subject, seed: int) -> None:
        if s.augmented:
            raise Inapplicable("the subject says augmented=True: items are random on purpose")
        run(s, seed)

    return guarded


def _normalised(s: Subject, seed: int) -> None:
    data.normalised(s.dataset(), s.normalised)


def _distinct(s: Subject, seed: int) -> None:
    data.distinct_items(s.dataset(), duplicates=s.duplicates)


def _labels(s: Subject, seed: int) -> None:
    data.labels_in_range(s.dataset(), s.classes)


def _on_loader(check: Callable[..., Any]) -> Run:
    def run(s: Subject, seed: int) -> None:
        check(s.loader())

    return run


def _splits(s: Subject, seed: int) -> None:
    data.splits_disjoint(s.splits())


def _augment(s: Subject, seed: int) -> None:
    data.augmentation_varies(s.augment, s.sample())


def _serve_like_single(s: Subject, seed: int) -> None:
    inference.predicts_like_single(s.predict, build_model(s), _inputs(s))


def _empty(s: Subject, seed: int) -> None:
    inference.empty_raises(s.predict, build_model(s), *s.empty)


def _truncates(s: Subject, seed: int) -> None:
    inference.truncates(build_model(s), _inputs(s), s.max_length, forward=s.forward)


def _generates(s: Subject, seed: int) -> None:
    inference.generates_at_most(s.generate, build_model(s).eval(), s.prompts())


def _preprocessing(s: Subject, seed: int) -> None:
    inference.same_preprocessing(s.train_preprocess, s.serve_preprocess, s.samples)


def _processor(s: Subject, seed: int) -> None:
    inference.processes_each(s.processor, s.samples)


def _ranks(s: Subject, seed: int) -> None:
    distributed.ranks_agree(s.distributed, single=s.single_process)


def _item(name: str, needs: str, run: Run, catches: str) -> Item:
    return Item(name=name, needs=tuple(needs.split()), run=run, catches=catches)


ITEMS: tuple[Item, ...] = (
    _item(
        "output_shape",
        "model batch output_shape",
        lambda s, seed: forward.output_shape(build_model(s), _inputs(s), s.output_shape, forward=s.forward),
        "a squeeze, reshape or reduction over the wrong dimension",
    ),
    _item(
        "output_dtype",
        "model batch",
        lambda s, seed: forward.output_dtype(build_model(s), _inputs(s), s.output_dtype, forward=s.forward),
        "stray half or double precision",
    ),
    _item(
        "autocast_applies",
        "model batch autocast",
        lambda s, seed: forward.autocast_applies(build_model(s), _inputs(s), s.autocast, forward=s.forward),
        "traced regions that ignore autocast",
    ),
    _item("finite", "model batch", _on_model(forward.finite), "NaN from zero deviations, counts and logs"),
    _item(
        "probabilities",
        "model batch probabilities",
        _probabilities,
        "logits served as probabilities, wrong softmax dim",
    ),
    _item(
        "deterministic",
        "model batch",
        _on_model(forward.deterministic),
        "dropout or noise in eval mode, state between calls",
    ),
    _item("depends_on_input", "model batch", _depends_on_input, "features, positions or arguments that are never used"),
    _item(
        "input_unchanged", "model batch", _on_model(forward.input_unchanged), "in-place changes of the caller's tensors"
    ),
    _item(
        "instances_independent",
        "model batch",
        _on_factory(forward.instances_independent),
        "layers in default arguments, class-level caches",
    ),
    _item(
        "batch_independent",
        "model batch",
        _batch_independent,
        "rows that see each other: wrong dim, batch statistics, batch_first",
    ),
    _item("batch_sizes", "model batch", _on_model(batch.batch_sizes), "hard-coded batch sizes, squeeze() on one row"),
    _item(
        "causal",
        "model batch causal",
        lambda s, seed: sequences.causal(build_model(s), _inputs(s), forward=s.forward),
        "missing, shifted or transposed causal masks; symmetric padding",
    ),
    _item("padding_ignored", "model batch padding", _padding_ignored, "masks ignored, inverted, or applied to queries"),
    _item("padding_invariant", "model batch pad", _padding_invariant, "padding that is attended to or pooled"),
    _item(
        "position_sensitive",
        "model batch ordered",
        lambda s, seed: sequences.position_sensitive(build_model(s), _inputs(s), s.padding, forward=s.forward),
        "position embeddings that are missing or all the same",
    ),
    _item("weights_tied", "model tied", _weights_tied, "weight tying broken by a copy or a reset"),
    _item(
        "gradients_reach", "model batch loss", _reach, "unused layers, detached routers, dead units, forgotten losses"
    ),
    _item(
        "gradients_finite",
        "model batch loss",
        lambda s, seed: gradients.finite_gradients(build_model(s), draw(s)[0], s.loss, forward=s.forward),  # type: ignore[arg-type]
        "roots and logs of zero",
    ),
    _item(
        "gradients_true",
        "model batch loss",
        _true_gradients,
        "detached branches, no_grad blocks, wrong custom backward",
    ),
    _item(
        "loss_zero_when_perfect",
        "model batch loss",
        _zero_when_perfect,
        "softmax twice, shifted labels, scrambled dimensions",
    ),
    _item("loss_worse_when_worse", "model batch loss", _worse_when_worse, "a flipped sign in the loss"),
    _item("loss_never_negative", "model batch loss", _never_negative, "missing minus, abs or square"),
    _item(
        "loss_averages_rows",
        "model batch loss",
        _averages_rows,
        "sum for mean, (N, 1) against (N,), rows that do not count",
    ),
    _item(
        "loss_duplicate_invariant",
        "model batch loss",
        _duplicate_invariant,
        "one term summed while the rest is averaged",
    ),
    _item("loss_local", "model batch loss", _local, "silent broadcasting, outputs detached in the loss"),
    _item("loss_every_output_counts", "model batch loss", _every_output_counts, "a task's or a view's loss left out"),
    _item("loss_smooth_when_perfect", "model batch loss", _smooth_when_perfect, "RMSE without epsilon"),
    _item(
        "loss_starts_near_chance",
        "model batch loss classes",
        _starts_near_chance,
        "initial weights far too large, leaks",
    ),
    _item(
        "loss_ignores_padding",
        "model batch loss pad",
        _loss_ignores_padding,
        "padding trained as a token or counted in the mean",
    ),
    _item(
        "step_gradients_forget",
        "model batch optimizer step",
        _on_subject(training.gradients_forget),
        "zero_grad missing or misplaced",
    ),
    _item(
        "step_gradients_are_this_batchs",
        "model batch optimizer step loss",
        _on_subject(training.gradients_are_this_batchs),
        "flipped sign, undivided accumulation, stale or partial batches, wrong reported loss",
    ),
    _item(
        "step_clips",
        "model batch optimizer step loss clip_norm",
        _on_subject(training.clips_before_step),
        "clipping too late, too early, in part",
    ),
    _item(
        "step_parameters_change",
        "model batch optimizer",
        _on_subject(training.parameters_change),
        "parameters that never change, frozen by accident, or thawed",
    ),
    _item("step_modes", "model batch optimizer step", _on_subject(training.modes_are_right), "training in eval mode"),
    _item(
        "step_schedule",
        "model batch optimizer step scheduler",
        _on_subject(training.follows_schedule),
        "scheduler cadence",
    ),
    _item(
        "step_optimizer_holds_parameters",
        "model batch optimizer",
        _on_subject(training.optimizer_holds_parameters),
        "an optimiser of old or partial parameters",
    ),
    _item(
        "step_batch_unchanged",
        "model batch optimizer step",
        _on_subject(training.batch_unchanged_by_step),
        "in-place changes of the batch",
    ),
    _item(
        "evaluation_clean",
        "model batch evaluate",
        _on_subject(training.evaluation_is_clean),
        "validation in training mode, with gradients, or changing state",
    ),
    _item(
        "resumes",
        "model batch optimizer",
        _on_subject(training.resumes_identically),
        "incomplete or aliasing checkpoints",
    ),
    _item(
        "overfits",
        "model batch optimizer",
        lambda s, seed: overfit.overfits(s, first_seed=seed),
        "whatever keeps a small batch from being learnt",
    ),
    _item(
        "checkpoint_roundtrip", "model batch", _on_factory(roundtrip.checkpoint), "state that is not in the state dict"
    ),
    _item("mode_roundtrip", "model batch", _on_factory(roundtrip.modes), "eval() that changes weights for good"),
    _item(
        "export_roundtrip",
        "model batch export",
        lambda s, seed: roundtrip.export(_factory(s), _inputs(s)),
        "values baked in by tracing",
    ),
    _item("data_finite", "dataset", _on_dataset(data.finite_items), "NaN in features"),
    _item("data_normalised", "dataset normalised", _normalised, "normalisation forgotten or over the wrong axis"),
    _item(
        "data_no_constant_columns",
        "dataset",
        _unless_augmented(_on_dataset(data.no_constant_columns)),
        "columns never filled",
    ),
    _item(
        "data_repeatable",
        "dataset",
        _unless_augmented(_on_dataset(data.repeatable_items)),
        "random evaluation data, items changed by reading",
    ),
    _item("data_distinct", "dataset", _unless_augmented(_distinct), "index arithmetic, wrong length"),
    _item("data_labels", "dataset classes", _labels, "labels from 1, unknown labels, one label only"),
    _item(
        "loader_covers",
        "loader",
        _unless_augmented(_on_loader(data.covers_every_item)),
        "dropped batches, features and labels apart",
    ),
    _item("loader_shuffles", "loader shuffled", _on_loader(data.shuffles), "the same order in every epoch"),
    _item(
        "loader_workers_differ",
        "loader augmented",
        _on_loader(data.workers_differ),
        "workers that share a random state",
    ),
    _item("splits_disjoint", "splits", _splits, "leakage between splits"),
    _item(
        "augmentation_varies", "augment sample", _augment, "augmentation that never acts, acts in place, or rescales"
    ),
    _item(
        "predict_like_single",
        "model batch predict",
        _serve_like_single,
        "request statistics, lost chunks, sorted answers",
    ),
    _item("predict_empty", "model predict empty", _empty, "made-up answers for empty requests"),
    _item("truncates", "model batch max_length", _truncates, "long inputs that crash or lose their beginning"),
    _item("generates_at_most", "model generate prompts", _generates, "max_new_tokens that does not hold"),
    _item(
        "same_preprocessing",
        "train_preprocess serve_preprocess samples",
        _preprocessing,
        "skew between training and serving",
    ),
    _item("processes_each", "processor samples", _processor, "a batch folded into one row"),
    _item("ranks_agree", "distributed", _ranks, "gradients, weights or buffers that differ between ranks"),
)
