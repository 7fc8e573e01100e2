"""Synthetic corpora whose answer is known, to find out whether the model learns what it should."""

from __future__ import annotations

import random

TOPICS = {
    "sports": "match goal team coach league striker referee tournament stadium score defender trophy".split(),
    "cooking": "recipe oven butter garlic simmer dough pepper sauce roast flour spoon onion".split(),
    "space": "orbit rocket planet telescope comet galaxy lunar astronaut crater satellite meteor launch".split(),
    "music": "guitar melody chord concert drummer album rhythm violin chorus singer piano tempo".split(),
}
FILLERS = "the a this that today really quite people said it in for with very after before some new".split()


def make_topic_corpus(size: int, seed: int) -> tuple[list[str], list[int]]:
    """``size`` texts and labels 0-3, one for each topic of ``TOPICS``.

    A text has two or three words of its own topic, up to one of another, and fillers, shuffled: counting words is
    enough to be always right.
    """
    rng = random.Random(seed)
    topics = list(TOPICS.values())
    texts, labels = [], []
    for _ in range(size):
        label = rng.randrange(len(topics))
        words = rng.sample(topics[label], rng.randint(2, 3)) + rng.choices(FILLERS, k=rng.randint(4, 8))
        if rng.random() < 0.5:
            other = rng.choice([index for index in range(len(topics)) if index != label])
            words.append(rng.choice(topics[other]))
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def make_negation_corpus(size: int, seed: int) -> tuple[list[str], list[int]]:
    """``size`` reviews and labels 0 (bad) and 1 (good): "not awful but great", "great and not awful", or the reverse.

    The same words make both classes, only their order tells: no counting of words beats a coin, whatever is put on top.
    """
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(size):
        label = rng.randrange(2)
        words = [rng.choice("good great lovely superb".split()), rng.choice("bad awful boring weak".split())]
        right, wrong = words if label else reversed(words)
        verdict = ["not", wrong, "but", right] if rng.random() < 0.5 else [right, "and", "not", wrong]
        subject = [
            *rng.choices(FILLERS, k=rng.randint(1, 4)),
            rng.choice("film book play song meal game".split()),
            "was",
        ]
        texts.append(" ".join(subject + verdict + rng.choices(FILLERS, k=rng.randint(0, 3))))
        labels.append(label)
    return texts, labels
