"""Puts a marker on test functions and classes, as an edit of their file. Pure: bytes in, bytes out.

Lines are inserted and nothing else is touched: comments, quotes, line ends and encoding stay those of the author.
"""

from __future__ import annotations

import ast
import codecs
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_Definition: TypeAlias = _Function | ast.ClassDef


class Marked(Struct, frozen=True, kw_only=True):
    """A file with the marker in it."""

    data: bytes
    missed: tuple[tuple[str, ...], ...] = ()  # names that are not defined there (inherited, generated), to mark by hand
    problem: str | None = None  # why nothing at all could be done; ``data`` is then as it was


def mark(data: bytes, tests: Collection[tuple[str, ...]], marker: str) -> Marked:
    """The file with ``@pytest.mark.MARKER`` on each of the tests (classes, outermost first, and function).

    A class whose test functions are all among them is marked itself.
    """
    missed = tuple(sorted(tests))
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    try:
        tree, lines = _parse(data.removeprefix(bom))
    except (SyntaxError, ValueError, RecursionError, LookupError, MemoryError) as error:
        return Marked(data=data, missed=missed, problem=f"it cannot be read as Python: {error}")
    found = {names: node for names in tests if (node := _find(tree, names)) is not None}
    wanted = _whole_classes(tree, found)
    spelled, needs_import = _spelling(tree, wanted)
    targets = [node for node in wanted if not _has(node, marker, spelled)]
    edited = list(lines)
    for node in sorted(targets, key=_first_line, reverse=True):
        at = _first_line(node) - 1
        decorator = f"@{spelled}.{marker}".encode("ascii")
        edited.insert(at, lines[at][: node.col_offset] + decorator + _line_end(lines))
    if needs_import and targets:
        at, before, after = _import_place(tree, lines)
        edited.insert(at, (_line_end(lines) * before) + b"import pytest" + _line_end(lines) * (1 + after))
    result = bom + b"".join(edited)
    try:
        _check(_parse(result.removeprefix(bom))[0], found, marker, spelled)
    except (SyntaxError, ValueError, KeyError) as error:
        return Marked(data=data, missed=missed, problem=f"the edit would not be right: {error}")
    return Marked(data=result, missed=tuple(sorted(names for names in tests if names not in found)))


def _parse(data: bytes) -> tuple[ast.Module, list[bytes]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in somebody's test is not ours to report
        return ast.parse(data), data.splitlines(keepends=True)


def _check(tree: ast.Module, found: Collection[tuple[str, ...]], marker: str, spelled: str) -> None:
    """Raises ValueError where one of the tests does not have the marker after all."""
    for names in found:
        chain = [_find(tree, names[:length]) for length in range(1, len(names) + 1)]
        if not any(node is not None and _has(node, marker, spelled) for node in chain):
            raise ValueError(f"{'::'.join(names)} did not get the marker")


# --- where -----------------------------------------------------------------------------------------------------------


def _definitions(body: Sequence[ast.stmt]) -> Iterator[_Definition]:
    """Functions and classes of a body, also those below an ``if``, a ``try`` or a ``with``."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
        else:
            for name in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(node, name, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _definitions(handler.body)


def _find(tree: ast.Module, names: tuple[str, ...]) -> _Definition | None:
    body: Sequence[ast.stmt] = tree.body
    node = None
    for name in names:
        # The last one of a name is the one that counts.
        node = next((d for d in reversed(list(_definitions(body))) if d.name == name), None)
        if node is None:
            return None
        body = node.body if isinstance(node, ast.ClassDef) else ()
    return node


def _whole_classes(tree: ast.Module, found: dict[tuple[str, ...], _Definition]) -> list[_Definition]:
    """What to mark: the functions, or their class where that has no other test."""
    targets: list[_Definition] = []
    for names, node in found.items():
        owner = _find(tree, names[:-1]) if len(names) > 1 else None
        if isinstance(owner, ast.ClassDef):
            tests = [d.name for d in _definitions(owner.body) if d.name.lower().startswith("test")]
            if len(tests) > 1 and not owner.bases and all((*names[:-1], name) in found for name in tests):
                node = owner  # noqa: PLW2901
        if node not in targets:
            targets.append(node)
    return targets


def _first_line(node: _Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _has(node: _Definition, marker: str, spelled: str) -> bool:
    wanted = (f"{spelled}.{marker}", f"pytest.mark.{marker}")
    bare = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return any(ast.unparse(decorator) in wanted for decorator in bare)


# --- how -------------------------------------------------------------------------------------------------------------


def _spelling(tree: ast.Module, targets: Sequence[_Definition]) -> tuple[str, bool]:
    """How the file writes ``pytest.mark`` above the first of the tests, and whether it has to import pytest for it."""
    first = min((_first_line(node) for node in targets), default=0)
    for node in tree.body:
        if node.lineno >= first:
            break
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name == "pytest":
                    return f"{name.asname or name.name}.mark", False
        elif isinstance(node, ast.ImportFrom) and node.module == "pytest" and node.level == 0:
            for name in node.names:
                if name.name == "mark":
                    return name.asname or name.name, False
    return "pytest.mark", True


def _import_place(tree: ast.Module, lines: Sequence[bytes]) -> tuple[int, int, int]:
    """Index of the line before which ``import pytest`` goes, and how many blank lines it wants before and after.

    Among the imports of other packages, by name, as import sorters have it.
    """
    after, imports = 0, False
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not after:
            after = node.end_lineno or 0  # the docstring
        elif isinstance(node, ast.ImportFrom) and node.module == "__future__":
            after = node.end_lineno or 0
        elif isinstance(node, ast.Import | ast.ImportFrom):
            name = node.names[0].name if isinstance(node, ast.Import) else "." * node.level + (node.module or "")
            top = name.partition(".")[0]
            if not top or (top not in sys.stdlib_module_names and top > "pytest"):
                return node.lineno - 1, 0, 0
            after, imports = node.end_lineno or 0, True
        else:
            break
    if imports or after:
        return after, not imports, 0
    while after < len(lines) and lines[after].startswith(b"#"):  # a shebang, a declared encoding, a licence
        after += 1
    return after, 0, 2


def _line_end(lines: Sequence[bytes]) -> bytes:
    """That of the file's first line."""
    first = lines[0] if lines else b""
    return next((end for end in (b"\r\n", b"\n", b"\r") if first.endswith(end)), b"\n")
