"""The action's entry for real: the `run:` script of action.yml, real virtual environments, real signals.

Only the program that is exec'd stands in for the orchestrator: it tells what it sees. Every path has a space in it.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import bootstrap

ROOT = Path(__file__).resolve().parents[2]
RUN_SCRIPT = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"][0]["run"]

PROGRAM = """
import importlib.util, json, os, signal, sys

def main(arguments):
    import msgspec, requests, yaml  # noqa: F401
    print(json.dumps({
        "arguments": arguments, "argv": sys.argv, "pid": os.getpid(), "executable": sys.executable, "path": sys.path,
        "environ": dict(os.environ), "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "importable": [n for n in ("examples", "plugin", "decoy") if importlib.util.find_spec(n)],
        "yaml": yaml.__file__,
    }), flush=True)
    return 0
"""
SIGNALLED_PROGRAM = """
import signal, sys

def main(arguments):
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(130))
    print("ready", flush=True)
    while True:
        signal.pause()
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A checkout of the action and the machine and job that run it."""

    action: Path
    machine: Path  # what survives a job: the tool cache
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.machine / "output file"

    @property
    def outputs(self) -> dict[str, str]:
        """The step's outputs as GitHub reads them: the last word wins."""
        return dict(line.split("=", 1) for line in self.output.read_text(encoding="utf-8").splitlines())

    @property
    def environments(self) -> list[Path]:
        """What lies in the cache, locks aside."""
        folder = self.machine / "tool cache" / "mltiers"
        return sorted(path for path in folder.glob("*") if path.suffix != ".lock")

    def program(self, text: str) -> None:
        """Replaces the orchestrator, leaving the file's time as it was: nothing but the text tells it is new."""
        path = self.action / "orchestrator" / "cli.py"
        times = (path.stat().st_atime, path.stat().st_mtime) if path.exists() else (1e9, 1e9)
        path.write_text(text, encoding="utf-8")
        os.utime(path, times)

    def start(self, script: str = RUN_SCRIPT, **environ: str) -> subprocess.Popen[str]:
        """Starts the step as GitHub's runner does; its process is the step's entry process."""
        variables = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GITHUB", "RUNNER"))
            },
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(self.action),
            "GITHUB_OUTPUT": str(self.output),
            "RUNNER_TOOL_CACHE": str(self.machine / "tool cache"),
            "RUNNER_TEMP": str(self.machine / "temp"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **self.environ,
            **environ,
        }
        file = self.machine / "step.sh"
        file.write_text(script, encoding="utf-8")
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(file)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=variables, cwd=self.machine, stdout=pipe, stderr=pipe, text=True)

    def run(self, **environ: str) -> subprocess.CompletedProcess[str]:
        with self.start(**environ) as process:
            out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def seen(self, **environ: str) -> dict[str, Any]:
        """Runs it to a good end and gives what the exec'd program saw."""
        done = self.run(**environ)
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


def make_step(folder: Path, machine: Path) -> Step:
    """A checkout as GitHub lays it: the package, the lock, and folders that must not become importable."""
    action = folder / "the action"
    (action / "orchestrator").mkdir(parents=True)
    for name in ("bootstrap.py", "package_loader.py"):
        shutil.copy(ROOT / "orchestrator" / name, action / "orchestrator")
    (action / "orchestrator" / "__init__.py").touch()
    shutil.copytree(ROOT / "requirements", action / "requirements")
    for name in ("examples", "plugin", "decoy"):
        (action / name).mkdir()
        (action / name / "__init__.py").touch()
    (machine / "temp").mkdir(parents=True, exist_ok=True)
    step = Step(action=action, machine=machine)
    step.program(PROGRAM)
    return step


@pytest.fixture(scope="module")
def warm_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine on which one job has run already."""
    folder = tmp_path_factory.mktemp("warm machine")
    done = make_step(folder, folder / "machine").run()
    assert done.returncode == 0, done.stderr
    assert "installed in" in done.stderr
    return folder / "machine"


@pytest.fixture
def warm(tmp_path: Path, warm_machine: Path) -> Iterator[Step]:
    step = make_step(tmp_path, warm_machine)
    yield step
    step.output.unlink(missing_ok=True)


@pytest.fixture
def cold(tmp_path: Path) -> Step:
    return make_step(tmp_path, tmp_path / "cold machine")


@pytest.fixture
def broken(tmp_path: Path, warm_machine: Path) -> Step:
    """A machine whose environment a test may damage."""
    shutil.copytree(warm_machine, tmp_path / "machine", symlinks=True)
    return make_step(tmp_path, tmp_path / "machine")


OFFLINE = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_CACHE_DIR": "/nonexistent",
}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")
    }


def until(condition: Any, seconds: float = 60) -> None:
    """Waits for something another process does; a bound, not a synchronisation."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_the_second_run_installs_and_compiles_nothing(warm: Step) -> None:
    warm.run()
    (environment,) = warm.environments
    assert sorted(file.name.split(".cpython")[0] for file in (environment / "orchestrator").iterdir()) == [
        "orchestrator", "orchestrator.cli",
    ]  # fmt: skip
    before = snapshot(warm.machine / "tool cache")
    done = warm.run(**OFFLINE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert snapshot(warm.machine / "tool cache") == before


def test_only_the_package_and_the_lock_are_importable(warm: Step, tmp_path: Path) -> None:
    evil = tmp_path / "users path"
    evil.mkdir()
    for name in ("yaml.py", "sitecustomize.py", "json.py"):
        (evil / name).write_text("raise SystemExit('leaked')")
    seen = warm.seen(PYTHONPATH=str(evil), PYTHONSTARTUP=str(evil / "json.py"), PYTHONHOME="/nonexistent")
    assert seen["importable"] == []
    assert str(evil) not in seen["path"]
    assert not any(str(warm.action) in path for path in seen["path"])
    assert seen["yaml"].startswith(str(warm.machine))


def test_the_job_is_left_alone(warm: Step, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.touch()
    job = {
        "PYTHONPATH": "/somewhere",
        "PYTHONHASHSEED": "7",
        "VIRTUAL_ENV": "/the users",
        "GITHUB_TOKEN": "secret",
        "HOME": str(tmp_path),
        "MLTIERS_JOB_TOTAL": "1",
        "MLTIERS_INPUT_TIERS": "unit",
        **{name: str(file) for name, file in files.items()},
    }
    action_before = snapshot(warm.action)
    seen = warm.seen(**job)["environ"]
    assert {name: seen.get(name) for name in job if not name.startswith("MLTIERS_")} == {
        name: value for name, value in job.items() if not name.startswith("MLTIERS_")
    }
    assert not [name for name in seen if name.startswith("MLTIERS_")]
    assert seen["PATH"].startswith(str(Path(sys.executable).parent))
    assert [file.read_text() for file in files.values()] == ["", "", ""]
    assert warm.outputs["artifact-name"] == "mltiers-unit"
    assert snapshot(warm.action) == action_before  # not a byte of bytecode either
    assert list(tmp_path.glob(".*")) == []  # nothing in the user's home


def test_inputs_reach_the_orchestrator(warm: Step) -> None:
    seen = warm.seen(MLTIERS_INPUT_TIERS="unit, gpu", MLTIERS_INPUT_OUT="my results", MLTIERS_INPUT_WAIT="true")
    assert seen["arguments"] == ["run", "unit", "gpu", "--out=my results", "--wait"]
    assert seen["argv"] == ["mltiers", *seen["arguments"]]


def test_stale_code_never_runs(warm: Step) -> None:
    warm.program("def main(arguments):\n    print('old')\n    return 0\n")
    # What an earlier run, or a test run in the checkout, may have left behind: bytecode of the same time and size.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(warm.action / "orchestrator")], check=True)
    assert list((warm.action / "orchestrator" / "__pycache__").glob("cli.*.pyc"))
    assert warm.run().stdout == "old\n"
    warm.program("def main(arguments):\n    print('new')\n    return 0\n")
    assert warm.run().stdout == "new\n"


@pytest.mark.parametrize("damage", ["cut", "no code", "somebody else's", "nothing can be kept"])
def test_what_is_kept_of_compiled_code_is_used_only_where_it_is_whole(broken: Step, damage: str) -> None:
    broken.run()
    (environment,) = broken.environments
    (kept,) = (environment / "orchestrator").glob("orchestrator.cli.*")
    key, content = kept.read_bytes()[:32], kept.read_bytes()[32:]
    if damage == "nothing can be kept":
        shutil.rmtree(kept.parent)
        kept.parent.touch()
    else:
        other = {"cut": key + content[:50], "no code": key + marshal.dumps(7), "somebody else's": bytes(32) + content}
        kept.write_bytes(other[damage])
    assert broken.seen()["arguments"] == ["run"]
    assert kept.parent.is_file() or kept.read_bytes() == key + content


@pytest.mark.parametrize("damage", ["base gone", "package gone"])
def test_a_broken_environment_is_built_again(broken: Step, damage: str) -> None:
    (environment,) = broken.environments
    if damage == "base gone":
        python = environment / "bin" / "python"
        python.unlink()
        python.symlink_to("/nonexistent/python3")
    else:
        (requests,) = environment.glob("lib/python*/site-packages/requests")
        shutil.rmtree(requests)
    done = broken.run()
    assert done.returncode == 0, done.stderr
    assert "installed in" in done.stderr
    assert broken.environments == [environment]
    assert broken.run(**OFFLINE).stderr == ""


def test_concurrent_jobs_build_once(cold: Step) -> None:
    with cold.start() as first, cold.start() as second:
        outputs = [first.communicate(timeout=120), second.communicate(timeout=120)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    said = "".join(err for _, err in outputs)
    assert said.count("installed in") == 1
    assert {json.loads(out)["executable"] for out, _ in outputs} == {str(cold.environments[0] / "bin" / "python")}


def test_a_build_killed_in_the_middle_harms_nobody(cold: Step) -> None:
    with cold.start() as process:
        until(lambda: any(path.joinpath("pyvenv.cfg").exists() for path in cold.environments))
        process.kill()
        process.wait()
        (leftover,) = cold.environments
        assert ".building-" in leftover.name
        assert cold.seen()["executable"]  # while pip of the killed one may still be writing
    assert [".building-" in path.name for path in cold.environments] == [False]


def test_a_job_cancelled_while_building_says_so_and_cleans_up(cold: Step) -> None:
    with cold.start() as process:
        until(lambda: any(path.joinpath("pyvenv.cfg").exists() for path in cold.environments))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=7)
    assert process.returncode == 130
    assert re.search(r"^mltiers: cancelled by SIG(INT|TERM)$", err, re.MULTILINE)
    assert "Traceback" not in err
    assert cold.environments == []
    assert (cold.outputs["verdict"], cold.outputs["exit-code"]) == ("cancelled", "130")


def test_the_steps_entry_process_becomes_the_orchestrator(warm: Step) -> None:
    with warm.start() as process:
        out, err = process.communicate(timeout=60)
    assert json.loads(out)["pid"] == process.pid, err
    assert json.loads(out)["blocked"] == []


def test_a_signal_to_the_entry_process_reaches_the_orchestrator(warm: Step) -> None:
    warm.program(SIGNALLED_PROGRAM)
    with warm.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=7) == 130


def test_a_signal_before_the_orchestrator_can_answer_is_no_traceback(warm: Step) -> None:
    warm.program(
        "import os, signal\n"
        "def main(arguments):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except Exception:\n        return 3\n"  # the orchestrator's own net for defects
    )
    done = warm.run()
    assert done.returncode == 130
    assert done.stderr == "mltiers: cancelled by SIGINT\n"
    assert (warm.outputs["verdict"], warm.outputs["exit-code"]) == ("cancelled", "130")


@pytest.mark.parametrize(
    ("program", "exit_code", "verdict"),
    [
        ("return 1", 1, "failed"),  # as the orchestrator wrote it
        ("return 2", 2, ""),
        ("raise SystemExit(2)", 2, ""),  # argparse
        ("os.kill(os.getpid(), 9)", -9, "infrastructure"),
    ],
)
def test_however_it_ends_the_outputs_are_set(warm: Step, program: str, exit_code: int, verdict: str) -> None:
    warm.program(
        "import os\ndef main(arguments):\n"
        "    with open(os.environ['GITHUB_OUTPUT'], 'a') as file:\n"
        f"        file.write({'verdict=failed' if verdict == 'failed' else 'plan={}'!r} + chr(10))\n"
        f"    {program}\n"
    )
    assert warm.run().returncode == exit_code
    assert warm.outputs["verdict"] == verdict
    assert warm.outputs["exit-code"] == str(exit_code if exit_code > 0 else 3)


@pytest.mark.parametrize("damage", ["wrong hash", "no hash", "garbage", "missing"])
def test_a_bad_lock_installs_nothing(cold: Step, damage: str) -> None:
    lock = cold.action / "requirements" / "action.txt"
    text = lock.read_text(encoding="utf-8")
    if damage == "missing":
        lock.unlink()
    else:
        changed = {
            "wrong hash": re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", text),
            "no hash": "idna\n",
            "garbage": "idna === : !!\n",
        }
        lock.write_text(changed[damage], encoding="utf-8")
    done = cold.run()
    assert done.returncode == 3
    assert re.search("not what action.txt locks|is damaged|cannot read", done.stderr)
    assert "::error title=mltiers could not start::" in done.stdout
    assert cold.environments == []
    assert (cold.outputs["verdict"], cold.outputs["exit-code"]) == ("infrastructure", "3")


def test_without_a_network_it_says_so(cold: Step) -> None:
    done = cold.run(**OFFLINE)
    assert done.returncode == 3
    assert "could not be installed" in done.stderr
    assert "The machine must reach its Python package index" in done.stderr
    assert cold.environments == []


def test_wrong_inputs_end_with_usage_before_anything_is_built(cold: Step) -> None:
    done = cold.run(MLTIERS_INPUT_DISPATCH="maybe")
    assert done.returncode == 2
    assert "input 'dispatch': 'maybe' is neither true nor false" in done.stderr
    assert not (cold.machine / "tool cache").exists()


def test_pip_settings_that_would_install_elsewhere_are_ignored(cold: Step, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    seen = cold.seen(PIP_TARGET=str(elsewhere), PIP_USER="1", PIP_CONSTRAINT="/nonexistent", PIP_PREFIX="/nonexistent")
    assert seen["environ"]["PIP_TARGET"] == str(elsewhere)  # the job's own pip still obeys it
    assert not elsewhere.exists()


@pytest.fixture(scope="module")
def python_without_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python as Debian ships it without python3-venv: everything but ensurepip."""
    base = Path(bootstrap.base_python())
    home = tmp_path_factory.mktemp("debian python")
    stdlib = Path(os.__file__).parent
    target = home / stdlib.parent.name / stdlib.name
    target.mkdir(parents=True)
    for entry in stdlib.iterdir():
        if entry.name not in ("ensurepip", "site-packages", "dist-packages"):
            (target / entry.name).symlink_to(entry)
    (home / "bin").mkdir()
    shutil.copy(base, home / "bin" / "python3")
    return home / "bin" / "python3"


CHOOSE = """
import runpy, sys
names = runpy.run_path(sys.argv[1])
try:
    print(names["choose_python"](None, sys.argv[2]))
except names["BootstrapError"] as error:
    print(error.message, error.remedy, sep="\\n")
"""


def choose(python: Path, path: str) -> str:
    command = [str(python), "-I", "-c", CHOOSE, bootstrap.__file__, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_python_without_venv_is_passed_over(python_without_venv: Path, tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(bootstrap.base_python())
    assert choose(python_without_venv, str(tmp_path)) == f"{tmp_path / 'python'}\n"


def test_where_no_other_is_found_the_remedy_is_named(python_without_venv: Path) -> None:
    said = choose(python_without_venv, "/nonexistent")
    assert said == (
        f"{python_without_venv} has no venv and ensurepip modules\nOn Debian and Ubuntu: apt-get install python3-venv\n"
    )


def test_the_job_of_a_python_without_venv_goes_on_with_another(warm: Step, python_without_venv: Path) -> None:
    path = f"{python_without_venv.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert warm.seen(PATH=path)["environ"]["PATH"] == path


def test_a_machine_without_python_says_so(cold: Step, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("bash", "python3"):
        (tmp_path / "bin" / name).symlink_to(shutil.which("bash" if name == "bash" else "false") or "")
    script = RUN_SCRIPT.replace("/usr/bin/python3", "/nonexistent/python3")
    with cold.start(script, PATH=str(tmp_path / "bin")) as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "::error title=mltiers could not start::This machine has no Python." in out
    assert cold.output.read_text() == "verdict=infrastructure\nexit-code=3\n"
