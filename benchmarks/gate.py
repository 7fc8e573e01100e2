"""How well benchmark rules tell a slowdown from noise: ``python benchmarks/gate.py`` writes ``benchmarks/gate.md``.

Records blocks of real interleaved runs of twelve small benchmarks, equal ones and ones that really do 10 % and 20 %
more work (``benchmarks/gating``), runs live suites of equals as a tier would, and puts the recorded blocks together
anew for this project's rule and for the usual ones. Both recordings are kept in ``.benchmarks/gate`` and continued
where they were left; ``--fresh`` begins anew. On a quiet 2-core machine it takes about an hour, on a busy one several.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gating.live import BUDGET, run_live  # noqa: E402
from benchmarks.gating.recording import VISITS, record  # noqa: E402
from benchmarks.gating.rules import between  # noqa: E402
from benchmarks.gating.study import PEERS, Study, clopper_pearson  # noqa: E402

TABLE = Path(__file__).with_suffix(".md")
BY_HAND = "## How this was recorded"  # from here on the page is kept when it is written anew
CACHE = ROOT / ".benchmarks" / "gate"
CALIBRATION = 20  # the first so many blocks are the ones the rule was chosen on; nothing is evaluated on them
LIMITS = (13, 20, 30, 45)
SCALES = (1.05, 1.08, 1.10, 1.12, 1.15, 1.20, 1.30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--live", type=int, default=20)
    parser.add_argument("--fresh", action="store_true", help="forget what was recorded before")
    asked = parser.parse_args()
    blocks, live = CACHE / "blocks.jsonl", CACHE / "live.jsonl"
    if asked.fresh:
        blocks.unlink(missing_ok=True)
        live.unlink(missing_ok=True)
    record(blocks, wanted=asked.blocks)
    run_live(live, wanted=asked.live)
    known = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    by_hand = known[known.index(BY_HAND) :] if BY_HAND in known else ""
    TABLE.write_text("\n".join([*page(_lines(blocks), _lines(live)), "", by_hand]).rstrip() + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(recorded: Sequence[dict[str, Any]], suites: Sequence[dict[str, Any]]) -> Iterator[str]:
    blocks = recorded[CALIBRATION:]
    study = Study(blocks)
    yield "# The benchmark gate against the usual rules"
    yield ""
    yield (
        f"Written by `python benchmarks/gate.py` on {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, "
        f"{platform.system()}, {os.cpu_count()} CPUs shared with other work, Python {platform.python_version()}. "
        f"Rates in percent with 95 % intervals. How the gate works is in [docs/benchmarks.md](../docs/benchmarks.md)."
    )
    yield ""
    yield from _machine(study, blocks)
    yield from _rules(study)
    yield from _by_blocks(study)
    yield from _by_size(study)
    yield from _live(suites)


def _machine(study: Study, blocks: Sequence[dict[str, Any]]) -> Iterator[str]:
    loads = sorted(block["load"] for block in blocks)
    spread = []
    for test in study.tests:
        minima = [min(one["minimum"] for one in between(block, block, test, "base", "same").base) for block in blocks]
        spread.append(stdev(minima) / mean(minima))
    halves = sorted((block["ready"] + block["measuring"]) / 2 for block in blocks)
    yield (
        f"{len(blocks)} blocks of four processes each ({VISITS} visits of {len(study.tests)} benchmarks; {CALIBRATION} "
        "more before them, on which the block's value was chosen, are not evaluated), recorded at "
        f"load averages of {loads[0]:.1f} to {loads[-1]:.1f} (median {median(loads):.1f}). The minimum of one process "
        f"varied from run to run by {100 * median(spread):.0f} % (median of the benchmarks; at most "
        f"{100 * max(spread):.0f} %). Half a block, which is what a comparison's block costs, took "
        f"{halves[0]:.0f} to {halves[-1]:.0f} s (median {median(halves):.0f} s). In the first recording the sign test "
        "was chosen on those 20 blocks, but after the signed-rank test was seen to find less on the 35 that followed."
    )
    yield ""


def _rules(study: Study) -> Iterator[str]:
    yield "## Per suite of 12"
    yield ""
    yield (
        "A false alarm: any benchmark of a suite of equals is called slower. Found: the one benchmark that really does "
        "more work is. The peers see the same processes, twice: as they run them, base and head one after another "
        "(a process and one of the next block), and fed with our processes, which took turns."
    )
    yield ""
    yield "| rule | pairs | processes | false alarms | +10 % found | +20 % found |"
    yield "|---|--:|---|--:|--:|--:|"
    for gate in (10, 5):
        limit = 30
        null = study.ours(gate=gate, head="same", limit=limit)
        ten = study.ours(gate=gate, head="+10%", limit=limit) if gate == 5 else None
        twenty = study.ours(gate=gate, head="+20%", limit=limit)
        found = str(ten.slowed) if ten is not None else "on the gate: not to be found"
        yield f"| mltiers, gate {gate} % | up to {limit} | in turns | {null.alarms} | {found} | {twenty.slowed} |"
    for rule in PEERS:
        for apart in (True, False):
            alarms, ten_found = study.peer(rule, head="+10%", apart=apart)
            _, twenty_found = study.peer(rule, head="+20%", apart=apart)
            how = "one after another" if apart else "in turns"
            yield f"| {rule.name} | {rule.blocks} | {how} | {alarms} | {ten_found} | {twenty_found} |"
    yield ""


def _by_blocks(study: Study) -> Iterator[str]:
    yield "## By the number of pairs that the budget allows"
    yield ""
    yield "| pairs | gate 10 %: +20 % found | undecided | gate 5 %: +10 % found | undecided |"
    yield "|--:|--:|--:|--:|--:|"
    for limit in LIMITS:
        twenty = study.ours(gate=10, head="+20%", limit=limit, seed=2)
        ten = study.ours(gate=5, head="+10%", limit=limit, seed=2)
        still = [f"{100 * found.undecided:.0f} %" for found in (twenty, ten)]
        yield f"| {limit} | {twenty.slowed} | {still[0]} | {ten.slowed} | {still[1]} |"
    yield ""


def _by_size(study: Study) -> Iterator[str]:
    yield "## By the size of the slowdown"
    yield ""
    yield (
        "The numbers of equal blocks, with one benchmark's times multiplied; gate 10 %, 30 pairs. A slowdown up to the "
        "gate must not fail the tier."
    )
    yield ""
    yield "| slowdown | fails the tier |"
    yield "|--:|--:|"
    for scale in SCALES:
        found = study.ours(gate=10, head="same", limit=30, scale=scale, seed=3)
        yield f"| {100 * (scale - 1):.0f} % | {found.slowed} |"
    yield ""


def _live(suites: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"## Live suites of equals, budget {BUDGET:.0f} s, gate 10 %"
    yield ""
    if not suites:
        yield "None was run."
        return
    counted = Counter(change["change"] for suite in suites for change in suite["changes"])
    wrong = sum(any(change["change"] in ("slower", "faster") for change in suite["changes"]) for suite in suites)
    low, high = clopper_pearson(wrong, len(suites))
    yield (
        f"{wrong} of {len(suites)} suites ({100 * low:.0f}–{100 * high:.0f} %) called a benchmark slower or faster. "
        f"Of their {sum(counted.values())} benchmarks {counted['same']} were `same` and {counted['undecided']} "
        "`undecided`."
    )
    yield ""
    yield "| load average | pairs | seconds | undecided |"
    yield "|--:|--:|--:|--:|"
    for suite in sorted(suites, key=lambda suite: suite["load"] + suite["load_after"]):
        still = sum(change["change"] == "undecided" for change in suite["changes"])
        load = (suite["load"] + suite["load_after"]) / 2
        yield f"| {load:.1f} | {suite['blocks']} | {suite['seconds']:.0f} | {still} of {len(suite['changes'])} |"


if __name__ == "__main__":
    main()
