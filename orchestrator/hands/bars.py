"""The tiers that run, as bars at the foot of a terminal, with what is said meanwhile above them (rich)."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

_EACH_SECOND = 4  # times it is drawn


class Bars:
    """One bar per running tier. The terminal is as it was when no tier is left."""

    def __init__(self, stream: TextIO) -> None:
        # Everything is said as it is: a test's name is neither markup nor worth a colour.
        self.console = Console(file=stream, force_terminal=True, markup=False, highlight=False, emoji=False)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, *, done: int, total: int | None, said: str) -> None:
        """A tier has come so far. ``total`` None: not known yet. ``said``: what stands beside the bar."""
        progress = self._progress
        if progress is None:
            progress = self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[said]}", markup=False, table_column=Column(no_wrap=True)),
                console=self.console,
                transient=True,
                refresh_per_second=_EACH_SECOND,
            )
            progress.start()
        if name not in self._tasks:
            self._tasks[name] = progress.add_task(name, total=total, said=said)
        progress.update(self._tasks[name], completed=done, total=total, said=said)

    def remove(self, name: str) -> None:
        """A tier has ended."""
        task = self._tasks.pop(name, None)
        if self._progress is None or task is None:
            return
        self._progress.remove_task(task)
        if not self._tasks:
            self.close()

    def close(self) -> None:
        """Take every bar away."""
        self._tasks.clear()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, soft_wrap=True)
