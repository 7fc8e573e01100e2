"""The loopback GitHub is held to GitHub's own description, and says so when something breaks it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.loopback_github import (
    READ,
    Fault,
    FileChange,
    Hooks,
    LoopbackGitHub,
    Repository,
    Run,
    payloads,
    secondary_rate_limit,
)
from tests.loopback_github.api import ROUTES
from tests.loopback_github.contract import Contract, github_contract
from tests.loopback_github.extract_openapi import OPERATIONS, PAYLOADS, clean

GPU_WORKFLOW = """
name: GPU tier
run-name: "gpu ${{ inputs.nonce }} by ${{ github.actor }}"
on:
  workflow_dispatch:
    inputs:
      nonce: {required: true}
      shard: {default: "1/1"}
      tier: {type: choice, options: [gpu, convergence], default: gpu}
jobs: {}
"""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def git_folder(tmp_path: Path) -> Path:
    """Two commits on main; a feature branch that adds, changes, renames and deletes."""
    folder = tmp_path / "work"
    folder.mkdir()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    git("init", "-q", "-b", "main")
    for name in ("kept.py", "changed.py", "moved.py", "gone.py"):
        (folder / name).write_text(f"# {name}\n" * 20)
    git("add", "-A")
    git("commit", "-qm", "first")
    git("switch", "-qc", "feature")
    (folder / "changed.py").write_text("# other\n")
    (folder / "new.py").write_text("x = 1\n")
    git("mv", "moved.py", "elsewhere.py")
    git("rm", "-q", "gone.py")
    git("add", "-A")
    git("commit", "-qm", "second")
    git("switch", "-q", "main")
    (folder / "kept.py").write_text("# ahead\n")
    git("commit", "-qam", "third")
    return folder


class Caller:
    """A plain client: the loopback judges it, not our own one."""

    def __init__(self, github: LoopbackGitHub, token: str | None, root: str = "/repos/octo/widgets") -> None:
        self._github = github
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._root = root

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {**self._headers, **options.pop("headers", {})}
        url = self._github.api_url + (path if path in ("/user", "/rate_limit") else self._root + path)
        return requests.request(method, url, headers=headers, allow_redirects=False, timeout=10, **options)


def every_operation(github: LoopbackGitHub, repository: Repository) -> dict[str, Callable[[], requests.Response]]:
    """One plain, successful request of each operation, in an order in which all of them work."""
    pull = repository.add_pull_request(head="feature", labels=["ready-for-gpu"])
    repository.collaborators["writer"] = "maintain"
    github.world.account("writer")
    workflow = repository.add_workflow(".github/workflows/gpu-tier.yml", GPU_WORKFLOW)
    run = repository.add_run(
        workflow, event="schedule", head_branch="main", head_sha=pull.base_sha, actor="octo", inputs={"nonce": "1"}
    )
    run.add_job("gpu")
    run.start()
    artifact = run.add_artifact("results", b"PK")
    other = repository.add_run(workflow, event="push", head_branch="main", head_sha=pull.base_sha, actor="octo")
    comment = pull.comment("octo", "hello")
    head = pull.head_sha
    call, person = Caller(github, github.add_token()), Caller(github, github.add_token("octo"))
    dispatch = {"ref": "main", "inputs": {"nonce": "n"}, "return_run_details": True}
    check = {"name": "lint", "head_sha": head, "output": {"title": "t", "summary": "s", "annotations": []}}
    checks: dict[str, str] = {}

    def create_check() -> requests.Response:
        answer = call("POST", "/check-runs", json=check)
        checks["id"] = answer.json()["id"]
        return answer

    return {
        "users/get-authenticated": lambda: person("GET", "/user"),
        "rate-limit/get": lambda: call("GET", "/rate_limit"),
        "repos/get": lambda: call("GET", ""),
        "repos/get-collaborator-permission-level": lambda: call("GET", "/collaborators/writer/permission"),
        "pulls/list": lambda: call("GET", "/pulls?state=all&head=octo:feature"),
        "pulls/get": lambda: call("GET", "/pulls/1"),
        "pulls/list-files": lambda: call("GET", "/pulls/1/files"),
        "repos/list-pull-requests-associated-with-commit": lambda: call("GET", f"/commits/{head}/pulls"),
        "issues/list-comments": lambda: call("GET", "/issues/1/comments"),
        "issues/create-comment": lambda: call("POST", "/issues/1/comments", json={"body": "hi"}),
        "issues/get-comment": lambda: call("GET", f"/issues/comments/{comment.id}"),
        "issues/update-comment": lambda: call("PATCH", f"/issues/comments/{comment.id}", json={"body": "ho"}),
        "issues/delete-comment": lambda: call("DELETE", f"/issues/comments/{comment.id}"),
        "repos/create-commit-status": lambda: call("POST", f"/statuses/{head}", json={"state": "pending"}),
        "repos/list-commit-statuses-for-ref": lambda: call("GET", f"/commits/{head}/statuses"),
        "repos/get-combined-status-for-ref": lambda: call("GET", f"/commits/{head}/status"),
        "checks/create": create_check,
        "checks/get": lambda: call("GET", f"/check-runs/{checks['id']}"),
        "checks/update": lambda: call("PATCH", f"/check-runs/{checks['id']}", json={"conclusion": "success"}),
        "checks/list-for-ref": lambda: call("GET", f"/commits/{head}/check-runs?check_name=lint"),
        "repos/get-commit": lambda: call("GET", "/commits/feature"),
        "repos/compare-commits-with-basehead": lambda: call("GET", "/compare/main...feature"),
        "git/get-ref": lambda: call("GET", "/git/ref/heads/main"),
        "git/create-ref": lambda: call("POST", "/git/refs", json={"ref": "refs/heads/data/x", "sha": head}),
        "git/update-ref": lambda: call("PATCH", "/git/refs/heads/data/x", json={"sha": head, "force": True}),
        "actions/get-workflow": lambda: call("GET", "/actions/workflows/gpu-tier.yml"),
        "actions/create-workflow-dispatch": lambda: call(
            "POST", "/actions/workflows/gpu-tier.yml/dispatches", json=dispatch
        ),
        "actions/list-workflow-runs": lambda: call("GET", "/actions/workflows/gpu-tier.yml/runs?event=schedule"),
        "actions/list-workflow-runs-for-repo": lambda: call("GET", "/actions/runs?created=%3E%3D2020-01-01"),
        "actions/get-workflow-run": lambda: call("GET", f"/actions/runs/{run.id}"),
        "actions/list-jobs-for-workflow-run": lambda: call("GET", f"/actions/runs/{run.id}/jobs"),
        "actions/list-workflow-run-artifacts": lambda: call("GET", f"/actions/runs/{run.id}/artifacts?name=results"),
        "actions/get-artifact": lambda: call("GET", f"/actions/artifacts/{artifact.id}"),
        "actions/download-artifact": lambda: call("GET", f"/actions/artifacts/{artifact.id}/zip"),
        "actions/cancel-workflow-run": lambda: call("POST", f"/actions/runs/{run.id}/cancel"),
        "actions/force-cancel-workflow-run": lambda: call("POST", f"/actions/runs/{other.id}/force-cancel"),
    }


def test_every_described_operation_is_served_and_every_answer_is_githubs(
    github: LoopbackGitHub, git_folder: Path
) -> None:
    requests_of = every_operation(github, github.add_repository(path=git_folder))
    assert set(requests_of) == set(OPERATIONS) == set(ROUTES) == set(github_contract().operations)
    statuses = {name: send().status_code for name, send in requests_of.items()}
    assert github.violations == []
    assert {name: status for name, status in statuses.items() if status not in (200, 201, 202, 204)} == {
        "actions/download-artifact": 302
    }


def test_the_extract_reaches_every_schema_it_names() -> None:
    document = json.loads(Path(__file__).parents[1].joinpath("loopback_github/openapi.json").read_text())
    named = set(re.findall(r'"#/schemas/([^"]+)"', json.dumps(document)))
    assert named == set(document["schemas"])
    assert set(document["payloads"]) == set(PAYLOADS)
    assert not re.search(r'"(description|example|examples)": "', json.dumps(document["operations"]))


def test_cleaning_a_schema_keeps_what_validates_and_closes_objects() -> None:
    schema = {
        "type": "object",
        "description": "prose",
        "required": ["description"],
        "properties": {
            "description": {"type": "string", "nullable": True, "example": "x"},
            "nullable": {"$ref": "#/components/schemas/a"},
        },
    }
    assert clean(schema) == {
        "type": "object",
        "required": ["description"],
        "properties": {
            "description": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "nullable": {"$ref": "#/schemas/a"},
        },
        "additionalProperties": False,
    }
    part = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert "additionalProperties" not in clean({"allOf": [part]})["allOf"][0]


WRONG_REQUESTS = [
    ("POST", "/issues/1/comments", {"body": 1}, "body.body: 1 is not of type 'string'"),
    ("POST", "/issues/1/comments", {}, "'body' is a required property"),
    ("POST", "/issues/1/comments", {"body": "x", "markdown": True}, "'markdown' was unexpected"),
    ("POST", "/issues/1/comments", None, "the body is missing"),
    ("GET", "/issues/one/comments", None, "parameter issue_number: 'one' is not of type 'integer'"),
    ("GET", "/issues/1/comments?pages=2", None, "unknown query parameter pages"),
    ("GET", "/issues/1/comments?since=2026-01-01T00:00:00Z", None, "does not implement the parameter since"),
    ("GET", "/issues/1/comments", {"a": 1}, "a body, where none is described"),
    ("GET", "/issues/1/timeline", None, "not an operation of the extract"),
    ("POST", f"/statuses/{'0' * 40}", {"state": "green"}, "'green' is not one of"),
]


@pytest.mark.parametrize(("method", "path", "body", "sentence"), WRONG_REQUESTS)
def test_a_request_that_github_would_not_understand_is_loud(
    method: str, path: str, body: dict[str, Any] | None, sentence: str
) -> None:
    def misbehave() -> None:
        with LoopbackGitHub() as github:
            github.add_repository().add_pull_request()
            answer = Caller(github, github.add_token())(method, path, json=body)
            assert answer.status_code == 500
            assert sentence in answer.json()["message"]
            assert [sentence in violation for violation in github.violations] == [True]

    with pytest.raises(AssertionError, match="GitHub's description was broken") as caught:
        misbehave()
    assert sentence in str(caught.value)


def test_an_answer_that_github_could_not_give_is_loud(github: LoopbackGitHub) -> None:
    pull = github.add_repository().add_pull_request(files=[FileChange(filename="a.py", status="touched")])
    answer = Caller(github, github.add_token())("GET", "/pulls/1/files")
    assert answer.status_code == 500
    assert "'touched' is not one of" in github.violations[0]
    github.violations.clear()
    assert pull.files is not None


ANSWERS: list[tuple[str, int, Any, str | None]] = [
    ("issues/get-comment", 200, {"id": 1}, "required property"),
    ("issues/get-comment", 204, None, "status 204 is not described"),
    ("issues/delete-comment", 204, {"a": 1}, "a body with status 204"),
    ("issues/get-comment", 200, None, "no body with status 200"),
    ("issues/get-comment", 304, None, None),
    ("issues/create-comment", 304, None, "status 304 is not described"),
    ("repos/create-commit-status", 403, {"message": "no", "documentation_url": "https://x"}, None),
    ("repos/create-commit-status", 403, {"message": "no", "hint": "https://x"}, "'hint' was unexpected"),
]


@pytest.mark.parametrize(("operation", "status", "body", "sentence"), ANSWERS)
def test_answers_are_judged(operation: str, status: int, body: Any, sentence: str | None) -> None:
    contract: Contract = github_contract()
    problems = contract.answer_problems(contract.operations[operation], status, body, has_body=body is not None)
    if sentence is None:
        assert problems == []
    else:
        assert any(sentence in problem for problem in problems)


def test_every_payload_is_the_webhooks(github: LoopbackGitHub, git_folder: Path) -> None:
    repository = github.add_repository(path=git_folder)
    pull = repository.add_pull_request(head="feature", labels=["ready-for-gpu"])
    workflow = repository.add_workflow(".github/workflows/gpu-tier.yml", GPU_WORKFLOW)
    run = repository.add_run(workflow, event="push", head_branch="main", head_sha=pull.base_sha, actor="octo")
    run.finish("stale")
    made = {
        "push": payloads.push(repository, before=pull.base_sha, after=pull.head_sha),
        "pull-request-opened": payloads.pull_request(pull),
        "pull-request-reopened": payloads.pull_request(pull, action="reopened"),
        "pull-request-synchronize": payloads.pull_request(pull, action="synchronize", before="1" * 40),
        "pull-request-labeled": payloads.pull_request(pull, action="labeled", label="ready-for-gpu"),
        "merge-group-checks-requested": payloads.merge_group(pull, head_sha=pull.head_sha),
        "workflow-dispatch": payloads.workflow_dispatch(repository, inputs={"tier": "gpu"}),
        "release-published": payloads.release(repository),
        "issue-comment-created": payloads.issue_comment(pull, pull.comment("octo", "/mltiers gpu")),
        "workflow-run-completed": payloads.workflow_run(run),
    }
    assert set(made) == set(PAYLOADS)
    problems = {name: github_contract().payload_problems(name, payload) for name, payload in made.items()}
    assert {name: found for name, found in problems.items() if found} == {}
    assert made["push"]["commits"][-1]["added"] == ["new.py"]
    assert payloads.push(repository, after=pull.head_sha)["created"] is True
    assert payloads.schedule(repository)["repository"]["default_branch"] == "main"


def test_git_is_asked_for_files_and_comparisons(github: LoopbackGitHub, git_folder: Path) -> None:
    repository = github.add_repository(path=git_folder)
    repository.add_pull_request(head="feature")
    call = Caller(github, github.add_token())
    files = {f["filename"]: (f["status"], f.get("previous_filename")) for f in call("GET", "/pulls/1/files").json()}
    assert files == {
        "changed.py": ("modified", None),
        "elsewhere.py": ("renamed", "moved.py"),
        "gone.py": ("removed", None),
        "new.py": ("added", None),
    }
    comparison = call("GET", "/compare/main...feature").json()
    assert (comparison["status"], comparison["ahead_by"], comparison["behind_by"]) == ("diverged", 1, 1)
    assert {f["filename"] for f in comparison["files"]} == set(files)
    assert call("GET", "/compare/main...nowhere").status_code == 404
    refused = call("PATCH", "/git/refs/heads/main", json={"sha": repository.resolve("feature")})
    assert (refused.status_code, refused.json()["message"]) == (422, "Update is not a fast forward")


def test_a_list_comes_in_pages_whose_links_name_the_repository_by_number(github: LoopbackGitHub) -> None:
    repository = github.add_repository()
    pull = repository.add_pull_request()
    for index in range(70):
        pull.comment("somebody", f"comment {index}")
    call = Caller(github, github.add_token())
    seen, url = [], f"{github.api_url}/repos/octo/widgets/issues/1/comments"
    token = github.add_token()
    while url:
        answer = requests.get(url, headers={"Authorization": f"token {token}"}, timeout=10)
        seen += [comment["body"] for comment in answer.json()]
        url = answer.links.get("next", {}).get("url", "")
        assert not url or f"/repositories/{repository.id}/issues/1/comments?page=" in url
    assert seen == [f"comment {index}" for index in range(70)]
    assert len(call("GET", "/issues/1/comments?per_page=1000").json()) == 70  # a hundred is the most
    assert call("GET", "/issues/1/comments?page=9").json() == []


def test_a_conditional_request_costs_nothing_until_something_changes(github: LoopbackGitHub) -> None:
    pull = github.add_repository().add_pull_request()
    call = Caller(github, github.add_token())
    first = call("GET", "/issues/1/comments")
    again = call("GET", "/issues/1/comments", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["X-RateLimit-Remaining"] == first.headers["X-RateLimit-Remaining"]
    pull.comment("somebody", "new")
    assert call("GET", "/issues/1/comments", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_tokens_may_do_what_they_hold_and_no_more(github: LoopbackGitHub) -> None:
    repository = github.add_repository()
    repository.add_pull_request()
    sha = "1" * 40
    fork = Caller(github, github.add_token(permissions=READ))
    refused = fork("POST", "/issues/1/comments", json={"body": "x"})
    assert (refused.status_code, refused.json()["message"]) == (403, "Resource not accessible by integration")
    assert refused.headers["X-Accepted-GitHub-Permissions"] == "issues=write; pull_requests=write"
    assert fork("GET", "/issues/1/comments").status_code == 200
    only_statuses = Caller(github, github.add_token(permissions={"statuses": "write"}))
    assert only_statuses("POST", f"/statuses/{sha}", json={"state": "success"}).status_code == 201
    assert only_statuses("GET", "/pulls/1").status_code == 200  # public: anybody may read
    repository.private = True
    assert only_statuses("GET", "/pulls/1").status_code == 403
    assert Caller(github, None)("GET", "/pulls/1").status_code == 404
    repository.private = False
    assert Caller(github, None)("POST", f"/statuses/{sha}", json={"state": "success"}).status_code == 401
    assert Caller(github, "ghs_unknown")("GET", "/pulls/1").status_code == 401
    assert fork("GET", "/user").status_code == 403
    assert Caller(github, github.add_token("octo"))("GET", "/user").json()["login"] == "octo"


def test_the_rate_limit_ends_and_lifts(github: LoopbackGitHub) -> None:
    github.add_repository()
    github.world.rate_limit = 2
    call = Caller(github, github.add_token())
    answers = [call("GET", "") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert call("GET", "/rate_limit").json()["rate"]["remaining"] == 0
    github.world.rate_reset = github.world.rate_reset.replace(year=2020)
    assert call("GET", "").status_code == 200


def test_faults_happen_to_the_requests_they_name(github: LoopbackGitHub) -> None:
    pull = github.add_repository().add_pull_request()
    call = Caller(github, github.add_token())
    github.inject(secondary_rate_limit(status=429, retry_after=7), method="POST", path="/comments$")
    limited = call("POST", "/issues/1/comments", json={"body": "x"})
    assert (limited.status_code, limited.headers["Retry-After"], pull.comments) == (429, "7", [])
    github.inject(Fault(drop=True, effect=True), method="POST", path="/comments$")
    assert call("GET", "").status_code == 200  # not the one
    with pytest.raises(requests.ConnectionError):
        call("POST", "/issues/1/comments", json={"body": "y"})
    assert [comment.body for comment in pull.comments] == ["y"]
    assert [(x.method, x.status) for x in github.exchanges] == [("POST", 429), ("GET", 200), ("POST", None)]
    assert github.unused_faults == 0


STATUS_422 = [
    ({"state": "success", "description": "x" * 141}, "description is too long (maximum is 140 characters)"),
    ({"state": "success", "target_url": "ftp://x"}, "target_url must use http(s) scheme"),
]


@pytest.mark.parametrize(("body", "sentence"), STATUS_422)
def test_a_status_is_refused_as_github_does(github: LoopbackGitHub, body: dict[str, str], sentence: str) -> None:
    github.add_repository()
    refused = Caller(github, github.add_token())("POST", f"/statuses/{'1' * 40}", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["message"] == sentence


def test_a_dispatch_starts_a_run_that_is_listed_a_little_later() -> None:
    started: list[Run] = []
    with LoopbackGitHub(hooks=Hooks(on_dispatch=started.append)) as github:
        repository = github.add_repository()
        repository.add_workflow(".github/workflows/gpu-tier.yml", GPU_WORKFLOW)
        repository.add_workflow(".github/workflows/ci.yml", "name: CI\non: [push]\n")
        call = Caller(github, github.add_token())
        path = "/actions/workflows/gpu-tier.yml/dispatches"
        inputs = {"nonce": "abc"}
        github.world.new_run_hidden_listings = 1

        plain = call("POST", path, json={"ref": "main", "inputs": inputs})
        assert (plain.status_code, plain.content) == (204, b"")
        assert call("GET", "/actions/runs").json()["total_count"] == 0
        assert call("GET", "/actions/runs").json()["total_count"] == 1
        detailed = call("POST", path, json={"ref": "refs/heads/main", "inputs": inputs, "return_run_details": True})
        run = repository.runs[detailed.json()["workflow_run_id"]]
        assert started[-1] is run
        assert (run.title, run.inputs["shard"], run.status) == ("gpu abc by github-actions[bot]", "1/1", "queued")

        github.world.run_details = "ignored"
        assert call("POST", path, json={"ref": "main", "inputs": inputs, "return_run_details": True}).status_code == 204
        github.world.run_details = "rejected"
        refusals: dict[str, tuple[str, dict[str, Any]]] = {
            '"return_run_details" is not a permitted key.': (path, {"return_run_details": True, "inputs": inputs}),
            'Unexpected inputs provided: ["x"]': (path, {"inputs": {**inputs, "x": "1"}}),
            "Required input 'nonce' not provided": (path, {"inputs": {}}),
            "not in the list of allowed values": (path, {"inputs": {**inputs, "tier": "cpu"}}),
            "No ref found for: gone": (path, {"inputs": inputs, "ref": "gone"}),
            "does not have 'workflow_dispatch'": (path.replace("gpu-tier", "ci"), {}),
        }
        for sentence, (where, body) in refusals.items():
            refused = call("POST", where, json={"ref": "main", **body})
            assert refused.status_code == 422
            assert sentence in refused.json()["message"]
        assert call("POST", path.replace("gpu-tier", "none"), json={"ref": "main"}).status_code == 404
        assert len(repository.runs) == len(started) == 3


def test_runs_are_filtered_and_cancelled(github: LoopbackGitHub) -> None:
    repository = github.add_repository()
    workflow = repository.add_workflow(".github/workflows/gpu-tier.yml", GPU_WORKFLOW)
    runs = [
        repository.add_run(workflow, event=event, head_branch="main", head_sha="1" * 40, actor="octo")
        for event in ("schedule", "workflow_dispatch")
    ]
    call = Caller(github, github.add_token())

    def listed(query: str) -> list[int]:
        return [run["id"] for run in call("GET", f"/actions/runs?{query}").json()["workflow_runs"]]

    assert listed("event=workflow_dispatch") == [runs[1].id]
    assert listed("status=queued") == [runs[1].id, runs[0].id]
    assert listed("created=%3E2099-01-01") == listed("created=*..2020-01-01") == []
    assert listed("created=2020-01-01..2099-01-01&head_sha=" + "1" * 40) == [runs[1].id, runs[0].id]
    assert call("POST", f"/actions/runs/{runs[0].id}/cancel").status_code == 202
    assert (runs[0].status, runs[0].conclusion) == ("completed", "cancelled")
    assert call("POST", f"/actions/runs/{runs[0].id}/cancel").status_code == 409
    assert listed("status=cancelled") == [runs[0].id]


def test_an_artifact_lies_on_another_host_that_must_not_see_the_token() -> None:
    def leak() -> None:
        with LoopbackGitHub() as github:
            repository = github.add_repository()
            workflow = repository.add_workflow(".github/workflows/gpu-tier.yml", GPU_WORKFLOW)
            run = repository.add_run(workflow, event="push", head_branch="main", head_sha="1" * 40, actor="octo")
            artifact = run.add_artifact("results", b"PK\x03\x04")
            call = Caller(github, github.add_token())
            location = call("GET", f"/actions/artifacts/{artifact.id}/zip").headers["Location"]
            assert requests.get(location, timeout=10).content == b"PK\x03\x04"
            assert github.violations == []
            assert requests.get(location, headers={"Authorization": "Bearer x"}, timeout=10).status_code == 500
            artifact.expired = True
            assert call("GET", f"/actions/artifacts/{artifact.id}/zip").status_code == 410

    with pytest.raises(AssertionError, match="the token was sent to another host"):
        leak()


def test_an_enterprise_server_has_its_api_below_a_path() -> None:
    with LoopbackGitHub(enterprise=True) as github:
        pull = github.add_repository().add_pull_request()
        for index in range(31):
            pull.comment("somebody", str(index))
        assert github.api_url.endswith("/api/v3")
        answer = Caller(github, github.add_token())("GET", "/issues/1/comments")
        following = requests.get(answer.links["next"]["url"], timeout=10)
        assert [comment["body"] for comment in following.json()] == ["30"]
