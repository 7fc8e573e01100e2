"""Runs a tier's benchmarks on base and head by turns until each is decided or the time is used up. Hands.

What decides is `orchestrator.mind.compare`; how two pytests take turns is `orchestrator.tools.lockstep`; here are the
folders, the checks that base and head really are two different programs, and the clock.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.hands.base_tree import (
    Base,
    base_tree,
    bring_generated,
    environment_differs,
    importable_names,
    lay_over,
)
from orchestrator.mind.compare import MOST_BLOCKS, RESOLUTION, block_value, estimate, least_blocks, undecided
from orchestrator.mind.render.words import plural
from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.git import GitError
from orchestrator.tools.process import supervise
from orchestrator.words.plan import TierPlan
from orchestrator.words.results import BenchmarkChange, Change, Comparison, Ending

_START = "import sys; sys.path.append(sys.argv[1]); from orchestrator.tools.lockstep import main; main()"
_MARGIN = 3.0  # seconds kept back of the budget for what comes after: tidying up, reading, writing
_LEAST_VISITS, _MOST_VISITS = 2, 12
_TAIL = 3000  # characters of what a side printed that are kept


class IncomparableError(Exception):
    """Base and head cannot be compared; the message says why. ``detail``: what the side that failed printed."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Bench(Struct, frozen=True, kw_only=True):
    """Where and how the benchmarks of one tier run."""

    tier: TierPlan
    root: Path  # the configuration's folder
    source: tuple[str, ...]
    env: Mapping[str, str]  # of the tests' processes
    plugin: Path | None  # the folder of our plugin; None: the tests' Python has its own
    cancel: Cancellation
    seed: int
    say: Callable[[str], None] = field(default=lambda _: None)


def compare_with_base(bench: Bench, base: Base, *, tests: Sequence[str], seconds: float) -> Comparison:
    """Compare the tier's benchmarks on the files on disk with the same benchmarks on the base commit.

    ``tests``: the node ids of those that ran well on the head. ``seconds``: at most so long. Never raises for what the
    tests or git do.
    """
    began = time.monotonic()
    found = Comparison(against="base", base=base.sha, gate=bench.tier.gate, seed=bench.seed)
    try:
        changed = _changed(base)
        if all(path.startswith("../") for path in changed):
            where = " in this folder" if changed else ""
            return replace(found, notes=(f"nothing is changed{where} against the base, so nothing was compared",))
        with base_tree(base) as tree, tempfile.TemporaryDirectory(prefix="mltiers-blocks-") as folder:
            target = tree / base.prefix
            files = {test.partition("::")[0] for test in tests}
            over = lay_over(bench.root, target, paths=bench.tier.paths, source=bench.source, files=files)
            generated = bring_generated(base, bench.root, target, bench.source)
            laying_out = time.monotonic() - began  # and about as long to tidy up
            run = _Run(bench, base, tree, Path(os.path.realpath(folder)), began + seconds - laying_out - _MARGIN)
            found = run.compare(found, list(dict.fromkeys(tests)), over, changed)
            if generated:
                what = ", ".join(generated[:3]) + (" …" if generated[3:] else "")
                note = f"files that git ignores were taken from the head: {what}"
                found = replace(found, notes=(*found.notes, note))
    except IncomparableError as problem:
        found = replace(found, problem=str(problem), detail=problem.detail)
    except GitError as error:
        found = replace(found, problem=error.message)
    except OSError as error:
        found = replace(found, problem=f"the base could not be laid out: {error}")
    return replace(found, seconds=time.monotonic() - began)


def _changed(base: Base) -> set[str]:
    """The files that differ between the base and the disk, relative to the configuration's folder."""
    if base.git is None or base.sha is None:
        raise IncomparableError(base.absent)
    own = base.prefix
    listed = base.git.working_tree_changes(base.sha)
    paths = {path for file in listed for path in (file.path, file.old_path) if path}
    return {path.removeprefix(own) if path.startswith(own) else f"../{path}" for path in paths}


class _Run:
    """The blocks of one comparison."""

    def __init__(self, bench: Bench, base: Base, tree: Path, folder: Path, until: float) -> None:
        self._bench = bench
        self._base = base
        self._tree = tree
        self._folder = folder
        self._until = until  # on the monotonic clock
        self._head_top = base.top or bench.root
        self._trouble: str | None = None  # why it went no further

    def compare(self, found: Comparison, wanted: list[str], over: set[str], changed: set[str]) -> Comparison:
        rehearsal = self._block(seed=self._bench.seed, tests=wanted, visits=1)
        if rehearsal is None:
            raise IncomparableError("the budget left too little time to run base and head even once")
        check_sides(
            rehearsal["sides"],
            names=importable_names(self._bench.root, self._bench.source),
            head=self._head_top,
            base=self._tree,
            tests=over,
            root=self._bench.root,
        )
        alone = _alone(rehearsal, wanted)
        tests = [test for test in wanted if test not in alone]
        where = rehearsal["sides"]["head"]["files"]
        edited = {test for test in tests if os.path.relpath(where[test], self._bench.root) in changed}
        notes = []
        if others := environment_differs(changed):
            notes.append(f"{', '.join(others)} differs from the base's: both ran with what is installed here")
        values, seconds, blocks = self._blocks(tests, rehearsal)
        gate = RESOLUTION if self._bench.tier.gate is None else self._bench.tier.gate
        changes = []
        for test in tests:
            told = estimate(values[test], gate=gate, benchmarks=self._family(tests)) if values[test] else None
            changes.append(
                BenchmarkChange(
                    name=test,
                    change=told.change if told else Change.UNDECIDED,
                    ratio=told.ratio if told else 1.0,
                    low=told.low if told else 0.0,
                    high=told.high if told and told.high < float("inf") else None,
                    blocks=told.blocks if told else 0,
                    seconds=median(seconds[test]) if told else 0.0,
                    edited=test in edited,
                )
            )
        if self._trouble is not None:
            notes.append(self._trouble)
        elif tests and blocks < least_blocks(self._family(tests)):
            notes.append(
                f"the budget allowed {plural(blocks, 'pair')} of runs; nothing can be decided before "
                f"{least_blocks(self._family(tests))}"
            )
        return replace(found, changes=tuple(changes), alone=alone, notes=tuple(notes), blocks=blocks)

    def _family(self, tests: Sequence[str]) -> int:
        """How many benchmarks share the error: those of the tier's other parts, too, which are about as many."""
        return len(tests) * self._bench.tier.shards

    def _blocks(
        self, tests: Sequence[str], rehearsal: Mapping[str, Any]
    ) -> tuple[dict[str, list[float]], dict[str, list[float]], int]:
        """Run blocks till all is decided or there is no time for another. Per test one value and the head's time."""
        gate = RESOLUTION if self._bench.tier.gate is None else self._bench.tier.gate
        values: dict[str, list[float]] = {test: [] for test in tests}
        seconds: dict[str, list[float]] = {test: [] for test in tests}
        last, visits, blocks = rehearsal, 1, 0
        while blocks < MOST_BLOCKS and (left := undecided(values, gate=gate, benchmarks=self._family(tests))):
            per_visit = last["measuring"] / max(1, len(last["visits"]))
            starting = last["seconds"] - last["measuring"]
            visits = _visits(starting, per_visit * len(left))
            expected = starting + per_visit * len(left) * visits
            if time.monotonic() + 1.2 * expected > self._until or self._bench.cancel.is_set:
                break
            try:
                block = self._block(seed=self._bench.seed + 1 + blocks, tests=left, visits=visits)
            except IncomparableError as problem:
                self._trouble = f"after {plural(blocks, 'pair')} of runs: {problem}"  # what is measured still holds
                break
            if block is None:
                break
            last = block
            blocks += 1
            for test, pairs in _pairs(last).items():
                values[test].append(block_value(pairs))
                seconds[test].append(median(head for _, head in pairs))
            self._bench.say(f"{plural(blocks, 'pair')} of runs with the base, {len(left)} of {len(tests)} undecided")
        return values, seconds, blocks

    def _block(self, *, seed: int, tests: Sequence[str], visits: int) -> dict[str, Any] | None:
        """One block; None where the time was up before its end. Raises IncomparableError where a side gave up."""
        result, order = self._folder / "block.json", self._folder / "order.json"
        result.unlink(missing_ok=True)
        order.write_text(json.dumps(self._order(seed, tests, visits, result)), encoding="utf-8")
        done = supervise(
            [sys.executable, "-I", "-c", _START, str(Path(__file__).resolve().parents[2]), str(order)],
            cwd=self._folder,
            env=self._bench.env,
            deadline=max(0.1, self._until - time.monotonic()),
            cancel=self._bench.cancel,
        )
        if done.ending is Ending.DEADLINE:
            return None
        if done.ending is not Ending.EXITED:
            raise IncomparableError(f"base and head were stopped while they ran ({done.ending})")
        if not result.exists():
            raise IncomparableError("what takes turns between base and head broke down", done.output_tail)
        block: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        if (side := block.get("gone")) is not None:
            said = _tail(self._folder / f"{side}.log")
            raise IncomparableError(f"the {side} cannot run these benchmarks (exit code {block['codes'][side]})", said)
        return block

    def _order(self, seed: int, tests: Sequence[str], visits: int, result: Path) -> dict[str, Any]:
        names = importable_names(self._bench.root, self._bench.source)
        return {
            "seed": seed,
            "visits": visits,
            "tests": list(tests),
            "result": str(result),
            "task": {"watch": sorted(names), "roots": [str(self._head_top), str(self._tree)]},
            "sides": {
                "base": self._side("base", seed, self._tree / self._base.prefix, moved=True),
                "head": self._side("head", seed, self._bench.root, moved=False),
            },
        }

    def _side(self, name: str, seed: int, root: Path, *, moved: bool) -> dict[str, Any]:
        inherited = self._bench.env.get("PYTHONPATH", "")
        entries = [_moved(e, self._head_top, self._tree, self._bench.root) if moved else e for e in _split(inherited)]
        # The same on both sides: what the order of a set's elements costs is not the change's doing.
        env = {"PYTHONHASHSEED": self._bench.env.get("PYTHONHASHSEED", str(seed % 2**32))}
        if self._bench.plugin is not None:
            entries.insert(0, str(self._bench.plugin))
        if entries:
            env["PYTHONPATH"] = os.pathsep.join(entries)
        return {
            "command": list(self._bench.tier.command_by_turns),
            "cwd": str(root),
            "env": env,
            "log": str(self._folder / f"{name}.log"),
            "move": [str(self._head_top), str(self._tree)] if moved else None,
        }


def check_sides(
    sides: Mapping[str, Any], *, names: set[str], head: Path, base: Path, tests: set[str], root: Path
) -> None:
    """Raise IncomparableError unless each side imported the project from its own tree, and imported it at all.

    ``names``: the project's top-level modules. ``tests``: files that are the head's on both sides, relative to
    ``root``, the configuration's folder in the head's tree.
    """
    own = {"head": head, "base": base}
    theirs = {os.path.realpath(root / file) for file in tests}
    timed = False
    for side, top in own.items():
        for name, file in sorted(sides[side]["modules"].items()):
            if name.partition(".")[0] not in names or file in theirs:
                continue
            if not Path(file).is_relative_to(top):
                where = "an installed copy" if "site-packages" in file else "another folder"
                raise IncomparableError(
                    f"the {side} imports `{name}` from {where} ({file}), so base and head would run the same code: "
                    "install the project editable (`pip install -e .`) or put its source on PYTHONPATH"
                )
            timed = timed or side == "head"
    if not timed:
        raise IncomparableError(
            "the benchmarks import nothing of `source` but themselves, so what they time would be the same code on "
            "both sides: name the folder of the code they time under `source`"
        )


def _alone(rehearsal: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, str]:
    """The benchmarks that cannot be compared, and why."""
    base, head = rehearsal["sides"]["base"], rehearsal["sides"]["head"]
    alone = {}
    for test in wanted:
        if test not in head["collected"]:
            alone[test] = "was not collected again on the head"
        elif test not in base["collected"]:
            file = test.partition("::")[0]
            why = _last_line(base["uncollected"].get(file, ""))
            alone[test] = f"cannot be collected on the base: {why}" if why else "is not there on the base"
    for visit in rehearsal["visits"]:
        for side in ("base", "head"):
            if (problem := visit[side].get("problem")) is not None:
                alone.setdefault(visit["test"], f"does not run on the {side}: {_last_line(problem)}")
    return alone


def _pairs(block: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """What both sides measured, by test; a visit that failed on either side counts for nothing."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for visit in block["visits"]:
        both = (visit["base"].get("minimum"), visit["head"].get("minimum"))
        if all(isinstance(value, float) and value > 0 for value in both):
            pairs.setdefault(visit["test"], []).append(both)
    return pairs


def _visits(starting: float, cycle: float) -> int:
    """How many visits are worth a start: as many as take as long as it did. Even, so that each order is there twice."""
    wanted = round(starting / cycle / 2) * 2 if cycle > 0 else _MOST_VISITS
    return min(_MOST_VISITS, max(_LEAST_VISITS, wanted))


def _moved(entry: str, source: Path, target: Path, root: Path) -> str:
    """An entry of PYTHONPATH as the base needs it: relative ones are relative to the folder pytest starts in."""
    real = Path(os.path.realpath(root / entry))
    if not real.is_relative_to(source):
        return entry
    inside = target / real.relative_to(source)
    return str(inside) if inside.exists() else str(real)


def _split(path: str) -> list[str]:
    return path.split(os.pathsep) if path else []


def _last_line(text: str) -> str:
    lines = [line.removeprefix("E").strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("E ").strip() for line in text.splitlines() if line.startswith("E ")]
    return (errors or lines or [""])[-1][:300]


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
    except OSError:
        return ""
