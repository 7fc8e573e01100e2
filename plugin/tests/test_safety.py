"""What the stream must never do: change a result, an output, or a file that is not its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import pytest_mltiers

PLUGIN = Path(__file__).resolve().parent.parent

MIXED = """
    import pytest
    @pytest.mark.parametrize("n", range(6))
    def test_many(n): assert n != 3
    def test_skips(): pytest.skip("no")
    @pytest.fixture
    def broken(): 1 / 0
    def test_error(broken): pass
    def test_warns(recwarn):
        import warnings
        warnings.warn("mine")
        assert len(recwarn) == 1
"""


def plain(output: str) -> list[str]:
    """Lines without times and addresses; sorted, because workers race."""
    return sorted(re.sub(r"\d+\.\d+s|0x[0-9a-f]+|gw\d|\[ *\d+%\]", "", line) for line in output.splitlines())


@pytest.mark.parametrize(
    "args", [(), ("-v", "-rA"), ("-p", "xdist", "-n", "2", "-v")], ids=["dots", "verbose", "xdist"]
)
def test_output_and_exit_code_are_those_of_pytest_alone(run_suite, args):
    without = run_suite(MIXED, *args, plugin=False, stream=None)
    off = run_suite(MIXED, *args, stream=None)
    streaming = run_suite(MIXED, *args)

    assert without.code == off.code == streaming.code == 1
    assert plain(without.out) == plain(off.out) == plain(streaming.out)
    assert off.events == []
    assert streaming.events


@pytest.mark.parametrize("args", [(), ("-W", "error"), ("-p", "xdist", "-n", "2")], ids=["plain", "strict", "xdist"])
def test_a_full_disk_is_one_warning_and_the_tests_go_on(run_suite, args):
    without = run_suite(MIXED, *args, stream=None)
    run = run_suite(MIXED, *args, stream="/dev/full")

    assert run.code == without.code == 1
    assert run.out.count("No space left on device") == 1
    assert "EventsWarning: pytest-mltiers stopped streaming to /dev/full" in run.out
    failed = [line for line in plain(without.out) if line.startswith(("FAILED", "ERROR"))]
    assert failed == [line for line in plain(run.out) if line.startswith(("FAILED", "ERROR"))]


def test_a_file_that_cannot_be_opened_is_one_warning(run_suite, tmp_path):
    run = run_suite("def test_a(): pass\ndef test_b(): pass", stream=str(tmp_path / "nowhere" / "events.jsonl"))

    assert run.code == 0
    assert run.out.count("No such file or directory") == 1


def test_a_test_that_closes_our_descriptor_loses_nothing_and_gets_nothing(run_suite, tmp_path):
    run = run_suite(
        """
        import os
        def ours():
            for name in os.listdir("/proc/self/fd"):
                try:
                    if os.readlink(f"/proc/self/fd/{name}").endswith("events.jsonl"): return int(name)
                except OSError: pass
        def test_takes_it_over():
            number = ours()
            mine = os.open("mine.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(mine, number)
        def test_closes_it():
            os.close(ours())
        def test_after(): pass
        """
    )

    assert run.code == 0, run.out
    assert (run.folder / "mine.txt").read_bytes() == b""
    for name in ("test_takes_it_over", "test_closes_it", "test_after"):
        assert [p[1] for p in run.phases(name)] == ["setup", "call", "teardown"]


def test_a_suite_that_replaces_the_system_and_the_clock_is_still_streamed(run_suite):
    run = run_suite(
        """
        import os, time
        def fail(*args, **kwargs): raise OSError("faked")
        def test_fakes():
            for name in ("write", "open", "fstat", "getpid"): setattr(os, name, fail)
            time.time = lambda: 0.0
        def test_after(): pass
        """,
        "-s",
    )

    assert run.phases("test_after")[-1] == (1, "teardown", "passed")
    times = [e["time"] for e in run.events]
    assert times == sorted(times)
    assert "stopped streaming" not in run.out


def test_a_test_that_sets_pytests_clock_gets_seconds_that_passed(run_suite):
    # As freezegun does it: pytest keeps the function it measures durations with where it can be replaced.
    run = run_suite(
        """
        import pytest, _pytest.timing
        @pytest.fixture
        def other_year(monkeypatch):
            monkeypatch.setattr(_pytest.timing, "perf_counter", lambda: 1.2e9)
            yield
        def test_travels(other_year): pass
        def test_after(): pass
        """
    )

    assert run.code == 0, run.out
    assert len(run.of("phase")) == 6
    assert all(0 <= e["seconds"] < 30 for e in run.of("phase"))


def test_a_forked_child_that_returns_into_pytest_says_nothing(run_suite):
    run = run_suite(
        """
        import os
        def test_forks():
            child = os.fork()
            if child: os.waitpid(child, 0)
        def test_after(): pass
        """
    )

    assert run.code == 0
    assert len(run.of("start", nodeid="test_it.py::test_after")) == 1
    assert len(run.of("end")) == 1


def test_a_pytest_that_a_test_runs_does_not_write_into_our_stream(run_suite):
    text = """
        import os, subprocess, sys, pathlib, pytest
        def test_outer(tmp_path):
            assert "MLTIERS_EVENTS" not in os.environ
            (tmp_path / "test_inner.py").write_text("def test_inner(): pass")
            command = [sys.executable, "-m", "pytest", "-p", "pytest_mltiers", str(tmp_path)]
            assert subprocess.run(command).returncode == 0
        def test_in_this_process(tmp_path):
            (tmp_path / "test_nested.py").write_text("def test_nested(): pass")
            assert pytest.main(["-p", "pytest_mltiers", str(tmp_path)]) == 0
    """
    for args in ((), ("-p", "xdist", "-n", "2")):
        run = run_suite(text, *args)
        assert run.code == 0, run.out
        assert {e["nodeid"] for e in run.of("start")} == {"test_it.py::test_outer", "test_it.py::test_in_this_process"}


def test_the_environment_is_left_as_it_was_found(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_a(): pass")
    program = f"""
import os, pytest
assert pytest.main(["-q", "-p", "pytest_mltiers", "-p", "no:cacheprovider", {str(tmp_path)!r}]) == 0
print("after:", os.environ["MLTIERS_EVENTS"])
"""
    events = str(tmp_path / "events.jsonl")
    environment = {**os.environ, "PYTHONPATH": str(PLUGIN / "src"), "MLTIERS_EVENTS": events}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )

    assert f"after: {events}" in done.stdout


def test_the_stream_is_not_even_loaded_where_it_is_not_asked_for(run_suite):
    run = run_suite(
        """
        import sys
        def test_lazy():
            assert "pytest_mltiers" in sys.modules
            loaded = {name for name in sys.modules if name.startswith("pytest_mltiers.")}
            assert not {f"pytest_mltiers.{name}" for name in ("events", "stream", "reports", "stacks")} & loaded
            assert not {"torch", "numpy"} & set(sys.modules)
        """,
        stream=None,
    )

    assert run.code == 0, run.out


def test_streaming_imports_neither_torch_nor_numpy(run_suite):
    run = run_suite("import sys\ndef test_light(): assert not {'torch', 'numpy'} & set(sys.modules)")

    assert run.code == 0, run.out
    assert run.of("gpu") == []


def test_use_of_cuda_is_told_at_the_end(run_suite):
    torch = """
        class cuda:
            is_initialized = staticmethod(lambda: True)
            device_count = staticmethod(lambda: 2)
            get_device_name = staticmethod(lambda n: f"Fake {n}")
            memory_stats = staticmethod(lambda n: {"allocated_bytes.all.peak": n * 512})
    """
    run = run_suite({"torch.py": torch, "test_it.py": "import torch\ndef test_a(): pass"})

    (gpu,) = run.of("gpu")
    assert (gpu["devices"], gpu["peak_bytes"]) == (["Fake 0", "Fake 1"], 512)
    assert [e["event"] for e in run.events][-2:] == ["gpu", "end"]


def test_cuda_that_nobody_used_is_not_touched(run_suite):
    torch = """
        class cuda:
            is_initialized = staticmethod(lambda: False)
            def __getattr__(self, name): raise SystemExit("touched")
        cuda = cuda()
    """
    run = run_suite({"torch.py": torch, "test_it.py": "import torch\ndef test_a(): pass"})

    assert run.code == 0, run.out
    assert run.of("gpu") == []


# --- installed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def user_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment into which pip has installed the plugin, beside our own pytest."""
    folder = tmp_path_factory.mktemp("user")
    source = shutil.copytree(PLUGIN, folder / "plugin", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    ours = [path for path in sys.path if path.endswith("-packages")]
    (site / "ours.pth").write_text("\n".join(ours) + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=120, capture_output=True)
    return folder / "venv" / "bin" / "python"


COPIES = {"copy on PYTHONPATH": {}, "installed only": {"PYTHONPATH": ""}}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
@pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["serial", "xdist"])
def test_a_user_who_has_it_installed_gets_it_once(run_suite, user_python, copy, named, args):
    autoload = {} if named else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}
    args = args if named else args[2:]  # xdist, too, is found by itself then
    files = {"test_it.py": "def test_a(): pass\ndef test_b(): assert 0"}
    run = run_suite(files, *args, python=str(user_python), plugin=named, variables={**COPIES[copy], **autoload})

    workers = ["main", *(["gw0", "gw1"] if args else [])]
    assert sorted(e["worker"] for e in run.of("session")) == sorted(workers)
    assert sorted(e["nodeid"] for e in run.of("start")) == ["test_it.py::test_a", "test_it.py::test_b"]
    assert sorted(e["worker"] for e in run.of("end")) == sorted(workers)


def test_a_conftest_that_names_it_as_well_gets_it_once(run_suite, user_python):
    files = {"conftest.py": "pytest_plugins = ['pytest_mltiers']", "test_it.py": "def test_a(): pass"}
    run = run_suite(files, python=str(user_python))

    assert [e["event"] for e in run.events].count("session") == 1
    assert len(run.of("start")) == 1


def test_what_is_installed_can_be_known_without_importing_it(user_python):
    ask = "import importlib.metadata as m, sys; print(m.version('pytest-mltiers'), 'pytest_mltiers' in sys.modules)"
    done = subprocess.run([str(user_python), "-c", ask], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == [pytest_mltiers.__version__, "False"]
