"""`mltiers run` on real projects: what comes out, with which verdict and exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from tests.support.project import CHECKOUT, Project

CONFIG = """
version: 1
source: [src]
tiers:
  unit:
    paths: [tests]
    when: [push, pull_request]
    budget: 60s
    workers: {workers}
"""
GREEN = {
    "src/calc.py": "def add(a, b):\n    return a + b\n\n\ndef never(a):\n    return -a\n",
    "tests/test_calc.py": (
        "import pytest\nfrom src.calc import add\n\n"
        "@pytest.mark.parametrize('n', range(6))\ndef test_add(n):\n    assert add(n, 1) == n + 1\n\n"
        "@pytest.mark.skip(reason='no GPU here')\ndef test_gpu():\n    pass\n\n"
        "@pytest.mark.xfail\ndef test_known():\n    assert False\n"
    ),
    "ml-tiers.yml": CONFIG.format(workers=1),
}
Make = Callable[..., Project]


def schema(name: str) -> dict[str, object]:
    return json.loads((CHECKOUT / "docs" / "schemas" / f"{name}.schema.json").read_text())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_green_run(project: Make, workers: int) -> None:
    done = project({**GREEN, "ml-tiers.yml": CONFIG.format(workers=workers)}).mltiers("run", "--event", "push")
    assert done.code == 0, done.err
    assert done.verdict["verdict"] == "passed"
    counts = done.verdict["tiers"]["unit"]["counts"]
    assert (counts["total"], counts["passed"], counts["skipped"], counts["xfailed"]) == (8, 6, 1, 1)
    result = done.document("unit/result.json")
    first = next(t for t in result["tests"] if t["node_id"] == "tests/test_calc.py::test_add[0]")
    assert first["outcome"] == "passed"
    assert first["worker"] in ({"main"} if workers == 1 else {"gw0", "gw1"})
    assert result["coverage"]["covered"] == 3
    assert result["coverage"]["statements"] == 4
    for name in ("junit.xml", "events.jsonl", "coverage.json", ".coverage", "result.json"):
        assert (done.folder / ".mltiers/unit" / name).stat().st_size > 0, name
    assert "unit" in done.out
    assert "report.html" in done.out


def test_the_documents_keep_their_schemas(project: Make) -> None:
    failing = {**GREEN, "tests/test_bad.py": "def test_bad():\n    assert 1 == 2\n"}
    done = project(failing).mltiers("run", "--event", "push", "--json")
    assert done.code == 1
    jsonschema.validate(json.loads(done.out), schema("verdict"))
    jsonschema.validate(done.verdict, schema("verdict"))
    jsonschema.validate(done.document("plan.json"), schema("plan"))
    jsonschema.validate(done.document("unit/result.json"), schema("result"))


def test_a_failing_test_is_named_with_its_line(project: Make) -> None:
    done = project({**GREEN, "tests/test_bad.py": "def test_bad():\n    x = 1\n    assert x == 2\n"}).mltiers("run")
    assert done.code == 1
    assert done.verdict["verdict"] == "failed"
    bad = next(t for t in done.document("unit/result.json")["tests"] if t["outcome"] == "failed")
    assert (bad["node_id"], bad["file"], bad["line"]) == ("tests/test_bad.py::test_bad", "tests/test_bad.py", 3)
    assert "assert 1 == 2" in bad["message"]
    assert "test_bad" in done.out


WRONG = {
    "a file that cannot be imported": ({"tests/test_b.py": "import nothing_like_it\n"}, 1, "failed"),
    "a syntax error": ({"tests/test_b.py": "def test_(:\n"}, 1, "failed"),
    "a failing fixture": (
        {"tests/test_b.py": "import pytest\n@pytest.fixture\ndef f(): 1/0\ndef test_f(f): pass\n"},
        1,
        "failed",
    ),
    "a failing teardown": (
        {"tests/test_b.py": "import pytest\n@pytest.fixture\ndef f():\n  yield\n  1/0\ndef test_f(f): pass\n"},
        1,
        "failed",
    ),
    "a broken conftest": ({"tests/conftest.py": "1/0\n"}, 3, "infrastructure"),
    "no test at all": ({"tests/test_calc.py": ""}, 3, "infrastructure"),
    "everything skipped": (
        {"tests/test_calc.py": "import pytest\n@pytest.mark.skip\ndef test_a(): pass\n"},
        3,
        "infrastructure",
    ),
    "os._exit(0) in a test": ({"tests/test_b.py": "import os\ndef test_x(): os._exit(0)\n"}, 3, "infrastructure"),
    "os.kill in a test": (
        {"tests/test_b.py": "import os\ndef test_x(): os.kill(os.getpid(), 9)\n"},
        3,
        "infrastructure",
    ),
    "pytest.exit(returncode=0)": (
        {"tests/test_b.py": "import pytest\ndef test_x(): pytest.exit('done', returncode=0)\n"},
        3,
        "infrastructure",
    ),
    "the exit code is overwritten": (
        {"tests/conftest.py": "def pytest_sessionfinish(session): session.exitstatus = 7\n"},
        3,
        "infrastructure",
    ),
    "a failure whose exit code is overwritten": (
        {
            "tests/conftest.py": "def pytest_sessionfinish(session): session.exitstatus = 0\n",
            "tests/test_b.py": "def test_x(): assert 0\n",
        },
        1,
        "failed",
    ),
    "the report is deleted": (
        {
            "tests/conftest.py": (
                "import atexit, glob, os\n"
                "atexit.register(lambda: [os.remove(f) for f in glob.glob('.mltiers/unit/junit.xml')])\n"
            )
        },
        3,
        "infrastructure",
    ),
    "a folder that is not there": ({"ml-tiers.yml": CONFIG.format(workers=1).replace("[tests]", "[nope]")}, 3,
                                   "infrastructure"),
    "a strict xpass": (
        {"tests/test_b.py": "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_x(): pass\n"},
        1,
        "failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_green_by_absence(project: Make, case: str) -> None:
    files, code, verdict = WRONG[case]
    done = project({**GREEN, **files}).mltiers("run", "--event", "push")
    assert (done.verdict["verdict"], done.code) == (verdict, code), done.verdict["tiers"]["unit"]["reasons"]
    assert done.verdict["tiers"]["unit"]["reasons"]


def test_yesterdays_report_is_not_todays_evidence(project: Make) -> None:
    subject = project(GREEN)
    assert subject.mltiers("run").code == 0
    subject.write({"tests/conftest.py": "import os\nos._exit(0)\n"})
    assert subject.mltiers("run").verdict["verdict"] == "infrastructure"


def test_a_tier_over_its_budget_is_stopped_and_named(project: Make) -> None:
    files = {
        **GREEN,
        "ml-tiers.yml": CONFIG.format(workers=1).replace("60s", "3s"),
        "tests/test_hang.py": "import time\ndef test_hang(): time.sleep(60)\n",
    }
    done = project(files).mltiers("run")
    tier = done.verdict["tiers"]["unit"]
    assert (tier["verdict"], done.code) == ("over-budget", 1)
    assert tier["seconds"] < 6
    assert tier["counts"]["passed"] == 6
    assert tier["counts"]["unfinished"] == 1
    assert "tests/test_hang.py::test_hang" in "\n".join(tier["reasons"])
    report = (done.folder / ".mltiers/unit/junit.xml").read_text()
    assert report.count("<testcase") == 9


def test_the_coverage_of_a_stopped_run_is_kept(project: Make) -> None:
    files = {
        **GREEN,
        "ml-tiers.yml": CONFIG.format(workers=2).replace("60s", "9s"),
        "tests/test_hang.py": "import time\ndef test_hang(): time.sleep(60)\n",
    }
    done = project(files).mltiers("run")
    tier = done.verdict["tiers"]["unit"]
    assert tier["verdict"] == "over-budget"
    assert tier["coverage"]["covered"] == 3
    assert any(note.startswith("coverage was measured up to") for note in tier["notes"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_test_over_its_own_limit_fails_by_name_and_the_rest_goes_on(project: Make, workers: int) -> None:
    files = {
        **GREEN,
        "ml-tiers.yml": CONFIG.format(workers=workers) + "    per-test: 1s\n",
        "tests/test_a_hang.py": "import time\ndef test_hang(): time.sleep(60)\n",
    }
    done = project(files).mltiers("run")
    tier = done.verdict["tiers"]["unit"]
    assert (tier["verdict"], tier["counts"]["failed"], tier["counts"]["passed"]) == ("failed", 1, 6)
    assert "tests/test_a_hang.py::test_hang" in "\n".join(tier["reasons"])


def test_tests_get_no_token_and_no_way_back_to_the_runner(project: Make, tmp_path: Path) -> None:
    spy = (
        "import os\n"
        "def test_spy():\n"
        "    assert [n for n in os.environ if 'TOKEN' in n or n in ('GITHUB_ENV', 'GITHUB_OUTPUT', 'GITHUB_PATH',"
        " 'GITHUB_STEP_SUMMARY')] == []\n"
        "    pid, seen = os.getppid(), 0\n"
        "    while pid > 1 and b'orchestrator' in open(f'/proc/{pid}/cmdline', 'rb').read():\n"
        "        assert 's3cret' not in open(f'/proc/{pid}/environ').read()\n"
        "        pid, seen = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1]), seen + 1\n"
        "    assert seen == 3  # the supervisor, the process that it was forked from, and the orchestrator\n"
    )
    done = project({**GREEN, "tests/test_spy.py": spy}).mltiers(
        "run", GITHUB_TOKEN="s3cret", GITHUB_ENV=str(tmp_path / "env"), ACTIONS_RUNTIME_TOKEN="s3cret",
        GITHUB_OUTPUT=str(tmp_path / "out"), GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
    )  # fmt: skip
    assert done.code == 0, done.out
    assert "verdict<<" in (tmp_path / "out").read_text()
    assert "| `unit` |" in (tmp_path / "summary").read_text()
    assert not (tmp_path / "env").exists()


def test_the_plugin_is_the_only_thing_we_add_to_the_import_path(project: Make) -> None:
    spy = (
        "import importlib.util, pytest\n"
        "@pytest.mark.parametrize('name', ['orchestrator', 'msgspec', 'tests.integration', 'plugin'])\n"
        "def test_absent(name):\n"
        "    try:\n"
        "        found = importlib.util.find_spec(name)\n"
        "    except ModuleNotFoundError:\n"
        "        found = None\n"
        "    assert found is None\n"
        "def test_present():\n"
        "    assert importlib.util.find_spec('pytest_mltiers')\n"
    )
    subject = project({**GREEN, "tests/test_spy.py": spy})
    python = bare_python(subject.root.parent / "user env")
    done = subject.mltiers("run", "--python", str(python))
    assert done.code == 0, done.out + done.err
    notes = done.verdict["tiers"]["unit"]["notes"]
    assert "coverage is unknown: pytest-cov is not installed" in notes


def bare_python(folder: Path) -> Path:
    """A Python that has pytest and nothing else: pytest's own files, linked, without its plugins."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    source = Path(pytest.__file__).parent.parent
    for name in ("pytest", "_pytest", "py.py", "pluggy", "iniconfig", "packaging", "pygments"):
        (site / name).symlink_to(source / name)
    for dist in source.glob("*.dist-info"):
        if dist.name.split("-")[0] in ("pytest", "pluggy", "iniconfig", "packaging"):
            (site / dist.name).symlink_to(dist)
    return folder / "bin" / "python"


def test_without_xdist_it_runs_serially_and_a_threshold_without_coverage_fails(project: Make) -> None:
    config = CONFIG.format(workers=2) + "coverage: {minimum: 10}\n"
    subject = project({**GREEN, "ml-tiers.yml": config})
    done = subject.mltiers("run", "--python", str(bare_python(subject.root.parent / "env")))
    assert (done.verdict["verdict"], done.code) == ("failed", 1)
    assert "coverage is unknown (unit: pytest-cov is not installed)" in done.verdict["reasons"][0]
    assert "runs serially: pytest-xdist is not installed" in done.verdict["tiers"]["unit"]["notes"]


def test_a_python_without_pytest_is_told_how_to_get_it(project: Make, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    done = project(GREEN).mltiers("run", "--python", str(tmp_path / "empty/bin/python"))
    assert done.code == 2
    assert "-m pip install pytest" in done.err


def test_coverage_thresholds(project: Make) -> None:
    subject = project({**GREEN, "ml-tiers.yml": CONFIG.format(workers=1) + "coverage: {minimum: 90}\n"})
    done = subject.mltiers("run")
    assert (done.verdict["verdict"], done.code) == ("failed", 1)
    assert "coverage is 75.0%, below the minimum of 90%" in done.verdict["reasons"][0]


@pytest.mark.parametrize("shallow", [False, True], ids=["another trunk", "shallow"])
def test_changes_that_nobody_knows_are_not_taken_for_none(project: Make, tmp_path: Path, shallow: bool) -> None:
    subject = project({"a.py": "", "ml-tiers.yml": "version: 1\ntiers:\n  unit: {changes: [src/**]}\n"})
    subject.commit()
    subject.git("branch", "-m", "develop")
    alone = json.loads(subject.mltiers("plan", "--json").out)["tiers"]["unit"]
    assert (alone["run"], alone["reason"]) == (False, "no changed file matches src/**")

    subject.git("checkout", "-q", "-b", "topic")
    subject.write({"src/b.py": ""})
    subject.commit()
    if shallow:
        subject.git("checkout", "-q", "develop")
        subject.git("clone", "-q", "--depth=1", "-b", "topic", subject.root.as_uri(), str(tmp_path / "shallow"))
        subject = Project(tmp_path / "shallow", {})
    planned = json.loads(subject.mltiers("plan", "--json").out)["tiers"]["unit"]
    assert planned["run"], planned["reason"]
    assert planned["reason"].startswith("changed files are unknown (no main or master here")


def test_coverage_of_the_change(project: Make) -> None:
    subject = project({**GREEN, "ml-tiers.yml": CONFIG.format(workers=1) + "coverage: {patch: 80}\n"})
    subject.commit()
    subject.git("checkout", "-q", "-b", "topic")
    subject.write({"src/calc.py": GREEN["src/calc.py"] + "\n\ndef new(a):\n    return a\n"})
    subject.commit()
    done = subject.mltiers("run")
    assert done.code == 1
    assert done.verdict["patch_coverage"]["uncovered"] == {"src/calc.py": [10]}
    assert "50.0%" in done.verdict["reasons"][0]


def test_a_tiers_own_coverage_of_the_change_keeps_those_back_that_need_it(project: Make) -> None:
    own = "    coverage: {patch: 80, known-gaps: ['src/calc.py::gone']}\n  next: {paths: [tests], needs: [unit]}\n"
    subject = project({**GREEN, "ml-tiers.yml": CONFIG.format(workers=1) + own})
    subject.commit()
    subject.git("checkout", "-q", "-b", "topic")
    subject.write({"src/calc.py": GREEN["src/calc.py"] + "\n\ndef new(a):\n    return a\n"})
    subject.commit()
    done = subject.mltiers("run")
    tiers = done.verdict["tiers"]
    assert tiers["unit"]["reasons"] == ["coverage of the change by this tier is 50.0%, below 80%"], done.err
    assert tiers["unit"]["patch_coverage"]["uncovered"] == {"src/calc.py": [10]}
    assert [(gap["name"], gap["found"]) for gap in tiers["unit"]["known_gaps"]] == [("src/calc.py::gone", False)]
    assert (tiers["next"]["verdict"], done.code) == ("not-run", 1)
    assert done.verdict["coverage_note"] == "next: it was not run"


def test_tiers_that_need_others(project: Make) -> None:
    config = (
        "version: 1\ntiers:\n"
        "  first: {paths: [tests/first], budget: 60s}\n"
        "  second: {paths: [tests/second], needs: [first], budget: 60s}\n"
    )
    files = {"tests/second/test_s.py": "def test_s(): pass\n", "ml-tiers.yml": config}
    passing = project({**files, "tests/first/test_f.py": "def test_f(): pass\n"}, folder="one").mltiers("run")
    assert [t["verdict"] for t in passing.verdict["tiers"].values()] == ["passed", "passed"]
    failing = project({**files, "tests/first/test_f.py": "def test_f(): assert 0\n"}, folder="two").mltiers("run")
    assert [t["verdict"] for t in failing.verdict["tiers"].values()] == ["failed", "not-run"]
    assert failing.verdict["tiers"]["second"]["reasons"] == ["needs first, which did not pass"]


def test_benchmarks_run_without_xdist_and_are_read(project: Make) -> None:
    config = "version: 1\ntiers:\n  speed: {paths: [tests], workers: 2, budget: 60s, when: [push], benchmark: {}}\n"
    speed = "def test_speed(benchmark):\n    benchmark.pedantic(sum, args=([1, 2],), rounds=3)\n"
    done = project({"tests/test_speed.py": speed, "ml-tiers.yml": config}).mltiers("run", "--event", "push")
    assert done.code == 0, done.err
    (benchmark,) = done.document("speed/result.json")["benchmarks"]
    assert benchmark["name"] == "tests/test_speed.py::test_speed"
    assert benchmark["rounds"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cancelled_in_the_middle_says_what_is_known(project: Make, number: signal.Signals) -> None:
    hang = "import os, time\ndef test_hang():\n    open('running', 'w').close()\n    time.sleep(60)\n"
    subject = project({**GREEN, "tests/test_hang.py": hang})
    process = subprocess.Popen(
        subject.command("run"), cwd=subject.root, env=subject.environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for(subject.root / "running", process)
    process.send_signal(number)
    process.communicate(timeout=7)
    assert process.returncode == 130
    verdict = json.loads((subject.root / ".mltiers/verdict.json").read_text())
    assert verdict["verdict"] == "cancelled"
    assert verdict["tiers"]["unit"]["counts"]["passed"] == 6
    assert "tests/test_hang.py::test_hang" in "\n".join(verdict["tiers"]["unit"]["reasons"])
    assert (subject.root / ".mltiers/report.html").exists()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the path exists, for as long as the process that makes it lives."""
    import time

    while not path.exists():
        assert process.poll() is None, "it ended first"
        time.sleep(0.05)


def test_json_is_one_document_on_standard_output(project: Make) -> None:
    done = project(GREEN).mltiers("run", "--json")
    assert json.loads(done.out)["verdict"] == "passed"


def test_plan_runs_nothing(project: Make) -> None:
    subject = project({**GREEN, "tests/conftest.py": "open('touched', 'w').close()\n"})
    done = subject.mltiers("plan", "--json", "--event", "push")
    assert done.code == 0
    document = json.loads(done.out)
    jsonschema.validate(document, schema("plan"))
    assert document["tiers"]["unit"]["run"] is True
    table = subject.mltiers("plan")
    assert "unit" in table.out
    assert "-m pytest" in table.out
    assert not (subject.root / "touched").exists()

    command = next(line for line in table.out.splitlines() if "-m pytest" in line)
    subprocess.run(["bash", "-c", command], cwd=subject.root, env=subject.environment(), check=True)
    assert (subject.root / ".mltiers/unit/junit.xml").exists()


USAGE = {
    "no configuration": ({"ml-tiers.yml": None}, ["run"], "there is no such file"),
    "a broken configuration": ({"ml-tiers.yml": "version: 1\ntiers: {unit: {budjet: 2m}}\n"}, ["run"],
                               "Did you mean 'budget'?"),
    "an unknown tier": ({}, ["run", "units"], "there is no tier 'units'"),
    "an unknown event": ({}, ["run", "--event", "pushed"], "is not an event"),
    "a cadence for an event": ({}, ["plan", "--event", "nightly"], "`nightly` is `--event schedule`"),
    "a Python that is not there": ({}, ["run", "--python", "./nope"], "not an executable file"),
    "a folder that is not there": ({}, ["report", "nope"], "there is no such folder"),
    "an unknown option": ({}, ["run", "--jsn"], "unrecognized arguments: --jsn"),
    "no command": ({}, [], "the following arguments are required: COMMAND"),
    "an unknown command": ({}, ["runs"], "invalid choice: 'runs'"),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_exit_2_with_a_remedy(project: Make, case: str) -> None:
    files, arguments, sentence = USAGE[case]
    subject = project(GREEN)
    for name, text in files.items():
        if text is None:
            (subject.root / name).unlink()
        else:
            subject.write({name: text})
    done = subject.mltiers(*arguments)
    assert done.code == 2
    assert sentence in done.err
    assert done.out == ""
    assert subject.mltiers(*arguments, GITHUB_ACTIONS="true", GITHUB_EVENT_NAME="push").err.count("::error") == 1

    told = subject.mltiers(*arguments, "--json")
    assert told.code == 2
    assert sentence in told.err
    document = json.loads(told.out)
    assert (document["version"], document["exit_code"]) == (1, 2)
    assert sentence in document["errors"][0]


@pytest.mark.parametrize("command", ["check", "run"])
def test_in_a_job_a_broken_configuration_is_annotated_where_it_is_broken(project: Make, command: str) -> None:
    subject = project({"ml-tiers.yml": 'version: 1\ntiers: {unit: {budjet: 2m, "a\\n::error::b": 1}}\n'})
    job = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push"}
    lines = subject.mltiers(command, **job).err.splitlines()
    assert [line for line in lines if line.startswith("::")] == [
        "::error col=16,file=ml-tiers.yml,line=2,title=mltiers::tiers.unit.budjet: unknown key. Did you mean 'budget'?",
        "::error col=28,file=ml-tiers.yml,line=2,title=mltiers::tiers.unit.'a\\n::error::b': unknown key",
    ]
    lines = subject.mltiers(command, "--config", "100%.yml", **job).err.splitlines()
    assert [line for line in lines if line.startswith("::")] == [
        "::error title=mltiers::100%25.yml: there is no such file%0A  `mltiers init` writes a first one"
    ]


def test_python_dash_m_works_too(project: Make) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--version"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mltiers ")


RUNS = {
    "passed": {  # one tier of two: what the other would have covered is unknown, then as now
        "ml-tiers.yml": CONFIG.format(workers=1) + "  other: {paths: [tests], when: [push]}\ncoverage: {minimum: 99}\n",
    },
    "failed": {  # and whatever else may be said of a run
        "ml-tiers.yml": CONFIG.format(workers=2) + (
            "    retries: 1\n    fit: true\n"
            "  speed: {paths: [speed], when: [push], benchmark: {against: history}}\n"
            "  dies: {paths: [tests], when: [push], args: [--nonsense]}\n"
            "  gpu: {paths: [tests], when: [push], runner: [cuda]}\n"
            "  nightly: {paths: [tests], when: [nightly]}\n"
            "coverage: {minimum: 99}\n"
        ),
        "tests/conftest.py": "import numpy\n",
        "tests/test_bad.py": (
            "from pathlib import Path\n\ndef test_bad(): assert 0\n\n"
            "def test_flaky():\n    Path('tried').open('a').write('.')\n    assert Path('tried').read_text() == '..'\n"
        ),
        "speed/test_speed.py": "def test_speed(benchmark): benchmark.pedantic(int, rounds=2)\n",
    },
    "over-budget": {  # our own interrupt makes the test fail, and it must not be taken for one that failed
        "ml-tiers.yml": CONFIG.format(workers=1).replace("60s", "3s"),
        "tests/test_hang.py": (
            "import time\n"
            "def test_hang():\n"
            "    try:\n        time.sleep(60)\n"
            "    except KeyboardInterrupt:\n        raise AssertionError('interrupted')\n"
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize("verdict", RUNS)
def test_a_report_of_a_finished_run_says_what_the_run_said(project: Make, verdict: str) -> None:
    subject = project({**GREEN, **RUNS[verdict]})
    ran = subject.mltiers("run", *(["unit"] if verdict == "passed" else []), "--event", "push")
    reported = subject.mltiers("report", ".mltiers", "--out", "again", "--event", "push", "--json")
    assert json.loads(reported.out) == ran.verdict
    assert (ran.verdict["verdict"], reported.code) == (verdict, ran.code)
    for name in ("comment.md", "report.html"):
        assert (subject.root / "again" / name).read_text() == (subject.root / ".mltiers" / name).read_text(), name
    if verdict == "failed":
        said = ran.verdict["tiers"]
        assert any("forked from the process kept for this run" in note for note in said["unit"]["notes"])
        assert "last words" in " ".join(said["dies"]["reasons"])
        assert "--no-dispatch" in said["gpu"]["reasons"][0]
