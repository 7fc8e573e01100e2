"""One-line checks for ML code. Each is a function that returns when all is well and raises ``CheckFailed`` otherwise.

``from pytest_mltiers import checks`` costs nothing: a check's module, and torch with it, is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

# The public names, by the module of this package that holds them.
_HOME = {
    "failures": ("CheckFailed", "Inapplicable"),
    "forward": (
        "output_shape",
        "output_dtype",
        "autocast_applies",
        "finite",
        "sums_to_one",
        "deterministic",
        "depends_on_input",
        "input_unchanged",
        "instances_independent",
    ),
    "batch": ("batch_independent", "batch_sizes"),
    "sequences": ("causal", "padding_ignored", "padding_invariant", "position_sensitive", "weights_tied"),
    "gradients": ("reach_every_parameter", "finite_gradients", "true_gradients"),
    "loss": (
        "perfect_outputs",
        "zero_when_perfect",
        "worse_when_worse",
        "never_negative",
        "averages_rows",
        "duplicate_invariant",
        "local",
        "every_output_counts",
        "smooth_when_perfect",
        "starts_near_chance",
        "ignores_padding",
    ),
    "training": (
        "gradients_forget",
        "gradients_are_this_batchs",
        "clips_before_step",
        "parameters_change",
        "modes_are_right",
        "evaluation_is_clean",
        "follows_schedule",
        "optimizer_holds_parameters",
        "batch_unchanged_by_step",
        "resumes_identically",
    ),
    "overfit": ("overfits", "Overfit"),
    "roundtrip": ("checkpoint", "modes", "export"),
    "data": (
        "finite_items",
        "normalised",
        "no_constant_columns",
        "repeatable_items",
        "distinct_items",
        "labels_in_range",
        "covers_every_item",
        "shuffles",
        "workers_differ",
        "splits_disjoint",
        "augmentation_varies",
    ),
    "inference": (
        "predicts_like_single",
        "empty_raises",
        "truncates",
        "generates_at_most",
        "same_preprocessing",
        "processes_each",
    ),
    "distributed": ("ranks_agree",),
    "golden": ("Golden", "data_fingerprint"),
    "statistics": (
        "lower_bound",
        "upper_bound",
        "trials_needed",
        "rate_at_least",
        "fraction_near",
        "calibrated",
        "across_seeds",
        "not_less_accurate",
        "not_higher_error",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

# A module whose public names include one of its own ("golden", say) stays reachable as a module.
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - held to _HOME on purpose


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        try:
            value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(f'checks.{name} needs torch: pip install "pytest-mltiers[torch]"') from error
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no check {name!r}")


def __dir__() -> list[str]:
    return __all__
