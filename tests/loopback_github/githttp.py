"""git over smart HTTP, as GitHub serves it: ``<server>/<owner>/<name>.git``, with the same tokens as the API.

git's own ``http-backend`` answers; who may ask it what is decided here. GitHub's words for the refusals are kept, for
users see them through git.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.loopback_github.state import Repository, Token, World

_PATH = re.compile(r"/([\w.-]+/[\w.-]+?)(?:\.git)?/(info/refs|git-upload-pack|git-receive-pack)")
_SERVICES = ("git-upload-pack", "git-receive-pack")
# As on GitHub: partial clones, any object by its id, no rewriting of the branch that a work tree has checked out.
_SETTINGS = {
    "http.receivepack": "true",
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "gc.auto": "0",
}
SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class GitAnswer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def is_git(path: str) -> bool:
    """Whether git asks, and not somebody who speaks to the API."""
    return _PATH.fullmatch(path) is not None


def answer(
    world: World, *, method: str, path: str, query: str, headers: Mapping[str, str], content: bytes
) -> GitAnswer:
    """What GitHub answers to git. ``headers``: in lower case."""
    matched = _PATH.fullmatch(path)
    assert matched is not None
    full_name, action = matched.groups()
    service = query.partition("service=")[2].partition("&")[0] if action == "info/refs" else action
    with world.lock:
        repository = world.repositories.get(full_name.lower())
        refusal = _refusal(world, repository, service, headers.get("authorization"))
        store = repository.store if repository is not None else None
    if refusal is not None:
        return refusal
    if store is None:
        return _text(404, "Repository not found.")
    return _backend(store.path, method=method, action=action, query=query, headers=headers, content=content)


def _refusal(world: World, repository: Repository | None, service: str, authorization: str | None) -> GitAnswer | None:
    if service not in _SERVICES:
        return _text(403, "Please upgrade your git client.")  # the dumb protocol
    token = _token(world, authorization)
    if authorization is not None and token is None:
        return _challenge("Invalid username or token. Password authentication is not supported for Git operations.")
    held = token.permissions.get("contents", "none") if token is not None else None
    writes = service == "git-receive-pack"
    if token is None and (writes or repository is None or repository.private):
        return _challenge("No anonymous write access.")
    if repository is None or (repository.private and held == "none"):
        return _text(404, "Repository not found.")
    if writes and held != "write" and token is not None:
        if token.installation:
            return _text(403, f"Permission to {repository.full_name}.git denied to {token.login}.")
        return _text(403, "Write access to repository not granted.")
    return None


def _token(world: World, authorization: str | None) -> Token | None:
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return world.tokens.get(password)


def _text(status: int, sentence: str, **headers: str) -> GitAnswer:
    return GitAnswer(status=status, headers={"Content-Type": "text/plain", **headers}, content=f"{sentence}\n".encode())


def _challenge(sentence: str) -> GitAnswer:
    return _text(401, sentence, **{"WWW-Authenticate": 'Basic realm="GitHub"'})


def _backend(
    repository: Path, *, method: str, action: str, query: str, headers: Mapping[str, str], content: bytes
) -> GitAnswer:
    """`git http-backend`, as a web server runs it (https://git-scm.com/docs/git-http-backend)."""
    hidden = repository / ".git"
    root = hidden if hidden.exists() else repository
    env = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(root / "nobody"),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROJECT_ROOT": str(root),
        "PATH_INFO": f"/{action}",
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "CONTENT_TYPE": headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(content)),
        "REMOTE_USER": "somebody",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
        "GIT_PROTOCOL": headers.get("git-protocol", ""),
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
    }
    for index, (key, value) in enumerate(_SETTINGS.items()):
        env |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    done = subprocess.run(
        ["git", "http-backend"], env=env, input=content, capture_output=True, timeout=SECONDS, check=False
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    found = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
    if done.returncode != 0 or not found:
        return _text(500, f"http-backend: {done.stderr.decode(errors='replace')}")
    status = int(found.pop("Status", "200 OK").split()[0])
    return GitAnswer(status=status, headers=found, content=body)
