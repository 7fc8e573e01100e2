"""The user's Python: the one that runs the tests. We look at it from outside and install nothing into it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.words.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.words.plan import PythonFacts

# Runs in the user's Python. `sys.path[0]` is the working directory under -c: dropped first, so that a project's own
# json.py is not ours. Only metadata is read; importing pytest or torch would cost seconds.
_PROBE = """
import sys; sys.path[:] = [p for p in sys.path if p]
import importlib.metadata as m, json
def v(n):
    try: return m.version(n)
    except Exception: return None
facts = {"executable": sys.executable, "version": "%d.%d.%d" % sys.version_info[:3]}
for key, name in (("pytest", "pytest"), ("xdist", "pytest-xdist"), ("cov", "pytest-cov"),
                  ("benchmark", "pytest-benchmark"), ("plugin", "pytest-mltiers"), ("torch", "torch")):
    facts[key] = v(name)
print("\\n" + ANSWER + json.dumps(facts))
"""
_ANSWER = "pytest-mltiers facts: "  # whatever else a sitecustomize prints
PATIENCE = 30.0  # seconds for it to answer
PROBE = f"ANSWER = {_ANSWER!r}{_PROBE}"
"""A program for the user's Python, of whose output ``facts_in`` makes sense."""


def find_python(name: str, *, variables: Mapping[str, str], root: Path) -> str:
    """The absolute path of the Python that ``name`` means: a command on PATH, or a path relative to ``root``.

    ``python`` falls back to ``python3``, as many systems have no ``python``. Raises UsageError.
    """
    if os.sep in name:
        path = Path(os.path.abspath(root / Path(name).expanduser()))  # noqa: PTH100 -- resolve() would leave the venv
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
        raise UsageError(f"python: {path} is not an executable file")
    names = (name, "python3") if name == "python" else (name,)
    for candidate in names:
        if found := shutil.which(candidate, path=variables.get("PATH")):
            return found
    raise UsageError(
        f"python: no {name!r} on PATH",
        remedy="activate the environment that has your project, or name its interpreter with `python:` or --python",
    )


class Question:
    """A Python that is asked what it has installed, and answers while we go on. A context manager: it ends with it."""

    def __init__(self, executable: str, *, variables: Mapping[str, str], timeout: float = PATIENCE) -> None:
        """``variables``: the environment the tests would get. Raises UsageError where it cannot be started."""
        self._executable = executable
        self._timeout = timeout
        try:
            self._process = subprocess.Popen(
                [executable, "-c", PROBE],
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise UsageError(f"python: {executable} could not be started: {error}") from None

    def __enter__(self) -> Question:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.__exit__(None, None, None)

    def answer(self) -> PythonFacts:
        """Wait for it, once. Raises UsageError."""
        try:
            output, errors = self._process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise UsageError(f"python: {self._executable} did not answer within {self._timeout:g} s") from None
        found = facts_in(output.decode(errors="replace"))
        if found is None:
            said = errors.decode(errors="replace").strip().splitlines()
            why = said[-1][:300] if said else f"exit code {self._process.returncode}, and no answer"
            raise UsageError(f"python: {self._executable} is not a Python >= 3.8: {why}")
        return found


def facts_in(output: str) -> PythonFacts | None:
    """What ``PROBE`` has found out, None where its answer is not in its output."""
    from orchestrator.words.plan import PythonFacts  # noqa: PLC0415 -- takes long, and whoever asks has it by then

    answer = next((line for line in reversed(output.splitlines()) if line.startswith(_ANSWER)), None)
    return PythonFacts(**json.loads(answer.removeprefix(_ANSWER))) if answer is not None else None
