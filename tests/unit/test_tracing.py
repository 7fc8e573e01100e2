"""Which of coverage.py's cores is asked for: the quick one where it can do what is wanted, or coverage's own choice."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.mind.tracing import Measuring, core, measuring
from orchestrator.words.plan import PythonFacts

PYTHON = PythonFacts(executable="python", version="3.12.1", pytest="9", xdist="3", cov="7")
PLAIN = Measuring()
BRANCH = Measuring(branch=True)


def chosen(
    version: str,
    asked: Measuring = PLAIN,
    *,
    contexts: bool = False,
    variables: dict[str, str] | None = None,
    args: tuple[str, ...] = (),
) -> str | None:
    python = replace(PYTHON, version=version)
    return core(python, asked, contexts=contexts, variables=variables or {}, args=args)


@pytest.mark.parametrize(
    ("version", "lines", "branches"),
    [
        ("3.10.13", None, None),
        ("3.11.7", None, None),
        ("3.12.1", "sysmon", None),
        ("3.13.0", "sysmon", None),
        ("3.14.0", "sysmon", "sysmon"),
        ("3.15.0a1", "sysmon", "sysmon"),
        ("2.7.18", None, None),
        ("unknown", None, None),
    ],
)
def test_monitoring_is_used_where_this_python_has_it(version: str, lines: str | None, branches: str | None) -> None:
    assert chosen(version) == lines
    assert chosen(version, BRANCH) == branches
    assert chosen(version, args=("--cov-branch",)) == branches


def test_contexts_need_a_tracer_on_every_python() -> None:
    assert chosen("3.14.0", contexts=True) == "ctrace"
    assert chosen("3.14.0", Measuring(tracer=True)) is None
    assert chosen("3.14.0", args=("--cov-context=test",)) is None


def test_what_somebody_chose_is_left_alone() -> None:
    for variables in ({"COVERAGE_CORE": "pytrace"}, {"COVERAGE_RCFILE": "elsewhere.ini"}):
        assert chosen("3.14.0", variables=variables) is None
        assert chosen("3.14.0", variables=variables, contexts=True) is None


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [
        (".coveragerc", "[run]\nbranch = True\n", BRANCH),
        (".coveragerc", "[run]\nbranch = false\nsource = a\n", PLAIN),
        (".coveragerc", "[run]\n# branch = True\n", PLAIN),
        (".coveragerc", "[run]\nplugins =\n    django_coverage_plugin\n", Measuring(tracer=True)),
        ("setup.cfg", "[coverage:run]\nbranch=1\n", BRANCH),
        ("setup.cfg", "[flake8]\nplugins = x\n[coverage:report]\nprecision = 2\n", PLAIN),
        ("tox.ini", "[coverage:run]\ndynamic_context = test_function\n", Measuring(tracer=True)),
        ("pyproject.toml", '[tool.mypy]\nplugins = ["x"]\n[tool.coverage.run]\nsource = ["a"]\n', PLAIN),
        ("pyproject.toml", "[tool.coverage.run]\nbranch = true\n", BRANCH),
        ("pyproject.toml", "[tool.coverage]\nrun = {branch = true}\n", BRANCH),
        ("pyproject.toml", "[tool.coverage]\nrun.branch = true\n", BRANCH),
        ("pyproject.toml", '[tool.coverage.run]\nconcurrency = ["gevent"]\n', Measuring(tracer=True)),
        ("pyproject.toml", '[tool.coverage.run]\ncore = "ctrace"\n', Measuring(tracer=True)),
        ("pytest.ini", "[pytest]\naddopts = -q --cov-branch\n", BRANCH),
        ("pytest.ini", "[pytest]\naddopts = --cov-context=test --cov-config=x.ini\n", Measuring(tracer=True)),
        ("pytest.ini", "[pytest]\naddopts = --cov=mine --cov-report=term\n", PLAIN),
    ],
)
def test_what_a_project_asks_for_is_read_off_its_settings(name: str, text: str, asked: Measuring) -> None:
    assert measuring({name: text}, []) == asked


def test_further_arguments_count_as_well() -> None:
    assert measuring({}, ["-x", "--cov-branch"]) == BRANCH
    assert measuring({}, []) == PLAIN
