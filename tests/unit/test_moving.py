"""The edits of ml-tiers.yml and of pytest's configuration that moved tests need, and their diff."""

from __future__ import annotations

import configparser
import sys

import pytest

from orchestrator.mind.advice import Destination
from orchestrator.mind.config import parse_config
from orchestrator.mind.moving import EditError, add_tier, register, unified_diff

PLACE = Destination(
    tier="slow", marker="slow", new=True, own_markers="not slow", markers="slow", budget=600.0
)  # fmt: skip
KNOWN = Destination(tier="slow", marker="slow", new=True, own_markers=None, markers="slow and not gpu", budget=300.0)

BLOCK = """\
version: 1  # of the format
tiers:
  # the fast ones
  unit:
    paths: [tests]
    budget: 2m # a promise

# the end
"""
BLOCK_AFTER = """\
version: 1  # of the format
tiers:
  # the fast ones
  unit:
    markers: not slow
    paths: [tests]
    budget: 2m # a promise
  slow:
    paths: [tests]
    markers: slow
    when: [nightly]
    budget: 10m

# the end
"""


def edited(text: str, place: Destination = PLACE) -> str:
    return add_tier(text, parse_config(text, filename=""), tier="unit", place=place)


def test_a_tier_is_added_after_the_last_and_the_other_leaves_the_marker_out() -> None:
    assert edited(BLOCK) == BLOCK_AFTER


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (
            "version: 1\ntiers:\n  unit: {paths: [tests], budget: 2m}\n",
            "version: 1\ntiers:\n  unit: {markers: not slow, paths: [tests], budget: 2m}\n"
            "  slow:\n    paths: [tests]\n    markers: slow\n    when: [nightly]\n    budget: 10m\n",
        ),
        (
            "version: 1\ntiers: {unit: {markers: 'not x', budget: 2m}}\n",
            "version: 1\ntiers: {unit: {markers: not slow, budget: 2m}, "
            "slow: {markers: slow, when: [nightly], budget: 10m}}\n",
        ),
        (
            "version: 1\ntiers:\n  unit: {}",
            "version: 1\ntiers:\n  unit: {markers: not slow}\n"
            "  slow:\n    markers: slow\n    when: [nightly]\n    budget: 10m\n",
        ),
        (
            "tiers:\r\n    unit:\r\n        budget: 2m\r\nversion: 1\r\n",
            "tiers:\r\n    unit:\r\n        markers: not slow\r\n        budget: 2m\r\n"
            "    slow:\r\n      markers: slow\r\n      when: [nightly]\r\n      budget: 10m\r\nversion: 1\r\n",
        ),
    ],
)
def test_in_every_style_of_writing(text: str, after: str) -> None:
    assert edited(text) == after


def test_where_the_marker_is_left_out_already_only_the_tier_is_added() -> None:
    text = "version: 1\ntiers:\n  unit:\n    markers: not slow and not gpu\n"
    assert edited(text, KNOWN) == (
        text + "  slow:\n    markers: slow and not gpu\n    when: [nightly]\n    budget: 5m\n"
    )


def test_what_the_tier_gets_from_the_defaults_stays_there() -> None:
    text = "version: 1\ndefaults: {markers: not gpu}\ntiers:\n  unit:\n    budget: 2m\n"
    place = Destination(
        tier="slow", marker="slow", new=True, own_markers="not gpu and not slow", markers="not gpu and slow", budget=60
    )
    after = parse_config(edited(text, place), filename="")
    assert after.defaults.markers == "not gpu"
    assert after.tiers["unit"].markers == "not gpu and not slow"
    assert after.tiers["slow"].markers == "not gpu and slow"


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\ntiers:\n  unit: &a {budget: 2m}\n  other: *a\n",  # both would change
        "version: 1\ntiers:\n  unit:\n    markers: >\n      not gpu\n",
    ],
)
def test_what_cannot_be_edited_is_said_in_words(text: str) -> None:
    with pytest.raises(EditError) as caught:
        edited(text)
    assert str(caught.value) == (
        "add the tier `slow: {markers: slow, when: [nightly], budget: 10m}`, and give `unit` markers: not slow"
    )


# --- pytest's configuration ------------------------------------------------------------------------------------------

TOML = [
    ('[tool.pytest.ini_options]\nmarkers = ["gpu: x"]\n', 'markers = ["slow: takes long", "gpu: x"]\n'),
    ("[tool.pytest.ini_options]\nmarkers = []\n", 'markers = ["slow: takes long"]\n'),
    (
        '[tool.pytest.ini_options]\nmarkers = [ # ours\n    "gpu: x"\n]\n',
        'markers = [ # ours\n    "slow: takes long",\n    "gpu: x"\n]\n',
    ),
    (
        '[tool.pytest.ini_options]\ntestpaths = ["t"]\n\n[tool.x]\nmarkers = [1]\n',
        'markers = ["slow: takes long"]\ntestpaths = ["t"]\n\n[tool.x]\nmarkers = [1]\n',
    ),
]


@pytest.mark.parametrize(("text", "after"), TOML)
def test_a_marker_is_registered_in_toml(text: str, after: str) -> None:
    found = register(f"[a]\nb = 1\n{text}", file="pyproject.toml", marker="slow", meaning="takes long")
    assert found == f"[a]\nb = 1\n[tool.pytest.ini_options]\n{after}"


@pytest.mark.parametrize(
    ("file", "text", "after"),
    [
        ("pytest.ini", "[pytest]\naddopts = -q\n", "[pytest]\nmarkers =\n    slow: takes long\naddopts = -q\n"),
        (
            "pytest.ini",
            "[pytest]\nmarkers =\n  gpu: x\naddopts = -q\n",
            "[pytest]\nmarkers =\n  slow: takes long\n  gpu: x\naddopts = -q\n",
        ),
        ("tox.ini", "[tox]\n[pytest]\nmarkers = gpu: x", "[tox]\n[pytest]\nmarkers = gpu: x\n    slow: takes long\n"),
        (
            "setup.cfg",
            "[metadata]\nname = x\n[tool:pytest]\n\n[b]\nmarkers = 1\n",
            "[metadata]\nname = x\n[tool:pytest]\nmarkers =\n    slow: takes long\n\n[b]\nmarkers = 1\n",
        ),
    ],
)
def test_a_marker_is_registered_in_ini_files(file: str, text: str, after: str) -> None:
    assert register(text, file=file, marker="slow", meaning="takes long") == after
    parser = configparser.ConfigParser()
    parser.read_string(after)


@pytest.mark.parametrize(
    "text",
    [
        "[a]\n",
        pytest.param(
            "[tool.pytest.ini_options]\nmarkers.a = 1\n",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib reads it back"),
        ),
    ],
)
def test_where_it_cannot_be_registered_that_is_said(text: str) -> None:
    with pytest.raises(EditError, match=r"register the marker in pyproject\.toml: slow: takes long"):
        register(text, file="pyproject.toml", marker="slow", meaning="takes long")


def test_nothing_changed_is_no_diff() -> None:
    assert unified_diff("a.py", b"x\n", b"x\n") == b""


def test_a_diff_reads_as_gits() -> None:
    assert unified_diff("a b.py", b"1\n2", b"1\n3") == (
        b"diff --git a/a b.py b/a b.py\n--- a/a b.py\t\n+++ b/a b.py\t\n"
        b"@@ -1,2 +1,2 @@\n 1\n-2\n\\ No newline at end of file\n+3\n\\ No newline at end of file\n"
    )
