"""Thresholds that random numbers can be held to: exact bounds, sequential decisions, paired comparisons.

Plain Python, no torch and no SciPy. Every function says which error it may make and how often.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from pytest_mltiers.checks.failures import fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401

RARE = 1e-5
"""The default probability of failing correct code: one run in a hundred thousand."""


def _tail(successes: int, n: int, p: float) -> float:
    """P(X >= successes) for X ~ Binomial(n, p), summed in logarithms."""
    if successes <= 0:
        return 1.0
    if p <= 0 or successes > n:
        return 0.0
    if p >= 1:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(successes, n + 1)
    ]
    top = max(logs)
    return min(1.0, math.exp(top) * sum(math.exp(v - top) for v in logs))


def _solve(function: Callable[[float], float], target: float) -> float:
    """p in [0, 1] with ``function(p) = target`` for an increasing function, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < target else (low, middle)
    return (low + high) / 2


def lower_bound(successes: int, n: int, confidence: float = 0.95) -> float:
    """The exact one-sided lower bound on a rate (Clopper and Pearson, 1934)."""
    return 0.0 if successes <= 0 else _solve(lambda p: _tail(successes, n, p), 1 - confidence)


def upper_bound(successes: int, n: int, confidence: float = 0.95) -> float:
    """The exact one-sided upper bound on a rate (Clopper and Pearson, 1934)."""
    return 1 - lower_bound(n - successes, n, confidence)


def trials_needed(rate: float, failures: int = 0, confidence: float = 0.95) -> int:
    """The smallest n at which ``failures`` failures still show a rate of at least ``rate``: 2,995 for 0.999 and
    none."""
    n = max(failures + 1, math.ceil(math.log(1 - confidence) / math.log(rate)) if failures == 0 else failures + 1)
    step = max(1, n // 2)
    while lower_bound(n - failures, n, confidence) < rate:
        n += step
    while n > failures + 1 and lower_bound(n - 1 - failures, n - 1, confidence) >= rate:
        n -= 1
    return n


def rate_at_least(successes: int, n: int, rate: float, *, confidence: float = 0.95) -> float:
    """The true success rate is at least ``rate``, with ``confidence``; returns the exact lower bound.

    Passes only on evidence: the Clopper-Pearson lower bound must reach ``rate``. Code whose true rate is below ``rate``
    passes with probability 1 - ``confidence`` at most. With no failure 0.999 needs 2,995 trials at 95 %; fewer fail,
    and the message says how many are needed.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes={successes} of n={n}")
    bound = lower_bound(successes, n, confidence)
    if bound < rate:
        failures = n - successes
        more = trials_needed(rate, failures, confidence)
        verdict = "too few trials" if successes / n >= rate else "the rate is too low"
        fail(
            f"{successes} of {n} show a rate of at least {bound:.5f} at {confidence:.0%}, wanted {rate:g}: {verdict}",
            cause=f"{failures} failure(s); with no more of them {more} trials would be enough",
            fix=f"run {more} trials, or ask for a rate that {n} trials can show",
        )
    return bound


def fraction_near(count: int, n: int, expected: float, *, alpha: float = RARE) -> float:
    """``count`` of ``n`` is what chance gives at rate ``expected``: for dropout, masking, sampling. Returns the
    p-value.

    Exact two-sided binomial test: correct code fails with probability ``alpha`` at most. The message says what was
    expected and how large a deviation n can show.
    """
    if not 0 <= count <= n or not 0 <= expected <= 1 or n == 0:
        raise ValueError(f"count={count} of n={n}, expected={expected}")
    p_value = min(1.0, 2 * min(_tail(count, n, expected), 1 - _tail(count + 1, n, expected)))
    if p_value < alpha:
        spread = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(expected * (1 - expected) / n)
        fail(
            f"{count} of {n} is {count / n:.4f}, expected {expected:g} (chance: +-{spread:.4f}; p = {p_value:.1g})",
            cause="keep and drop probability swapped, dropout applied twice or not at all, a mask of the wrong rate",
            fix="check the probability and the mode; nn.Dropout(p) drops a share p",
        )
    return p_value


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """``ece``: the observed expected calibration error; ``chance``: what a perfectly calibrated model shows at this
    n."""

    ece: float
    chance: float
    p_value: float


def calibrated(
    confidences: Sequence[float],
    correct: Sequence[bool | int],
    *,
    max_ece: float = 0.1,
    bins: int = 10,
    alpha: float = 1e-4,
    draws: int = 400,
) -> Calibration:
    """The calibration error does not exceed ``max_ece`` beyond what chance alone shows.

    ``confidences`` in [0, 1] and ``correct`` (0 or 1) per sample. ECE over ``bins`` equal-width bins is biased
    upwards on small samples: a perfectly calibrated model exceeds 0.1 in a third of samples of n = 100. So ECE is
    compared with its distribution under perfect calibration (labels redrawn from the confidences, ``draws`` times;
    its normal tail, widened by half, stands for the rest): it fails if ECE > ``max_ece`` *and* a calibrated model
    would show that with probability below ``alpha``. If n is so small that not even 3 * ``max_ece`` would show, it
    fails and says so. Source: Guo et al. 2017 for ECE; consistency resampling of Broecker and Smith 2007.
    """
    n = len(confidences)
    if n == 0 or n != len(correct):
        raise ValueError(f"{n} confidences and {len(correct)} outcomes")
    if min(confidences) < 0 or max(confidences) > 1:
        raise ValueError("confidences must lie in [0, 1]")
    places = [min(int(c * bins), bins - 1) for c in confidences]
    observed = _ece(places, confidences, correct, bins)
    generator = random.Random(0)  # noqa: S311 - a fixed simulation
    null = [_ece(places, confidences, [generator.random() < c for c in confidences], bins) for _ in range(draws)]
    mean = sum(null) / draws
    deviation = 1.5 * max((sum((v - mean) ** 2 for v in null) / (draws - 1)) ** 0.5, 1e-9)
    p_value = 1 - NormalDist(mean, deviation).cdf(observed)
    visible = NormalDist(mean, deviation).inv_cdf(1 - alpha)
    if observed > max_ece and p_value < alpha:
        fail(
            f"ECE is {observed:.3f} on {n} samples; a calibrated model shows {mean:.3f}, {visible:.3f} at most",
            cause="overconfident logits, probabilities of another class, or softmax at the wrong temperature",
            fix="temperature scaling on held-out data; check that confidences belong to the predicted class",
        )
    if visible > 3 * max_ece:
        needed = math.ceil(n * (visible / max_ece) ** 2 / 4)
        fail(
            f"{n} samples cannot show an ECE of {3 * max_ece:g}: a calibrated model itself reaches {visible:.3f}",
            cause="too few samples",
            fix=f"use about {needed} samples, fewer bins, or a larger max_ece",
        )
    return Calibration(ece=observed, chance=mean, p_value=p_value)


def _ece(places: Sequence[int], confidences: Sequence[float], correct: Sequence[Any], bins: int) -> float:
    gaps = [0.0] * bins
    for place, confidence, outcome in zip(places, confidences, correct, strict=True):
        gaps[place] += confidence - float(outcome)
    return sum(abs(g) for g in gaps) / len(places)


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """``successes`` of ``runs`` seeds, the two-sided 95 % interval of the rate, and what each run returned."""

    successes: int
    runs: int
    interval: tuple[float, float]
    values: tuple[Any, ...]


def across_seeds(
    run: Callable[[int], Any],
    seeds: int = 40,
    *,
    at_most: float | None = None,
    rate: float = 0.9,
    bad_rate: float = 0.5,
    error: float = 1e-4,
    first_seed: int = 0,
) -> Convergence:
    """``run(seed)`` succeeds for most seeds: Wald's sequential test, which stops as soon as it is decided.

    ``run`` returns whether it succeeded, or a number that must be at most ``at_most``. Code that succeeds in a share
    ``rate`` of seeds (or more) fails with probability ``error`` at most, code that succeeds in ``bad_rate`` (or less)
    passes with at most that; 16 successes in a row decide at the defaults. Undecided after ``seeds`` runs is a failure
    that says so. Source: Wald 1945, "Sequential Tests of Statistical Hypotheses".
    """
    good, bad = math.log(rate / bad_rate), math.log((1 - rate) / (1 - bad_rate))
    accept, reject = math.log((1 - error) / error), math.log(error / (1 - error))
    evidence, values, successes = 0.0, [], 0
    for seed in range(first_seed, first_seed + seeds):
        value = run(seed)
        success = bool(value) if at_most is None else bool(value <= at_most)  # NaN is no success
        values.append(value)
        successes += success
        evidence += good if success else bad
        if evidence >= accept or evidence <= reject:
            break
    runs = len(values)
    interval = lower_bound(successes, runs, 0.975), upper_bound(successes, runs, 0.975)
    if evidence < accept:
        undecided = evidence > reject
        fail(
            f"{successes} of {runs} seeds succeed (rate {interval[0]:.2f} to {interval[1]:.2f}), wanted {rate:g}"
            + ("; undecided" if undecided else ""),
            cause="training depends on a lucky start" if not undecided else "the rate lies between bad_rate and rate",
            fix="raise the learning rate's warm-up, the steps or the initialisation; or ask for a lower rate"
            + ("; or allow more seeds" if undecided else ""),
        )
    return Convergence(successes=successes, runs=runs, interval=interval, values=tuple(values))


# --- paired comparisons ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``change``: the mean of new minus old on the same samples; ``bound``: its one-sided confidence bound."""

    change: float
    bound: float
    n: int


def not_less_accurate(
    old: Sequence[bool | int], new: Sequence[bool | int], *, margin: float = 0.01, confidence: float = 0.95
) -> Comparison:
    """Accuracy has not dropped by more than ``margin``, compared on the same samples in the same order.

    ``old``, ``new``: 0 or 1 per sample. Passes if the one-sided lower bound of the paired difference (Bonett and Price
    2012: Wald with one added discordant pair each) is above -``margin``, or nothing changed at all. Otherwise fails:
    either it did drop, or the samples cannot tell, and then the message says how many could.
    """
    n = _paired(old, new)
    lost = sum(1 for a, b in zip(old, new, strict=True) if a and not b)
    won = sum(1 for a, b in zip(old, new, strict=True) if b and not a)
    change = (won - lost) / n
    if lost == won == 0:
        return Comparison(change=0.0, bound=0.0, n=n)
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    z = NormalDist().inv_cdf(confidence)
    spread = z * math.sqrt((p_lost + p_won - (p_won - p_lost) ** 2) / (n + 2))
    return _decide("accuracy", change, spread, p_won - p_lost - spread, margin, n)


def not_higher_error(
    old: Sequence[float], new: Sequence[float], *, margin: float = 0.01, confidence: float = 0.95
) -> Comparison:
    """RMSE has not risen by more than a share ``margin`` of itself, compared on the same samples.

    ``old``, ``new``: the errors (signed or absolute) per sample. The paired difference of squared errors gets a
    one-sided normal bound (n >= 30). Passes, fails, or says how many samples are needed, like
    :func:`not_less_accurate`.
    """
    n = _paired(old, new)
    if n < 30:
        fail(f"{n} samples", cause="too few for an interval", fix="compare at least 30 samples")
    base = sum(e * e for e in old) / n
    differences = [b * b - a * a for a, b in zip(old, new, strict=True)]
    mean = sum(differences) / n
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    spread = NormalDist().inv_cdf(confidence) * deviation / math.sqrt(n)
    allowed = ((1 + margin) ** 2 - 1) * base
    return _decide("mean squared error (sign reversed)", -mean, spread, -mean - spread, allowed, n)


def _paired(old: Sequence[Any], new: Sequence[Any]) -> int:
    if len(old) != len(new) or not old:
        raise ValueError(f"paired comparison of {len(old)} and {len(new)} samples: they must be the same samples")
    return len(old)


def _decide(what: str, change: float, spread: float, bound: float, margin: float, n: int) -> Comparison:
    if bound >= -margin:
        return Comparison(change=change, bound=bound, n=n)
    if change + spread < -margin:
        fail(
            f"{what} changed by {change:+.4g} on {n} samples, allowed {-margin:.4g}",
            cause="the new model is worse",
            fix="find the change; if it is wanted, update the golden",
        )
    room = margin + change
    needed = f"about {math.ceil(n * (spread / room) ** 2)} samples" if room > 0 else "a larger margin"
    return fail(
        f"{what} changed by {change:+.4g}, perhaps {bound:+.4g}: {n} samples cannot exclude a drop of {margin:.4g}",
        cause="too few samples for this margin",
        fix=f"compare on {needed}",
    )
