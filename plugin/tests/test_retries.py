"""Retries: what each kind of flaky test becomes, serially and under xdist, and what pytest-rerunfailures makes of it.

One suite holds a zoo of behaviours, and is run once in each way; every behaviour is then a test of its own.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ZOO = {
    "conftest.py": """
        import collections, pytest

        TRIES = collections.Counter()

        def nth(name):
            TRIES[name] += 1
            return TRIES[name]

        @pytest.fixture
        def fresh(request):
            return [nth(f"fresh {request.node.name}")]
    """,
    "test_functions.py": """
        import random, sys, time
        import pytest
        from conftest import nth

        def test_passes(): pass

        def test_fails(): assert nth("fails") == 0, "always"

        def test_second(): assert nth("second") == 2, "the first"

        def test_third(): assert nth("third") == 3, "too early"

        def test_fourth(): assert nth("fourth") == 4, "far too early"

        @pytest.mark.parametrize("case", ["steady", "flaky"])
        def test_cases(case): assert case == "steady" or nth("cases") > 1

        def test_skips(): pytest.skip("no reason")

        def test_skips_later():
            if nth("skips later") > 1: pytest.skip("gave up")
            assert 0, "before the skip"

        def test_xfails_later():
            if nth("xfails later") > 1: pytest.xfail("known")
            assert 0, "before the xfail"

        @pytest.mark.xfail(reason="known")
        def test_expected():
            nth("expected")
            assert 0

        @pytest.mark.xfail(strict=True, reason="known")
        def test_strict(): assert nth("strict") == 1  # passes first, which is the failure

        @pytest.mark.xfail(raises=ValueError)
        def test_other_error():
            if nth("other error") == 1: raise TypeError("not the known one")
            raise ValueError

        def test_its_marker_goes(request):
            if nth("marker") == 1:
                request.node.add_marker(pytest.mark.skip)
                assert 0

        def test_its_output_goes(capsys):
            print(f"said in attempt {nth('output')}")
            assert capsys.readouterr().out == "said in attempt 2\\n"

        def test_its_properties_go(record_property):
            record_property("of", nth("property"))
            assert nth("property try") == 2

        def test_fresh(fresh): assert fresh == [2]

        def test_seed():
            random.seed(7)  # as every seeded fixture does
            assert random.random() > 0.99

        def test_folder(tmp_path):
            (tmp_path / "once").mkdir()  # would be there the second time
            assert nth("folder") == 2
    """,
    "test_phases.py": """
        import pytest
        from conftest import nth

        @pytest.fixture
        def setup_fails_first():
            assert nth("setup") > 1, "in its setup"

        def test_setup(setup_fails_first): pass

        @pytest.fixture
        def teardown_fails_first():
            yield
            assert nth("teardown") > 1, "in its teardown"

        def test_teardown(teardown_fails_first): pass

        @pytest.fixture
        def both():
            yield
            assert nth("both teardown") > 1, "in its teardown"

        def test_call_and_teardown(both): assert nth("both call") > 1, "in its call"

        @pytest.fixture
        def never(): raise RuntimeError("no such server")

        def test_never(never): pass
    """,
    "test_scopes.py": """
        import pytest
        from conftest import nth

        @pytest.fixture(scope="module")
        def model():
            yield nth("model made")
            nth("model gone")

        class TestState:
            @pytest.fixture(scope="class")
            def data(self):
                return []

            def test_instance(self):
                assert not hasattr(self, "seen")
                self.seen = nth("instance")
                assert self.seen == 2

            def test_class_fixture_stays(self, data, model):
                data.append(1)
                assert len(data) == 2

            def test_last(self, model):
                assert model == 1
                assert nth("last") == 2

        def test_module_fixture_stayed(model):
            assert model == 1
            assert nth("module stayed") == 2  # the last of its module

        @pytest.fixture(scope="session")
        def server():
            assert nth("server") > 1, "address in use"

        def test_wide_setup(server): pass

        @pytest.fixture(scope="session")
        def broken():
            nth("broken")
            assert 0, "always"

        def test_broken_1(broken): pass
        def test_broken_2(request): request.getfixturevalue("broken")
    """,
    "test_unit.py": """
        import unittest
        from conftest import nth, TRIES

        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls): nth("class set up")

            def setUp(self): self.mine = nth("case set up")

            def test_case_second(self):
                assert not hasattr(self, "seen")
                self.seen = True
                self.assertEqual(nth("case"), 2)

            def test_case_two_errors(self):
                first = nth("two errors") == 1
                if first: self.addCleanup(self.fail, "in its cleanup")
                self.assertFalse(first)

            def test_case_part(self):
                first = nth("case part") == 1
                for n in range(3):
                    with self.subTest(n=n): self.assertFalse(first and n == 1)

            @unittest.expectedFailure
            def test_case_expected(self): self.fail()

            def test_class_set_up_once(self): self.assertEqual(TRIES["class set up"], 1)
    """,
    "test_parts.py": """
        import pytest
        from conftest import nth

        @pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")
        class TestParts:
            def test_part_second(self, subtests):
                first = nth("part") == 1
                for n in range(3):
                    with subtests.test(n=n): assert not (first and n == 1), "a part"

            def test_part_fails(self, subtests):
                with subtests.test("good"): pass
                with subtests.test("bad"): assert 0, "a part, always"
    """,
}
F, E, S, X, OK = "failure", "error", "skipped", "xfailed", "passed"
parts = pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")

# test → what the JUnit file says of it, and the message of each earlier attempt
EXPECTED: dict[str, tuple[str, list[str]]] = {
    "test_passes": (OK, []),
    "test_fails": (F, ["always", "always"]),
    "test_second": (OK, ["the first"]),
    "test_third": (OK, ["too early", "too early"]),
    "test_fourth": (F, ["far too early", "far too early"]),
    "test_cases[steady]": (OK, []),
    "test_cases[flaky]": (OK, ["assert ('flaky' == 'steady'"]),
    "test_skips": (S, []),
    "test_skips_later": (F, []),  # nothing but a pass undoes a failure
    "test_xfails_later": (F, []),
    "test_expected": (X, []),
    "test_strict": (F, []),
    "test_other_error": (F, []),
    "test_its_marker_goes": (OK, ["assert 0"]),
    "test_its_output_goes": (OK, ["said in attempt"]),
    "test_its_properties_go": (OK, ["assert 1 == 2"]),
    "test_fresh": (OK, ["assert [1] == [2]"]),
    "test_seed": (F, ["assert 0.32", "assert 0.32"]),  # the same seed fails again
    "test_folder": (OK, ["assert 1 == 2"]),
    "test_setup": (OK, ["in its setup"]),
    "test_teardown": (OK, ["in its teardown"]),
    "test_call_and_teardown": (OK, ["in its call"]),
    "test_never": (E, ["no such server", "no such server"]),
    "test_instance": (OK, ["assert 1 == 2"]),
    "test_class_fixture_stays": (OK, ["assert 1 == 2"]),
    "test_last": (OK, ["assert 1 == 2"]),
    "test_module_fixture_stayed": (OK, ["assert 1 == 2"]),
    "test_wide_setup": (OK, ["address in use"]),
    "test_broken_1": (E, ["always", "always"]),
    "test_broken_2": (F, []),  # the fixture has had its retries
    "test_case_second": (OK, ["1 != 2"]),
    "test_case_two_errors": (OK, ["True is not false"]),
    "test_case_part": (OK, ["True is not false"]),
    "test_case_expected": (X, []),
    "test_class_set_up_once": (OK, []),
    "test_part_second": (OK, ["a part"]),
    "test_part_fails": (F, ["a part, always", "a part, always"]),
}
OF_NINE = ("test_part_second", "test_part_fails")


@dataclass(frozen=True)
class Zoo:
    """The zoo as one session left it: its stream, and the cases of its JUnit file by the test's name."""

    run: Any  # conftest's SuiteRun
    cases: dict[str, list[ET.Element]]


def seen_by(run_suite_in, folder: Path, *args: str, retries: str | None = "2") -> Zoo:
    report = folder / "junit.xml"
    run = run_suite_in(folder)(
        ZOO,
        *("-q", f"--junitxml={report}", "-o", "junit_family=xunit1", *args),
        variables={"MLTIERS_RETRIES": retries} if retries else {},
    )
    cases = defaultdict(list)
    for case in ET.parse(report).iter("testcase"):
        cases[case.get("name")].append(case)
    return Zoo(run, cases)


@pytest.fixture(scope="session")
def serial(run_suite_in, tmp_path_factory) -> Zoo:
    return seen_by(run_suite_in, tmp_path_factory.mktemp("serial"))


@pytest.fixture(scope="session")
def spread(run_suite_in, tmp_path_factory) -> Zoo:
    folder = tmp_path_factory.mktemp("spread")
    return seen_by(run_suite_in, folder, "-p", "xdist", "-n", "2", "--dist", "loadfile")


@pytest.fixture(scope="session")
def others(run_suite_in, tmp_path_factory) -> Zoo:
    """What pytest-rerunfailures makes of the same."""
    pytest.importorskip("pytest_rerunfailures")
    folder = tmp_path_factory.mktemp("others")
    return seen_by(run_suite_in, folder, "-p", "pytest_rerunfailures", "--reruns", "2", retries=None)


@pytest.fixture(params=["serial", "spread"])
def zoo(request) -> Zoo:
    return request.getfixturevalue(request.param)


def outcome(case: ET.Element) -> str:
    found = [child for child in case if child.tag in (F, E, S)]
    if found and found[0].get("type") == "pytest.xfail":
        return X
    return found[0].tag if found else OK


@pytest.mark.parametrize("name", [pytest.param(n, marks=parts if n in OF_NINE else ()) for n in EXPECTED])
def test_every_behaviour_is_one_test_with_all_its_attempts(zoo, name):
    expected, messages = EXPECTED[name]

    assert [outcome(case) for case in zoo.cases[name]] == [expected]
    retried = [e for e in zoo.run.of("retry") if e["nodeid"].endswith(f"::{name}")]
    kept = [
        next(
            e["message"]
            for e in zoo.run.events
            if e.get("nodeid") == retry["nodeid"]
            and e.get("attempt") == retry["attempt"]
            and e.get("outcome") == "failed"
        )
        for retry in retried
    ]
    undone = name in ("test_skips_later", "test_xfails_later", "test_other_error")
    assert len(kept) == (1 if undone else len(messages))
    for message, wanted in zip(kept, messages, strict=False):
        assert wanted in message
    starts = [e["attempt"] for e in zoo.run.events if e["event"] == "start" and e["nodeid"].endswith(f"::{name}")]
    assert starts == list(range(1, len(kept) + 2))


def test_the_zoo_is_complete(serial):
    assert set(serial.cases) == set(EXPECTED)


def test_pytest_itself_does_not_call_them_passed(zoo):
    said = zoo.run.out
    reported = [name for name in EXPECTED if name not in OF_NINE or pytest.version_tuple >= (9,)]
    flaky = [name for name in reported if EXPECTED[name][0] == OK and EXPECTED[name][1]]
    assert zoo.run.code == 1
    assert f"{len(flaky)} flaky" in said
    assert "FLAKY: failed first, and passed when tried again" in said
    for name in flaky:
        assert f"::{name}: attempt 1 of" in said
    assert "AssertionError: the first" in said


HANGS = """
    import time
    tries = []
    def test_hangs_first():
        tries.append(1)
        if len(tries) == 1: time.sleep(60)
    def test_next(): pass
"""


@pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["serially", "xdist"])
def test_each_attempt_has_the_limit_of_a_test(run_suite, args):
    run = run_suite(HANGS, "-q", *args, variables={"MLTIERS_RETRIES": "1", "MLTIERS_PER_TEST": "0.5"})

    assert run.code == 0
    assert [p for p in run.phases("test_hangs_first") if p[1] == "call"] == [
        (1, "call", "failed"),
        (2, "call", "passed"),
    ]
    assert "took longer than its limit of 0.5 s" in run.of("phase", outcome="failed")[0]["message"]
    assert "1 passed, 1 flaky" in run.out


DIES = """
    import os, pathlib, pytest
    def times(name):
        file = pathlib.Path(name)
        file.write_text((file.read_text() if file.exists() else "") + "x")
        return len(file.read_text())
    def test_dies_once():
        if times("once") == 1: os._exit(3)
    def test_dies_always():
        os._exit(3)
    def test_fails_then_dies():
        tries = times("fails")
        if tries == 2: os._exit(3)
        assert tries == 3, "the first"
    def test_dies_then_skips():
        if times("skips") == 1: os._exit(3)
        pytest.skip("no more")
    def test_lives(): pass
"""
ORDER = {"version": 1, "seconds": {f"test_it.py::test_{name}": 0.1 for name in ("dies_once", "dies_always", "lives")}}


@pytest.mark.parametrize("how", ["load", "worksteal", "longest first"])
def test_a_test_whose_worker_died_is_tried_again_in_another(run_suite, tmp_path, how):
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    ordered = {"MLTIERS_ORDER": str(tmp_path / "order.json")} if how == "longest first" else {}
    args = ["-q", "-p", "xdist", "-n", "2", "--junitxml=junit.xml", "--dist", "load" if ordered else how]
    run = run_suite(DIES, *args, variables={"MLTIERS_RETRIES": "2", **ordered})

    assert run.code == 1
    told = {name: [e.get("rerun", False) for e in run.of("crash", nodeid=f"test_it.py::test_{name}")] for name in DYING}
    assert told == DYING
    assert "2 failed, 1 passed, 2 flaky" in run.out
    assert "crashed while running 'test_it.py::test_dies_once'" in run.out
    cases = [
        (case.get("name"), [child.tag for child in case])
        for case in ET.parse(run.folder / "junit.xml").iter("testcase")
    ]
    assert sorted((name, "failure" in tags or "error" in tags) for name, tags in cases) == [
        ("test_dies_always", True),
        ("test_dies_once", False),
        ("test_dies_then_skips", True),
        ("test_fails_then_dies", False),
        ("test_lives", False),
    ]
    starts = [e["nodeid"].rpartition("_")[2] for e in run.of("start")]
    assert Counter(starts) == {"once": 2, "always": 3, "dies": 3, "skips": 2, "lives": 1}


DYING = {
    "dies_once": [True],
    "dies_always": [True, True, False],
    "fails_then_dies": [True],
    "dies_then_skips": [True],
    "lives": [],
}


@pytest.mark.parametrize(
    "args", [("--max-worker-restart=0",), ("--dist", "loadfile", "--max-worker-restart=0")], ids=" ".join
)
def test_a_crash_that_nobody_can_try_again_is_a_failure(run_suite, args):
    run = run_suite(DIES, "-q", "-p", "xdist", "-n", "1", *args, variables={"MLTIERS_RETRIES": "2"})

    assert run.code == 1
    assert [e.get("rerun", False) for e in run.of("crash") if e["nodeid"]] == [False]
    assert "1 failed" in run.out


def test_a_crash_whose_retry_never_came_is_a_failure(run_suite):
    # The session is stopped when the crash has been answered, and before the next worker is there.
    suite = """
        import os, pathlib, time
        def test_dies_once():
            if not pathlib.Path("died").exists():
                pathlib.Path("died").touch()
                os._exit(3)
    """
    stops = """
        import pytest
        def pytest_configure_node(node):
            if node.gateway.id == "gw1": node.config.pluginmanager.get_plugin("dsession").shouldstop = "enough"
    """
    files = {"test_it.py": suite, "conftest.py": stops}
    run = run_suite(files, "-q", "-p", "xdist", "-n", "1", variables={"MLTIERS_RETRIES": "2"})

    assert run.code != 0
    assert [e.get("rerun", False) for e in run.of("crash") if e["nodeid"]] == [True, False]
    assert "1 failed" in run.out


@pytest.mark.parametrize("args", [("-x",), ("--maxfail=1",), ("-x", "-p", "xdist", "-n", "1")], ids=" ".join)
def test_a_test_counts_once_towards_the_end_of_the_session(run_suite, args):
    run = run_suite(
        """
        tries = []
        def test_flaky():
            tries.append(1)
            assert len(tries) == 3
        def test_fails(): assert 0
        def test_not_run(): pass
        """,
        "-q",
        *args,
        variables={"MLTIERS_RETRIES": "2"},
    )

    assert "1 failed, 1 flaky" in run.out
    assert len(run.of("start", nodeid="test_it.py::test_fails")) == 3
    if "xdist" not in args:
        assert not run.of("start", nodeid="test_it.py::test_not_run")


@pytest.mark.parametrize("ends", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_what_ends_the_session_from_a_retry_loses_nothing(run_suite, ends):
    run = run_suite(
        f"""
        import pytest
        tries = []
        def test_ends():
            tries.append(1)
            if len(tries) == 2: {ends}
            assert 0, "the first"
        """,
        variables={"MLTIERS_RETRIES": "2"},
    )

    assert run.code == 2
    assert "1 failed" in run.out
    assert "AssertionError: the first" in run.out


def test_a_file_that_cannot_be_collected_is_not_tried_again(run_suite):
    run = run_suite("raise RuntimeError('no')", variables={"MLTIERS_RETRIES": "2"})

    assert run.code == 2
    assert len(run.of("collect-error")) == 1


def test_the_pytest_that_a_test_starts_retries_nothing(run_suite):
    run = run_suite(
        {
            "test_it.py": """
            import os, subprocess, sys
            def test_inner():
                assert "MLTIERS_RETRIES" not in os.environ
                inner = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_mltiers", "inner.py"]
                said = subprocess.run(inner, capture_output=True, text=True).stdout
                assert "1 failed" in said, said
            """,
            "inner.py": "def test_inner(tries=[]):\n    tries.append(1)\n    assert len(tries) == 2",
        },
        variables={"MLTIERS_RETRIES": "2"},
    )
    assert run.code == 0, run.out


MARKED = """
    import pytest
    tries = []
    @pytest.mark.flaky(reruns=1)
    def test_marked():
        tries.append(1)
        assert len(tries) == 2
    others = []
    def test_ours():
        others.append(1)
        assert len(others) == 2
"""


def test_a_test_that_another_plugin_retries_is_left_to_it(run_suite):
    pytest.importorskip("pytest_rerunfailures")
    run = run_suite(MARKED, "-p", "pytest_rerunfailures", variables={"MLTIERS_RETRIES": "2"})

    assert run.code == 0
    assert [e["plugin"] for e in run.of("left")] == ["pytest-rerunfailures"]
    assert [e["nodeid"] for e in run.of("retry")] == ["test_it.py::test_ours"]
    assert [p[2] for p in run.phases("test_marked") if p[1] == "call"] == ["rerun", "passed"]


def test_a_number_that_is_none_is_said(run_suite):
    run = run_suite("def test_a(): pass", variables={"MLTIERS_RETRIES": "often"})

    assert run.code == 4
    assert "MLTIERS_RETRIES=often: not a number of retries" in run.out


def test_without_a_stream_it_works_as_well(run_suite):
    run = run_suite(MARKED.replace("@pytest.mark.flaky(reruns=1)", ""), stream=None, variables={"MLTIERS_RETRIES": "1"})

    assert run.code == 0
    assert "2 flaky" in run.out


def test_a_fixture_that_never_works_is_not_tried_for_every_test(run_suite):
    run = run_suite(
        {
            "test_it.py": """
            import pytest
            TRIES = []
            @pytest.fixture(scope="session")
            def download():
                TRIES.append(1)
                raise RuntimeError("no network")
            @pytest.mark.parametrize("n", range(5))
            def test_uses_it(download, n): pass
            def test_count(): assert len(TRIES) == 3
            """
        },
        "-q",
        variables={"MLTIERS_RETRIES": "2"},
    )
    assert "1 passed, 5 errors" in run.out


def test_what_pytest_rerunfailures_says_of_the_same(others, serial):
    """Two cases for one test, the first traceback of neither; and a skip makes a failure green."""
    assert {outcome(case) for case in others.cases["test_second"]} == {OK}
    assert pytest.version_tuple < (9,) or len(others.cases["test_second"]) == 2
    assert all("the first" not in ET.tostring(case, "unicode") for case in others.cases["test_second"])
    assert outcome(others.cases["test_skips_later"][-1]) == S
    assert sum(map(len, serial.cases.values())) == len(EXPECTED)
