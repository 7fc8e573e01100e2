"""What is wrong with a file, said so that the file cannot flood a comment with it."""

from __future__ import annotations


class Flaws:
    """Sentences by kind: the first of each, and how often there was another of its kind."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int]] = {}

    def add(self, kind: str, sentence: str) -> None:
        """Notes one flaw. Its kind decides what it is counted together with."""
        first, times = self._seen.get(kind, (sentence, 0))
        self._seen[kind] = (first, times + 1)

    def sentences(self) -> tuple[str, ...]:
        """One sentence for each kind, in the order they were met."""
        return tuple(first if n == 1 else f"{first} (the first of {n} such places)" for first, n in self._seen.values())


def shown(text: str, limit: int = 160) -> str:
    """A text from a file inside one of our sentences: one line, and not too much of it."""
    line = " ".join(text[: 2 * limit].split())
    return line if len(line) <= limit else line[:limit] + "…"


def first_line(text: str, limit: int) -> str | None:
    """The first line of ``text`` that says something, at most ``limit`` characters of it."""
    for line in text[: 2 * limit].splitlines():
        if line.strip():
            return line.strip()[:limit]
    return None
