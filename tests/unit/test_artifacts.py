"""What a run uploaded is unpacked inside its folder, or refused as a whole."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.hands.artifacts import RefusedArtifactError, unpack


def packed(*members: tuple[str | zipfile.ZipInfo, str | bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_and_folders(tmp_path: Path) -> None:
    content = packed(("plan.json", "{}"), ("gpu/", ""), ("gpu/junit.xml", "<x/>"), ("gpu/.coverage", b"\0" * 1000))
    unpack(content, tmp_path / "out")
    assert inside(tmp_path / "out") == {"plan.json", "gpu/junit.xml", "gpu/.coverage"}
    assert (tmp_path / "out" / "gpu" / ".coverage").read_bytes() == b"\0" * 1000


@pytest.mark.parametrize(
    "members",
    [
        [("../x", "1")],
        [("a/../../x", "1")],
        [("/etc/x", "1")],
        [("a//x", "1")],
        [("./x", "1")],
        [("..", "1")],
        [("a\\..\\x", "1")],
        [("x" * 300, "1")],
        [(special("link", stat.S_IFLNK), "/etc/passwd")],
        [(special("pipe", stat.S_IFIFO), "")],
        [(special("device", stat.S_IFCHR), "")],
        [("x", "1"), ("x", "2")],
        [("x", "1"), ("x/y", "2")],
        [(special("d", stat.S_IFLNK), "/tmp"), ("d/x", "1")],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_would_lead_elsewhere_is_refused(tmp_path: Path, members: list[tuple[str, str]]) -> None:
    with pytest.raises(RefusedArtifactError):
        unpack(packed(*members), tmp_path / "a" / "b" / "out")
    assert inside(tmp_path) <= {"a/b/out/x"}


def test_a_bomb_is_stopped_while_it_unpacks(tmp_path: Path) -> None:
    content = packed(("bomb", b"\0" * 50_000_000))
    assert len(content) < 100_000
    with pytest.raises(RefusedArtifactError, match="more than it may"):
        unpack(content, tmp_path / "out", most_bytes=1_000_000)
    assert (tmp_path / "out" / "bomb").stat().st_size <= 1_000_000


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    content = bytearray(packed(("bomb", b"\0" * 10_000_000)))
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", content, content.index(signature) + offset, 10)
    with pytest.raises(RefusedArtifactError):
        unpack(bytes(content), tmp_path / "out", most_bytes=1_000_000)


def test_many_small_files(tmp_path: Path) -> None:
    with pytest.raises(RefusedArtifactError, match="30 files, more than 20"):
        unpack(packed(*((f"f{n}", "") for n in range(30))), tmp_path / "out", most_files=20)


def test_what_is_no_zip(tmp_path: Path) -> None:
    for content in (b"", b"PK", b"<html>", packed(("a", "b"))[:-10]):
        with pytest.raises(RefusedArtifactError):
            unpack(content, tmp_path / "out")


@settings(max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_one_is_refused_or_unpacked_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, extra: bytes, place: int, value: int
) -> None:
    content = bytearray(packed(("gpu/junit.xml", "<testsuite/>" * 20), ("plan.json", "{}")) + extra)
    content[place % len(content)] = value
    folder = tmp_path_factory.mktemp("zip") / "out"
    try:
        unpack(bytes(content), folder)
    except RefusedArtifactError:
        return
    assert all(path.is_relative_to(folder) for path in folder.rglob("*"))
