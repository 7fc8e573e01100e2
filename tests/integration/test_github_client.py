"""The REST client against the loopback GitHub: what it reads and writes, what it survives, and how it gives up."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tools.answers import Answer, permission_remedy, rate_limit_seconds
from orchestrator.tools.github import (
    AnswerLost,
    Forbidden,
    GitHub,
    GithubError,
    NotFound,
    RateLimited,
    TooManyFiles,
    Unreachable,
)
from orchestrator.tools.rest import is_safe_redirect
from orchestrator.words.errors import ExitCode, UsageError
from orchestrator.words.event import ChangedFile, PullRequest
from tests.loopback_github import (
    READ,
    Fault,
    FileChange,
    LoopbackGitHub,
    dropped,
    hanging,
    secondary_rate_limit,
    server_error,
    truncated,
)

SHA = "1" * 40


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as github:
        yield github
        assert github.unused_faults == 0


class Clock:
    """Time that only sleeping spends."""

    def __init__(self, left: float = float("inf")) -> None:
        self.left = left
        self.slept = 0.0
        self.log: list[str] = []
        self.while_sleeping: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.left -= seconds
        self.while_sleeping()


def connect(server: LoopbackGitHub, token: str | None = None, *, clock: Clock | None = None, **changes: Any) -> GitHub:
    clock = clock or Clock()
    options: dict[str, Any] = {
        "api_url": server.api_url,
        "repository": "octo/widgets",
        "token": token or server.add_token(),
        "deadline": lambda: clock.left,
        "sleep": clock.sleep,
        "log": clock.log.append,
    }
    return GitHub(**{**options, **changes})


# --- what it reads and writes


def test_importing_it_does_not_import_requests() -> None:
    code = (
        "import sys, orchestrator.tools.github, orchestrator.hands.comment_thread; sys.exit('requests' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_every_request_says_who_asks_and_in_which_version(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    token = server.add_token()
    connect(server, token).pull_request(1)
    headers = server.exchanges[0].headers
    assert headers["x-github-api-version"] == "2022-11-28"
    assert headers["accept"] == "application/vnd.github+json"
    assert headers["user-agent"].startswith("mltiers/")
    assert headers["authorization"] == f"Bearer {token}"


def test_a_user_has_a_login_and_an_installation_has_none(server: LoopbackGitHub) -> None:
    assert connect(server, server.add_token("ada")).login() == "ada"
    assert connect(server, server.add_token()).login() is None
    with pytest.raises(Forbidden) as caught:
        connect(server, "ghp_expired").login()
    assert caught.value.status == 401
    assert not caught.value.read_only_token
    assert "valid now" in str(caught.value)


def test_a_pull_request_is_a_value(server: LoopbackGitHub) -> None:
    repository = server.add_repository()
    own = repository.add_pull_request(head="feature", labels=["ready-for-gpu", "bug"])
    fork = repository.add_pull_request(head="main", head_repository=server.add_repository("eve/widgets", fork=True))
    gone = repository.add_pull_request()
    gone.head_repository = None
    github = connect(server)
    assert github.pull_request(own.number) == PullRequest(
        number=1,
        head_sha=own.head_sha,
        head_repository="octo/widgets",
        base_ref="main",
        base_sha=own.base_sha,
        labels=("ready-for-gpu", "bug"),
        fork=False,
    )
    assert (github.pull_request(fork.number).head_repository, github.pull_request(fork.number).fork) == (
        "eve/widgets",
        True,
    )
    assert (github.pull_request(gone.number).head_repository, github.pull_request(gone.number).fork) == (None, True)
    with pytest.raises(NotFound, match=r"GET /repos/octo/widgets/pulls/9: 404 Not Found"):
        github.pull_request(9)


def test_the_files_of_a_pull_request_come_from_all_pages_in_our_words(server: LoopbackGitHub) -> None:
    special = [
        FileChange(filename="new name.py", status="renamed", previous="old.py"),
        FileChange(filename="gone.py", status="removed"),
        FileChange(filename="link", status="changed"),
    ]
    plain = [FileChange(filename=f"src/{index}.py") for index in range(230)]
    server.add_repository().add_pull_request(files=[*special, *plain])
    files = connect(server).pull_request_files(1)
    assert files[:3] == (
        ChangedFile(path="new name.py", status="renamed", old_path="old.py"),
        ChangedFile(path="gone.py", status="deleted"),
        ChangedFile(path="link", status="type-changed"),
    )
    assert [file.path for file in files[3:]] == [f"src/{index}.py" for index in range(230)]
    assert len(server.exchanges) == 3


@pytest.fixture
def git_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    git("init", "-q", "-b", "main")
    (folder / "moved.py").write_text("# moved\n" * 20)
    git("add", "-A")
    git("commit", "-qm", "first")
    git("switch", "-qc", "topic/näme")
    git("mv", "moved.py", "there.py")
    git("commit", "-qm", "second")
    git("switch", "-qc", "huge")
    for index in range(300):
        (folder / f"{index}.txt").write_text(str(index))
    git("add", "-A")
    git("commit", "-qm", "third")
    return folder


def test_a_comparison_lists_its_files_or_says_that_it_cannot(server: LoopbackGitHub, git_folder: Path) -> None:
    server.add_repository(path=git_folder)
    github = connect(server)
    assert github.compare_files("main", "topic/näme") == (
        ChangedFile(path="there.py", status="renamed", old_path="moved.py"),
    )
    with pytest.raises(TooManyFiles, match="lists only 300 changed files") as caught:
        github.compare_files("main", "huge")
    assert "fetch-depth: 0" in str(caught.value)
    with pytest.raises(NotFound):
        github.compare_files("main", "nowhere")


def test_a_list_of_files_that_ends_at_githubs_limit_is_not_taken_for_whole(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request(files=[FileChange(filename=f"{index}") for index in range(3001)])
    with pytest.raises(TooManyFiles, match="lists only 3000 changed files"):
        connect(server).pull_request_files(1)


def test_comments_are_listed_created_changed_and_deleted(server: LoopbackGitHub) -> None:
    pull = server.add_repository().add_pull_request()
    for index in range(205):
        pull.comment("somebody", f"comment {index}")
    pull.comment(None, "from a deleted account")
    github = connect(server)
    listed = list(github.issue_comments(1))
    assert [comment.body for comment in listed] == [comment.body for comment in pull.comments]
    assert (listed[-1].author, listed[0].author) == (None, "somebody")

    made = github.create_comment(1, "hello")
    assert (made.author, made.url) == (
        "github-actions[bot]",
        f"https://github.com/octo/widgets/pull/1#issuecomment-{made.id}",
    )
    assert github.update_comment(made.id, "changed").body == "changed"
    github.delete_comment(made.id)
    github.delete_comment(made.id)  # gone is what was wanted
    with pytest.raises(NotFound):
        github.update_comment(made.id, "again")


def test_a_status_is_set_and_its_description_cut_to_what_github_takes(server: LoopbackGitHub) -> None:
    server.add_repository()
    github = connect(server)
    github.set_status(SHA, state="pending", context="mltiers/gpu", description="waiting", target_url="https://x.test")
    github.set_status(SHA, state="success", context="mltiers/gpu", description="é" * 200)
    newest, oldest = github.commit_statuses(SHA)
    assert (newest.state, newest.creator) == ("success", "github-actions[bot]")
    assert newest.description == "é" * 139 + "…"
    assert (oldest.state, oldest.description, oldest.target_url) == ("pending", "waiting", "https://x.test")


def test_an_unchanged_answer_is_a_304(server: LoopbackGitHub) -> None:
    server.add_repository()
    github = connect(server)
    first = github.request("GET", "/repos/octo/widgets")
    again = github.request("GET", "/repos/octo/widgets", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status, again.status, again.content) == (200, 304, b"")


def test_an_enterprise_servers_api_lies_below_a_path() -> None:
    with LoopbackGitHub(enterprise=True) as server:
        pull = server.add_repository().add_pull_request()
        for index in range(101):
            pull.comment("somebody", str(index))
        assert len(list(connect(server, api_url=server.api_url + "/").issue_comments(1))) == 101


# --- what it survives


def test_a_5xx_is_asked_again_and_a_little_later_each_time(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    clock = Clock()
    server.inject(server_error(502), method="GET", times=2)
    assert connect(server, clock=clock).pull_request(1).number == 1
    assert clock.slept == 0.5 + 1.0
    assert [line.split(": ", 2)[2] for line in clock.log] == [
        "502 Bad Gateway; trying again in 0.5 s",
        "502 Bad Gateway; trying again in 1 s",
    ]


def test_it_gives_up_after_five_attempts(server: LoopbackGitHub) -> None:
    server.add_repository()
    server.inject(server_error(503), method="GET", times=5)
    with pytest.raises(Unreachable, match="503 Service Unavailable") as caught:
        connect(server).pull_request(1)
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    assert not isinstance(caught.value, AnswerLost)
    assert len(server.exchanges) == 5


@pytest.mark.parametrize("fault", [dropped(effect=False), dropped(effect=True), truncated()])
def test_a_broken_connection_is_tried_again_where_that_does_no_harm(server: LoopbackGitHub, fault: Fault) -> None:
    pull = server.add_repository().add_pull_request()
    comment = pull.comment("github-actions[bot]", "old")
    github = connect(server)
    server.inject(fault, method="GET")
    assert len(list(github.issue_comments(1))) == 1
    server.inject(fault, method="PATCH")
    assert github.update_comment(comment.id, "new").body == "new"
    server.inject(fault, method="DELETE")
    github.delete_comment(comment.id)
    assert pull.comments == []
    server.inject(fault, method="POST")
    github.set_status(SHA, state="success", context="mltiers", description="twice is the same as once")
    assert {status.state for status in github.commit_statuses(SHA)} == {"success"}


@pytest.mark.parametrize(
    ("fault", "posted"),
    [
        (dropped(effect=True), 1),
        (dropped(effect=False), 0),
        (truncated(), 1),
        (server_error(502, effect=True), 1),
        (server_error(500), 0),
    ],
)
def test_a_post_whose_answer_is_lost_is_never_sent_twice(server: LoopbackGitHub, fault: Fault, posted: int) -> None:
    pull = server.add_repository().add_pull_request()
    server.inject(fault, method="POST")
    with pytest.raises(AnswerLost, match="POST /repos/octo/widgets/issues/1/comments"):
        connect(server).create_comment(1, "once")
    assert len(pull.comments) == posted
    assert len(server.asked("POST")) == 1


def test_without_a_connection_even_a_post_is_tried_again(server: LoopbackGitHub) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        clock = Clock()
        with pytest.raises(Unreachable, match=r"no connection \(Connection refused\)") as caught:
            connect(server, clock=clock, api_url=nobody).create_comment(1, "x")
    assert not isinstance(caught.value, AnswerLost)
    assert len(clock.log) == 4


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (secondary_rate_limit(status=403, retry_after=3), 3),
        (secondary_rate_limit(status=429, retry_after=2), 2),
        (secondary_rate_limit(status=403, retry_after=None), 60),
        (Fault(status=429), 60),
    ],
)
def test_a_rate_limit_is_waited_out_and_a_post_then_done_once(
    server: LoopbackGitHub, fault: Fault, waits: float
) -> None:
    pull = server.add_repository().add_pull_request()
    clock = Clock()
    server.inject(fault, method="POST")
    connect(server, clock=clock).create_comment(1, "once")
    assert [comment.body for comment in pull.comments] == ["once"]
    assert clock.slept == waits


def test_an_exhausted_limit_is_waited_for_until_it_lifts(server: LoopbackGitHub) -> None:
    server.add_repository()
    server.world.rate_limit = 0
    clock = Clock()

    def lift() -> None:
        if clock.slept >= 20:
            server.world.rate_limit = 10

    clock.while_sleeping = lift
    server.world.rate_reset = server.world.rate_reset.fromtimestamp(time.time() + 25, tz=server.world.rate_reset.tzinfo)
    assert connect(server, clock=clock).request("GET", "/repos/octo/widgets").status == 200
    assert 20 <= clock.slept <= 27


def test_a_limit_that_lifts_too_late_is_an_error_at_once(server: LoopbackGitHub) -> None:
    server.add_repository()
    server.world.rate_limit = 0  # for an hour
    clock = Clock()
    with pytest.raises(RateLimited, match=r"rate limit exceeded.*lifts in") as caught:
        connect(server, clock=clock).pull_request(1)
    assert clock.slept == 0
    assert 3500 < caught.value.seconds < 3700


def test_limits_one_after_another_wait_no_longer_than_the_cap(server: LoopbackGitHub) -> None:
    server.add_repository()
    server.inject(secondary_rate_limit(retry_after=50), method="GET", times=3)
    clock = Clock()
    with pytest.raises(RateLimited):
        connect(server, clock=clock).pull_request(1)
    assert clock.slept == 100


# --- the deadline


def test_it_never_sleeps_past_the_deadline(server: LoopbackGitHub) -> None:
    server.add_repository()
    server.inject(secondary_rate_limit(retry_after=5), method="GET")
    clock = Clock(left=4.0)
    with pytest.raises(RateLimited):
        connect(server, clock=clock).pull_request(1)
    assert clock.slept == 0


def test_a_deadline_that_draws_nearer_ends_a_sleep(server: LoopbackGitHub) -> None:
    server.add_repository()
    server.inject(secondary_rate_limit(retry_after=60), method="GET")
    clock = Clock(left=1000.0)

    def cancelled() -> None:
        if clock.slept == 3:
            clock.left = 7.0

    clock.while_sleeping = cancelled
    with pytest.raises(RateLimited):
        connect(server, clock=clock).pull_request(1)
    assert clock.slept == 3


def test_with_no_time_left_nothing_is_sent(server: LoopbackGitHub) -> None:
    server.add_repository()
    with pytest.raises(Unreachable, match="no time was left"):
        connect(server, clock=Clock(left=0.0)).create_comment(1, "x")
    assert server.exchanges == []


def test_a_server_that_never_answers_is_left_at_the_deadline(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    server.inject(hanging(), method="GET")
    end = time.monotonic() + 0.4
    with pytest.raises(Unreachable, match="no answer in time"):
        connect(server, deadline=lambda: end - time.monotonic(), sleep=time.sleep).pull_request(1)
    assert time.monotonic() < end + 2.0


# --- refusals, and the token


def test_a_read_only_token_is_told_from_other_refusals_with_its_remedy(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    fork = connect(server, server.add_token(permissions=READ))
    with pytest.raises(Forbidden) as caught:
        fork.create_comment(1, "x")
    assert caught.value.read_only_token
    assert str(caught.value) == (
        "GitHub: POST /repos/octo/widgets/issues/1/comments: 403 Resource not accessible by integration\n"
        "  Give the job `permissions: pull-requests: write`. The token of a fork's pull request never gets it: "
        "report those with the fork-report workflow."
    )
    with pytest.raises(Forbidden, match="permissions: statuses: write"):
        fork.set_status(SHA, state="success", context="mltiers", description="")
    locked = {"message": "Unable to create comment because issue is locked."}
    server.inject(Fault(status=403, body=locked), method="POST")
    with pytest.raises(Forbidden, match="issue is locked") as other:
        connect(server).create_comment(1, "x")
    assert not other.value.read_only_token


def test_a_422_says_what_github_says(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    with pytest.raises(GithubError, match=r"422 Validation Failed: body is too long \(maximum is 65536 characters\)"):
        connect(server).create_comment(1, "x" * 65537)


def test_the_token_is_in_no_message_and_no_log(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    token, clock = server.add_token(), Clock()
    echo = {"message": f"you sent\n::error::{token}\x1b[31m"}
    server.inject(Fault(status=500, body=echo), method="GET")
    server.inject(Fault(status=422, body=echo), method="GET")
    github = connect(server, token, clock=clock)
    with pytest.raises(GithubError) as caught:
        github.pull_request(1)
    told = [str(caught.value), repr(caught.value), repr(github), *clock.log]
    assert not any(token in text for text in told)
    assert "you sent ::error::*** [31m" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_password_in_netrc_does_not_replace_the_token(
    server: LoopbackGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.add_repository().add_pull_request()
    token = server.add_token()
    connect(server, token).pull_request(1)
    assert server.exchanges[0].headers["authorization"] == f"Bearer {token}"


def test_another_host_is_visited_without_the_token(
    server: LoopbackGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    repository = server.add_repository()
    workflow = repository.add_workflow(".github/workflows/gpu.yml", "on: push\n")
    run = repository.add_run(workflow, event="push", head_branch="main", head_sha=SHA, actor="octo")
    artifact = run.add_artifact("results", b"PK\x03\x04")
    answer = connect(server).request("GET", f"/repos/octo/widgets/actions/artifacts/{artifact.id}/zip")
    assert answer.content == b"PK\x03\x04"
    # and the loopback's other host records a violation when it sees any Authorization


def test_a_renamed_repository_is_followed_to_read_and_not_to_write(server: LoopbackGitHub) -> None:
    repository = server.add_repository()
    pull = repository.add_pull_request()
    github = connect(server)
    moved = {"Location": f"{server.api_url}/repositories/{repository.id}/pulls/1"}
    server.inject(Fault(status=301, headers=moved, body={"message": "Moved Permanently"}), method="GET")
    assert github.pull_request(1).head_sha == pull.head_sha
    elsewhere = {"Location": "http://127.0.0.1:1/collect"}
    for status in (301, 302, 307):
        server.inject(Fault(status=status, headers=elsewhere, body={}), method="POST")
        with pytest.raises(GithubError, match="it has moved"):
            github.create_comment(1, "x")
    there = {"Location": f"{server.api_url}/repositories/{repository.id}/issues/1/comments"}
    server.inject(Fault(status=307, headers=there, body={}), method="POST")
    assert github.create_comment(1, "kept its method").body == "kept its method"
    for location in (there, moved) * 3:
        server.inject(Fault(status=302, headers=location, body={}), method="GET")
    with pytest.raises(GithubError, match="more than 5 redirects"):
        github.pull_request(1)


def test_a_next_page_on_another_host_is_refused(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    link = {"Link": '<http://127.0.0.1:1/next>; rel="next"'}
    server.inject(Fault(status=200, headers=link, body=[]), method="GET")
    with pytest.raises(GithubError, match="a link leads to another host"):
        list(connect(server).issue_comments(1))


def test_pages_without_end_are_left(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    link = {"Link": f'<{server.api_url}/repos/octo/widgets/issues/1/comments>; rel="next"'}
    server.inject(Fault(status=200, headers=link, body=[]), method="GET", times=101)
    with pytest.raises(GithubError, match="more than 100 pages"):
        list(connect(server).issue_comments(1))


def test_the_jobs_proxy_is_used(server: LoopbackGitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_repository().add_pull_request()
    monkeypatch.setenv("http_proxy", server.api_url)  # the loopback understands what a proxy is asked
    monkeypatch.setenv("no_proxy", "")
    github = connect(server, api_url="http://api.github.invalid")
    assert github.pull_request(1).number == 1
    assert server.exchanges[0].headers["host"] == "api.github.invalid"


def test_a_proxy_that_is_not_there_is_named(server: LoopbackGitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://user:hunter2@127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(Unreachable, match=r"the proxy failed \(Connection refused\)") as caught:
            connect(server, api_url="http://api.github.invalid").create_comment(1, "x")
    assert not isinstance(caught.value, AnswerLost)
    assert "hunter2" not in str(caught.value)
    assert "HTTPS_PROXY" in str(caught.value)


def test_failed_tls_is_final_and_says_where_to_look(server: LoopbackGitHub) -> None:
    clock = Clock()
    with pytest.raises(Unreachable, match="TLS failed") as caught:
        connect(server, clock=clock, api_url=server.api_url.replace("http:", "https:")).pull_request(1)
    assert clock.slept == 0
    assert "REQUESTS_CA_BUNDLE" in str(caught.value)


def test_a_page_that_is_not_githubs_is_named(server: LoopbackGitHub) -> None:
    server.add_repository().add_pull_request()
    github = connect(server)
    server.inject(Fault(status=200), method="GET")  # a captive portal's HTML
    with pytest.raises(Unreachable, match="not JSON"):
        github.pull_request(1)
    strange: list[Any] = [{"number": 1}, [], {"number": 1, "head": None, "base": None, "labels": []}]
    for body in strange:
        server.inject(Fault(status=200, body=body), method="GET")
        with pytest.raises(GithubError, match="a shape we do not know"):
            github.pull_request(1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"api_url": "api.github.com"}, "GITHUB_API_URL"),
        ({"api_url": "file:///etc"}, "GITHUB_API_URL"),
        ({"api_url": "http://"}, "GITHUB_API_URL"),
        ({"token": "ghs_secret\n"}, "characters that no token has"),
        ({"token": "ghs_sécret"}, "characters that no token has"),
        ({"token": ""}, "characters that no token has"),
    ],
)
def test_a_wrong_address_or_token_is_said_before_anything_is_sent(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        GitHub(
            api_url=changes.get("api_url", "http://127.0.0.1"), repository="o/r", token=changes.get("token", "ghs_fine")
        )
    assert "secret\n" not in str(caught.value)
    assert "sécret" not in str(caught.value)


# --- the decisions, as values


def answer(status: int, headers: dict[str, str] | None = None, content: bytes = b"{}") -> Answer:
    return Answer(method="GET", path="/x", status=status, headers=headers or {}, content=content)


DATE = "Thu, 01 Jan 1970 00:16:40 GMT"  # 1000 s
SECONDARY = b'{"message": "You have exceeded a secondary rate limit."}'
EXHAUSTED = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1030"}
WAITS: list[tuple[Answer, int, float | None]] = [
    (answer(403, {"retry-after": "30"}), 1, 30),
    (answer(429, {"retry-after": "0"}), 1, 1),
    (answer(403, {**EXHAUSTED, "date": DATE}), 1, 31),  # by GitHub's clock
    (answer(403, EXHAUSTED), 1, 11),  # by ours, which says 1020
    (answer(403, {**EXHAUSTED, "date": "yesterday"}), 1, 11),
    (answer(429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "900", "date": DATE}), 1, 1),
    (answer(403, content=SECONDARY), 1, 60),
    (answer(403, content=SECONDARY), 2, 120),
    (answer(429, {"retry-after": "soon"}), 1, 60),
    (answer(403, {"x-ratelimit-remaining": "4999"}, b'{"message": "Resource not accessible"}'), 1, None),
    (answer(404, {"retry-after": "5"}), 1, None),
    (answer(502, {"retry-after": "5"}), 1, None),
]


@pytest.mark.parametrize(("given", "attempt", "seconds"), WAITS)
def test_how_long_a_rate_limit_lasts(given: Answer, attempt: int, seconds: float | None) -> None:
    assert rate_limit_seconds(given, attempt=attempt, now=1020.0) == seconds


HOME, AWAY = "https://api.test/x", "https://blobs.test/x"
REDIRECTS = [
    ("GET", 302, HOME, AWAY, True),
    ("GET", 302, HOME, "http://blobs.test/x", False),  # out of TLS
    ("GET", 302, "http://api.test/x", "http://blobs.test/x", True),
    ("GET", 302, HOME, "file:///etc/passwd", False),
    ("GET", 302, HOME, "", False),
    ("PATCH", 307, HOME, HOME, True),
    ("PATCH", 308, HOME, HOME, True),
    ("POST", 301, HOME, HOME, False),  # would become a GET
    ("POST", 302, HOME, HOME, False),
    ("POST", 307, HOME, AWAY, False),
]


@pytest.mark.parametrize(("method", "status", "source", "target", "followed"), REDIRECTS)
def test_which_redirects_are_followed(method: str, status: int, source: str, target: str, followed: bool) -> None:
    assert is_safe_redirect(method, status, source, target, here="api.test" in target) is followed


@pytest.mark.parametrize(
    ("accepted", "sentence"),
    [
        ("issues=write; pull_requests=write", "`permissions: pull-requests: write`"),
        ("statuses=write", "`permissions: statuses: write`"),
        ("contents=read", "Give the job `permissions: contents: read`."),
        ("actions=write,contents=read", "`permissions: {actions: write, contents: read}`"),
        ("", "Give the job the `permissions:` that this needs."),
    ],
)
def test_the_remedy_for_a_missing_permission(accepted: str, sentence: str) -> None:
    assert sentence in permission_remedy(accepted)


def test_links_of_an_answer() -> None:
    given = answer(200, {"link": '<https://a.test/x?page=2>; rel="next", <https://a.test/x?page=9>; rel="last"'})
    assert (given.link("next"), given.link("last"), given.link("prev")) == (
        "https://a.test/x?page=2",
        "https://a.test/x?page=9",
        None,
    )
