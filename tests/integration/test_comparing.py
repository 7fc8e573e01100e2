"""Benchmarks of a change against its base, with real pytests and a real git: what is compared, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from msgspec.structs import replace

from orchestrator.hands.remember import read_history
from orchestrator.mind.records import Record
from orchestrator.mind.records.encoding import encode
from orchestrator.tools.history.folder import FolderStore
from tests.support.project import CHECKOUT, Done, Project

SCHEMA = json.loads((CHECKOUT / "docs/schemas/comparison.schema.json").read_text())

CONFIG = """\
version: 1
source: [src]
tiers:
  speed:
    paths: [tests/benchmarks]
    budget: 5m
    python: {python}
    env: {{{env}}}
    benchmark: {{gate: 50%}}
"""
CORE = """\
def quick(n):
    return sum(i * i for i in range(n))


def slow(n):
    return sum(i * i for i in range(n))
"""
SPEED = """\
from sums.core import quick, slow


def test_quick(benchmark):
    benchmark(quick, 500)


def test_slow(benchmark):
    benchmark(slow, 500)
"""
SLOWER = CORE.replace("def slow(n):\n", "def slow(n):\n    n *= 2\n")
FILES = {
    ".gitignore": ".mltiers/\n__pycache__/\n_version.py\nweights.bin\n",
    "src/sums/__init__.py": "",
    "src/sums/core.py": CORE,
    "tests/benchmarks/test_speed.py": SPEED,
}


def project(
    root: Path, files: Mapping[str, str] = FILES, *, python: str = sys.executable, env: str = "PYTHONPATH: src"
) -> Project:
    made = Project(root, {"ml-tiers.yml": CONFIG.format(python=python, env=env), **files})
    made.commit("base")
    return made


# Five processes live: the tier's own, two of the rehearsal, two of the first pair. Those after them die.
ENDS_AFTER_A_PAIR = """\
import os, pathlib


def pytest_sessionstart():
    counter = pathlib.Path(os.environ["COUNTER"])
    with counter.open("a") as file:
        file.write("x")
    if len(counter.read_text()) > 5:
        os._exit(7)
"""


def with_one_pair(root: Path, files: Mapping[str, str] = FILES) -> Project:
    """A project whose comparison ends after a pair of runs: for what can be seen by then."""
    counter = root.with_name("counter")
    counter.write_text("")
    return project(root, {**files, "tests/conftest.py": ENDS_AFTER_A_PAIR}, env=f"PYTHONPATH: src, COUNTER: {counter}")


def comparison(done: Done) -> Any:
    return done.document("speed/comparison.json")


def refused(done: Done) -> str:
    """The problem of a run that could not be compared: that is said, and fails nothing."""
    assert done.code == 0, done.out + done.err
    said = comparison(done)
    assert said["changes"] == []
    assert said["problem"] in done.out
    assert said["problem"].split(":")[0] in (done.folder / ".mltiers/comment.md").read_text().replace("\\", "")
    return str(said["problem"])


def test_a_slowdown_beyond_the_gate_fails_the_tier(tmp_path: Path) -> None:
    ours = project(tmp_path / "project")
    ours.write({"src/sums/core.py": SLOWER, "requirements.txt": "numpy\n"})
    done = ours.mltiers("run", timeout=400)
    said = comparison(done)
    assert {change["name"].rpartition("::")[2]: change["change"] for change in said["changes"]} == {
        "test_quick": "same",
        "test_slow": "slower",
    }, done.out
    assert done.code == 1
    assert done.verdict["tiers"]["speed"]["verdict"] == "failed"
    assert "test_slow got slower" in done.out
    comment = (tmp_path / "project/.mltiers/comment.md").read_text()
    assert "1 slower, 1 same against the base" in comment
    assert "test_quick" not in comment  # only what changed, or may have, gets a row
    assert said["notes"] == ["requirements.txt differs from the base's: both ran with what is installed here"]
    assert ours.git("worktree", "list").count("\n") == 0
    jsonschema.validate(said, SCHEMA)


def test_an_editable_install_is_no_comparison_of_the_head_with_itself(tmp_path: Path) -> None:
    """The base's function cannot be run: only where the base's own file is imported does it say so."""
    broken = {**FILES, "src/sums/core.py": CORE + "\nraise RuntimeError('this is the base')\n"}
    ours = project(tmp_path / "project", broken, python=_python(tmp_path, tmp_path / "project/src"), env="")
    ours.write({"src/sums/core.py": CORE})
    done = ours.mltiers("run")
    alone = comparison(done)["alone"]
    assert len(alone) == 2
    assert all("RuntimeError: this is the base" in why for why in alone.values()), alone


def test_an_installed_copy_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "installed"
    for name in ("__init__.py", "core.py"):
        (copy / "sums").mkdir(parents=True, exist_ok=True)
        (copy / "sums" / name).write_text(FILES[f"src/sums/{name}"])
    ours = project(tmp_path / "project", python=_python(tmp_path, copy), env="")
    ours.write({"src/sums/core.py": SLOWER})
    assert "so base and head would run the same code" in refused(ours.mltiers("run"))


def test_benchmarks_that_time_nothing_of_the_source_are_refused(tmp_path: Path) -> None:
    own = {**FILES, "tests/benchmarks/test_speed.py": "def test_sum(benchmark):\n    benchmark(sum, [1, 2])\n"}
    ours = project(tmp_path / "project", own)
    ours.write({"src/sums/core.py": SLOWER})
    assert "import nothing of `source`" in refused(ours.mltiers("run"))


def test_a_base_that_cannot_run_is_said_with_its_own_words(tmp_path: Path) -> None:
    reads = {"tests/conftest.py": "open('weights.bin')\n", "weights.bin": ""}
    ours = project(tmp_path / "project", {**FILES, **reads})
    ours.write({"src/sums/core.py": SLOWER})
    done = ours.mltiers("run")
    assert "the base cannot run these benchmarks" in refused(done)
    assert "No such file or directory: 'weights.bin'" in comparison(done)["detail"]


def test_generated_code_that_git_ignores_is_taken_along(tmp_path: Path) -> None:
    version = {"src/sums/__init__.py": "from sums import _version\n", "src/sums/_version.py": ""}
    ours = with_one_pair(tmp_path / "project", {**FILES, **version})
    ours.write({"src/sums/core.py": SLOWER})
    said = comparison(ours.mltiers("run"))
    assert said["problem"] is None, said
    assert said["alone"] == {}
    assert said["blocks"] == 1
    assert "files that git ignores were taken from the head: src/sums/_version.py" in said["notes"]


def test_a_shallow_clone_says_what_it_needs(tmp_path: Path) -> None:
    ours = project(tmp_path / "origin")
    ours.write({"src/sums/core.py": SLOWER})
    base, head = ours.git("rev-parse", "HEAD"), ours.commit("change")
    subprocess.run(
        ["git", "clone", "-q", "--depth=1", f"file://{ours.root}", str(tmp_path / "clone")],
        check=True,
        capture_output=True,
    )
    clone = Project(tmp_path / "clone", {})
    payload = tmp_path / "event.json"
    payload.write_text(f'{{"before": "{base}", "after": "{head}", "ref": "refs/heads/main"}}')
    done = clone.mltiers("run", GITHUB_EVENT_NAME="push", GITHUB_EVENT_PATH=str(payload), GITHUB_SHA=head)
    assert "`fetch-depth: 0`" in refused(done)


def test_a_side_that_breaks_down_later_keeps_what_was_measured(tmp_path: Path) -> None:
    ours = with_one_pair(tmp_path / "project")
    ours.write({"src/sums/core.py": SLOWER})
    done = ours.mltiers("run")
    said = comparison(done)
    assert done.code == 0, done.out  # undecided
    assert said["blocks"] == 1
    assert "after 1 pair of runs: the " in said["notes"][-1]
    assert "(exit code 7)" in said["notes"][-1]


def test_what_is_not_changed_is_not_compared(tmp_path: Path) -> None:
    done = project(tmp_path / "project").mltiers("run")
    assert done.code == 0
    assert comparison(done)["notes"] == ["nothing is changed against the base, so nothing was compared"]


def test_what_changes_beside_the_projects_folder_is_none_of_its(tmp_path: Path) -> None:
    """The configuration lies in a folder of a larger repository: changes there are compared, others not."""
    files = {**FILES, "tests/conftest.py": ENDS_AFTER_A_PAIR}
    large = Project(tmp_path / "large", {f"ml/{name}": text for name, text in files.items() if name != ".gitignore"})
    counter = tmp_path / "counter"
    config = CONFIG.format(python=sys.executable, env=f"PYTHONPATH: src, COUNTER: {counter}")
    large.write({"ml/ml-tiers.yml": config, ".gitignore": FILES[".gitignore"], "README.md": ""})
    large.commit("base")
    large.write({"README.md": "changed"})
    inside = Project(tmp_path / "large/ml", {})
    said = comparison(inside.mltiers("run"))
    assert said["notes"] == ["nothing is changed in this folder against the base, so nothing was compared"]
    inside.write({"src/sums/core.py": SLOWER})
    counter.unlink()
    said = comparison(inside.mltiers("run"))
    assert said["problem"] is None, said
    assert said["blocks"] == 1
    assert len(said["changes"]) == 2


def test_a_benchmark_of_something_new_has_no_counterpart(tmp_path: Path) -> None:
    """The head's benchmarks run on the base's source: only what is new there cannot be compared."""
    ours = with_one_pair(tmp_path / "project")
    new = "def test_new(benchmark):\n    from sums.core import new\n    benchmark(new)\n"
    changed = SPEED.replace("def test_quick(benchmark):\n    benchmark(quick, 500)\n", new).replace("quick, ", "")
    ours.write({"src/sums/core.py": CORE + "\n\ndef new():\n    pass\n", "tests/benchmarks/test_speed.py": changed})
    done = ours.mltiers("run")
    said = comparison(done)
    assert list(said["alone"]) == ["tests/benchmarks/test_speed.py::test_new"]
    assert "does not run on the base: ImportError" in said["alone"]["tests/benchmarks/test_speed.py::test_new"]
    assert done.code == 0, done.out  # neither that nor what was left undecided fails anything
    assert [change["edited"] for change in said["changes"]] == [True]


NOW_ONE_NOW_THE_OTHER = """\
import os
from pathlib import Path
from sums.core import quick, slow

with open(os.environ["STARTS"], "ab") as file:
    file.write(b".")
    starts = file.tell()  # one for the tier itself, then two for each block
head = Path(__file__).is_relative_to(os.environ["HEAD"])
N = 2000 if (starts // 2 % 2 == 0) == head else 500


def test_quick(benchmark):
    benchmark(quick, N)


def test_slow(benchmark):
    benchmark(slow, N)
"""
"""In one block head is four times as slow, in the next the base."""


def test_what_the_budget_leaves_undecided_is_said_and_fails_nothing(tmp_path: Path) -> None:
    root = tmp_path / "project"
    env = f"PYTHONPATH: src, HEAD: {json.dumps(str(root))}, STARTS: {json.dumps(str(tmp_path / 'starts'))}"
    ours = project(root, {**FILES, "tests/benchmarks/test_speed.py": NOW_ONE_NOW_THE_OTHER}, env=env)
    ours.write({"src/sums/core.py": CORE + "# Nothing else is changed.\n"})
    ours.write({"ml-tiers.yml": CONFIG.format(python=sys.executable, env=env).replace("5m", "30s")})
    done = ours.mltiers("run")
    assert done.code == 0, done.out
    assert "benchmarks: 2 undecided against the base" in done.out
    assert {change["blocks"] >= 2 for change in comparison(done)["changes"]} == {True}, "the sides took turns"
    assert done.document("speed/result.json")["seconds"] < 30


def test_against_history_too_few_results_are_said_and_fail_nothing(tmp_path: Path) -> None:
    ours = project(tmp_path / "project")
    config = CONFIG.format(python=sys.executable, env="PYTHONPATH: src").replace(
        "gate: 50%", "against: history, gate: 50%"
    )
    ours.write({"ml-tiers.yml": config})
    ours.commit("against history")
    for known in range(2):
        done = ours.mltiers("run")
        assert refused(done).startswith(f"{known} earlier results of the default branch on a machine like this one, 7")


def test_against_history_a_slowdown_is_told_with_the_commit_it_came_with_and_another_machine_is_not_compared(
    tmp_path: Path,
) -> None:
    ours = project(tmp_path / "project")
    config = CONFIG.format(python=sys.executable, env="PYTHONPATH: src")
    ours.write({"ml-tiers.yml": config.replace("gate: 50%", "against: history, gate: 50%")})
    ours.commit("against history")
    assert ours.mltiers("run").code == 0
    first = _only_record(ours)
    for number in range(23):  # twenty in which test_slow took a third of what it takes, then three as it is
        _remember(ours, first, number, factor=1 / 3 if number < 20 else 1.0)
    done = ours.mltiers("run")
    said = comparison(done)
    changes = {change["name"].rpartition("::")[2]: change for change in said["changes"]}
    assert changes["test_slow"]["change"] == "slower", said
    assert changes["test_slow"]["since"] == "14" + "0" * 38
    assert (done.code, done.verdict["verdict"]) == (1, "failed"), done.out
    assert "test_slow changed with 1400000000" in done.out
    assert done.document("speed/result.json")["comparison"] == said
    jsonschema.validate(said, SCHEMA)
    report = (tmp_path / "project/.mltiers/report.html").read_text()
    assert "Trends" in report

    for record in (tmp_path / "project/.mltiers/history").rglob("runs/*/speed/*.json"):
        record.write_text(record.read_text().replace('"cpu":"', '"cpu":"another than '))
    assert "not comparable with the newest results: cpu was another than " in refused(ours.mltiers("run"))


def _only_record(ours: Project) -> Record:
    store = FolderStore(ours.root / ".mltiers/history")
    config_id = json.loads((ours.root / ".mltiers/plan.json").read_text())["config_id"]
    (record,) = read_history(store, config_id=config_id, tiers=("speed",), sha=None).of("speed")
    return record


def _remember(ours: Project, like: Record, number: int, *, factor: float) -> None:
    """One more run, of another commit, in which `test_slow` took so many times what it took."""
    assert like.tier.result is not None
    benchmarks = tuple(
        replace(one, minimum=one.minimum * (factor if one.name.endswith("slow") else 1.0) * (1 + 7 * number % 5 / 1000))
        for one in like.tier.result.benchmarks
    )
    tier = replace(like.tier, result=replace(like.tier.result, benchmarks=benchmarks))
    record = replace(like, tier=tier, sha=f"{number:02x}" + "0" * 38, time=like.time - 1000 + number, run=f"{number}.1")
    FolderStore(ours.root / ".mltiers/history").update(lambda _: encode(record), message="an earlier run")


def _python(folder: Path, path: Path) -> str:
    """A Python like this one, in which ``path`` is on ``sys.path`` as an install would put it there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    site = next((folder / "venv/lib").glob("python*")) / "site-packages"
    (site / "project.pth").write_text(f"{path}\n{sysconfig.get_path('purelib')}\n")
    return str(folder / "venv/bin/python")
