"""Looks up what a tier's order is made of: its records, the map of tests to lines, and what the change is next to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from orchestrator.hands.gather import Situation, changed_lines
from orchestrator.mind.order import Order, fit_note, order_of
from orchestrator.mind.records.contexts import Contexts, read_contexts
from orchestrator.mind.render.words import plural
from orchestrator.mind.touched import Mention, touched_tests
from orchestrator.tools.git import GitError
from orchestrator.words.plan import Plan, TierPlan


class LooksForWords(Protocol):
    """`Git`, and the study's own files (benchmarks/selection.py)."""

    def lines_with(self, words: Sequence[str]) -> list[tuple[str, int, str]]:
        """Lines of code with one of the words: path, number, text. Raises GitError."""


_NAMES = 40  # changed files that are looked for in the project's code
_WORD = re.compile(r"\w{3,}")


def with_orders(plan: Plan, situation: Situation) -> tuple[Plan, dict[str, Order]]:
    """The plan with what is to be said of it, and the order of each tier that runs here."""
    orders: dict[str, Order] = {}
    tiers = []
    nightly = situation.event.name == "schedule"
    for tier in plan.tiers:
        if not tier.run or tier.where != "here" or tier.python is None or tier.benchmark:
            tiers.append(tier)
            continue
        notes = []
        if tier.fit and tier.shards > 1:
            tier = replace(tier, fit=False)  # noqa: PLW2901 -- the same tier, decided
            notes.append("fit: a tier that is split over machines runs all its tests")
        records = situation.history.of(tier.name)
        contexts, touched = None, {}
        if tier.fit and records:
            contexts, problem = _contexts(situation, tier)
            notes += [problem] if problem else []
            touched = _touched(situation, tier, contexts or Contexts())
        order = order_of(tier, records, contexts=contexts, touched=touched, nightly=nightly)
        orders[tier.name] = order
        if tier.fit:
            notes.append(fit_note(order))
            if owed := len(set(order.failed) & set(order.deferred)):
                tier = replace(tier, defer_fails=True)  # noqa: PLW2901
                notes.append(f"fit: {plural(owed, 'test')} that failed last time does not fit: no pass without it")
        tiers.append(replace(tier, notes=(*tier.notes, *notes)) if notes else tier)
    return replace(plan, tiers=tuple(tiers)), orders


def _contexts(situation: Situation, tier: TierPlan) -> tuple[Contexts | None, str | None]:
    """The newest map of the tier's tests to lines, or why there is none."""
    kept = situation.history.contexts
    data = kept.get(tier.name)
    if data is None:
        return None, "fit: no run with `measure: true` has said which tests execute which lines"
    try:
        return read_contexts(json.loads(data)), None
    except (ValueError, RecursionError) as error:
        return None, f"fit: the map of tests to lines cannot be read: {error}"


def _touched(situation: Situation, tier: TierPlan, contexts: Contexts) -> dict[str, int]:
    changes = situation.changes.files
    if not changes:
        return {}
    paths = dict.fromkeys(path for file in changes for path in (file.path, file.old_path) if path)
    new = changed_lines(situation) or {}
    old = _as_measured(situation, contexts)
    # Where the map is of another commit its line numbers count; a file that is the same in both has but one numbering.
    changed = {path: old.get(path, new.get(path)) for path in paths}
    nodes = dict.fromkeys(
        node
        for record in situation.history.of(tier.name)[:5]
        if record.tier.result is not None
        for node in (*(test.node_id for test in record.tier.result.tests), *record.tier.result.deferred)
    )
    mentions = mentions_of(situation.git, situation.prefix, [*changed][:_NAMES], contexts, nodes)
    return touched_tests(nodes, contexts, changed, mentions)


def _as_measured(situation: Situation, contexts: Contexts) -> Mapping[str, frozenset[int]]:
    """The changed lines as the measured commit counts them; nothing where that commit is not here."""
    git, own = situation.git, situation.prefix
    if git is None or contexts.sha is None or situation.range is None:
        return {}
    try:
        if git.commit(contexts.sha) is None:
            return {}
        lines = git.rewritten_lines(contexts.sha, situation.range[1])
    except GitError:
        return {}
    return {path.removeprefix(own): numbers for path, numbers in lines.items() if path.startswith(own)}


def mentions_of(
    git: LooksForWords | None, prefix: str, paths: Iterable[str], contexts: Contexts, nodes: Iterable[str]
) -> dict[str, tuple[Mention, ...]]:
    """Who names the changed files that no test executes: data, configuration, helpers of tests.

    A helper that names one (``golden.py``, of ``golden.json``) is followed once, to who names the helper.
    """
    executed = set(contexts.files)
    tests = {node.partition("::")[0] for node in nodes}
    named = {path: _name_of(path) for path in paths if path not in executed and path not in tests}
    if git is None or not named:
        return {}
    first = _who_names(git, prefix, named)
    helpers = {m.path for found in first.values() for m in found} - executed - tests
    second = _who_names(git, prefix, {path: _name_of(path) for path in helpers}) if helpers else {}
    return {
        path: tuple(dict.fromkeys((*found, *(further for m in found for further in second.get(m.path, ())))))
        for path, found in first.items()
    }


def _name_of(path: str) -> str:
    """What code calls a file: a module by its stem, anything else by its name."""
    folder, _, name = path.rpartition("/")
    if name == "__init__.py":
        return folder.rpartition("/")[2]
    return name.removesuffix(".py")


def _who_names(git: LooksForWords, prefix: str, names: Mapping[str, str]) -> dict[str, tuple[Mention, ...]]:
    try:
        found = git.lines_with([name for name in dict.fromkeys(names.values()) if _WORD.search(name)])
    except GitError:
        return {}
    mentions: dict[str, list[Mention]] = {path: [] for path in names}
    for path, number, text in found:
        if not path.startswith(prefix):
            continue
        inside = path.removeprefix(prefix)
        for changed, name in names.items():
            if name in text and inside != changed:
                mentions[changed].append(Mention(path=inside, line=number))
    return {path: tuple(lines) for path, lines in mentions.items()}
