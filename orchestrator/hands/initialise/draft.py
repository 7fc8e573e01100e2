"""From the facts of a repository to a first ml-tiers.yml and workflow, or to what to test first. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence

from msgspec import Struct

from orchestrator.hands.initialise.advice import advise
from orchestrator.hands.initialise.facts import RepositoryFacts
from orchestrator.hands.initialise.tiers import (
    GPU_MARKERS,
    KINDS,
    SLOW_MARKERS,
    TEST_FOLDERS,
    DraftTier,
    draft_tiers,
    outermost,
)
from orchestrator.mind.config.positions import resolve

CONFIG = "ml-tiers.yml"
WORKFLOW = ".github/workflows/pull-request.yml"

_UNWRITABLE = re.compile(r"[*?\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|::|\$\{\{|^[~-]|^[A-Za-z]:|^\s|\s$")


class InitPlan(Struct, frozen=True, kw_only=True):
    """What init would write: (path from the top of the git repository, text), and what it says to the user."""

    files: tuple[tuple[str, str], ...] = ()
    message: str = ""


def plan_init(facts: RepositoryFacts, *, starter: str) -> InitPlan:
    """The files for a repository with tests; for one without, only what to test first. ``starter``: the workflow."""
    if not facts.tests:
        return InitPlan(message=advise(facts))
    prefix = f"{facts.prefix}/" if facts.prefix else ""
    action = re.search(r"uses: (\S+/ml-test-action)@(\S+)", starter)
    config = _config_text(facts, source=f"{action[1]}/{action[2]}" if action else None)
    files = [(f"{prefix}{CONFIG}", config)]
    message = _message(facts)
    if _writable(facts.prefix):
        files.append((WORKFLOW, _workflow_text(facts, starter)))
    else:
        message += "\nnote: no workflow: the name of this folder cannot be written in one"
    return InitPlan(files=tuple(files), message=message)


def _config_text(facts: RepositoryFacts, source: str | None) -> str:
    url = f"https://raw.githubusercontent.com/{source}/docs/ml-tiers.schema.json"
    lines = [f"# yaml-language-server: $schema={url}"] if source else []
    number = _count(sum(len(file.cases) for file in facts.tests), "test function")
    lines += [
        f"# A first draft by `mltiers init`, from {number} in {_count(len(facts.tests), 'file')}. Edit freely:",
        "# `mltiers check` validates it, `mltiers plan` shows what would run, `mltiers run TIER` runs a tier here.",
        "version: 1",
        f"source: {_list(_sources(facts))} # what coverage measures",
        "# coverage: {minimum: 80, patch: 80} # thresholds in percent, once you know where you stand",
        "tiers:",
    ]
    for tier in draft_tiers(facts):
        lines += [f"  # {tier.why} ({_count(tier.count(facts), 'test function')} found)"]
        lines += [f"  # Note: {note}." for note in tier.notes]
        lines += [f"  {tier.name}:", *(f"    {line}" for line in _keys(tier)), ""]
    return "\n".join([*lines[:-1], *(f"# {line}" for line in _remarks(facts))]) + "\n"


def _keys(tier: DraftTier) -> Iterator[str]:
    _, when, budget = KINDS[tier.kind]
    yield f"paths: {_list(outermost(_nearest(path) for path in tier.paths))}"
    if tier.markers:
        yield f"markers: {tier.markers}"
    args = ["--benchmark-only"] if tier.only_benchmarks else []
    if args := [*args, *(f"--ignore={folder}" for folder in tier.ignored if _writable(folder))]:
        yield f"args: {_list(args)}"
    yield f"when: {when}"
    if tier.kind == "gpu":
        yield "runner: [self-hosted, linux, cuda] # a guess; Settings, Actions, Runners shows your labels"
        yield "gpus: 1"
    yield f"budget: {budget}"
    if tier.kind == "gpu":
        yield "queue: 1h"
    if tier.kind == "convergence":
        yield "required: false # shown, but does not fail the run"
    if tier.benchmark:
        yield "benchmark: {} # one process, no coverage; measured and shown"


def _remarks(facts: RepositoryFacts) -> Iterator[str]:
    used = {marker for file in facts.tests for marker in file.markers}
    special = GPU_MARKERS | set(SLOW_MARKERS)
    if other := sorted(used - special):
        yield f"Markers in use that no tier singles out: {', '.join(other)}."
    if unused := sorted(set(facts.settings.markers) & special - used):
        yield f"Registered, but on no test that was found: {', '.join(unused)}."
    if any(tier.kind in ("gpu", "convergence") for tier in draft_tiers(facts)):
        yield "For `nightly`, `pre-merge` and `runner`, copy nightly.yml, commands.yml and gpu-tier.yml, too, from the"
        yield "starters (workflows/ of ml-test-action); `mltiers run TIER --no-dispatch` runs any tier where you are."


def _sources(facts: RepositoryFacts) -> list[str]:
    """`src` if there is one, else the top-level packages that are not tests, else everything."""
    code = [file.path for file in facts.files if file.path not in facts.test_paths]
    if any(path.startswith("src/") for path in code):
        return ["src"]
    tops = {path.split("/")[0] for path in code if path.endswith("/__init__.py") and path.count("/") == 1}
    packages = sorted(top for top in tops if top.lower() not in TEST_FOLDERS and _writable(top))
    return packages or ["."]


def _workflow_text(facts: RepositoryFacts, starter: str) -> str:
    """The starter workflow with this repository's default branch, install line and configuration path."""
    head = "# Written by `mltiers init` from ml-test-action's starter workflow."
    text = re.sub(r"^# Copy to .*", head, starter, count=1)
    for words in ("push to {}", "branches: [{}]", "Pushes to {}", "every commit of {}"):
        text = text.replace(words.format("main"), words.format(facts.default_branch))
    options = "".join(f"{_install(option, facts.prefix)} " for option in facts.install)
    text = text.replace("-r requirements.txt ", options)
    if facts.prefix:
        # The path of a folder may hold what YAML reads as syntax.
        text = re.sub(
            r"run: (python -m pip .*)", lambda found: f"run: {json.dumps(found[1], ensure_ascii=False)}", text
        )
        text = f"{text.rstrip()}\n        with:\n          config: {_scalar(f'{facts.prefix}/{CONFIG}')}\n"
    return text


def _install(option: str, prefix: str) -> str:
    """One of pip's arguments as the shell line of the workflow needs it."""
    flag, _, target = option.partition(" ")
    path = target if not prefix else f"./{prefix}" if target == "." else f"{prefix}/{target}"
    return f"{flag} {shlex.quote(path)}"


def _message(facts: RepositoryFacts) -> str:
    lines = [
        f"  {tier.name}: {_count(tier.count(facts), 'test function')}, on {KINDS[tier.kind][1].strip('[]')}"
        for tier in draft_tiers(facts)
    ]
    for path in facts.workflows:
        if path != WORKFLOW:
            lines.append(f"note: {path} runs tests as well; the same ones would run twice")
    if not facts.install:
        lines.append(f"note: nothing that pip could install was found: {WORKFLOW} installs pytest only")
    return "\n".join(["tiers:", *lines, *(f"note: {note}" for note in facts.notes)])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _writable(path: str) -> bool:
    """Whether a path can stand in ml-tiers.yml at all: file systems allow more than its rules do."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return not _UNWRITABLE.search(path)


def _nearest(path: str) -> str:
    """The path itself, or the nearest folder above that can be written."""
    while not _writable(path):
        path = path.rpartition("/")[0] or "."
    return path


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(_scalar(word) for word in words)}]"


def _scalar(word: str) -> str:
    """A YAML scalar that reads as this text in a flow list: plain where that is safe, else as JSON writes it."""
    plain = re.fullmatch(r"-{0,2}[A-Za-z_./][\w./=-]*", word, re.ASCII) and isinstance(resolve(word), str)
    return word if plain else json.dumps(word, ensure_ascii=False)
