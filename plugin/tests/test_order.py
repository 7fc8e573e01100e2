"""The order that is asked for is the order that tests run in, in one process and under xdist's distributions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import RunSuite, SuiteRun

Order = Callable[..., dict[str, str]]


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """Writes the file that the orchestrator would write."""

    def write(**fields: object) -> dict[str, str]:
        path = tmp_path / "order.json"
        path.write_text(json.dumps({"version": 1, **fields}))
        return {"MLTIERS_ORDER": str(path)}

    return write


def started(run: SuiteRun) -> list[str]:
    return [event["nodeid"] for event in sorted(run.of("start"), key=lambda event: event["time"])]


def started_by(run: SuiteRun) -> list[list[str]]:
    """What each worker ran, in its order. Which of two workers is there first is the machine's affair."""
    workers: dict[str, list[str]] = {}
    for event in sorted(run.of("start"), key=lambda event: event["time"]):
        workers.setdefault(event["worker"], []).append(event["nodeid"])
    return list(workers.values())


FIVE = "import pytest\n\n@pytest.mark.parametrize('n', range(5))\ndef test_n(n):\n    pass\n"


def ids(*numbers: int, file: str = "test_it.py") -> list[str]:
    return [f"{file}::test_n[{n}]" for n in numbers]


def test_serially_what_failed_comes_first_and_the_rest_stays(run_suite: RunSuite, order: Order) -> None:
    variables = order(first=["test_it.py::gone", *ids(3, 1)], seconds=dict.fromkeys(ids(0, 1, 2, 3, 4), 0.1))
    run = run_suite(FIVE, variables=variables)
    assert started(run) == ids(3, 1, 0, 2, 4)
    assert run.of("order")[0]["order"] == "what failed or waited first"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_deferred_tests_are_deselected_and_named(run_suite: RunSuite, order: Order, workers: str) -> None:
    variables = order(deferred=[*ids(1, 4), "test_it.py::gone"], seconds={})
    run = run_suite(FIVE, "-p", "xdist", "-n", workers, variables=variables)
    assert run.code == 0, run.out
    assert sorted(started(run)) == ids(0, 2, 3)
    assert [event["nodeids"] for event in run.of("deferred")] == [ids(1, 4)]
    assert {event["deselected"] for event in run.of("collected")} == {2}
    assert "2 deselected" in run.out or workers == "2"


def slept(seconds: dict[str, float]) -> str:
    """A suite whose tests take as long as their estimates say."""
    tests = "".join(f"def test_{name}():\n    time.sleep({value})\n\n" for name, value in seconds.items())
    return f"import time\n\n{tests}"


def test_xdist_hands_out_the_longest_first(run_suite: RunSuite, order: Order) -> None:
    takes = {"a": 0.05, "b": 0.1, "c": 0.6, "d": 0.2, "e": 0.4, "f": 0.3}
    seconds = {f"test_it.py::test_{name}": value for name, value in takes.items()}
    run = run_suite(slept(takes), "-p", "xdist", "-n", "2", variables=order(seconds=seconds))
    assert run.code == 0, run.out
    assert len(started(run)) == 6
    assert {"".join(node[-1] for node in nodes[:2]) for nodes in started_by(run)} == {"cd", "ef"}
    planned = [sum(seconds[node] for node in nodes) for nodes in started_by(run)]
    assert max(planned) < 1.05, "1.65 s of tests fit two workers almost evenly"


def test_where_nothing_is_known_workers_are_given_whole_files(run_suite: RunSuite, order: Order) -> None:
    """Each sets a file's fixtures up once, and imports what its tests import: but for the last, which may be shared."""
    run = run_suite({f"test_{name}.py": FIVE for name in "abcdefgh"}, "-p", "xdist", "-n", "2", variables=order())
    assert run.code == 0, run.out
    assert {event["order"] for event in run.of("order")} == {"file by file"}
    ran = [{node[5] for node in nodes} for nodes in started_by(run)]
    assert sum(map(len, ran)) <= len("abcdefgh") + 1
    assert len(started(run)) == 40
    for nodes in started_by(run):
        files = [node[5] for node in nodes]
        assert (
            len([file for file, before in zip(files, ["", *files], strict=False) if file != before])
            <= len(set(files)) + 1
        )


def test_where_nothing_is_known_groups_are_left_to_xdist(run_suite: RunSuite, order: Order) -> None:
    files = {"test_a.py": "def test_it(): pass\n", "test_b.py": FIVE}
    run = run_suite(files, "-p", "xdist", "-n", "1", "--dist", "loadfile", variables=order())
    assert [node[5] for node in started(run)] == [*"bbbbb", "a"], "the larger one first, as ever"
    assert {event["order"] for event in run.of("order")} == {"pytest's own"}


def test_under_xdist_too_what_failed_comes_first(run_suite: RunSuite, order: Order) -> None:
    seconds = {**dict.fromkeys(ids(0, 1, 2, 3, 4), 0.2), "test_it.py::test_n[4]": 0.001}
    run = run_suite(FIVE, "-p", "xdist", "-n", "2", variables=order(first=ids(4), seconds=seconds))
    assert "test_it.py::test_n[4]" in {nodes[0] for nodes in started_by(run)}


@pytest.mark.parametrize("mode", ["loadfile", "loadscope"])
def test_groups_keep_together_and_the_longest_comes_first(run_suite: RunSuite, order: Order, mode: str) -> None:
    files = {f"test_{name}.py": FIVE for name in "abc"}
    seconds = dict.fromkeys(ids(0, 1, 2, 3, 4, file="test_b.py"), 0.1)
    seconds |= dict.fromkeys(ids(0, 1, 2, 3, 4, file="test_c.py"), 0.5)
    seconds[ids(0, file="test_b.py")[0]] = 1.0  # the longest test of all, in a file that is not
    run = run_suite(files, "-p", "xdist", "-n", "1", "--dist", mode, variables=order(seconds=seconds))
    assert run.code == 0, run.out
    assert [node[5] for node in started(run)] == [*"ccccc", *"bbbbb", *"aaaaa"]


GROUPED = {
    f"test_{name}.py": """
        import pytest

        @pytest.mark.xdist_group("short")
        def test_short(): pass

        @pytest.mark.xdist_group(name="long")
        @pytest.mark.parametrize("n", [1, 2])
        def test_long(n): pass

        def test_alone(): pass
    """
    for name in "ab"
}
"""Two groups in two files, and what is of none."""


@pytest.mark.parametrize("suffix", [False, True], ids=["of a run without groups", "of a run with groups"])
def test_loadgroup_keeps_groups_together_over_files(run_suite: RunSuite, order: Order, suffix: bool) -> None:
    seconds = {}
    for file in "ab":
        seconds[f"test_{file}.py::test_short{'@short' * suffix}"] = 1.0  # the longest tests in the shorter group
        seconds |= {f"test_{file}.py::test_long[{n}]{'@long' * suffix}": 0.9 for n in (1, 2)}
    run = run_suite(GROUPED, "-p", "xdist", "-n", "1", "--dist", "loadgroup", variables=order(seconds=seconds))
    assert run.code == 0, run.out
    names = [node.rpartition("::test_")[2].partition("@")[0] for node in started(run)]
    assert names == ["long[1]", "long[2]", "long[1]", "long[2]", "short", "short", "alone", "alone"]


def test_a_deferred_test_of_a_group_is_deselected(run_suite: RunSuite, order: Order) -> None:
    variables = order(deferred=["test_a.py::test_short@short", "test_b.py::test_short"], seconds={})
    run = run_suite(GROUPED, "-p", "xdist", "-n", "1", "--dist", "loadgroup", variables=variables)
    assert run.code == 0, run.out
    assert not [node for node in started(run) if "short" in node]
    assert len(started(run)) == 6
    assert [len(event["nodeids"]) for event in run.of("deferred")] == [2]


def test_a_user_who_switched_sorting_off_keeps_their_order(run_suite: RunSuite, order: Order) -> None:
    files = {f"test_{name}.py": FIVE for name in "ab"}
    variables = order(seconds=dict.fromkeys(ids(0, 1, 2, 3, 4, file="test_b.py"), 1.0))
    run = run_suite(
        files, "-p", "xdist", "-n", "1", "--dist", "loadfile", "--no-loadscope-reorder", variables=variables
    )
    assert [node[5] for node in started(run)] == [*"aaaaa", *"bbbbb"]


def test_every_test_runs_though_a_worker_dies(run_suite: RunSuite, order: Order) -> None:
    text = FIVE.replace("range(5)", "range(40)") + "\ndef test_dies():\n    import os\n    os._exit(1)\n"
    seconds = {**dict.fromkeys(ids(*range(40)), 0.01), "test_it.py::test_dies": 0.02}
    run = run_suite(text, "-p", "xdist", "-n", "2", variables=order(seconds=seconds))
    ended = {event["nodeid"] for event in run.of("phase", phase="teardown")}
    assert ended == set(ids(*range(40)))
    assert [event["nodeid"] for event in run.of("crash") if event["nodeid"]] == ["test_it.py::test_dies"]
    assert run.code == 1


SLOW_TO_SEND = """
import contextlib
from xdist.workermanage import WorkerController

send = WorkerController.send_runtest_some
given = []

def send_when_the_first_test_is_over(self, indices):
    if given.count("gw0") == 2 and self.gateway.id == "gw0":  # it begins the first when it knows the second
        with contextlib.suppress(EOFError):
            self.channel.waitclose(30)
    given.append(self.gateway.id)
    send(self, indices)

WorkerController.send_runtest_some = send_when_the_first_test_is_over
"""
"""A controller that was interrupted between two sends, long enough for a worker to die of its first test."""


@pytest.mark.parametrize("others", [40, 2])
def test_a_worker_may_die_while_it_is_given_its_tests(run_suite: RunSuite, order: Order, others: int) -> None:
    text = FIVE.replace("range(5)", f"range({others})") + "\ndef test_dies():\n    import os\n    os._exit(1)\n"
    seconds = {**dict.fromkeys(ids(*range(others)), 0.01), "test_it.py::test_dies": 1.0}
    files = {"test_it.py": text, "conftest.py": SLOW_TO_SEND}
    run = run_suite(files, "-p", "xdist", "-n", "1", variables=order(seconds=seconds))
    assert {event["nodeid"] for event in run.of("phase", phase="teardown")} == set(ids(*range(others)))
    assert [event["nodeid"] for event in run.of("crash") if event["nodeid"]] == ["test_it.py::test_dies"]
    assert run.code == 1, run.out


RANDOM = """
class Shuffles:
    def pytest_collection_modifyitems(self, items):
        items.reverse()

def pytest_addoption(parser):
    parser.addoption("--randomly-seed", type=int, default=7)
    parser.addoption("--randomly-dont-reorganize", action="store_false", dest="randomly_reorganize", default=True)

def pytest_configure(config):
    config.pluginmanager.register(Shuffles(), "randomly")
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_random_order_is_left_alone_and_its_seed_told(run_suite: RunSuite, order: Order, workers: str) -> None:
    variables = order(first=ids(2), deferred=ids(3), seconds=dict.fromkeys(ids(0, 1, 2, 3, 4), 0.1))
    run = run_suite({"conftest.py": RANDOM, "test_it.py": FIVE}, "-p", "xdist", "-n", workers, variables=variables)
    assert started(run) == ids(4, 2, 1, 0), run.out
    assert run.of("order")[0]["order"] == "random: pytest-randomly, seed 7"


@pytest.mark.parametrize("text", ['{"version": 2}', "[]", "no json", '{"version": 1, "first": 3}'])
def test_a_file_that_is_none_changes_nothing_and_says_so(run_suite: RunSuite, tmp_path: Path, text: str) -> None:
    (tmp_path / "order.json").write_text(text)
    run = run_suite(FIVE, variables={"MLTIERS_ORDER": str(tmp_path / "order.json")})
    assert run.code == 0
    assert started(run) == ids(0, 1, 2, 3, 4)
    assert "the order of the tests is pytest's own" in run.out


def test_a_pytest_that_a_test_starts_has_its_own_order(run_suite: RunSuite, order: Order) -> None:
    text = """
    import os, pathlib, subprocess, sys

    def test_outer(tmp_path):
        (tmp_path / "test_it.py").write_text("def test_inner(): pass")
        done = subprocess.run([sys.executable, "-m", "pytest", "-p", "pytest_mltiers", "--rootdir=."], cwd=tmp_path,
                              capture_output=True, text=True)
        assert "1 passed" in done.stdout, done.stdout
    """
    run = run_suite(text, variables=order(deferred=["test_it.py::test_inner"], seconds={}))
    assert run.code == 0, run.out
