"""The stream of a session: what is told, by whom, in which order."""

from __future__ import annotations

import json
import sys

import pytest

OUTCOMES = """
    import pytest

    @pytest.fixture
    def broken():
        raise RuntimeError("no fixture")

    @pytest.fixture
    def leaking():
        yield
        raise RuntimeError("not cleaned up")

    def test_passes(): pass
    def test_fails(): assert 1 == 2, "they differ"
    def test_setup_fails(broken): pass
    def test_teardown_fails(leaking): pass
    def test_fails_twice(leaking): assert 0
    def test_skips(): pytest.skip("needs a GPU")
    @pytest.mark.skip(reason="not today")
    def test_marked_skip(): pass
    @pytest.mark.xfail(reason="known")
    def test_xfails(): assert 0
    @pytest.mark.xfail(reason="known")
    def test_xpasses(): pass
    @pytest.mark.xfail(reason="known", strict=True)
    def test_xpasses_strictly(): pass
    @pytest.mark.xfail(reason="no run", run=False)
    def test_xfails_unrun(): pass
    def test_xfails_by_call(): pytest.xfail("imperative")
"""

SETUP, CALL, TEARDOWN = "setup", "call", "teardown"


def test_a_session_is_told_from_its_first_to_its_last_moment(run_suite):
    run = run_suite("def test_one(): pass\ndef test_two(): pass")

    told = [(e["event"], e.get("nodeid"), e.get("phase")) for e in run.events]
    one, two = "test_it.py::test_one", "test_it.py::test_two"
    assert told == [
        ("session", None, None),
        ("collecting", "test_it.py", None),
        ("collected", None, None),
        ("start", one, None),
        *(("phase", one, phase) for phase in (SETUP, CALL, TEARDOWN)),
        ("start", two, None),
        *(("phase", two, phase) for phase in (SETUP, CALL, TEARDOWN)),
        ("end", None, None),
    ]
    times = [e["time"] for e in run.events]
    assert times == sorted(times)
    assert all(e["worker"] == "main" for e in run.events)
    session = run.events[0]
    assert (session["version"], session["xdist"]) == (1, 0)
    assert session["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert session["pytest"] == pytest.__version__
    assert session["rootdir"] == str(run.folder)
    assert "randomly_seed" not in session
    assert run.of("collected") == [{**run.of("collected")[0], "count": 2, "deselected": 0}]
    assert (run.events[-1]["exitstatus"], run.events[-1]["failed"]) == (0, 0)


@pytest.mark.parametrize(
    ("name", "phases", "fields"),
    [
        ("test_passes", [(SETUP, "passed"), (CALL, "passed"), (TEARDOWN, "passed")], {}),
        (
            "test_fails",
            [(SETUP, "passed"), (CALL, "failed"), (TEARDOWN, "passed")],
            {"message": "AssertionError: they differ", "file": "test_it.py", "line": 14},
        ),
        (
            "test_setup_fails",
            [(SETUP, "failed"), (TEARDOWN, "passed")],
            {"message": "RuntimeError: no fixture", "file": "test_it.py", "line": 6},
        ),
        (
            "test_teardown_fails",
            [(SETUP, "passed"), (CALL, "passed"), (TEARDOWN, "failed")],
            {"message": "RuntimeError: not cleaned up"},
        ),
        ("test_fails_twice", [(SETUP, "passed"), (CALL, "failed"), (TEARDOWN, "failed")], {"message": "assert 0"}),
        ("test_skips", [(SETUP, "passed"), (CALL, "skipped"), (TEARDOWN, "passed")], {"message": "needs a GPU"}),
        ("test_marked_skip", [(SETUP, "skipped"), (TEARDOWN, "passed")], {"message": "not today"}),
        (
            "test_xfails",
            [(SETUP, "passed"), (CALL, "skipped"), (TEARDOWN, "passed")],
            {"xfail": "known", "message": "known"},
        ),
        ("test_xpasses", [(SETUP, "passed"), (CALL, "passed"), (TEARDOWN, "passed")], {"xfail": "known"}),
        (
            "test_xpasses_strictly",
            [(SETUP, "passed"), (CALL, "failed"), (TEARDOWN, "passed")],
            {"xfail": "known", "message": "[XPASS(strict)] known"},
        ),
        ("test_xfails_unrun", [(SETUP, "skipped"), (TEARDOWN, "passed")], {"xfail": "[NOTRUN] no run"}),
        (
            "test_xfails_by_call",
            [(SETUP, "passed"), (CALL, "skipped"), (TEARDOWN, "passed")],
            {"xfail": "imperative"},
        ),
    ],
)
def test_every_outcome_has_its_phases_and_its_reason(run_outcomes, name, phases, fields):
    assert run_outcomes.phases(name) == [(1, phase, outcome) for phase, outcome in phases]
    telling = [e for e in run_outcomes.of("phase", nodeid=f"test_it.py::{name}") if fields and "message" in fields]
    first = next((e for e in telling if "message" in e), None)
    if "message" in fields:
        assert {key: first[key] for key in fields} == fields
    elif fields:
        assert {e["xfail"] for e in run_outcomes.of("phase", nodeid=f"test_it.py::{name}") if "xfail" in e} == set(
            fields.values()
        )


@pytest.fixture(scope="module")
def run_outcomes(run_suite_once):
    return run_suite_once(OUTCOMES)


def test_a_failure_carries_the_traceback_pytest_prints(run_suite):
    run = run_suite(OUTCOMES, "-k", "test_fails and not twice")

    (failed,) = run.of("phase", outcome="failed")
    assert failed["text"] in run.out
    assert failed["text"].endswith("test_it.py:14: AssertionError")


@pytest.mark.parametrize("style", ["auto", "long", "short", "line", "native", "no"])
def test_the_traceback_is_what_pytest_itself_makes_of_it(run_suite, style):
    files = {
        "test_it.py": """
            import pytest
            def third(values):
                raise KeyError("lost") if values else ValueError("empty")
            def second(values, *, other=None):
                try:
                    third(values)
                except KeyError as error:
                    raise RuntimeError("wrapped\\nin two lines") from error
            def test_chain(): second([1, 2])
            def test_plain(): second([])
            def test_no_trace(): pytest.fail("said why", pytrace=False)
            def test_introspection(): assert {"a": [1, 2, 3]} == {"a": [1, 2, 4]}
            @pytest.fixture
            def fixed(): second([3])
            def test_setup(fixed): pass
            def test_unknown_fixture(nowhere): pass
        """,
        "conftest.py": """
            import json, pathlib
            def pytest_runtest_logreport(report):
                if report.failed:
                    with pathlib.Path("said.jsonl").open("a") as file:
                        file.write(json.dumps([report.nodeid, str(report.longrepr)]) + "\\n")
        """,
    }
    run = run_suite(files, f"--tb={style}", "--showlocals")

    told = {e["nodeid"]: e["text"] for e in run.of("phase", outcome="failed")}
    said = dict(json.loads(line) for line in (run.folder / "said.jsonl").read_text().splitlines())
    assert len(told) == 6
    assert told == said


def test_a_failure_inside_a_library_is_placed_on_the_projects_own_innermost_line(run_suite):
    run = run_suite(
        """
        import json
        def load(text):
            return json.loads(text)
        def test_reads():
            assert load("{") == {}
        """
    )

    (failed,) = run.of("phase", outcome="failed")
    assert (failed["file"], failed["line"]) == ("test_it.py", 4)
    assert "JSONDecodeError" in failed["message"]


def test_long_messages_and_tracebacks_are_cut_and_say_so(run_suite):
    run = run_suite("def test_fails(): raise ValueError('x' * 10_000 + '\\n' + 'y' * 200_000 + 'the end')")

    (failed,) = run.of("phase", outcome="failed")
    assert len(failed["message"]) <= 2_001
    assert "\n" not in failed["message"]
    assert failed["message"].startswith("ValueError: xxx")
    assert len(failed["text"]) < 66_000
    assert "characters left out here" in failed["text"]
    assert "the end" in failed["text"]


def test_a_report_that_cannot_be_printed_costs_only_its_text(run_suite):
    conftest = """
        import pytest
        class Unprintable:
            def toterminal(self, tw): tw.line("unprintable")
            def __str__(self): raise RuntimeError("no text")
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_makereport(item, call):
            outcome = yield
            if outcome.get_result().failed: outcome.get_result().longrepr = Unprintable()
    """
    run = run_suite({"conftest.py": conftest, "test_it.py": "def test_fails(): assert 0\ndef test_next(): pass"})

    assert run.code == 1
    (failed,) = run.of("phase", outcome="failed")
    assert "cannot be read" in failed["message"]
    assert run.phases("test_next")[-1] == (1, TEARDOWN, "passed")


def test_files_that_cannot_be_collected_or_skip_themselves_are_told(run_suite):
    files = {
        "test_broken.py": "import a_module_nobody_has",
        "test_syntax.py": "def test_(:",
        "test_skipped.py": "import pytest; pytest.skip('no GPU here', allow_module_level=True)",
        "test_fine.py": "def test_fine(): pass",
    }
    run = run_suite(files, "--continue-on-collection-errors")

    errors = {e["nodeid"]: e for e in run.of("collect-error")}
    assert set(errors) == {"test_broken.py", "test_syntax.py"}
    assert errors["test_broken.py"]["message"] == "ModuleNotFoundError: No module named 'a_module_nobody_has'"
    assert "import a_module_nobody_has" in errors["test_broken.py"]["text"]
    assert errors["test_syntax.py"]["message"].startswith("SyntaxError")
    (skip,) = run.of("collect-skip")
    assert (skip["nodeid"], skip["message"]) == ("test_skipped.py", "no GPU here")
    assert run.of("end")[0]["exitstatus"] == 1


def test_deselected_tests_are_counted(run_suite):
    run = run_suite(OUTCOMES, "-k", "test_passes or test_skips", "--deselect", "test_it.py::test_skips")

    (collected,) = run.of("collected")
    assert (collected["count"], collected["deselected"]) == (1, 11)


def test_maxfail_ends_the_stream_like_the_session(run_suite):
    run = run_suite("def test_a(): assert 0\ndef test_b(): pass", "-x")

    assert run.code == 1
    assert [e["nodeid"] for e in run.of("start")] == ["test_it.py::test_a"]
    assert (run.events[-1]["event"], run.events[-1]["exitstatus"]) == ("end", 1)


@pytest.mark.parametrize(
    ("stop", "code"),
    [("raise KeyboardInterrupt", 2), ("os.kill(os.getpid(), signal.SIGINT)", 2), ("pytest.exit('enough', 7)", 7)],
)
def test_an_interrupted_test_has_started_and_never_ends(run_suite, stop, code):
    run = run_suite(f"import os, pytest, signal\ndef test_a(): pass\ndef test_b(): {stop}\ndef test_c(): pass")

    assert run.code == code
    assert run.phases("test_b") == [(1, SETUP, "passed")]
    assert run.of("end")[0]["exitstatus"] == code
    assert not run.of("start", nodeid="test_it.py::test_c")


DIES_IN = {
    SETUP: ("def test_b(dies): pass", []),
    CALL: ("def test_b(): os._exit(9)", []),  # a setup in which nothing happened is told of with the call
    "call, after a setup with something in it": ("def test_b(slow): os._exit(9)", [SETUP]),
    TEARDOWN: ("def test_b(dies_late): pass", [SETUP, CALL]),
}


@pytest.mark.parametrize("place", DIES_IN)
def test_a_process_that_dies_leaves_what_it_did_until_then(run_suite, place):
    test, told = DIES_IN[place]
    run = run_suite(
        f"""
        import os, pytest, time
        @pytest.fixture
        def slow(): time.sleep(0.002)
        @pytest.fixture
        def dies(): os._exit(9)
        @pytest.fixture
        def dies_late():
            yield
            os._exit(9)
        def test_a(): pass
        {test}
        """
    )

    assert run.code == 9
    assert run.phases("test_a") == [(1, phase, "passed") for phase in (SETUP, CALL, TEARDOWN)]
    assert len(run.of("start", nodeid="test_it.py::test_b")) == 1
    assert run.phases("test_b") == [(1, phase, "passed") for phase in told]
    assert not run.of("end")


@pytest.mark.parametrize("how", ["pass", "raise KeyboardInterrupt"])
def test_a_process_that_dies_after_its_tests_has_told_of_all_of_them(run_suite, how):
    """A teardown in which nothing happened is told of with the test after it, and the last one has none."""
    run = run_suite(
        {
            "conftest.py": "import os\ndef pytest_sessionfinish(): os._exit(9)",
            "test_it.py": f"def test_a(): pass\ndef test_b(): pass\ndef test_c(): {how}",
        }
    )

    assert run.code == 9
    for name in ("test_a", "test_b"):
        assert run.phases(name) == [(1, phase, "passed") for phase in (SETUP, CALL, TEARDOWN)]


def test_an_internal_error_is_told(run_suite):
    run = run_suite(
        {"conftest.py": "def pytest_runtestloop(): raise LookupError('the plugin broke')", "test_it.py": OUTCOMES}
    )

    assert run.code == 3
    (error,) = run.of("internal-error")
    assert error["message"] == "LookupError: the plugin broke"
    assert "pytest_runtestloop" in error["text"]
    assert run.of("end")[0]["exitstatus"] == 3


HOSTILE = {
    "newline": "a\nb",
    "nul": "a\0b",
    "quotes": "\"'<&>]]>[",
    "astral": "\U0001f600",
    "surrogate": "\udc80",
    "separators": "a::b::c[d]/e",
    "long": "x" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_node_ids_survive_whatever_is_in_them(run_suite, name):
    text = f"import pytest\n@pytest.mark.parametrize('v', [1], ids=[{HOSTILE[name]!a}])\ndef test_p(v): pass"
    ini = "[pytest]\ndisable_test_id_escaping_and_forfeit_all_rights_to_community_support = true\n"
    run = run_suite({"pytest.ini": ini, "test_it.py": text}, "-q")

    nodeid = f"test_it.py::test_p[{HOSTILE[name]}]"
    assert [e["nodeid"] for e in run.of("start")] == [nodeid]
    assert {e["nodeid"] for e in run.of("phase", outcome="passed")} == {nodeid}


def test_the_seed_of_a_random_order_is_told(run_suite):
    # The option as pytest-randomly has it by the time a session starts.
    conftest = "def pytest_addoption(parser): parser.addoption('--randomly-seed', type=int, default=20261122)"
    run = run_suite({"conftest.py": conftest, "test_it.py": "def test_a(): pass"})

    assert run.events[0]["randomly_seed"] == 20261122


def test_every_rerun_is_an_attempt_with_its_own_failure(run_suite):
    run = run_suite(
        """
        tries = []
        def test_flaky():
            tries.append(1)
            assert len(tries) == 3, f"try {len(tries)}"
        def test_fails(): assert 0, "always"
        def test_passes(): pass
        """,
        *("-p", "pytest_rerunfailures", "--reruns", "2"),
    )

    assert [e["attempt"] for e in run.of("start", nodeid="test_it.py::test_flaky")] == [1, 2, 3]
    assert [p for p in run.phases("test_flaky") if p[1] == CALL] == [
        (1, CALL, "rerun"),
        (2, CALL, "rerun"),
        (3, CALL, "passed"),
    ]
    reruns = run.of("phase", nodeid="test_it.py::test_flaky", outcome="rerun")
    assert [e["message"].splitlines()[0] for e in reruns] == ["AssertionError: try 1", "AssertionError: try 2"]
    assert all("assert len(tries) == 3" in e["text"] for e in reruns)
    assert [p[2] for p in run.phases("test_fails") if p[1] == CALL] == ["rerun", "rerun", "failed"]
    assert [e["attempt"] for e in run.of("start", nodeid="test_it.py::test_passes")] == [1]


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")
def test_parts_of_a_test_are_told_before_it(run_suite):
    run = run_suite(
        """
        import unittest
        def test_parts(subtests):
            for n in range(3):
                with subtests.test(n=n): assert n != 1
        class TestOld(unittest.TestCase):
            def test_old(self):
                for n in range(2):
                    with self.subTest(n=n): assert n != 1
        """
    )

    parts = run.of("subtest", nodeid="test_it.py::test_parts")
    assert [e["outcome"] for e in parts] == ["passed", "failed", "passed"]
    assert parts[1]["message"] == "assert 1 != 1"
    old = run.of("subtest", nodeid="test_it.py::TestOld::test_old")
    assert [e["outcome"] for e in old if e["outcome"] == "failed"] == ["failed"]
    assert run.code == 1
