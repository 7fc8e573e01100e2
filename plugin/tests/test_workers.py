"""The stream under pytest-xdist: several processes, one file."""

from __future__ import annotations

import pytest

XDIST = ("-p", "xdist", "-n", "2")
SUITE = {
    f"test_{name}.py": """
        import pytest
        @pytest.mark.parametrize("n", range(12))
        def test_many(n): assert n != 7
        @pytest.mark.xdist_group("together")
        def test_grouped(): pass
        class TestClass:
            def test_method(self): pass
    """
    for name in ("one", "two", "three")
}


@pytest.mark.parametrize("mode", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"])
def test_every_worker_tells_of_its_own_tests(run_suite, mode):
    run = run_suite(SUITE, *XDIST, "--dist", mode)

    assert {e["worker"] for e in run.of("session")} == {"main", "gw0", "gw1"}
    assert {e["xdist"] for e in run.of("session")} == {2}
    assert len({e["pid"] for e in run.of("session")}) == 3
    assert {e["worker"] for e in run.of("phase")} == {"gw0", "gw1"}
    assert {(e["worker"], e["count"]) for e in run.of("collected")} == {("gw0", 42), ("gw1", 42)}
    times = 2 if mode == "each" else 1
    for kind, found in (("start", run.of("start")), ("teardown", run.of("phase", phase="teardown"))):
        assert len(found) == 42 * times, kind
        assert len({e["nodeid"] for e in found}) == 42, kind
    assert len(run.of("phase", phase="call", outcome="failed")) == 3 * times
    ends = run.of("end")
    assert {e["worker"] for e in ends} == {"main", "gw0", "gw1"}
    assert ends[-1]["worker"] == "main"
    assert ends[-1]["exitstatus"] == run.code == 1


def test_loadgroup_gives_each_group_to_one_worker(run_suite):
    # The first two tests are of one group: without groups, each of the two workers would be given one of them.
    text = """
        import pytest
        @pytest.mark.parametrize("n", range(2))
        @pytest.mark.xdist_group("red")
        def test_red(n): pass
        @pytest.mark.parametrize("address", ["you@example.org"])
        @pytest.mark.xdist_group(name="blue")
        def test_blue(address): pass
        def test_alone(): pass
    """
    run = run_suite({f"test_{name}.py": text for name in "abc"}, *XDIST, "--dist", "loadgroup")

    assert run.code == 0, run.out
    assert "12 passed" in run.out
    red, blue = (
        {event["worker"] for event in run.of("start") if f"::test_{group}[" in event["nodeid"]}
        for group in ("red", "blue")
    )
    assert len(red) == len(blue) == 1
    assert red != blue


def test_lines_of_four_processes_stay_whole(run_suite):
    text = """
        import pytest
        @pytest.mark.parametrize("n", range(120))
        def test_loud(n): raise ValueError("\\n".join(f"line {i} of {n}" for i in range(3000)))
    """
    run = run_suite(text, "-p", "xdist", "-n", "4", "-q", "--no-summary", "--tb=native")

    failed = run.of("phase", outcome="failed")  # that they can be read at all is what the runner has checked
    assert len(failed) == 120
    assert min(len(e["text"]) for e in failed) > 40_000
    assert {e["worker"] for e in failed} == {"gw0", "gw1", "gw2", "gw3"}


def test_a_worker_that_dies_is_told_by_the_controller(run_suite):
    text = """
        import os
        def test_a(): pass
        def test_kills_its_worker(): os._exit(11)
        def test_b(): pass
        def test_c(): pass
    """
    run = run_suite(text, *XDIST)

    nodeid = "test_it.py::test_kills_its_worker"
    (start,) = run.of("start", nodeid=nodeid)
    lost, crash = run.of("crash")
    assert (lost["nodeid"], lost["worker"]) == (None, start["worker"])
    assert (crash["nodeid"], crash["worker"]) == (nodeid, start["worker"])
    assert "crashed while running" in crash["message"]
    assert [e for e in run.of("phase", nodeid=nodeid) if e["phase"] != "setup"] == []
    for name in ("test_a", "test_b", "test_c"):
        assert run.phases(name)[-1] == (1, "teardown", "passed")
    assert {e["worker"] for e in run.of("session")} >= {"main", "gw0", "gw1", "gw2"}
    assert run.of("end", worker="main")[0]["exitstatus"] == run.code == 1


def test_a_worker_killed_between_tests_is_told_without_a_node_id(run_suite):
    files = {
        "conftest.py": """
            import os
            def pytest_collection_modifyitems():  # before xdist hears of its tests, and gives it one that it dies with
                if os.environ.get("PYTEST_XDIST_WORKER") == "gw0": os._exit(5)
        """,
        "test_it.py": "def test_a(): pass\ndef test_b(): pass",
    }
    run = run_suite(files, *XDIST, "--max-worker-restart", "0")

    assert [(e["worker"], e["nodeid"]) for e in run.of("crash")] == [("gw0", None)]


def test_a_crashed_test_that_is_tried_again_says_so(run_suite):
    text = """
        import os, pathlib
        def test_crashes_once(request):
            mark = pathlib.Path("crashed")
            if not mark.exists():
                mark.touch()
                # An answer means that pytest-rerunfailures knows of this test by now.
                request.config.failures_db.get_test_reruns(request.node.nodeid)
                os._exit(4)
        def test_b(): pass
    """
    run = run_suite(text, *XDIST, "-p", "pytest_rerunfailures", "--reruns", "1")

    assert run.code == 0, run.out
    (crash,) = [e for e in run.of("crash") if e["nodeid"]]
    assert crash["rerun"] is True
    assert len(run.of("start", nodeid="test_it.py::test_crashes_once")) == 2


def test_reruns_are_attempts_in_workers_too(run_suite):
    text = """
        tries = []
        def test_flaky():
            tries.append(1)
            assert len(tries) == 2
        def test_b(): pass
    """
    run = run_suite(text, *XDIST, "-p", "pytest_rerunfailures", "--reruns", "2")

    assert [p for p in run.phases("test_flaky") if p[1] == "call"] == [(1, "call", "rerun"), (2, "call", "passed")]


def test_stopping_at_the_first_failure_ends_the_stream(run_suite):
    run = run_suite({**SUITE, "test_a_first.py": "def test_fails(): assert 0"}, *XDIST, "-x")

    assert run.of("phase", outcome="failed")
    assert run.of("end", worker="main")[0]["exitstatus"] == run.code != 0


def test_files_that_cannot_be_collected_are_told_by_each_worker(run_suite):
    files = {"test_broken.py": "import a_module_nobody_has", "test_fine.py": "def test_fine(): pass"}
    run = run_suite(files, *XDIST)

    assert {(e["worker"], e["nodeid"]) for e in run.of("collect-error")} == {
        ("gw0", "test_broken.py"),
        ("gw1", "test_broken.py"),
    }
    assert run.of("end", worker="main")[0]["exitstatus"] == run.code != 0


def test_without_workers_xdist_changes_nothing(run_suite):
    run = run_suite(SUITE, "-p", "xdist", "-n", "0")

    assert {e["worker"] for e in run.events} == {"main"}
    assert run.events[0]["xdist"] == 0


def test_a_count_of_workers_given_by_hand_is_told(run_suite):
    run = run_suite("def test_a(): pass", "-p", "xdist", "-d", "--tx", "2*popen")

    assert {e["xdist"] for e in run.of("session")} == {2}
    assert run.of("end", worker="main")[0]["exitstatus"] == 0
