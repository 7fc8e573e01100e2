"""What a side of a comparison imports: never the other side's source."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from pytest_mltiers.lockstep import redirect


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    head, base = tmp_path / "head", tmp_path / "base"
    for folder in (head / "src/pkg", base / "src/pkg", head / ".venv/site-packages"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    return str(head), str(base)


def test_entries_of_the_path_move_where_they_have_a_counterpart(trees: tuple[str, str]) -> None:
    head, base = trees
    sys.path[:0] = [f"{head}/src", head, f"{head}/.venv/site-packages", "", "/usr/lib/elsewhere", f"{base}/src"]
    redirect(head, base)
    assert sys.path[:6] == [f"{base}/src", base, f"{head}/.venv/site-packages", "", "/usr/lib/elsewhere", f"{base}/src"]


def test_the_tables_of_editable_finders_move(trees: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    head, base = trees
    setuptools_finder = ModuleType("__editable___pkg_finder")
    setuptools_finder.MAPPING = {"pkg": f"{head}/src/pkg", "far": "/usr/lib/far"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, setuptools_finder.__name__, setuptools_finder)
    of_setuptools = type("_EditableFinder", (), {"__module__": setuptools_finder.__name__})
    of_editables = type("RedirectingFinder", (), {"_redirections": {"pkg": f"{head}/src/pkg"}})
    sys.meta_path += [of_setuptools, of_editables]
    redirect(head, base)
    moved = setuptools_finder.MAPPING  # type: ignore[attr-defined]
    assert moved == {"pkg": f"{base}/src/pkg", "far": "/usr/lib/far"}
    assert of_editables._redirections == {"pkg": f"{base}/src/pkg"}  # type: ignore[attr-defined]
