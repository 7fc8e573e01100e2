"""What a tier's tests import, read from their text, and whether its workers may be forked from one process. Pure.

Only what a file imports when it is imported itself counts (a statement at the left margin): that is what every worker
does before its first test, and what one process can do for all of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from orchestrator.words.plan import Keeping, PythonFacts, Suite, TierPlan, Warmth

MOST_FILES = 3000

_IMPORT = re.compile(
    r"^(?:from[ \t]+(?P<source>\.*[\w.]*)[ \t]+import[ \t]*(?:\((?P<many>[^)]*)\)|(?P<few>[^\n#;]*))"
    r"|import[ \t]+(?P<modules>[^\n#;]+))",
    re.MULTILINE,
)
_SETS = re.compile(
    r"""(?:environ\[\s*["'](\w+)["']\s*\]\s*=[^=]|environ\.setdefault\(\s*["'](\w+)["']|putenv\(\s*["'](\w+)["'])"""
)
_REWRITES = re.compile(
    r"register_assert_rewrite\(([^)]*)\)|^pytest_plugins\s*(?::[^=\n]*)?=\s*([(\[][^)\]]*|[^\n]*)", re.M
)
_STRING = re.compile(r"""["']([\w.]+)["']""")
_PLUGIN_OPTION = re.compile(r"(?:^|[\s\"'])-p[\s\"',=]*([A-Za-z_][\w.]*)")

_COMPILES = re.compile(
    r"\btorch\.(?:compile|cond|_dynamo|_inductor|export\.export|onnx\.export|utils\.checkpoint\.checkpoint)\b"
    r"|^\s*from torch import .*\bcompile\b|^\s*from torch\.(?:export|utils\.checkpoint) import"
    r"|\b(?:make_fx|fully_shard|DistributedDataParallel)\(",
    re.MULTILINE,
)
_SAYS_MEMORY = "gpu_memory"
LAZY = "torch._dynamo"
"""What torch imports when something is first compiled: that takes as long as torch itself. Where one test compiles, its
worker imports it while the others are busy; where more do, no worker is spared. Torch imports it for the first
optimiser, too, but has no use for it there: the plugin has a stand-in for that."""

Read = Callable[[str], str | None]
"""The text of a file by its POSIX path from the project's root; None: there is none."""


def survey(tests: Iterable[str], read: Read, *, roots: Sequence[str], settings: Iterable[str] = ()) -> Suite:
    """What these test files, and the project's files that they import, bring with them.

    ``tests``: paths from the root, conftests first. ``roots``: folders that the project's own packages lie in ("" is
    the root). ``settings``: the text of pytest's configuration files, and further arguments.
    """
    outside: dict[str, None] = {}
    own: set[str] = set()
    sets: set[str] = set()
    rewritten: set[str] = set()
    tests = list(dict.fromkeys(tests))
    waiting = [path for path in tests if path.endswith("conftest.py")]
    later = [path for path in tests if not path.endswith("conftest.py")]
    given = frozenset(tests)
    seen = set(tests)
    first = 0  # how many modules the conftests, and what they import, have brought
    compiling: dict[str, int] = {}  # by file: in how many places it does
    gpu_memory = False
    used: dict[str, set[str]] = {}  # by test file or conftest: itself, and the project's files that it names
    while waiting or later:
        if not waiting:
            waiting, later, first = later, [], len(outside)
        path = waiting.pop(0)
        text = read(path)
        if text is None or len(seen) > MOST_FILES:
            continue
        compiling[path] = len(_COMPILES.findall(text))
        names = used.setdefault(path, {path}) if path in given else set()
        gpu_memory = gpu_memory or _SAYS_MEMORY in text
        own.update(_names(path, read))
        sets.update(name for found in _SETS.findall(text) for name in found if name)
        for found in _REWRITES.findall(text):
            rewritten.update(name.partition(".")[0] for part in found for name in _STRING.findall(part))
        folder = path.rpartition("/")[0]
        for module, children in _imports(text, folder):
            files = list(_files(module, children, (*roots, folder), read))
            if files:
                names.update(file for file in files if not _is_above(file, files))
                if "/" not in module:
                    own.add(module.partition(".")[0])
                waiting += [file for file in files if file not in seen]
                seen.update(files)
            elif "/" not in module:
                outside.setdefault(module)
    for text in settings:
        rewritten.update(name.partition(".")[0] for name in _PLUGIN_OPTION.findall(text))
    left_alone = own | rewritten | sys.stdlib_module_names | {"pytest", "_pytest"}
    if _compiled(compiling, used) > 1 and any(module.partition(".")[0] == "torch" for module in outside):
        outside.setdefault(LAZY)
    taken = [[m for m in part if m.partition(".")[0] not in left_alone] for part in _cut(list(outside), first)]
    return Suite(
        modules=tuple(taken[0]),
        later=tuple(taken[1]),
        own=tuple(sorted(own)),
        rewritten=tuple(sorted(rewritten)),
        sets=tuple(sorted(sets)),
        gpu_memory=gpu_memory,
    )


def _compiled(compiling: Mapping[str, int], used: Mapping[str, Collection[str]]) -> int:
    """In how many places tests compile something; what a conftest does is done for more than one."""
    return sum(
        (2 if path.endswith("conftest.py") else 1) * sum(compiling.get(name, 0) for name in names)
        for path, names in used.items()
    )


def _cut(names: list[str], at: int) -> tuple[list[str], list[str]]:
    return names[:at], names[at:]


def _imports(text: str, folder: str) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of each import. A relative one gives a path: ``tests/unit/helpers``."""
    for match in _IMPORT.finditer(text):
        if match["modules"] is not None:
            for part in match["modules"].split(","):
                yield part.split(" as ")[0].strip(), []
            continue
        source = match["source"]
        names = [name.split(" as ")[0].strip() for name in (match["many"] or match["few"] or "").split(",")]
        names = [name for name in names if name.isidentifier()]
        module = source.lstrip(".")
        dots = len(source) - len(module)
        if not dots:
            yield module, names
            continue
        base = folder.split("/")
        base = base[: len(base) - dots + 1] if folder else []
        yield "/".join([*base, *filter(None, module.split("."))]) + ("/" if not module else ""), names


def _files(module: str, children: Sequence[str], roots: Sequence[str], read: Read) -> Iterator[str]:
    """The project's files that an import of this module, or of these from it, executes."""
    parts = [part for part in re.split(r"[./]", module) if part]
    for root in dict.fromkeys(("",) if "/" in module else roots):
        prefix = f"{root}/" if root else ""
        found = []
        for end in range(1, len(parts) + 1):
            found += _one(prefix + "/".join(parts[:end]), read)
        for child in children:  # also where there is no file for the module: a folder need not have an __init__.py
            found += _one("/".join([*filter(None, [root]), *parts, child]), read)
        if found:
            yield from found
            return


def _is_above(file: str, files: Sequence[str]) -> bool:
    """Whether it is the package of another one of them, and not what was asked for."""
    folder, _, name = file.rpartition("/")
    return name == "__init__.py" and any(other != file and other.startswith(f"{folder}/") for other in files)


def _one(stem: str, read: Read) -> list[str]:
    return [path for path in (f"{stem}/__init__.py", f"{stem}.py") if read(path) is not None]


def _names(path: str, read: Read) -> Iterator[str]:
    """The top-level name that pytest or an import may know this file by."""
    folder, _, file = path.rpartition("/")
    name = file.removesuffix(".py")
    while folder and read(f"{folder}/__init__.py") is not None:
        folder, _, name = folder.rpartition("/")
    yield name


def warmth(
    wanted: bool | str, modules: Sequence[str] | str, suite: Suite | None, python: PythonFacts, *, workers: int
) -> Warmth | None:
    """Whether the tier's workers are forked, and why not. ``wanted``, ``modules``: `warm` and `preload` as configured.

    None: there is nothing to fork, or nobody wants it. Of one process alone, which can only be forked from a process
    that is kept for the run, it is not said why it is not.
    """
    found = _warmth(wanted, modules, suite, python)
    return found if workers > 1 or (found is not None and found.warm) else None


def _warmth(
    wanted: bool | str, modules: Sequence[str] | str, suite: Suite | None, python: PythonFacts
) -> Warmth | None:
    if wanted is False:
        return None
    if suite is None:
        return Warmth(warm=False, reason="only on Linux")
    if not python.version.startswith("3.") or tuple(map(int, python.version.split(".")[:2])) < (3, 10):
        return Warmth(warm=False, reason=f"Python {python.version} is older than 3.10")
    if modules != "auto":
        early = tuple(module for module in modules if module in suite.modules)
        suite = replace(suite, modules=early, later=tuple(module for module in modules if module not in early))
    return Warmth(warm=True, reason="", suite=replace(suite, sets=() if wanted is True else suite.sets))


def keeping(tiers: Sequence[TierPlan]) -> Keeping | None:
    """The process to keep for a run of these tiers, and which of them are to be forked from it; None: for none.

    It imports what all of these tiers import: one that had imported more could be told apart. A tier that has less than
    half of that in common with those before it is not one of them, nor is one that imports nothing ahead, unless none
    does. For one tier alone that starts at once it imports what its controller needs, too, or what its tests are sure
    to.
    """
    warm = [
        tier for tier in tiers if tier.run and tier.where == "here" and tier.warmth is not None and tier.warmth.warm
    ]
    warm.sort(key=lambda tier: (not _brought(tier), bool(tier.needs), -tier.priority))
    if not warm:
        return None
    # One process alone has as many threads as there are cores, each of several workers has its part: their variables
    # differ, and so do their processes. Where only one of the two can be kept, workers gain more by it.
    alike = max(
        ([tier for tier in warm if _kind(tier) == kind] for kind in dict.fromkeys(map(_kind, warm))),
        key=lambda group: (any(map(_brought, group)), len(group), max(tier.workers for tier in group) > 1),
    )
    first = alike[0]
    common = _brought(first)
    served = [first]
    for tier in alike[1:]:
        shared = [module for module in common if module in _brought(tier)]
        if 2 * len(shared) >= len(common):
            common = shared
            served.append(tier)
    if len(served) == 1 and not first.needs:
        early = _suite(first).modules if first.workers > 1 else [module for module in common if module != LAZY]
        common = [module for module in common if module in early]
    suites = [_suite(tier) for tier in served]
    return Keeping(
        python=first.command[0],
        env=first.env,
        modules=tuple(common),
        own=tuple(sorted({name for suite in suites for name in suite.own})),
        rewritten=tuple(sorted({name for suite in suites for name in suite.rewritten})),
        tiers=frozenset(tier.name for tier in served),
    )


def _kind(tier: TierPlan) -> tuple[object, ...]:
    """What two tiers have in common that can be forked from one process."""
    return (*tier.command[:1], *sorted(tier.env.items()))


def _suite(tier: TierPlan) -> Suite:
    return tier.warmth.suite if tier.warmth is not None else Suite()


def _brought(tier: TierPlan) -> list[str]:
    suite = _suite(tier)
    return [*suite.modules, *suite.later]


def said(warmth: Warmth, *, workers: int) -> str | None:
    """The plan's note about it; None: it is not worth one."""
    if not warmth.warm:
        return f"plain workers: {warmth.reason}"
    who = "warm workers" if workers > 1 else "warm"
    names = list(dict.fromkeys(module.partition(".")[0] for module in (*warmth.suite.modules, *warmth.suite.later)))
    if not names:
        return None
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{who}: forked from one process that has imported what there is of {shown}"
