"""Which commit is tested, what it is compared with, and which words of `when` an event satisfies."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mind.event import cadences, override, parse_command, read_event
from orchestrator.words.environment import Environment
from orchestrator.words.errors import UsageError
from orchestrator.words.event import Command, Event, SourceRun

HEAD, BASE, MERGE = "a" * 40, "b" * 40, "c" * 40
REPOSITORY = {"full_name": "octo/repo", "default_branch": "main"}


def environment(name: str | None, **more: str) -> Environment:
    variables = {"GITHUB_SHA": MERGE, "GITHUB_REPOSITORY": "octo/repo", "GITHUB_REF": "refs/heads/main", **more}
    if name is not None:
        variables["GITHUB_EVENT_NAME"] = name
    return Environment.read(variables)


def pull_request(head_repo: dict[str, Any] | None = REPOSITORY, **more: Any) -> dict[str, Any]:
    return {
        "action": "synchronize",
        "number": 7,
        "pull_request": {
            "number": 7,
            "head": {"sha": HEAD, "ref": "topic", "repo": head_repo},
            "base": {"sha": BASE, "ref": "main", "repo": REPOSITORY},
            "labels": [{"name": "bug"}],
        },
        "repository": REPOSITORY,
        "sender": {"login": "ann"},
        **more,
    }


def test_a_pull_request_is_its_head_not_the_merge_commit() -> None:
    event = read_event(environment("pull_request"), pull_request())
    assert event.sha == HEAD
    assert event.base_sha == BASE
    assert event.pull_request is not None
    assert (event.pull_request.number, event.pull_request.fork) == (7, False)
    assert event.pull_request.labels == ("bug",)


@pytest.mark.parametrize("head_repo", [None, {"full_name": "stranger/repo"}])
def test_what_is_not_surely_ours_is_a_fork(head_repo: dict[str, Any] | None) -> None:
    event = read_event(environment("pull_request"), pull_request(head_repo))
    assert event.pull_request is not None
    assert event.pull_request.fork


def test_a_push_compares_with_what_was_there_before() -> None:
    event = read_event(environment("push"), {"before": BASE, "after": HEAD, "repository": REPOSITORY})
    assert (event.sha, event.base_sha, event.default_branch) == (HEAD, BASE, "main")


def test_a_new_branch_has_no_base() -> None:
    event = read_event(environment("push"), {"before": "0" * 40, "after": HEAD, "repository": REPOSITORY})
    assert event.base_sha is None


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("refs/heads/gh-readonly-queue/main/pr-12-" + BASE, 12),
        ("refs/heads/gh-readonly-queue/main/pr-12-x/pr-13-y", None),
        ("refs/heads/main", None),
    ],
)
def test_a_merge_group_names_at_most_one_pull_request(ref: str, number: int | None) -> None:
    group = {"head_sha": HEAD, "base_sha": BASE, "head_ref": ref, "base_ref": "refs/heads/main"}
    event = read_event(environment("merge_group"), {"action": "checks_requested", "merge_group": group})
    assert (event.sha, event.base_sha, event.base_ref) == (HEAD, BASE, "main")
    assert (event.pull_request.number if event.pull_request else None) == number


@pytest.mark.parametrize("name", ["schedule", "workflow_dispatch", "release"])
def test_the_other_events_test_the_commit_of_the_job(name: str) -> None:
    event = read_event(environment(name), {"repository": REPOSITORY})
    assert (event.name, event.sha, event.base_sha) == (name, MERGE, None)


BROKEN: dict[str, tuple[str | None, Any, str]] = {
    "no event": (None, {}, "GITHUB_EVENT_NAME is not set"),
    "pull_request_target": ("pull_request_target", pull_request(), "pull_request_target"),
    "no pull request": ("pull_request", {}, "no 'pull_request'"),
    "no head": ("pull_request", {"pull_request": {"base": {"sha": BASE}}}, "no 'head'"),
    "a head that is no commit": (
        "pull_request",
        {"pull_request": {"number": 1, "head": {"sha": "$(id)"}, "base": {"sha": BASE}}},
        "not a commit",
    ),
    "a number that is none": (
        "pull_request",
        {"pull_request": {"number": "7; rm", "head": {"sha": HEAD}, "base": {"sha": BASE}}},
        "no pull_request.number",
    ),
    "a deleted branch": ("push", {"deleted": True}, "deleted its branch"),
    "no merge group": ("merge_group", {"merge_group": 3}, "no 'merge_group'"),
    "nothing": ("pull_request", None, "no 'pull_request'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_payloads(case: str) -> None:
    name, payload, sentence = BROKEN[case]
    with pytest.raises(UsageError) as caught:
        read_event(environment(name), payload)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event(name="push"), {"push"}),
        (Event(name="schedule"), {"schedule", "nightly"}),
        (Event(name="merge_group"), {"merge_group", "pre-merge"}),
        (Event(name="pull_request", action="opened"), {"pull_request"}),
        (Event(name="pull_request", action="labeled", label="go"), {"pull_request", "pre-merge"}),
        (Event(name="pull_request", action="labeled", label="other"), {"pull_request"}),
        (Event(name="pull_request", action="synchronize", label="go"), {"pull_request"}),
        (Event(name="local"), {"local", "push", "pull_request"}),
    ],
)
def test_cadences(event: Event, words: set[str]) -> None:
    assert cadences(event, pre_merge_label="go") == words


def test_a_label_that_was_there_before_the_push_approves_nothing() -> None:
    payload = pull_request()
    payload["pull_request"]["labels"] = [{"name": "go"}]
    assert "pre-merge" not in cadences(read_event(environment("pull_request"), payload), pre_merge_label="go")


def test_overrides() -> None:
    event = override(Event(name="push", sha=BASE), sha=HEAD, pr=5)
    assert event.sha == HEAD
    assert event.pull_request is not None
    assert event.pull_request.number == 5
    with pytest.raises(UsageError, match="not a commit"):
        override(event, sha="main", pr=None)
    with pytest.raises(UsageError, match="not a pull request"):
        override(event, sha=None, pr=0)


def test_the_tests_environment_has_no_secret_and_no_way_back_to_the_runner() -> None:
    names = (
        "GITHUB_TOKEN GITHUB_ENV GITHUB_OUTPUT GITHUB_PATH GITHUB_STEP_SUMMARY ACTIONS_RUNTIME_TOKEN "
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN INPUT_TOKEN MLTIERS_INPUT_TOKEN"
    )
    secret = dict.fromkeys(names.split(), "x")
    kept = Environment.read({**secret, "PATH": "/bin", "GITHUB_SHA": HEAD}).for_tests({"A": "1"})
    assert kept == {"PATH": "/bin", "GITHUB_SHA": HEAD, "A": "1"}


# --- comments and finished runs --------------------------------------------------------------------------------------


def a_comment(**more: Any) -> dict[str, Any]:
    return {
        "action": "created",
        "issue": {"number": 7, "pull_request": {"url": "https://example.org"}},
        "comment": {"body": f"/mltiers gpu {HEAD}", "user": {"login": "ann"}, "created_at": "2026-01-02T03:04:05Z"},
        "repository": REPOSITORY,
        "sender": {"login": "ann"},
        **more,
    }


def test_a_comment_is_about_a_pull_request_that_has_to_be_looked_up() -> None:
    event = read_event(environment("issue_comment"), a_comment())
    assert event.command == Command(tier="gpu", sha=HEAD, time=1767323045.0)
    assert (event.actor, event.sha, event.ref) == ("ann", None, None)  # the job's own commit is the default branch's
    assert event.pull_request is not None
    assert (event.pull_request.number, event.pull_request.fork) == (7, True)  # until GitHub says otherwise
    assert cadences(event, pre_merge_label="x") == {"issue_comment", "pre-merge", "pull_request"}


@pytest.mark.parametrize(
    "more",
    [
        {"action": "edited"},
        {"action": "deleted"},
        {"issue": {"number": 7}},
        {"issue": {"number": "7", "pull_request": {}}},
        {"comment": {"body": None, "user": None, "created_at": "2026-01-02T03:04:05Z"}},
    ],
)
def test_what_is_no_new_command_on_a_pull_request(more: dict[str, Any]) -> None:
    assert read_event(environment("issue_comment"), a_comment(**more)).command is None


@pytest.mark.parametrize("sender", [{"login": "bob"}, {}, None])
def test_a_command_of_another_person_than_the_events(sender: dict[str, Any] | None) -> None:
    command = read_event(environment("issue_comment"), a_comment(sender=sender)).command
    assert command is not None
    assert command.problem == "the comment and the event are not by the same person"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"comment": None}, "comment"),
        ({"issue": []}, "issue"),
        ({"comment": {"body": "/mltiers gpu", "created_at": "yesterday"}}, "created_at"),
        ({"comment": {"body": "/mltiers gpu"}}, "created_at"),
    ],
)
def test_a_comment_that_github_would_not_send(more: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        read_event(environment("issue_comment"), a_comment(**more))


def test_a_finished_run_is_known_by_what_github_says_of_it() -> None:
    run = {"id": 5, "event": "pull_request", "head_branch": "topic", "head_sha": HEAD,
           "head_repository": {"full_name": "stranger/repo"}, "pull_requests": [{"number": 99}]}  # fmt: skip
    event = read_event(environment("workflow_run"), {"action": "completed", "workflow_run": run})
    assert event.source_run == SourceRun(
        run_id=5, event="pull_request", head_repository="stranger/repo", head_branch="topic", head_sha=HEAD
    )
    assert (event.sha, event.pull_request) == (HEAD, None)
    assert "pull_request" in cadences(event, pre_merge_label="x")
    for broken in ({**run, "id": None}, {**run, "id": True}, {**run, "head_sha": "main"}):
        with pytest.raises(UsageError, match="workflow_run"):
            read_event(environment("workflow_run"), {"workflow_run": broken})


@given(st.text(max_size=80) | st.from_regex(r"/mltiers[ \t].{0,60}"))
def test_no_comment_is_more_than_a_tier_and_a_commit(text: str) -> None:
    command = parse_command(text, time=0.0)
    if command is not None and command.problem is None:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", command.tier)
        assert command.sha is None or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", command.sha)
