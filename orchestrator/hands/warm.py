"""Warm workers, our side: reads what a tier's tests import, starts pytest through the plugin's fork server, and says
what became of it. What is forked, and when not, is decided in ``preload`` and in the plugin's ``warm`` package.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from orchestrator.mind.config import Config, Tier
from orchestrator.mind.preload import MOST_FILES, keeping, survey
from orchestrator.mind.tracing import FILES as COVERAGE_FILES
from orchestrator.mind.tracing import Measuring, measuring
from orchestrator.tools.kept import Kept
from orchestrator.tools.plugin import plugin_folder
from orchestrator.words.environment import Environment
from orchestrator.words.plan import Plan, Suite, TierPlan

REPORT = "warm.json"
_SETTINGS = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg", "pytest.toml")
_NOT_OURS = frozenset(("node_modules", "build", "dist", "__pycache__", "venv", "site-packages"))
_MAX_BYTES = 1 << 20


def survey_suites(config: Config, root: Path, variables: Mapping[str, str]) -> dict[str, Suite]:
    """What the tests of each tier import, by tier, where it matters. Empty where nothing can be forked (macOS).

    ``variables``: the environment the tests inherit.
    """
    if not sys.platform.startswith("linux"):
        return {}

    @cache
    def read(path: str) -> str | None:
        try:
            with (root / path).open("rb") as file:
                return file.read(_MAX_BYTES).decode(errors="replace")
        except OSError:
            return None

    roots = _roots(config, root)
    settings = [text for name in _SETTINGS if (text := read(name)) is not None and "-p" in text]
    options = [
        variables.get("PYTEST_ADDOPTS", ""),
        *(f"-p {n}" for n in variables.get("PYTEST_PLUGINS", "").split(",")),
    ]
    surveys: dict[tuple[str, ...], Suite] = {}
    found = {}
    for name, tier in config.tiers.items():
        if (tier.warm is False and not tier.gpus) or tier.benchmark is not None:
            continue
        key = (*tier.paths, "", *tier.args)
        if key not in surveys:
            surveys[key] = survey(
                _test_files(tier, root), read, roots=roots, settings=[*settings, *options, " ".join(tier.args)]
            )
        found[name] = surveys[key]
    return found


def survey_coverage(root: Path, variables: Mapping[str, str]) -> Measuring:
    """What the settings of the project ask of coverage.py. ``variables``: the environment the tests inherit."""
    files = {}
    for name in dict.fromkeys((*COVERAGE_FILES, *_SETTINGS)):
        with contextlib.suppress(OSError), (root / name).open("rb") as file:
            files[name] = file.read(_MAX_BYTES).decode(errors="replace")
    return measuring(files, [variables.get("PYTEST_ADDOPTS", "")])


def warm_command(tier: TierPlan, folder: Path, plugin: Path, *, kept: bool = False) -> tuple[str, ...]:
    """The tier's command, through the fork server where it is warm. ``plugin``: the folder of ``pytest_mltiers``;
    ``kept``: whether there is a process to fork the server from, without which one process alone has nothing to gain.

    Writes the server's order into ``folder``. Raises OSError where it cannot.
    """
    python, *rest = tier.command
    if tier.warmth is None or not tier.warmth.warm or rest[:2] != ["-m", "pytest"]:
        return tier.command
    if tier.workers == 1 and not kept:
        return tier.command
    suite = tier.warmth.suite
    order = {
        "modules": suite.modules,
        "later": suite.later,
        "own": suite.own,
        "rewritten": suite.rewritten,
        "sets": suite.sets,
        "alone": tier.workers == 1,
    }
    (folder / REPORT).write_text(json.dumps(order))
    start = plugin / "pytest_mltiers" / "warm" / "start.py"
    return (python, str(start), str(folder / REPORT), "--", *rest[2:])


def imported_ahead(tier: TierPlan, folder: Path) -> float | None:
    """Seconds that imports took in the process that the tier was forked from; None: it was not, or nobody knows."""
    if tier.warmth is None or not tier.warmth.warm:
        return None
    try:
        told = json.loads((folder / REPORT).read_bytes())
        return float(told["seconds"]) if told["warm"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def became_of_it(tier: TierPlan, folder: Path) -> tuple[str, ...]:
    """What the fork server did, for the tier's notes."""
    if tier.warmth is None or not tier.warmth.warm:
        return ()
    try:
        told = json.loads((folder / REPORT).read_bytes())
        left_out = "".join(f"; {name} was left out: it {why}" for name, why in told["without"].items())
        if not told["warm"]:
            return (f"{'plain workers' if tier.workers > 1 else 'not warm'}: {told['reason']}",)
        if not (told["modules"] or left_out or told.get("fresh")):
            return ()  # pytest alone
        names = ", ".join(told["modules"][:6]) or "pytest alone"
        which = "the process kept for this run, which" if told.get("kept") else "a process that"
        afresh = f"; not from {told['fresh']}" if told.get("fresh") else ""
        who = "warm workers" if tier.workers > 1 else "warm"
        return (f"{who}: forked from {which} had imported {names} in {told['seconds']:.1f} s{left_out}{afresh}",)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if tier.workers == 1:
            return ()
        return ("plain workers: the process to fork them from did not come up",)


def with_plugin(env: dict[str, str], tier: TierPlan) -> dict[str, str]:
    """The environment of a tier's tests with the folder of ``pytest_mltiers``, which is changed by this."""
    if tier.python is None or tier.python.plugin is None:
        # Found through PYTHONPATH, so that xdist's workers find it too; a copy of the user's own comes first.
        inherited = env.get("PYTHONPATH")
        env["PYTHONPATH"] = f"{plugin_folder()}:{inherited}" if inherited else str(plugin_folder())
    return env


class KeepingWarm:
    """A context manager: the process that is kept warm for a run, from the moment a plan says what it has to import.

    ``kept``: one that waits to be told that.
    """

    def __init__(self, environment: Environment, kept: Kept | None = None) -> None:
        self._environment = environment
        self.kept = kept

    def __enter__(self) -> KeepingWarm:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def start(self, plan: Plan, root: Path) -> None:
        """Start it where a tier of the plan is to be forked from it; with a later plan, go on with it if it will do."""
        wanted = keeping(plan.tiers)
        if self.kept is not None and wanted is not None and self.kept.serves(wanted):
            return
        waiting = self.kept is not None and self.kept.keeping is None
        if wanted is None or self.kept is None or not waiting or self.kept.python != wanted.python:
            self._close()
        if wanted is None:
            return
        tier = next(tier for tier in plan.tiers if tier.name in wanted.tiers)
        variables = with_plugin(self._environment.for_tests(wanted.env), tier)
        # Without it a tier imports for itself.
        with contextlib.suppress(OSError):
            if self.kept is None:
                self.kept = Kept(wanted.python, root=root, variables=variables, plugin=plugin_folder())
            self.kept.keep(wanted, variables)

    def end(self) -> None:
        """Have it end, where there is one, while we go on."""
        if self.kept is not None:
            self.kept.end()

    def _close(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None


def _roots(config: Config, root: Path) -> tuple[str, ...]:
    """The folders that the project's packages lie in, from its root: "", `src`, and those of `source`."""
    parents = {""}
    for source in ("src", *config.source):
        folder = source.strip("/").removeprefix("./")
        if folder in (".", "") or folder.startswith(".."):
            continue
        if (root / folder / "__init__.py").exists():
            parents.add(os.path.dirname(folder))  # noqa: PTH120
        elif (root / folder).is_dir():
            parents.add(folder)
    return tuple(sorted(parents))


def _test_files(tier: Tier, root: Path) -> list[str]:
    """Conftests first, from the outermost on, then everything below the tier's paths."""
    conftests: dict[str, None] = {}
    others: dict[str, None] = {}
    for path in tier.paths or (".",):
        file = path.partition("::")[0].strip("/").removeprefix("./")
        above = file
        chain = []
        while above not in ("", "."):
            above = os.path.dirname(above)  # noqa: PTH120
            chain.append(f"{above}/conftest.py" if above else "conftest.py")
        for conftest in [*reversed(chain), "conftest.py"]:
            conftests.setdefault(conftest)
        for found in _python_files(root, file):
            (conftests if found.endswith("conftest.py") else others).setdefault(found)
    return [*conftests, *others]


def _python_files(root: Path, start: str) -> Iterator[str]:
    if start.endswith(".py"):
        yield start
        return
    count = 0
    for folder, folders, files in os.walk(root / start if start not in ("", ".") else root):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _NOT_OURS)
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        for file in sorted(files):
            if file.endswith(".py"):
                count += 1
                if count > MOST_FILES:
                    return
                yield (Path(folder) / file).relative_to(root).as_posix()
