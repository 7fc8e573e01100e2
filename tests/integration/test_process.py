"""supervise: what one command, and everything it starts, may and may not do to us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.process import Containment, Graces, ProcessOutcome, supervise
from orchestrator.tools.tree import process_table
from orchestrator.words.results import Ending

ROOT = Path(__file__).parents[2]
BRIEF = Graces(interrupt=0.2, terminate=0.1)


def python(code: str, **options: Any) -> ProcessOutcome:
    """Supervise a python that runs ``code``."""
    options.setdefault("cwd", Path("/"))
    options.setdefault("env", {"PATH": os.environ["PATH"]})
    options.setdefault("graces", BRIEF)
    return supervise([sys.executable, "-I", "-S", "-c", code], **options)


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what init has yet to bury."""
    process = process_table().get(pid)
    return process is None or not process.alive


ORPHAN = """
import os, signal, sys, time
def orphan(file, seconds=60, polite=False):
    "A daemon in a session of its own that writes its pid to the file."
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if not polite:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open(file, "w").write(str(os.getpid()))
            os.write(w, b"x")
            time.sleep(seconds)
        os._exit(0)
    os.read(r, 1)
"""


# --- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ending", "exit_code"),
    [
        ("pass", Ending.EXITED, 0),
        ("raise SystemExit(3)", Ending.EXITED, 3),
        ("import os; os.kill(os.getpid(), 9)", Ending.SIGNALED, -9),
        ("import os; os.kill(os.getpid(), 15)", Ending.SIGNALED, -15),
    ],
)
def test_it_ends_by_itself(code: str, ending: Ending, exit_code: int) -> None:
    outcome = python(code, deadline=20)
    assert (outcome.ending, outcome.exit_code) == (ending, exit_code)
    assert (outcome.stopped, outcome.leftovers, outcome.survivors) == ((), (), ())
    assert abs(outcome.started - time.time()) < 20
    assert 0 < outcome.seconds < 20


def test_it_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "not-executable").write_text("x")
    for command, folder, reason in [
        ("no-such-program", tmp_path, "no-such-program: No such file or directory"),
        (str(tmp_path / "not-executable"), tmp_path, "not-executable: Permission denied"),
        (sys.executable, tmp_path / "no-such-folder", "no-such-folder: No such file or directory"),
    ]:
        outcome = supervise([command], cwd=folder, env={"PATH": "/usr/bin:/bin"})
        assert outcome.ending is Ending.NOT_STARTED
        assert outcome.reason is not None
        assert outcome.reason.endswith(reason)


def test_a_null_byte_cannot_be_started() -> None:
    for command, env in ((["/bin/echo", "a\0b"], {}), (["/bin/echo"], {"A": "a\0b"})):
        outcome = supervise(command, cwd=Path("/"), env=env)
        assert outcome.ending is Ending.NOT_STARTED
        assert outcome.reason == "/bin/echo: Invalid argument"


def test_the_deadline_stops_it() -> None:
    outcome = python("import time; time.sleep(60)", deadline=0.5)
    assert outcome.ending is Ending.DEADLINE
    assert 0.4 < outcome.seconds < 2.5
    assert outcome.stop_seconds < 2
    assert len(outcome.stopped) == 1
    assert outcome.stopped[0].endswith(": INT")


def test_each_step_is_taken_only_where_it_is_needed() -> None:
    code = """
import os, signal, sys, time
for ignored in ((), (2,), (2, 15)):
    if os.fork() == 0:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL) if 2 not in ignored else None
        time.sleep(60)
signal.signal(2, signal.SIG_IGN)
time.sleep(60)
"""
    outcome = python(code, deadline=0.7)
    assert sorted(what.rpartition(": ")[2] for what in outcome.stopped) == ["INT", "KILL", "TERM", "TERM"]


def test_who_ends_in_its_grace_keeps_its_exit_code() -> None:
    code = "import signal, sys, time; signal.signal(2, lambda *_: sys.exit(7)); time.sleep(60)"
    outcome = python(code, deadline=0.5)
    assert (outcome.ending, outcome.exit_code) == (Ending.DEADLINE, 7)


def test_what_the_largest_process_held_is_told() -> None:
    """A child's 64 MiB, which its parent has waited for."""
    child = "data = bytearray(64 << 20); data[::4096] = bytes(len(data[::4096]))"
    outcome = python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)")
    assert outcome.exit_code == 0
    assert outcome.peak_memory is not None
    assert 64 << 20 <= outcome.peak_memory < 512 << 20


# --- what it starts with -------------------------------------------------------------------------------------------


def test_it_sees_its_own_environment_folder_and_nothing_else_of_ours(tmp_path: Path) -> None:
    code = """
import os, signal, sys
print(sorted(set(os.environ) - {"LC_CTYPE"}), os.environ["ODD"] == "a\\udcff b", os.getcwd())
print(repr(sys.stdin.read()))
print([int(fd) for fd in os.listdir("/dev/fd") if int(fd) > 2][1:])
print(os.getpid() == os.getsid(0) == os.getpgid(0))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    secret = os.pipe()
    os.set_inheritable(secret[0], True)
    try:
        outcome = python(code, cwd=tmp_path, env={"ODD": "a\udcff b"})
    finally:
        os.close(secret[0])
        os.close(secret[1])
    assert outcome.output_tail.splitlines() == [f"['ODD'] True {tmp_path}", "''", "[]", "True", "True set()"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_its_parent_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    outcome = python("import os; print(repr(open(f'/proc/{os.getppid()}/environ').read()))")
    assert outcome.output_tail == "''\n"


def test_an_ignored_interrupt_is_not_handed_down() -> None:
    # As in `mltiers run &` of a shell script: everything there ignores INT.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome = python("import time; time.sleep(60)", deadline=0.5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.stopped[0].endswith(": INT")


# --- output --------------------------------------------------------------------------------------------------------


def test_output_goes_to_the_log_the_callback_and_the_tail(tmp_path: Path) -> None:
    code = """
import os
os.write(1, b"one\\r\\ntw"); os.write(2, b"o \\xf0\\x9f"); os.write(1, b"\\x99\\x82 \\xff\\n\\nlast")
"""
    lines: list[str] = []
    outcome = python(code, log=tmp_path / "log", on_line=lines.append)
    raw = b"one\r\ntwo \xf0\x9f\x99\x82 \xff\n\nlast"
    assert (tmp_path / "log").read_bytes() == raw
    assert lines == ["one", "two 🙂 �", "", "last"]
    assert outcome.output_tail == "one\r\ntwo 🙂 �\n\nlast"
    assert outcome.output_bytes == len(raw)
    assert outcome.output_complete


def test_endless_output_is_cut_but_its_end_is_kept(tmp_path: Path) -> None:
    code = "for i in range(200_000): print('line', i)"
    lines: list[str] = []
    outcome = python(code, log=tmp_path / "log", log_limit=10_000, on_line=lines.append)
    log = (tmp_path / "log").read_bytes()
    assert not outcome.output_complete
    assert log.startswith(b"line 0\nline 1\n")
    assert b"more bytes were printed and are not kept" in log
    assert len(log) < 10_200
    assert outcome.output_tail.endswith("line 199998\nline 199999\n")
    assert outcome.output_tail.startswith("line ")
    assert len(outcome.output_tail) <= 64 * 1024
    assert outcome.output_bytes == sum(len(f"line {i}\n") for i in range(200_000))


def test_a_line_without_end_is_handed_on_in_pieces(tmp_path: Path) -> None:
    lines: list[str] = []
    python("print('x' * 1_000_000, end='')", on_line=lines.append)
    assert "".join(lines) == "x" * 1_000_000
    assert len(lines) > 1


def test_a_daemon_that_keeps_the_output_keeps_nobody_waiting(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = python(f"{ORPHAN}\norphan({str(tmp_path / 'pid')!r})\nprint('done')", deadline=30)
    assert time.monotonic() - began < 5
    assert (outcome.ending, outcome.exit_code, outcome.output_tail) == (Ending.EXITED, 0, "done\n")
    assert len(outcome.leftovers) == 1
    assert outcome.survivors == ()
    assert gone(int((tmp_path / "pid").read_text()))


def test_helpers_that_end_by_themselves_are_no_leftovers() -> None:
    code = "import os, time\nif os.fork() == 0: time.sleep(0.1)"
    assert python(code, deadline=30).leftovers == ()


def test_a_callback_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise LookupError(line)

    code = f"{ORPHAN}\norphan({str(tmp_path / 'pid')!r})\nprint('boo', flush=True)\ntime.sleep(60)"
    with pytest.raises(LookupError, match="boo"):
        python(code, on_line=fail)
    assert gone(int((tmp_path / "pid").read_text()))


# --- who stops it --------------------------------------------------------------------------------------------------


def test_one_cancellation_stops_all_who_wait_for_it() -> None:
    cancel = Cancellation()
    started = threading.Barrier(4)

    def run() -> ProcessOutcome:
        return python(
            "import time; print('up', flush=True); time.sleep(60)",
            cancel=cancel,
            on_line=lambda line: line == "up" and started.wait(20),
        )

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run) for _ in range(3)]
        started.wait(20)
        cancel.set("enough")
        outcomes = [future.result(20) for future in futures]
    assert {outcome.ending for outcome in outcomes} == {Ending.CANCELLED}
    assert all(outcome.stop_seconds < 2 for outcome in outcomes)
    assert cancel.is_set
    assert cancel.reason == "enough"
    assert python("import time; time.sleep(60)", cancel=cancel).ending is Ending.CANCELLED
    cancel.close()


@pytest.mark.parametrize("containment", Containment)
def test_orphans_belong_to_the_command_that_made_them(containment: Containment, tmp_path: Path) -> None:
    if containment is Containment.GROUP:
        pytest.skip("without a subreaper, orphans of another session are lost: see the module's docstring")
    # While `short` ends and is cleaned, the orphan of `long` must live on.
    go = tmp_path / "go"
    os.mkfifo(go)
    long_code = f"{ORPHAN}\norphan({str(tmp_path / 'long')!r})\nprint('up', flush=True)\nopen({str(go)!r}).read()"
    up = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(python, long_code, deadline=30, on_line=lambda _: up.set(), containment=containment)
        assert up.wait(20)
        short = python(f"{ORPHAN}\norphan({str(tmp_path / 'short')!r})", deadline=30, containment=containment)
        assert gone(int((tmp_path / "short").read_text()))
        orphan = int((tmp_path / "long").read_text())
        assert not gone(orphan)
        go.write_text("")
        ended = long.result(20)
    assert gone(orphan)
    for outcome, file in ((short, "short"), (ended, "long")):
        assert len(outcome.leftovers) == 1
        assert (tmp_path / file).read_text() in outcome.leftovers[0]


@pytest.mark.parametrize("containment", Containment)
def test_every_containment_ends_a_stubborn_tree(containment: Containment, tmp_path: Path) -> None:
    code = f"""
import os, signal, time
signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN)
for _ in range(3): os.fork()
with open({str(tmp_path / "pids")!r}, "a") as file: file.write(f"{{os.getpid()}}\\n")
time.sleep(60)
"""
    outcome = python(code, deadline=1, containment=containment)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert outcome.ending is Ending.DEADLINE
    assert outcome.survivors == ()
    assert len(outcome.stopped) == len(pids) == 8
    assert outcome.stop_seconds < 2
    assert all(gone(pid) for pid in pids)


ENTRY = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from orchestrator.tools.cancellation import Cancellation
from orchestrator.tools.process import supervise
with Cancellation.on_signals() as cancel:
    outcome = supervise([sys.executable, "-c", {code!r}], cwd=Path("/"), env={{}}, cancel=cancel,
                        on_line=lambda line: print(line, flush=True))
print(outcome.ending, cancel.reason, outcome.stop_seconds < 2, len(outcome.survivors), flush=True)
"""


@contextmanager
def entry(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An orchestrator of its own, with a stubborn command that has an orphan; yields it and the pid of the orphan."""
    code = f"{ORPHAN}\norphan({str(tmp_path / 'pid')!r})\nsignal.signal(2, 1)\nprint('up', flush=True)\ntime.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY.format(root=str(ROOT), code=code)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        yield process, int((tmp_path / "pid").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_entry_process_alone_stops_everything(number: signal.Signals, tmp_path: Path) -> None:
    with entry(tmp_path) as (process, orphan):
        began = time.monotonic()
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
        assert time.monotonic() - began < 4  # its own end included; the stop itself is timed in what it says
    assert said == f"cancelled received {number.name} True 0\n"
    assert gone(orphan)


def test_the_tree_does_not_outlive_a_killed_orchestrator(tmp_path: Path) -> None:
    with entry(tmp_path) as (process, orphan):
        process.kill()
        end = time.monotonic() + 5
        while not gone(orphan) and time.monotonic() < end:
            threading.Event().wait(0.02)
    assert gone(orphan)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a subreaper")
@pytest.mark.parametrize("containment", [Containment.CGROUP, Containment.SUBREAPER])
def test_a_command_that_kills_its_supervisor_is_ended_all_the_same(containment: Containment, tmp_path: Path) -> None:
    code = f"{ORPHAN}\norphan({str(tmp_path / 'pid')!r})\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)"
    outcome = python(code, deadline=30, containment=containment)
    assert outcome.ending is Ending.UNKNOWN
    assert "supervised this command was killed" in (outcome.reason or "")
    assert outcome.survivors == ()
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a subreaper")
def test_a_lost_supervisor_costs_nobody_else_anything() -> None:
    # Killed at once, it has not even said what it started: whoever then guesses must guess nothing of others.
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        for _ in range(5):
            outcome = python("import os; os.kill(os.getppid(), 9)")
            assert outcome.ending is Ending.UNKNOWN
        assert bystander.poll() is None
        bystander.communicate(b"\n")
        assert bystander.returncode == 0


# --- many ----------------------------------------------------------------------------------------------------------


def test_many_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: python(f"print({n}); raise SystemExit({n})"), range(24)))
    assert [(outcome.exit_code, outcome.output_tail) for outcome in outcomes] == [(n, f"{n}\n") for n in range(24)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_nothing_leaks() -> None:
    python("pass")
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for code in ("pass", "import os; os.kill(os.getpid(), 9)", "import os; os.kill(os.getppid(), 9)"):
        python(code)
    supervise(["no-such-program"], cwd=Path("/"), env={})
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
