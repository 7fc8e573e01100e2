"""pytest's JUnit report of tests that pass, byte for byte, in a quarter of the time.

``_pytest.junitxml`` takes a test's name apart and looks its element up anew for each of its three reports: of a suite
of short tests that is a tenth of the time. Here a test of which all three simply pass is kept as its attributes; any
other, and whatever else asks for an element, is pytest's own to tell, with what is known by then. Tests are left to
pytest until it tells of one just what would be told here, which it does of the first that passes.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

_Key = tuple[str, object]

_TRIALS = 20


def start(config: pytest.Config) -> None:
    """Looks after the report of this session, where it writes one of the kind that is known."""
    try:
        from _pytest.junitxml import LogXML, bin_xml_escape, mangle_test_address, xml_key  # noqa: PLC0415

        xml: Any = config.stash.get(xml_key, None)
        if type(xml) is not LogXML or xml.family != "xunit1" or xml.logging != "no" or xml.report_duration != "total":
            return
        passes = PlainPasses(xml, mangle_test_address, bin_xml_escape)
        hooks = [i for i in config.hook.pytest_runtest_logreport.get_hookimpls() if i.plugin is xml]
        # In its place, as another plugin may count on who comes before it; not by registering anew.
        hooks[0].function = passes.logreport
    except (ImportError, AttributeError, LookupError):  # another pytest: its own will do
        return
    xml.node_reporter = passes.node_reporter


class Plain:
    """What the report says of a test that passes. In ``LogXML.node_reporters_ordered``."""

    __slots__ = ("attrs", "duration", "place")

    def __init__(self, place: int, duration: float) -> None:
        self.place = place
        self.duration = duration
        self.attrs: dict[str, str] = {}

    def to_xml(self) -> ElementTree.Element:
        """As ``_NodeReporter.to_xml``."""
        return ElementTree.Element("testcase", self.attrs, time=f"{self.duration:.3f}")


class PlainPasses:
    """Stands in for ``LogXML.pytest_runtest_logreport``. ``xml``: the LogXML of the session."""

    def __init__(self, xml: Any, mangle: Any, escape: Any) -> None:
        self._xml = xml
        self._report: Any = xml.pytest_runtest_logreport
        self._element: Any = xml.node_reporter
        self._mangle = mangle
        self._escape = escape
        self._scopes: dict[str, str] = {}  # what a test's name follows in its node id → classname
        self._open: dict[_Key, Plain] = {}  # set up, not torn down
        self._theirs: set[_Key] = set()  # the same, of those that pytest tells of
        self._trials = _TRIALS  # tests that are still compared until one is told of alike
        self._trusted = False

    def logreport(self, report: pytest.TestReport) -> None:
        """As ``LogXML.pytest_runtest_logreport``."""
        key = (report.nodeid, getattr(report, "node", None))  # the same test may run on several of xdist's workers
        when = report.when
        if (
            report.outcome == "passed"
            and type(report) is pytest.TestReport
            and not report.user_properties
            and not hasattr(report, "url")
        ):
            if when == "setup":
                if self._trusted and key not in self._theirs and key not in self._open:
                    elements = self._xml.node_reporters_ordered
                    self._open[key] = plain = Plain(len(elements), report.duration)
                    elements.append(plain)
                    return
            elif (plain := self._open.get(key)) is not None:
                if when == "call" and not plain.attrs:
                    plain.attrs = self._attributes(report)
                    plain.duration += report.duration
                    self._xml.add_stats("passed")
                    return
                if when == "teardown" and plain.attrs:
                    plain.duration += report.duration
                    del self._open[key]
                    return
        self._leave(report, key)

    def node_reporter(self, report: Any) -> Any:
        """As ``LogXML.node_reporter``: whoever asks for an element gets pytest's own."""
        key = (str(getattr(report, "nodeid", report)), getattr(report, "node", None))
        self._theirs.add(key)
        plain = self._open.pop(key, None)
        element = self._element(report)
        if plain is not None:
            elements = self._xml.node_reporters_ordered
            elements[plain.place] = elements.pop()
            element.attrs, element.duration = plain.attrs, plain.duration
        return element

    def _leave(self, report: pytest.TestReport, key: _Key) -> None:
        if key in self._open:
            self.node_reporter(report)
        self._report(report)
        if report.when == "teardown":
            self._theirs.discard(key)
            if self._trials and not self._trusted:
                self._compare(report)

    def _compare(self, report: pytest.TestReport) -> None:
        """Begins once pytest has told of a test what would have been told here."""
        self._trials -= 1
        told = self._xml.node_reporters_ordered[-1].to_xml()
        ours = Plain(0, 0.0)
        ours.attrs = self._attributes(report)
        written = ours.to_xml()
        written.set("time", told.get("time", ""))
        self._trusted = not len(told) and ElementTree.tostring(told) == ElementTree.tostring(written)

    def _attributes(self, report: pytest.TestReport) -> dict[str, str]:
        """As ``_NodeReporter.record_testreport``, ``mangle_test_address`` and ``bin_xml_escape`` give them."""
        bare, bracket, parameters = report.nodeid.partition("[")
        scope, colons, name = bare.rpartition("::")
        if colons and (not bracket or parameters.endswith("]")):
            classname = self._scopes.get(scope)
            if classname is None:
                classname = self._scopes[scope] = self._classname(self._mangle(f"{scope}::test"))
            name += bracket + parameters
        else:  # what a version of pytest makes of it is its own
            names = self._mangle(report.nodeid)
            classname, name = self._classname(names), names[-1]
        if not (name.isascii() and name.isprintable()):
            name = self._escape(name)
        path, line, _ = report.location
        attributes = {"classname": classname, "name": name, "file": path}
        if line is not None:
            attributes["line"] = str(line)
        return attributes

    def _classname(self, names: list[str]) -> str:
        prefix = self._xml.prefix
        return ".".join([prefix, *names[:-1]] if prefix else names[:-1])
