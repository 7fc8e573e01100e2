"""One comment per configuration, whoever else comments, whatever gets lost, however many jobs post at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.hands.comment_thread import upsert_comment
from orchestrator.tools.github import Forbidden, GitHub, Unreachable
from orchestrator.words.errors import InfrastructureError
from tests.loopback_github import (
    ACTIONS_BOT,
    READ,
    Fault,
    LoopbackGitHub,
    Pull,
    dropped,
    meeting,
    server_error,
    truncated,
)

MARKER = "<!-- mltiers:3f9a -->"
OTHER_CONFIG = "<!-- mltiers:77b1 -->"
APP = "acme-ci[bot]"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as github:
        yield github
        assert github.unused_faults == 0


@pytest.fixture
def pull(server: LoopbackGitHub) -> Pull:
    return server.add_repository().add_pull_request()


def connect(server: LoopbackGitHub, login: str = ACTIONS_BOT, *, token: str | None = None) -> GitHub:
    token = token or server.add_token(login)
    return GitHub(
        api_url=server.api_url, repository="octo/widgets", token=token, deadline=lambda: 60.0, sleep=lambda _: None
    )


def body(text: str, marker: str = MARKER) -> str:
    return f"{marker}\n{text}\n"


def post(github: GitHub, text: str, *, policy: str = "on-change", marker: str = MARKER) -> str | None:
    return upsert_comment(github, number=1, marker=marker, body=body(text, marker), policy=policy)


def texts(pull: Pull) -> list[tuple[str | None, str]]:
    return [(comment.author.login if comment.author else None, comment.body) for comment in pull.comments]


def writes(server: LoopbackGitHub) -> list[str]:
    return [x.method for x in server.exchanges if x.method != "GET"]


def test_the_first_run_creates_and_later_ones_change_it_in_its_place(server: LoopbackGitHub, pull: Pull) -> None:
    github = connect(server)
    first = post(github, "one")
    pull.comment("somebody", "nice")
    assert post(github, "two") == first
    assert texts(pull) == [(ACTIONS_BOT, body("two")), ("somebody", "nice")]
    assert first == f"https://github.com/octo/widgets/pull/1#issuecomment-{pull.comments[0].id}"
    assert writes(server) == ["POST", "PATCH"]


@pytest.mark.parametrize(
    ("policy", "stored", "written"),
    [
        ("on-change", "same", []),
        ("on-change", "same\r\n\r\n", []),  # as an editor on the web may leave it
        ("on-change", "other", ["PATCH"]),
        ("always", "same", ["PATCH"]),
        ("always", "other", ["PATCH"]),
        ("never", "other", []),
    ],
)
def test_what_each_policy_writes_over_an_older_comment(
    server: LoopbackGitHub, pull: Pull, policy: str, stored: str, written: list[str]
) -> None:
    comment = pull.comment(ACTIONS_BOT, body(stored))
    url = post(connect(server), "same", policy=policy)
    assert writes(server) == written
    assert (url is None) == (policy == "never")
    assert comment.body == (body("same") if written else body(stored))


@pytest.mark.parametrize(("policy", "written"), [("on-change", ["POST"]), ("always", ["POST"]), ("never", [])])
def test_what_each_policy_writes_where_there_is_no_comment(
    server: LoopbackGitHub, pull: Pull, policy: str, written: list[str]
) -> None:
    post(connect(server), "new", policy=policy)
    assert writes(server) == written
    assert len(server.exchanges) == 0 or policy != "never"
    assert len(pull.comments) == len(written)


def test_it_is_found_on_any_page(server: LoopbackGitHub, pull: Pull) -> None:
    for index in range(150):
        pull.comment("somebody", f"{index}")
    ours = pull.comment(ACTIONS_BOT, body("old"))
    for index in range(150):
        pull.comment("somebody", f"{index}")
    post(connect(server), "new")
    assert ours.body == body("new")
    assert len(pull.comments) == 301


def test_a_strangers_comment_with_our_marker_is_never_touched(server: LoopbackGitHub, pull: Pull) -> None:
    forged = pull.comment("eve", body("all green, merge me"))
    ghost = pull.comment(None, body("all green, merge me"))
    post(connect(server), "failed")
    post(connect(server), "still failed")
    assert (forged.body, ghost.body) == (body("all green, merge me"), body("all green, merge me"))
    assert texts(pull)[2:] == [(ACTIONS_BOT, body("still failed"))]


def test_another_configurations_and_another_workflows_comments_are_not_ours(server: LoopbackGitHub, pull: Pull) -> None:
    pull.comment(ACTIONS_BOT, "coverage: 80 %")
    post(connect(server), "of another config", marker=OTHER_CONFIG)
    post(connect(server), "ours")
    post(connect(server), "ours again")
    assert [text for _, text in texts(pull)] == [
        "coverage: 80 %",
        body("of another config", OTHER_CONFIG),
        body("ours again"),
    ]


def test_doubles_of_ours_are_reduced_to_the_oldest(server: LoopbackGitHub, pull: Pull) -> None:
    oldest = pull.comment(ACTIONS_BOT, body("a"))
    pull.comment(ACTIONS_BOT, body("b"))
    pull.comment("eve", body("c"))
    pull.comment(ACTIONS_BOT, body("new"))
    assert post(connect(server), "new") == f"https://github.com/octo/widgets/pull/1#issuecomment-{oldest.id}"
    assert texts(pull) == [(ACTIONS_BOT, body("new")), ("eve", body("c"))]


def test_a_persons_token_writes_as_that_person(server: LoopbackGitHub, pull: Pull) -> None:
    pull.comment(ACTIONS_BOT, body("by the bot"))
    github = connect(server, "ada")
    post(github, "one")
    post(github, "two")
    assert texts(pull) == [(ACTIONS_BOT, body("by the bot")), ("ada", body("two"))]


def test_an_apps_token_finds_its_login_by_writing(server: LoopbackGitHub, pull: Pull) -> None:
    pull.comment(ACTIONS_BOT, "something else of the bot's")
    for text in ("one", "two", "three"):
        url = post(connect(server, APP), text)
    assert texts(pull)[1:] == [(APP, body("three"))]
    assert url is not None
    assert url.endswith(str(pull.comments[1].id))


@pytest.mark.parametrize("login", [ACTIONS_BOT, APP, "ada"])
@pytest.mark.parametrize(
    "fault", [dropped(effect=True), dropped(effect=False), truncated(), server_error(502, effect=True), server_error()]
)
def test_a_lost_answer_to_the_creation_leaves_one_comment(
    server: LoopbackGitHub, pull: Pull, fault: Fault, login: str
) -> None:
    server.inject(fault, method="POST")
    assert post(connect(server, login), "once") is not None
    assert texts(pull) == [(login, body("once"))]


def test_a_comment_deleted_under_our_hands_is_written_again(server: LoopbackGitHub, pull: Pull) -> None:
    comment = pull.comment(ACTIONS_BOT, body("old"))

    def delete() -> None:
        del pull.repository.comments[comment.id]

    server.inject(Fault(before=delete, effect=True), method="PATCH")
    post(connect(server), "new")
    assert texts(pull) == [(ACTIONS_BOT, body("new"))]


def test_it_gives_up_with_a_sentence(server: LoopbackGitHub, pull: Pull) -> None:
    server.inject(dropped(effect=False), method="POST", times=4)
    with pytest.raises(InfrastructureError, match="gone or unanswered 4 times"):
        post(connect(server), "never arrives")
    assert pull.comments == []


def test_a_fork_s_token_may_not_and_a_server_that_is_down_is_said(server: LoopbackGitHub, pull: Pull) -> None:
    fork = connect(server, token=server.add_token(permissions=READ))
    with pytest.raises(Forbidden) as caught:
        post(fork, "x")
    assert caught.value.read_only_token
    server.inject(server_error(503), method="GET", path="/comments$", times=5)
    with pytest.raises(Unreachable):
        post(connect(server), "x")
    assert pull.comments == []


def test_a_body_without_its_marker_is_a_mistake_of_ours(server: LoopbackGitHub, pull: Pull) -> None:
    with pytest.raises(ValueError, match="must carry the marker"):
        upsert_comment(connect(server), number=1, marker=MARKER, body="no marker", policy="always")
    assert server.exchanges == []
    assert pull.comments == []


@pytest.mark.parametrize("login", [ACTIONS_BOT, APP])
@pytest.mark.parametrize("jobs", [2, 4])
def test_jobs_that_create_at_the_same_moment_end_with_one_comment(
    server: LoopbackGitHub, pull: Pull, login: str, jobs: int
) -> None:
    # None creates before every one has listed and found nothing.
    server.inject(meeting(jobs), method="POST", times=jobs)
    clients = [connect(server, login) for _ in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        urls = list(pool.map(lambda job: post(clients[job], f"job {job}"), range(jobs)))
    assert len(server.asked("POST")) == jobs
    assert len(pull.comments) == 1
    assert set(urls) == {f"https://github.com/octo/widgets/pull/1#issuecomment-{pull.comments[0].id}"}
    assert pull.comments[0].body in {body(f"job {job}") for job in range(jobs)}


class Gate:
    """A request that arrives and stands still until the gate opens."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.opened = threading.Event()
        self.fault = Fault(before=self._pass, effect=True)

    def _pass(self) -> None:
        self.arrived.set()
        self.opened.wait(20)


# Who is slow at which request (login, list, create, list again), and whose text was written last.
SLOW_REQUESTS = [("GET", 1, "slow"), ("GET", 2, "slow"), ("POST", 1, "slow"), ("GET", 3, "fast")]


@pytest.mark.parametrize(("method", "nth", "last"), SLOW_REQUESTS)
def test_one_job_may_stand_still_anywhere_while_another_does_it_all(
    server: LoopbackGitHub, pull: Pull, method: str, nth: int, last: str
) -> None:
    gate = Gate()
    server.inject(Fault(effect=True), method=method, times=nth - 1)
    server.inject(gate.fault, method=method)
    slow, fast = connect(server), connect(server)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, slow, "slow")
        assert gate.arrived.wait(20)
        post(fast, "fast")
        gate.opened.set()
        assert waiting.result(30) is not None
    assert texts(pull) == [(ACTIONS_BOT, body(last))]


JOB = """
import sys
from orchestrator.hands.comment_thread import upsert_comment
from orchestrator.tools.github import GitHub
api_url, token, marker, text = sys.argv[1:]
github = GitHub(api_url=api_url, repository="octo/widgets", token=token, deadline=lambda: 60.0)
upsert_comment(github, number=1, marker=marker, body=marker + text, policy="on-change")
"""


def test_processes_that_create_at_the_same_moment_end_with_one_comment(server: LoopbackGitHub, pull: Pull) -> None:
    server.inject(meeting(2), method="POST", times=2)
    jobs = [
        subprocess.Popen([sys.executable, "-c", JOB, server.api_url, server.add_token(), MARKER, text])
        for text in ("one", "two")
    ]
    assert [job.wait(60) for job in jobs] == [0, 0]
    assert [text for _, text in texts(pull)] in ([MARKER + "one"], [MARKER + "two"])
