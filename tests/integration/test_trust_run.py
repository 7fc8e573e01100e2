"""Who may start the machines of the team, by the front door, asked of a GitHub that knows who may write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.loopback_github import READ, LoopbackGitHub, payloads, server_error
from tests.loopback_github.contract import github_contract
from tests.support.trust_scene import FILES, Make, Scene, make_scene, starts, waits


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def scene(github: LoopbackGitHub, project: Make) -> Scene:
    return make_scene(github, project)


def held(payload_name: str, payload: dict[str, Any]) -> dict[str, Any]:
    assert github_contract().payload_problems(payload_name, payload) == []
    return payload


# --- pushes, nights and queues ---------------------------------------------------------------------------------------


def test_a_night_runs_what_is_nightly(scene: Scene) -> None:
    plan = scene.plan("schedule", payloads.schedule(scene.repository))
    assert starts(plan) == {"gpu", "convergence"}
    assert waits(plan) == set()
    assert scene.github.asked("GET", "/permission") == []


def test_a_merge_queue_runs_what_is_pre_merge(scene: Scene) -> None:
    payload = payloads.merge_group(scene.pull, head_sha=scene.pull.head_sha)
    plan = scene.plan("merge_group", held("merge-group-checks-requested", payload), "--force")
    assert starts(plan) == {"gpu", "kernels"}


def test_a_push_is_by_somebody_who_may(scene: Scene) -> None:
    payload = payloads.push(scene.repository, after=scene.pull.head_sha, before=scene.pull.base_sha, sender="ann")
    assert starts(scene.plan("push", payload)) == {"smoke"}


# --- pull requests and labels ----------------------------------------------------------------------------------------


def test_a_pull_request_by_a_writer(scene: Scene) -> None:
    plan = scene.plan("pull_request", payloads.pull_request(scene.pull))
    assert starts(plan) == {"smoke"}
    assert waits(plan) == {"gpu"}  # kernels would not run, whoever approved it: no file of it changed
    assert plan["tiers"]["kernels"]["reason"] == "no changed file matches kernels/**"


@pytest.mark.parametrize("who", ["bob", "tom", "stranger", "dependabot[bot]"])
def test_a_pull_request_by_somebody_without_write_permission(scene: Scene, who: str) -> None:
    plan = scene.plan("pull_request", payloads.pull_request(scene.pull, sender=who))
    assert starts(plan) == set()
    assert waits(plan) == {"smoke", "gpu"}
    assert f"{who} has no write permission here" in plan["tiers"]["smoke"]["reason"]
    assert plan["tiers"]["unit"]["run"]


@pytest.mark.parametrize("who", ["ann", "cat"])
def test_the_label_of_a_writer_starts_it(scene: Scene, who: str) -> None:
    plan = scene.plan("pull_request", held("pull-request-labeled", scene.labeled(who)))
    assert starts(plan) == {"gpu", "smoke"}
    assert plan["event"]["sha"] == scene.pull.head_sha


@pytest.mark.parametrize("who", ["bob", "tom", "stranger"])  # triage may label, and may not spend
def test_the_label_of_anybody_else_does_not(scene: Scene, who: str) -> None:
    plan = scene.plan("pull_request", scene.labeled(who))
    assert starts(plan) == set()
    assert "gpu" in waits(plan)


def test_a_label_that_was_there_before_a_push_approves_nothing(scene: Scene) -> None:
    scene.pull.labels.append("ready-for-gpu")
    before = scene.push_to_branch()
    payload = payloads.pull_request(scene.pull, action="synchronize", before=before, sender="ann")
    plan = scene.plan("pull_request", payload)
    assert starts(plan) == {"smoke"}
    assert "gpu" in waits(plan)


def test_another_label_approves_nothing(scene: Scene) -> None:
    scene.pull.labels.append("ready-for-gpu")
    assert starts(scene.plan("pull_request", scene.labeled("ann", "bug"))) == {"smoke"}


def test_the_head_moved_after_the_label(scene: Scene) -> None:
    payload = scene.labeled("ann")
    approved = scene.push_to_branch()
    plan = scene.plan("pull_request", payload)
    assert starts(plan) == set()
    reason = plan["tiers"]["gpu"]["reason"]
    assert reason == (
        f"the head of the pull request is {scene.pull.head_sha[:10]} by now, and {approved[:10]} was asked for"
    )


def test_who_may_is_unknown_and_so_nothing_starts(scene: Scene) -> None:
    scene.github.inject(server_error(), method="GET", path="/permission", times=9)
    plan = scene.plan("pull_request", scene.labeled("ann"))
    assert starts(plan) == set()
    assert "whether ann has write permission is unknown" in plan["tiers"]["gpu"]["reason"]
    assert plan["tiers"]["unit"]["run"]


def test_without_a_token_nothing_starts(scene: Scene) -> None:
    scene.token = ""
    plan = scene.plan("pull_request", scene.labeled("ann"))
    assert starts(plan) == set()
    assert "there is no GITHUB_TOKEN to ask with" in plan["tiers"]["gpu"]["reason"]


def test_the_configuration_of_the_base_branch_decides(scene: Scene) -> None:
    text = FILES["ml-tiers.yml"].replace("when: [nightly, pre-merge]", "when: [pull_request]")
    scene.project.write({"ml-tiers.yml": text + "  mine: {when: [pull_request], runner: [self-hosted, cuda]}\n"})
    scene.pull.head_sha = scene.project.commit("more for me")
    plan = scene.plan("pull_request", payloads.pull_request(scene.pull))
    assert starts(plan) == {"smoke"}
    assert "this pull request changes tiers.gpu.when; until it is merged the base branch's value holds" in plan["notes"]
    assert plan["tiers"]["mine"]["reason"] == "it is new in this pull request: it starts no runner before the merge"


# --- forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["stranger", "ann"])
def test_a_forks_events_start_nothing_whoever_causes_them(github: LoopbackGitHub, project: Make, who: str) -> None:
    scene = make_scene(github, project, fork=True, permissions=READ)
    for payload in (payloads.pull_request(scene.pull, sender=who), scene.labeled(who)):
        plan = scene.plan("pull_request", payload)
        assert starts(plan) == set()
        assert waits(plan) >= {"gpu", "smoke"}
        assert f"`/mltiers gpu {scene.pull.head_sha}`" in plan["tiers"]["gpu"]["reason"]
        assert plan["tiers"]["unit"]["run"]


def test_a_fork_is_one_also_when_it_is_gone(github: LoopbackGitHub, project: Make) -> None:
    scene = make_scene(github, project, fork=True)
    scene.pull.head_repository = None
    assert starts(scene.plan("pull_request", scene.labeled("ann"))) == set()


def test_a_forks_tiers_do_not_run_on_a_machine_of_the_teams(github: LoopbackGitHub, project: Make) -> None:
    scene = make_scene(github, project, fork=True)
    payload = payloads.pull_request(scene.pull)
    done = scene.command("run", name="pull_request", payload=payload, RUNNER_ENVIRONMENT="self-hosted")
    assert done.code == 0, done.err
    unit = done.verdict["tiers"]["unit"]
    assert unit["verdict"] == "not-run"
    assert unit["reasons"] == ["a fork's code never runs on a self-hosted runner: give this job a runner of GitHub's"]


# --- comments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["ann", "cat"])
def test_a_writers_comment_starts_the_tier_it_names(scene: Scene, who: str) -> None:
    payload = held("issue-comment-created", scene.comment(who, "/mltiers gpu", minutes=1))
    plan = scene.plan("issue_comment", payload)
    assert starts(plan) == {"gpu"}
    assert plan["event"]["sha"] == scene.pull.head_sha
    assert plan["event"]["pull_request"]["number"] == scene.pull.number
    assert not plan["tiers"]["unit"]["run"]  # this job has a token that can write


@pytest.mark.parametrize("who", ["bob", "tom", "stranger", "dependabot[bot]"])
def test_a_strangers_comment_starts_nothing(scene: Scene, who: str) -> None:
    plan = scene.plan("issue_comment", scene.comment(who, f"/mltiers gpu {scene.pull.head_sha}", minutes=1))
    assert starts(plan) == set()
    assert plan["tiers"]["gpu"]["reason"] == f"{who} has no write permission here"


def test_the_association_of_an_author_counts_for_nothing(scene: Scene) -> None:
    payload = scene.comment("bob", "/mltiers gpu", minutes=1)
    payload["comment"]["author_association"] = "OWNER"
    assert starts(scene.plan("issue_comment", payload)) == set()


def test_a_comment_asks_for_what_a_pull_request_may_have(scene: Scene) -> None:
    smoke = scene.plan("issue_comment", scene.comment("ann", "/mltiers smoke", minutes=1))
    assert starts(smoke) == {"smoke"}
    assert smoke["tiers"]["smoke"]["notes"] == ["needs unit, not part of this run"]
    kernels = scene.plan("issue_comment", scene.comment("ann", "/mltiers kernels", minutes=1))
    assert starts(kernels) == {"kernels"}  # asked for, so whatever changed
    nightly = scene.plan("issue_comment", scene.comment("ann", "/mltiers convergence", minutes=1))
    assert starts(nightly) == set()
    assert nightly["tiers"]["convergence"]["reason"] == "runs on nightly, not on issue_comment"


def test_a_comment_not_younger_than_the_head_has_to_name_it(scene: Scene) -> None:
    payload = scene.comment("ann", "/mltiers gpu", minutes=-1)
    plan = scene.plan("issue_comment", payload)
    assert starts(plan) == set()
    assert "the head is not older than the comment" in plan["tiers"]["gpu"]["reason"]
    payload = scene.comment("ann", f"/mltiers gpu {scene.pull.head_sha}", minutes=-1)
    assert starts(scene.plan("issue_comment", payload)) == {"gpu"}


def test_the_head_moved_after_the_comment(scene: Scene) -> None:
    payload = scene.comment("ann", f"/mltiers gpu {scene.pull.head_sha}")
    scene.push_to_branch()
    plan = scene.plan("issue_comment", payload)
    assert starts(plan) == set()
    assert "was asked for" in plan["tiers"]["gpu"]["reason"]


def test_a_fork_needs_the_commit_and_a_writer(github: LoopbackGitHub, project: Make) -> None:
    scene = make_scene(github, project, fork=True)
    head = scene.pull.head_sha
    short = scene.plan("issue_comment", scene.comment("ann", "/mltiers gpu", minutes=1))
    assert starts(short) == set()
    assert f"`/mltiers gpu {head}`" in short["tiers"]["gpu"]["reason"]
    author = scene.plan("issue_comment", scene.comment("stranger", f"/mltiers gpu {head}", minutes=1))
    assert starts(author) == set()
    whole = scene.plan("issue_comment", scene.comment("ann", f"/mltiers gpu {head}", minutes=1))
    assert starts(whole) == {"gpu"}
    assert whole["event"]["sha"] == head
    cut = scene.plan("issue_comment", scene.comment("ann", f"/mltiers gpu {head[:12]}", minutes=1))
    assert starts(cut) == set()
    assert "in full, 40 digits" in cut["tiers"]["gpu"]["reason"]


@pytest.mark.parametrize("text", ["Looks good", "please\n/mltiers gpu", "> /mltiers gpu", "/mltiers", "/mltiers $(id)"])
def test_what_is_no_command_starts_nothing(scene: Scene, text: str) -> None:
    assert starts(scene.plan("issue_comment", scene.comment("ann", text, minutes=1))) == set()


def test_an_edited_comment_starts_nothing(scene: Scene) -> None:
    payload = {**scene.comment("ann", "/mltiers gpu", minutes=1), "action": "edited"}
    assert starts(scene.plan("issue_comment", payload)) == set()


def test_a_comment_sent_by_another_than_its_author_starts_nothing(scene: Scene) -> None:
    payload = scene.comment("ann", "/mltiers gpu", minutes=1)
    payload["sender"] = scene.comment("bob", "hello")["sender"]
    assert starts(scene.plan("issue_comment", payload)) == set()


def test_a_comment_on_an_issue_or_a_closed_pull_request_starts_nothing(scene: Scene) -> None:
    issue = scene.comment("ann", "/mltiers gpu", minutes=1)
    del issue["issue"]["pull_request"]
    assert starts(scene.plan("issue_comment", issue)) == set()
    scene.pull.state = "closed"
    plan = scene.plan("issue_comment", scene.comment("ann", "/mltiers gpu", minutes=1))
    assert plan["tiers"]["gpu"]["reason"] == "the pull request is closed"


def test_a_deleted_account_may_nothing(scene: Scene) -> None:
    payload = scene.comment("ann", "/mltiers gpu", minutes=1)
    payload["comment"]["user"] = None
    assert starts(scene.plan("issue_comment", payload)) == set()


# --- what the job itself may do --------------------------------------------------------------------------------------


def test_pull_request_target_is_refused_with_the_way_out(scene: Scene) -> None:
    done = scene.command("plan", name="pull_request_target", payload=payloads.pull_request(scene.pull))
    assert done.code == 2
    assert "pull_request_target" in done.err
    assert "workflow_run" in done.err


def test_a_dispatched_job_refuses_another_commit_than_the_approved_one(scene: Scene) -> None:
    approved = scene.push_to_branch()
    payload = payloads.workflow_dispatch(scene.repository)
    arguments = ("run", "gpu", "--no-dispatch", "--sha", approved)
    done = scene.command(*arguments, name="workflow_dispatch", payload=payload)
    assert done.code == 2
    assert f"the checkout is at {scene.pull.head_sha}, and the commit to test is {approved}" in done.err
    assert not (done.folder / ".mltiers" / "gpu").exists()


def test_a_workflow_run_runs_nothing(scene: Scene) -> None:
    workflow = scene.repository.add_workflow(".github/workflows/tests.yml", "name: Tests\non: pull_request\n")
    run = scene.repository.add_run(
        workflow, event="pull_request", head_branch="feature", head_sha=scene.pull.head_sha, actor="stranger"
    )
    run.finish("success")
    done = scene.command("run", name="workflow_run", payload=payloads.workflow_run(run))
    assert done.code == 2
    assert "nothing is run here" in done.err
