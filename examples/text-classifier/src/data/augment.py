"""Augmentation of texts."""

from __future__ import annotations

import random


def drop_words(text: str, rate: float, rng: random.Random) -> str:
    """``text`` without each of its words with probability ``rate`` in [0, 1); one word always stays, order is kept.

    The generator is an argument, so that a seed gives the same augmentation whatever else draws numbers.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate must be in [0, 1), not {rate}")
    words = text.split()
    if not words:
        return text
    kept = [word for word in words if rng.random() >= rate]
    return " ".join(kept or [rng.choice(words)])
