"""Places for a history: repositories to be pushed to, and stores on them."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from orchestrator.tools.history.branch import BranchStore

BRANCH = "mltiers-data"


def git(folder: Path, *arguments: str) -> str:
    """Standard output of git in a folder."""
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def bare_repository(path: Path, *, filters: bool = True) -> Path:
    """A bare repository; with ``filters`` it can be cloned in parts, as one on GitHub."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(path)], check=True, timeout=60)
    for name in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git(path, "config", name, "true" if filters else "false")
    git(path, "config", "gc.auto", "0")
    return path


def branch_store(
    url: str | Path,
    *,
    token: str | None = None,
    variables: Mapping[str, str] | None = None,
    deadline: Callable[[], float] = lambda: math.inf,
    seed: int = 0,
) -> BranchStore:
    """A store in the branch of the repository at ``url``."""
    return BranchStore(
        url=str(url),
        branch=BRANCH,
        token=token,
        variables=dict(os.environ) if variables is None else variables,
        deadline=deadline,
        random=Random(seed),
    )
