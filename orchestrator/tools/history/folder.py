"""The history as a folder of files: what a laptop has."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from orchestrator.mind.records.names import VERSION
from orchestrator.tools.history import (
    LAYOUT_FILE,
    Change,
    HistoryError,
    HistoryForbidden,
    Snapshot,
    check_layout,
    checked,
    is_name,
)

_TEMPORARY = ".new-"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # a file system without locks
_RECORDS = ("runs/", "forks/")
_PAUSE = 0.02  # seconds between two tries for the lock


class FolderStore:
    """A store in the folder ``root``, which the first write makes.

    Writers take turns (flock), waiting ``patience`` seconds at most. A file is written beside its place and moved,
    what a record refers to before the record, and deletions come last: whenever a writer is killed, what is there can
    be read.
    """

    def __init__(self, root: Path, *, patience: float = 10.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self.root = root
        self._patience = patience
        self._sleep = sleep

    def snapshot(self, version: str | None = None) -> Snapshot:
        try:
            found = self._snapshot()
            if version not in (None, found.version):
                raise HistoryError(f"{self.root}: has changed since version {str(version)[:10]}")
            return found
        except OSError as error:
            self._unreadable(error)

    def update(self, change: Change, *, message: str, forget: bool = False) -> Snapshot:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock():
                snapshot = self.snapshot()
                files = checked(change(snapshot))
                if not files:
                    return snapshot
                self._apply(files if VERSION in snapshot.names else {VERSION: LAYOUT_FILE, **files})
                return self.snapshot()
        except OSError as error:
            self._unwritable(error)

    # --- reading

    def _snapshot(self) -> Snapshot:
        found = dict(self._walk())
        if VERSION in found:
            check_layout(self._path(VERSION).read_bytes(), where=str(self.root))
        state = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in sorted(found.items()))
        names = frozenset(found)

        def read(wanted: Iterable[str]) -> Mapping[str, bytes]:
            return self._read(name for name in wanted if name in names)

        return Snapshot(version=hashlib.sha256(state.encode()).hexdigest() if found else None, names=names, read=read)

    def _read(self, names: Iterable[str]) -> dict[str, bytes]:
        files = {}
        for name in names:
            try:
                files[name] = self._path(name).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                self._unreadable(error)
        return files

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files of the store, by name. Links are none: they may lead anywhere."""
        folders = [""]
        while folders:
            prefix = folders.pop()
            try:
                entries = list(os.scandir(self._path(prefix)))
            except FileNotFoundError:  # a writer removed it, or there never was anything
                continue
            for entry in entries:
                name = prefix + entry.name
                if not is_name(name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        yield name, entry.stat(follow_symlinks=False)

    def _path(self, name: str) -> Path:
        return self.root / name

    # --- writing

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.root / ".lock", flags, 0o666)
        try:
            until = time.monotonic() + self._patience
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise HistoryError(
                            f"{self.root}: another mltiers has been writing to it for {self._patience:g} s"
                        ) from None
                    self._sleep(_PAUSE)
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    break
            yield
        finally:
            os.close(descriptor)

    def _apply(self, files: Mapping[str, bytes | None]) -> None:
        """What is referred to before what refers to it; what goes, last."""
        self._sweep()
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            self._write(ignore, b"*\n")
        written = {name: data for name, data in files.items() if data is not None}
        for name in sorted(written, key=lambda name: name.startswith(_RECORDS)):
            path = self._place(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, written[name])
        for name in files.keys() - written.keys():
            path = self._place(name)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others live there
                path.parent.rmdir()

    def _place(self, name: str) -> Path:
        """Where a file goes. A link on the way may lead out of the folder: there nothing is written or deleted."""
        path = self._path(name)
        for folder in path.parents:
            if folder == self.root:
                break
            if folder.is_symlink():
                raise HistoryError(f"{folder} is a link: the history writes nothing through it", remedy="remove it")
        return path

    def _write(self, path: Path, data: bytes) -> None:
        beside = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise

    def _sweep(self) -> None:
        """Remove what killed writers left. We hold the lock: none of it is anybody's."""
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if is_name(name)]
            for name in files:
                if name.startswith(_TEMPORARY):
                    Path(folder, name).unlink(missing_ok=True)

    def _unreadable(self, error: OSError) -> NoReturn:
        raise HistoryError(
            f"the history in {self.root} cannot be read: {_words(error)}",
            remedy="mend its permissions, delete it, or name another folder under `history.dir`",
        ) from None

    def _unwritable(self, error: OSError) -> NoReturn:
        kind = HistoryForbidden if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else HistoryError
        raise kind(
            f"the history in {self.root} cannot be written: {_words(error)}",
            remedy="name a folder that can be under `history.dir`",
        ) from None


def _words(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
