"""git in a bare repository of our own: nothing of the user's checkout, configuration or credentials gets in.

Needs git 2.20; what is newer is asked for only where it is there.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from orchestrator.tools.history import HistoryError
from orchestrator.words.secrets import SECRET_VARIABLES

# Of git's own variables only those that say how to reach a server through this network, and where git itself lies.
_KEPT = frozenset({"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_NO_VERIFY", "GIT_SSL_VERSION", "GIT_EXEC_PATH"})
# The same of the user's configuration: proxies and certificates, per server or for all.
_NETWORK = re.compile(
    r"http\.(.+\.)?(proxy|proxyauthmethod|proxyssl\w+|ssl\w+|schannel\w+|pinnedpubkey|version)", re.IGNORECASE
)
_CONFIGURATION = """\
[core]
	repositoryformatversion = 1
	bare = true
[extensions]
	partialClone = origin
[gc]
	auto = 0
[maintenance]
	auto = false
[protocol]
	version = 2
[http]
	lowSpeedLimit = 100
	lowSpeedTime = 20
"""
_UNKNOWN_OPTION = 129
_NULL_COMMANDS = 5.0  # seconds that a command without a network may take


class Done(Struct, frozen=True, kw_only=True):
    """What a git command said."""

    code: int
    out: bytes
    err: str

    @property
    def unknown_option(self) -> bool:
        """Whether this git is too old for what it was asked."""
        return self.code == _UNKNOWN_OPTION


class PrivateRepository:
    """A bare repository in a temporary folder that goes with this object; its remote is called ``origin``.

    ``url``: of the remote; it holds no secret. ``token``: sent to that URL alone, as GitHub's action for checking out
    does, in the environment of the git that needs it. ``deadline``: seconds left, asked before every command.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str | None,
        variables: Mapping[str, str],
        deadline: Callable[[], float],
        timeout: float = 60.0,
    ) -> None:
        self._deadline = deadline
        self._timeout = timeout
        try:
            places = (variables.get(name) for name in ("RUNNER_TEMP", "TMPDIR"))
            place = next((place for place in places if place and Path(place).is_dir()), None)
            self._folder = tempfile.TemporaryDirectory(prefix="mltiers-history-", dir=place)
            self.root = Path(self._folder.name)
            self.path = self.root / "data.git"
            for name in ("objects", "refs", "home"):
                (self.path / name).mkdir(parents=True)
            (self.path / "HEAD").write_text("ref: refs/heads/none\n")
            (self.path / "config").write_text(_CONFIGURATION)
        except OSError as error:
            raise HistoryError(f"there is no place for a copy of the history: {error}") from None
        self._theirs = {k: v for k, v in variables.items() if k not in SECRET_VARIABLES}
        self._environment = {
            **{k: v for k, v in self._theirs.items() if not k.startswith("GIT_") or k in _KEPT},
            "HOME": str(self.path / "home"),
            "XDG_CONFIG_HOME": str(self.path / "home"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DIR": str(self.path),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ADVICE": "0",
            "LC_ALL": "C",
        }
        self._environment.pop("SSH_ASKPASS", None)
        settings = [("remote.origin.url", url), ("remote.origin.promisor", "true"), *self._network()]
        if token is not None:
            basic = base64.b64encode(f"x-access-token:{token}".encode()).decode("ascii")
            settings.append((f"http.{url}.extraheader", f"AUTHORIZATION: basic {basic}"))
        self._environment |= _configured(settings, self._version())

    def close(self) -> None:
        """Remove the folder; nothing can be read any more."""
        self._folder.cleanup()

    def run(self, *arguments: str, stdin: bytes = b"", network: bool = False) -> Done:
        """``git ARGUMENTS``, whatever its exit code. Raises HistoryError where it did not end in time."""
        left = self._deadline()
        seconds = min(self._timeout, left) if network else min(self._timeout, max(left, _NULL_COMMANDS))
        if seconds <= 0:
            raise HistoryError("there was no time left to reach the history")
        return _run(["git", *arguments], cwd=self.root, env=self._environment, stdin=stdin, seconds=seconds)

    def ask(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Standard output of a command that needs no network and cannot well fail. Raises HistoryError."""
        done = self.run(*arguments, stdin=stdin)
        if done.code != 0:
            raise HistoryError(f"git {arguments[0]} failed on a copy of the history: {words(done.err) or done.code}")
        return done.out

    def _version(self) -> tuple[int, int]:
        done = self.run("version")
        found = re.search(rb"(\d+)\.(\d+)", done.out)
        if done.code != 0 or found is None:
            raise HistoryError(f"`git version` failed: {words(done.err) or done.code}")
        return int(found[1]), int(found[2])

    def _network(self) -> list[tuple[str, str]]:
        """How the user's own git gets through this network."""
        listed = _run(
            ["git", "config", "--null", "--get-regexp", r"^http\."],
            cwd=self.root,
            env={**self._theirs, "GIT_DIR": str(self.path), "LC_ALL": "C"},
            stdin=b"",
            seconds=self._timeout,
        )
        entries = (entry.partition("\n") for entry in os.fsdecode(listed.out).split("\0"))
        return [(key, value) for key, _, value in entries if _NETWORK.fullmatch(key)]


def words(err: str, *, limit: int = 300) -> str:
    """What git and the server said, without git's own noise, on one line."""
    kept = []
    for line in err.splitlines():
        text = line.strip()
        if text.startswith("remote: "):
            text = text.removeprefix("remote: ").strip()
        elif text.startswith(("fatal: ", "error: ")):
            text = text.partition(": ")[2]
        else:
            continue
        if text and text not in kept and not text.startswith("failed to push some refs"):
            kept.append(text)
    return "; ".join(kept)[:limit] or (err.strip().splitlines() or [""])[-1][:limit]


def _configured(settings: Sequence[tuple[str, str]], version: tuple[int, int]) -> dict[str, str]:
    """Settings as variables: in argv everybody on the machine could read them."""
    if version >= (2, 31):
        numbered = {"GIT_CONFIG_COUNT": str(len(settings))}
        for index, (key, value) in enumerate(settings):
            numbered |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
        return numbered
    # What an older git hands to the gits that it starts; newer ones read it too.
    quoted = (f"{key}={value}".replace("'", "'\\''").replace("!", "'\\!'") for key, value in settings)
    return {"GIT_CONFIG_PARAMETERS": " ".join(f"'{entry}'" for entry in quoted)}


def _run(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: bytes, seconds: float) -> Done:
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # git's helpers hold our pipes open: they end with it
        )
    except FileNotFoundError:
        raise HistoryError("git is not installed", remedy="install git, or put it on PATH") from None
    except OSError as error:
        raise HistoryError(f"git could not be started: {error}") from None
    try:
        out, err = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise HistoryError(f"git {command[1]} did not end within {seconds:.3g} s") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
    return Done(code=process.returncode, out=out, err=err.decode(errors="replace"))
