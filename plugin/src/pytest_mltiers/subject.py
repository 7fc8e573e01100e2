"""What a team says about its project: one value, from which every applicable check follows.

Only ``model`` and ``batch`` are needed to begin; each further field makes further checks apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A project under test. Functions are the user's own; nothing is guessed from names.

    Batches are pairs ``(inputs, targets)``. ``inputs``: a tensor (N, ...), a tuple of tensors (passed by position) or a
    mapping (passed by keyword). Build models and draw batches from the global random state: the checks seed it.
    """

    # --- the model
    model: Callable[[], nn.Module] | None = None
    """Builds a fresh model. A factory, not an instance: many checks compare several."""
    batch: Callable[[], tuple[Any, Any]] | tuple[Any, Any] | None = None
    """One batch, or a function that draws one. 6 to 16 rows that a small model can learn by heart."""
    forward: Callable[[nn.Module, Any], Any] | None = None
    """``forward(model, inputs)`` where calling the model needs more than its inputs."""
    device: torch.device | str | None = None
    """Where models and batches go; None leaves them where they are."""
    output_shape: Any = None
    """Like ``("N", 10)``; names are symbolic. A tuple of shapes for several outputs."""
    output_dtype: torch.dtype | None = None
    """Of floating-point outputs, if it is not that of the parameters."""
    probabilities: int | None = None
    """The dimension along which outputs (those of ``predict`` if given) sum to one."""
    autocast: torch.dtype | None = None
    """Layers must compute in this dtype under ``torch.autocast``."""
    batch_independent: bool = True
    """Whether rows must not see each other in eval mode."""
    export: bool = False
    """Whether ``torch.export`` must reproduce the model."""

    # --- sequences
    causal: bool = False
    """Outputs (N, T, ...) up to t must not see inputs after t."""
    padding: Callable[[Any], Tensor] | None = None
    """``padding(inputs)``: bool (N, T), true where a position is padding."""
    pad: Callable[[Any, int], Any] | None = None
    """``pad(batch, k)``: the batch, inputs and targets, with k more columns of padding."""
    ordered: bool = False
    """Whether order matters: swapping two positions must change the output."""
    tied: Sequence[Sequence[str]] = ()
    """Groups of parameter names that must be one parameter."""
    max_length: int | None = None
    """Longer inputs are cut to their first ``max_length`` positions."""

    # --- loss
    loss: Callable[[Any, Any], Tensor] | None = None
    """``loss(output, targets)``: the scalar that ``step`` minimises."""
    task: str | None = None
    """``classification``, ``binary``, ``regression`` or ``causal-lm``: what a perfect prediction looks like."""
    perfect: Callable[[Any], Any] | None = None
    """``perfect(targets)``: outputs that predict them perfectly, where no ``task`` fits."""
    classes: int | None = None
    """C: fresh models must start near ln C, and labels lie in [0, C)."""
    reduction: str | None = "mean"
    """``mean`` or ``sum`` over rows; None where doubling the rows changes the loss on purpose."""
    separable: bool = True
    """Whether the loss of a batch is made of the losses of its rows. False for contrastive losses."""
    nonnegative: bool = True
    """False for likelihoods of densities, which may be negative."""

    # --- training
    optimizer: Callable[[nn.Module], Optimizer] | None = None
    """``optimizer(model)`` builds it."""
    scheduler: Callable[[Optimizer], Any] | None = None
    """``scheduler(optimizer)``, if ``step`` advances one."""
    scheduler_every: int = 1
    """The number of optimiser updates per advance of the schedule."""
    step: Callable[..., Any] | None = None
    """One training step on one batch. Takes, by name, any of ``model, optimizer, scheduler, batch, index``; may return
    the loss."""
    accumulate: int = 1
    """The number of calls of ``step`` per optimiser update, where accumulation goes over calls."""
    clip_norm: float | None = None
    """The gradient norm that updates must not exceed."""
    frozen: Sequence[str] = ()
    """Glob patterns of parameters (and buffers) that must not train."""
    stop_gradient: bool = False
    """Whether gradients are stopped on purpose somewhere in the model."""
    evaluate: Callable[[nn.Module, tuple[Any, Any]], Any] | None = None
    """The project's own validation on one batch; returns a number."""
    overfit_fraction: float = 0.1
    """The share of the first loss that a batch learnt by heart must reach."""
    overfit_steps: int = 300
    """Within this many calls of ``step``."""
    save: Callable[..., Any] | None = None
    """``save(model, optimizer, scheduler)`` returns what a checkpoint holds; default: their state dicts."""
    load: Callable[..., Any] | None = None
    """``load(state, model, optimizer, scheduler)`` restores it into fresh objects."""
    distributed: Callable[[int, int], nn.Module] | None = None
    """``train(rank, world_size)`` in a process group: returns the model after a step. A module-level function."""
    single_process: Callable[[int], nn.Module] | None = None
    """``single(world_size)``: the model after the same step on all ranks' data in one process."""

    # --- data
    dataset: Callable[[], Any] | None = None
    """Builds a map-style dataset of (x, label) items."""
    loader: Callable[[], Any] | None = None
    """Builds its DataLoader."""
    shuffled: bool = False
    """Whether the loader must give another order in every epoch."""
    augmented: bool = False
    """Whether items are random on purpose."""
    normalised: str | None = None
    """``standard`` (mean 0, deviation 1 per column) or ``unit`` (all values in [0, 1])."""
    duplicates: float = 0.0
    """The share of dataset items that may equal another one."""
    splits: Callable[[], Mapping[str, Sequence[Any]]] | None = None
    """Named splits; no item of one may be in another."""
    augment: Callable[[Any], Any] | None = None
    """``augment(sample)``: a random variation."""
    sample: Callable[[], Any] | None = None
    """One sample for ``augment``."""

    # --- inference
    predict: Callable[[nn.Module, Any], Any] | None = None
    """``predict(model, inputs)``: what is served."""
    empty: tuple[Any, type[BaseException]] | None = None
    """An empty input and the exception that ``predict`` must raise for it."""
    generate: Callable[[nn.Module, Any, int], Any] | None = None
    """``generate(model, prompt, max_new_tokens)``: the new tokens only, (N, at most max_new_tokens)."""
    prompts: Callable[[], Sequence[Any]] | None = None
    """Prompts of several lengths, some near the context's limit."""
    train_preprocess: Callable[[Any], Any] | None = None
    """Preprocessing as training does it."""
    serve_preprocess: Callable[[Any], Any] | None = None
    """Preprocessing as serving does it: must agree on ``samples``."""
    processor: Callable[[Sequence[Any]], Any] | None = None
    """``processor(samples)``: one row of output per sample, the same as for that sample alone."""
    samples: Sequence[Any] = ()
    """Raw samples for preprocessing."""
