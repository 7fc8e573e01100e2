"""Runs one machine's part of a suite: every test is in exactly one part, and each part says how it was cut.

The split is computed here and not by whoever started the machines, because only pytest knows which tests there are. It
depends on nothing but the collected node ids, the number of parts and one snapshot of timings, so machines that agree
on those agree on it; the ``shard`` event carries a digest of them, and where the digests of the parts differ, whoever
merges them knows that tests may be missing.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Generator, Iterable, Mapping
from statistics import median
from typing import Any

import pytest

from pytest_mltiers import SHARD_VARIABLE, TIMINGS_VARIABLE


def start(config: pytest.Config, shard: str, timings: str) -> None:
    """Has this session run part ``shard`` ("2/8") of its tests, cut by the JSON file ``timings`` ("": there is none).

    The file is ``{"snapshot": NAME or null, "seconds": {node id: seconds}}``. Raises pytest.UsageError.
    """
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise pytest.UsageError(f"{SHARD_VARIABLE}={shard}: not a part such as 2/8")
    snapshot, seconds = _read(timings)
    config.pluginmanager.register(
        Shard(config, int(number), int(count), snapshot, seconds, timings), "pytest_mltiers.shards"
    )


def _read(path: str) -> tuple[str | None, dict[str, float]]:
    if not path:
        return None, {}
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 -- pathlib is slow to import
            document = json.load(file)
        snapshot = document["snapshot"]
        seconds = {str(test): float(value) for test, value in document["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise pytest.UsageError(f"{TIMINGS_VARIABLE}={path}: cannot be read: {error!r}") from None
    return (None if snapshot is None else str(snapshot)), seconds


class Shard:
    """The part of the tests that is this session's."""

    def __init__(
        self,
        config: pytest.Config,
        shard: int,
        shards: int,
        snapshot: str | None,
        seconds: Mapping[str, float],
        path: str,
    ) -> None:
        self.config = config
        self.shard = shard
        self.shards = shards
        self.snapshot = snapshot
        self.seconds = seconds
        self.path = path
        self.said = ""

    # Around all others: what -m, -k and other plugins leave out is gone by then, in every part alike.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        yield
        tests = [item.nodeid for item in items]
        mine = frozenset(split(tests, self.seconds, self.shards)[self.shard - 1])
        # In place and in the order they have; xdist compares the lists of its workers.
        items[:] = [item for item in items if item.nodeid in mine]
        self.said = f"mltiers: part {self.shard} of {self.shards}: {len(items)} of {len(tests)} tests"
        events: Any = self.config.pluginmanager.get_plugin("pytest_mltiers.events")
        if events is not None:
            events.write(
                "shard",
                shard=self.shard,
                shards=self.shards,
                digest=digest(tests, self.seconds, self.shards, self.snapshot),
                snapshot=self.snapshot,
                count=len(tests),
                selected=len(items),
            )

    def pytest_report_collectionfinish(self) -> list[str]:
        return [self.said] if self.said else []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[SHARD_VARIABLE] = f"{self.shard}/{self.shards}"
        node.workerinput[TIMINGS_VARIABLE] = self.path


def split(tests: Iterable[str], seconds: Mapping[str, float], shards: int) -> tuple[tuple[str, ...], ...]:
    """The tests of each shard, longest processing time first: every test in exactly one, in a fixed order.

    A test that ``seconds`` does not know counts as the median of those it does.
    """
    expected = expectations(tests, seconds)
    loads = [(0.0, shard) for shard in range(shards)]
    parts: list[list[str]] = [[] for _ in range(shards)]
    for test in sorted(expected, key=lambda test: (-expected[test], test)):
        load, shard = heapq.heappop(loads)
        parts[shard].append(test)
        heapq.heappush(loads, (load + expected[test], shard))
    return tuple(tuple(part) for part in parts)


def expectations(tests: Iterable[str], seconds: Mapping[str, float]) -> dict[str, float]:
    """How long each of the tests is expected to take; the median of the known ones where nothing is known, or 1."""
    tests = list(dict.fromkeys(tests))
    known = [seconds[test] for test in tests if test in seconds]
    unknown = (median(known) if known else 0.0) or 1.0
    return {test: max(seconds.get(test, unknown), 0.0) for test in tests}


def digest(tests: Iterable[str], seconds: Mapping[str, float], shards: int, snapshot: str | None) -> str:
    """Names everything that the split depends on: parts with the same one are together every test exactly once."""
    facts = [shards, snapshot, sorted(expectations(tests, seconds).items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
