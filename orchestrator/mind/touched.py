"""Which tests a change touches: by the lines they execute, by the files they live in, by the names they mention. Pure.

Lines are believed first. They say nothing about what runs at import (a constant, a default), about data and about
configuration: there, whoever executes the rest of that file or names it (``golden.json``) is next to the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from orchestrator.mind.records.contexts import Contexts, bits_of

NARROW = 3
"""Touched by something that touches few: of a change in several places, what says most about one of them."""
DIRECT = 2
NEAR = 1

FEW = 0.05
"""The share of all tests up to which something touches few."""


class Mention(Struct, frozen=True, kw_only=True):
    """A line of the project that names a changed file (its name, or its stem where it is a module)."""

    path: str
    line: int


def touched_tests(
    node_ids: Iterable[str],
    contexts: Contexts,
    changed: Mapping[str, frozenset[int] | None],
    mentions: Mapping[str, tuple[Mention, ...]] | None = None,
) -> dict[str, int]:
    """How near each test is to a change; a test that is not in it is not touched.

    ``changed``: per path the changed lines as ``contexts`` counts them, or None for the whole file. ``mentions``: per
    changed path who names it.
    """
    nodes = list(node_ids)
    levels: dict[str, int] = {}
    executed = _executed(contexts)

    def raise_to(level: int, tests: Iterable[str]) -> None:
        for node in tests:
            levels[node] = max(level, levels.get(node, 0))

    few = max(10, int(FEW * len(nodes)))
    for path, lines in changed.items():
        direct = {node for node in nodes if _lives_in(node, path)}
        exact, near = _executing(executed.get(path, []), lines)
        direct.update(exact or near)
        raise_to(NEAR, near)
        for mention in (mentions or {}).get(path, ()):
            if mention.path == path:
                continue
            exact, around = _executing(executed.get(mention.path, []), frozenset((mention.line,)))
            named = {*exact, *(node for node in nodes if _lives_in(node, mention.path))}
            raise_to(NEAR, around)
            if path in executed:
                raise_to(NEAR, named)  # its lines say more than its name
            else:
                direct |= named
        raise_to(NARROW if len(direct) <= few else DIRECT, direct)
    known = set(nodes)
    return {node: level for node, level in levels.items() if node in known}


Executed = Mapping[str, list[tuple[int, list[str]]]]


def _executed(contexts: Contexts) -> Executed:
    """Per file, each set of lines that tests execute of it, with those tests."""
    who: list[list[str]] = [[] for _ in contexts.pieces]
    for node, pieces in contexts.tests.items():
        for piece in pieces:
            who[piece].append(node)
    found: dict[str, list[tuple[int, list[str]]]] = {}
    for (file, bits), tests in zip(contexts.pieces, who, strict=True):
        found.setdefault(contexts.files[file], []).append((bits, tests))
    return found


def _executing(executed: list[tuple[int, list[str]]], lines: frozenset[int] | None) -> tuple[list[str], list[str]]:
    """Tests that execute one of the lines, and those that execute any of the file."""
    near = [node for _, tests in executed for node in tests]
    if lines is None:
        return near, near
    wanted = bits_of(lines)
    return [node for bits, tests in executed if bits & wanted for node in tests], near


def _lives_in(node_id: str, path: str) -> bool:
    """Whether a test belongs to a file, or to the folder that a conftest.py rules."""
    file = node_id.partition("::")[0]
    if file == path:
        return True
    folder, _, name = path.rpartition("/")
    return name == "conftest.py" and (not folder or file.startswith(f"{folder}/"))
