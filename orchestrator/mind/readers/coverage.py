"""coverage.py's JSON report as values, the union of several, and the part of it that a change touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from orchestrator.mind.readers.document import BrokenReportError, load_json_object
from orchestrator.words.results import Arc, Coverage, FileCoverage
from orchestrator.words.verdict import KnownGap, PatchCoverage

MAX_BYTES = 256 * 1024 * 1024
_INTEGERS = frozenset((int,))  # bool is another type


def read_coverage(data: bytes) -> Coverage:
    """Read ``coverage json``. Raises BrokenReportError."""
    document = load_json_object(data, limit=MAX_BYTES)
    files = document.get("files")
    if not isinstance(files, dict):
        raise BrokenReportError("it has no 'files': not a report of `coverage json`")
    return Coverage(files={_path(name): _file(name, body) for name, body in files.items()})


def combine(parts: Iterable[Coverage]) -> Coverage | None:
    """The union of several tiers or shards: a line executed by any of them is executed. None for none."""
    files: dict[str, FileCoverage] = {}
    empty = True
    for part in parts:
        empty = False
        for path, body in part.files.items():
            files[path] = _union(files[path], body) if path in files else body
    return None if empty else Coverage(files=files)


def patch_coverage(coverage: Coverage, changed: Mapping[str, frozenset[int]]) -> PatchCoverage:
    """How much of the changed lines is covered. ``changed``: new-side line numbers per path.

    Only statements of measured files count: a changed comment, or a file outside ``source``, is neither.
    """
    covered, uncovered = 0, {}
    for path, lines in changed.items():
        if (body := coverage.files.get(path)) is None:
            continue
        covered += len(lines & body.executed)
        if missed := lines & body.missing:
            uncovered[path] = tuple(sorted(missed))
    measured = covered + sum(len(lines) for lines in uncovered.values())
    return PatchCoverage(covered=covered, measured=measured, uncovered=uncovered)


def carry(coverage: Coverage, earlier: Coverage, paths: frozenset[str]) -> tuple[Coverage, int]:
    """The coverage with the lines of these files that an earlier run executed, and how many those are.

    Only statements that were measured now count: nothing is added to what there is to cover.
    """
    files, lines = dict(coverage.files), 0
    for path in paths & coverage.files.keys() & earlier.files.keys():
        now, then = coverage.files[path], earlier.files[path]
        found, branches = now.missing & then.executed, now.missing_branches & then.executed_branches
        lines += len(found)
        files[path] = replace(
            now,
            executed=now.executed | found,
            missing=now.missing - found,
            executed_branches=now.executed_branches | branches,
            missing_branches=now.missing_branches - branches,
        )
    return Coverage(files=files), lines


def untested_functions(coverage: Coverage, changed: Mapping[str, frozenset[int]]) -> dict[str, tuple[str, ...]]:
    """The functions, by file, that the change touches and no test enters."""
    found = {}
    for path, lines in changed.items():
        if (body := coverage.files.get(path)) is None:
            continue
        names = [
            name
            for name, own in body.functions.items()
            if own & lines and own & body.missing and not own & body.executed
        ]
        if names:
            found[path] = tuple(sorted(names))
    return found


def leave_out(coverage: Coverage, gaps: Sequence[str]) -> tuple[Coverage, tuple[KnownGap, ...]]:
    """The coverage without the lines of known gaps, and what became of each gap.

    A gap is ``file``, or ``file::function`` with the function's qualified name (``Class.method``; ``Class::method``
    is read the same). Functions are coverage.py's own regions, which its JSON report has since 7.6.
    """
    files = dict(coverage.files)
    told = []
    for gap in gaps:
        path, _, function = gap.partition("::")
        body = coverage.files.get(path)
        everything = body.executed | body.missing if body is not None else frozenset()
        lines = everything if body is None or not function else body.functions.get(function.replace("::", "."))
        if body is None or lines is None:
            told.append(KnownGap(name=gap, lines=0, covered=0, found=False))
            continue
        told.append(KnownGap(name=gap, lines=len(lines), covered=len(lines & body.executed)))
        left = files[path]
        files[path] = replace(left, executed=left.executed - lines, missing=left.missing - lines)
    return Coverage(files=files), tuple(told)


def _union(one: FileCoverage, other: FileCoverage) -> FileCoverage:
    executed = one.executed | other.executed
    branches = one.executed_branches | other.executed_branches
    return FileCoverage(
        executed=executed,
        missing=(one.missing | other.missing) - executed,
        excluded=one.excluded | other.excluded,
        functions={**other.functions, **one.functions},
        executed_branches=branches,
        missing_branches=(one.missing_branches | other.missing_branches) - branches,
    )


def _path(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _file(name: str, body: Any) -> FileCoverage:
    if not isinstance(body, dict):
        raise BrokenReportError(f"its entry for {name!r} is not an object")
    return FileCoverage(
        executed=_lines(name, body, "executed_lines", required=True),
        missing=_lines(name, body, "missing_lines", required=True),
        excluded=_lines(name, body, "excluded_lines"),
        functions=_functions(name, body),
        executed_branches=_arcs(name, body, "executed_branches"),
        missing_branches=_arcs(name, body, "missing_branches"),
    )


def _lines(name: str, body: dict[str, Any], key: str, *, required: bool = False) -> frozenset[int]:
    value = body.get(key, None if required else [])
    # There may be a million: type and min look at them at the speed of C.
    if not isinstance(value, list) or not _INTEGERS.issuperset(map(type, value)) or min(value, default=0) < 0:
        raise BrokenReportError(f"{key} of {name!r} is not a list of line numbers")
    return frozenset(value)


def _functions(name: str, body: dict[str, Any]) -> dict[str, frozenset[int]]:
    regions = body.get("functions", {})
    if not isinstance(regions, dict) or not all(isinstance(region, dict) for region in regions.values()):
        raise BrokenReportError(f"functions of {name!r} is not an object of objects")
    return {
        function: _lines(name, region, "executed_lines") | _lines(name, region, "missing_lines")
        for function, region in regions.items()
        if function
    }


def _arcs(name: str, body: dict[str, Any], key: str) -> frozenset[Arc]:
    try:
        return frozenset((int(start), int(end)) for start, end in body.get(key, ()))
    except (TypeError, ValueError):
        raise BrokenReportError(f"{key} of {name!r} is not a list of branches") from None
