"""One line of the event stream as a typed value."""

from __future__ import annotations

import json

import msgspec


class Line(msgspec.Struct):
    """Every field that any event has. Unknown ones are ignored."""

    event: str
    time: float = 0.0
    worker: str = "main"
    nodeid: str | None = None
    phase: str = ""
    outcome: str = ""
    seconds: float = 0.0
    xfail: str | None = None
    message: str | None = None
    text: str | None = None
    file: str | None = None
    line: int | None = None
    rerun: bool = False
    version: int = 0
    pid: int = 0
    python: str = ""
    pytest: str = ""
    plugin: str = ""
    rootdir: str = ""
    xdist: int = 0
    randomly_seed: int | None = None
    count: int = 0
    deselected: int = 0
    exitstatus: int = 0
    shard: int = 0
    shards: int = 0
    digest: str = ""
    selected: int = 0
    devices: list[str] = []
    nodeids: list[str] = []
    order: str = ""
    core: str = ""
    peak_bytes: int = 0
    visible: str | None = None
    driver: str | None = None
    cuda: str | None = None
    torch: str | None = None


_decoder = msgspec.json.Decoder(Line)


def parse_line(line: bytes) -> Line:
    """The event in ``line``. Raises ValueError or RecursionError for anything that is none."""
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        if b"\\ud" not in line and b"\\uD" not in line:
            raise
    return msgspec.convert(json.loads(line), Line)  # lone surrogates, of a file name that is not UTF-8
