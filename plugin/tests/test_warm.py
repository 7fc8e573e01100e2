"""Warm workers: forked, and nobody can tell, except by the clock; where somebody could, they are plain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux only")

SOURCE = Path(__file__).resolve().parent.parent / "src"
START = SOURCE / "pytest_mltiers" / "warm" / "start.py"
XDIST = ("-p", "pytest_mltiers", "-p", "xdist", "-n", "2")


@dataclass(frozen=True)
class Run:
    """A pytest that is over."""

    code: int
    out: str
    report: dict[str, Any]  # what the fork server said it did
    outcomes: dict[str, str]  # by test
    told: list[str]  # what the tests wrote into $TOLD
    kept: list[str]  # and into files beside it


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that counts as one for installed packages."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = tmp_path / "base" / "lib" / version / "site-packages"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def run(tmp_path: Path, installed: Path):
    """Runs a suite; ``warm=None``: as ``python -m pytest`` does."""

    def go(
        files: dict[str, str] | str, *arguments: str, warm: dict[str, Any] | None, env: dict[str, str] | None = None
    ) -> Run:
        number = len(list(tmp_path.glob("run-*")))
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        for name, text in {
            "pytest.ini": "[pytest]",
            **({"test_it.py": files} if isinstance(files, str) else files),
        }.items():
            (folder / name).write_text(textwrap.dedent(text))
        report, junit, told = (tmp_path / f"{name}-{number}" for name in ("report", "junit", "told"))
        told.touch()
        how = ["-m", "pytest"] if warm is None else [str(START), str(report), "--"]
        if warm is not None:
            report.write_text(json.dumps(warm))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MLTIERS", "COV"))}
        environment = {
            **kept,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": f"{SOURCE}:{installed}",
            "PYTHONUSERBASE": str(tmp_path / "base"),
            "TOLD": str(told),
            "OPENBLAS_NUM_THREADS": "1",
            **(env or {}),
        }
        done = subprocess.run(
            [sys.executable, *how, *XDIST, f"--junitxml={junit}", *arguments],
            cwd=folder, env=environment, text=True, stdout=-1, stderr=-2, timeout=300, check=False,
        )  # fmt: skip
        cases = list(ET.parse(junit).iter("testcase")) if junit.exists() else []
        outcomes = {
            f"{c.get('classname')}::{c.get('name')}": ",".join(part.tag for part in c) or "passed" for c in cases
        }
        said = json.loads(report.read_text()) if report.exists() else {}
        kept = [path.read_text() for path in tmp_path.glob(f"{told.name}-*")]
        return Run(done.returncode, done.stdout, said, outcomes, told.read_text().splitlines(), kept)

    return go


TELL = """
    import os, sys

    def tell(*things):
        with open(os.environ["TOLD"], "a") as file:
            file.write(" ".join(map(str, things)) + "\\n")
"""

MIXED = {
    "conftest.py": "import pytest\n",
    "test_one.py": """
        import os, signal, warnings, pytest
        @pytest.mark.parametrize("n", range(8))
        def test_many(n): assert n != 3, "three"
        def test_skips(): pytest.skip("no")
        @pytest.mark.xfail
        def test_xfails(): assert False
        @pytest.fixture
        def broken(): raise RuntimeError("broken")
        def test_error(broken): pass
        def test_warns(): warnings.warn("careful")
        class TestIt:
            def test_method(self, tmp_path, capfd):
                print("hello")
                assert capfd.readouterr().out == "hello\\n"
    """,
    "test_two.py": """
        import os, signal
        def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
        def test_exits(): os._exit(3)
        def test_after(): pass
    """,
}


@pytest.mark.parametrize("mode", ["load", "loadfile", "worksteal"])
def test_the_same_outcomes_as_plain_workers(run, mode):
    plain = run(MIXED, "--dist", mode, warm=None)
    warm = run(MIXED, "--dist", mode, warm={"modules": ["ctypes"]})

    assert warm.report["warm"]
    assert warm.outcomes == plain.outcomes
    assert warm.code == plain.code == 1
    assert "3" in "".join(plain.outcomes)  # the suite ran


def test_workers_are_children_of_one_process_which_has_the_modules(run, installed):
    (installed / "heavy.py").write_text("import os\nIMPORTED_BY = os.getpid()\n")
    text = (
        TELL
        + """
    import heavy, pytest
    @pytest.mark.parametrize("n", range(6))
    def test_it(n): tell(os.getpid(), os.getppid(), heavy.IMPORTED_BY)
    """
    )
    done = run(text, warm={"modules": ["not_there"], "later": ["heavy"]})

    assert done.code == 0, done.out
    assert done.report["modules"] == ["heavy"]
    workers, parents, importers = (set(column) for column in zip(*map(str.split, done.told), strict=True))
    assert len(workers) == 2
    assert parents == importers
    assert len(parents) == 1


STATE = (
    TELL
    + """
    import gc, random, signal, threading, warnings, pytest
    from pathlib import Path

    @pytest.mark.parametrize("n", range(2))
    def test_state(n):
        import __main__
        tell("argv", sys.argv, sys.orig_argv[1:], sys.path[:1] == [os.getcwd()])
        tell("main", sorted(name for name in vars(__main__) if name.startswith("__")))
        tell("signals", [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGCHLD)], signal.pthread_sigmask(0, ()))
        tell("int", signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))
        tell("streams", sys.__stdin__.fileno(), os.readlink("/proc/self/fd/0"), sys.__stderr__.fileno())
        tell("encoding", sys.__stdout__.encoding, sys.__stdout__.errors, sys.__stderr__.errors, sys.__stdin__.mode)
        tell("rest", os.getcwd(), os.umask(0o77), os.environ["FROM_CONFTEST"], "MLTIERS_WARM" in os.environ)
        tell("group", os.getsid(0) == os.getpgid(0), threading.current_thread().name, gc.isenabled())
        links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        kinds = {str(link).partition(":")[0] for link in links}
        tell("files", sorted(kinds & {"anon_inode", "socket"}))
"""
)


def test_a_worker_finds_everything_as_a_plain_one_does(run):
    files = {"test_it.py": STATE, "conftest.py": "import os\nos.environ['FROM_CONFTEST'] = 'yes'\nos.umask(0o27)\n"}
    plain = run(files, warm=None)
    warm = run(files, warm={"modules": []})

    assert warm.report["warm"], warm.report
    assert plain.code == warm.code == 0, warm.out
    assert {line.replace("run-1", "run-0") for line in warm.told} == set(plain.told)


def test_its_stack_is_as_deep_as_that_of_a_plain_one(run):
    text = (
        TELL
        + """
    def test_depth():
        frame, depth = sys._getframe(), 0
        while frame := frame.f_back:
            depth += 1
        tell(depth)
"""
    )
    plain = run(text, warm=None)
    warm = run(text, warm={"modules": []})

    assert warm.report["warm"], warm.report
    assert int(warm.told[0]) <= int(plain.told[0]) + 4  # whoever formats it pays for each frame


def test_every_worker_has_a_randomness_of_its_own(run):
    pytest.importorskip("numpy")
    text = (
        TELL
        + """
    import random, numpy, pytest
    @pytest.mark.parametrize("n", range(2))
    def test_it(n): tell(random.random(), numpy.random.rand())
    """
    )
    done = run(text, warm={"modules": ["random", "numpy"]})

    assert done.report["modules"][-1] == "numpy", done.report
    first, second = (line.split() for line in done.told)
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    "question",
    [
        "any(found is heavy.HOLDER for found in gc.get_referrers(heavy.THING))",
        "any(found is heavy.THING for found in gc.get_objects())",
        "gc.get_freeze_count() == 0",
        "[gc.freeze(), gc.unfreeze(), gc.get_freeze_count()][-1] == 0",
        "[heavy.forget(), gc.collect(), heavy.FORGOTTEN()][-1] is None",
    ],
)
def test_the_garbage_collector_sees_what_was_imported_ahead(run, installed, question):
    (installed / "heavy.py").write_text(HEAVY)
    text = f"import gc, heavy\ndef test_it(): assert {question} and not hasattr(gc.collect, '__wrapped__')\n"
    done = run(text, warm={"modules": ["heavy"]})
    assert done.code == 0, done.out
    assert done.report["modules"] == ["heavy"]


HEAVY = """
import weakref

class Thing: pass

THING = Thing()
HOLDER = [THING]
CYCLE = Thing()
CYCLE.me = CYCLE
FORGOTTEN = weakref.ref(CYCLE)

def forget():
    global CYCLE
    CYCLE = None
"""


def test_till_somebody_asks_it_leaves_alone_what_was_imported_ahead(run, installed, tmp_path):
    """And so does pytest's end, which still finds what the tests have left."""
    (installed / "heavy.py").write_text(HEAVY)
    test = """
    import gc, heavy
    class Loud:
        def __init__(self): self.me = self
        def __del__(self): raise RuntimeError("loud")
    def test_it():
        gc.disable()
        Loud()
        assert gc.get_freeze_count.__wrapped__() > 1000
    """
    files = {"test_it.py": test, "conftest.py": ASKS_AT_THE_END}
    env = {"MLTIERS_EVENTS": str(tmp_path / "events.jsonl")}
    done = run(files, "-n", "1", "-W", "default", warm={"modules": ["heavy"]}, env=env)
    assert done.code == 0, done.out
    assert "RuntimeError: loud" in done.out
    assert done.told == ["True True True"]


ASKS_AT_THE_END = """
import gc, os, pytest

@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if hasattr(config, "workerinput"):
        frozen = gc.get_freeze_count.__wrapped__()
        seen = any(type(found).__name__ == "Thing" for found in gc.get_objects())
        with open(os.environ["TOLD"], "a") as file:
            print(frozen > 1000, seen, not hasattr(gc.collect, "__wrapped__"), file=file)
"""


def test_our_own_open_file_makes_no_process_look_for_others(tmp_path):
    code = f"""
import sys
sys.path[:0] = [{str(SOURCE)!r}, {str(SOURCE / "pytest_mltiers")!r}]
import warm
sys.modules["_mltiers_warm"] = warm
from _mltiers_warm.child import _writes_a_file
from pytest_mltiers import stacks
stacks.enable({str(tmp_path)!r})
print(len(list(__import__("os").listdir({str(tmp_path)!r}))), _writes_a_file())
file = open({str(tmp_path / "report.txt")!r}, "w")
print(_writes_a_file())
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["1", "False", "True"]


COUNTED = "import os\nwith open(os.environ['TOLD'], 'a') as file: print('imported', file=file)\n"
WARNS = "import warnings; warnings.warn('old', DeprecationWarning, stacklevel=3)\n"  # of code that nobody can foresee


@pytest.mark.parametrize("when", ["modules", "later"])
def test_what_is_left_out_takes_its_package_along(run, installed, when):
    """They all import the package itself; each would be found out by an attempt of its own."""
    (installed / "heavy.py").write_text(COUNTED)
    (installed / "old").mkdir()
    (installed / "old" / "__init__.py").write_text(WARNS)
    for name in "abc":
        (installed / "old" / f"{name}.py").write_text("")
    told = {"modules": ["heavy"], "later": []}
    told[when] = [*told[when], "old.a", "old.b", "old", "old.c"]
    done = run("import heavy\ndef test_it(): pass\n", warm=told)
    assert done.code == 0, done.out
    assert done.report["modules"] == ["heavy"]
    assert done.report["without"] == {"old": "warns when it is imported: old"}
    assert done.told == ["imported"] * (2 if when == "modules" else 1)


def test_what_took_long_is_imported_once_whatever_follows_is_unfit(run, installed):
    slow = "import time; time.sleep(0.4)\n"  # more than relay.WORTH
    (installed / "heavy.py").write_text(slow + COUNTED)
    (installed / "good.py").write_text(slow)
    for name in ("old", "older"):
        (installed / f"{name}.py").write_text(WARNS)
    suite = "import heavy, good\n@__import__('pytest').mark.parametrize('n', range(4))\ndef test_it(n): pass\n"
    done = run(suite, warm={"modules": [], "later": ["heavy", "old", "good", "older"]})
    assert done.code == 0, done.out
    assert done.report["modules"] == ["heavy", "good"]
    assert set(done.report["without"]) == {"old", "older"}
    assert done.told == ["imported"]


def test_a_part_of_a_package_that_is_imported_is_left_out_alone(run, installed):
    (installed / "new").mkdir()
    (installed / "new" / "__init__.py").write_text("")
    (installed / "new" / "old.py").write_text(WARNS)
    (installed / "new" / "fine.py").write_text("")
    done = run("def test_it(): pass\n", warm={"modules": ["new", "new.old", "new.fine"]})
    assert done.report["modules"] == ["new", "new.fine"]
    assert set(done.report["without"]) == {"new.old"}


@pytest.mark.parametrize("when", ["modules", "later"])
def test_nobody_tries_for_ever(run, installed, when):
    (installed / "heavy.py").write_text(COUNTED)
    names = [f"old_{number}" for number in range(9)]
    for name in names:
        (installed / f"{name}.py").write_text(WARNS)
    told = {"modules": ["heavy"], "later": []}
    told[when] = [*told[when], *names]
    done = run("import heavy\ndef test_it(): pass\n", warm=told)
    assert done.code == 0, done.out
    assert done.report["warm"], done.report
    assert done.report["modules"] == ["heavy"]
    assert len(done.report["without"]) == 3
    assert len(done.told) <= 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "1 thread"),
        (WARNS, "warns when it is imported: old"),
        ("import os; FILE = os.open(os.devnull, os.O_RDONLY)", "opens the file /dev/null"),
        ("import os\nif os.fork() == 0: os._exit(0)", "starts a process"),
        ("import xdist", "which has a pytest plugin"),
        ("import helpers", "a name that the project's own files have"),
        ("raise RuntimeError('no luck')", "cannot be imported: RuntimeError('no luck')"),
    ],
)
@pytest.mark.parametrize("when", ["modules", "later"])
def test_what_would_be_noticed_is_not_imported_ahead(run, installed, text, why, when):
    (installed / "good.py").write_text("")
    (installed / "bad.py").write_text(text)
    (installed / "helpers.py").write_text("")
    suite = "def test_it():\n    import good, sys\n    assert 'bad' not in sys.modules\n"
    done = run(suite, warm={"modules": [], "own": ["helpers"], when: ["good", "bad"]})

    assert done.code == 0, done.out
    assert done.report["warm"]
    assert done.report["modules"] == ["good"]
    assert why in done.report["without"]["bad"]


NOISY = {
    "outer/__init__.py": "import quiet, moved\nfrom inner import wrapped\nimport os, warnings\nIMPORTER = os.getpid()\n"
    "warnings.warn('outer is old', FutureWarning)\n",
    "outer/part.py": "import os, warnings\nIMPORTER = os.getpid()\nwarnings.warn('part is old', FutureWarning)\n",
    "inner/__init__.py": "from inner.deep import wrapped\n",
    "inner/deep.py": "from quiet import wrap\nwrapped = [wrap(), wrap()]\n",
    "moved.py": "import warnings\nwarnings.warn('moved is old', DeprecationWarning, stacklevel=2)\n",
    "quiet.py": "import warnings\ndef wrap():\n    warnings.warn('wrap is old', DeprecationWarning)\n",
}


@pytest.mark.parametrize(
    ("imports", "filters", "told"),
    [
        ("import inner.deep, outer", (), {"modules": ["outer", "outer.part"]}),
        ("import inner.deep, outer", ("-Werror",), {"modules": ["outer", "outer.part"]}),
        ("from outer import part", ("-Wignore:wrap:DeprecationWarning:quiet", "-Werror:part"), {"modules": ["outer"]}),
        ("from outer import part", (), {"modules": ["inner"], "later": ["outer.part"]}),
        ("import outer", (), {"modules": ["inner"], "later": ["outer.part"]}),
        ("import inner", ("-Werror",), {"modules": ["outer"]}),
        ("import moved, outer", (), {"modules": ["outer"]}),
        ("import moved", ("-Wignore:moved:DeprecationWarning:test_b", "-Werror:moved"), {"modules": ["moved"]}),
    ],
)
def test_what_an_import_warns_of_is_said_where_the_tests_import_it(run, installed, imports, filters, told):
    """Each worker, and each file that an error keeps from being imported, hears it as if nothing had been imported."""
    for name, text in NOISY.items():
        (installed / name).parent.mkdir(exist_ok=True)
        (installed / name).write_text(text)
    suite = {
        "test_a.py": TELL
        + f"""
    before = sorted({{"outer", "outer.part", "inner", "inner.deep", "moved"}} & set(sys.modules))
    {imports}
    after = sorted({{"outer", "inner", "inner.deep"}} & set(sys.modules))
    def test_it():
        assert all(sys.modules[name].__spec__.name == name and sys.modules[name].__spec__.loader for name in after)
        outer = sys.modules.get("outer")
        assert not hasattr(outer, "part") or outer.part is sys.modules["outer.part"]
        tell(before, after)
        tell("warm" if outer and outer.IMPORTER != os.getpid() else "plain")
    """,
        "test_b.py": f"{imports}\ndef test_it(): pass\n",
        "test_c.py": f"def test_it():\n    {imports}\n",
    }
    plain, warm = (run(suite, *filters, warm=how) for how in (None, {"modules": [], **told}))

    assert warm.report["warm"], warm.report
    assert warm.report["without"] == {}
    assert warm.report["modules"] == [*told["modules"], *told.get("later", [])]
    assert warm.outcomes == plain.outcomes
    assert warm.code == plain.code
    assert _warned(warm) == _warned(plain)
    assert warm.told[::2] == plain.told[::2]
    if "outer" in imports and plain.told:
        assert (plain.told[1], warm.told[1]) == ("plain", "warm")


def _warned(run: Run) -> list[str]:
    """What pytest says of the warnings."""
    said = run.out.partition("warnings summary")[2].partition("-- Docs")[0]
    return sorted(
        re.sub(r"run-\d", "run", line).strip() for line in said.splitlines() if "old" in line or ".py:" in line
    )


def test_a_package_is_heard_to_warn_also_where_a_part_of_it_is_not_there(run, installed):
    (installed / "half").mkdir()
    (installed / "half" / "__init__.py").write_text("import warnings; warnings.warn('half is old', FutureWarning)\n")
    suite = "import half\ndef test_it(): pass\n"
    plain, warm = (run(suite, warm=how) for how in (None, {"modules": ["half.gone"]}))
    assert warm.report["warm"]
    assert warm.report["modules"] == []
    assert len(_warned(plain)) > 0
    assert _warned(warm) == _warned(plain)


def test_what_is_hidden_can_be_asked_for_without_an_import(run, installed):
    (installed / "noisy.py").write_text("import warnings; warnings.warn('old', DeprecationWarning)\nX = 1\n")
    text = (
        TELL
        + """
    import importlib.util, pkgutil, inspect
    def test_it():
        tell([finder.__class__.__name__ for finder in sys.meta_path])
        spec = importlib.util.find_spec("noisy")
        tell(spec.origin, spec.loader.get_code("noisy").co_name)
        assert "noisy" not in sys.modules
        import noisy
        tell(noisy.X, inspect.getsource(noisy), noisy.__loader__.get_filename("noisy"))
        again = sys.modules.pop("noisy")
        import noisy
        assert noisy is not again
        tell([finder.__class__.__name__ for finder in sys.meta_path if finder.__class__.__name__ != "Hidden"])
        tell(any(finder.__class__.__name__ == "Hidden" for finder in sys.meta_path))
    """
    )
    plain, warm = (run(text, "-n1", warm=how) for how in (None, {"modules": ["noisy"]}))
    assert warm.report["modules"] == ["noisy"]
    assert (warm.code, plain.code) == (0, 0), warm.out
    assert "Hidden" in warm.told[0]
    assert warm.told[1:] == plain.told[1:]


def test_a_process_that_dies_of_an_import_leaves_plain_workers(run, installed):
    (installed / "deadly.py").write_text("import os, sys\nif sys.argv[0] != '-c': os._exit(9)\n")
    done = run("import deadly\ndef test_it(): pass\n", warm={"modules": [], "later": ["deadly"]})
    assert done.code == 0, done.out
    assert done.outcomes == {"test_it::test_it": "passed"}


def test_a_variable_that_an_import_sets_is_there_and_speaks_against_nothing(run, installed):
    (installed / "heavy.py").write_text("import os\nos.environ['HEAVY'] = 'set'\nIMPORTER = os.getpid()\n")
    text = (
        TELL
        + """
    import heavy
    def test_it(): tell(os.environ["HEAVY"], "warm" if os.getpid() != heavy.IMPORTER else "plain")
    """
    )
    done = run(text, warm={"modules": [], "later": ["heavy"]})
    assert done.report["modules"] == ["heavy"]
    assert done.told == ["set warm"]


def test_project_code_and_plugins_are_never_imported_ahead(run):
    text = "import mine, sys\ndef test_it(): assert mine.check() is None\n"
    files = {
        "test_it.py": text,
        "mine.py": "import sys\nIMPORTER = sys.argv[0]\ndef check(): assert IMPORTER == '-c'\n",
    }
    done = run(files, warm={"modules": ["mine", "xdist", "hypothesis"]}, env={"PYTHONPATH": f"{SOURCE}:."})

    assert done.code == 0, done.out
    assert done.report["modules"] == []
    assert "cannot be rewritten" not in done.out


def test_a_variable_that_an_import_has_read_is_not_changed_behind_its_back(run, installed):
    (installed / "heavy.py").write_text("import os\nMODE = os.environ.get('HEAVY_MODE', 'default')\n")
    files = {
        "conftest.py": "import os\nos.environ['HEAVY_MODE'] = 'tests'\n",
        "test_it.py": "import heavy\ndef test_it(): assert heavy.MODE == 'tests'\n",
    }
    dynamic = run(files, warm={"modules": ["heavy"]})
    static = run(files, warm={"modules": ["heavy"], "sets": ["HEAVY_MODE"]})

    assert dynamic.code == static.code == 0, dynamic.out
    assert "HEAVY_MODE was changed after the imports that read it" in dynamic.out
    assert not static.report["warm"]
    assert "HEAVY_MODE" in static.report["reason"]


SEES = (
    TELL
    + """
    import heavy, pytest
    SEEN = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUBLAS_WORKSPACE_CONFIG")

    @pytest.mark.parametrize("n", range(6))
    def test_it(n):
        tell(os.environ["PYTEST_XDIST_WORKER"], *SEEN, "warm" if heavy.IMPORTER != os.getpid() else "plain")
"""
)
CHOOSES = """
    import os
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"

    def pytest_xdist_setupnodes(specs):
        for number, spec in enumerate(specs):
            spec.env["CUDA_VISIBLE_DEVICES"] = str(number)
            spec.env["ODD"] = "a b'c" + chr(34) + chr(10) + chr(0xe9)
"""


def test_each_worker_may_be_given_a_device_of_its_own(run, installed):
    (installed / "heavy.py").write_text("import os\nIMPORTER = os.getpid()\n")
    warm = {"modules": ["heavy"], "sets": ["CUBLAS_WORKSPACE_CONFIG"]}
    odd = """    assert os.environ["ODD"] == "a b'c" + chr(34) + chr(10) + chr(0xe9)\n"""
    done = run({"conftest.py": CHOOSES, "test_it.py": SEES + "    " + odd}, warm=warm)
    assert done.code == 0, done.out
    assert set(done.told) == {f"gw{n} {n} :16:8 warm" for n in range(2)}


@pytest.mark.parametrize(
    "reads", ["os.environ.get('CUDA_VISIBLE_DEVICES')", "os.environ.get('ODD')", "open('/dev/zero')"]
)
def test_not_where_an_import_has_looked_at_the_devices(run, installed, reads):
    # What opens the driver's file has CUDA in use, which no fork can share; the file here is any other.
    (installed / "heavy.py").write_text(f"import os\nIMPORTER = os.getpid()\nHOLDS = {reads}\n")
    done = run({"conftest.py": CHOOSES, "test_it.py": SEES}, warm={"modules": ["heavy"]})
    assert done.code == 0, done.out
    assert set(done.told) == {f"gw{n} {n} :16:8 plain" for n in range(2)}


def test_without_the_fork_server_workers_are_plain(run):
    done = run("def test_it(): pass\n", warm=None, env={"MLTIERS_WARM": "nobody-listens-here"})
    assert done.code == 0, done.out
    assert done.outcomes == {"test_it::test_it": "passed"}


def test_of_what_is_finalised_only_torchs_operators_are_left(run, installed):
    (installed / "torch").mkdir()
    (installed / "torch" / "__init__.py").write_text("import torch.library\n")
    (installed / "torch" / "library.py").write_text("""
import os, weakref
def _del_library(what):
    with open(os.environ["TOLD"], "a") as file: file.write(what + "\\n")
class Library: pass
KEPT = Library()
weakref.finalize(KEPT, _del_library, "operators")
""")
    text = (
        TELL
        + """
    import weakref, torch
    class Mine: pass
    MINE = Mine()
    def test_it(): weakref.finalize(MINE, tell, "mine")
"""
    )
    assert set(run(text, warm=None).told) == {"mine", "operators"}
    warm = run(text, warm={"later": ["torch"]})
    assert warm.report["modules"] == ["torch"], warm.report
    assert warm.told == ["mine"]


@pytest.mark.parametrize("threads", ["2", "1"])
def test_the_threads_of_openblas_end_before_a_fork_and_are_back_after_it(run, threads):
    numpy = pytest.importorskip("numpy")
    if numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"] != "scipy-openblas":
        pytest.skip("this NumPy has another BLAS than OpenBLAS")
    text = (
        TELL
        + """
    import numpy, pytest
    @pytest.mark.parametrize("n", range(2))
    def test_it(n):
        a = numpy.random.default_rng(n).random((500, 500))
        product = a @ a
        assert numpy.allclose(product[7, :9], [sum(a[7] * a[:, k]) for k in range(9)])
        tell(os.environ["PYTEST_XDIST_WORKER"], len(os.listdir("/proc/self/task")))
"""
    )
    plain = run(text, warm=None, env={"OPENBLAS_NUM_THREADS": threads})
    warm = run(text, warm={"modules": ["numpy"]}, env={"OPENBLAS_NUM_THREADS": threads})

    assert plain.code == warm.code == 0, warm.out
    assert warm.report["warm"], warm.report
    assert warm.report["modules"] == ["numpy"]
    assert sorted(warm.told) == sorted(plain.told)


def test_a_process_with_threads_is_not_forked(run, installed):
    customize = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    (installed / "sitecustomize.py").write_text(customize)
    done = run("def test_it(): pass\n", warm={"modules": []})
    assert done.code == 0, done.out
    assert done.report == {**done.report, "warm": False, "modules": []}
    assert "threads" in done.report["reason"]


def test_what_runs_at_the_end_of_a_process_still_runs(run):
    files = {
        "conftest.py": TELL
        + """
    import atexit, threading, time
    KEPT = open(os.environ["TOLD"] + f"-{os.getpid()}", "w")
    KEPT.write("kept")
    atexit.register(lambda: tell("atexit", os.environ.get("PYTEST_XDIST_WORKER", "controller")))
    def last():
        threading.main_thread().join()
        tell("thread", os.environ.get("PYTEST_XDIST_WORKER", "controller"))
    threading.Thread(target=last).start()
    """,
        "test_it.py": "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): pass\n",
    }
    done = run(files, warm={"modules": []})

    assert done.code == 0, done.out
    assert {line for line in done.told if line.startswith("atexit")} == {
        "atexit gw0",
        "atexit gw1",
        "atexit controller",
    }
    assert [line for line in done.told if line.startswith("thread")].count("thread controller") == 1
    assert done.kept == ["kept"] * 3


@pytest.mark.parametrize(
    "ending", ["os._exit(7)", "raise SystemExit(9)", "os.kill(os.getpid(), 15)", "pytest.exit('x', 5)"]
)
def test_the_run_ends_as_its_controller_does(run, ending):
    files = {"conftest.py": f"import os, pytest\ndef pytest_sessionstart(session):\n    {ending}\n", "test_it.py": ""}
    plain = run(files, "-n0", warm=None)
    warm = run(files, "-n0", warm={"modules": []})
    assert warm.code == plain.code


def test_coverage_is_the_same(run):
    pytest.importorskip("pytest_cov")
    files = {
        "mine.py": "def used(n):\n    if n > 100:\n        return 1\n    return 2\n",
        "conftest.py": "import mine\n",
        "test_it.py": "import mine, pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): mine.used(n)\n",
    }
    seen = []
    for warm in (None, {"modules": ["ctypes"]}):
        done = run(files, "-p", "pytest_cov", "--cov=.", "--cov-report=term-missing", warm=warm)
        assert done.code == 0, done.out
        seen.append([line.split() for line in done.out.splitlines() if line.startswith("mine.py")])
    assert seen[0] == seen[1]
    assert seen[0][0][-1] == "3"  # the one line that is missing
