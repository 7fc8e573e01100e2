"""What an approval starts, what a refusal says, and what is told of a fork's run: real command, and a GitHub."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_github import READ, LoopbackGitHub, Run, payloads
from tests.loopback_github.state import Comment
from tests.support.project import Project
from tests.support.trust_scene import FILES, Make, Scene, make_scene


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def scene(github: LoopbackGitHub, project: Make) -> Scene:
    return make_scene(github, project)


def started(scene: Scene) -> list[tuple[str, str]]:
    """Tier and commit of every run of gpu-tier.yml."""
    return [(run.inputs["tier"], run.inputs["sha"]) for run in scene.repository.runs.values() if run.inputs]


def statuses(scene: Scene) -> dict[str, str]:
    return {status.context: status.state for status in scene.repository.statuses if status.sha == scene.pull.head_sha}


def answers(scene: Scene) -> list[str]:
    return [comment.body for comment in scene.pull.comments if "Nothing was started" in comment.body]


# --- comments and labels ---------------------------------------------------------------------------------------------


def test_a_writers_comment_starts_one_run_of_the_approved_commit(scene: Scene) -> None:
    payload = scene.comment("ann", "/mltiers gpu", minutes=1)
    done = scene.command("dispatch", name="issue_comment", payload=payload)
    assert done.code == 0, done.err
    assert started(scene) == [("gpu", scene.pull.head_sha)]
    (run,) = [run for run in scene.repository.runs.values() if run.inputs]
    assert run.inputs["pr"] == str(scene.pull.number)
    assert json.loads(run.inputs["runner"]) == ["self-hosted", "cuda"]
    assert statuses(scene) == {"mltiers/gpu": "pending"}
    assert answers(scene) == []


def test_a_strangers_comment_starts_changes_and_says_nothing(scene: Scene) -> None:
    before = len(scene.pull.comments)
    payload = scene.comment("stranger", f"/mltiers gpu {scene.pull.head_sha}", minutes=1)
    done = scene.command("dispatch", name="issue_comment", payload=payload)
    assert done.code == 0, done.err
    assert started(scene) == []
    assert statuses(scene) == {}
    assert len(scene.pull.comments) == before + 1  # theirs
    assert "gpu: not started: stranger has no write permission here" in done.err


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("/mltiers gpu aaaaaaa", "in full, 40 digits"),
        ("/mltiers gpi", "there is no tier gpi"),
        ("/mltiers", "a command reads"),
        ("/mltiers convergence", "runs on nightly"),
        ("/mltiers unit", "starts only tiers that have a"),
        ("/mltiers gpu " + "a" * 40, "was asked for"),
    ],
)
def test_a_writers_command_that_starts_nothing_is_answered(scene: Scene, text: str, because: str) -> None:
    done = scene.command("dispatch", name="issue_comment", payload=scene.comment("ann", text, minutes=1))
    assert done.code == 0, done.err
    assert started(scene) == []
    (answer,) = answers(scene)
    assert because in answer
    assert statuses(scene) == {}  # what was said of this commit before stands


def test_an_approved_commit_of_a_fork(github: LoopbackGitHub, project: Make) -> None:
    scene = make_scene(github, project, fork=True)
    payload = scene.comment("ann", f"/mltiers gpu {scene.pull.head_sha}", minutes=1)
    assert scene.command("dispatch", name="issue_comment", payload=payload).code == 0
    assert started(scene) == [("gpu", scene.pull.head_sha)]


def test_the_head_that_moved_meanwhile_is_not_started(github: LoopbackGitHub, project: Make) -> None:
    scene = make_scene(github, project, fork=True)
    payload = scene.comment("ann", f"/mltiers gpu {scene.pull.head_sha}", minutes=1)
    scene.push_to_branch()
    assert scene.command("dispatch", name="issue_comment", payload=payload).code == 0
    assert started(scene) == []
    assert "was asked for" in answers(scene)[0]


def test_no_comment_excuses_a_tier_from_running(scene: Scene) -> None:
    """Also where somebody's own workflow says `mltiers run` on comments."""
    for text in ("/mltiers smoke", "/mltiers gpu", "hello"):
        done = scene.command("run", name="issue_comment", payload=scene.comment("stranger", text, minutes=1))
        assert done.code == 0, done.err
    assert scene.repository.statuses == []
    assert started(scene) == []


def test_a_label_starts_what_is_pre_merge_and_nothing_else(scene: Scene) -> None:
    done = scene.command("dispatch", name="pull_request", payload=scene.labeled("ann"))
    assert done.code == 0, done.err
    assert sorted(started(scene)) == [("gpu", scene.pull.head_sha), ("smoke", scene.pull.head_sha)]


def test_a_label_of_somebody_else_leaves_every_status_as_it_is(scene: Scene) -> None:
    done = scene.command("dispatch", name="pull_request", payload=scene.labeled("tom"))
    assert done.code == 0, done.err
    assert started(scene) == []
    assert statuses(scene) == {}
    assert "tom has no write permission here" in done.err


def test_over_the_cap_a_required_tier_fails_and_says_why(github: LoopbackGitHub, project: Make) -> None:
    capped = {"ml-tiers.yml": FILES["ml-tiers.yml"].replace("source: [src]\n", "gpu-minutes-per-day: 1\n")}
    scene = make_scene(github, project, files=capped)
    done = scene.command("dispatch", name="issue_comment", payload=scene.comment("ann", "/mltiers gpu", minutes=1))
    assert done.code == 1, done.err
    assert started(scene) == []
    assert statuses(scene) == {"mltiers/gpu": "failure"}
    assert "over gpu-minutes-per-day: 0 of 1 GPU minutes are used today" in answers(scene)[0]


def test_a_night_over_the_cap(github: LoopbackGitHub, project: Make) -> None:
    capped = {"ml-tiers.yml": FILES["ml-tiers.yml"].replace("source: [src]\n", "gpu-minutes-per-day: 1\n")}
    scene = make_scene(github, project, files=capped)
    main = scene.project.git("rev-parse", "main")
    scene.project.git("checkout", "-q", "--detach", main)
    payload = payloads.schedule(scene.repository)
    done = scene.command("run", name="schedule", payload=payload, GITHUB_SHA=main, GITHUB_REF="refs/heads/main")
    assert done.code == 1, done.err
    gpu = done.verdict["tiers"]["gpu"]
    assert (gpu["verdict"], gpu["exit_code"]) == ("not-run", 1)
    assert "over gpu-minutes-per-day" in gpu["reasons"][0]
    assert [tier for tier, _ in started(scene)] == ["convergence"]  # it asks for no GPU


# --- a fork's results ------------------------------------------------------------------------------------------------

TEST = '<testcase classname="tests.test_calc" name="test_add" time="0.1"/>'
PASSED = f'<testsuite name="pytest" tests="1">{TEST}</testsuite>'
FAILED = PASSED.replace('time="0.1"/>', 'time="0.1"><failure message="no">tests/test_calc.py:5</failure></testcase>')


def finished_run(scene: Scene, files: Mapping[str, str] | None, *, name: str = "mltiers-tests") -> Run:
    """The fork's own run of the Tests workflow, with what it uploaded."""
    workflow = scene.repository.add_workflow(".github/workflows/pull-request.yml", "name: Tests\non: pull_request\n")
    run = scene.repository.add_run(
        workflow, event="pull_request", head_branch="feature", head_sha=scene.pull.head_sha, actor="stranger"
    )
    run.head_repository = scene.pull.head_repository
    if files is not None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        run.add_artifact(name, content.getvalue())
    run.finish("success")
    return run


@pytest.fixture
def fork(github: LoopbackGitHub, project: Make) -> Scene:
    scene = make_scene(github, project, fork=True)
    scene.project.git("checkout", "-q", "main")
    return scene


def report(scene: Scene, run: Run) -> tuple[Any, list[Comment]]:
    done = scene.command("report", name="workflow_run", payload=payloads.workflow_run(run))
    return done, [comment for comment in scene.pull.comments if "mltiers:comment" in comment.body]


def test_a_forks_results_are_posted(fork: Scene) -> None:
    done, comments = report(fork, finished_run(fork, {"unit/junit.xml": PASSED}))
    assert done.code == 0, done.err
    (comment,) = comments
    assert "Tests: passed" in comment.body
    assert fork.pull.head_sha[:7] in comment.body
    assert statuses(fork) == {"mltiers/gpu": "pending", "mltiers/smoke": "pending", "mltiers/kernels": "success",
                              "mltiers/convergence": "success"}  # fmt: skip
    assert started(fork) == []


def test_a_forks_failure_is_one(fork: Scene) -> None:
    done, (comment,) = report(fork, finished_run(fork, {"unit/junit.xml": FAILED}))
    assert done.code == 1
    assert "Tests: failed" in comment.body


def test_a_fork_cannot_speak_for_the_teams_machines(fork: Scene) -> None:
    plan = {"tiers": {"gpu": {"run": True, "where": "here"}, "unit": {"run": True, "where": "here"}}}
    lies = {"unit/junit.xml": PASSED, "gpu/junit.xml": PASSED, "plan.json": json.dumps(plan)}
    done, (comment,) = report(fork, finished_run(fork, lies))
    assert done.verdict["tiers"]["gpu"]["verdict"] == "not-run"
    assert statuses(fork)["mltiers/gpu"] == "pending"
    assert "never starts a self-hosted runner" in comment.body


def test_a_fork_that_uploaded_nothing_has_passed_nothing(fork: Scene) -> None:
    done, (comment,) = report(fork, finished_run(fork, None))
    assert done.code == 3
    assert done.verdict["tiers"]["unit"]["verdict"] == "infrastructure"
    assert "nothing came back from it" in comment.body


def test_an_artifact_that_climbs_out_is_refused(fork: Scene) -> None:
    done, comments = report(fork, finished_run(fork, {"unit/junit.xml": PASSED, "../../escaped": "x"}))
    assert done.code == 3
    assert "no name of a file inside it" in done.err
    assert comments == []


def test_results_of_an_older_head_are_not_posted(fork: Scene) -> None:
    run = finished_run(fork, {"unit/junit.xml": PASSED})
    fork.push_to_branch()
    fork.project.git("checkout", "-q", "main")
    done, comments = report(fork, run)
    assert comments == []
    assert "no open pull request has" in done.out + done.err


def test_the_pull_request_is_githubs_word_and_not_the_artifacts(fork: Scene) -> None:
    other = fork.repository.add_pull_request(head="main", author="ann")
    told = {"event": {"pull_request": {"number": other.number}, "sha": other.head_sha}}
    lies = {"unit/junit.xml": PASSED, "plan.json": json.dumps(told), "pr.txt": str(other.number)}
    _, comments = report(fork, finished_run(fork, lies))
    assert len(comments) == 1
    assert other.comments == []


COVERED = {
    "files": {
        "src/calc.py": {
            "executed_lines": [1, 2],
            "missing_lines": [],
            "excluded_lines": [],
            "summary": {"covered_lines": 2, "num_statements": 2},
        }
    }
}


def test_the_changed_lines_of_a_fork_are_known(github: LoopbackGitHub, project: Make, tmp_path: Path) -> None:
    patched = {"ml-tiers.yml": FILES["ml-tiers.yml"].replace("tiers:\n", "coverage: {patch: 80}\ntiers:\n", 1)}
    scene = make_scene(github, project, fork=True, files=patched)
    # The job's clone has every branch of this repository, and no commit of the fork.
    scene.project.git("update-ref", f"refs/pull/{scene.pull.number}/head", scene.pull.head_sha)
    scene.project.git("checkout", "-q", "main")
    clone = tmp_path / "clone"
    scene.project.git("clone", "-q", "--single-branch", "--branch", "main", str(scene.project.root), str(clone))
    scene.project = Project(clone, {})
    done, (comment,) = report(scene, finished_run(
        scene, {"unit/junit.xml": PASSED, "unit/coverage.json": json.dumps(COVERED)}
    ))  # fmt: skip
    assert done.code == 0, done.err
    assert "of the change: **100" in comment.body


def test_a_strangers_results_are_remembered_as_a_strangers(fork: Scene) -> None:
    report(fork, finished_run(fork, {"unit/junit.xml": PASSED}))
    names = fork.project.git("ls-tree", "-r", "--name-only", "mltiers-data").splitlines()
    assert [name for name in names if name.startswith("runs/")] == []
    assert [name.split("/")[2] for name in names if name.startswith("forks/")] == ["unit"]


def test_the_forks_own_job_leaves_the_posting_to_the_report(github: LoopbackGitHub, project: Make) -> None:
    scene = make_scene(github, project, fork=True, permissions=READ)
    done = scene.command("run", name="pull_request", payload=payloads.pull_request(scene.pull))
    assert done.code == 0, done.err
    assert scene.pull.comments == []
    assert "the fork-report workflow posts this" in done.err
