"""The hands of `mltiers init`: walks a repository for facts. Reads only, a bounded number of files of bounded size."""

from __future__ import annotations

import configparser
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

from orchestrator.hands.initialise.facts import PytestSettings, PythonFile, RepositoryFacts, read_python

MAX_FILES = 5_000
MAX_BYTES = 1_000_000

_SKIPPED_FOLDERS = frozenset({
    "node_modules", "__pycache__", "build", "dist", "venv", "env", "site-packages", "wandb", "mlruns", "outputs",
})  # fmt: skip


def scan(root: Path) -> RepositoryFacts:
    """The facts of the repository (or of the part of it) below ``root``."""
    notes: list[str] = []
    settings = pytest_settings(root, notes)
    files: list[PythonFile] = []
    for path in _python_files(root, notes):
        name = path.relative_to(root).as_posix()
        source = _source(path)
        file = PythonFile(path=name, problem="cannot be read") if source is None else read_python(name, source)
        files.append(file)
        if file.problem:
            notes.append(f"{_shown(name)}: not looked at ({file.problem})")
    top = _top(root)
    return RepositoryFacts(
        files=tuple(files),
        test_paths=frozenset(file.path for file in files if _is_test(file.path, settings)),
        settings=settings,
        install=tuple(_installs(root)),
        workflows=tuple(_workflows(top)),
        default_branch=_default_branch(top),
        prefix="" if top == root else root.relative_to(top).as_posix(),
        notes=tuple(notes),
    )


def repository_top(root: Path) -> Path:
    """Where GitHub looks for workflows: the nearest folder above (or this one) that holds `.git`."""
    return _top(root)


def _top(root: Path) -> Path:
    return next((folder for folder in (root, *root.parents) if _is_there(folder / ".git")), root)


def _python_files(root: Path, notes: list[str]) -> Iterator[Path]:
    count = 0
    for folder, folders, names in os.walk(root):  # does not follow links, so it ends
        folders[:] = sorted(name for name in folders if not _skipped(Path(folder) / name))
        for name in sorted(names):
            if name.endswith(".py") and (Path(folder) / name).is_file():
                count += 1
                if count > MAX_FILES:
                    notes.append(f"only the first {MAX_FILES} Python files were looked at")
                    return
                yield Path(folder) / name


def _skipped(folder: Path) -> bool:
    name = folder.name
    return (
        name.startswith(".")
        or name in _SKIPPED_FOLDERS
        or name.endswith(".egg-info")
        or _is_there(folder / "pyvenv.cfg")
        or _is_there(folder / ".git")  # another repository: a submodule
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder we may not enter
        return False


def _source(path: Path) -> str | None:
    """The text in the encoding it declares, or None."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
        return data.decode(encoding)
    except (OSError, SyntaxError, UnicodeDecodeError, LookupError):
        return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _is_test(path: str, settings: PytestSettings) -> bool:
    inside = not settings.testpaths or any(
        path == folder or path.startswith(f"{folder}/") for folder in settings.testpaths
    )
    return inside and any(fnmatch(path.rpartition("/")[2], pattern) for pattern in settings.python_files)


# --- pytest's configuration ----------------------------------------------------------------------------------------


def pytest_settings(root: Path, notes: list[str]) -> PytestSettings:
    """The first file that pytest itself would take, in its order."""
    for name, section in (
        ("pytest.toml", ("pytest",)),
        (".pytest.toml", ("pytest",)),
        ("pytest.ini", ("pytest",)),
        (".pytest.ini", ("pytest",)),
        ("pyproject.toml", ("tool", "pytest")),
        ("tox.ini", ("pytest",)),
        ("setup.cfg", ("tool:pytest",)),
    ):
        if not (root / name).is_file():
            continue
        table = (
            _toml_table(root / name, section, notes) if name.endswith(".toml") else _ini_table(root / name, section[0])
        )
        if table is not None:
            return _settings(name, table, root)
    return PytestSettings()


def _settings(file: str, table: dict[str, Any], root: Path) -> PytestSettings:
    testpaths = [path.strip("/").removeprefix("./") for path in _words(table.get("testpaths"))]
    markers = (re.match(r"\w+", line.strip()) for line in _lines(table.get("markers")))
    return PytestSettings(
        file=file,
        testpaths=tuple(path for path in testpaths if path not in ("", ".") and (root / path).exists()),
        python_files=tuple(_words(table.get("python_files"))) or PytestSettings().python_files,
        markers=tuple(dict.fromkeys(found[0] for found in markers if found)),
    )


def _words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else str(value or "").split()


def _lines(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else str(value or "").splitlines()


def _ini_table(path: Path, section: str) -> dict[str, Any] | None:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(_text(path))
    except configparser.Error:
        return None
    if parser.has_section(section):
        return dict(parser.items(section))
    return {} if path.name in ("pytest.ini", ".pytest.ini") else None


def _toml_table(path: Path, section: tuple[str, ...], notes: list[str]) -> dict[str, Any] | None:
    table: Any = _toml(path, notes)
    for key in section:
        table = table.get(key) if isinstance(table, dict) else None
    if isinstance(table, dict) and section[0] == "tool":
        table = table.get("ini_options", table or None)
    return table if isinstance(table, dict) else None


def _toml(path: Path, notes: list[str]) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415

        try:
            return tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            notes.append(f"{path.name}: not looked at ({error})")
            return {}
    else:  # what it would tell is worth a note, not a dependency
        notes.append(f"{path.name}: not looked at (this Python is older than 3.11)")
        return {}


# --- the rest of the repository ------------------------------------------------------------------------------------


def _installs(root: Path) -> Iterator[str]:
    """What pip is told: the requirement files for tests, and the project itself where it can be built."""
    names = ("requirements.txt", "requirements-dev.txt", "requirements-test.txt", "requirements/dev.txt")
    yield from (f"-r {name}" for name in names if (root / name).is_file())
    if (root / "setup.py").is_file() or re.search(r"^\[build-system\]", _text(root / "pyproject.toml"), re.M):
        yield "-e ."


def _workflows(top: Path) -> Iterator[str]:
    folder = top / ".github" / "workflows"
    for path in sorted(folder.glob("*.y*ml")) if folder.is_dir() else ():
        if re.search(r"\b(pytest|tox|nox)\b", _text(path)):
            yield path.relative_to(top).as_posix()


def _default_branch(top: Path) -> str:
    """What the remote says is its default branch, or the only one of main and master there is."""
    git = top / ".git"
    remote = re.match(
        r"ref: refs/remotes/origin/([\w./-]+)$", _text(git / "refs" / "remotes" / "origin" / "HEAD").strip()
    )
    if remote:
        return remote[1]
    packed = _text(git / "packed-refs")

    def has(branch: str) -> bool:
        loose = (git / "refs" / "heads" / branch).is_file()
        return loose or re.search(rf" refs/(heads|remotes/origin)/{branch}$", packed, re.M) is not None

    return "master" if has("master") and not has("main") else "main"


def _shown(path: str) -> str:
    return path.encode("utf-8", errors="replace").decode("utf-8")
