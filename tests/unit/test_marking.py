"""A marker is put on tests by inserting lines, and nothing else in the author's file changes."""

from __future__ import annotations

import ast
import difflib

import pytest

from orchestrator.mind.marking import mark


def marked(source: str, *names: str, marker: str = "slow") -> str:
    """The edited source; names are `test_a` or `TestA::test_b`."""
    found = mark(source.encode(), {tuple(name.split("::")) for name in names}, marker)
    assert found.problem is None
    assert found.missed == ()
    return found.data.decode()


def inserted(source: str, *names: str) -> list[str]:
    """The lines that were added; there may be no other change."""
    changed = list(difflib.ndiff(source.splitlines(), marked(source, *names).splitlines()))
    assert not [line for line in changed if line.startswith("-")]
    return [line[2:] for line in changed if line.startswith("+")]


TESTS = '''\
"""Tests."""

import os

import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    "n", [1, 2]
)
def test_params(n):  # a comment
    def test_inner(): ...


def test_plain(): ...


async def test_async(): ...


class TestModel:
    """Of the model."""

    def helper(self): ...

    @staticmethod
    def test_static(): ...

    class TestInner:
        def test_deep(self): ...
        def test_deeper(self): ...


if os.name == "posix":

    def test_conditional(): ...

else:

    def test_conditional(): ...
'''


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("test_params", "@pytest.mark.parametrize("),
        ("test_plain", "def test_plain(): ..."),
        ("test_async", "async def test_async(): ..."),
        ("TestModel::test_static", "    @staticmethod"),
        ("TestModel::TestInner::test_deep", "        def test_deep(self): ..."),
    ],
)
def test_the_decorator_stands_directly_above(name: str, before: str) -> None:
    lines = marked(TESTS, name).splitlines()
    at = lines.index(before)
    indent = before[: len(before) - len(before.lstrip())]
    assert lines[at - 1] == f"{indent}@pytest.mark.slow"
    assert inserted(TESTS, name) == [lines[at - 1]]


def test_of_two_definitions_the_last_one_counts() -> None:
    assert marked(TESTS, "test_conditional").endswith(
        "else:\n\n    @pytest.mark.slow\n    def test_conditional(): ...\n"
    )


def test_a_class_whose_tests_all_move_is_marked_itself() -> None:
    lines = marked(TESTS, "TestModel::TestInner::test_deep", "TestModel::TestInner::test_deeper").splitlines()
    assert lines[lines.index("    class TestInner:") - 1] == "    @pytest.mark.slow"
    assert lines.count("    @pytest.mark.slow") == 1
    assert not [line for line in lines if line.startswith("        @")]


def test_a_class_that_inherits_is_not_marked_as_other_tests_may_come_with_it() -> None:
    source = "import pytest\nclass TestA(Base):\n    def test_a(self): ...\n    def test_b(self): ...\n"
    assert inserted(source, "TestA::test_a", "TestA::test_b") == ["    @pytest.mark.slow"] * 2


@pytest.mark.parametrize(
    ("head", "written"),
    [
        ("import pytest as pt", "@pt.mark.slow"),
        ("from pytest import mark", "@mark.slow"),
        ("from pytest import fixture, mark as m", "@m.slow"),
        ("import os, pytest", "@pytest.mark.slow"),
    ],
)
def test_it_is_spelled_as_the_file_spells_it(head: str, written: str) -> None:
    assert inserted(f"{head}\n\ndef test_a(): ...\n", "test_a") == [written]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "import pytest\n\n\n"),
        (
            "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n",
            "#!/usr/bin/python\n# -*- coding: utf-8 -*-\nimport pytest\n\n\n",
        ),
        ('"""Tests."""\n\n', '"""Tests."""\n\nimport pytest\n\n'),
        ("from __future__ import annotations\n\n\n", "from __future__ import annotations\n\nimport pytest\n\n\n"),
        ("import os\nimport sys\n\n\n", "import os\nimport sys\nimport pytest\n\n\n"),
        ("import os\n\nimport numpy\nimport torch\n\n", "import os\n\nimport numpy\nimport pytest\nimport torch\n\n"),
        ("from . import models\n", "import pytest\nfrom . import models\n"),
        ("from pytest import fixture\n", "from pytest import fixture\nimport pytest\n"),
        ("if True:\n    import pytest\n\n", "import pytest\n\n\nif True:\n    import pytest\n\n"),
    ],
)
def test_pytest_is_imported_where_it_is_not(head: str, expected: str) -> None:
    assert marked(f"{head}def test_a(): ...\n", "test_a") == f"{expected}@pytest.mark.slow\ndef test_a(): ...\n"


def test_line_ends_encodings_and_byte_order_marks_stay() -> None:
    windows = b"import pytest\r\n\r\ndef test_a():\r\n    pass\r\n"
    assert mark(windows, {("test_a",)}, "slow").data == windows.replace(b"def", b"@pytest.mark.slow\r\ndef")
    latin = b"# coding: latin-1\nimport pytest\nNAME = '\xe9'\ndef test_a(): ...\n"
    assert mark(latin, {("test_a",)}, "slow").data == latin.replace(b"def", b"@pytest.mark.slow\ndef")
    bom = b"\xef\xbb\xbfdef test_a(): ...\n"
    found = mark(bom, {("test_a",)}, "slow").data
    assert found == b"\xef\xbb\xbfimport pytest\n\n\n@pytest.mark.slow\ndef test_a(): ...\n"
    ast.parse(found)


def test_tabs_and_a_missing_last_line_end_stay() -> None:
    source = "import pytest\nclass TestA:\n\tdef test_a(self): ..."
    assert (
        marked(source, "TestA::test_a") == "import pytest\nclass TestA:\n\t@pytest.mark.slow\n\tdef test_a(self): ..."
    )


def test_what_has_the_marker_is_left_alone() -> None:
    source = "import pytest\n@pytest.mark.slow\ndef test_a(): ...\n@pytest.mark.slow(reason='x')\ndef test_b(): ...\n"
    assert marked(source, "test_a", "test_b") == source


def test_what_is_defined_elsewhere_is_named() -> None:
    source = b"import pytest\nfrom base import *\ndef test_a(): ...\n"
    found = mark(source, {("test_a",), ("test_b",), ("TestC", "test_c")}, "slow")
    assert found.missed == (("TestC", "test_c"), ("test_b",))
    assert found.data.count(b"@pytest.mark.slow") == 1


@pytest.mark.parametrize("source", [b"def test_a(:\n", b"\xff\xfe", b"# coding: nonsense\n", b"def test_a(): '\x00'"])
def test_a_file_that_is_no_python_stays_as_it_is(source: bytes) -> None:
    found = mark(source, {("test_a",)}, "slow")
    assert found.data == source
    assert found.missed == (("test_a",),)
    assert found.problem is not None
    assert "cannot be read as Python" in found.problem


def test_an_edit_that_would_not_be_right_is_none() -> None:
    source = b"import pytest\nif True: \\\n  pass\nclass TestA: x = 1; \\\n  y = 2\ndef test_a(): ...\n"
    found = mark(source, {("test_a",)}, "slow")
    assert found.problem is None
    pushed = b"import pytest\n@ \\\npytest.fixture\ndef test_a(): ...\n"
    assert mark(pushed, {("test_a",)}, "slow").problem is not None
