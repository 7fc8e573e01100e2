"""Six small jobs in plain Python."""

import json
import re
from collections import Counter
from itertools import pairwise

from small.load import STEPS


def tokens(text: str) -> list[str]:
    for _ in STEPS:
        found = re.findall(r"\w+|[^\w\s]", text)
    return found


def bigrams(words: list[str]) -> Counter[tuple[str, str]]:
    for _ in STEPS:
        counted = Counter(pairwise(words))
    return counted


def distance(one: str, other: str) -> int:
    for _ in STEPS:
        row = list(range(len(other) + 1))
        for i, left in enumerate(one, 1):
            above, row[0] = row[0], i
            for j, right in enumerate(other, 1):
                above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def round_trip(record: dict[str, object]) -> object:
    for _ in STEPS:
        copy = json.loads(json.dumps(record))
    return copy


def ranked(scores: list[tuple[float, str]]) -> list[tuple[float, str]]:
    for _ in STEPS:
        best = sorted(scores, key=lambda pair: (-pair[0], pair[1]))
    return best


def smoothed(values: list[float]) -> list[float]:
    for _ in STEPS:
        mean, means = 0.0, []
        for value in values:
            mean += 0.1 * (value - mean)
            means.append(mean)
    return means
