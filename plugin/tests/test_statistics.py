"""Thresholds for random numbers: exact values from the literature, and both kinds of wrong decision."""

from __future__ import annotations

import random

import pytest
from pytest_mltiers.checks import statistics
from pytest_mltiers.checks.failures import CheckFailed


@pytest.mark.parametrize(
    ("successes", "n", "confidence", "expected"),
    [
        (8, 10, 0.975, 0.44390),  # Clopper and Pearson's two-sided 95 % interval of 8 in 10 begins here
        (0, 10, 0.95, 0.0),
        (10, 10, 0.95, 0.05 ** (1 / 10)),
        (2995, 2995, 0.95, 0.05 ** (1 / 2995)),
    ],
)
def test_exact_lower_bounds(successes, n, confidence, expected):
    assert statistics.lower_bound(successes, n, confidence) == pytest.approx(expected, abs=1e-5)


def test_the_upper_bound_of_no_failures_is_the_rule_of_three():
    assert statistics.upper_bound(0, 3000) == pytest.approx(1 - 0.05 ** (1 / 3000), abs=1e-9)
    assert statistics.upper_bound(8, 10, 0.975) == pytest.approx(0.97479, abs=1e-5)


@pytest.mark.parametrize(("rate", "failures", "n"), [(0.999, 0, 2995), (0.99, 0, 299), (0.9, 0, 29), (0.99, 1, 473)])
def test_trials_needed(rate, failures, n):
    assert statistics.trials_needed(rate, failures) == n
    assert statistics.lower_bound(n - failures, n) >= rate > statistics.lower_bound(n - 1 - failures, n - 1)


def test_2995_of_2995_show_a_rate_of_0_999_and_2994_do_not():
    assert statistics.rate_at_least(2995, 2995, 0.999) >= 0.999
    with pytest.raises(CheckFailed, match="2995 trials would be enough"):
        statistics.rate_at_least(2994, 2994, 0.999)


def test_a_low_rate_is_told_from_too_few_trials():
    with pytest.raises(CheckFailed, match="the rate is too low"):
        statistics.rate_at_least(900, 1000, 0.95)
    with pytest.raises(CheckFailed, match="too few trials"):
        statistics.rate_at_least(10, 10, 0.95)


@pytest.mark.parametrize("arguments", [(5, 4, 0.5), (0, 0, 0.5), (-1, 4, 0.5)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError, match="successes="):
        statistics.rate_at_least(*arguments)


def test_fraction_near_tells_swapped_keep_and_drop():
    assert statistics.fraction_near(103, 1000, 0.1) > 0.5
    with pytest.raises(CheckFailed, match="swapped"):
        statistics.fraction_near(897, 1000, 0.1)


def test_fraction_near_at_the_ends():
    assert statistics.fraction_near(0, 50, 0.0) == 1.0
    with pytest.raises(CheckFailed):
        statistics.fraction_near(1, 50, 0.0)


def _answers(n: int, accuracy_of, seed: int = 0) -> tuple[list[float], list[bool]]:
    generator = random.Random(seed)
    confidences = [0.5 + 0.5 * generator.random() for _ in range(n)]
    return confidences, [generator.random() < accuracy_of(c) for c in confidences]


def test_a_calibrated_model_passes_where_plain_ece_would_flake():
    over = 0
    for seed in range(60):
        result = statistics.calibrated(*_answers(100, lambda c: c, seed), max_ece=0.1)
        over += result.ece > 0.1
    assert over > 5, "the plain threshold would not have failed: this test shows nothing"


def test_an_overconfident_model_fails():
    with pytest.raises(CheckFailed, match="ECE is"):
        statistics.calibrated(*_answers(1000, lambda _: 0.55), max_ece=0.1)


def test_calibration_on_too_few_samples_says_how_many():
    with pytest.raises(CheckFailed, match=r"use about \d+ samples"):
        statistics.calibrated(*_answers(12, lambda c: c), max_ece=0.02)


def test_across_seeds_stops_when_it_is_decided():
    always = statistics.across_seeds(lambda _: True)
    assert (always.successes, always.runs) == (16, 16)
    seen = []
    with pytest.raises(CheckFailed, match="0 of 6 seeds"):
        statistics.across_seeds(seen.append)
    assert seen == [0, 1, 2, 3, 4, 5]


def test_across_seeds_counts_nan_as_no_success_and_admits_not_knowing():
    with pytest.raises(CheckFailed):
        statistics.across_seeds(lambda _: float("nan"), at_most=1.0)
    with pytest.raises(CheckFailed, match="undecided"):
        statistics.across_seeds(lambda _: True, seeds=4)


def test_paired_accuracy():
    old = [True] * 900 + [False] * 100
    assert statistics.not_less_accurate(old, old).change == 0.0
    worse = [False] * 60 + old[60:]
    with pytest.raises(CheckFailed, match="the new model is worse"):
        statistics.not_less_accurate(old, worse, margin=0.01)
    with pytest.raises(CheckFailed, match=r"compare on about \d+ samples"):
        statistics.not_less_accurate(old, [False] * 8 + old[8:], margin=0.01)
    with pytest.raises(ValueError, match="paired"):
        statistics.not_less_accurate(old, old[:-1])


def test_paired_rmse():
    generator = random.Random(0)
    old = [generator.gauss(0, 1) for _ in range(500)]
    assert statistics.not_higher_error(old, [e * 0.98 for e in old]).change > 0
    with pytest.raises(CheckFailed, match="the new model is worse"):
        statistics.not_higher_error(old, [e * 1.2 for e in old])
    with pytest.raises(CheckFailed, match="cannot exclude"):
        statistics.not_higher_error(old, [e + generator.gauss(0, 0.2) for e in old])


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["calibrated", "fraction_near", "across_seeds"])
def test_no_statistical_check_fails_correct_code_in_3000_runs(name):
    for seed in range(3000):
        generator = random.Random(seed)
        if name == "calibrated":
            statistics.calibrated(*_answers(100, lambda c: c, seed))
        elif name == "fraction_near":
            statistics.fraction_near(sum(generator.random() < 0.1 for _ in range(500)), 500, 0.1)
        else:
            statistics.across_seeds(lambda _, g=generator: g.random() < 0.99)
