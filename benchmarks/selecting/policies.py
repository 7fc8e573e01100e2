"""Orders in which a suite can be run, each given what it could know before the run."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.selecting.suites import Observed, Study
from orchestrator.hands.ordering import mentions_of
from orchestrator.mind.fit import TestFacts, rank
from orchestrator.mind.touched import touched_tests

AROUND = 3  # lines before and after a fault that its commit also rewrites
ELSEWHERE = 2  # places of the project that the same commit rewrites without harm
LENGTH = 10  # lines of such a place


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit: it brings a fault, and rewrites a few lines elsewhere. After a red one it also repairs that fault."""

    fault: Observed
    before: Observed | None
    changed: dict[str, frozenset[int] | None]
    seed: int


def commits_of(study: Study, faults: Sequence[Observed], seed: int, *, red: bool) -> list[Commit]:
    """The faults as the history of a project, in random order. ``red``: the commit before each had a fault as well."""
    generator = random.Random(seed)
    shuffled = list(faults)
    generator.shuffle(shuffled)
    commits = []
    before = None
    for fault in shuffled:
        changed: dict[str, set[int]] = {}
        for one in (fault, before) if before is not None else (fault,):
            changed.setdefault(one.path, set()).update(range(max(1, one.line - AROUND), one.line + AROUND + 1))
        for path in generator.sample(study.contexts.files, min(ELSEWHERE, len(study.contexts.files))):
            first = generator.randrange(1, max(2, len(study.texts[path].splitlines())))
            changed.setdefault(path, set()).update(range(first, first + LENGTH))
        lines = {path: frozenset(numbers) for path, numbers in changed.items()}
        commits.append(Commit(fault=fault, before=before, changed=lines, seed=generator.randrange(1 << 30)))
        before = fault if red else None
    return commits


class _Grep:
    """`git grep -w` over the files of a study."""

    def __init__(self, study: Study) -> None:
        self.files = {path: text.splitlines() for path, text in study.texts.items() if path.endswith(".py")}

    def lines_with(self, words: Sequence[str]) -> list[tuple[str, int, str]]:
        wanted = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words) or r"(?!)")
        return [
            (path, number, line)
            for path, lines in self.files.items()
            for number, line in enumerate(lines, 1)
            if wanted.search(line)
        ]


def ours(study: Study, commit: Commit, *, touched: bool = True) -> list[str]:
    """What `fit` does; ``touched`` False: without a word about the change."""
    levels = {}
    if touched:
        mentions = mentions_of(_Grep(study), "", commit.changed, study.contexts, study.order)
        levels = touched_tests(study.order, study.contexts, commit.changed, mentions)
    failed = set(commit.before.failed) if commit.before is not None else set()
    facts = [
        TestFacts(
            node_id=node,
            seconds=study.seconds[node],
            failed_last=node in failed,
            touched=levels.get(node, 0),
            covers=study.contexts.tests.get(node, ()),
        )
        for node in study.order
    ]
    return [study.order[index] for index in rank(facts, pieces=study.contexts.pieces)]


def failed_first(study: Study, commit: Commit) -> list[str]:
    """pytest's `--ff`."""
    failed = set(commit.before.failed) if commit.before is not None else set()
    return sorted(study.order, key=lambda node: node not in failed)


def longest_first(study: Study, commit: Commit) -> list[str]:
    return sorted(study.order, key=lambda node: -study.seconds[node])


def cheapest_first(study: Study, commit: Commit) -> list[str]:
    return sorted(study.order, key=lambda node: study.seconds[node])


def shuffled(study: Study, commit: Commit) -> list[str]:
    order = list(study.order)
    random.Random(commit.seed).shuffle(order)
    return order


def clairvoyant(study: Study, commit: Commit) -> list[str]:
    """Knows which tests will fail, and runs the cheapest of them first."""
    failing = set(commit.fault.failed)
    return sorted(study.order, key=lambda node: (node not in failing, study.seconds[node]))


POLICIES: dict[str, Callable[[Study, Commit], list[str]]] = {
    "mltiers (`fit`)": ours,
    "the same without the change": lambda study, commit: ours(study, commit, touched=False),
    "random": shuffled,
    "`--ff`": failed_first,
    "longest first": longest_first,
    "cheapest first": cheapest_first,
    "clairvoyant": clairvoyant,
}


def found_at(study: Study, commit: Commit, order: Sequence[str]) -> float:
    """The share of the suite's time after which the first test that sees the fault has ended."""
    failing = set(commit.fault.failed)
    spent = 0.0
    for node in order:
        spent += study.seconds[node]
        if node in failing:
            break
    return spent / sum(study.seconds.values())
