"""The history as a branch of a git repository: what a job on GitHub has.

Only the newest commit of the branch is ever fetched, first without its files, then the wanted ones in one batch. A
write is a commit on top of the tip it was computed from: the server takes it only while that still is the tip.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from random import Random

from msgspec import Struct

from orchestrator.mind.records.names import VERSION
from orchestrator.tools.history import (
    LAYOUT_FILE,
    Change,
    HistoryError,
    HistoryForbidden,
    Snapshot,
    check_layout,
    checked,
    is_name,
)
from orchestrator.tools.history.private_git import Done, PrivateRepository, words

ATTEMPTS = 60  # of one update; with sixteen writers at once the unluckiest needs about twenty
_TROUBLES = 3  # failures of the network that one call bears
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 4.0  # seconds; the bound of the jittered pause doubles up to the longest
_BATCH = 1000  # object ids in one command line

README = b"""\
# Test history

mltiers keeps here what it knows of earlier test runs: durations, verdicts, coverage, benchmarks.
It writes and shortens this branch by itself. Deleting the branch loses that knowledge and nothing else.
"""


class _Refusal(Enum):
    RACE = "another writer came first"
    FORBIDDEN = "the server does not let us write"
    TROUBLE = "the network or the server failed"


class _Tip(Struct, frozen=True, kw_only=True):
    """A commit of the branch and the blobs below it that we understand, by name."""

    commit: str
    tree: str
    blobs: Mapping[str, str]


class BranchStore:
    """A store in the branch ``branch`` of the repository at ``url``, which the first write makes.

    ``token``: may read the repository, and write it where it shall be written; None for a repository that needs none.
    ``variables``: the environment. ``deadline``: seconds left to speak to the server, asked before every command.
    The copy it works on lies in a temporary folder that goes with this object; snapshots read from it.
    """

    def __init__(
        self,
        *,
        url: str,
        branch: str,
        token: str | None,
        variables: Mapping[str, str],
        deadline: Callable[[], float],
        random: Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.branch = branch
        self._token = token
        self._variables = variables
        self._deadline = deadline
        self._random = random or Random()  # noqa: S311 -- pauses and names, no secrets
        self._sleep = sleep
        self._now = now
        self._ref = f"refs/heads/{branch}"
        self._git: PrivateRepository | None = None
        self._filters = True  # until git or the server turns out to know none
        self._here: set[str] = set()  # blobs that need no fetching

    def snapshot(self, version: str | None = None) -> Snapshot:
        if version is None:
            return self._snapshot_of(self._fetch_tip())
        if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", version):
            raise HistoryError(f"the history has no version {version!r}: its versions are commits")
        tip = self._fetch_tip(version)
        if tip is None:
            raise HistoryError(
                f"version {version[:10]} of the history is no longer there",
                remedy="It was compacted away since the tier was planned: run the workflow again.",
            )
        return self._snapshot_of(tip)

    def update(self, change: Change, *, message: str, forget: bool = False) -> Snapshot:
        troubles = 0
        pushed: str | None = None
        for attempt in range(ATTEMPTS):
            tip = self._fetch_tip()
            snapshot = self._snapshot_of(tip)
            if tip is not None and tip.commit == pushed:
                return snapshot  # it arrived: only the answer was lost
            files = checked(change(snapshot))
            if not files:
                return snapshot
            pushed = self._commit(tip, files, message=message, forget=forget)
            done = self._push(pushed, over=tip, forget=forget)
            if done.code == 0:
                return self._snapshot_of(self._tip_of(pushed))
            refusal = _refusal(done)
            if refusal is _Refusal.FORBIDDEN:
                if not forget:
                    raise self._forbidden(done)
                forget = False  # a branch that nobody may rewrite still takes what comes on top
                continue
            if refusal is _Refusal.TROUBLE:
                troubles += 1
                if troubles == _TROUBLES:
                    raise self._trouble("written", done)
            self._pause(attempt)
        raise HistoryError(f"the history could not be written: {ATTEMPTS} times another writer came first")

    def close(self) -> None:
        """Remove the copy. What was not read of a snapshot by now cannot be read any more."""
        if self._git is not None:
            self._git.close()
            self._git = None
            self._here.clear()

    @property
    def _repository(self) -> PrivateRepository:
        if self._git is None:
            self._git = PrivateRepository(
                url=self.url, token=self._token, variables=self._variables, deadline=self._deadline
            )
        return self._git

    # --- reading

    def _fetch_tip(self, version: str | None = None) -> _Tip | None:
        """The branch as it is now (or a commit of it), without its files where that can be had; None: there is none."""
        wanted = version or self._ref
        for attempt in range(_TROUBLES):
            # Nothing of ours has a ref, so that git never tells the server "I have this commit": the server would then
            # leave out the files of it that we ask for later.
            done = self._fetch("--depth=1", *(["--filter=blob:none"] if self._filters else []), wanted)
            if done.unknown_option and self._filters:
                self._filters = False
                done = self._fetch("--depth=1", wanted)
            if done.code == 0:
                head = (self._repository.path / "FETCH_HEAD").read_text()
                self._note_blobs()
                return self._tip_of(head.split()[0])
            if version is not None and _is_unknown(done):
                # Gone, or the server gives away branches only: then it may still be what the branch points at.
                tip = self._fetch_tip()
                return tip if tip is not None and tip.commit == version else None
            listed = self._repository.run("ls-remote", "origin", self._ref, network=True)
            if listed.code == 0 and not listed.out.strip():
                return None
            if _is_refused(done):
                raise self._unreadable(done)
            if attempt < _TROUBLES - 1:
                self._pause(attempt)
        raise self._trouble("read", done)

    def _fetch(self, *arguments: str) -> Done:
        options = ("--quiet", "--no-tags", "--no-auto-gc", "--no-recurse-submodules")
        return self._repository.run("fetch", *options, *self._before_remote(arguments), network=True)

    @staticmethod
    def _before_remote(arguments: tuple[str, ...]) -> list[str]:
        options = [word for word in arguments if word.startswith("--")]
        return [*options, "origin", *(word for word in arguments if not word.startswith("--"))]

    def _note_blobs(self) -> None:
        """Learn which objects are here: a server that knows no filter sent all of them."""
        listed = self._repository.ask("cat-file", "--batch-all-objects", "--batch-check=%(objectname)", "--unordered")
        self._here.update(listed.decode("ascii").split())

    def _tip_of(self, commit: str) -> _Tip:
        listed = self._repository.ask("ls-tree", "-r", "-z", "--full-tree", commit)
        blobs = {}
        for entry in listed.split(b"\0"):
            facts, _, path = entry.partition(b"\t")
            name = os.fsdecode(path)
            if facts.startswith(b"100") and is_name(name):
                blobs[name] = facts.split()[2].decode("ascii")
        tree = self._repository.ask("rev-parse", f"{commit}^{{tree}}").decode("ascii").strip()
        return _Tip(commit=commit, tree=tree, blobs=blobs)

    def _snapshot_of(self, tip: _Tip | None) -> Snapshot:
        if tip is None:
            return Snapshot(version=None, names=frozenset(), read=lambda _: {})
        blobs = tip.blobs
        if blobs.get(VERSION) not in (None, _blob_id(LAYOUT_FILE)):
            check_layout(self._read({VERSION: blobs[VERSION]})[VERSION], where=self._where)

        def read(names: Iterable[str]) -> Mapping[str, bytes]:
            return self._read({name: blobs[name] for name in names if name in blobs})

        return Snapshot(version=tip.commit, names=frozenset(blobs), read=read)

    def _read(self, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The contents of blobs, by the names they are wanted under."""
        self._fetch_blobs(list(dict.fromkeys(blob for blob in wanted.values() if blob not in self._here)))
        names = [name for name, blob in wanted.items() if blob in self._here]
        asked = "".join(f"{wanted[name]}\n" for name in names).encode("ascii")
        out = self._repository.ask("cat-file", "--batch", stdin=asked) if names else b""
        files, position = {}, 0
        for name in names:
            end = out.index(b"\n", position)
            size = int(out[position:end].split()[2])
            files[name] = out[end + 1 : end + 1 + size]
            position = end + size + 2
        return files

    def _fetch_blobs(self, blobs: list[str]) -> None:
        troubles = 0
        while blobs:
            done = self._fetch(*blobs[:_BATCH])
            if done.code == 0:
                self._here.update(blobs[:_BATCH])
                blobs = blobs[_BATCH:]
                continue
            if _is_unknown(done):
                # The server gives away branches only. What has gone from the branch meanwhile is left out.
                self._fetch_everything()
                return
            troubles += 1
            if _is_refused(done) or troubles == _TROUBLES:
                raise self._trouble("read", done)
            self._pause(troubles)

    def _fetch_everything(self) -> None:
        """The branch with all its files, into a new copy: to this one the server would send nothing more."""
        self.close()
        self._filters = False
        self._fetch_tip()

    # --- writing

    def _commit(self, tip: _Tip | None, files: Mapping[str, bytes | None], *, message: str, forget: bool) -> str:
        """Make a commit with these changes, on top of the tip or, to forget, in its place. Returns its id."""
        if tip is None:
            files = {VERSION: LAYOUT_FILE, "README.md": README, **files}
        elif VERSION not in tip.blobs:
            files = {VERSION: LAYOUT_FILE, **files}
        # Two writers with the same change in the same second would make the same commit, and both believe it theirs.
        text = f"{' '.join(message.split())}\n\n[skip ci] writer {self._random.getrandbits(64):016x}\n"
        stream = [
            b"commit refs/mltiers/new\nmark :1\n",
            b"committer mltiers <mltiers@localhost> %d +0000\n" % self._now(),
            _data(text.encode(errors="replace")),
        ]
        if tip is not None:
            stream.append(f"M 040000 {tip.tree} \n".encode() if forget else f"from {tip.commit}\n".encode())
        for name, content in files.items():
            if content is None:
                stream.append(f"D {name}\n".encode())
            else:
                stream += [f"M 100644 inline {name}\n".encode(), _data(content)]
                self._here.add(_blob_id(content))
        stream.append(b"get-mark :1\ndone\n")
        out = self._repository.ask("fast-import", "--quiet", "--force", "--done", stdin=b"".join(stream))
        (self._repository.path / "refs" / "mltiers" / "new").unlink(missing_ok=True)  # why: see _fetch_tip
        return out.decode("ascii").strip()

    def _push(self, commit: str, *, over: _Tip | None, forget: bool) -> Done:
        """Offer a commit to the server, which takes it only on top of (or, to forget, in place of) ``over``."""
        refspec = f"{commit}:{self._ref}"
        if over is None or not forget:
            return self._repository.run("push", "--porcelain", "--no-thin", "origin", refspec, network=True)
        # Thin, because git otherwise does not see that the two commits have most of their files in common. And without
        # the refspec's `+`, which would overrule the lease.
        lease = f"--force-with-lease={self._ref}:{over.commit}"
        return self._repository.run("push", "--porcelain", "--thin", lease, "origin", refspec, network=True)

    def _pause(self, attempt: int) -> None:
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))
        self._sleep(max(0.0, min(self._random.uniform(0.0, longest), self._deadline())))

    # --- words

    @property
    def _where(self) -> str:
        return f"branch {self.branch} of {self.url}"

    def _forbidden(self, done: Done) -> HistoryForbidden:
        said = _porcelain_reason(done)
        if said is not None:
            remedy = (
                f"let this job write to {self.branch}: a ruleset, branch protection or hook of the repository refuses"
            )
        elif self._token is None:
            remedy = "give a token that may write the repository (`token`)"
        else:
            remedy = "give the job `permissions: contents: write`; a fork's own jobs never get it"
        reasons = "; ".join(dict.fromkeys(text for text in (words(done.err), said) if text))
        return HistoryForbidden(f"{self._where} may not be written: {reasons}", remedy=remedy)

    def _unreadable(self, done: Done) -> HistoryError:
        remedy = "give the job `permissions: contents: read`" if self._token else "give a token that may read it"
        return HistoryError(f"{self._where} may not be read: {words(done.err)}", remedy=remedy)

    def _trouble(self, verb: str, done: Done) -> HistoryError:
        reasons = [text for text in (words(done.err), _porcelain_reason(done)) if text]
        return HistoryError(f"{self._where} could not be {verb}: {'; '.join(reasons) or f'exit code {done.code}'}")


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


_REFUSED = (
    "returned error: 401",
    "returned error: 403",
    "returned error: 404",
    "Authentication failed",
    "could not read Username",
    "could not read Password",
    "Repository not found",
)
_UNWRITABLE = ("Permission denied", "insufficient permission", "Read-only file system", "Operation not permitted")
_LOST_RACES = (
    "cannot lock ref",
    "failed to lock",
    "failed to update ref",
    "incorrect old value provided",
    "reference already exists",
    "stale info",
    "fetch first",
)


def _is_refused(done: Done) -> bool:
    return any(text in done.err for text in _REFUSED)


def _is_unknown(done: Done) -> bool:
    """Whether the server has no such object, or gives it to nobody who asks for it by its id."""
    return "not our ref" in done.err or "unadvertised object" in done.err


def _porcelain_reason(done: Done) -> str | None:
    """What `git push --porcelain` said of the branch: ``[remote rejected] (why)``."""
    for line in done.out.decode(errors="replace").splitlines():
        if line.startswith("!\t"):
            return line.split("\t")[-1].strip()
    return None


def _refusal(done: Done) -> _Refusal:
    """What a failed push means."""
    reason = _porcelain_reason(done)
    if reason is None:
        return _Refusal.FORBIDDEN if _is_refused(done) else _Refusal.TROUBLE
    if any(text in done.err for text in _UNWRITABLE):
        return _Refusal.FORBIDDEN
    if reason.startswith("[rejected]") or any(text in reason for text in _LOST_RACES):
        return _Refusal.RACE
    if "unpack" in reason or "[remote failure]" in reason:  # its disk is full, it went away
        return _Refusal.TROUBLE
    return _Refusal.FORBIDDEN
