"""Everything a decision needs, fetched once before it is made: event, configuration, changed files, Pythons."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.hands.remember import Memory, open_store, read_history
from orchestrator.hands.standing import ask, complete, look_up
from orchestrator.mind.config import Config, parse_config
from orchestrator.mind.event import GITHUB_EVENTS, LOCAL, override, read_event
from orchestrator.mind.order import Order
from orchestrator.mind.plan import NO_STANDING, config_identity
from orchestrator.mind.records.history import History
from orchestrator.mind.trust import Ruled, Standing, apply_base
from orchestrator.tools.git import Git, GitError
from orchestrator.tools.github import GitHub
from orchestrator.tools.interpreter import PATIENCE, Question, facts_in, find_python
from orchestrator.tools.kept import Kept
from orchestrator.words.environment import Environment
from orchestrator.words.errors import ConfigError, InfrastructureError, UsageError
from orchestrator.words.event import ChangedFile, Changes, Event
from orchestrator.words.plan import PythonFacts

MAX_CONFIG_BYTES = 1 << 20
_FOR_THE_COMMENT = 3.0  # seconds
_NO_TRUNK = "no main or master here has a commit in common with it; `git remote set-head origin -a` names another"
_ELSEWHERE = ("issue_comment", "workflow_run")  # what is checked out is the default branch, not what they are about


class Situation(Struct, frozen=True, kw_only=True):
    """Where we are and what we were told, all read; nothing decided."""

    root: Path  # the configuration's folder, absolute
    config_path: str  # from the repository's top
    prefix: str  # the configuration's folder from the repository's top: "" or "a/b/"
    config: Config
    event: Event
    changes: Changes
    range: tuple[str, str | None] | None  # base and head of the change in this clone; head None: the files on disk
    git: Git | None
    github: GitHub | None
    notes: tuple[str, ...] = ()
    standing: Standing = NO_STANDING
    barred: Mapping[str, str] = field(default_factory=dict)  # tiers that may start no runner, and why
    history: History = field(default_factory=History)
    memory: Memory | None = None  # where this run's own results go
    orders: Mapping[str, Order] = field(default_factory=dict)  # by tier that runs here: in which order, and what waits


def gather(
    *,
    config: Path,
    needs_config: bool,
    event_name: str | None,
    sha: str | None,
    pr: int | None,
    environment: Environment,
    connect: Callable[[Environment], GitHub | None],
) -> Situation:
    """Read configuration, event and git. Raises ConfigError, UsageError.

    ``needs_config`` False: where there is none, one without tiers is taken.
    """
    root = config.absolute().parent
    notes: list[str] = []
    if needs_config or config.exists():
        own = parse_config(read_config_file(config), filename=str(config))
    else:
        own = Config(version=1, tiers={})
        notes.append(f"there is no {config.name} here: every tier with results counts, without budget or threshold")
    git = Git(root=root, variables=environment.variables)
    here, head, prefix, absent = _repository(git)
    github = connect(environment)
    event = override(complete(_event(event_name, environment, here, head), github, notes), sha=sha, pr=pr)
    if pr is not None and event.name == "workflow_dispatch":
        event = look_up(event, pr, github, notes)
    if here is not None and event.name == "workflow_run":
        _fetch_head(event, here, environment, notes)
    found = _range(event, here, head, notes)
    changes = _changes(event, here, found, github, notes) if here is not None else Changes(files=None, source=absent)
    ruled = _trusted(own, event, here, prefix + config.name, notes)
    standing = ask(event, ruled.config, github, now=time.time(), team_machine=environment.self_hosted)
    return Situation(
        root=root,
        config_path=prefix + config.name,
        prefix=prefix,
        config=ruled.config,
        event=event,
        changes=_relative_to(changes, prefix),
        range=found,
        git=here,
        github=github,
        notes=tuple(notes),
        standing=replace(standing, checkout=head if sha is not None and event.on_github else None),
        barred=ruled.barred,
    )


def recall(situation: Situation, *, environment: Environment, deadline: Callable[[], float]) -> Situation:
    """The situation with what is remembered of earlier runs. ``deadline``: seconds left to speak to a remote."""
    config, event = situation.config, situation.event
    config_id = config_identity(situation.config_path)
    store = open_store(
        config,
        event,
        root=situation.root,
        environment=environment,
        # A cancelled job has few seconds left, and most of all owes the comment.
        deadline=lambda: deadline() - _FOR_THE_COMMENT,
    )
    history = read_history(
        store, config_id=config_id, tiers=tuple(config.tiers), sha=event.sha, base_sha=event.base_sha
    )
    memory = Memory(
        store,
        history,
        root=situation.root,
        config_id=config_id,
        now=time.time,
        hurried=lambda: math.isfinite(deadline()),
    )
    return replace(situation, history=history, memory=memory)


def read_config_file(path: Path) -> bytes:
    """The bytes of ml-tiers.yml. Raises UsageError where there is none to read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file", remedy="`mltiers init` writes a first one") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError([f"{path}:1:1: the file is larger than {MAX_CONFIG_BYTES // 2**20} MiB"])
    return data


def missing_paths(config: Config, root: Path) -> list[str]:
    """Paths of the configuration that are not there: no error (a tier may be written before its tests), but said."""
    said = [f"source: {path} does not exist" for path in config.source if not (root / path).exists()]
    for name, tier in config.tiers.items():
        for path in tier.paths:
            if not (root / path.partition("::")[0]).exists():
                said.append(f"tiers.{name}.paths: {path} does not exist")
    return said


@contextlib.contextmanager
def asking_pythons(
    config: Config, root: Path, environment: Environment, kept: Kept | None = None
) -> Iterator[Callable[[], dict[str, PythonFacts]]]:
    """Ask each Python that a tier names for its facts; it starts while we go on. What is yielded waits for the answers,
    by those names. Both raise UsageError. ``kept``: one that was asked already, if it is one of them.
    """
    variables = environment.for_tests({})
    paths: dict[str, str] = {}
    asked: dict[str, Question] = {}

    def answers() -> dict[str, PythonFacts]:
        facts: dict[str, PythonFacts] = {}
        if kept is not None and kept.python in paths.values():
            answer = facts_in(kept.answer(within=PATIENCE / 3))
            facts |= {kept.python: answer} if answer is not None else {}
        for path in paths.values():
            if path not in facts:
                put_to(path)
                facts[path] = asked[path].answer()
        return {name: replace(facts[path], executable=path) for name, path in paths.items()}

    with contextlib.ExitStack() as stack:

        def put_to(path: str) -> None:
            if path not in asked:
                asked[path] = stack.enter_context(Question(path, variables=variables))

        for name in dict.fromkeys(tier.python for tier in config.tiers.values()):
            paths[name] = find_python(name, variables=environment.variables, root=root)
            if kept is None or paths[name] != kept.python:
                put_to(paths[name])
        yield answers


def replace_python(config: Config, python: str) -> Config:
    """The configuration with every tier on this Python."""
    tiers = {name: msgspec.structs.replace(tier, python=python) for name, tier in config.tiers.items()}
    return msgspec.structs.replace(config, tiers=tiers)


def changed_lines(situation: Situation) -> Mapping[str, frozenset[int]] | None:
    """New-side lines of the change per path, relative to the configuration's folder; None where unknown."""
    if situation.git is None or situation.range is None:
        return None
    try:
        lines = situation.git.changed_lines(*situation.range)
    except GitError:
        return None
    own = situation.prefix
    return {path.removeprefix(own): numbers for path, numbers in lines.items() if path.startswith(own)}


def _repository(git: Git) -> tuple[Git | None, str | None, str, str]:
    """git where it has a commit for us, that commit, our folder in it, and otherwise why there is none."""
    try:
        found = git.head()
        if found is None:
            return None, None, "", "not a git repository, or one without a commit"
        return git, *found, ""
    except GitError as error:
        return None, None, "", error.message


# --- event ---------------------------------------------------------------------------------------------------------


def _event(name: str | None, environment: Environment, git: Git | None, head: str | None) -> Event:
    if environment.event_name is not None and name in (None, environment.event_name):
        payload = _payload(environment)
        if payload is not None or environment.in_actions:
            return read_event(environment, payload)
    if name is not None and name not in GITHUB_EVENTS:
        meant = {"nightly": "`nightly` is `--event schedule`; ", "pre-merge": "`pre-merge` is `--event merge_group`; "}
        remedy = f"{meant.get(name, '')}one of: {', '.join(GITHUB_EVENTS)}"
        raise UsageError(f"--event {name!r} is not an event", remedy=remedy)
    base = None
    if git is not None and head is not None:
        trunk = git.default_branch()
        base = git.merge_base(head, trunk) if trunk else head if git.lone_branch() else None
    return Event(name=name or LOCAL, sha=head, base_sha=base)


def _payload(environment: Environment) -> dict[str, Any] | None:
    if environment.event_path is None:
        return None
    path = Path(environment.event_path)
    try:
        payload = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"GITHUB_EVENT_PATH: {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"GITHUB_EVENT_PATH: {path}: is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise UsageError(f"GITHUB_EVENT_PATH: {path}: is not a JSON object")
    return payload


# --- changes -------------------------------------------------------------------------------------------------------


def _range(event: Event, git: Git | None, head: str | None, notes: list[str]) -> tuple[str, str | None] | None:
    """Base and head of the change as this clone has them, so that line numbers are those of the files on disk."""
    if git is None or head is None or event.base_sha is None or event.name == "issue_comment":
        return None
    if event.name == "workflow_run":
        head = event.sha if event.sha is not None and git.commit(event.sha) is not None else None
        return None if head is None or git.merge_base(event.base_sha, head) is None else (event.base_sha, head)
    if not event.on_github:
        return event.base_sha, None  # a laptop tests the files on disk, whatever event it stands in for
    if event.name == "pull_request" and head != event.sha:
        parents = git.parents("HEAD")
        if len(parents) == 2 and parents[1] == event.sha:
            # GitHub's merge commit: what the pull request changes is what the merge brought to its first parent.
            return parents[0], head
        notes.append(
            f"the checkout is at {head[:10]}, which is neither the pull request's head {(event.sha or '')[:10]} "
            "nor its merge commit"
        )
    if git.commit(event.base_sha) is None or git.merge_base(event.base_sha, head) is None:
        return None
    return event.base_sha, head


def _fetch_head(event: Event, git: Git, environment: Environment, notes: list[str]) -> None:
    """Bring the pull request's commits into this clone, as data: which lines they change is all that is asked."""
    pull = event.pull_request
    if pull is None or event.sha is None or git.commit(event.sha) is not None:
        return
    url = f"{event.server_url}/{event.repository}.git"
    variables = dict(environment.variables)
    if environment.token is not None:  # in the environment: a command line is everybody's to read
        basic = base64.b64encode(f"x-access-token:{environment.token}".encode()).decode()
        variables |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{url}.extraheader",
            "GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {basic}",
        }
    try:
        place = Git(root=git.root, variables=variables)
        place.run("fetch", "--quiet", "--no-tags", url, f"refs/pull/{pull.number}/head")
    except GitError as error:
        notes.append(f"the pull request's commits cannot be fetched: {error.message}")


def _changes(
    event: Event, git: Git, found: tuple[str, str | None] | None, github: GitHub | None, notes: list[str]
) -> Changes:
    """The changed files from git, or from the API where the clone is too shallow to say."""
    if found is not None:
        base, head = found
        try:
            files = git.working_tree_changes(base) if head is None else git.changed_files(base, head)
            return Changes(files=files, source="git")
        except GitError as error:
            notes.append(error.line)
    if event.base_sha is None and event.pull_request is None:
        absent = f"{event.name} has no base to compare with"
        return Changes(files=None, source=absent if event.on_github else _NO_TRUNK)
    if github is None:
        return Changes(files=None, source="the clone is too shallow to compare (fetch-depth: 0 would tell)")
    try:
        if event.pull_request is not None:
            return Changes(files=github.pull_request_files(event.pull_request.number), source="api")
        if event.base_sha is not None and event.sha is not None:
            return Changes(files=github.compare_files(event.base_sha, event.sha), source="api")
    except InfrastructureError as error:
        notes.append(f"changed files are unknown: {error.message}")
    return Changes(files=None, source="neither git nor GitHub could say")


def _relative_to(changes: Changes, prefix: str) -> Changes:
    """Paths as the configuration's folder sees them; files outside it begin with ``../``."""
    if not prefix or changes.files is None:
        return changes

    def move(path: str | None) -> str | None:
        return None if path is None else posixpath.relpath(path, prefix)

    moved = tuple(
        ChangedFile(path=move(file.path) or "", status=file.status, old_path=move(file.old_path))
        for file in changes.files
    )
    return Changes(files=moved, source=changes.source)


# --- whose configuration rules -------------------------------------------------------------------------------------


def _trusted(own: Config, event: Event, git: Git | None, path: str, notes: list[str]) -> Ruled:
    """What to test comes from the commit under test; what concerns trust and cost from the base branch."""
    if event.name not in ("pull_request", "workflow_dispatch", *_ELSEWHERE) or not event.base_sha:
        return Ruled(config=own)
    text = git.show(event.base_sha, path) if git is not None else None
    base = None
    if text is not None:
        try:
            base = parse_config(text, filename=f"{event.base_ref}:{path}")
        except ConfigError:
            notes.append(f"{path} of the base branch cannot be read, so no tier of it starts another runner")
    elif event.name != "pull_request":
        # The checkout is the default branch's; or, of what was dispatched, the limits were the base branch's then.
        return Ruled(config=own)
    ruled = apply_base(own, base)
    notes += ruled.notes
    # Whoever dispatches by hand may write here, and so merge what they name.
    return replace(ruled, barred={}) if event.name == "workflow_dispatch" else ruled
