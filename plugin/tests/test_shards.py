"""Parts of a suite on several machines: together every test once, each part saying how it was cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

SUITE = {
    "test_a.py": """
        import pytest

        @pytest.mark.parametrize("n", range(5))
        def test_many(n): pass

        def test_slow(): pass
        """,
    "sub/test_b.py": "class TestIt:\n    def test_one(self): pass\n    def test_two(self): pass\n",
}
ALL = {f"test_a.py::test_many[{n}]" for n in range(5)} | {
    "test_a.py::test_slow",
    "sub/test_b.py::TestIt::test_one",
    "sub/test_b.py::TestIt::test_two",
}


def ran(run) -> set[str]:
    return {event["nodeid"] for event in run.of("start")}


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_the_parts_are_together_every_test_once(run_suite: Any, workers: tuple[str, ...]) -> None:
    seen: list[str] = []
    digests = set()
    for shard in (1, 2, 3):
        run = run_suite(SUITE, *workers, variables={"MLTIERS_SHARD": f"{shard}/3"})
        assert run.code == 0, run.out
        seen += ran(run)
        for told in run.of("shard"):
            assert (told["shard"], told["shards"], told["count"]) == (shard, 3, 8)
            assert told["selected"] == len(ran(run))
            digests.add(told["digest"])
    assert sorted(seen) == sorted(ALL)
    assert len(digests) == 1


def test_the_longest_test_has_a_machine_for_itself(run_suite: Any, tmp_path) -> None:
    timings = tmp_path / "timings.json"
    known = {**dict.fromkeys(sorted(ALL)[1:], 1.0), "test_a.py::test_slow": 60.0}  # one test nobody knows: 1 s as well
    timings.write_text(json.dumps({"snapshot": "abc", "seconds": known}))
    variables = {"MLTIERS_TIMINGS": str(timings)}
    first = run_suite(SUITE, variables={"MLTIERS_SHARD": "1/2", **variables})
    assert first.of("shard")[0]["snapshot"] == "abc"
    second = run_suite(SUITE, variables={"MLTIERS_SHARD": "2/2", **variables})
    assert sorted([ran(first), ran(second)], key=len) == [{"test_a.py::test_slow"}, ALL - {"test_a.py::test_slow"}]


def test_other_timings_give_another_digest(run_suite: Any, tmp_path) -> None:
    digests = []
    for snapshot, seconds in (("abc", 1.0), ("abc", 2.0), ("abd", 2.0)):
        timings = tmp_path / "timings.json"
        timings.write_text(json.dumps({"snapshot": snapshot, "seconds": {"test_a.py::test_slow": seconds}}))
        run = run_suite(SUITE, variables={"MLTIERS_SHARD": "1/2", "MLTIERS_TIMINGS": str(timings)})
        digests.append(run.of("shard")[0]["digest"])
    assert len(set(digests)) == 3


def test_what_is_deselected_is_split_off_before(run_suite: Any) -> None:
    runs = [run_suite(SUITE, "-k", "many", variables={"MLTIERS_SHARD": f"{n}/2"}) for n in (1, 2)]
    assert [run.of("shard")[0]["count"] for run in runs] == [5, 5]
    assert {*map(len, map(ran, runs))} == {2, 3}
    assert [run.of("collected")[0]["deselected"] for run in runs] == [3, 3]


def test_a_part_without_a_test_says_so(run_suite: Any) -> None:
    run = run_suite("def test_it(): pass\n", variables={"MLTIERS_SHARD": "2/2"})
    assert run.code == 5
    assert run.of("shard")[0]["selected"] == 0
    assert "part 2 of 2: 0 of 1 tests" in run.out


def test_a_pytest_that_a_test_starts_runs_all_of_its_tests(run_suite: Any) -> None:
    suite = {
        "test_outer.py": """
            import subprocess, sys
            def test_starts_another(tmp_path):
                (tmp_path / "test_inner.py").write_text("def test_1(): pass\\ndef test_2(): pass\\n")
                done = subprocess.run([sys.executable, "-m", "pytest", "-p", "pytest_mltiers", "-p", "no:cacheprovider",
                                       str(tmp_path)], capture_output=True, text=True)
                assert "2 passed" in done.stdout
            """
    }
    for workers in ((), ("-p", "xdist", "-n", "1")):
        run = run_suite(suite, *workers, variables={"MLTIERS_SHARD": "1/2"})
        assert run.code == 0, run.out


@pytest.mark.parametrize("shard", ["3/2", "0/2", "x", "1/", "/2"])
def test_no_part_is_a_usage_error(run_suite: Any, shard: str) -> None:
    run = run_suite(SUITE, variables={"MLTIERS_SHARD": shard})
    assert run.code == 4
    assert f"MLTIERS_SHARD={shard}: not a part such as 2/8" in run.out


@pytest.mark.parametrize("text", [None, "", "[]", '{"snapshot": null}', '{"snapshot": null, "seconds": {"a": "x"}}'])
def test_timings_that_cannot_be_read_are_a_usage_error_and_no_other_split(run_suite: Any, tmp_path, text) -> None:
    timings = tmp_path / "timings.json"
    if text is not None:
        timings.write_text(text)
    run = run_suite(SUITE, variables={"MLTIERS_SHARD": "1/2", "MLTIERS_TIMINGS": str(timings)})
    assert run.code == 4
    assert "cannot be read" in run.out
    assert not ran(run)
