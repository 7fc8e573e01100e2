"""Records blocks of real interleaved runs: both sides measured in turns, on whatever machine this is, as busy as it is.

A block is one start of four pytests that take turns (``orchestrator/tools/lockstep.py``): the base, the same code
again, and trees whose functions really do 10 % and 20 % more work. What is recorded already is kept: a recording can be
resumed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(__file__).with_name("project")
SIDES = {"base": 0.0, "same": 0.0, "+10%": 0.10, "+20%": 0.20}
VISITS = 6
OPTIONS = ["--benchmark-max-time=0.02", "--benchmark-min-rounds=3"]
START = "import sys; sys.path.append(sys.argv[1]); from orchestrator.tools.lockstep import main; main()"


@contextmanager
def trees() -> Iterator[dict[str, Path]]:
    """The base tree and three heads, each a copy of the project with its own amount of work."""
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        made = {}
        for name, extra in SIDES.items():
            made[name] = tree = Path(folder, f"tree-{len(made)}")
            shutil.copytree(PROJECT, tree, ignore=shutil.ignore_patterns("__pycache__", ".mltiers"))
            load = tree / "src/small/load.py"
            load.write_text(load.read_text().replace("EXTRA = 0.0", f"EXTRA = {extra}"))
        yield made


def record(blocks: Path, *, wanted: int) -> None:
    """Bring the recording at ``blocks`` (JSON lines) to ``wanted`` blocks."""
    blocks.parent.mkdir(parents=True, exist_ok=True)
    done = len(blocks.read_text().splitlines()) if blocks.exists() else 0
    if done >= wanted:
        return
    os.nice(5)
    with trees() as made, blocks.open("a") as file:
        run(made, seed=0, visits=1)  # bytecode and the disk's cache
        for number in range(done, wanted):
            file.write(json.dumps(run(made, seed=1000 + number, visits=VISITS)) + "\n")
            file.flush()


def run(made: dict[str, Path], *, seed: int, visits: int) -> dict[str, Any]:
    """One block, with what each visit measured on each side."""
    folder = made["base"].parent
    target = folder / "result.json"
    target.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/benchmarks",
        "-n",
        "0",
        "--no-cov",
        "-p",
        "no:cacheprovider",
    ]
    order = {
        "seed": seed,
        "visits": visits,
        "tests": None,
        "result": str(target),
        "task": {"watch": ["small"], "roots": [str(folder)], "rounds": True},
        "sides": {
            name: {
                "command": [*command, "-p", "pytest_mltiers.lockstep", *OPTIONS],
                "cwd": str(tree),
                "env": {
                    "PYTHONPATH": f"{ROOT / 'plugin/src'}:{tree / 'src'}",
                    "OMP_NUM_THREADS": "1",
                    "PYTHONHASHSEED": str(seed),
                },
                "log": str(folder / f"{name}.log"),
                "move": None,
            }
            for name, tree in made.items()
        },
    }
    path = folder / "order.json"
    path.write_text(json.dumps(order))
    load = os.getloadavg()[0]
    subprocess.run([sys.executable, "-I", "-c", START, str(ROOT), str(path)], check=True, timeout=600)
    result = json.loads(target.read_text())
    if "gone" in result:
        raise RuntimeError(f"{result['gone']}: {(folder / (result['gone'] + '.log')).read_text()[-3000:]}")
    for name, tree in made.items():
        if result["sides"][name]["modules"]["small.load"] != os.path.realpath(tree / "src/small/load.py"):
            raise RuntimeError(f"the side {name} runs another tree")
    return {
        "at": time.time(),
        "load": load,
        **{key: result[key] for key in ("ready", "measuring", "seconds")},
        "visits": [
            {
                "test": visit["test"].partition("::")[2],
                "order": visit["order"],
                **{name: _told(visit[name]) for name in made},
            }
            for visit in result["visits"]
        ],
    }


def _told(side: dict[str, Any]) -> dict[str, Any]:
    # Single rounds are wanted for the rules that look at them; a dozen a visit are enough of those.
    return {key: side[key] for key in ("minimum", "mean", "count")} | {"rounds": side["rounds"][:12]}
