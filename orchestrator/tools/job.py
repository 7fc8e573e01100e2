"""The files through which a step talks to GitHub's runner: outputs and the summary."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO


def append(path: str | None, text: str, *, talk: TextIO) -> None:
    """Add to such a file; nothing where the job has none. What cannot be written is said, and ends nothing."""
    if path is None:
        return
    try:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        print(f"{path}: cannot be written: {error.strerror or error}", file=talk)
