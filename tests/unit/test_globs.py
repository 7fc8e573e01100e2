"""The globs of `changes` follow GitHub's `paths:`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mind.globs import any_match, compile_glob, matches


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*", "a.py", True),
        ("*", "src/a.py", False),
        ("*.js", "app.js", True),
        ("**", "src/a/b.py", True),
        ("**.js", "js/index.js", True),
        ("docs/*", "docs/a.md", True),
        ("docs/*", "docs/a/b.md", False),
        ("docs/**", "docs/a/b.md", True),
        ("docs/**/*.md", "docs/README.md", True),
        ("docs/**/*.md", "docs/a/b/c.md", True),
        ("**/docs/**", "docs/hello.md", True),
        ("**/docs/**", "dir/docs/my.txt", True),
        ("**/README.md", "js/README.md", True),
        ("**/README.md", "README.md", True),
        ("src/", "src/a/b.py", True),
        ("src/**", "srcs/a.py", False),
        ("a?.py", "ab.py", True),
        ("a?.py", "a/.py", False),
        ("[abc].py", "b.py", True),
        ("[!abc].py", "b.py", False),
        ("a.py", "aXpy", False),
        ("a+(b).py", "a+(b).py", True),
        ("[", "[", True),
        ("x\ny", "x\ny", True),
    ],
)
def test_one_pattern(pattern: str, path: str, expected: bool) -> None:
    assert matches(path, [pattern]) is expected


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["src/**", "!docs/**"], "src/a.py", True),
        (["src/**", "!src/gen/**"], "src/gen/a.py", False),
        (["src/**", "!src/gen/**", "src/gen/keep.py"], "src/gen/keep.py", True),
        (["!docs/**"], "src/a.py", True),
        (["!docs/**"], "docs/a.md", False),
        (["!docs/**", "src/**"], "tests/a.py", False),
        ([], "anything", True),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], path: str, expected: bool) -> None:
    assert matches(path, patterns) is expected


def test_any_match_names_the_file() -> None:
    assert any_match(["a.md", "src/b.py", "src/c.py"], ["src/**"]) == "src/b.py"
    assert any_match(["a.md"], ["src/**"]) is None


@given(st.text(max_size=20))
def test_no_pattern_is_an_error(pattern: str) -> None:
    compile_glob(pattern)


@given(st.text(alphabet="abc/._-", min_size=1, max_size=20))
def test_a_plain_path_matches_itself(path: str) -> None:
    if not path.endswith("/"):
        assert matches(path, [path])
