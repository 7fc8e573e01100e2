"""Measures the checks of pytest-mltiers against the bug zoo and writes benchmarks/checks.md.

    python -m benchmarks.checks             # run what is missing, then write the table
    python -m benchmarks.checks --table     # only write the table from the results so far
    python -m benchmarks.checks --budget 600 --only mutants,contracts

The other libraries are measured where they are installed: make a throwaway virtual environment with them and torch, and
run the same command there with ``--only peer``.

Results are appended to ``.benchmarks/checks.jsonl`` (not committed), one line per run, so that a campaign can be
stopped and resumed; delete the file to start again. One process, one torch thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".benchmarks" / "checks.jsonl"
TABLE = ROOT / "benchmarks" / "checks.md"
sys.path[:0] = [str(ROOT), str(ROOT / "plugin" / "src")]

import torch  # noqa: E402
from pytest_mltiers import checks  # noqa: E402
from pytest_mltiers.checks.failures import CheckFailed  # noqa: E402
from pytest_mltiers.contract import contract, examine  # noqa: E402
from pytest_mltiers.randomness import seeded  # noqa: E402
from pytest_mltiers.subject import Subject  # noqa: E402

from benchmarks import zoo  # noqa: E402
from benchmarks.checking import peers, table  # noqa: E402
from benchmarks.zoo.entry import Entry  # noqa: E402

WHOLE_SEEDS, CHEAP_SEEDS, FLAKE_SEEDS, RANK_REPEATS = 20, 100, 3000, 3
EXPENSIVE = ("overfits", "resumes", "ranks_agree", "loader_workers_differ", "export_roundtrip")
PEERS = ("pytest-torch 1.1.1", "torchtest2 0.1.0")

Job = tuple[str, str, int, Callable[[], dict[str, Any]]]


def twins(entries: list[Entry]) -> dict[str, Entry]:
    """One entry per distinct correct twin: many mutants share theirs."""
    found: dict[Any, Entry] = {}
    for entry in entries:
        function = entry.correct
        cells = tuple(id(c.cell_contents) for c in function.__closure__ or ())
        found.setdefault((function.__code__, function.__defaults__, cells), entry)
    return {entry.name: entry for entry in found.values()}


def subject_of(build: Callable[[], dict[str, Any]], seed: int) -> Subject:
    with seeded(seed):
        return Subject(**build())


def run_contract(build: Callable[[], dict[str, Any]], seed: int, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Names of failed checks with their first line, names of passed ones, and seconds."""
    began = time.perf_counter()
    outcomes = list(examine(subject_of(build, seed), seed=seed, only=only))
    return {
        "failed": {o.name: o.message.splitlines()[0] for o in outcomes if o.status == "failed"},
        "passed": [o.name for o in outcomes if o.status == "passed"],
        "seconds": round(time.perf_counter() - began, 3),
    }


# --- flake rates: correct code, many seeds ---------------------------------------------------------------------------


def _flake_overfits(seed: int) -> None:
    """The recipe that flakes: a two-layer MLP, Adam 1e-2, four samples, 200 steps."""

    class Net(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    subject = Subject(
        model=Net,
        batch=lambda: (torch.randn(4, 4), torch.randint(0, 3, (4,))),
        loss=torch.nn.functional.cross_entropy,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        overfit_steps=200,
    )
    checks.overfits(subject, first_seed=seed * 100)


def _flake_rate_at_least(seed: int) -> None:
    """3,100 trials at a true rate of 0.99999, asked for 0.999 with one failure in hand."""
    generator = random.Random(seed)
    n = 8000
    checks.rate_at_least(sum(generator.random() < 0.99999 for _ in range(n)), n, 0.999)


def _flake_calibrated(seed: int) -> None:
    generator = random.Random(seed)
    confidences = [0.5 + 0.5 * generator.random() for _ in range(100)]
    checks.calibrated(confidences, [generator.random() < c for c in confidences], max_ece=0.1)


def _flake_fraction_near(seed: int) -> None:
    torch.manual_seed(seed)
    dropped = int((torch.nn.functional.dropout(torch.ones(1000), 0.1) == 0).sum())
    checks.fraction_near(dropped, 1000, 0.1)


def _flake_across_seeds(seed: int) -> None:
    generator = random.Random(seed)
    checks.across_seeds(lambda _: generator.random() < 0.99)


def _flake_not_less_accurate(seed: int) -> None:
    """3,000 samples; the new model differs on 0.2 % of them, as often for the better as for the worse."""
    generator = random.Random(seed)
    old = [generator.random() < 0.9 for _ in range(3000)]
    checks.not_less_accurate(old, [o if generator.random() < 0.998 else not o for o in old], margin=0.01)


def _flake_not_higher_error(seed: int) -> None:
    generator = random.Random(seed)
    old = [generator.gauss(0, 1) for _ in range(1000)]
    checks.not_higher_error(old, [e + generator.gauss(0, 0.001) for e in old], margin=0.01)


FLAKES: dict[str, Callable[[int], None]] = {
    "overfits": _flake_overfits,
    "rate_at_least": _flake_rate_at_least,
    "calibrated": _flake_calibrated,
    "fraction_near": _flake_fraction_near,
    "across_seeds": _flake_across_seeds,
    "not_less_accurate": _flake_not_less_accurate,
    "not_higher_error": _flake_not_higher_error,
}


def run_flakes(name: str, first: int, count: int) -> dict[str, Any]:
    began, failures = time.perf_counter(), []
    for seed in range(first, first + count):
        with seeded(seed):
            try:
                FLAKES[name](seed)
            except CheckFailed as error:
                failures.append((seed, str(error).splitlines()[0]))
    return {"failures": failures, "runs": count, "seconds": round(time.perf_counter() - began, 3)}


# --- jobs ------------------------------------------------------------------------------------------------------------


def jobs() -> Iterator[tuple[str, str, int, Callable[[], dict[str, Any]]]]:
    """(section, name, seed, work) of everything the table is made of, the quickest evidence first."""
    for section, entries in (("mutants", zoo.ENTRIES), ("traincheck", zoo.TRAINCHECK)):
        for entry in entries:
            yield section, entry.name, 0, lambda e=entry: run_contract(e.mutant, 0)
    for name in FLAKES:
        for first in range(0, FLAKE_SEEDS, 100):
            yield "flakes", name, first, lambda n=name, f=first: run_flakes(n, f, 100)
    correct = twins([*zoo.ENTRIES, *zoo.TRAINCHECK])
    ranks = {name for name, entry in correct.items() if "distributed" in entry.correct()}
    for seed in range(WHOLE_SEEDS):
        for name, entry in correct.items():
            if name in ranks:
                continue  # below: these functions seed themselves, so that other seeds would repeat the same run
            yield "contracts", name, seed, lambda e=entry, s=seed: run_contract(e.correct, s)
    cheap = tuple(item.name for item in contract() if item.name not in EXPENSIVE)
    for seed in range(WHOLE_SEEDS, CHEAP_SEEDS):  # the first seeds are part of the whole contracts
        for name, entry in correct.items():
            if name not in ranks:
                yield "cheap", name, seed, lambda e=entry, s=seed: run_contract(e.correct, s, cheap)
    for repeat in range(RANK_REPEATS):
        for name in sorted(ranks):
            yield "ranks", name, repeat, lambda e=correct[name], s=repeat: run_contract(e.correct, s)
    yield "example", "text classifier", 0, run_example
    for peer in filter(peers.available, PEERS):
        for entry in [*zoo.ENTRIES, *zoo.TRAINCHECK]:
            yield f"peer {peer}", f"{entry.name} mutant", 0, lambda e=entry, p=peer: run_peer(p, e.mutant)
        for name, entry in correct.items():
            yield f"peer {peer}", f"{name} correct", 0, lambda e=entry, p=peer: run_peer(p, e.correct)


def run_peer(peer: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What another library says of the same project, in this process."""
    with seeded(0):
        return peers.judge(peer, build())


def run_example() -> dict[str, Any]:
    """Seconds of the whole contract on the example project's transformer, in a pytest process of its own."""
    example = ROOT / "examples" / "text-classifier"
    test = next(example.glob("tests/**/test_*contract*.py"), None)
    if test is None:
        return {"missing": "the example has no contract test yet"}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "plugin" / "src"), str(example / "src")]),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "pytest_mltiers",
        "-p",
        "no:cacheprovider",
        "--durations=0",
        "--durations-min=0",
        str(test),
    ]
    done = subprocess.run(command, cwd=example, env=environment, capture_output=True, text=True, check=False)
    calls = [line.split()[0] for line in done.stdout.splitlines() if " call " in line and "s " in line]
    return {
        "seconds": round(sum(float(c.rstrip("s")) for c in calls), 2),
        "outcome": done.stdout.strip().splitlines()[-1].strip("= "),
    }


def done() -> dict[tuple[str, str, int], dict[str, Any]]:
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {(r["section"], r["name"], r["seed"]): r for r in rows}


def campaign(budget: float, sections: tuple[str, ...]) -> None:
    """Run what is not in the results yet, for at most ``budget`` seconds."""
    end, have = time.monotonic() + budget, done()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        for section, name, seed, work in jobs():
            if (section, name, seed) in have or (sections and section.split()[0] not in sections):
                continue
            if time.monotonic() > end:
                return
            file.write(json.dumps({"section": section, "name": name, "seed": seed, **work()}) + "\n")
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for this run (default: no limit)")
    parser.add_argument(
        "--only", default="", help="sections, by comma: mutants traincheck flakes contracts cheap ranks example peer"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if not options.table:
        campaign(options.budget, tuple(s for s in options.only.split(",") if s))
    measured = datetime.fromtimestamp(RESULTS.stat().st_mtime, tz=timezone.utc).date()
    TABLE.write_text(table.render(done(), twins([*zoo.ENTRIES, *zoo.TRAINCHECK]), measured=measured))


if __name__ == "__main__":
    main()
