"""A small batch can be learnt by heart: the user's own step, driven until the loss is a fraction of the first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from pytest_mltiers.checks.failures import fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.runs import Batch, Training, draw, require
from pytest_mltiers.checks.trees import call, clone
from pytest_mltiers.randomness import seed_everything
from pytest_mltiers.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """How it went: calls of the step over all seeds, seconds, and the reached share of the first loss per seed."""

    steps: int
    seconds: float
    shares: tuple[float, ...]


def overfits(
    subject: Subject, *, fraction: float | None = None, steps: int | None = None, seeds: int = 2, first_seed: int = 0
) -> Overfit:
    """The user's step brings the loss of one fixed batch to ``fraction`` of its first value within ``steps`` calls.

    ``seeds`` runs from fresh models must succeed before two fail, so one unlucky start is no failure: a correct project
    that needs luck in 1 % of runs fails this in 0.03 %. Each run stops as soon as it is decided. The loss is a *share*
    of the first, because an absolute threshold means nothing across losses. Fails at once on NaN, and on a negative
    loss unless ``nonnegative=False``; then the loss must fall by half of |first| or 0.5, whichever is more. The loss
    is what the step returns, else ``subject.loss`` in training mode. Returns steps and seconds.
    Source: Karpathy, "A Recipe for Training Neural Networks" (overfit one batch).
    """
    require(subject, "model", "batch", "optimizer")
    share = subject.overfit_fraction if fraction is None else fraction
    limit = subject.overfit_steps if steps is None else steps
    began, used, shares, failures = time.perf_counter(), 0, [], []
    seed = first_seed
    while len(shares) < seeds and len(failures) < 2:
        calls, first, last = _drive(subject, seed, share, limit)
        used += calls
        reached = _reached(subject, first, last, share)
        (shares if reached else failures).append(last / first if first else 0.0)
        seed += 1
    seconds = time.perf_counter() - began
    if len(failures) >= 2:
        rising = " and rose" if min(failures) > 1 else ""
        fail(
            f"one batch is not learnt: the loss stayed at {min(failures):.0%} of the first{rising} after {limit} steps "
            f"in {len(failures)} of {len(failures) + len(shares)} seeds (goal {share:.0%}; {seconds:.1f} s)",
            cause="gradients that do not reach the weights, a wrong loss, softmax twice, a learning rate far off",
            fix="look at failing gradient and loss checks first; else change the learning rate or the steps",
        )
    return Overfit(steps=used, seconds=seconds, shares=tuple(shares))


def _reached(subject: Subject, first: float, last: float, share: float) -> bool:
    if subject.nonnegative:
        return last <= share * first
    return first - last >= max(0.5, 0.5 * abs(first))


def _drive(subject: Subject, seed: int, share: float, limit: int) -> tuple[int, float, float]:
    """(calls, first loss, last loss) of one run; stops early once the goal is reached twice in a row."""
    seed_everything(seed)
    batch = draw(subject)[0]
    training = Training(subject, seed)
    first = last = math.inf
    streak = 0
    for count in range(1, limit + 1):
        value = training.step(clone(batch)).value
        last = _loss(subject, training, batch) if value is None else value
        if not math.isfinite(last):
            fail(
                f"the loss is {last} after {count} step(s)",
                cause="a learning rate too large, log or sqrt of zero, division by zero",
                fix="lower the learning rate; clip gradients; add an epsilon",
            )
        if last < -1e-6 and subject.nonnegative:
            fail(
                f"the loss is negative: {last:.4g} after {count} step(s)",
                cause="a flipped sign, or a likelihood without its minus",
                fix="check the sign; if the loss may be negative, say nonnegative=False",
            )
        first = last if count == 1 else first
        streak = streak + 1 if count > 1 and _reached(subject, first, last, share) else 0
        if streak >= 2 * subject.accumulate:
            return count, first, last
    return limit, first, last


def _loss(subject: Subject, training: Training, batch: Batch) -> float:
    require(subject, "loss")
    training.model.train()
    inputs, targets = clone(batch)
    return float(subject.loss(call(training.model, inputs, subject.forward), targets).detach())
