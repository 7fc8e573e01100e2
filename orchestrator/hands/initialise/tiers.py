"""Which tiers a repository's tests fall into: by their folders' names, and by markers that say what they cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from orchestrator.hands.initialise.facts import RepositoryFacts

GPU_MARKERS = frozenset({"gpu", "gpus", "cuda", "requires_gpu", "requires_cuda", "needs_gpu", "multi_gpu", "multigpu"})
SLOW_MARKERS = ("convergence", "training", "nightly", "slow", "expensive", "large")
_FOLDERS: dict[str, frozenset[str]] = {
    "integration": frozenset({"integration", "integrations", "integration_tests"}),
    "end-to-end": frozenset({"e2e", "end_to_end", "end-to-end", "system", "functional", "acceptance"}),
    "regression": frozenset({"regression", "regressions", "golden"}),
    "speed": frozenset({"benchmark", "benchmarks", "bench", "perf", "performance", "speed"}),
    "convergence": frozenset({"convergence", "training"}),
    "gpu": frozenset({"gpu", "gpus", "cuda"}),
    "unit": frozenset({"unit"}),
}
_TOP_FOLDERS = frozenset({"benchmark", "benchmarks", "bench", "e2e", "integration_tests"})
TEST_FOLDERS = frozenset({"tests", "test", "testing", "unit_tests"})

# Why the tier is there, when it runs, its budget.
KINDS: dict[str, tuple[str, str, str]] = {
    "unit": ("Fast and alone: what every push waits for.", "[push, pull_request]", "5m"),
    "integration": ("Parts together.", "[push, pull_request]", "10m"),
    "end-to-end": ("The whole, from outside.", "[push, pull_request]", "15m"),
    "regression": ("Known inputs give known results.", "[push, pull_request]", "10m"),
    "speed": ("Benchmarks, one process at a time.", "[pull_request]", "10m"),
    "convergence": ("Does it still learn? Too long for every push.", "[nightly]", "30m"),
    "gpu": ("What only a GPU can say.", "[nightly, pre-merge]", "30m"),
}


class DraftTier(Struct, frozen=True, kw_only=True):
    """One tier of the draft. A test is in it if it lies in ``paths``, not in ``ignored``, and its markers fit."""

    name: str
    kind: str
    why: str
    paths: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()  # any of these markers; none named: all tests
    unwanted: tuple[str, ...] = ()
    benchmark: bool = False
    only_benchmarks: bool = False
    notes: tuple[str, ...] = ()

    @property
    def markers(self) -> str:
        """The marker expression."""
        either = " or ".join(self.wanted)
        parts = [f"({either})" if len(self.wanted) > 1 and self.unwanted else either] if either else []
        return " and ".join([*parts, *(f"not {marker}" for marker in self.unwanted)])

    def count(self, facts: RepositoryFacts) -> int:
        """How many of the test functions that were found it collects; one for markers seen on parameters only."""
        number = 0
        for file in facts.tests:
            if is_inside(file.path, self.paths) and not is_inside(file.path, self.ignored):
                cases = [case for case in file.cases if case.benchmark or not self.only_benchmarks]
                chosen = [case for case in cases if self._chooses(case.markers)]
                loose = file.markers.difference(*(case.markers for case in file.cases))
                number += len(chosen) or bool(loose & set(self.wanted))
        return number

    def _chooses(self, markers: frozenset[str]) -> bool:
        return (not self.wanted or bool(markers & set(self.wanted))) and not markers & set(self.unwanted)


def draft_tiers(facts: RepositoryFacts) -> tuple[DraftTier, ...]:
    """The tiers: folders first, by their names, then markers that say a test is expensive. None without a test."""
    grouped: dict[str, set[str]] = {}  # kind → folders
    for file in facts.tests:
        kind, folder = _place(file.path)
        grouped.setdefault(kind, set()).add(folder)
    used = {marker for file in facts.tests for marker in file.markers}
    gpu = tuple(sorted(used & GPU_MARKERS))
    slow = tuple(marker for marker in SLOW_MARKERS if marker in used)
    tiers = [_folder_tier(kind, grouped, gpu, slow, facts) for kind in KINDS if kind in grouped]
    if "speed" not in grouped:
        tiers += _benchmark_tier(facts, (*gpu, *slow))
    tiers += _marker_tiers(facts, grouped, gpu, slow)
    return tuple(tier for tier in tiers if tier.count(facts))


def _folder_tier(
    kind: str, grouped: dict[str, set[str]], gpu: tuple[str, ...], slow: tuple[str, ...], facts: RepositoryFacts
) -> DraftTier:
    paths = outermost(grouped[kind])
    others = (folder for other, folders in grouped.items() if other != kind for folder in folders)
    ignored = outermost(folder for folder in others if folder not in paths and is_inside(folder, paths))
    return DraftTier(
        name=kind,
        kind=kind,
        why=KINDS[kind][0],
        paths=paths,
        ignored=ignored,
        unwanted={"gpu": (), "convergence": gpu}.get(kind, (*gpu, *slow)),
        benchmark=kind == "speed"
        and any(case.benchmark for file in facts.tests if is_inside(file.path, paths) for case in file.cases),
        notes=("what is ignored here has tiers of its own",) if ignored else (),
    )


def _benchmark_tier(facts: RepositoryFacts, expensive: tuple[str, ...]) -> list[DraftTier]:
    """Benchmarks that have no folder of their own: their files."""
    files = [file.path for file in facts.tests if any(case.benchmark for case in file.cases)]
    if not files:
        return []
    tier = DraftTier(
        name="speed",
        kind="speed",
        why=KINDS["speed"][0],
        paths=outermost(files),
        unwanted=expensive,
        benchmark=True,
        only_benchmarks=True,
        notes=("the other tiers run these tests too, but do not measure",),
    )
    return [tier]


def _marker_tiers(
    facts: RepositoryFacts, grouped: dict[str, set[str]], gpu: tuple[str, ...], slow: tuple[str, ...]
) -> list[DraftTier]:
    """One tier per marker that says "slow", each without those before it, and one for all that say "GPU"."""
    roots = outermost(_root(file.path) for file in facts.tests)
    gpu_folders = outermost(grouped.get("gpu", ()))
    folders = outermost([*gpu_folders, *grouped.get("convergence", ())])

    def named(name: str) -> str:
        return f"{name}-marked" if name in grouped else name

    tiers = [
        DraftTier(
            name=named(marker),
            kind="convergence",
            why=f"Marked {marker}: too long for every push.",
            paths=roots,
            ignored=folders,
            wanted=(marker,),
            unwanted=(*slow[:number], *gpu),
        )
        for number, marker in enumerate(slow)
    ]
    if gpu:
        tiers.append(
            DraftTier(name=named("gpu"), kind="gpu", why=KINDS["gpu"][0], paths=roots, ignored=gpu_folders, wanted=gpu)
        )
    return tiers


def _place(path: str) -> tuple[str, str]:
    """The kind of a test file, and the folder (or file) that stands for it in a tier's paths."""
    folders = path.split("/")[:-1]
    below = next((depth for depth, folder in enumerate(folders) if folder.lower() in TEST_FOLDERS), len(folders))
    for kinds in (("gpu",), ("convergence",), tuple(_FOLDERS)):  # what costs most decides, wherever it stands
        for depth, folder in enumerate(folders):
            for kind in kinds:
                # Outside the tests a folder is named for the code in it: `training` says nothing about cost.
                known = _FOLDERS[kind] if depth > below else _FOLDERS[kind] & _TOP_FOLDERS if depth == 0 else ()
                if folder.lower() in known:
                    return kind, "/".join(folders[: depth + 1])
    return "unit", _root(path)


def _root(path: str) -> str:
    """The tests folder that a file is in; for a test beside the code its folder; at the top, the file itself."""
    folders = path.split("/")[:-1]
    for depth, folder in enumerate(folders, 1):
        if folder.lower() in TEST_FOLDERS:
            return "/".join(folders[:depth])
    return "/".join(folders) or path


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Without those that lie inside another one."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not is_inside(path, kept):
            kept.append(path)
    return tuple(kept)


def is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of these or below one."""
    return any(folder in (".", path) or path.startswith(f"{folder}/") for folder in folders)
