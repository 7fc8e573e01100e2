import random

from small import plain

RNG = random.Random(0)
WORDS = [RNG.choice(["loss", "step", "epoch", "batch", "mask", "token"]) for _ in range(300)]


def test_tokens(benchmark):
    benchmark(plain.tokens, ", ".join(WORDS[:80]))


def test_bigrams(benchmark):
    benchmark(plain.bigrams, WORDS)


def test_distance(benchmark):
    benchmark(plain.distance, "convergence", "coverage of it")


def test_round_trip(benchmark):
    benchmark(plain.round_trip, {"words": WORDS[:40], "scores": [RNG.random() for _ in range(20)]})


def test_ranked(benchmark):
    benchmark(plain.ranked, [(RNG.random(), word) for word in WORDS[:200]])


def test_smoothed(benchmark):
    benchmark(plain.smoothed, [RNG.random() for _ in range(400)])
