"""Retries of a test whose worker died, beside what else ends a session or tries again: `-x`, pytest-rerunfailures.

Whatever they make of it, every test has one final result, and none is green that did not pass.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from .conftest import RunSuite, SuiteRun

XDIST = ("-q", "-p", "xdist", "--junitxml=junit.xml")

TIMES = """
    import os, pathlib, pytest, time

    def times(name):
        file = pathlib.Path(name)
        file.write_text((file.read_text() if file.exists() else "") + "x")
        return len(file.read_text())

    def wait_for(name):
        end = time.monotonic() + 30
        while not pathlib.Path(name).exists():
            assert time.monotonic() < end, f"{name} never came"
            time.sleep(0.01)
"""


def results(run: SuiteRun) -> list[tuple[str, str]]:
    """(name, outcome) of every case in the JUnit file; `rerun` and `skipped` for what neither failed nor passed."""
    found = []
    for case in ET.parse(run.folder / "junit.xml").iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        found.append((str(case.get("name")).removeprefix("test_"), outcome))
    return sorted(found)


def starts(run: SuiteRun) -> Counter[str]:
    return Counter(event["nodeid"].partition("::test_")[2] for event in run.of("start"))


def crashes(run: SuiteRun, name: str) -> list[bool]:
    """Of each crash of a test, whether it was tried again."""
    return [event.get("rerun", False) for event in run.of("crash", nodeid=f"test_it.py::test_{name}")]


STOPPED = {
    "helpers.py": TIMES,
    "test_it.py": """
        from helpers import *

        def test_dies_once():
            if times("once") == 1: os._exit(3)

        def test_fails():
            wait_for("dead")
            assert 0
    """,
    "conftest.py": """
        import os, pathlib
        from helpers import wait_for

        def pytest_testnodedown(node):
            pathlib.Path("dead").touch()

        def pytest_runtest_logreport(report):
            if "PYTEST_XDIST_WORKER" not in os.environ and report.failed: pathlib.Path("stopped").touch()

        def pytest_collection_modifyitems():
            if os.environ.get("PYTEST_XDIST_WORKER") == "gw2": wait_for("stopped")
    """,
}
"""A test fails when another one's worker has died, and before there is a worker for it."""


@pytest.mark.parametrize("stop", ["-x", "--maxfail=1"])
def test_a_retry_that_the_first_failure_prevents_is_a_failure(run_suite: RunSuite, stop: str) -> None:
    run = run_suite(STOPPED, *XDIST, "-n", "2", stop, variables={"MLTIERS_RETRIES": "1"})

    assert run.code != 0
    assert results(run) == [("dies_once", "failed"), ("fails", "failed")]
    assert crashes(run, "dies_once") == [True, False]
    assert starts(run) == {"dies_once": 1, "fails": 2}
    assert "2 failed" in run.out


def test_a_crash_that_is_tried_again_does_not_stop_the_session(run_suite: RunSuite) -> None:
    files = {
        "helpers.py": TIMES,
        "test_it.py": """
            from helpers import *

            def test_dies_once():
                if times("once") == 1: os._exit(3)

            @pytest.mark.parametrize("n", range(9))
            def test_other(n): pass
        """,
    }
    run = run_suite(files, *XDIST, "-n", "1", "-x", variables={"MLTIERS_RETRIES": "1"})

    assert run.code == 0, run.out
    assert results(run) == [("dies_once", "passed"), *((f"other[{n}]", "passed") for n in range(9))]
    assert "9 passed, 1 flaky" in run.out


def test_a_crash_whose_retry_fails_stops_it_once(run_suite: RunSuite) -> None:
    files = {
        "helpers.py": TIMES,
        "test_it.py": """
            from helpers import *

            def test_dies_then_skips():
                if times("skips") == 1: os._exit(3)
                pytest.skip("no more")

            @pytest.mark.parametrize("n", range(20))
            def test_other(n): pass
        """,
    }
    run = run_suite(files, *XDIST, "-n", "1", "-x", variables={"MLTIERS_RETRIES": "1"})

    assert run.code != 0
    assert "stopping after 1 failures" in run.out
    said = results(run)
    assert [outcome for name, outcome in said if name == "dies_then_skips"] == ["failed"]
    assert len(said) == len(set(said)) < 21
    assert {name for name, _ in said} == set(starts(run))
    assert "1 failed" in run.out


RERUNS = (*XDIST, "-p", "pytest_rerunfailures")

KNOWN = """
        from helpers import *

        @pytest.fixture(autouse=True)
        def known(request):
            # An answer means that pytest-rerunfailures' controller has heard of this test by now.
            request.config.failures_db.get_test_reruns(request.node.nodeid)
"""

DYING = (
    KNOWN
    + """
        def test_dies_once():
            if times("once") == 1: os._exit(3)

        def test_dies_always():
            os._exit(3)

        def test_dies_then_fails():
            if times("fails") == 1: os._exit(3)
            assert 0

        def test_lives(): pass
"""
)


def test_pytest_rerunfailures_that_nobody_asked_changes_nothing(run_suite: RunSuite) -> None:
    files = {"helpers.py": TIMES, "test_it.py": DYING}
    run = run_suite(files, *RERUNS, "-n", "2", variables={"MLTIERS_RETRIES": "1"})

    assert run.code == 1
    assert "2 failed, 1 passed, 1 flaky" in run.out
    assert results(run) == [
        ("dies_always", "failed"),
        ("dies_once", "passed"),
        ("dies_then_fails", "failed"),
        ("lives", "passed"),
    ]
    assert starts(run) == {"dies_once": 2, "dies_always": 2, "dies_then_fails": 2, "lives": 1}


def test_pytest_rerunfailures_that_was_asked_is_alone_at_it(run_suite: RunSuite) -> None:
    files = {"helpers.py": TIMES, "test_it.py": DYING}
    run = run_suite(files, *RERUNS, "-n", "2", "--reruns", "1", variables={"MLTIERS_RETRIES": "3"})

    assert run.code == 1
    assert "2 failed, 2 passed, 3 rerun" in run.out
    assert starts(run) == {"dies_once": 2, "dies_always": 2, "dies_then_fails": 2, "lives": 1}
    assert crashes(run, "dies_always") == [True, False]


def test_a_rerun_of_pytest_rerunfailures_that_no_worker_is_left_for_is_a_failure(run_suite: RunSuite) -> None:
    files = {"helpers.py": TIMES, "test_it.py": DYING}
    args = ("-n", "1", "--max-worker-restart=0", "--reruns", "2", "-k", "dies_once")
    run = run_suite(files, *RERUNS, *args, variables={"MLTIERS_RETRIES": "1"})

    assert run.code == 1, run.out
    assert "1 failed" in run.out
    assert ("dies_once", "failed") in results(run)
    assert crashes(run, "dies_once") == [True, False]


def test_a_rerun_of_pytest_rerunfailures_that_the_first_failure_prevents_is_a_failure(run_suite: RunSuite) -> None:
    files = {**STOPPED, "conftest.py": KNOWN + STOPPED["conftest.py"]}
    run = run_suite(files, *RERUNS, "-n", "2", "-x", "--reruns", "1", variables={"MLTIERS_RETRIES": "1"})

    assert run.code != 0
    assert "2 failed" in run.out
    assert ("dies_once", "failed") in results(run)


@pytest.mark.parametrize(("last", "said"), [("pass", "flaky"), ("pytest.skip('no more')", "failed")])
def test_a_worker_may_die_before_pytest_rerunfailures_has_heard_of_the_test(
    run_suite: RunSuite, last: str, said: str
) -> None:
    files = {
        "helpers.py": TIMES,
        "conftest.py": """
            from helpers import *

            @pytest.hookimpl(tryfirst=True)
            def pytest_runtest_protocol():
                if times("tries") == 1: os._exit(3)
        """,
        "test_it.py": KNOWN
        + f"""
        @pytest.mark.flaky(reruns=1)
        def test_marked():
            if times("marked") == 1: os._exit(3)
            {last}
        """,
    }
    run = run_suite(files, *RERUNS, "-n", "1", variables={"MLTIERS_RETRIES": "1"})

    counted = run.out.strip().splitlines()[-1]
    assert sorted(re.findall(r"1 \w+", counted.partition(" in ")[0])) == [f"1 {said}", "1 rerun"]
    assert run.code == (1 if "failed" in said else 0)
    assert crashes(run, "marked") == [True, True]


def test_a_worker_that_comes_while_a_retry_dies_does_no_harm(run_suite: RunSuite) -> None:
    # It is told to end, because every test is given away, and answers with what it collected when they no longer are.
    files = {
        "helpers.py": TIMES,
        "test_it.py": """
            from helpers import *

            def test_first():
                tries = times("first")
                if tries == 2:
                    pathlib.Path("second-try").touch()
                    wait_for("ready-gw3")
                if tries < 3: os._exit(3)

            def test_other():
                wait_for("down-1")
                if times("other") == 1: os._exit(3)
        """,
        "conftest.py": """
            import os, pathlib
            from helpers import wait_for

            worker = os.environ.get("PYTEST_XDIST_WORKER")
            down = []

            def pytest_configure():
                if worker == "gw2": wait_for("down-2")
                if worker == "gw3": wait_for("second-try")

            def pytest_testnodeready(node):
                pathlib.Path(f"ready-{node.gateway.id}").touch()

            def pytest_testnodedown(node, error):
                if error:
                    down.append(node)
                    pathlib.Path(f"down-{len(down)}").touch()

            def pytest_collection_modifyitems():
                if worker == "gw3": wait_for("down-3")
        """,
    }
    run = run_suite(files, *XDIST, "-n", "2", variables={"MLTIERS_RETRIES": "3"})

    assert run.code == 0, run.out
    assert results(run) == [("first", "passed"), ("other", "passed")]
    assert crashes(run, "first") == [True, True]
