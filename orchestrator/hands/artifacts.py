"""What a run uploaded, unpacked into a folder: it comes from a machine that ran somebody's code, and is not believed.

An archive that would write outside its folder, or more than it may, is refused as a whole.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from pathlib import Path

from orchestrator.words.errors import InfrastructureError

MOST_FILES = 20_000
MOST_BYTES = 1 << 30  # unpacked
MOST_PACKED = 512 * 1024 * 1024  # bytes of a zip that is worth fetching
_CHUNK = 1 << 16


class RefusedArtifactError(InfrastructureError):
    """The archive is damaged, or is not what it seems."""


def unpack(content: bytes, folder: Path, *, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> None:
    """Write the files of a zip below ``folder``, which must not exist. Raises RefusedArtifactError, and OSError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > most_files:
                raise RefusedArtifactError(f"it has {len(members)} files, more than {most_files}")
            places = [(member, _place(member)) for member in members]
            folder.mkdir(parents=True)
            left = most_bytes
            for member, parts in places:
                target = folder.joinpath(*parts)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    left -= _write(archive, member, target, most=left)
    except (FileExistsError, NotADirectoryError):
        raise RefusedArtifactError("it has the same name twice") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # RuntimeError: it is encrypted.
        raise RefusedArtifactError(f"it cannot be unpacked: {error}") from None


def _place(member: zipfile.ZipInfo) -> list[str]:
    """The parts of a member's path. Raises RefusedArtifactError for anything but a plain file or folder inside."""
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise RefusedArtifactError(f"{member.filename!r} is a link or a special file")
    parts = member.filename.rstrip("/").split("/")
    strange = any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255 for part in parts)
    # `orig_filename` still has what zipfile cuts off at a NUL.
    if strange or "\\" in member.orig_filename or "\0" in member.orig_filename:
        raise RefusedArtifactError(f"{member.filename!r} is no name of a file inside it")
    return parts


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, most: int) -> int:
    """Write one file and count its bytes as they come: what the archive says of its size is its own word."""
    written = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with archive.open(member) as source, os.fdopen(os.open(target, flags, 0o644), "wb") as file:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise RefusedArtifactError("it unpacks to more than it may")
            file.write(chunk)
    return written
