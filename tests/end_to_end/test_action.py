"""The action, as a user has it: the starter workflow, real action.yml, real events, under act, against a GitHub.

Nothing of ours stands in for anything here; see act.py for what stands in for GitHub and its own actions.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.act import (
    BIN,
    OURS,
    ROOT,
    Machine,
    branch,
    commit,
    git,
    make_repository,
    pull_request_event,
    push_event,
    until,
    write,
)
from tests.loopback_github import ACTIONS_BOT, READ, LoopbackGitHub, Repository

pytestmark = pytest.mark.act

EXAMPLE = ROOT / "examples" / "text-classifier"
PROJECT = {
    "ml-tiers.yml": """\
version: 1
source: [src]
tiers:
  unit:
    paths: [tests]
    when: [push, pull_request]
    budget: 1m
    workers: 1
  gpu:
    paths: [tests]
    when: [schedule]
    runner: [self-hosted, cuda]
    gpus: 1
""",
    "src/__init__.py": "def double(x):\n    return 2 * x\n",
    "tests/test_double.py": "import src\n\n\ndef test_double():\n    assert src.double(2) == 4\n",
}
FAILING = {"src/__init__.py": "def double(x):\n    return 3 * x\n"}
# What a test of a job sees: the user's own Python, and nothing that lets it speak to GitHub or to later steps.
CURIOUS = {
    "tests/test_curious.py": """\
import os
import subprocess
import sys
from pathlib import Path


def test_python():
    assert Path(sys.executable).parent == Path(os.environ["STAND_IN_PYTHON"])


def test_secrets():
    names = {"GITHUB_TOKEN", "GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE"}
    assert not names & set(os.environ)
    assert not [name for name in os.environ if name.startswith("MLTIERS_INPUT_")]
    assert "very-secret" not in "".join(os.environ.values())
    assert "bearer" not in Path(".git/config").read_text().lower()


def test_import_path():
    assert not [path for path in sys.path if "released action/orchestrator" in path]
""",
}
HANGING = {
    "tests/test_hanging.py": """\
import os
import threading
from pathlib import Path


def test_before():
    pass


def test_hangs():
    Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    threading.Event().wait()
""",
}
KNOWN_SECONDS = 7.0  # what GitHub gives a cancelled step


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One self-hosted runner for all tests: the first job finds it bare."""
    return Machine.make(tmp_path_factory.mktemp("machine"))


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "a project", PROJECT)


def uploaded(artifacts: Path) -> set[str]:
    return {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def remembered(repository: Path) -> bool:
    """Whether a job has stored what it found on the branch for it."""
    return "runs/" in git(repository, "ls-tree", "-r", "--name-only", "refs/heads/mltiers-data")


def test_a_push_of_the_example(tmp_path: Path, machine: Machine, github: LoopbackGitHub) -> None:
    path = make_repository(tmp_path / "example", EXAMPLE)
    repository = github.add_repository(path=path)
    job = machine.run(path, push_event(repository, path), github, token=github.add_token())
    assert job.exit_code == 0, job.text
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("passed", "0")
    plan = json.loads(job.outputs["plan"])
    ran = {name: tier["run"] for name, tier in plan["tiers"].items()}
    assert ran.keys() == {"unit", "integration", "regression", "speed", "gpu", "convergence"}
    assert ran["unit"]
    assert not ran["gpu"]
    assert json.loads(job.outputs["matrix"]) is not None
    assert Path(job.outputs["report-path"]).name == "report.html"
    assert "Tests: passed" in job.summary
    assert all(f"`{name}`" in job.summary for name in ran)
    assert {
        f"mltiers-tests/{name}"
        for name in ("report.html", "verdict.json", "plan.json", "comment.md", "unit/junit.xml", "unit/events.jsonl")
    } <= uploaded(job.artifacts)
    assert job.outputs["comment-url"] == ""
    assert github.asked("POST", "/comments") == []  # a push comments nowhere
    assert {exchange.path.split("/")[4] for exchange in github.asked("POST") if "/repos/" in exchange.path} == {
        "statuses"
    }
    assert remembered(path)


def test_a_pull_request_of_the_example(tmp_path: Path, machine: Machine, github: LoopbackGitHub) -> None:
    path = make_repository(tmp_path / "example", EXAMPLE)
    source = (path / "src" / "__init__.py").read_text(encoding="utf-8")
    # Its benchmarks take turns with the base's till all is decided. A pair of runs shows that they do: the tier's own
    # process, two of the rehearsal and two of the pair live, and those after them die.
    starts = tmp_path / "starts"
    ends = f"""\
import os


def pytest_sessionstart():
    with open({str(starts)!r}, "a") as file:
        file.write("x")
        if file.tell() > 5:
            os._exit(7)
"""
    branch(path, "feature", {"src/__init__.py": f"{source}\n\nADDED = 1\n", "tests/benchmarks/conftest.py": ends})
    repository = github.add_repository(path=path)
    pull = repository.add_pull_request(head="feature")
    job = machine.run(path, pull_request_event(pull, path), github, token=github.add_token())
    assert job.exit_code == 0, job.text
    (comment,) = pull.comments
    assert comment.author is not None
    assert comment.author.login == ACTIONS_BOT
    assert "Tests: passed" in comment.body
    assert "| `unit` |" in comment.body
    assert "of the change: **100" in comment.body
    assert "undecided against the base" in comment.body
    assert job.outputs["comment-url"].endswith(f"#issuecomment-{comment.id}")
    assert comment.body.partition("\n")[2].split("\n\n")[0] in job.summary


def test_the_next_commit_updates_the_comment_in_place(project: Path, machine: Machine, github: LoopbackGitHub) -> None:
    branch(project, "feature", {"src/extra.py": "A = 1\n"})
    repository = github.add_repository(path=project)
    pull = repository.add_pull_request(head="feature")
    pull.comment("reviewer", "Nice.")
    token = github.add_token()
    job = machine.run(project, pull_request_event(pull, project), github, token=token)
    assert job.exit_code == 0, job.text
    nice, ours = pull.comments
    assert "Tests: passed" in ours.body

    git(project, "checkout", "--quiet", "feature")
    write(project, FAILING)
    pull.head_sha = commit(project, "Break it")
    git(project, "checkout", "--quiet", "main")
    job = machine.run(project, pull_request_event(pull, project, action="synchronize"), github, token=token)
    assert job.exit_code == 1, job.text
    assert pull.comments == [nice, ours]
    assert "Tests: failed" in ours.body
    assert pull.head_sha[:7] in ours.body
    assert nice.body == "Nice."


def test_a_failing_test_fails_the_job_where_it_is(project: Path, machine: Machine, github: LoopbackGitHub) -> None:
    branch(project, "feature", FAILING)
    repository = github.add_repository(path=project)
    pull = repository.add_pull_request(head="feature")
    job = machine.run(project, pull_request_event(pull, project), github, token=github.add_token())
    assert job.exit_code == 1, job.text
    assert job.steps[OURS] == "failure"
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("failed", "1")
    (error,) = [said for said in job.annotations if said[0] == "error" and "file" in said[1]]
    assert error[1]["file"] == "tests/test_double.py"
    assert error[1]["line"] == "5"
    assert "assert 6 == 4" in error[2]
    (comment,) = pull.comments
    assert "Tests: failed" in comment.body
    assert "test_double" in comment.body
    assert {"mltiers-tests/report.html", "mltiers-tests/unit/result.json"} <= uploaded(job.artifacts)


def test_what_the_tests_of_a_job_see(project: Path, machine: Machine, github: LoopbackGitHub) -> None:
    write(project, CURIOUS)
    commit(project, "Curious tests")
    repository = github.add_repository(path=project)
    event = push_event(repository, project)
    job = machine.run(project, event, github, token=github.add_token(), env={"ALSO": "kept"})
    assert job.exit_code == 0, job.text
    assert "STAND_IN_PYTHON" not in job.summary


def test_a_runner_installs_once(project: Path, machine: Machine, github: LoopbackGitHub) -> None:
    repository = github.add_repository(path=project)
    job = machine.run(project, push_event(repository, project), github, token=github.add_token())
    assert job.exit_code == 0, job.text
    job = machine.run(project, push_event(repository, project), github, token=github.add_token())
    assert job.exit_code == 0, job.text
    assert "installing the orchestrator" not in job.text
    environments = [path for path in (machine.tool_cache / "mltiers").iterdir() if path.suffix != ".lock"]
    assert len(environments) == 1


def test_a_wrong_configuration_is_named(project: Path, machine: Machine, github: LoopbackGitHub) -> None:
    text = (project / "ml-tiers.yml").read_text(encoding="utf-8")
    write(project, {"ml-tiers.yml": text.replace("budget: 1m", "budjet: 1m")})
    commit(project, "A slip")
    repository = github.add_repository(path=project)
    job = machine.run(project, push_event(repository, project), github, token=github.add_token())
    assert job.exit_code == 1  # act's own
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("", "2")
    assert "ml-tiers.yml:7:5: tiers.unit.budjet: unknown key. Did you mean 'budget'?" in job.text
    assert "Traceback" not in job.text


def test_a_forks_token_may_not_comment_and_the_job_says_so(
    project: Path, machine: Machine, github: LoopbackGitHub
) -> None:
    branch(project, "feature", {"src/extra.py": "A = 1\n"})
    repository = github.add_repository(path=project)
    fork = github.add_repository("stranger/widgets", path=project, fork=True)
    pull = repository.add_pull_request(head="feature", head_repository=fork, author="stranger")
    token = github.add_token(permissions=READ)
    job = machine.run(project, pull_request_event(pull, project), github, token=token)
    assert job.exit_code == 0, job.text
    assert job.outputs["verdict"] == "passed"
    assert pull.comments == []
    assert "a fork's token may not comment" in job.text
    assert "Tests: passed" in job.summary


def test_a_cancelled_job_publishes_what_is_known(
    project: Path, machine: Machine, github: LoopbackGitHub, tmp_path: Path
) -> None:
    branch(project, "feature", HANGING)
    repository: Repository = github.add_repository(path=project)
    pull = repository.add_pull_request(head="feature")
    started = tmp_path / "started"
    running = machine.start(
        project, pull_request_event(pull, project), github, token=github.add_token(), env={"STARTED": str(started)}
    )
    until(started.exists)
    test_process = int(until(started.read_text))
    entry = until(running.entry_process)
    cancelled_at = time.monotonic()
    os.kill(entry, signal.SIGINT)  # GitHub signals this process and no other
    until(lambda: not alive(entry), seconds=20)
    took = time.monotonic() - cancelled_at
    assert [comment.body.count("Tests: cancelled") for comment in pull.comments] == [1]  # before it ended
    job = running.finish()
    assert took <= KNOWN_SECONDS
    assert job.exit_code == 1, job.text
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("cancelled", "130")
    assert "Tests: cancelled" in job.summary
    assert "test_hangs" in pull.comments[0].body  # what was running when it was stopped
    (result,) = [path for path in job.artifacts.rglob("result.json") if path.parent.name == "unit"]
    outcomes = {
        test["node_id"].rpartition("::")[2]: test["outcome"] for test in json.loads(result.read_text())["tests"]
    }
    assert outcomes["test_before"] == "passed"
    assert outcomes["test_hangs"] == "unfinished"
    assert not alive(test_process)
    assert "Traceback" not in job.text


def test_the_users_python_is_not_the_orchestrators(machine: Machine) -> None:
    installed = {path.name for path in (machine.tool_cache / "mltiers").glob("*/lib/python*/site-packages/*")}
    assert not {"torch", "pytest", "orchestrator"} & installed
    assert (BIN / "python").exists()
