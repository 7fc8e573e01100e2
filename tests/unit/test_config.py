"""What a valid ml-tiers.yml means, and that schema, reference page and validator say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from _pytest.mark.expression import Expression
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.mind.config import (
    Benchmark,
    Config,
    Coverage,
    Tier,
    TierCoverage,
    format_duration,
    json_schema,
    parse_config,
    parse_duration,
    reference_markdown,
)
from orchestrator.mind.config.markers import check_markers
from orchestrator.mind.config.model import fields_of
from orchestrator.words.errors import ConfigError

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

SAMPLE = """\
version: 1
source: [src]                    # measured by coverage
defaults: {python: python, env: {OMP_NUM_THREADS: "1"}}
coverage: {minimum: 85, patch: 80, known-gaps: [src/models/cuda_ops.py]}
tiers:
  unit:
    paths: [tests/unit]
    markers: not gpu and not slow
    when: [push, pull_request]
    budget: 2m
    workers: auto
  gpu:
    paths: [tests]
    markers: gpu
    when: [nightly, pre-merge]
    runner: [self-hosted, linux, cuda]
    gpus: 1
    budget: 30m
    queue: 1h
    changes: [src/**, "!docs/**"]
  convergence:
    paths: [tests/integration]
    markers: convergence
    when: [nightly]
    runner: [self-hosted, linux, cuda]
    budget: 30m
    required: false
  speed:
    paths: [tests/benchmarks]
    when: [pull_request]
    budget: 5m
    benchmark: {}
"""


def parse(text: str | bytes) -> Config:
    return parse_config(text, filename="ml-tiers.yml")


def tier(*lines: str) -> Tier:
    return parse("version: 1\ntiers:\n  unit:\n" + "".join(f"    {line}\n" for line in lines)).tiers["unit"]


def agrees_with_schema(text: str) -> bool:
    return VALIDATOR.is_valid(yaml.safe_load(text))


# --- meaning -------------------------------------------------------------------------------------------------------


def test_sample_of_the_design() -> None:
    config = parse(SAMPLE)
    assert list(config.tiers) == ["unit", "gpu", "convergence", "speed"]
    assert config.source == ("src",)
    assert config.coverage == Coverage(minimum=85.0, patch=80.0, known_gaps=("src/models/cuda_ops.py",))
    assert config.tiers["gpu"] == Tier(
        paths=("tests",),
        markers="gpu",
        when=("nightly", "pre-merge"),
        runner=("self-hosted", "linux", "cuda"),
        gpus=1,
        budget=1800.0,
        queue=3600.0,
        changes=("src/**", "!docs/**"),
        env={"OMP_NUM_THREADS": "1"},
    )
    assert config.tiers["convergence"].required is False
    assert config.tiers["speed"].benchmark == Benchmark()
    assert agrees_with_schema(SAMPLE)


def test_defaults_of_a_tier_without_keys() -> None:
    assert tier("{}") == Tier()
    found = Tier()
    assert (found.when, found.budget, found.queue, found.workers) == (("push", "pull_request"), 600.0, 3600.0, "auto")
    assert (found.paths, found.runner, found.required, found.benchmark) == ((), (), True, None)


def test_defaults_reach_every_tier_and_give_way_to_its_own_keys() -> None:
    config = parse(
        "version: 1\n"
        "defaults: {budget: 3m, env: {A: 1, B: x}, when: nightly, coverage: {minimum: 50}}\n"
        "tiers:\n"
        "  one: {}\n"
        "  two: {budget: 1m, env: {B: y, C: z}, coverage: null}\n"
    )
    one, two = config.tiers["one"], config.tiers["two"]
    assert (one.budget, two.budget) == (180.0, 60.0)
    assert one.env == {"A": "1", "B": "x"}
    assert two.env == {"A": "1", "B": "y", "C": "z"}
    assert one.when == two.when == ("nightly",)
    assert (one.coverage, two.coverage) == (TierCoverage(minimum=50.0), None)


def test_anchors_aliases_and_merge_keys() -> None:
    config = parse(
        "version: 1\ntiers:\n"
        "  a: &a {budget: 1m, env: &e {X: 1}, paths: &p [tests/a]}\n"
        "  b: {<<: *a, budget: 2m}\n"
        "  c: {<<: [{workers: 2}, *a], paths: *p, env: {<<: *e, Y: 2}}\n"
        "  d: *a\n"
    )
    assert config.tiers["b"] == msgspec.structs.replace(config.tiers["a"], budget=120.0)
    assert config.tiers["c"].workers == 2
    assert config.tiers["c"].env == {"X": "1", "Y": "2"}
    assert config.tiers["d"] == config.tiers["a"]


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("budget: 90s", "budget", 90.0),
        ("budget: 1h30m", "budget", 5400.0),
        ("budget: 1.5s", "budget", 1.5),
        ("budget: 01m", "budget", 60.0),
        ("when: push", "when", ("push",)),
        ("when: []", "when", ()),
        ("paths: tests/", "paths", ("tests",)),
        ("paths: [./tests//unit, '.']", "paths", ("tests/unit", ".")),
        ("paths: tests/test_a.py::TestA::test_b[x-../y]", "paths", ("tests/test_a.py::TestA::test_b[x-../y]",)),
        ("paths: ./-odd", "paths", ("./-odd",)),
        ("paths: 'with space/тест'", "paths", ("with space/тест",)),
        ("changes: docs/", "changes", ("docs/**",)),
        ("changes: ['!docs/']", "changes", ("!docs/**",)),
        ("changes: ['**/*.py', '!**/gen_*.py']", "changes", ("**/*.py", "!**/gen_*.py")),
        ("markers: on", "markers", "on"),
        ("markers: ''", "markers", ""),
        ("markers: >-\n      not gpu\n      and slow", "markers", "not gpu and slow"),
        ("markers: |\n      device(name='cuda', count=2)", "markers", "device(name='cuda', count=2)"),
        ("runner: gpu-box", "runner", ("gpu-box",)),
        ("runner: [self-hosted, 'my gpu']", "runner", ("self-hosted", "my gpu")),
        ("runner: []", "runner", ()),
        ("gpus: 2", "gpus", 2),
        ("shards: 1", "shards", 1),
        ("shards: 8", "shards", 8),
        ("shards: auto", "shards", "auto"),
        ("workers: 4", "workers", 4),
        ("python: python3.12", "python", "python3.12"),
        ("python: /opt/my env/bin/python", "python", "/opt/my env/bin/python"),
        ("env: {}", "env", {}),
        ("env: {OMP_NUM_THREADS: 1, RATE: 1.50, EMPTY: '', FLAG: 'true', NO: no, OCT: 010, AT: 1:30}", "env", {
            "OMP_NUM_THREADS": "1", "RATE": "1.50", "EMPTY": "", "FLAG": "true", "NO": "no", "OCT": "010", "AT": "1:30"
        }),
        ("args: [-x, -k, 'a and b', --maxfail, 2, --durations=5]", "args", (
            "-x", "-k", "a and b", "--maxfail", "2", "--durations=5"
        )),
        ("args: [-p, no:cacheprovider, -o, xfail_strict=true, --no-header]", "args", (
            "-p", "no:cacheprovider", "-o", "xfail_strict=true", "--no-header"
        )),
        ("required: false", "required", False),
        ("priority: -5", "priority", -5),
        ("benchmark: {}", "benchmark", Benchmark()),
        ("benchmark: null", "benchmark", None),
        ("per-test: ~", "per_test", None),
        ("coverage: {minimum: 90%}", "coverage", TierCoverage(minimum=90.0)),
        ("coverage: {minimum: '0.5 %'}", "coverage", TierCoverage(minimum=0.5)),
    ],
)  # fmt: skip
def test_one_key(line: str, key: str, value: object) -> None:
    assert getattr(tier(line), key) == value


def test_top_level_keys() -> None:
    config = parse(
        "version: 1\nsource: [src, ./lib/]\npre-merge-label: run gpu\ncoverage:\n  patch: 80%\n"
        "  known-gaps: [src/a.py::f, 'src/a.py::C::m', 'src/a.py::C.m']\ntiers: {unit: {}}\n"
    )
    assert config.source == ("src", "lib")
    assert config.pre_merge_label == "run gpu"
    assert config.coverage.known_gaps == ("src/a.py::f", "src/a.py::C.m", "src/a.py::C.m")


def test_needs_in_any_order() -> None:
    config = parse("version: 1\ntiers:\n  c: {needs: [b, a]}\n  b: {needs: a}\n  a: {}\n")
    assert config.tiers["c"].needs == ("b", "a")


def test_bytes_with_a_byte_order_mark_and_windows_line_ends() -> None:
    assert parse(b"\xef\xbb\xbf" + SAMPLE.replace("\n", "\r\n").encode()) == parse(SAMPLE)


# --- the small languages -------------------------------------------------------------------------------------------


@given(st.integers(1, 7 * 24 * 3600 * 1000))
@example(1)
@example(59_999)
@example(3_600_001)
def test_a_written_duration_reads_the_same(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.5, "0.5s"), (90, "1m30s"), (600, "10m"), (5400, "1h30m"), (604_800, "168h")]
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


TOKENS = st.sampled_from(
    [
        "and",
        "or",
        "not",
        "(",
        ")",
        "gpu",
        "a::b[1-x]",
        "slow",
        "=",
        ",",
        "1",
        "-1",
        "True",
        "'x'",
        '"y z"',
        "&",
        "in",
        "'",
    ]
)


@settings(max_examples=1500)
@given(st.lists(TOKENS, min_size=1, max_size=9), st.booleans())
@example(["device", "(", "name", "=", "'cuda'", ",", "n", "=", "2", ")"], True)
@example(["not", "not", "(", "gpu", ")"], True)
@example(["gpu", "(", "in", "=", "1", ")"], True)
@example(["gpu", "(", "and", "=", "1", ")"], True)
@example(["gpu", "(", "a", "=", "or", ")"], True)
@example(["gpu", "(", "a", "=", "1", ",", ")"], True)
@example(["gpu", "(", ")"], True)
def test_marker_expressions_are_accepted_exactly_where_pytest_accepts_them(tokens: list[str], spaced: bool) -> None:
    text = (" " if spaced else "").join(tokens)
    if not text.strip():
        return
    try:
        Expression.compile(text)
        accepted = True
    except SyntaxError:
        accepted = False
    try:
        check_markers(text)
        ours = True
    except ValueError:
        ours = False
    assert ours == accepted, text


# --- schema and reference ------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True).filter(lambda name: name != "history")
DURATIONS = st.builds(format_duration, st.integers(1, 100_000))
PERCENTS = (
    st.integers(0, 100) | st.integers(0, 100).map(lambda n: f"{n}%") | st.floats(1, 100).map(lambda x: round(x, 2))
)
PATHS = st.lists(st.sampled_from(["tests", "tests/unit", "a b", "тест", "x.py::test_y[1]"]), max_size=3)
TIERS = st.fixed_dictionaries(
    {},
    optional={
        "paths": PATHS | st.just("tests"),
        "markers": st.sampled_from(["", "gpu", "not gpu and slow", "(a or b) and not c", "m(x=1, y='z')"]),
        "args": st.lists(st.sampled_from(["-x", "-q", "--maxfail=1", 3]), max_size=3),
        "when": st.lists(st.sampled_from(["push", "nightly", "pre-merge", "release"]), max_size=3) | st.just("push"),
        "changes": st.lists(st.sampled_from(["src/**", "!docs/**", "*.py"]), max_size=3),
        "runner": st.just("gpu") | st.lists(st.sampled_from(["self-hosted", "linux"]), max_size=2),
        "gpus": st.integers(0, 64),
        "budget": DURATIONS,
        "queue": DURATIONS,
        "workers": st.just("auto") | st.integers(1, 1024),
        "env": st.dictionaries(
            st.sampled_from(["A", "OMP_NUM_THREADS", "_x1"]),
            st.integers() | st.sampled_from(["", "a b", "yes"]),
            max_size=2,
        ),
        "python": st.sampled_from(["python", "python3.12", ".venv/bin/python"]),
        "required": st.booleans(),
        "priority": st.integers(-1000, 1000),
        "benchmark": st.none() | st.just({}),
        "coverage": st.none() | st.fixed_dictionaries({}, optional={"minimum": PERCENTS}),
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"version": st.just(1), "tiers": st.dictionaries(NAMES, TIERS, min_size=1, max_size=3)},
    optional={
        "source": st.lists(st.sampled_from(["src", "."]), max_size=2),
        "defaults": TIERS,
        "coverage": st.fixed_dictionaries({}, optional={"minimum": PERCENTS, "patch": PERCENTS}),
        "pre-merge-label": st.sampled_from(["gpu", "run it"]),
    },
)


@settings(max_examples=200)
@given(document=DOCUMENTS, flow=st.booleans(), data=st.data())
def test_every_valid_document_is_read_and_fits_the_schema_and_no_misspelt_key_does(
    document: dict[str, Any], flow: bool, data: st.DataObject
) -> None:
    config = parse(yaml.safe_dump(document, default_flow_style=flow, sort_keys=False, allow_unicode=True))
    assert list(config.tiers) == list(document["tiers"])
    for name, keys in document["tiers"].items():
        for key in ("gpus", "workers", "required", "priority", "markers"):
            if key in keys:
                assert getattr(config.tiers[name], key) == keys[key]
    VALIDATOR.validate(document)

    name = data.draw(st.sampled_from(list(document["tiers"])))
    misspelt = data.draw(st.sampled_from(sorted(fields_of(Tier)))) + "x"
    document["tiers"][name][misspelt] = 1
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(ConfigError, match="unknown key"):
        parse(yaml.safe_dump(document))


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\ntiers: {unit: {}}",
        "tiers: {unit: {}}",
        "version: 1",
        "version: 1\ntiers: {}",
        "version: 1\ntiers: {-x: {}}",
        "version: 1\ntiers: {unit: {budget: 90}}",
        "version: 1\ntiers: {unit: {budget: 2min}}",
        "version: 1\ntiers: {unit: {budget: ''}}",
        "version: 1\ntiers: {unit: {workers: 0}}",
        "version: 1\ntiers: {unit: {when: [pul_request]}}",
        "version: 1\ntiers: {unit: {when: 3}}",
        "version: 1\ntiers: {unit: {env: {A: true}}}",
        "version: 1\ntiers: {unit: {env: {1A: x}}}",
        "version: 1\ntiers: {unit: {python: 3.1}}",
        "version: 1\ntiers: {unit: {python: '3.11'}}",
        "version: 1\ntiers: {unit: {benchmark: {gate: fast}}}",
        "version: 1\ntiers: {unit: {args: -x}}",
        "version: 1\ncoverage: {minimum: 101}\ntiers: {unit: {}}",
        "version: 1\ncoverage: {minimum: 101%}\ntiers: {unit: {}}",
        "version: 1\nsauce: src\ntiers: {unit: {}}",
    ],
)
def test_what_the_schema_refuses_we_refuse(text: str) -> None:
    assert not agrees_with_schema(text)
    with pytest.raises(ConfigError):
        parse(text)


def test_schema_is_a_valid_schema_and_says_defaults_as_one_would_write_them() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    json.dumps(SCHEMA)
    assert SCHEMA["required"] == ["version", "tiers"]
    keys = SCHEMA["$defs"]["Tier"]["properties"]
    assert set(keys) == set(fields_of(Tier))
    for key in keys.values():
        assert key["description"]
        if "default" in key:
            jsonschema.validate(key["default"], {**key, "$defs": SCHEMA["$defs"]})
    assert keys["budget"]["default"] == "10m"
    assert "x-" not in json.dumps(list(keys))


@pytest.mark.parametrize(
    ("file", "made"),
    [
        ("docs/ml-tiers.schema.json", lambda: json.dumps(json_schema(), indent=2) + "\n"),
        ("docs/configuration.md", reference_markdown),
    ],
)
def test_published_files_are_the_generated_ones(file: str, made: Any) -> None:
    assert (ROOT / file).read_text(encoding="utf-8") == made(), f"{file} is out of date: run `make docs`"


def test_examples_of_the_reference_page_are_valid() -> None:
    page = reference_markdown()
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert examples
    for text in examples:
        parse(text)
