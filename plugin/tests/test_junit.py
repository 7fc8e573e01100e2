"""pytest's JUnit report is the same to the byte, whoever writes of the tests that pass."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"

THEIRS = "import pytest_mltiers.junit as ours\nours.start = lambda config: None\n"
"""A plugin with which pytest writes all of the report."""

COUNTS = """
    from collections import Counter
    from _pytest.junitxml import xml_key

    def pytest_unconfigure(config):
        xml = config.stash.get(xml_key, None)
        if xml is not None:
            kinds = Counter(type(one).__name__ for one in xml.node_reporters_ordered)
            print(f"\\nplain: {kinds['Plain']} others: {kinds['_NodeReporter']}")
"""
PASSING = """
    import pytest

    def test_passes(): pass
    def test_prints(): print("out")

    @pytest.mark.parametrize("value", ["a", "b[c]", "a::b", "ä", "\\x00", "\\x7f", "<&\\">", "\\ud800", "[", "]"])
    def test_of(value): pass

    class TestIt:
        def test_in_a_class(self): pass
        class TestIn:
            @pytest.mark.parametrize("a", [1, 2])
            def test_deeper(self, a): pass

    class TestToo:
        def test_in_a_class(self): pass
"""
ALL_SORTS = """
    import unittest, warnings, pytest

    @pytest.fixture
    def broken(): raise RuntimeError("no fixture")

    @pytest.fixture
    def leaking():
        yield
        raise RuntimeError("not cleaned up")

    def test_first(): pass
    def test_fails(): print("said"); assert 1 == 2, "they differ"
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
    def test_property(record_property): record_property("answer", 42)
    @pytest.mark.filterwarnings("ignore")
    def test_attribute(record_xml_attribute): record_xml_attribute("classname", "mine")
    @pytest.mark.filterwarnings("ignore")
    def test_late_attribute(request): request.getfixturevalue("record_xml_attribute")("url", "there")
    def test_of_the_suite(record_testsuite_property): record_testsuite_property("arch", "x86")
    def test_warns(): warnings.warn("careful")

    class TestUnit(unittest.TestCase):
        def test_parts(self):
            for i in range(3):
                with self.subTest(i=i):
                    self.assertNotEqual(i, 1)
        @unittest.skip("no")
        def test_skipped(self): pass
        def test_fine(self): pass
    def test_last(): pass
"""
OWN = """
    import pytest

    class Item(pytest.Item):
        def runtest(self): pass
        def reportinfo(self): return self.path, None if "line" in self.name else 3, self.name

    class File(pytest.File):
        def collect(self):
            for name in self.path.read_text().splitlines():
                yield Item.from_parent(self, name=name)

    def pytest_collect_file(parent, file_path):
        return File.from_parent(parent, path=file_path) if file_path.suffix == ".own" else None
"""
OWN_NAMES = "first\nplain\nwith[bracket\nwith [a] more\nno line\na::b\n"

SUITES = {
    "passing": ({"test_it.py": PASSING, "sub/test[1].py": "def test_here(): pass", "sub/test_b.py": PASSING}, []),
    "all sorts": ({"test_it.py": ALL_SORTS}, []),
    "other options": (
        {"test_it.py": ALL_SORTS},
        ["-o", "junit_suite_name=mine", "--junitprefix=pre.fix", "--maxfail=7"],
    ),
    "items of its own": ({"conf/conftest.py": OWN, "conf/it.own": OWN_NAMES}, []),
    "a file that cannot be collected": (
        {"test_it.py": PASSING, "test_bad.py": "import nothing"},
        ["--continue-on-collection-errors"],
    ),
    "stopped": (
        {"test_it.py": "import pytest\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): pytest.exit('enough')"},
        [],
    ),
    "interrupted": (
        {"test_it.py": "def test_a(): pass\ndef test_b(): pass\ndef test_c(): raise KeyboardInterrupt"},
        [],
    ),
}
OTHER_KINDS = {
    "with output": ["-o", "junit_logging=all"],
    "the time of calls": ["-o", "junit_duration_report=call"],
    "xunit2": ["-o", "junit_family=xunit2"],
}


@pytest.fixture
def reports(run_suite):
    """Runs a suite twice: (the report, with pytest's own for comparison; tests that ours told of)."""

    def both(files, *args, variables=None):
        found = []
        files = {"plain_counts.py": COUNTS, "theirs.py": THEIRS, **files}
        for plugins in (["-p", "theirs"], []):
            run = run_suite(
                files, "--junitxml=junit.xml", "-o", "junit_family=xunit1", "-p", "plain_counts", *plugins, *args,
                variables={"PYTHONPATH": f"{SOURCE}:.", **(variables or {})},
            )  # fmt: skip
            told = re.search(r"plain: (\d+) others: (\d+)", run.out)
            assert told is not None, run.out
            found.append(((run.folder / "junit.xml").read_text(encoding="utf-8"), int(told[1])))
        (theirs, none), (ours, told_plain) = found
        assert none == 0
        return theirs, ours, told_plain

    return both


def alike(xml: str) -> str:
    """Without what no two runs have in common."""
    return re.sub(r' (time|timestamp)="[^"]*"|0x[0-9a-f]+|in [0-9.]+s', "", xml)


@pytest.mark.parametrize("name", SUITES)
def test_the_report_is_what_pytest_writes(reports, name):
    files, args = SUITES[name]
    theirs, ours, plain = reports(files, *args)
    assert alike(ours) == alike(theirs)
    assert plain > 0


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_reports_are_left_to_pytest(reports, kind):
    theirs, ours, plain = reports({"test_it.py": PASSING}, *OTHER_KINDS[kind])
    assert alike(ours) == alike(theirs)
    assert plain == 0


def test_every_duration_is_that_of_all_three_phases(run_suite):
    suite = """
        import time, pytest
        @pytest.fixture
        def slow():
            time.sleep(0.2)
            yield
            time.sleep(0.2)
        def test_first(): pass
        def test_slow(slow): time.sleep(0.2)
    """
    run = run_suite(suite, "--junitxml=junit.xml", "-o", "junit_family=xunit1")
    cases = ElementTree.parse(run.folder / "junit.xml").getroot().iter("testcase")
    took = {case.get("name"): float(case.get("time")) for case in cases}
    phases = {e["nodeid"]: 0.0 for e in run.of("phase")}
    for event in run.of("phase"):
        phases[event["nodeid"]] += event["seconds"]
    assert took["test_slow"] >= 0.6
    assert took["test_slow"] == pytest.approx(phases["test_it.py::test_slow"], abs=0.002)


def cases(xml: str) -> list[str]:
    return sorted(re.findall(r"<testcase.*?(?:/>|</testcase>)", alike(xml), re.DOTALL))


@pytest.mark.parametrize("dist", ["load", "loadfile", "each"])
def test_so_it_is_of_several_workers(reports, dist):
    files = {"test_it.py": ALL_SORTS, "test_more.py": PASSING.replace('"\\\\ud800", ', "")}
    theirs, ours, plain = reports(files, "-p", "xdist", "-n", "2", "--dist", dist)
    assert cases(ours) == cases(theirs)
    assert plain > 0


def test_and_of_a_worker_that_dies(reports):
    crash = "import os\ndef test_a(): pass\ndef test_dies(): os._exit(9)\ndef test_b(): pass"
    theirs, ours, plain = reports({"test_it.py": PASSING, "test_more.py": crash}, "-p", "xdist", "-n", "1")
    assert cases(ours) == cases(theirs)
    assert "crashed while running" in ours
    assert plain > 0


def test_and_of_tests_that_are_tried_again(reports):
    flaky = """
        import pathlib
        def test_first(): pass
        def test_flaky():
            tried = pathlib.Path("tried")
            if not tried.exists():
                tried.touch()
                assert 0, "the first time"
            tried.unlink()
        def test_fails(): assert 0
        def test_last(): pass
    """
    theirs, ours, plain = reports({"test_it.py": flaky}, variables={"MLTIERS_RETRIES": "1"})
    assert alike(ours) == alike(theirs)
    assert plain > 0


def test_a_pytest_that_tells_of_them_otherwise_is_left_to_it(reports):
    """As another version might: what was known when this was written is no longer so."""
    another = """
        from _pytest import junitxml
        told = junitxml._NodeReporter.record_testreport
        def more(self, report):
            told(self, report)
            self.attrs["kind"] = "test"
        junitxml._NodeReporter.record_testreport = more
    """
    theirs, ours, plain = reports({"test_it.py": PASSING, "another.py": another}, "-p", "another")
    assert alike(ours) == alike(theirs)
    assert 'kind="test"' in ours
    assert plain == 0
