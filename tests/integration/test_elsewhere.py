"""`mltiers run`, `dispatch` and `report` as jobs of GitHub, with tiers that run on other machines."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_dispatch import WORKFLOW, finish, results
from tests.loopback_github import Hooks, LoopbackGitHub, Run
from tests.support.project import Done, Project

CONFIG = """\
version: 1
source: [src]
tiers:
  unit: {paths: [tests/test_unit.py], workers: 1, budget: 60s, when: [push, pull_request, schedule]}
  gpu: {paths: [tests], when: [push, nightly], runner: [self-hosted, cuda], budget: 30m, queue: 1h}
  late: {paths: [tests], when: [nightly], runner: [self-hosted, cuda]}
"""
FILES = {
    "ml-tiers.yml": CONFIG,
    "src/calc.py": "def add(a, b):\n    return a + b\n",
    "tests/test_unit.py": "def test_unit():\n    pass\n",
}
Make = Callable[..., Project]


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


class Job:
    """A repository on GitHub and its checkout in a job."""

    def __init__(self, github: LoopbackGitHub, project: Project, **token: Any) -> None:
        self.github = github
        self.project = project
        self.sha = project.commit("all of it")
        self.repository = github.add_repository("octo/widgets", path=project.root / ".git")
        self.repository.add_workflow(".github/workflows/gpu-tier.yml", WORKFLOW)
        self.token = github.add_token(**token)

    def variables(self, name: str, payload: dict[str, Any], **extra: str) -> dict[str, str]:
        event = self.project.root.parent / "event.json"
        event.write_text(json.dumps(payload))
        return {
            "GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": name, "GITHUB_EVENT_PATH": str(event),
            "GITHUB_API_URL": self.github.api_url, "GITHUB_SERVER_URL": self.github.server_url,
            "GITHUB_REPOSITORY": "octo/widgets", "GITHUB_RUN_ID": "77", "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_SHA": self.sha, "GITHUB_REF": "refs/heads/main", "GITHUB_TOKEN": self.token, **extra,
        }  # fmt: skip

    def push(self) -> dict[str, Any]:
        repository = {"full_name": "octo/widgets", "default_branch": "main"}
        return {"ref": "refs/heads/main", "before": "0" * 40, "after": self.sha, "repository": repository}

    def run(self, *arguments: str, event: str = "push", **extra: str) -> Done:
        return self.project.mltiers(*arguments, **self.variables(event, self.push(), **extra))

    @property
    def runs(self) -> list[Run]:
        return list(self.repository.runs.values())

    def statuses(self) -> dict[str, tuple[str, str | None]]:
        return {s.context: (s.state, s.description) for s in self.repository.statuses if s.sha == self.sha}


@pytest.fixture
def job(github: LoopbackGitHub, project: Make) -> Job:
    return Job(github, project(FILES))


def finishing(content: bytes | None, conclusion: str = "success") -> Hooks:
    """A machine of the team's that does its work at once."""
    return Hooks(on_dispatch=lambda run: finish(run, content, conclusion))


def test_a_push_starts_the_gpu_tier_and_does_not_wait(job: Job) -> None:
    done = job.run("run", "--json")
    assert done.code == 0, done.err
    (run,) = job.runs
    assert run.inputs["tier"] == "gpu"
    assert run.inputs["sha"] == job.sha
    tiers = json.loads(done.out)["tiers"]
    assert {name: tier["verdict"] for name, tier in tiers.items()} == {
        "unit": "passed", "gpu": "not-run", "late": "not-run",
    }  # fmt: skip
    assert f"/actions/runs/{run.id}" in tiers["gpu"]["reasons"][0]
    statuses = job.statuses()
    assert statuses["mltiers/gpu"][0] == "pending"
    assert statuses["mltiers/late"] == ("success", "not run: runs on nightly, not on push")
    assert "mltiers/unit" not in statuses  # this job is its check


def test_waiting_judges_it_with_the_local_tiers(job: Job) -> None:
    job.github.hooks = finishing(results("gpu", ["test_a", "test_b"], failing=["test_b"], sha=job.sha), "failure")
    done = job.run("run", "--wait", "--json")
    assert done.code == 1, done.err
    verdict = json.loads(done.out)
    assert verdict["tiers"]["gpu"]["verdict"] == "failed"
    assert verdict["tiers"]["gpu"]["counts"]["passed"] == 1
    assert verdict["tiers"]["unit"]["verdict"] == "passed"
    assert job.statuses()["mltiers/gpu"] == ("failure", "failed: 1 of 2 tests failed")


def test_a_passing_one_too(job: Job) -> None:
    job.github.hooks = finishing(results("gpu", ["test_a"], sha=job.sha, machine={"cpu": "of the team's"}))
    done = job.run("run", "--wait", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["tiers"]["gpu"]["verdict"] == "passed"
    state, said = job.statuses()["mltiers/gpu"]
    assert (state, said) == ("success", "passed: 1 passed in 5.00 s")
    past = json.loads(job.run("history", "show", "--json").out)["tiers"]
    assert past["gpu"]["runs"][0]["machine"] == {"cpu": "of the team's"}  # not that of the job which tells of it
    assert past["unit"]["runs"][0]["machine"].keys() >= {"cpu", "cores", "python"}


def test_a_tier_that_could_not_be_started_is_no_green_run(job: Job) -> None:
    job.repository.workflows.clear()
    done = job.run("run", "--json")
    assert done.code == 3
    tier = json.loads(done.out)["tiers"]["gpu"]
    assert tier["verdict"] == "infrastructure"
    assert "gpu-tier.yml" in " ".join(tier["reasons"])


def test_a_tier_that_needs_one_that_failed_is_not_started(github: LoopbackGitHub, project: Make) -> None:
    config = CONFIG.replace("queue: 1h}", "queue: 1h, needs: [unit]}")
    job = Job(github, project({**FILES, "ml-tiers.yml": config, "tests/test_unit.py": "def test(): assert 0\n"}))
    done = job.run("run", "--json")
    assert done.code == 1
    assert job.runs == []
    tier = json.loads(done.out)["tiers"]["gpu"]
    assert tier["reasons"] == ["needs unit, which did not pass"]
    assert job.statuses()["mltiers/gpu"][0] == "failure"


def test_no_dispatch_starts_nothing_and_says_nothing(job: Job) -> None:
    done = job.run("run", "--no-dispatch")
    assert done.code == 0, done.err
    assert job.runs == []
    assert job.statuses() == {}


def test_dispatch_starts_what_belongs_elsewhere_alone(job: Job) -> None:
    done = job.run("dispatch", "--json")
    assert done.code == 0, done.err
    (one,) = json.loads(done.out)["dispatched"]
    assert (one["tier"], one["run_id"]) == ("gpu", job.runs[0].id)
    again = job.run("dispatch", "--json")
    assert [x["run_id"] for x in json.loads(again.out)["dispatched"]] == [job.runs[0].id]
    assert len(job.runs) == 1
    job.run("dispatch", "--force")
    assert len(job.runs) == 2


def test_dispatch_by_name_and_wait(job: Job) -> None:
    job.github.hooks = finishing(results("late", ["test_a"], sha=job.sha))
    done = job.run("dispatch", "late", "--wait", "--json")
    assert done.code == 0, done.err
    verdict = json.loads(done.out)["verdict"]
    assert verdict["tiers"]["late"]["verdict"] == "passed"
    assert [run.inputs["tier"] for run in job.runs] == ["late"]
    assert "mltiers/gpu" not in job.statuses()


def test_what_is_overdue_is_ended_by_any_later_run(job: Job) -> None:
    """Nobody waits: the run that started it is gone, and another one comes by after its deadline."""
    config = CONFIG.replace("queue: 1h", "queue: 1s")
    job.project.write({"ml-tiers.yml": config})
    job.sha = job.project.commit("short queue")
    job.run("dispatch", "gpu")
    (run,) = job.runs
    run.add_job("test", ("self-hosted", "cuda"))
    time.sleep(1.1)  # its queue limit: no other process of ours is alive
    done = job.run("run", "unit", "--no-dispatch", GITHUB_RUN_ID="78")
    assert run.conclusion is None  # a job that starts nothing has no business with it
    done = job.run("dispatch", "--sweep", "--json", GITHUB_RUN_ID="79")
    assert done.code == 0, done.err
    assert [x["verdict"] for x in json.loads(done.out)["dispatched"]] == ["never-started"]
    assert run.conclusion == "cancelled"
    assert job.statuses()["mltiers/gpu"][0] == "error"


def test_a_nightly_skips_a_commit_that_was_tested(job: Job) -> None:
    job.github.hooks = finishing(results("gpu", ["test_a"], sha=job.sha))
    schedule = {"schedule": "0 3 * * *", "repository": {"full_name": "octo/widgets", "default_branch": "main"}}
    first = job.project.mltiers("run", "--wait", **job.variables("schedule", schedule))
    assert [run.inputs["tier"] for run in job.runs] == ["gpu", "late"], first.err
    status = job.statuses()["mltiers/gpu"]
    second = job.project.mltiers("run", "--wait", "--json", **job.variables("schedule", schedule, GITHUB_RUN_ID="78"))
    tiers = json.loads(second.out)["tiers"]
    assert tiers["gpu"]["reasons"] == ["this commit was tested already: passed"]
    assert [run.inputs["tier"] for run in job.runs] == ["gpu", "late", "late"]  # of `late` nothing came back
    assert job.statuses()["mltiers/gpu"] == status
    job.project.mltiers("run", "--force", **job.variables("schedule", schedule, GITHUB_RUN_ID="79"))
    assert [run.inputs["tier"] for run in job.runs[3:]] == ["gpu", "late"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_waiter_cancels_what_it_started(job: Job, number: signal.Signals) -> None:
    process = subprocess.Popen(
        job.project.command("run", "--wait"), cwd=job.project.root,
        env=job.project.environment(job.variables("push", job.push())),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "gpu: waits for a runner" in line:
            break
    began = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 7.5
    assert process.returncode == 130
    (run,) = job.runs
    assert run.conclusion == "cancelled"
    assert "cancelled" in out
    assert job.statuses()["mltiers/gpu"][0] == "error"


def test_a_killed_waiter_leaves_it_to_whoever_comes_next(job: Job) -> None:
    config = CONFIG.replace("queue: 1h", "queue: 8s")  # long enough for a busy machine to end the waiter before
    job.project.write({"ml-tiers.yml": config})
    job.sha = job.project.commit("short queue")
    process = subprocess.Popen(
        job.project.command("run", "--wait"), cwd=job.project.root,
        env=job.project.environment(job.variables("push", job.push())),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "gpu: waits for a runner" in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (run,) = job.runs
    run.add_job("test", ("self-hosted", "cuda"))
    assert run.status == "queued"
    time.sleep(8.1)
    done = job.run("run", GITHUB_RUN_ID="78")  # the next push's
    assert run.conclusion == "cancelled", done.err
    assert len(job.runs) == 2


# --- shards and the matrix -----------------------------------------------------------------------------------------


def test_the_matrix_names_every_shard(job: Job, tmp_path: Path) -> None:
    job.project.write({"ml-tiers.yml": CONFIG.replace("queue: 1h}", "queue: 1h, shards: 3, gpus: 2}")})
    job.sha = job.project.commit("shards")
    output = tmp_path / "output"
    done = job.run("plan", GITHUB_OUTPUT=str(output))
    assert done.code == 0, done.err
    lines = output.read_text().splitlines()
    (matrix,) = [json.loads(line) for line in lines if line.startswith('{"include"')]
    assert matrix["include"] == [
        {"tier": "gpu", "shard": n, "shards": 3, "part": f"{n}/3", "runner": ["self-hosted", "cuda"], "gpus": 2,
         "budget-minutes": 30, "timeout-minutes": 40}
        for n in (1, 2, 3)
    ]  # fmt: skip


SUITE = {
    "tests/test_unit.py": "import pytest\n\n\n@pytest.mark.parametrize('n', range(7))\ndef test_unit(n):\n    pass\n"
}


def timed(job: Job, *, seconds: dict[str, float]) -> None:
    """An earlier commit's run of the gpu tier, with these durations of its tests."""
    (job.project.root / "tests" / "test_gpu.py").write_text(
        "".join(f"def {name}():\n    pass\n\n\n" for name in seconds)
    )
    job.sha = job.project.commit("gpu tests")
    cases = "".join(
        f'<testcase classname="tests.test_gpu" name="{name}" file="tests/test_gpu.py" time="{value}"></testcase>'
        for name, value in seconds.items()
    )
    total = sum(seconds.values())
    junit = (
        f'<testsuites><testsuite name="pytest" tests="{len(seconds)}" time="{total}">{cases}</testsuite></testsuites>'
    )
    result = {"version": 1, "tier": "gpu", "sha": job.sha, "ending": "exited", "exit_code": 0, "seconds": total}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("gpu/junit.xml", junit)
        archive.writestr("gpu/result.json", json.dumps(result))
    job.github.hooks = finishing(packed.getvalue())
    done = job.run("run", "--wait", "--json")
    assert json.loads(done.out)["tiers"]["gpu"]["verdict"] == "passed", done.err


def test_as_many_machines_as_the_budget_needs_all_split_by_the_same_durations(
    github: LoopbackGitHub, project: Make, tmp_path: Path
) -> None:
    config = CONFIG.replace("tests], when: [push, nightly]", "tests/test_gpu.py], when: [push, nightly], workers: 1")
    job = Job(github, project({**FILES, "ml-tiers.yml": config}))
    timed(job, seconds={"test_long": 900.0, **{f"test_{n}": 150.0 for n in range(6)}})  # 30 minutes, in a budget of 30
    job.project.write({"ml-tiers.yml": config.replace("queue: 1h}", "queue: 1h, shards: auto}")})
    job.sha = job.project.commit("auto")
    output = tmp_path / "output"
    done = job.run("plan", GITHUB_OUTPUT=str(output))
    assert "2 machines: the slowest is expected to take 9" in done.out, done.out + done.err
    (matrix,) = [json.loads(line) for line in output.read_text().splitlines() if line.startswith('{"include"')]
    parts = [leg["part"] for leg in matrix["include"] if leg["tier"] == "gpu"]
    snapshot = parts[0].partition("@")[2]
    assert parts == [f"1/2@{snapshot}", f"2/2@{snapshot}"]
    # The history goes on meanwhile: the shards are still split by what it was.
    job.github.hooks = Hooks()
    job.run("run", "unit", GITHUB_RUN_ID="80")
    ran = {}
    for number, part in enumerate(parts, 1):
        out = tmp_path / str(number)
        done = job.run("run", "gpu", "--no-dispatch", "--shard", part, "--out", str(out), GITHUB_RUN_ID="81")
        assert done.code == 0, done.err
        tests = json.loads((out / "gpu" / "result.json").read_text())["tests"]
        ran[number] = {test["node_id"].partition("::")[2] for test in tests}
    assert {"test_long"} in ran.values()
    assert len(ran[1] | ran[2]) == 7
    report = job.run("report", str(tmp_path / "1"), str(tmp_path / "2"), "--tier", "gpu", "--json", GITHUB_RUN_ID="82")
    assert json.loads(report.out)["tiers"]["gpu"]["verdict"] == "passed", report.err
    # A shard that cannot be told the durations does not run at all.
    lost = job.run("run", "gpu", "--no-dispatch", "--shard", f"1/2@{'f' * 40}", "--out", str(tmp_path / "lost"))
    assert lost.code == 3
    assert "mltiers: what earlier runs took is unknown" in lost.err
    assert not (tmp_path / "lost" / "gpu" / "result.json").exists()


def test_shards_that_ran_here_are_one_tier_when_reported(project: Make, tmp_path: Path) -> None:
    subject = project({**FILES, **SUITE})
    for shard in (1, 2, 3):
        done = subject.mltiers("run", "unit", "--shard", f"{shard}/3", "--out", str(tmp_path / str(shard)))
        assert done.code == 0, done.err
        result = json.loads((tmp_path / str(shard) / "unit" / "result.json").read_text())
        assert result["parts"][0]["shard"] == shard
    folders = [str(tmp_path / str(shard)) for shard in (1, 2, 3)]
    whole = subject.mltiers("report", *folders, "--json")
    assert whole.code == 0, whole.err
    assert json.loads(whole.out)["tiers"]["unit"]["counts"]["passed"] == 7
    part = subject.mltiers("report", *folders[:2], "--json")
    assert part.code == 3
    assert "part 3 of 3 is missing" in json.loads(part.out)["tiers"]["unit"]["reasons"]
    twice = subject.mltiers("report", folders[0], *folders, "--json")
    assert twice.code == 3
    assert "part 1 of 3 came more than once" in json.loads(twice.out)["tiers"]["unit"]["reasons"]


def test_more_shards_than_tests(project: Make, tmp_path: Path) -> None:
    subject = project(FILES)
    codes = [subject.mltiers("run", "unit", "--shard", f"{n}/2", "--out", str(tmp_path / str(n))).code for n in (1, 2)]
    assert codes == [0, 0]
    whole = subject.mltiers("report", str(tmp_path / "1"), str(tmp_path / "2"), "--json")
    assert json.loads(whole.out)["tiers"]["unit"]["verdict"] == "passed"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "x", "1/2@main"])
def test_no_shard(project: Make, shard: str) -> None:
    done = project(FILES).mltiers("run", "unit", "--shard", shard)
    assert done.code == 2
    assert f"--shard {shard!r} is no part of a tier" in done.err


# --- the reporting job of a dispatched run -------------------------------------------------------------------------


def dispatched(job: Job, shards: int) -> list[Run]:
    config = CONFIG.replace("queue: 1h}", f"queue: 1h, shards: {shards}}}")
    job.project.write({"ml-tiers.yml": config})
    job.sha = job.project.commit("shards")
    assert job.run("dispatch", "gpu").code == 0
    for run in job.runs:
        run.add_job("test", ("self-hosted", "cuda"))
        run.start()
    return job.runs


def test_ends(run: Run, content: bytes) -> None:
    run.add_artifact("mltiers-test-gpu", content)
    run.jobs[0].status = run.jobs[0].conclusion = "completed"
    run.jobs[0].conclusion = "success"
    run.add_job("report", ("ubuntu-latest",))


test_ends.__test__ = False  # type: ignore[attr-defined]


def report(job: Job, run: Run, *extra: str) -> Done:
    payload = {"inputs": dict(run.inputs), "repository": {"full_name": "octo/widgets", "default_branch": "main"}}
    return job.project.mltiers(
        "report", "--tier", "gpu", "--nonce", run.inputs["nonce"], "--sha", run.inputs["sha"], "--json", *extra,
        **job.variables("workflow_dispatch", payload, GITHUB_RUN_ID=str(run.id)),
    )  # fmt: skip


def test_the_last_shard_reports_for_all(job: Job) -> None:
    runs = dispatched(job, 3)
    for number, run in enumerate(runs, 1):
        test_ends(run, results("gpu", [f"test_{number}"], part=(number, 3), collected=3, sha=job.sha))
        done = report(job, run)
        assert done.code == 0, done.err
        verdict = json.loads(done.out)["tiers"]["gpu"]
        if number < 3:
            assert verdict["verdict"] == "not-run"
            assert job.statuses()["mltiers/gpu"] == (
                "pending", f"{number} of 3 parts have ended; the last one reports",
            )  # fmt: skip
        else:
            assert verdict["verdict"] == "passed"
            assert verdict["counts"]["passed"] == 3
    assert job.statuses()["mltiers/gpu"][0] == "success"
    for run in runs:
        run.finish("success")
    assert json.loads(job.run("dispatch", "--sweep", "--json").out)["dispatched"] == []
    assert job.statuses()["mltiers/gpu"][0] == "success"


def test_a_dispatched_run_that_left_nothing_is_reported_as_such(job: Job) -> None:
    (run,) = dispatched(job, 1)
    run.jobs[0].status, run.jobs[0].conclusion = "completed", "failure"
    done = report(job, run)
    assert done.code == 3, done.err
    assert job.statuses()["mltiers/gpu"][0] == "error"


def test_a_nonce_that_is_none_is_refused(job: Job) -> None:
    (run,) = dispatched(job, 1)
    run.inputs = {**run.inputs, "nonce": "x"}
    done = report(job, run)
    assert done.code == 2
    assert "--nonce 'x' is not one of ours" in done.err


def test_report_without_folders_takes_what_this_run_uploaded(job: Job) -> None:
    (run,) = dispatched(job, 1)
    run.add_artifact("mltiers-tests-gpu", results("gpu", sha=job.sha))
    run.add_artifact("mltiers-tests-unit", results("unit", sha=job.sha))
    run.add_artifact("something-else", b"no zip")
    done = job.run("report", "--json", GITHUB_RUN_ID=str(run.id))
    assert done.code == 0, done.err
    assert {name: t["verdict"] for name, t in json.loads(done.out)["tiers"].items()} == {
        "unit": "passed", "gpu": "passed", "late": "not-run",
    }  # fmt: skip


def test_a_laptop_is_told_what_it_lacks(project: Make) -> None:
    subject = project(FILES)
    named = subject.mltiers("run", "gpu")
    assert named.code == 2
    assert "`mltiers run gpu --no-dispatch` runs it here" in named.err
    assert subject.mltiers("dispatch").code == 2
    assert subject.mltiers("report").code == 2
    nightly = subject.mltiers("run", "--event", "schedule", "--json")
    assert nightly.code == 0, nightly.err
    assert json.loads(nightly.out)["tiers"]["gpu"]["verdict"] == "not-run"
