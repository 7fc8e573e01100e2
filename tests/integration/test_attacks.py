"""What a hostile project, machine or shell does to the command: a verdict or a sentence, never a traceback."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.project import Project

Make = Callable[..., Project]
CONFIG = """version: 1
tiers:
  unit: {paths: [tests], when: [push], budget: 60s, workers: 1}
  gpu: {paths: [tests], when: [nightly], runner: [self-hosted, cuda], budget: 60s}
"""
GREEN = {"ml-tiers.yml": CONFIG, "tests/test_a.py": "def test_a(): pass\n"}
JUNIT = (
    '<testsuites><testsuite name="pytest" tests="1" failures="{bad}" errors="0" skipped="0" time="0.1">'
    '<testcase classname="tests.test_a" name="test_a" file="tests/test_a.py" time="0.1">{inside}</testcase>'
    "</testsuite></testsuites>"
)


def shell(subject: Project, script: str, **extra: str) -> tuple[int, str, str]:
    """Run a line of bash in which MLTIERS stands for the command; its exit code and what it printed."""
    line = script.replace("MLTIERS", shlex.join(subject.command()))
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=subject.root,
        env=subject.environment(extra),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    for sign in ("Traceback", "defect of mltiers", "Exception ignored"):
        assert sign not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("MLTIERS run <&- >&- 2>&-", 0),
        ("MLTIERS plan >&-", 0),
        ("MLTIERS plan 2>&-", 0),
        ("MLTIERS nonsense 2>/dev/full", 2),
        ("MLTIERS plan | head -0; exit ${PIPESTATUS[0]}", 0),
        ("MLTIERS --help | head -0; exit ${PIPESTATUS[0]}", 0),
        ("MLTIERS plan >/dev/full", 3),
        ("PYTHONIOENCODING=ascii MLTIERS run", 0),
    ],
)
def test_streams_that_lead_nowhere(project: Make, script: str, code: int) -> None:
    assert shell(project(GREEN), script)[0] == code


def test_two_runs_do_not_share_a_folder(project: Make) -> None:
    second = "import os\ndef test_b():\n    assert os.system(os.environ['AGAIN']) == 0\n"
    subject = project({**GREEN, "tests/test_b.py": second})
    again = f"! AGAIN=true {shlex.join(subject.command('run', 'unit'))} 2> said"
    done = subject.mltiers("run", AGAIN=again)
    assert done.code == 0, done.out
    assert "another `mltiers run` is writing to " in (subject.root / "said").read_text()


def test_nohup_survives_its_terminal(project: Make) -> None:
    hang_up = "import os, signal\ndef test_b(): os.kill(int(os.environ['US']), signal.SIGHUP)\n"
    subject = project({**GREEN, "tests/test_b.py": hang_up})
    assert shell(subject, "trap '' HUP; export US=$$; exec MLTIERS run")[0] == 0


def test_a_branch_whose_base_is_not_here_changes_who_knows_what(project: Make) -> None:
    subject = project({**GREEN, "ml-tiers.yml": CONFIG.replace("budget: 60s, workers", "changes: [a/**], workers")})
    subject.commit()
    subject.git("checkout", "-q", "--orphan", "topic")
    subject.commit("a history of its own")
    unit = json.loads(subject.mltiers("plan", "--json").out)["tiers"]["unit"]
    assert (unit["run"], unit["reason"][:26]) == (True, "changed files are unknown ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("who", ["git", "python"])
def test_a_signal_ends_what_only_prepares(project: Make, tmp_path: Path, who: str, number: signal.Signals) -> None:
    asked = tmp_path / "asked"
    program(tmp_path / "bin" / who, f"echo > {asked}; exec sleep 60")
    subject = project(GREEN)
    path = f"{tmp_path / 'bin'}:{subject.environment()['PATH']}"
    # Not `Project.mltiers`: the signal has to come in the middle.
    with subprocess.Popen(
        subject.command("run"), cwd=subject.root, env=subject.environment({"PATH": path}), stderr=subprocess.PIPE
    ) as process:
        while not asked.exists():
            assert process.poll() is None
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (130, f"mltiers: received {number.name}, before anything was run\n")


def program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("printf '\\377\\376 garbage'", "git printed "),
        ("echo boom >&2; exit 77", "git rev-parse failed: boom"),
        ("exit 128", "not a git repository"),
    ],
)
def test_a_broken_git_is_said(project: Make, tmp_path: Path, script: str, sentence: str) -> None:
    program(tmp_path / "bin" / "git", script)
    subject = project(GREEN)
    done = subject.mltiers("plan", PATH=f"{tmp_path / 'bin'}:{subject.environment()['PATH']}")
    assert done.code == 0
    assert f"changed files unknown: {sentence}" in done.out


@pytest.mark.parametrize(
    "script",
    ["head -c 4000 /dev/urandom", "echo '{}'", "echo 'pytest-mltiers'", "exit 3", "echo '[1]'"],
)
def test_a_python_that_is_none_is_a_usage_error(project: Make, tmp_path: Path, script: str) -> None:
    program(tmp_path / "bin" / "python", script)
    done = project(GREEN).mltiers("plan", "--python", str(tmp_path / "bin" / "python"))
    assert done.code == 2
    assert "is not a Python" in done.err


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        (".", "holds the project itself"),
        ("", "holds the project itself"),
        ("tests/..", "holds the project itself"),
        ("/", "holds the project itself"),
        ("~/x", "pytest replaces"),
        ("a $HOME b", "pytest replaces"),
        ("ml-tiers.yml", "cannot be written: "),
        ("ml-tiers.yml/below", "cannot be written: Not a directory"),
        ("/proc/nope", "cannot be written: "),
    ],
)
def test_where_results_cannot_go(project: Make, out: str, sentence: str) -> None:
    subject = project(GREEN)
    done = subject.mltiers("run", "--out", out)
    assert (done.code, sentence in done.err) == (2, True), done.err
    assert {path.name for path in subject.root.iterdir()} == {"ml-tiers.yml", "tests"}


def test_results_outside_the_project_in_a_folder_with_an_odd_name(project: Make, tmp_path: Path) -> None:
    out = tmp_path / "out 'q' `x` ü\n% $"
    out.mkdir()
    done = project(GREEN).mltiers("run", "--out", str(out))
    assert done.code == 0, done.err
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "passed"
    assert not (out / ".gitignore").exists()  # it was there before us


def test_results_that_cannot_be_written_are_no_pass(project: Make) -> None:
    spoil = (
        "import os\ndef test_spoil():\n"
        "    for name in ('unit/result.json', 'verdict.json', 'comment.md', 'report.html'):\n"
        "        os.makedirs(f'.mltiers/{name}/x')\n"
    )
    done = project({**GREEN, "tests/test_b.py": spoil}).mltiers("run", "--json")
    verdict = json.loads(done.out)
    assert (done.code, verdict["verdict"]) == (3, "infrastructure")
    assert "verdict.json: Is a directory; comment.md: Is a directory; report.html: " in verdict["reasons"][0]
    assert "its results could not be written" in verdict["tiers"]["unit"]["reasons"][0]


def test_results_of_yesterday_do_not_stay_among_those_of_today(project: Make) -> None:
    subject = project(GREEN)
    assert subject.mltiers("run", "gpu", "--no-dispatch").code == 0
    subject.mltiers("run", "unit")  # by name: the other tier's results stay
    assert set(subject.mltiers("report", ".mltiers", "--json").verdict["tiers"]) == {"unit", "gpu"}
    assert (subject.root / ".mltiers/gpu/result.json").exists()
    subject.mltiers("run", "--event", "push")
    assert not (subject.root / ".mltiers/gpu/result.json").exists()


def test_a_report_needs_no_configuration(project: Make) -> None:
    subject = project(
        {
            "results/unit/junit.xml": JUNIT.format(bad=0, inside=""),
            "results/slow/junit.xml": JUNIT.format(bad=1, inside="<failure message='no'>no</failure>"),
        }
    )
    done = subject.mltiers("report", "results")
    assert (done.code, done.verdict["verdict"]) == (1, "failed")
    assert {name: tier["verdict"] for name, tier in done.verdict["tiers"].items()} == {
        "unit": "passed",
        "slow": "failed",
    }
    assert "there is no ml-tiers.yml here" in done.out
    assert subject.mltiers("report", "results", "--config", "other.yml").code == 2


def test_results_of_another_commit_are_called_that(project: Make) -> None:
    case = '<testcase classname="t" name="test_a" time="0.1"/>'
    junit = f'<testsuites><testsuite name="pytest" tests="1" failures="0">{case}</testsuite></testsuites>'
    subject = project({"ml-tiers.yml": "version: 1\ntiers: {old: {}, new: {}}\n", ".gitignore": "results\n"})
    sha = subject.commit()
    for name, of in {"old": "a" * 40, "new": sha}.items():
        recorded = {"version": 1, "sha": of, "ending": "exited", "exit_code": 0, "seconds": 1.0}
        subject.write({f"results/{name}/junit.xml": junit, f"results/{name}/result.json": json.dumps(recorded)})
    tiers = subject.mltiers("report", "results").verdict["tiers"]
    said = {name: [note for note in tier["notes"] if "its results are of" in note] for name, tier in tiers.items()}
    assert said == {"old": [f"its results are of aaaaaaaaaa, not of {sha[:10]}"], "new": []}


@pytest.mark.parametrize(
    "arguments",
    [("run", "--json"), ("plan", "--json"), ("check", "--json"), ("report", "x", "--json", "--config", "x.yml")],
)
def test_json_is_one_document_for_an_error_too(project: Make, arguments: tuple[str, ...]) -> None:
    done = project({"ml-tiers.yml": "version: 1\ntiers: {unit: {budjet: 1m}}\n"}).mltiers(*arguments)
    assert done.code == 2
    assert json.loads(done.out)["errors"]


ADDOPTS = {
    "everything at once": (
        "-n auto -p no:xdist -p no:pytest_cov -p no:cacheprovider --cov=x --cov-fail-under=100 --junitxml=other.xml -x "
        "-p no:terminal -q -q -W error --strict-markers --junit-prefix=zzz",
        "passed",
        "",
    ),
    "no report": ("-p no:junitxml", "infrastructure", "look for `-p no:junitxml` in the project's addopts"),
    "another selection": ("-k nothing", "infrastructure", "pytest collected no test (exit code 5), 1 deselected"),
    "only collected": ("--collect-only", "infrastructure", "no test was executed"),
}


@pytest.mark.parametrize("case", ADDOPTS)
def test_options_of_the_project(project: Make, case: str) -> None:
    addopts, verdict, reason = ADDOPTS[case]
    ini = f"[pytest]\naddopts = {addopts}\njunit_family = xunit2\nfilterwarnings = error\n"
    done = project({**GREEN, "pytest.ini": ini}).mltiers("run", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.verdict["verdict"] == verdict, done.verdict["tiers"]["unit"]["reasons"]
    assert reason in "\n".join(done.verdict["tiers"]["unit"]["reasons"])


HOSTILE = ("a\nb", "a|b", "`x`", "😀", "z" * 9999, "\x1b[31mred", "::error::pwn", "a]]>b", "<script>", "%0A::x", "@o/t")


def test_hostile_names_and_output_command_nobody(project: Make) -> None:
    tests = (
        f"import os, pytest\n@pytest.mark.parametrize('x', {list(HOSTILE)!r}, ids=str)\n"
        "def test_x(x):\n"
        "    os.write(1, b'\\n::error::pwn\\n##[group]x\\n')\n"
        "    assert 0, x + '\\n::error::pwn'\n"
        "@pytest.mark.parametrize('n', range(20))\n"
        "def test_many(n): assert 0\n"
    )
    subject = project({**GREEN, "tests/test_b.py": tests, "pytest.ini": "[pytest]\naddopts = -s\n"})
    done = subject.mltiers("run", GITHUB_ACTIONS="true", GITHUB_EVENT_NAME="push", GITHUB_RUN_ID="1")
    assert done.code == 1
    assert done.verdict["tiers"]["unit"]["counts"]["failed"] == len(HOSTILE) + 20
    lines = (done.out + done.err).splitlines()
    assert not [line for line in lines if line.lstrip().startswith(("::error::", "##[")) or "\x1b" in line]
    assert sum("unit: FAILED " in line for line in lines) == 20
    assert max(map(len, lines)) < 2500
