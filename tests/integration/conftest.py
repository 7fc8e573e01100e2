"""Front-door tests run the real command on a small real project."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Makes a project from files: path → text. Its folder has a space in its name."""

    def make(files: Mapping[str, str], *, folder: str = "a project") -> Project:
        return Project(tmp_path / folder, files)

    return make
