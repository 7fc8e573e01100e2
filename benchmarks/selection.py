"""How many faults are found in a part of the time: the order of `fit` against other orders. Writes selection.md.

    python benchmarks/selection.py [--faults 200] [--seed 1] [--processes 2] [--minutes 8]

Every fault is real: one expression, constant or line of data of a real project is changed, and its suite is run on
that. What was run is kept in .benchmarks/selection (not committed); what is missing is run, for a few minutes. The
commits are simulated from it: each brings a fault, and rewrites a few lines elsewhere.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.selecting.policies import POLICIES, Commit, commits_of, found_at  # noqa: E402
from benchmarks.selecting.suites import HOT, SUITES, Observed, Study, study, tells  # noqa: E402

PARTS = (0.25, 0.5, 0.75)
SHARED = 0.35  # the least share of faults in hot code, at import, in data and configuration
FEW = 5  # a fault that this many tests see, or fewer, is hard to find
PLACES = {
    "local": "other code",
    "hot": f"hot code (executed by {HOT:.0%} of the tests or more)",
    "import": "configuration: what runs at import (constants, defaults, tables), conftest.py",
    "data": "data files",
}


def chosen(measured: Study, count: int) -> list[Observed]:
    """The first faults that tests see, with enough of those that covered lines say little about."""
    seen = [fault for fault in measured.faults if tells(fault)]
    shared = [fault for fault in seen if fault.place != "local"][: max(int(count * SHARED), 1) + count // 10]
    local = [fault for fault in seen if fault.place == "local"]
    return [*shared, *local[: min(count - len(shared), int(len(shared) * (1 - SHARED) / SHARED))]]


def interval(found: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, found / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def cell(shares: list[float], part: float) -> str:
    if not shares:
        return "–"
    found = sum(share <= part for share in shares)
    low, high = interval(found, len(shares))
    return f"{found / len(shares):.0%} ({low:.0%}–{high:.0%})"


def section(measured: Study, faults: list[Observed], seed: int) -> list[str]:
    """One suite: what each order finds, after a green commit and after a red one, and what ours finds where."""
    total = sum(measured.seconds.values())
    places = Counter(fault.place for fault in faults)
    # A fault at import ends pytest in conftest.py, or makes files that cannot be collected.
    broken = sum(fault.broken or (fault.over and not fault.failed) for fault in measured.faults)
    unseen = sum(not fault.failed for fault in measured.faults) - broken
    where = "; ".join(f"{number} in {PLACES[place]}" for place, number in sorted(places.items()))
    lines = [
        f"## {measured.suite}",
        "",
        f"{len(measured.order)} tests, {total:.1f} s; {len(faults)} commits with a fault each. "
        f"{1 - places['local'] / len(faults):.0%} of them sit where the lines that tests execute say little: {where}. "
        f"Tried beside them and not counted: {unseen} that no test sees, {broken} with which nothing can be imported.",
        "",
    ]
    ours: list[tuple[Commit, float]] = []
    for red in (False, True):
        commits = commits_of(measured, faults, seed, red=red)
        lines += [
            f"After a {'red' if red else 'green'} commit"
            + (", whose fault is repaired by the same commit:" if red else ":"),
            "",
            "| order | in 25 % of the time | in 50 % | in 75 % | mean |",
            "|---|---|---|---|---|",
        ]
        for name, policy in POLICIES.items():
            shares = [found_at(measured, commit, policy(measured, commit)) for commit in commits]
            ours = ours or list(zip(commits, shares, strict=True))
            cells = " | ".join(cell(shares, part) for part in PARTS)
            lines.append(f"| {name} | {cells} | {sum(shares) / len(shares):.1%} |")
        lines.append("")
    lines += ["Ours, after a green commit, by where the fault is:", ""]
    lines += ["| place | faults | in 25 % | in 50 % | in 75 % |", "|---|---|---|---|---|"]
    groups = {words: [s for c, s in ours if c.fault.place == place] for place, words in PLACES.items()}
    groups[f"anywhere, seen by {FEW} tests or fewer"] = [s for c, s in ours if len(c.fault.failed) <= FEW]
    for words, shares in groups.items():
        lines.append(f"| {words} | {len(shares)} | {' | '.join(cell(shares, part) for part in PARTS)} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200, help="of each suite")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8, help="at most, for running faults that are not there yet")
    options = parser.parse_args()
    lines = [
        "# Which tests first",
        "",
        "How many faults an order of the tests has found when 25, 50 and 75 % of the suite's time are over, in one",
        "process, with 95 % intervals (Wilson). Goal: 90 % in a quarter of the time.",
        "",
        f"Measured {datetime.now(timezone.utc):%Y-%m-%d} by `python benchmarks/selection.py --faults {options.faults} "
        f"--seed {options.seed}` on {platform.system()}, Python {platform.python_version()}.",
        "",
    ]
    for suite in SUITES.values():
        measured = study(
            suite,
            wanted=options.faults,
            seed=options.seed,
            processes=options.processes,
            seconds=60 * options.minutes / len(SUITES),
            talk=print,
        )
        lines += section(measured, chosen(measured, options.faults), options.seed)
    lines += NOTES.splitlines()
    (ROOT / "benchmarks" / "selection.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("\n".join(lines))


NOTES = """## How

- A **fault** is one comparison, arithmetic or logical operator, constant, text, return or statement changed in a source
  file or conftest.py, or one number, word or line of a data file. The suite is run on it (for a line inside a function:
  those of its tests that execute the line), and what fails is what sees it. Durations are medians of three runs.
- A **commit** brings one fault, rewrites three lines around it, and ten harmless lines at two random places. Every
  order may know the durations, and what failed at the commit before; ours also the changed lines, the lines each test
  executed without a fault (coverage contexts), and which lines of code name a changed data file.
- **After a red commit** what failed there comes first in ours, as in `--ff`: a tier that leaves out what failed last
  time could pass without it. The fault is another one by then, so that time is lost for finding it.
- **Clairvoyant** knows what will fail and runs the cheapest of that first: no order finds more.
- The weights of the classes (`WORTH` in `orchestrator/mind/fit.py`) were chosen from five sets of round numbers, in
  five settings, on 120 faults of each of these two projects, and the threshold of narrowness on jinja2's. There is no
  third project that nothing was chosen on: expect less elsewhere. At first only red commits were simulated, where the
  goal was missed (81% on 120 faults of the example); the table of green commits was added then, and comes first.
- Faults made by a machine are not those of people. They are small, one at a time, and no test was written for them.
- Two hundred faults of both suites take about half an hour of two cores; a run stops after `--minutes`, and the next
  one goes on where it stopped.
"""


if __name__ == "__main__":
    main()
