"""Pytests that take turns: one block of a comparison between base and head. Standard library only.

Both sides are started at once and stay alive; a benchmark then runs on one side, at once on the other, and in the next
visit the other way round. What disturbs a machine for longer than a few tenths of a second disturbs both alike, and
costs no power. (The study in ``benchmarks/`` lets more than two sides take turns; nothing here counts them.) Run as a
process of its own under the supervisor: `orchestrator.hands.pairs` writes its order and reads its result.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

VARIABLE = "MLTIERS_LOCKSTEP"


class GoneError(Exception):
    """A side ended, or said something that is no message."""


@dataclass
class Side:
    """One pytest, seen from the driver."""

    name: str
    process: subprocess.Popen[bytes]
    reading: IO[str]
    writing: IO[str]

    def send(self, message: object) -> None:
        """Raises GoneError."""
        try:
            self.writing.write(json.dumps(message) + "\n")
            self.writing.flush()
        except OSError as error:
            raise GoneError(self.name) from error

    def receive(self) -> dict[str, Any]:
        """Raises GoneError."""
        line = self.reading.readline()
        try:
            message = json.loads(line) if line else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise GoneError(self.name)
        return message


def start(name: str, order: dict[str, Any], common: dict[str, Any]) -> Side:
    """Start one side and hand it its task."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    env = {**os.environ, **order["env"], VARIABLE: f"{to_read},{from_write}"}
    with Path(order["log"]).open("wb") as log:
        process = subprocess.Popen(
            order["command"],
            cwd=order["cwd"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(to_read, from_write),
        )
    os.close(to_read)
    os.close(from_write)
    side = Side(
        name=name,
        process=process,
        reading=os.fdopen(from_read, encoding="utf-8"),
        writing=os.fdopen(to_write, "w", encoding="utf-8"),
    )
    side.send({**common, "move": order["move"]})
    return side


def schedule(
    tests: Sequence[str], sides: Sequence[str], visits: int, rng: random.Random
) -> Iterator[tuple[str, str | None, list[str]]]:
    """Test, the test after it, and the order of the sides. The order is drawn anew for every two visits of a test, and
    the second of them has it the other way round. All visits of a file come together: what its tests share is then
    made once.
    """
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    turns = [(test, visit) for group in files.values() for visit in range(visits) for test in group]
    drawn: dict[str, list[str]] = {}
    for position, (test, visit) in enumerate(turns):
        following = turns[position + 1][0] if position + 1 < len(turns) else None
        drawn[test] = rng.sample(sides, len(sides)) if visit % 2 == 0 else drawn[test][::-1]
        yield test, following, drawn[test]


def run_block(order: dict[str, Any]) -> dict[str, Any]:
    """One block: what the sides measured, visit by visit. A side that ended before it was told to is in ``gone``."""
    rng = random.Random(order["seed"])  # noqa: S311 -- it orders runs, it keeps no secret
    began = time.monotonic()
    names = list(order["sides"])
    sides: dict[str, Side] = {}
    result: dict[str, Any] = {"seed": order["seed"], "sides": {}, "visits": []}
    try:
        for name in rng.sample(names, len(names)):
            sides[name] = start(name, order["sides"][name], order["task"])
        for name in names:
            result["sides"][name] = sides[name].receive()
        result["ready"] = time.monotonic() - began
        known = [set(result["sides"][name]["collected"]) for name in names]
        wanted = order["tests"] if order["tests"] is not None else result["sides"][names[-1]]["collected"]
        shared = [test for test in wanted if all(test in collected for collected in known)]
        for test, following, turn in schedule(shared, names, order["visits"], rng):
            visit: dict[str, Any] = {"test": test, "order": turn}
            for name in turn:
                sides[name].send({"run": test, "next": following})
                visit[name] = sides[name].receive()
            result["visits"].append(visit)
        for name in names:
            sides[name].send({"end": True})
            result["sides"][name]["modules"] |= sides[name].receive()["modules"]
        result["measuring"] = time.monotonic() - began - result["ready"]
    except GoneError as error:
        result["gone"] = str(error)
    for side in sides.values():
        with contextlib.suppress(OSError):
            side.writing.close()
        side.process.wait()
    result["codes"] = {name: side.process.returncode for name, side in sides.items()}
    result["seconds"] = time.monotonic() - began
    return result


def main() -> None:
    """The order file is the last argument; the result goes beside it, whole or not at all."""
    path = Path(sys.argv[-1])
    order = json.loads(path.read_text(encoding="utf-8"))
    result = run_block(order)
    target = Path(order["result"])
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(target)
