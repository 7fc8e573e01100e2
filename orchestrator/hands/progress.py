"""Says on standard error what is happening while tiers run: bars on a terminal, plain lines and groups in a log."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct, field

from orchestrator.hands.stream import Stream
from orchestrator.mind.readers.event_lines import Line
from orchestrator.mind.render.words import SYMBOLS, budget, counts, duration, plural, shorten, visible
from orchestrator.words.plan import TierPlan
from orchestrator.words.verdict import TierVerdict, Verdict

if TYPE_CHECKING:
    from orchestrator.hands.bars import Bars

_INTERVAL = 0.25  # seconds between looks at an events file
_LINE = 2000  # characters of one line that a tier printed
_LISTED = 20  # failures named while a tier runs
_LOG_INTERVAL = 15.0  # seconds between plain lines about a tier that goes on


class _Tally(Struct):
    budget: float
    began: float
    collected: int = 0
    done: int = 0
    failed: int = 0
    said: float = 0.0
    nodes: set[str] = field(default_factory=set)


class Progress:
    """Follows the events files of running tiers. ``grouped``: the log is GitHub's, which folds groups of lines.

    ``streams``: what has been read, by tier.
    """

    def __init__(self, stream: TextIO, *, terminal: bool = False, grouped: bool = False) -> None:
        self._stream = stream
        self._grouped = grouped
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}
        self.streams: dict[str, Stream] = {}
        self._bars = _bars(stream) if terminal else None

    def close(self) -> None:
        """Leave the terminal as it was, whatever became of the tiers."""
        with self._lock:
            self._tallies.clear()
            if self._bars is not None:
                self._bars.close()

    def started(self, tier: TierPlan) -> None:
        how = plural(tier.workers, "worker") if tier.workers > 1 else "serially"
        self._tallies[tier.name] = _Tally(budget=tier.budget, began=time.monotonic(), said=time.monotonic())
        self._line(f"▶ {tier.name}: {how}, budget {budget(tier.budget)}")
        for note in (*tier.notes, *tier.details):
            self._line(f"  {tier.name}: {note}")

    def ended(self, tier: TierVerdict) -> None:
        with self._lock:
            self._tallies.pop(tier.name, None)
            if self._bars is not None:
                self._bars.remove(tier.name)
        said = f"{SYMBOLS[tier.verdict]} {tier.name}: {tier.verdict}"
        if tier.result is not None:
            tests = counts(tier.result.counts, flaky=tier.result.flaky)
            said += f" · {tests} · {duration(tier.result.seconds)} of {budget(tier.plan.budget)}"
        self._line(said)
        if tier.verdict is not Verdict.PASSED:
            for reason in tier.reasons:
                self._line(f"  {reason}")
        if self._grouped and tier.result is not None and tier.result.output_tail.strip():
            self._group(f"{tier.name}: what it printed last", tier.result.output_tail)

    def comparing(self, name: str, where: str) -> None:
        """Say from time to time how far a tier's comparison is."""
        tally = self._tallies.get(name)
        now = time.monotonic()
        if tally is not None and now - tally.said >= _LOG_INTERVAL:
            tally.said = now
            self._line(f"  {name}: {where}, {duration(now - tally.began)} of {budget(tally.budget)}")

    @contextlib.contextmanager
    def following(self, name: str, events: Path) -> Iterator[None]:
        """Read a tier's events file, and tell of its tests, as it grows."""
        over = threading.Event()
        stream = Stream(events)
        thread = threading.Thread(target=self._follow, args=(name, stream, over), name=f"progress {name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=2)
            if not thread.is_alive():
                self.streams[name] = stream

    def _follow(self, name: str, stream: Stream, over: threading.Event) -> None:
        ended = False
        while not ended:
            ended = over.wait(_INTERVAL)  # and once more after that: what came last is told as well
            stream.read_on(lambda event: self._take(name, event))
            self._draw(name)

    def _take(self, name: str, event: Line) -> None:
        tally = self._tallies.get(name)
        if tally is None:
            return
        if event.event == "collected":
            tally.collected = max(tally.collected, event.count)
        elif event.event == "phase":
            if event.outcome == "failed":
                self._failed(name, tally, str(event.nodeid), event.message or "")
            if event.phase == "teardown":
                tally.done += 1
        elif event.event == "retry":
            self._try_again(name, tally, str(event.nodeid))

    def _failed(self, name: str, tally: _Tally, node: str, message: str) -> None:
        if node in tally.nodes:
            return
        tally.nodes.add(node)
        tally.failed += 1
        if tally.failed <= _LISTED:
            said = visible(message)[:160]
            self._line(f"  {name}: FAILED {shorten(visible(node), 300)}{' · ' + said if said else ''}")
        if tally.failed == _LISTED:
            self._line(f"  {name}: further failures are in the report")

    def _try_again(self, name: str, tally: _Tally, node: str) -> None:
        """A failure that may yet turn out to be none."""
        tally.done -= 1
        if node in tally.nodes:
            tally.nodes.remove(node)
            tally.failed -= 1
            if tally.failed < _LISTED:
                self._line(f"  {name}: it is tried again")

    def _draw(self, name: str) -> None:
        now = time.monotonic()
        with self._lock:
            tally = self._tallies.get(name)
            if tally is None:
                return
            if self._bars is not None:
                said = self._status(tally, now)
                self._bars.update(name, done=tally.done, total=tally.collected or None, said=said)
                return
        if now - tally.said >= _LOG_INTERVAL:
            tally.said = now
            self._line(f"  {name}: {self._status(tally, now)}")

    @staticmethod
    def _status(tally: _Tally, now: float) -> str:
        of = f" of {tally.collected}" if tally.collected else ""
        failed = f", {tally.failed} failed" if tally.failed else ""
        return f"{tally.done}{of} tests{failed}, {duration(now - tally.began)} of {budget(tally.budget)}"

    def _line(self, text: str) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.say(text)
            else:
                self._stream.write(f"{text}\n")
                self._stream.flush()

    def _group(self, title: str, text: str) -> None:
        """Lines that a reader of GitHub's log unfolds. What a test printed must not be taken for a workflow command."""
        token = secrets.token_hex(16)
        lines = [f"│ {shorten(visible(line), _LINE)}" for line in text.rstrip("\n").split("\n")]
        self._line(
            "\n".join([f"::group::{title}", f"::stop-commands::{token}", *lines, f"::{token}::", "::endgroup::"])
        )


def _bars(stream: TextIO) -> Bars | None:
    """None where rich is not installed, as in the action's own environment: there is no terminal either."""
    try:
        from orchestrator.hands.bars import Bars
    except ImportError:
        return None
    return Bars(stream)
