"""Reads coverage's contexts: which test executed which lines, out of the `.coverage` file that a measuring run leaves.

Through coverage's own database, whose tables it documents, and not through its API or its JSON report: those list every
test for every line, which for 20,000 tests and a line that all of them execute is 20,000 names, line by line.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from orchestrator.mind.records.contexts import Contexts, contexts_of
from orchestrator.words.errors import InfrastructureError

SCHEMAS = (7,)
"""Versions of coverage's tables that this reads (https://coverage.readthedocs.io/en/latest/dbschema.html)."""


class ContextsError(InfrastructureError):
    """The contexts cannot be read; the message says why."""


def read_coverage_contexts(data: Path, *, root: Path) -> Contexts:
    """Lines by test, of the files below ``root``. Raises ContextsError."""
    if not data.is_file() or data.is_symlink():
        raise ContextsError("the run left no .coverage")
    try:
        database = sqlite3.connect(f"{data.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            versions = [row[0] for row in database.execute("select version from coverage_schema")]
            if not versions or versions[0] not in SCHEMAS:
                raise ContextsError(f"coverage's data has a format this mltiers does not know: {versions}")
            return contexts_of(_executed(database, root))
        finally:
            database.close()
    except (sqlite3.Error, UnicodeError, ValueError, TypeError) as error:
        raise ContextsError(f"coverage's data cannot be read: {error}") from None


def _executed(database: sqlite3.Connection, root: Path) -> Iterator[tuple[str, str, int]]:
    """(node id, file, lines as bits), each any number of times."""
    paths = {number: _relative(path, root) for number, path in database.execute("select id, path from file")}
    # pytest-cov names a context after the test and its phase: "tests/test_a.py::test_b|run".
    tests = {
        number: str(name).rpartition("|")[0] for number, name in database.execute("select id, context from context")
    }
    for file, context, bits in database.execute("select file_id, context_id, numbits from line_bits"):
        path, test = paths.get(file), tests.get(context)
        if path and test:
            yield test, path, int.from_bytes(bits, "little")  # bit n of the bytes is line n
    lines: dict[tuple[str, str], int] = {}
    for file, context, *ends in database.execute("select file_id, context_id, fromno, tono from arc"):
        path, test = paths.get(file), tests.get(context)
        if path and test:
            for end in ends:
                if 0 < end < 1_000_000:  # a negative one is the way into or out of a block
                    lines[test, path] = lines.get((test, path), 0) | 1 << end
    for (test, path), found in lines.items():
        yield test, path, found


def _relative(path: str, root: Path) -> str | None:
    """A file below the root as everything else names it; None for one that lies elsewhere."""
    inside = os.path.relpath(root / path, root).replace(os.sep, "/")
    return None if inside.startswith("../") else inside
