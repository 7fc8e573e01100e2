"""Where the pytest plugin lies that goes into the tests' Pythons."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parents[1]  # our package


def plugin_folder() -> Path:
    """The folder that holds ``pytest_mltiers`` and nothing else that could be imported.

    Installed from a wheel it lies inside our package; in a checkout it is the plugin project's source folder.
    """
    carried = HERE / "_plugin"
    return carried if carried.is_dir() else HERE.parent / "plugin" / "src"
