"""Which lines each test executes, as a small value and a small file. Pure.

Thousands of tests execute the same lines of the same files (what a fixture or an import does), so what one test
executes of one file is a piece that tests share: a set of line numbers as an integer, in which bit n is line n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

VERSION = 1


class Contexts(Struct, frozen=True, kw_only=True):
    """The map of one tier. Paths are relative to the configuration's folder."""

    files: tuple[str, ...] = ()
    pieces: tuple[tuple[int, int], ...] = ()  # (index of the file, its lines as bits)
    tests: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # node id → indices of pieces
    sha: str | None = None  # the commit whose line numbers these are


def contexts_of(executed: Iterable[tuple[str, str, int]]) -> Contexts:
    """The map made of (node id, file, lines as bits); a test's phases may come one by one."""
    of_test: dict[str, dict[str, int]] = {}
    for node_id, path, bits in executed:
        files = of_test.setdefault(node_id, {})
        files[path] = files.get(path, 0) | bits
    names = sorted({path for files in of_test.values() for path in files})
    index = {path: number for number, path in enumerate(names)}
    pieces: dict[tuple[int, int], int] = {}
    tests = {
        node_id: tuple(pieces.setdefault((index[path], bits), len(pieces)) for path, bits in sorted(files.items()))
        for node_id, files in sorted(of_test.items())
    }
    return Contexts(files=tuple(names), pieces=tuple(pieces), tests=tests)


def contexts_document(contexts: Contexts) -> dict[str, Any]:
    """contexts.json."""
    return {
        "version": VERSION,
        "sha": contexts.sha,
        "files": list(contexts.files),
        "pieces": [[file, f"{bits:x}"] for file, bits in contexts.pieces],
        "tests": {node_id: list(pieces) for node_id, pieces in contexts.tests.items()},
    }


def read_contexts(document: Any) -> Contexts:
    """The map in a contexts.json. Raises ValueError, with a sentence, for anything else."""
    try:
        if document["version"] != VERSION:
            raise ValueError(f"it has version {document['version']!r}, and this mltiers reads version {VERSION}")
        files = tuple(map(str, document["files"]))
        pieces = tuple((int(file), int(bits, 16)) for file, bits in document["pieces"])
        tests = {str(node_id): tuple(map(int, of)) for node_id, of in document["tests"].items()}
        sha = document.get("sha")
        known = range(len(pieces))
        if any(file not in range(len(files)) or bits < 0 for file, bits in pieces):
            raise ValueError("a piece names a file that is not in it")
        if any(piece not in known for of in tests.values() for piece in of):
            raise ValueError("a test names a piece that is not in it")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is no map of tests to lines: {error!r}") from None
    return Contexts(files=files, pieces=pieces, tests=tests, sha=sha if isinstance(sha, str) else None)


def bits_of(lines: Iterable[int]) -> int:
    """Line numbers as bits."""
    bits = 0
    for line in lines:
        bits |= 1 << line
    return bits
