"""JUnit XML as untrusted evidence, read in one pass over expat.

The file may be truncated, hostile, or written by something that is not pytest. Nothing in it raises: what can be read
is read, and whatever keeps the report from being believed is a sentence in ``JUnitReport.problems``. Documents that
declare a document type or entities are refused, so nothing is ever expanded or fetched.

Where a test case has both a ``<failure>`` (its call) and an ``<error>`` (its teardown), or pytest has split the two
into two cases, the test is FAILED and its text has both: the failure came first, and the error often follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.parsers import expat

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.mind.readers.flaws import Flaws, shown
from orchestrator.mind.readers.junit_cases import EARLIER, RESULTS, TEXT_LIMIT, Element, with_results
from orchestrator.mind.readers.junit_suites import Suites, plausible_seconds
from orchestrator.mind.readers.names import dotted, node_prefix
from orchestrator.mind.readers.outcomes import worse
from orchestrator.words.results import TestOutcome, TestResult

_CHUNK = 1 << 16
_RESULTS_KEPT = 100  # of one test; all of them are counted
_PASSED = TestOutcome.PASSED
_ROOTS = frozenset(("testsuites", "testsuite"))
_IGNORED = frozenset(("properties", "property", "system-out", "system-err"))
_ERRORS_AT_THE_END = frozenset(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)
_ENCODING_ERRORS = frozenset(
    expat.errors.codes[message]
    for message in (expat.errors.XML_ERROR_UNKNOWN_ENCODING, expat.errors.XML_ERROR_INCORRECT_ENCODING)
)
_INVALID = frozenset(
    expat.errors.codes[message] for message in (expat.errors.XML_ERROR_INVALID_TOKEN, expat.errors.XML_ERROR_SYNTAX)
)


class Limits(Struct, frozen=True, kw_only=True):
    """What a report may be; one that is more is not read on."""

    size: int = 512 * 1024 * 1024  # bytes
    tests: int = 2_000_000
    tag: int = 16 * 1024 * 1024  # bytes of one tag with its attributes: expat has to hold all of it at once
    depth: int = 100  # elements inside each other: expat holds every open one


_LIMITS = Limits()


class Doubt(Struct, frozen=True, kw_only=True):
    """Something that makes a report doubtful until the event stream explains it (``merge``)."""

    kind: str  # "nameless", "repeated", "miscounted" or "mistimed"
    text: str
    nodes: tuple[str, ...] = ()  # of "repeated"
    count: int = 0  # of "nameless"


class JUnitReport(Struct, frozen=True, kw_only=True):
    """What a JUnit report says. ``declared`` are the counts the outermost suites give for themselves."""

    tests: tuple[TestResult, ...] = ()  # one per node id, in the order of the file
    seconds: float = 0.0  # as the outermost suites give it, or else the sum of the cases
    declared: tuple[tuple[str, int], ...] = ()  # ("tests", 12), ("failures", 0) …
    flaws: tuple[str, ...] = ()  # nothing can explain these
    doubts: tuple[Doubt, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Every reason not to believe this report on its own."""
        return (*self.flaws, *(doubt.text for doubt in self.doubts))


def read_junit(data: bytes | Iterable[bytes], *, limits: Limits = _LIMITS) -> JUnitReport:
    """The report in ``data``, whole or in chunks. Never raises for what is in it."""
    reader = _Reader(limits)
    reader.read(_chunks(data) if isinstance(data, bytes) else data)
    return reader.report()


def _mebibytes(size: int) -> str:
    return f"{size // 2**20} MiB"


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def _line(given: str) -> int | None:
    """The 1-based line that an attribute ``line`` gives (pytest's is 0-based), or None where it is none."""
    try:
        line = int(given) + 1
    except ValueError:
        return None
    return line if line > 0 else None


class _RefusedError(Exception):
    """The document is not worth reading on; the message says why."""


class _Reader:
    """The state of one pass."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tests: list[TestResult] = []
        self.flaws = Flaws()
        self._parser = expat.ParserCreate()
        self._rooted = False
        self._places: dict[str, int] = {}  # node id → index in tests
        self._prefixes: dict[tuple[str, str | None], str] = {}  # (classname, file) → beginning of the node id
        self._repeated: dict[str, int] = {}
        # What has been seen so far. A suite knows its own share by looking at these when it begins and when it ends.
        self._cases = self._nameless = self._merged = self._extra = 0
        self._elements = {"failures": 0, "errors": 0, "skipped": 0}
        self._suites = Suites(self.flaws)
        self._case: dict[str, str] | None = None
        self._found: list[Element] = []
        self._inside = ""  # the child of the test case that is open
        self._depth = 0  # below the test case
        self._level = 0  # above it
        self._text: list[str] = []
        self._kept = 0

    # --- bytes -----------------------------------------------------------------------------------------------------

    def read(self, chunks: Iterable[bytes]) -> None:
        parser = self._parser
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse
        size = 0
        chunk = b""
        try:
            for chunk in chunks:
                size += len(chunk)
                if size > self.limits.size:
                    raise _RefusedError(f"the JUnit report is larger than {_mebibytes(self.limits.size)}: refused")
                parser.Parse(chunk, False)
                if size - parser.CurrentByteIndex > self.limits.tag:
                    limit = _mebibytes(self.limits.tag)
                    raise _RefusedError(f"the JUnit report has a tag of more than {limit}: not read any further")
            if not size:
                raise _RefusedError("the JUnit report is empty")
            parser.Parse(b"", True)
        except _RefusedError as error:
            self.flaws.add("refused", str(error))
        except expat.ExpatError as error:
            self.flaws.add("broken", self._broken(error, chunk, size))
        except (LookupError, ValueError) as error:  # from Python's codecs, asked by expat
            self.flaws.add("encoding", f"the JUnit report is in an encoding that cannot be read: {error}")
        finally:  # it and we hold each other, and what a million tests leave in us is not to wait for a collection
            parser.StartElementHandler = parser.EndElementHandler = parser.CharacterDataHandler = None
            parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = None

    def _refuse(self, *_: object) -> None:
        raise _RefusedError(
            "the JUnit report declares entities or a document type, which no test report needs: refused"
        )

    def _broken(self, error: expat.ExpatError, chunk: bytes, size: int) -> str:
        place = f"line {error.lineno}, column {error.offset + 1}"
        said = expat.ErrorString(error.code)
        if error.code in _ENCODING_ERRORS:
            return f"the JUnit report is in an encoding that cannot be read: {said}"
        if not self._rooted:
            if error.code in _ERRORS_AT_THE_END and not chunk.strip():
                return "the JUnit report is empty"
            return f"the JUnit report is not XML ({said} in {place})"
        if error.code in _ERRORS_AT_THE_END:
            return f"the JUnit report is truncated: it ends in {place}, before its last element is closed"
        offset = self._parser.ErrorByteIndex - (size - len(chunk))
        if error.code in _INVALID and 0 <= offset < len(chunk) and chunk[offset] >= 0x80:
            return f"the JUnit report has bytes that are not in its encoding ({place})"
        return f"the JUnit report is broken in {place}: {said}"

    # --- elements --------------------------------------------------------------------------------------------------

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._case is None:
            if tag == "testcase" and self._rooted:
                self._case = attributes
            else:
                self._start_outside(tag, attributes)
            return
        self._depth += 1
        self._check_depth(self._depth)
        if self._depth > 1:  # inside a result's text, or in something that is ignored
            if tag in RESULTS or tag == "testcase":
                self.flaws.add("nested", f"the JUnit report has a <{tag}> inside a <{self._inside}>")
            return
        self._inside = tag
        if tag in RESULTS or tag in EARLIER:
            self._count(tag)
            if len(self._found) == _RESULTS_KEPT:
                if tag not in ("failure", "error"):
                    return
                self._found.pop()
            self._found.append(Element(tag, attributes.get("type"), attributes.get("message")))
            self._text = []
            self._kept = 0
            self._parser.CharacterDataHandler = self._keep
        elif tag not in _IGNORED:
            self.flaws.add("unknown", f"the JUnit report has an unknown element <{shown(tag)}> in a test case")

    def _start_outside(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._rooted:
            if tag not in _ROOTS:
                raise _RefusedError(f"this is no JUnit report: its root element is <{shown(tag)}>")
            self._rooted = True
        self._level += 1
        self._check_depth(self._level)
        if tag in _ROOTS:
            self._suites.open(tag, attributes, self._tally())
        elif tag in RESULTS:
            self.flaws.add("outside", f"the JUnit report has a result <{tag}> outside any test case")
        elif tag not in _IGNORED:
            self.flaws.add("unknown", f"the JUnit report has an unknown element <{shown(tag)}>")

    def _check_depth(self, depth: int) -> None:
        if depth > self.limits.depth:
            raise _RefusedError(f"the JUnit report nests more than {depth - 1} elements: not read any further")

    def _keep(self, text: str) -> None:
        if self._kept < TEXT_LIMIT:
            self._text.append(text[: TEXT_LIMIT - self._kept])
            self._kept += len(text)

    def _end(self, tag: str) -> None:
        if self._case is None:
            self._level -= 1
            if tag in _ROOTS:
                self._suites.close(self._tally())
        elif self._depth:
            self._depth -= 1
            if not self._depth and self._parser.CharacterDataHandler is not None:
                self._parser.CharacterDataHandler = None
                self._found[-1].text = "".join(self._text)
        else:
            self._close_case(self._case)
            self._case = None
            if self._found:
                self._found = []

    # --- a test case -----------------------------------------------------------------------------------------------

    def _close_case(self, attributes: dict[str, str]) -> None:
        get = attributes.get
        name = get("name")
        if not name:
            self._nameless += 1
            if any(element.outcome.bad for element in self._found):
                self.flaws.add("nameless", "the JUnit report has a failure in a test case without a name")
            return
        self._cases += 1
        file = get("file")
        classname = get("classname", "")
        prefix = self._prefixes.get((classname, file))
        if prefix is None:
            prefix = self._prefixes[classname, file] = node_prefix(file, classname)
        node_id = prefix + name
        if not classname and file and name == dotted(file):
            node_id = file  # a file that could not be collected, or skips itself
        seconds = plausible_seconds(get("time", "0"))
        if seconds is None:
            given = shown(attributes["time"])
            self._suites.mistimed.add("case", f"the JUnit report gives {shown(node_id)} an impossible time: {given}")
            seconds = 0.0
        line = get("line")
        test = TestResult(
            node_id=node_id,
            outcome=_PASSED,
            seconds=seconds,
            file=file,
            line=None if line is None else _line(line),
        )
        if self._found:
            test = with_results(test, self._found)
        place = len(self.tests)
        if self._places.setdefault(node_id, place) != place:
            self._merge(self._places[node_id], test)
            return
        if place == self.limits.tests:
            raise _RefusedError(f"the JUnit report holds more than {place:,} tests: not read any further")
        self.tests.append(test)

    def _count(self, tag: str) -> None:
        if tag == "failure":
            self._elements["failures"] += 1
        elif tag == "error":
            self._elements["errors"] += 1
        elif tag == "skipped":
            self._elements["skipped"] += 1
            if not self._found:
                return
        # pytest counts a report, not a case, as a test: a part of a test, or a teardown error after a call that passed.
        self._extra += 1

    def _merge(self, place: int, test: TestResult) -> None:
        first = self.tests[place]
        self._merged += 1
        teardown = len(self._found) == 1 and (self._found[0].message or "").startswith("failed on teardown")
        if not (teardown and first.outcome is TestOutcome.FAILED):
            self._repeated[test.node_id] = self._repeated.get(test.node_id, 1) + 1
        outcome = worse(first.outcome, test.outcome)
        lead, other = (first, test) if outcome is first.outcome else (test, first)
        self.tests[place] = replace(
            lead,
            seconds=first.seconds + test.seconds,
            text="\n\n".join(part for part in (lead.text, other.text) if part)[:TEXT_LIMIT] or None,
            attempts=(first.attempts + test.attempts)[:_RESULTS_KEPT],
        )

    def _tally(self) -> dict[str, int]:
        return {"cases": self._cases, "merged": self._merged, "extra": self._extra, **self._elements}

    # --- all of it -------------------------------------------------------------------------------------------------

    def report(self) -> JUnitReport:
        sentences = self.flaws.sentences()
        doubts = [Doubt(kind="miscounted", text=text) for text in self._suites.miscounted.sentences()]
        doubts += (Doubt(kind="mistimed", text=text) for text in self._suites.mistimed.sentences())
        if self._nameless:
            cases = "a test case" if self._nameless == 1 else f"{self._nameless} test cases"
            text = f"the JUnit report has {cases} without a name: pytest was interrupted there"
            doubts.append(Doubt(kind="nameless", text=text, count=self._nameless))
        if self._repeated:
            first = next(iter(self._repeated))
            text = (
                f"the JUnit report has {len(self._repeated)} of its tests more than once, the first {shown(first)}: "
                "an earlier attempt may have failed"
            )
            doubts.append(Doubt(kind="repeated", text=text, nodes=tuple(self._repeated)))
        if not self._cases and not self._nameless and not sentences:
            sentences = ("the JUnit report holds no test case",)
        seconds = self._suites.seconds
        return JUnitReport(
            tests=tuple(self.tests),
            seconds=sum(test.seconds for test in self.tests) if seconds is None else seconds,
            declared=tuple(self._suites.declared.items()),
            flaws=sentences,
            doubts=tuple(doubts),
        )
