"""Chooses files as actions/upload-artifact does, and refuses what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

FORBIDDEN = re.compile(r'["<>|*?:\r\n\\/]')  # in an artifact's name


def chosen(lines: list[str], *, hidden: bool) -> list[Path]:
    """The files below the folders of ``lines``, less those below a line with ``!``; dotted paths only on request."""
    wanted: dict[Path, None] = {}
    for line in lines:
        folder = Path(line.removeprefix("!"))
        below = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        for path in below:
            if line.startswith("!"):
                wanted.pop(path, None)
            elif hidden or not any(part.startswith(".") for part in path.parts):
                wanted[path] = None
    return list(wanted)


def main(environ: Mapping[str, str]) -> str | None:
    """What is wrong, or None."""
    name = environ["NAME"]
    if not name or FORBIDDEN.search(name):
        return f"the artifact name is not valid: {name!r}"
    lines = [line.strip() for line in environ["PATHS"].splitlines() if line.strip()]
    files = chosen(lines, hidden=environ["HIDDEN"] == "true")
    if not files:
        return "no files were found" if environ["MISSING"] == "error" else None
    target = Path(environ["STAND_IN_ARTIFACTS"]) / name
    if target.exists():
        if environ["OVERWRITE"] != "true":
            return f"an artifact with the name {name} already exists"
        shutil.rmtree(target)
    common = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        place = target / path.relative_to(common)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return None


if __name__ == "__main__":
    sys.exit(main(os.environ))
