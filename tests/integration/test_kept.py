"""The process that is kept for a run: what is forked from it is as if executed, and without it nothing is lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.kept import KEPT, Kept
from orchestrator.tools.process import ProcessOutcome, supervise
from orchestrator.tools.tree import process_table
from orchestrator.words.plan import Keeping
from tests.overruns.harness import PLUGIN, keep
from tests.support.project import Project

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux only")

TELL = """
import os, sys
def tell(*words):
    line = " ".join(map(str, words)) + "\\n"
    fd = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, line.encode())
    os.close(fd)
"""

STATE = (
    TELL
    + """
import faulthandler, gc, signal, threading, pytest
from pathlib import Path

@pytest.mark.parametrize("n", range(2))
def test_state(n):
    import __main__
    tell("argv", sys.argv[:1], sys.orig_argv[1:3], sys.path[:1] == [os.getcwd()], "orchestrator" in sys.modules)
    tell("main", sorted(name for name in vars(__main__) if name.startswith("__")))
    tell("signals", {int(s): str(signal.getsignal(s)) for s in signal.valid_signals() if s != signal.SIGINT})
    tell("int", signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))
    tell("mask", signal.pthread_sigmask(0, ()), faulthandler.is_enabled())
    tell("streams", sys.__stdin__.fileno(), os.readlink("/proc/self/fd/0"), sys.__stderr__.fileno())
    for stream in (sys.__stdout__, sys.__stderr__):
        tell("encoding", stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
    tell("rest", os.getcwd(), os.umask(0o77), "MLTIERS_WARM" in os.environ, os.environ["OF_THE_TIER"])
    tell("environment", sorted(os.environ))
    shown = Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").split(b"\\0")
    tell("shown", os.environ.get("PYTEST_XDIST_WORKER", shown[1:]))
    tell("group", os.getsid(0) == os.getpgid(0), threading.current_thread().name, gc.isenabled())
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    tell("files", sorted({str(link).partition(":")[0] for link in links} & {"anon_inode", "socket"}))
"""
)


@dataclass(frozen=True)
class Run:
    """A pytest that is over."""

    outcome: ProcessOutcome
    report: dict[str, object]  # what the fork server said it did
    told: list[str]  # what the tests wrote into $TOLD
    log: str


Go = Callable[..., Run]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that counts as one for installed packages."""
    folder = tmp_path / "base" / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def env(tmp_path: Path, installed: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MLTIERS", "COV"))}
    return {
        **kept,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": f"{PLUGIN}:{installed}",
        "PYTHONUSERBASE": str(tmp_path / "base"),
        "OPENBLAS_NUM_THREADS": "1",
    }


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    return folder


@pytest.fixture
def go(tmp_path: Path, suite: Path, env: dict[str, str]) -> Go:
    """Runs a suite under supervision, from ``kept`` where it is given."""

    def run(
        text: str,
        *,
        kept: Kept | None,
        workers: int = 0,
        order: dict[str, object] | None = None,
        extra: dict[str, str] | None = None,
        deadline: float = 60.0,
        cancel: Cancellation | None = None,
    ) -> Run:
        (suite / "test_it.py").write_text(text)
        report, told, log = (tmp_path / name for name in ("report.json", "told", "log"))
        told.write_text("")
        report.write_text(json.dumps({"modules": ["ctypes"], "alone": not workers, **(order or {})}))
        xdist = ["-p", "xdist", "-n", str(workers)] if workers else []
        start = [str(PLUGIN / "pytest_mltiers" / "warm" / "start.py"), str(report), "--"]
        plain = kept is None and not workers
        command = [sys.executable, *(["-m", "pytest"] if plain else start), "-p", "pytest_mltiers", *xdist]
        outcome = supervise(
            command,
            cwd=suite,
            env={**env, "TOLD": str(told), "OF_THE_TIER": "yes", **(extra or {})},
            deadline=deadline,
            cancel=cancel,
            log=log,
            kept=kept,
        )
        return Run(outcome, json.loads(report.read_text()), told.read_text().splitlines(), log.read_text())

    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_finds_everything_as_if_it_had_been_executed(
    workers: int, go: Go, suite: Path, env: dict[str, str]
) -> None:
    plain = go(STATE, kept=None, workers=workers)
    with keep(suite, env) as kept:
        seen = [go(STATE, kept=kept, workers=workers) for _ in range(2)]  # the second is as the first

    for run in seen:
        assert run.outcome.exit_code == plain.outcome.exit_code == 0, run.log
        assert run.report["warm"], run.report
        assert run.report["kept"], run.report
        assert sorted(run.told) == sorted(plain.told)
        assert run.outcome.leftovers == ()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_stands_on_no_higher_a_stack(workers: int, go: Go, suite: Path, env: dict[str, str]) -> None:
    text = TELL + "def test_it():\n    f, n = sys._getframe(), 0\n    while f := f.f_back: n += 1\n    tell(n)\n"
    plain = go(text, kept=None, workers=workers)
    with keep(suite, env) as kept:
        warm = go(text, kept=kept, workers=workers)

    assert warm.report["kept"], warm.report
    assert int(warm.told[0]) <= int(plain.told[0]) + 5, plain.told


def test_tiers_share_what_was_imported_and_import_the_rest_themselves(
    go: Go, suite: Path, env: dict[str, str], installed: Path
) -> None:
    (installed / "heavy.py").write_text("import os\nIMPORTED_BY = os.getpid()\n")
    (installed / "more.py").write_text("import os\nIMPORTED_BY = os.getpid()\n")
    text = TELL + "import heavy, more\ndef test_it(): tell(heavy.IMPORTED_BY, more.IMPORTED_BY, os.getpid())\n"
    order: dict[str, object] = {"modules": ["heavy"], "later": ["more"]}
    with keep(suite, env, "heavy") as kept:
        alone = go(text, kept=kept, order=order)
        beside = go(text, kept=kept, order=order, workers=2)

    (once, by_itself, pid), (again, by_another, worker) = (run.told[0].split() for run in (alone, beside))
    assert once == again
    assert by_itself == pid
    assert by_another not in (worker, once)
    assert (alone.report["modules"], beside.report["modules"]) == (["heavy"], ["heavy", "more"])


@pytest.mark.parametrize(
    ("order", "extra", "why", "workers"),
    [
        ({}, {"PYTHONHASHSEED": "7"}, "was started with another PYTHONHASHSEED", 0),
        ({}, {"OMP_NUM_THREADS": "3"}, "was started with another OMP_NUM_THREADS", 0),
        ({}, {"READ_BY_HEAVY": "3"}, "was started with another READ_BY_HEAVY", 0),
        ({"modules": ["ctypes"]}, {}, "has imported heavy, which these tests do not", 0),
        ({"own": ["heavy"]}, {}, "has imported heavy, which is the project's own to import", 0),
        ({"rewritten": ["heavy"]}, {}, "has imported heavy, which is the project's own to import", 0),
        ({"modules": []}, {}, "has imported heavy, which these tests do not", 2),
    ],
)
def test_what_could_tell_is_run_by_a_new_process(
    order: dict[str, object],
    extra: dict[str, str],
    why: str,
    workers: int,
    *,
    go: Go,
    suite: Path,
    env: dict[str, str],
    installed: Path,
) -> None:
    (installed / "heavy.py").write_text("import os\nIMPORTED_BY = os.getpid()\nos.environ.get('READ_BY_HEAVY')\n")
    text = TELL + "import heavy\ndef test_it(): tell('ran')\n"
    with keep(suite, {**env, "OMP_NUM_THREADS": "1"}, "heavy") as kept:
        extra = {"OMP_NUM_THREADS": "1", **extra}
        run = go(text, kept=kept, workers=workers, order={"modules": ["ctypes", "heavy"], **order}, extra=extra)

    assert run.outcome.exit_code == 0, run.log
    assert run.told == ["ran"]
    assert not run.report["kept"]
    assert run.report["fresh"] == f"the process kept for the run {why}"
    assert run.report["warm"] == bool(workers)


def test_a_variable_that_no_import_reads_may_differ(go: Go, suite: Path, env: dict[str, str]) -> None:
    with keep(suite, env) as kept:
        run = go(TELL + "def test_it(): tell(os.environ['FREE'])\n", kept=kept, extra={"FREE": "3"})
    assert run.report["kept"]
    assert run.told == ["3"]


def test_a_module_that_is_unfit_is_left_out_by_all(go: Go, suite: Path, env: dict[str, str], installed: Path) -> None:
    (installed / "fails.py").write_text("raise RuntimeError('no luck')\n")
    (installed / "forks.py").write_text("import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'input()'])\n")
    (installed / "good.py").write_text("")
    order: dict[str, object] = {"modules": ["ctypes", "fails", "forks", "good"]}
    with keep(suite, env, "fails", "forks", "good") as kept:
        run = go("def test_it(): pass\n", kept=kept, order=order)
    assert run.report["kept"], run.report
    assert set(run.report["without"]) == {"fails", "forks"}  # type: ignore[call-overload]
    assert run.report["modules"] == ["good"]


def test_what_took_long_is_not_imported_again_for_want_of_what_follows(
    go: Go, suite: Path, env: dict[str, str], installed: Path
) -> None:
    """The process that goes on is a child of the one that we started; it serves, and it ends, like that one."""
    counted = "import time\ntime.sleep(0.4)\nwith open(__file__ + '.seen', 'a') as file: print('imported', file=file)\n"
    (installed / "slow.py").write_text(counted)
    for name in ("fails", "complains"):
        (installed / f"{name}.py").write_text("raise RuntimeError('no luck')\n")
    order: dict[str, object] = {"modules": ["ctypes", "slow", "fails", "complains"]}
    with keep(suite, env, "slow", "fails", "complains") as kept:
        (first,) = KEPT
        runs = [go("def test_it(): pass\n", kept=kept, order=order, workers=n) for n in (0, 2)]
        (server,) = (os.pidfd_open(process.pid) for process in process_table().values() if process.parent == first)
    assert [run.report["kept"] for run in runs] == [True, True]
    assert [set(run.report["without"]) for run in runs] == [{"fails", "complains"}] * 2  # type: ignore[call-overload]
    assert (installed / "slow.py.seen").read_text().splitlines() == ["imported"]
    assert select.select([server], [], [], 20.0)[0], "it has not ended"
    os.close(server)


def test_what_warns_is_imported_once_and_each_run_hears_of_it(
    go: Go, suite: Path, env: dict[str, str], installed: Path
) -> None:
    noisy = (
        "import warnings\nwarnings.warn('old')\nwith open(__file__ + '.seen', 'a') as file: print('once', file=file)\n"
    )
    (installed / "noisy.py").write_text(noisy)
    order: dict[str, object] = {"modules": ["ctypes", "noisy"]}
    text = "import pytest\ndef test_it():\n    with pytest.warns(UserWarning, match='^old$'): import noisy\n"
    with keep(suite, env, "noisy") as kept:
        runs = [go(text, kept=kept, order=order, workers=n) for n in (0, 2)]
        mine = go("def test_it(): pass\n", kept=kept, order={**order, "own": ["noisy"]})
    assert [run.outcome.exit_code for run in (*runs, mine)] == [0, 0, 0]
    assert [run.report["modules"] for run in runs] == [["noisy"], ["noisy"]]
    assert (installed / "noisy.py.seen").read_text().splitlines() == ["once"]
    assert (
        mine.report["fresh"] == "the process kept for the run has imported noisy, which is the project's own to import"
    )


def test_one_that_is_gone_costs_nothing_but_time(go: Go, suite: Path, env: dict[str, str]) -> None:
    with keep(suite, env) as kept:
        (pid,) = KEPT
        os.kill(pid, signal.SIGKILL)
        runs = [go("def test_it(): pass\n", kept=kept) for _ in range(2)]
    assert [run.outcome.exit_code for run in runs] == [0, 0]
    assert not any(run.report["kept"] for run in runs)


@pytest.mark.parametrize("how", ["hangs in an import", "is stopped"])
def test_a_budget_holds_while_one_does_not_answer(
    how: str, go: Go, suite: Path, env: dict[str, str], installed: Path
) -> None:
    (installed / "hangs.py").write_text("import time\ntime.sleep(90)\n")
    with keep(suite, env, *(["hangs"] if how == "hangs in an import" else [])) as kept:
        (pid,) = KEPT
        if how == "is stopped":
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        run = go("def test_it(): pass\n", kept=kept, deadline=1.0)
        taken = time.monotonic() - began
    assert run.outcome.ending.value == "deadline"
    assert taken <= 1.0 + 2.0  # the promise
    assert not Path(f"/proc/{pid}").exists()


def test_a_cancelled_run_does_not_wait_for_it(go: Go, suite: Path, env: dict[str, str], installed: Path) -> None:
    (installed / "hangs.py").write_text("import time\ntime.sleep(90)\n")
    cancel = Cancellation()
    cancel.set("test")
    with keep(suite, env, "hangs") as kept:
        run = go("def test_it(): pass\n", kept=kept, cancel=cancel)
    assert run.outcome.ending.value == "cancelled"


def test_tiers_beside_one_that_gave_up_go_on(go: Go, suite: Path, env: dict[str, str]) -> None:
    text = TELL + "import time\ndef test_it():\n    tell('runs')\n    time.sleep(1)\n    tell('ends')\n"
    with keep(suite, env) as kept, ExitStack() as stack:
        told, done = suite.parent / "told", []
        import threading

        thread = threading.Thread(target=lambda: done.append(go(text, kept=kept)))
        thread.start()
        stack.callback(thread.join)
        until = time.monotonic() + 60
        while "runs" not in (told.read_text() if told.exists() else "") and time.monotonic() < until:
            time.sleep(0.01)
        kept.close()
    assert done[0].outcome.exit_code == 0, done[0].log
    assert done[0].told == ["runs", "ends"]


@pytest.fixture
def orchestrator(suite: Path, env: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with one that is kept, in which a tier runs for a long time; it prints when the tier runs."""
    (suite / "test_it.py").write_text(
        "import os, time\ndef test_it():\n    os.write(2, f'\\npid {os.getpid()} {os.getppid()}\\n'.encode())\n"
        "    time.sleep(90)\n"
    )
    (tmp_path / "report.json").write_text(json.dumps({"modules": ["ctypes"], "alone": True}))
    keeping = Keeping(python=sys.executable, env={}, modules=("ctypes",), own=(), rewritten=(), tiers=frozenset())
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from orchestrator.tools.kept import KEPT, Kept
from orchestrator.words.plan import Keeping
from orchestrator.tools.process import supervise
env = {env!r}
with Kept(sys.executable, root=Path({str(suite)!r}), variables=env, plugin=Path({str(PLUGIN)!r})) as kept:
    kept.keep({keeping!r}, env)
    print("kept", *KEPT, flush=True)
    start = {str(PLUGIN / "pytest_mltiers" / "warm" / "start.py")!r}
    supervise([sys.executable, start, {str(tmp_path / "report.json")!r}, "--", "-s"], cwd=Path({str(suite)!r}), env=env,
              kept=kept, on_line=lambda line: print(line, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1)
    yield process
    process.kill()
    process.wait()


def test_nothing_outlives_an_orchestrator_that_was_killed(orchestrator: subprocess.Popen[bytes]) -> None:
    assert orchestrator.stdout is not None
    pids: list[int] = []
    for line in orchestrator.stdout:
        words = line.split()
        if words and words[0] in (b"kept", b"pid"):
            pids += map(int, words[1:])
        if words and words[0] == b"pid":
            break
    handles = [os.pidfd_open(pid) for pid in pids]
    orchestrator.kill()
    until = time.monotonic() + 5.0
    for handle in handles:
        with ExitStack() as stack:
            stack.callback(os.close, handle)
            import select

            poll = select.poll()
            poll.register(handle, select.POLLIN)
            assert poll.poll(max(0.0, until - time.monotonic()) * 1000), pids
    assert len(pids) == 3


CONFIG = """
version: 1
source: [src]
defaults: {env: {OMP_NUM_THREADS: "1", MKL_NUM_THREADS: "1", OPENBLAS_NUM_THREADS: "1"}}
tiers:
  unit: {paths: [tests/unit], when: [push], budget: 60s, workers: 2}
  alone: {paths: [tests/alone], when: [push], budget: 60s, workers: 1, needs: [unit]}
"""


def test_a_run_keeps_one_process_for_its_tiers(tmp_path: Path, installed: Path) -> None:
    (installed / "heavy.py").write_text("import os\nIMPORTED_BY = os.getpid()\n")
    test = "import heavy, os\ndef test_it(): open(os.environ['TOLD'], 'a').write(f'{heavy.IMPORTED_BY}\\n')\n"
    files = {"tests/unit/test_a.py": test, "tests/alone/test_b.py": test, "src/x.py": "", "ml-tiers.yml": CONFIG}
    project = Project(tmp_path / "project", files)
    told = tmp_path / "told"
    variables = {"PYTHONUSERBASE": str(tmp_path / "base"), "PYTHONPATH": str(installed), "TOLD": str(told)}
    done = project.mltiers("run", "--event", "push", **variables)

    assert done.code == 0, done.err
    first, second = told.read_text().split()
    assert first == second
    assert not Path(f"/proc/{first}").exists()
    for tier, who in (("unit", "warm workers"), ("alone", "warm")):
        details = done.document(f"{tier}/result.json")["details"]
        assert any(said.startswith(f"{who}: forked from the process kept for this run") for said in details), details


ONE = """version: 1
tiers:
  unit: {{paths: [tests], when: [push], budget: 60s, workers: {workers}, env: {{MINE: '7', {env}}}}}
"""
SEES = (
    "import os, sys\ndef test_it():\n    missing = {*os.environ.get('PYTHONPATH', '').split(':')} - {'', *sys.path}\n"
    "    told = [sys.flags.hash_randomization, os.environ['MINE'], missing]\n"
    "    print(*told, file=open(os.environ['TOLD'], 'a'), end='')\n"
)


@pytest.mark.parametrize(
    ("workers", "variables", "starts"),
    [
        (1, "", 1),
        (2, "", 1),
        (1, "INHERITED: other, OMP_NUM_THREADS: '1'", 1),
        (1, "PYTHONHASHSEED: '0'", 2),  # an interpreter looks at it when it starts: it takes a new one
    ],
)
def test_a_run_starts_one_python(tmp_path: Path, workers: int, variables: str, starts: int) -> None:
    log, told = tmp_path / "starts", tmp_path / "told"
    files = {
        "tests/test_a.py": SEES,
        "ml-tiers.yml": ONE.format(workers=workers, env=variables),
        "site/sitecustomize.py": f"import sys\nprint(*sys.argv[:1], file=open({str(log)!r}, 'a'))\n",
    }
    project = Project(tmp_path / "project", files)
    inherited = {"INHERITED": "mine", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(project.root / "site")}
    done = project.mltiers("run", "--event", "push", "--python", sys.executable, TOLD=str(told), **inherited)

    assert done.code == 0, done.err
    assert told.read_text() == f"{int('HASHSEED' not in variables)} 7 set()"
    assert len(log.read_text().splitlines()) == starts
    assert done.document("unit/result.json")["tests"][0]["outcome"] == "passed"
    found = done.document("unit/warm.json")
    assert (found["warm"], found["kept"]) == (True, True)


def test_an_answer_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho some\nexec sleep 60\n")
    python.chmod(0o755)
    with Kept(str(python), root=tmp_path, variables=dict(os.environ), plugin=PLUGIN, probe="print()") as kept:
        assert kept.answer(within=1.0) in ("", "some\n")


def test_a_python_that_turns_out_to_be_the_wrong_one_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    python = tmp_path / "other"
    python.write_text(f'#!/bin/sh\necho $$ >> {pids}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = f"# tiers are listed below\n'x-unused': 1\nversion: 1\ntiers: {{a: {{python: '{python}', speed: 3}}}}\n"
    done = Project(tmp_path / "project", {"ml-tiers.yml": text}).mltiers("run")

    assert done.code == 2
    assert "speed" in done.err
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split())


@pytest.mark.parametrize("program", ["exit 3", "echo nonsense; exec cat"])
def test_a_python_that_is_none_is_told_of_as_ever(tmp_path: Path, program: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 4\n{program}\n')
    python.chmod(0o755)
    files = {"tests/test_a.py": SEES, "ml-tiers.yml": ONE.format(workers=1, env="")}
    done = Project(tmp_path / "project", files).mltiers("run", "--event", "push", "--python", str(python))

    assert done.code == 2
    assert f"{python} is not a Python" in done.err
