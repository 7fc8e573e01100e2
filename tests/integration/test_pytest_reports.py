"""pytest's own reports and the plugin's stream of the same real session, read and put together."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.mind.readers.events import EventLog, read_events
from orchestrator.mind.readers.junit import JUnitReport, read_junit
from orchestrator.mind.readers.merge import merge_tests
from orchestrator.words.results import TestOutcome, TestResult

PLUGIN = Path(__file__).resolve().parents[2] / "plugin" / "src"

P, F, E, S, XF, XP, U = (
    TestOutcome.PASSED,
    TestOutcome.FAILED,
    TestOutcome.ERROR,
    TestOutcome.SKIPPED,
    TestOutcome.XFAILED,
    TestOutcome.XPASSED,
    TestOutcome.UNFINISHED,
)

EVERYTHING = """
    import pytest, unittest
    @pytest.fixture
    def broken(): raise RuntimeError("no fixture")
    @pytest.fixture
    def leaking():
        yield
        raise RuntimeError("not cleaned up")
    def test_passes(): pass
    def test_fails(): assert 1 == 2
    def test_setup(broken): pass
    def test_teardown(leaking): pass
    def test_both(leaking): assert 0
    def test_skips(): pytest.skip("no")
    def test_skip_then_error(leaking): pytest.skip("no")
    @pytest.mark.xfail(reason="known")
    def test_xfails(): assert 0
    @pytest.mark.xfail(reason="known")
    def test_xpasses(): pass
    @pytest.mark.xfail(reason="known", strict=True)
    def test_strict(): pass
    @pytest.mark.xfail(reason="known")
    def test_xfail_then_error(leaking): assert 0
    @pytest.mark.parametrize("v", ["a-b", "a::b", "[c]", "x.y/z", "\\u00e9", "a\\nb"])
    def test_ids(v): pass
    class TestOuter:
        class TestInner:
            def test_deep(self): pass
    class TestOld(unittest.TestCase):
        def test_old(self): self.assertEqual(1, 1)
        @unittest.expectedFailure
        def test_expected(self): self.fail()
        @unittest.skip("old")
        def test_skipped(self): pass
"""
EVERYTHING_COUNTS = {P: 9, F: 3, E: 3, S: 2, XF: 3, XP: 1}
BASE = "class Base:\n    def test_inherited(self): pass\n    def test_bad(self): assert 0\n"
INHERITED = "from bases import Base\nclass TestHere(Base): pass\n"


@dataclass(frozen=True)
class Reports:
    code: int
    junit: JUnitReport | None
    events: EventLog
    tests: tuple[TestResult, ...]
    problems: tuple[str, ...]

    @property
    def outcomes(self) -> dict[str, TestOutcome]:
        return {test.node_id.rpartition("::")[2]: test.outcome for test in self.tests}


def session(folder: Path, files: Mapping[str, str] | str, *args: str) -> Reports:
    """Runs pytest on a suite as a tier does, and reads what it left."""
    for name, text in ({"tests/test_it.py": files} if isinstance(files, str) else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = tests\n", encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    environment |= {
        "PYTHONPATH": str(PLUGIN),
        "MLTIERS_EVENTS": str(folder / "events.jsonl"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_mltiers"]
    report = [f"--junitxml={folder / 'junit.xml'}", "-o", "junit_family=xunit1"]
    with (folder / "output.txt").open("wb") as output:  # a file: a worker left behind would hold a pipe open for ever
        done = subprocess.run(
            [*command, *report, *args],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=60,
            check=False,
        )
    path = folder / "junit.xml"
    junit = read_junit(path.read_bytes()) if path.exists() else None
    events = read_events((folder / "events.jsonl").read_bytes().splitlines(keepends=True))
    return Reports(done.returncode, junit, events, *merge_tests(junit, events))


XDIST = ("-p", "xdist", "-n", "2")
RERUNS = ("-p", "pytest_rerunfailures", "--reruns", "2")
SESSIONS = {
    "serial": (EVERYTHING, ()),
    "xdist": (EVERYTHING, XDIST),
    "loadscope": (EVERYTHING, (*XDIST, "--dist", "loadscope")),
    "each": (EVERYTHING, (*XDIST, "--dist", "each")),
    "reruns": (EVERYTHING, RERUNS),
    "reruns with xdist": (EVERYTHING, (*RERUNS, *XDIST)),
    "prefix": (EVERYTHING, ("--junitprefix", "gpu.tier")),
    "call times": (EVERYTHING, ("-o", "junit_duration_report=call")),
    "second family": (EVERYTHING, ("-o", "junit_family=xunit2")),
    "logged output": (EVERYTHING, ("-o", "junit_logging=all")),
    "kept duplicates": (EVERYTHING, ("--keep-duplicates", "tests/test_it.py", "tests/test_it.py")),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_both_reports_of_a_session_that_ended_agree(tmp_path, name):
    suite, args = SESSIONS[name]
    reports = session(tmp_path, suite, *args)

    assert reports.problems == ()
    assert Counter(test.outcome for test in reports.tests) == EVERYTHING_COUNTS
    assert all(test.node_id.startswith("tests/test_it.py::") for test in reports.tests)
    assert reports.outcomes["test_deep"] is P
    assert reports.events.ended
    assert reports.events.exit_status == reports.code == 1
    assert all(test.worker and test.started for test in reports.tests)


@pytest.mark.parametrize("args", [(), XDIST], ids=["serial", "xdist"])
@pytest.mark.parametrize("more", [("--continue-on-collection-errors",), ()], ids=["continued", "stopped"])
def test_files_that_cannot_be_collected_are_tests_in_error(tmp_path, args, more):
    files = {
        "tests/test_broken.py": "import a_module_nobody_has",
        "tests/test_skips.py": "import pytest; pytest.skip('no GPU', allow_module_level=True)",
        "tests/test_fine.py": "def test_fine(): pass",
    }
    reports = session(tmp_path, files, *args, *more)

    assert reports.problems == ()
    outcomes = {test.node_id: test.outcome for test in reports.tests}
    assert outcomes["tests/test_broken.py"] is E
    assert outcomes["tests/test_skips.py"] is S
    assert outcomes.get("tests/test_fine.py::test_fine", P) is P
    broken = next(test for test in reports.tests if test.outcome is E)
    assert broken.message == "ModuleNotFoundError: No module named 'a_module_nobody_has'"
    assert "import a_module_nobody_has" in (broken.text or "")


def test_a_test_inherited_from_another_file_keeps_its_own_node_id(tmp_path):
    reports = session(tmp_path, {"tests/bases.py": BASE, "tests/test_it.py": INHERITED})

    assert reports.problems == ()
    assert {test.node_id: test.outcome for test in reports.tests} == {
        "tests/test_it.py::TestHere::test_inherited": P,
        "tests/test_it.py::TestHere::test_bad": F,
    }


def test_parts_of_a_test_make_it_fail(tmp_path):
    suite = """
        def test_parts(subtests):
            for n in range(3):
                with subtests.test(n=n): assert n != 1
        def test_good_parts(subtests):
            for n in range(3):
                with subtests.test(n=n): pass
    """
    for args in ((), XDIST, RERUNS):
        reports = session(tmp_path, suite, *args)

        assert reports.problems == (), args
        assert reports.outcomes == {"test_parts": F, "test_good_parts": P}


FLAKY = """
    tries = []
    def test_flaky():
        tries.append(1)
        assert len(tries) == 3, f"try {len(tries)}"
    def test_steady(): pass
"""


@pytest.mark.parametrize("args", [(), XDIST], ids=["serial", "xdist"])
def test_a_pass_after_failures_keeps_them_as_attempts(tmp_path, args):
    reports = session(tmp_path, FLAKY, *RERUNS, *args)

    assert reports.problems == ()
    assert reports.code == 0
    flaky = next(test for test in reports.tests if test.node_id.endswith("test_flaky"))
    assert flaky.outcome is P
    assert [a.outcome for a in flaky.attempts] == [F, F]
    assert [(a.message or "").splitlines()[0] for a in flaky.attempts] == [
        "AssertionError: try 1",
        "AssertionError: try 2",
    ]
    assert all("assert len(tries) == 3" in (a.text or "") for a in flaky.attempts)
    # pytest's report alone would be green: two more cases of the same test, none of them failed.
    assert reports.junit is not None
    assert {test.outcome for test in reports.junit.tests} == {P}
    assert merge_tests(reports.junit, None)[1] == reports.junit.problems != ()


def test_a_worker_that_dies_is_an_error_of_the_test_it_was_running(tmp_path):
    reports = session(
        tmp_path, "import os\ndef test_a(): pass\ndef test_dies(): os._exit(3)\ndef test_b(): pass", *XDIST
    )

    assert reports.problems == ()
    assert reports.outcomes == {"test_a": P, "test_dies": E, "test_b": P}
    dies = next(test for test in reports.tests if test.outcome is E)
    assert "crashed while running" in (dies.message or "")
    assert [crash.node_id for crash in reports.events.crashes] == ["tests/test_it.py::test_dies"]


def test_a_crash_that_passes_when_tried_again_is_an_attempt(tmp_path):
    suite = """
        import os, pathlib
        def test_once(request):
            mark = pathlib.Path("crashed")
            if not mark.exists():
                mark.touch()
                # An answer means that pytest-rerunfailures knows of this test by now.
                request.config.failures_db.get_test_reruns(request.node.nodeid)
                os._exit(3)
        def test_b(): pass
    """
    reports = session(tmp_path, suite, *XDIST, *RERUNS)

    assert reports.code == 0
    assert reports.problems == ()
    once = next(test for test in reports.tests if test.node_id.endswith("test_once"))
    assert once.outcome is P
    assert [a.outcome for a in once.attempts] == [E]


STOPS = {
    "interrupt": ("raise KeyboardInterrupt", ()),
    "interrupt in a worker": ("raise KeyboardInterrupt", XDIST),
    "exit": ("pytest.exit('enough')", ()),
    "first failure": ("assert 0", ("-x",)),
    "first failure in a worker": ("assert 0", ("-x", *XDIST)),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_session_that_stops_early_keeps_what_it_knows(tmp_path, name):
    stop, args = STOPS[name]
    suite = f"""
        import pytest
        def test_before(): pass
        def test_stops(): {stop}
        @pytest.mark.parametrize("n", range(20))
        def test_after(n): pass
    """
    reports = session(tmp_path, suite, *args)

    assert reports.code != 0
    assert reports.problems == ()
    assert reports.outcomes["test_before"] is P
    assert reports.outcomes["test_stops"].bad


def test_a_process_that_dies_leaves_events_alone(tmp_path):
    reports = session(tmp_path, "import os\ndef test_a(): pass\ndef test_dies(): os._exit(3)\ndef test_b(): pass")

    assert reports.junit is None
    assert reports.problems == ()
    assert reports.outcomes == {"test_a": P, "test_dies": U}
    assert not reports.events.ended
    assert reports.events.running == ("tests/test_it.py::test_dies",)


def test_setting_up_without_calling_is_not_a_pass(tmp_path):
    reports = session(tmp_path, "def test_a(): pass", "--setup-only")

    assert reports.code == 0
    assert reports.junit is not None
    assert [test.outcome for test in reports.junit.tests] == [P]  # the naive reading
    assert "told differently" in " ".join(reports.problems)


def test_collecting_only_is_not_a_pass(tmp_path):
    reports = session(tmp_path, "def test_a(): pass", "--collect-only")

    assert reports.code == 0
    assert reports.tests == ()
    assert "holds no test case" in " ".join(reports.problems)


def test_an_internal_error_is_an_error(tmp_path):
    files = {
        "tests/test_it.py": "def test_a(): pass",
        "conftest.py": "def pytest_runtest_protocol(): raise LookupError",
    }
    reports = session(tmp_path, files)

    assert reports.code == 3
    assert [test.outcome for test in reports.tests if test.node_id == "pytest::internal"] == [E]
    assert reports.events.internal_errors == ("LookupError",)


def test_other_seeds_of_node_ids_survive(tmp_path):
    ids = ["a\nb", "a\0b", "\"'<&>]]>", "\U0001f600", "a::b::c[d]", "ÿ", " ", "x" * 5000]
    suite = f"import pytest\n@pytest.mark.parametrize('v', range({len(ids)}), ids={ids!a})\ndef test_p(v): pass"
    option = "disable_test_id_escaping_and_forfeit_all_rights_to_community_support=true"
    reports = session(tmp_path, suite, "-o", option)

    assert reports.problems == ()
    assert [test.node_id for test in reports.tests] == [f"tests/test_it.py::test_p[{name}]" for name in ids]
