"""Small faults in real files: one expression, constant or line of data at a time, so that line numbers stay."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARE = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: ">=",
    ast.GtE: "<",
    ast.Gt: "<=",
    ast.LtE: ">",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
_BINARY = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One changed file. ``line`` is 1-based."""

    path: str
    line: int
    kind: str
    text: str  # the file as it is with the fault

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}:{self.kind}"


def faults_of(path: str, text: str) -> list[Fault]:
    """Every fault this module knows how to make in a file, in a fixed order."""
    found = _python(text) if path.endswith(".py") else _data(text)
    faults = {}
    for line, column, end, new, kind in found:
        lines = text.splitlines(keepends=True)
        old = lines[line - 1]
        lines[line - 1] = old[:column] + new + old[end:]
        changed = "".join(lines)
        if changed != text:
            fault = Fault(path=path, line=line, kind=f"{kind}@{column}", text=changed)
            faults.setdefault(fault.text, fault)
    return list(faults.values())


def is_runnable(fault: Fault) -> bool:
    """Whether the file is still a program: what does not compile is found by every order at once."""
    if not fault.path.endswith(".py"):
        return True
    try:
        compile(fault.text, fault.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def drawn(faults: list[Fault], rng: random.Random) -> Iterator[Fault]:
    """In random order, no line twice before every line came once."""
    left = list(faults)
    rng.shuffle(left)
    while left:
        seen: set[tuple[str, int]] = set()
        later = []
        for fault in left:
            if (fault.path, fault.line) in seen:
                later.append(fault)
            else:
                seen.add((fault.path, fault.line))
                yield fault
        left = later


Edit = tuple[int, int, int, str, str]  # line, columns from and to, new text, kind


def _python(text: str) -> Iterator[Edit]:
    tree = ast.parse(text)
    lines = text.splitlines()
    skip: set[int] = set()
    for node in ast.walk(tree):
        annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        inner = annotations + (node.values if isinstance(node, ast.JoinedStr) else [])
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            inner.append(first if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else None)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            inner.append(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inner.append(node)
        for root in inner:
            skip.update(id(child) for child in (ast.walk(root) if root is not None else ()))
    for node in ast.walk(tree):
        if id(node) in skip or getattr(node, "lineno", None) != getattr(node, "end_lineno", 0):
            continue
        if not lines[node.lineno - 1].isascii():
            continue  # columns of the syntax tree are bytes
        for new, kind in _changed(node):
            yield node.lineno, node.col_offset, node.end_col_offset, new, kind


def _changed(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        yield f"({left} {_COMPARE[type(node.ops[0])]} {right})", "comparison"
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        yield f"({ast.unparse(node.left)} {_BINARY[type(node.op)]} {ast.unparse(node.right)})", "arithmetic"
    elif isinstance(node, ast.BoolOp):
        word = " or " if isinstance(node.op, ast.And) else " and "
        yield "(" + word.join(f"({ast.unparse(value)})" for value in node.values) + ")", "logic"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"bool({ast.unparse(node.operand)})", "logic"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield repr(not node.value), "constant"
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield repr(node.value + 1), "constant"
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield repr(node.value * 1.5 + 0.01), "constant"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield repr(node.value[:-1] + chr(ord(node.value[-1]) ^ 1)), "text"
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None", "return"
    elif isinstance(node, (ast.AugAssign, ast.Raise)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "pass", "statement"


def _data(text: str) -> Iterator[Edit]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        for match in list(re.finditer(r"\d+(\.\d+)?", line))[:6]:
            value = match[0]
            yield (
                number,
                match.start(),
                match.end(),
                str(int(value) + 1) if value.isdigit() else f"{float(value) * 1.1 + 0.1:.6f}",
                "number",
            )
        for match in list(re.finditer(r"[A-Za-z]{3,}", line))[:4]:
            yield number, match.start(), match.end(), match[0][:-1], "word"
        yield number, 0, len(line), "", "line"
