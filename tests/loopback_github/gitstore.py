"""The git repository under a loopback repository: commits, refs and diffs as git itself tells them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_STATUS = {"A": "added", "D": "removed", "M": "modified", "R": "renamed", "C": "copied", "T": "changed"}


@dataclass(frozen=True, kw_only=True)
class CommitInfo:
    """One commit. Times are ISO 8601 with an offset."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    author: str
    author_email: str
    author_date: str
    committer: str
    committer_email: str
    committer_date: str
    message: str


@dataclass(frozen=True, kw_only=True)
class DiffFile:
    """One file of a diff, in GitHub's words for the status."""

    path: str
    status: str
    previous: str | None
    added: int
    removed: int
    blob: str


class GitStore:
    """Reads (and moves refs of) the git repository at ``path``, bare or not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resolve(self, ref: str) -> str | None:
        """The commit a branch, tag, full ref or SHA names; None where git knows none."""
        for name in (ref, f"refs/{ref}", f"refs/heads/{ref}", f"refs/tags/{ref}"):
            found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
            if found.strip():
                return found.strip()
        return None

    def ref(self, ref: str) -> str | None:
        """The object of exactly ``refs/...``; None: there is no such ref."""
        return self._git("rev-parse", "--verify", "--quiet", "--end-of-options", ref, check=False).strip() or None

    def set_ref(self, ref: str, sha: str) -> None:
        """Points ``refs/...`` at a commit."""
        self._git("update-ref", ref, sha)

    def commit(self, sha: str) -> CommitInfo:
        """The commit of a SHA."""
        fields = "%H%x00%T%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B"
        parts = self._git("show", "--no-patch", f"--format={fields}", sha).split("\0", 9)
        return CommitInfo(
            sha=parts[0],
            tree=parts[1],
            parents=tuple(parts[2].split()),
            author=parts[3],
            author_email=parts[4],
            author_date=parts[5],
            committer=parts[6],
            committer_email=parts[7],
            committer_date=parts[8],
            message=parts[9].rstrip("\n"),
        )

    def merge_base(self, base: str, head: str) -> str | None:
        """Where two histories part; None: they never met."""
        return self._git("merge-base", base, head, check=False).strip() or None

    def commits_between(self, base: str, head: str) -> list[str]:
        """The commits of ``base..head``, oldest first."""
        return self._git("rev-list", "--reverse", f"{base}..{head}").split()

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether ``newer`` can be fast-forwarded to from ``older``."""
        return self.merge_base(older, newer) == older

    def changes(self, base: str, head: str) -> list[DiffFile]:
        """The files of ``base...head``."""
        spread = f"{base}...{head}"
        numbers = {}
        tokens = iter(self._git("diff", "--numstat", "-z", "-M", spread).split("\0"))
        for token in tokens:
            if not token:
                continue
            added, removed, path = token.split("\t")
            if not path:  # a rename: old and new follow
                next(tokens)
                path = next(tokens)
            numbers[path] = (int(added) if added != "-" else 0, int(removed) if removed != "-" else 0)
        files = []
        tokens = iter(self._git("diff", "--raw", "-z", "-M", "--no-abbrev", spread).split("\0"))
        for token in tokens:
            if not token:
                continue
            *_, old_blob, new_blob, letter = token.split(" ")
            previous = next(tokens) if letter[0] in "RC" else None
            path = next(tokens)
            added_lines, removed_lines = numbers[path]
            files.append(
                DiffFile(
                    path=path,
                    status=_STATUS[letter[0]],
                    previous=previous,
                    added=added_lines,
                    removed=removed_lines,
                    blob=old_blob if letter == "D" else new_blob,
                )
            )
        return files

    def _git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], check=check, capture_output=True, text=True, timeout=60
        )
        return done.stdout
