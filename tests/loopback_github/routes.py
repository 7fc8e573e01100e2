"""The endpoints of repositories: pull requests, comments, statuses, checks, git."""

from __future__ import annotations

from datetime import datetime

from tests.loopback_github import represent
from tests.loopback_github.api import Answer, ApiError, Call, invalid, not_found, route
from tests.loopback_github.state import SHA, WEB, CheckRun, Comment, FileChange, Pull, Status, now

PAGED = "per_page page"
BODY_LIMIT = 65536
COMMENT_PERMISSIONS = "issues=write; pull_requests=write"  # though only the latter opens a pull request


@route("users/get-authenticated")
def get_user(call: Call) -> Answer:
    if call.token is None:
        raise ApiError(401, "Requires authentication")
    if call.token.installation:
        raise ApiError(403, "Resource not accessible by integration")
    return Answer(body=represent.profile(call.world.account(call.login), call.world.api_url, now()))


@route("rate-limit/get")
def get_rate_limit(call: Call) -> Answer:
    used = call.world.rate_used.get(call.token.value if call.token else "", 0)
    reset = int(call.world.rate_reset.timestamp())
    core = {"limit": call.world.rate_limit, "used": used, "remaining": call.world.rate_limit - used, "reset": reset}
    search = {"limit": 30, "used": 0, "remaining": 30, "reset": reset}
    return Answer(body={"resources": {"core": core, "search": search}, "rate": core})


@route("repos/get", read="metadata")
def get_repository(call: Call) -> Answer:
    return Answer(body=represent.full_repository(call.repository))


@route("repos/get-collaborator-permission-level", read="metadata")
def get_permission(call: Call) -> Answer:
    login = call.path["username"]
    if login not in call.world.accounts:
        raise ApiError(404, f"{login} is not a user")
    role = call.repository.collaborators.get(login, "none" if call.repository.private else "read")
    permission = {"maintain": "write", "triage": "read"}.get(role, role)
    held = represent.ROLES[represent.ROLES.index(role) :] if role != "none" else ()
    words = {"admin": "admin", "maintain": "maintain", "write": "push", "triage": "triage", "read": "pull"}
    person = {
        **represent.user(call.world.accounts[login], call.world.api_url),
        "role_name": role,
        "permissions": {word: name in held for name, word in words.items()},
    }
    return Answer(body={"permission": permission, "role_name": role, "user": person})


# --- pull requests -------------------------------------------------------------------------------------------------


def _pull(call: Call, name: str = "pull_number") -> Pull:
    pull = call.repository.pulls.get(call.path[name])
    if pull is None:
        raise not_found()
    return pull


@route("pulls/list", read="pull_requests", query=f"{PAGED} state head base")
def list_pulls(call: Call) -> Answer:
    state, head, base = call.query.get("state", "open"), call.query.get("head"), call.query.get("base")
    pulls = [
        pull
        for pull in sorted(call.repository.pulls.values(), key=lambda pull: -pull.number)
        if state in ("all", pull.state)
        and head in (None, represent.simple_pull_request(pull)["head"]["label"])
        and base in (None, pull.base_ref)
    ]
    return call.page(pulls, represent.simple_pull_request)


@route("pulls/get", read="pull_requests")
def get_pull(call: Call) -> Answer:
    return Answer(body=represent.pull_request(_pull(call)))


@route("pulls/list-files", read="pull_requests", query=PAGED)
def list_pull_files(call: Call) -> Answer:
    pull = _pull(call)
    files = list(pull.changed_files())[:3000]  # GitHub lists no more
    return call.page(files, lambda file: represent.file_change(pull.repository, pull.head_sha, file))


@route("repos/list-pull-requests-associated-with-commit", read="pull_requests", query=PAGED)
def list_pulls_of_commit(call: Call) -> Answer:
    pulls = [pull for pull in call.repository.pulls.values() if pull.head_sha == call.path["commit_sha"]]
    return call.page(pulls, represent.simple_pull_request)


# --- comments ------------------------------------------------------------------------------------------------------


def _comment(call: Call) -> tuple[Pull, Comment]:
    found = call.repository.comments.get(call.path["comment_id"])
    if found is None:
        raise not_found()
    return found


def _comment_body(call: Call) -> str:
    body: str = call.body["body"]
    if not body.strip():
        raise invalid("IssueComment", "body", "Body cannot be blank")
    if len(body) > BODY_LIMIT:
        raise invalid("IssueComment", "body", f"body is too long (maximum is {BODY_LIMIT} characters)")
    return body


@route("issues/list-comments", read="pull_requests", query=PAGED)
def list_comments(call: Call) -> Answer:
    pull = _pull(call, "issue_number")
    return call.page(pull.comments, lambda comment: represent.comment(pull, comment))


@route("issues/create-comment", write="pull_requests", accepted=COMMENT_PERMISSIONS)
def create_comment(call: Call) -> Answer:
    pull = _pull(call, "issue_number")
    comment = pull.comment(call.login, _comment_body(call))
    return Answer(status=201, body=represent.comment(pull, comment))


@route("issues/get-comment", read="pull_requests")
def get_comment(call: Call) -> Answer:
    return Answer(body=represent.comment(*_comment(call)))


@route("issues/update-comment", write="pull_requests", accepted=COMMENT_PERMISSIONS)
def update_comment(call: Call) -> Answer:
    pull, comment = _comment(call)
    comment.body, comment.updated = _comment_body(call), now()
    return Answer(body=represent.comment(pull, comment))


@route("issues/delete-comment", write="pull_requests", accepted=COMMENT_PERMISSIONS)
def delete_comment(call: Call) -> Answer:
    _, comment = _comment(call)
    del call.repository.comments[comment.id]
    return Answer(status=204)


# --- statuses and checks -------------------------------------------------------------------------------------------


def _commit_of(call: Call, ref: str) -> str:
    sha = call.repository.resolve(ref)
    if sha is None:
        raise ApiError(422, f"No commit found for SHA: {ref}")
    return sha


@route("repos/create-commit-status", write="statuses")
def create_status(call: Call) -> Answer:
    sha, body = call.path["sha"], call.body
    if not SHA.fullmatch(sha):
        raise ApiError(422, "Sha must be a full 40-character hexadecimal")
    _commit_of(call, sha)
    description, target = body.get("description"), body.get("target_url")
    context = body.get("context", "default")
    if description is not None and len(description) > 140:
        raise invalid("Status", "description", "description is too long (maximum is 140 characters)")
    if target and not target.startswith(("http://", "https://")):
        raise invalid("Status", "target_url", "target_url must use http(s) scheme")
    if sum(status.sha == sha and status.context == context for status in call.repository.statuses) >= 1000:
        raise invalid("Status", "context", "This SHA and context has reached the maximum number of statuses.")
    status = Status(
        id=call.world.next_id(),
        sha=sha,
        state=body["state"],
        context=context,
        description=description,
        target_url=target,
        creator=call.world.account(call.login),
    )
    call.repository.statuses.append(status)
    return Answer(status=201, body=represent.status(call.repository, status))


@route("repos/list-commit-statuses-for-ref", read="statuses", query=PAGED)
def list_statuses(call: Call) -> Answer:
    sha = _commit_of(call, call.path["ref"])
    newest_first = [status for status in reversed(call.repository.statuses) if status.sha == sha]
    return call.page(newest_first, lambda status: represent.status(call.repository, status))


@route("repos/get-combined-status-for-ref", read="statuses")
def get_combined_status(call: Call) -> Answer:
    sha = _commit_of(call, call.path["ref"])
    newest = {status.context: status for status in call.repository.statuses if status.sha == sha}
    return Answer(body=represent.combined_status(call.repository, sha, list(newest.values())))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))


def _apply(call: Call, run: CheckRun) -> None:
    body = call.body
    for name in ("name", "details_url", "external_id"):
        if name in body:
            setattr(run, name, body[name])
    run.status = body.get("status", run.status)
    run.started = _moment(body.get("started_at")) or run.started or now()
    if "conclusion" in body:
        run.status, run.conclusion = "completed", body["conclusion"]
        run.completed = _moment(body.get("completed_at")) or now()
    output = dict(body.get("output", {}))
    run.annotations += output.pop("annotations", [])  # GitHub appends, fifty a request
    run.output |= output


@route("checks/create", write="checks")
def create_check_run(call: Call) -> Answer:
    sha = _commit_of(call, call.body["head_sha"])
    run = CheckRun(id=call.world.next_id(), suite=call.world.next_id(), head_sha=sha, name=call.body["name"])
    _apply(call, run)
    call.repository.check_runs[run.id] = run
    return Answer(status=201, body=represent.check_run(call.repository, run))


def _check_run(call: Call) -> CheckRun:
    run = call.repository.check_runs.get(call.path["check_run_id"])
    if run is None:
        raise not_found()
    return run


@route("checks/get", read="checks")
def get_check_run(call: Call) -> Answer:
    return Answer(body=represent.check_run(call.repository, _check_run(call)))


@route("checks/update", write="checks")
def update_check_run(call: Call) -> Answer:
    run = _check_run(call)
    _apply(call, run)
    return Answer(body=represent.check_run(call.repository, run))


@route("checks/list-for-ref", read="checks", query=f"{PAGED} check_name status")
def list_check_runs(call: Call) -> Answer:
    sha = _commit_of(call, call.path["ref"])
    runs = [
        run
        for run in reversed(call.repository.check_runs.values())
        if run.head_sha == sha
        and call.query.get("check_name", run.name) == run.name
        and call.query.get("status", run.status) == run.status
    ]
    return call.page(runs, lambda run: represent.check_run(call.repository, run), wrap="check_runs")


# --- git -----------------------------------------------------------------------------------------------------------


@route("repos/get-commit", read="contents")
def get_commit(call: Call) -> Answer:
    repository, sha = call.repository, _commit_of(call, call.path["ref"])
    parents = represent.commit_info(repository, sha).parents
    files = repository.changes(parents[0], sha)[:300] if parents else []
    return Answer(body=represent.commit(repository, sha, files))


@route("repos/compare-commits-with-basehead", read="contents", query=PAGED)
def compare(call: Call) -> Answer:
    repository = call.repository
    base_name, dots, head_name = call.path["basehead"].partition("...")
    base, head = repository.resolve(base_name), repository.resolve(head_name)
    if not dots or repository.store is None or base is None or head is None:
        raise not_found()
    fork_point = repository.store.merge_base(base, head)
    if fork_point is None:
        raise ApiError(404, f"No common ancestor between {base_name} and {head_name}.")
    ahead = repository.store.commits_between(base, head)
    behind = repository.store.commits_between(head, base)
    size, number = min(100, call.query.get("per_page", 250)), call.query.get("page", 1)
    shown = ahead[(number - 1) * size : number * size]
    files: list[FileChange] = repository.changes(base, head)[:300] if number == 1 else []
    url = f"{represent.repository_url(repository)}/compare/{call.path['basehead']}"
    web = f"{WEB}/{repository.full_name}/compare/{call.path['basehead']}"
    words = {(False, False): "identical", (True, False): "ahead", (False, True): "behind", (True, True): "diverged"}
    body = {
        "url": url,
        "html_url": web,
        "permalink_url": web,
        "diff_url": f"{web}.diff",
        "patch_url": f"{web}.patch",
        "base_commit": represent.commit(repository, base),
        "merge_base_commit": represent.commit(repository, fork_point),
        "status": words[bool(ahead), bool(behind)],
        "ahead_by": len(ahead),
        "behind_by": len(behind),
        "total_commits": len(ahead),
        "commits": [represent.commit(repository, sha) for sha in shown],
        "files": [represent.file_change(repository, head, file) for file in files],
    }
    return Answer(body=body, headers=call.page(ahead, lambda sha: sha).headers)


def _ref(call: Call) -> tuple[str, str]:
    ref = f"refs/{call.path['ref']}"
    store = call.repository.store
    sha = store.ref(ref) if store is not None else call.repository.branches.get(ref.removeprefix("refs/heads/"))
    if sha is None:
        raise not_found()
    return ref, sha


def _point(call: Call, ref: str, sha: str) -> None:
    if call.repository.store is not None:
        call.repository.store.set_ref(ref, sha)
    else:
        call.repository.branches[ref.removeprefix("refs/heads/")] = sha


@route("git/get-ref", read="contents")
def get_ref(call: Call) -> Answer:
    return Answer(body=represent.git_ref(call.repository, *_ref(call)))


@route("git/create-ref", write="contents")
def create_ref(call: Call) -> Answer:
    ref, sha = call.body["ref"], call.body["sha"]
    if not ref.startswith("refs/") or ref.count("/") < 2:
        raise ApiError(422, f"Reference name '{ref}' must start with 'refs/' and have at least two slashes.")
    if call.repository.resolve(sha) is None:
        raise ApiError(422, "Object does not exist")
    if call.repository.resolve(ref) is not None:
        raise ApiError(422, "Reference already exists")
    _point(call, ref, sha)
    return Answer(status=201, body=represent.git_ref(call.repository, ref, sha))


@route("git/update-ref", write="contents")
def update_ref(call: Call) -> Answer:
    ref, old = _ref(call)
    sha, store = call.body["sha"], call.repository.store
    if call.repository.resolve(sha) is None:
        raise ApiError(422, "Object does not exist")
    if store is not None and not call.body.get("force", False) and not store.is_ancestor(old, sha):
        raise ApiError(422, "Update is not a fast forward")
    _point(call, ref, sha)
    return Answer(body=represent.git_ref(call.repository, ref, sha))
