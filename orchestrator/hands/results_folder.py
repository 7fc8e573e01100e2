"""The folder that ``--out`` names: ours alone while a run writes to it, and without anything of an earlier one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.words.errors import UsageError

RUN_FILES = ("plan.json", "verdict.json", "comment.md", "report.html")
TIER_FILES = (
    "junit.xml",
    "junit.pytest.xml",  # what pytest had written of a run that was stopped
    "events.jsonl",
    "coverage.json",
    "benchmark.json",
    "result.json",
    "output.log",
    "stacks",
    "contexts.json",
    "timings.json",
    "warm.json",
)


@contextlib.contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Make the output folder, and keep other runs out of it: their files would be taken for ours.

    Raises UsageError where there is one already, or where it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not out.exists():
                out.mkdir(parents=True)
                (out / ".gitignore").write_text("*\n")
            lock = stack.enter_context((out / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--out: another `mltiers run` is writing to {out}", remedy="wait for it, or give another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                raise _unwritable(out, error) from None
        yield


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(f"--out: {out} cannot be written: {error.strerror or error}", remedy="give a folder that can be")


def prepare_out(out: Path, tiers: Sequence[str], *, everything: bool) -> None:
    """The output folder with a folder for each of these tiers, and nothing of an earlier run: yesterday's report must
    not be today's evidence. ``everything``: nor that of tiers that do not run today; otherwise those are left alone.

    Raises UsageError where it cannot be written.
    """
    try:
        for name in RUN_FILES:
            _remove(out / name)
        for name in tiers:
            (out / name).mkdir(parents=True, exist_ok=True)
        for folder in out.iterdir():
            if folder.name in tiers or (everything and (folder / "result.json").is_file()):
                clear_tier(folder)
    except OSError as error:
        raise _unwritable(out, error) from None


def clear_tier(folder: Path) -> None:
    """Remove what an earlier run of the tier left in its folder."""
    for name in TIER_FILES:
        _remove(folder / name)
    for data in folder.glob(".coverage*"):
        _remove(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
