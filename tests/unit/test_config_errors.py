"""Broken configurations: each gets its exact messages, at its exact positions, and nothing else; none a traceback.

The table is broken_configs.txt: `=== kind`, the file, then one `>>> line:column: key: sentence` per problem.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.mind.config import Tier, parse_config
from orchestrator.mind.config.model import fields_of
from orchestrator.mind.config.positions import Problems, compose
from orchestrator.words.errors import ConfigError, ExitCode

FILE = "ml-tiers.yml"
TEXT = (Path(__file__).parent / "broken_configs.txt").read_text(encoding="utf-8")


def cases() -> list[tuple[str, str, list[str]]]:
    found = []
    for block in TEXT.removeprefix("=== ").split("\n=== "):
        kind, _, rest = block.partition("\n")
        lines = rest.splitlines(keepends=True)
        source = "".join(line for line in lines if not line.startswith(">>> "))
        found.append((kind, source, [line[4:].rstrip("\n") for line in lines if line.startswith(">>> ")]))
    return found


CASES = cases()


def problems_of(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename=FILE)
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(f"{FILE}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("source", "expected"), [pytest.param(s, e, id=f"{i}-{k}") for i, (k, s, e) in enumerate(CASES)]
)
def test_broken_file(source: str, expected: list[str]) -> None:
    assert expected
    assert problems_of(source) == expected


def test_table_is_as_wide_as_promised() -> None:
    assert len(CASES) >= 60
    assert len({kind for kind, _, _ in CASES}) >= 15


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            "version: 1\ntiers:\n  unité: {}\n".encode("latin-1"), "3:7: the byte 0xe9 is not UTF-8", id="latin-1"
        ),
        pytest.param(b"version: 1\r\n\xef\xbb\xbf\xff", "2:2: the byte 0xff is not UTF-8", id="after CRLF"),
        pytest.param("version: 1\n".encode("utf-16"), "1:1: the file is encoded in UTF-16", id="utf-16"),
        pytest.param(b"version: 1\ntiers: {a\x00: {}}\n", "2:10: the control character U+0000", id="NUL"),
        pytest.param(
            "a: 1\r\nb: 2\rc: \x1b[31m\r\n", "3:4: the control character U+001B", id="escape, mixed line ends"
        ),
        pytest.param("a: \ud800\n", "1:4: the control character U+D800", id="lone surrogate"),
        pytest.param("a: b\ufeff\n", "1:5: the control character U+FEFF", id="byte order mark inside"),
        pytest.param("#" * 5_000_000, "1:1: the file has 5.0 MB; at most 1 MB is read", id="5 MB"),
        pytest.param("a: [" + "b, " * 20_000 + "]", "1:29996: more than 10000 values", id="many values"),
        pytest.param("[" * 900, "1:33: nested deeper than 32 levels", id="deep lists"),
        pytest.param("{a: " * 10_000, "1:129: nested deeper than 32 levels", id="deep mappings"),
        pytest.param("- " * 10_000, "1:65: nested deeper than 32 levels", id="deep blocks"),
        pytest.param("".join(" " * n + "a:\n" for n in range(900)), "33:33: nested deeper", id="deep indentation"),
        pytest.param("? " * 10_000, "1:3: a key must be one word", id="deep keys"),
    ],
)
def test_hostile_file(source: str | bytes, expected: str) -> None:
    (problem,) = problems_of(source)
    assert problem.startswith(expected)


def test_nested_so_deep_that_libyaml_gives_up() -> None:
    (problem,) = problems_of("[" * 10_000)
    assert problem.endswith(": nested deeper than 32 levels")  # from PyYAML 6.0.4 on it is libyaml that counts


def test_byte_order_mark_and_windows_line_ends_move_no_position() -> None:
    (problem,) = problems_of(b"\xef\xbb\xbfversion: 1\r\ntiers:\r\n  unit:\r\n    budjet: 2m\r\n")
    assert problem == "4:5: tiers.unit.budjet: unknown key. Did you mean 'budget'?"


def test_columns_count_characters() -> None:
    line = 'tiers: {unit: {env: {A: "ééé😀"}, budjet: 2m}}'
    (problem,) = problems_of(f"version: 1\n{line}\n")
    assert problem == f"2:{line.index('budjet') + 1}: tiers.unit.budjet: unknown key. Did you mean 'budget'?"


@pytest.mark.parametrize(
    "source",
    ["a: *{}", "a: &{} [*{}]", "a: !{} b", "a: !!{} b", "{}: 1", "version: 2{}", "version: {}", "a: {{{}: {}: 1}}"],
)
def test_endless_names_make_no_endless_message(source: str) -> None:
    for problem in problems_of(source.replace("{}", "9" * 20_000)):
        assert len(problem) < 1_000


def test_thousands_of_mistakes_are_quickly_told_and_not_all_shown() -> None:
    source = "version: 1\ntiers: {unit: {}}\n" + "".join(f"budgetttt{n}: 1\n" for n in range(4_000))
    started = time.process_time()
    shown = problems_of(source)
    assert time.process_time() - started < 5
    assert len(shown) == 101
    assert shown[-1] == " and 3900 more problems"


def test_defaults_of_thousands_of_tiers_cost_no_time() -> None:
    env = ", ".join(f"A{n}: x" for n in range(2_000))
    tiers = "".join(f"  t{n}: {{}}\n" for n in range(1_000))
    started = time.process_time()
    (problem,) = problems_of(f"version: 1\ndefaults: {{env: {{{env}}}}}\ntiers:\n{tiers}")
    assert problem == "2:1: defaults: written out in every tier these are more than 10000 values"
    assert time.process_time() - started < 5


@pytest.mark.parametrize("levels", [8, 25])
def test_alias_bomb_costs_no_time(levels: int) -> None:
    lines = ["version: 1", "a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, levels)]
    started = time.process_time()
    shown = problems_of("\n".join(lines))
    assert time.process_time() - started < 5
    assert any("with every alias written out" in line for line in shown) or levels == 8


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader], ids=["pure", "libyaml"])
@pytest.mark.parametrize("source", [pytest.param(s, id=str(i)) for i, (_, s, _) in enumerate(CASES)])
def test_both_yaml_parsers_see_a_problem_or_a_tree(loader: type, source: str) -> None:
    problems = Problems()
    other = Problems()
    found = compose(source, problems, loader=loader)
    assert (found is None) <= (len(problems) > 0)
    assert (compose(source, other) is None) == (found is None)
    if found is not None:
        assert list(problems) == list(other)


PLAIN_WORDS = """version tiers unit gpu defaults env budget when needs paths markers 1 2m auto true null [ ] { } : , -
    & * ! <<: &a *a ? | > ' " # @ % --- ... é 1:30 .nan ~ !!str !x ${{ unit: version: tiers:"""
WORDS = st.sampled_from([*PLAIN_WORDS.split(), "", "\t", "\n", "\n  ", "\n    ", "\r\n", "\x00", "\u2028", "\x85"])


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200), st.lists(WORDS, max_size=40).map(" ".join)))
def test_no_text_does_anything_but_parse_or_fail_politely(source: str | bytes) -> None:
    try:
        parse_config(source, filename=FILE)
    except ConfigError as error:
        for problem in error.problems:
            assert problem.startswith(f"{FILE}:")
            assert "\n" not in problem
            assert len(problem) < 1_000


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5) | WORDS, inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(fields_of(Tier)))


@settings(max_examples=300)
@given(
    tiers=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.dictionaries(KEYS, VALUES, max_size=4), max_size=3),
    defaults=st.dictionaries(KEYS, VALUES, max_size=3),
    flow=st.booleans(),
)
def test_no_value_of_any_key_does_anything_but_parse_or_fail_politely(
    tiers: dict[str, object], defaults: dict[str, object], flow: bool
) -> None:
    source = yaml.safe_dump({"version": 1, "defaults": defaults, "tiers": tiers}, default_flow_style=flow)
    try:
        parse_config(source, filename=FILE)
    except ConfigError as error:
        lines = source.count("\n") + 1
        for problem in error.problems:
            line, column = problem.split(":")[1:3]
            assert 1 <= int(line) <= lines
            assert int(column) >= 1


VALID = """\
version: 1
defaults: {env: {A: 1}}
tiers:
  unit: &u
    paths: [tests/unit]
    markers: not gpu and (a or b)
    budget: 2m
  gpu:
    <<: *u
    needs: unit
    changes: [src/**, "!docs/**"]
    runner: [a, b]
"""


@settings(max_examples=300)
@given(st.integers(0, len(VALID) - 1), st.integers(0, 12), st.text(max_size=3) | WORDS)
def test_no_edit_of_a_valid_file_does_anything_but_parse_or_fail_politely(at: int, removed: int, added: str) -> None:
    with suppress(ConfigError):
        parse_config(VALID[:at] + added + VALID[at + removed :], filename=FILE)
