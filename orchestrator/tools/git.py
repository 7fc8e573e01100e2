"""What we ask of git: the commit under test and what it changes. Needs nothing newer than git 2.20."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from orchestrator.words.errors import InfrastructureError
from orchestrator.words.event import ChangedFile

# A hook or another tool may point these at another repository; the folder we were given is the one we mean.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_EXTERNAL_DIFF")
_STATUS = {"A": "added", "M": "modified", "D": "deleted", "R": "renamed", "C": "copied", "T": "type-changed"}
_TRUNKS = (
    *("refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master"),
    *("refs/heads/main", "refs/heads/master"),
)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OLD_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? ")
_HUNK = re.compile(rb"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")


class GitError(InfrastructureError):
    """git said no; the message is its own."""


class Git(Struct, frozen=True, kw_only=True):
    """git in one working tree."""

    root: Path  # any folder of the working tree
    variables: Mapping[str, str]
    timeout: float = 60.0  # seconds, per command

    def run(self, *arguments: str, allow: tuple[int, ...] = (0,)) -> bytes:
        """Standard output of ``git ARGUMENTS``. Raises GitError on any exit code not in ``allow``."""
        env = {k: v for k, v in self.variables.items() if k not in _MISLEADING}
        env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
        # Inside a container the checkout often belongs to another user. We only read, from the folder we were given.
        command = ["git", "-c", "safe.directory=*", "-c", "core.quotePath=false", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout,
                check=False,
            )
        except FileNotFoundError:
            raise GitError("git is not installed", remedy="install git, or put it on PATH") from None
        except subprocess.TimeoutExpired:
            raise GitError(f"git {arguments[0]} did not answer within {self.timeout:g} s") from None
        except OSError as error:
            raise GitError(f"git could not be started: {error}") from None
        if done.returncode not in allow:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise GitError(f"git {arguments[0]} failed: {said[-1] if said else done.returncode}")
        return done.stdout

    def commit(self, revision: str) -> str | None:
        """The full id of a commit that is here, or None. Raises GitError for a git that does not work at all."""
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
        found = _commits(self.run(*asked, allow=(0, 1, 128)))  # 1: no such commit; 128: no repository
        return found[0] if found else None

    def parents(self, revision: str) -> tuple[str, ...]:
        """The parents that this clone has of a commit (a shallow clone may have none)."""
        try:
            listed = self.run("rev-list", "--parents", "--max-count=1", revision)
        except GitError:
            return ()
        return tuple(_commits(listed)[1:])

    def default_branch(self) -> str | None:
        """The branch that work here is measured against: origin's default, or a local main or master."""
        listed = self.run("for-each-ref", "--format=%(refname)", *_TRUNKS, allow=(0, 128))
        found = set(os.fsdecode(listed).splitlines())
        return next((name for name in _TRUNKS if name in found), None)

    def lone_branch(self) -> bool:
        """Whether there is one branch alone, with all of its past: whatever its name, work here is measured by it."""
        listed = self.run("for-each-ref", "--format=%(refname)", "refs/heads/", "refs/remotes/", allow=(0, 128))
        refs = (name.split("/") for name in os.fsdecode(listed).splitlines())
        names = {"/".join(parts[2:] if parts[1] == "heads" else parts[3:]) for parts in refs}
        return len(names) <= 1 and self.run("rev-parse", "--is-shallow-repository").strip() == b"false"

    def merge_base(self, one: str, other: str) -> str | None:
        """The best common ancestor that this clone has, or None."""
        try:
            found = _commits(self.run("merge-base", one, other))
        except GitError:
            return None
        return found[0] if found else None

    def head(self) -> tuple[str, str] | None:
        """The commit that is checked out, and the folder ``root`` relative to the top: "" or "some/folder/".

        None where there is no commit or no repository. Raises GitError for a git that does not work at all.
        """
        said = self.run("rev-parse", "--show-prefix", "--verify", "--quiet", "HEAD^{commit}", allow=(0, 1, 128))
        prefix, _, commit = said.rstrip(b"\n").rpartition(b"\n")
        found = _commits(commit)
        return (found[0], os.fsdecode(prefix)) if found else None

    def changed_files(self, base: str, head: str) -> tuple[ChangedFile, ...]:
        """What ``base...head`` changes, with renames and deletions; paths from the top of the working tree."""
        return _name_status(self.run(*_diff("--name-status", "-z"), f"{base}...{head}", "--"))

    def working_tree_changes(self, base: str) -> tuple[ChangedFile, ...]:
        """What the files on disk change against the commit ``base``, untracked files included."""
        tracked = _name_status(self.run(*_diff("--name-status", "-z"), base, "--"))
        others = self.run("ls-files", "--others", "--exclude-standard", "--full-name", "-z", ":/")
        untracked = tuple(ChangedFile(path=os.fsdecode(path), status="added") for path in others.split(b"\0") if path)
        return tracked + untracked

    def changed_lines(self, base: str, head: str | None) -> dict[str, frozenset[int]]:
        """Added or rewritten lines (1-based, as in the new file) per path of ``base...head``.

        ``head`` None: the working tree against ``base``. Paths from the top of the working tree.
        """
        revisions = [f"{base}...{head}"] if head else [base]
        return parse_changed_lines(self.run(*_diff("-U0", "--src-prefix=a/", "--dst-prefix=b/"), *revisions, "--"))

    def rewritten_lines(self, old: str, new: str | None) -> dict[str, frozenset[int]]:
        """Removed or rewritten lines as the commit ``old`` counts them, per path; of an insertion, its neighbours.

        ``new`` None: the working tree. Paths from the top of the working tree.
        """
        revisions = [old, new] if new else [old]
        return parse_old_lines(self.run(*_diff("-U0", "--src-prefix=a/", "--dst-prefix=b/"), *revisions, "--"))

    def lines_with(self, words: Sequence[str]) -> list[tuple[str, int, str]]:
        """Lines of Python files with one of the words: (path from the top, line number, text)."""
        if not words:
            return []
        asked = [part for word in words for part in ("-e", word)]
        found = self.run(
            "grep", "-n", "-I", "-w", "-F", "-z", "--full-name", "--untracked", *asked, "--", "*.py", allow=(0, 1)
        )
        lines = []
        for line in found.split(b"\n"):
            path, _, rest = line.partition(b"\0")
            number, _, text = rest.partition(b"\0")
            if number.isdigit():
                lines.append((os.fsdecode(path), int(number), text.decode(errors="replace")))
        return lines

    def show(self, revision: str, path: str) -> bytes | None:
        """A file as it was at a commit, or None where commit or file is not here. ``path``: from the top."""
        try:
            return self.run("show", f"{revision}:{path}")
        except GitError:
            return None


def _commits(listed: bytes) -> list[str]:
    """The commit ids in what git printed. Raises GitError where it printed anything else."""
    words = listed.decode(errors="replace").split()
    for word in words:
        if not _COMMIT.fullmatch(word):
            raise GitError(f"git printed {word[:40]!r} where a commit was asked for")
    return words


def _diff(*options: str) -> tuple[str, ...]:
    # No external diff, no textconv: their output is not the file's.
    return ("diff", "-M", "--no-ext-diff", "--no-textconv", "--no-color", *options)


def _name_status(listed: bytes) -> tuple[ChangedFile, ...]:
    fields = [os.fsdecode(part) for part in listed.split(b"\0")]
    files, position = [], 0
    while position < len(fields) and fields[position]:
        letter = fields[position][0]
        status = _STATUS.get(letter, "modified")
        if letter in "RC":
            files.append(ChangedFile(path=fields[position + 2], status=status, old_path=fields[position + 1]))
            position += 3
        else:
            files.append(ChangedFile(path=fields[position + 1], status=status))
            position += 2
    return tuple(files)


def parse_changed_lines(diff: bytes) -> dict[str, frozenset[int]]:
    """The new-side line numbers of a ``-U0`` unified diff, per new path. Deleted and binary files have none."""
    return _lines_of(diff, header=b"+++ ", hunk=_HUNK, between=False)


def parse_old_lines(diff: bytes) -> dict[str, frozenset[int]]:
    """The old-side line numbers of a ``-U0`` unified diff, per old path; of lines that were put in, those around."""
    return _lines_of(diff, header=b"--- ", hunk=_OLD_HUNK, between=True)


def _lines_of(diff: bytes, *, header: bytes, hunk: re.Pattern[bytes], between: bool) -> dict[str, frozenset[int]]:
    """One side of a diff. ``between``: where a hunk has no line on this side, the two lines it lies between."""
    lines: dict[str, set[int]] = {}
    current: set[int] | None = None
    in_header = False
    for line in diff.split(b"\n"):
        if line.startswith(b"diff --git "):
            current, in_header = None, True
        elif in_header and line.startswith(header):
            name = _unquote(line[4:].removesuffix(b"\t"))
            current = None if name == b"/dev/null" else lines.setdefault(os.fsdecode(name[2:]), set())
        elif match := hunk.match(line):
            in_header = False
            start, count = int(match[1]), int(match[2]) if match[2] is not None else 1
            if current is not None:
                current.update((start, start + 1) if between and not count else range(start, start + count))
    return {path: frozenset(numbers) for path, numbers in lines.items() if numbers}


def _unquote(name: bytes) -> bytes:
    """Undo git's C-style quoting, which it keeps for quotes, backslashes and control characters."""
    if not (name.startswith(b'"') and name.endswith(b'"')):
        return name
    return name[1:-1].decode("latin-1").encode("latin-1").decode("unicode_escape").encode("latin-1")
