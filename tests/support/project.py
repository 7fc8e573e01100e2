"""A small real project, and the real command run on it as its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]

# What a job or a developer's shell may have set, and a test must not inherit.
_FOREIGN = ("GITHUB_", "ACTIONS_", "RUNNER_", "MLTIERS_", "GIT_", "PYTEST_", "COV_", "CI", "PYTHONPATH")


@dataclass(frozen=True)
class Done:
    """A finished `mltiers`."""

    code: int
    out: str
    err: str
    folder: Path

    def document(self, name: str) -> Any:
        return json.loads((self.folder / ".mltiers" / name).read_text())

    @property
    def verdict(self) -> Any:
        return self.document("verdict.json")


class Project:
    """A project under test, with git where asked for."""

    def __init__(self, root: Path, files: Mapping[str, str]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.write(files)

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str = "change") -> str:
        if not (self.root / ".git").exists():
            self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}

    def command(self, *arguments: str) -> list[str]:
        start = (
            f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from orchestrator.cli import main; sys.exit(main())"
        )
        return [sys.executable, "-I", "-c", start, *arguments]

    def mltiers(self, *arguments: str, timeout: float = 120, **extra: str) -> Done:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment(extra),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert "defect of mltiers" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr, self.root)
