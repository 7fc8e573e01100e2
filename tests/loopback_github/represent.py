"""The remembered things as GitHub's JSON. Every field the description requires is there; none it does not know."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from tests.loopback_github import state
from tests.loopback_github.gitstore import CommitInfo
from tests.loopback_github.state import WEB

Json = dict[str, Any]

_USER_LINKS = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}
_REPOSITORY_LINKS = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}
# What a role lets its holder do, each including the ones after it.
ROLES = ("admin", "maintain", "write", "triage", "read")


def stamp(moment: datetime | None) -> str | None:
    """``2026-01-31T12:00:00Z``."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def node_id(kind: str, number: int | str) -> str:
    """An opaque id, as the GraphQL side would name the thing."""
    return base64.b64encode(f"{kind}:{number}".encode()).decode()


def repository_url(repository: state.Repository) -> str:
    """Its address in the API."""
    return f"{repository.world.api_url}/repos/{repository.full_name}"


def user(account: state.Account, api_url: str) -> Json:
    """A simple user."""
    url = f"{api_url}/users/{account.login.replace('[', '%5B').replace(']', '%5D')}"
    return {
        "login": account.login,
        "id": account.id,
        "node_id": node_id("User", account.id),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{account.id}?v=4",
        "gravatar_id": "",
        "url": url,
        "html_url": f"{WEB}/apps/{account.login[:-5]}" if account.kind == "Bot" else f"{WEB}/{account.login}",
        **{name: url + suffix for name, suffix in _USER_LINKS.items()},
        "type": account.kind,
        "site_admin": False,
    }


def profile(account: state.Account, api_url: str, created: datetime) -> Json:
    """The public profile that ``GET /user`` answers."""
    empty = dict.fromkeys(("name", "company", "blog", "location", "email", "hireable", "bio"))
    zero = dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0)
    return {**user(account, api_url), **empty, **zero, "created_at": stamp(created), "updated_at": stamp(created)}


def minimal_repository(repository: state.Repository) -> Json:
    """A repository inside something else."""
    url = repository_url(repository)
    return {
        "id": repository.id,
        "node_id": node_id("Repository", repository.id),
        "name": repository.name,
        "full_name": repository.full_name,
        "private": repository.private,
        "owner": user(repository.owner, repository.world.api_url),
        "html_url": f"{WEB}/{repository.full_name}",
        "description": None,
        "fork": repository.fork,
        "url": url,
        **{name: url + suffix for name, suffix in _REPOSITORY_LINKS.items()},
    }


def repository(record: state.Repository) -> Json:
    """A repository inside a pull request or a payload."""
    web = f"{WEB}/{record.full_name}"
    counts = (
        "forks",
        "forks_count",
        "open_issues",
        "open_issues_count",
        "size",
        "stargazers_count",
        "watchers",
        "watchers_count",
    )
    switches = ("archived", "disabled", "has_pages", "has_discussions", "is_template", "web_commit_signoff_required")
    return {
        **minimal_repository(record),
        **dict.fromkeys(counts, 0),
        **dict.fromkeys(switches, False),
        **dict.fromkeys(("has_issues", "has_projects", "has_wiki", "has_downloads", "allow_forking"), True),
        **dict.fromkeys(("homepage", "language", "license", "mirror_url")),
        "clone_url": f"{web}.git",
        "git_url": f"git://github.com/{record.full_name}.git",
        "ssh_url": f"git@github.com:{record.full_name}.git",
        "svn_url": web,
        "created_at": stamp(record.created),
        "updated_at": stamp(record.created),
        "pushed_at": stamp(record.created),
        "default_branch": record.default_branch,
        "topics": [],
        "visibility": "private" if record.private else "public",
    }


def full_repository(record: state.Repository) -> Json:
    """What ``GET /repos/{owner}/{repo}`` answers."""
    return {**repository(record), "network_count": 0, "subscribers_count": 0}


def label(record: state.Repository, name: str) -> Json:
    """A label."""
    return {
        "id": sum(name.encode()),
        "node_id": node_id("Label", name),
        "url": f"{repository_url(record)}/labels/{name}",
        "name": name,
        "color": "ededed",
        "default": False,
        "description": "",
    }


def association(record: state.Repository, login: str) -> str:
    """``author_association``."""
    if login == record.owner.login:
        return "OWNER"
    return "COLLABORATOR" if login in record.collaborators else "NONE"


def _side(record: state.Repository | None, owner: state.Account, ref: str, sha: str, api_url: str) -> Json:
    return {
        "label": f"{owner.login}:{ref}",
        "ref": ref,
        "sha": sha,
        "user": user(owner, api_url),
        "repo": None if record is None else repository(record),
    }


def simple_pull_request(pull: state.Pull) -> Json:
    """A pull request in a list."""
    record, api_url = pull.repository, pull.repository.world.api_url
    url = f"{repository_url(record)}/pulls/{pull.number}"
    issue = f"{repository_url(record)}/issues/{pull.number}"
    statuses = f"{repository_url(record)}/statuses/{pull.head_sha}"
    web = f"{WEB}/{record.full_name}/pull/{pull.number}"
    links = {
        "self": url,
        "html": web,
        "issue": issue,
        "comments": f"{issue}/comments",
        "review_comments": f"{url}/comments",
        "review_comment": f"{repository_url(record)}/pulls/comments{{/number}}",
        "commits": f"{url}/commits",
        "statuses": statuses,
    }
    head_owner = pull.head_repository.owner if pull.head_repository is not None else pull.author
    return {
        "url": url,
        "id": pull.id,
        "node_id": node_id("PullRequest", pull.id),
        "html_url": web,
        "diff_url": f"{web}.diff",
        "patch_url": f"{web}.patch",
        "issue_url": issue,
        "number": pull.number,
        "state": pull.state,
        "locked": False,
        "title": pull.title,
        "user": user(pull.author, api_url),
        "body": pull.body,
        "created_at": stamp(pull.created),
        "updated_at": stamp(pull.updated),
        **dict.fromkeys(("closed_at", "merged_at", "merge_commit_sha", "assignee", "milestone", "auto_merge")),
        "assignees": [],
        "requested_reviewers": [],
        "requested_teams": [],
        "labels": [label(record, name) for name in pull.labels],
        "draft": pull.draft,
        "commits_url": links["commits"],
        "review_comments_url": links["review_comments"],
        "review_comment_url": links["review_comment"],
        "comments_url": links["comments"],
        "statuses_url": statuses,
        "head": _side(pull.head_repository, head_owner, pull.head_ref, pull.head_sha, api_url),
        "base": _side(record, record.owner, pull.base_ref, pull.base_sha, api_url),
        "_links": {name: {"href": href} for name, href in links.items()},
        "author_association": association(record, pull.author.login),
        "active_lock_reason": None,
    }


def pull_request(pull: state.Pull) -> Json:
    """A pull request by itself."""
    files = pull.changed_files()
    return {
        **simple_pull_request(pull),
        "merged": False,
        "mergeable": True,
        "rebaseable": True,
        "mergeable_state": "clean",
        "merged_by": None,
        "comments": len(pull.comments),
        "review_comments": 0,
        "maintainer_can_modify": False,
        "commits": 1,
        "additions": sum(file.additions for file in files),
        "deletions": sum(file.deletions for file in files),
        "changed_files": len(files),
    }


def file_change(record: state.Repository, sha: str, file: state.FileChange) -> Json:
    """One file of a diff (binary to us: no ``patch``)."""
    web = f"{WEB}/{record.full_name}"
    return {
        "sha": file.sha,
        "filename": file.filename,
        "status": file.status,
        "additions": file.additions,
        "deletions": file.deletions,
        "changes": file.additions + file.deletions,
        "blob_url": f"{web}/blob/{sha}/{file.filename}",
        "raw_url": f"{web}/raw/{sha}/{file.filename}",
        "contents_url": f"{repository_url(record)}/contents/{file.filename}?ref={sha}",
        **({"previous_filename": file.previous} if file.previous is not None else {}),
    }


def reactions(url: str) -> Json:
    """Nobody reacted yet."""
    kinds = ("total_count", "+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes")
    return {"url": f"{url}/reactions", **dict.fromkeys(kinds, 0)}


def comment(pull: state.Pull, record: state.Comment) -> Json:
    """An issue comment."""
    repository_record, api_url = pull.repository, pull.repository.world.api_url
    url = repository_url(repository_record)
    return {
        "id": record.id,
        "node_id": node_id("IssueComment", record.id),
        "url": f"{url}/issues/comments/{record.id}",
        "html_url": f"{WEB}/{repository_record.full_name}/pull/{pull.number}#issuecomment-{record.id}",
        "issue_url": f"{url}/issues/{pull.number}",
        "body": record.body,
        "user": None if record.author is None else user(record.author, api_url),
        "created_at": stamp(record.created),
        "updated_at": stamp(record.updated),
        "author_association": association(repository_record, record.author.login if record.author else ""),
        "reactions": reactions(f"{url}/issues/comments/{record.id}"),
        "performed_via_github_app": None,
    }


def status(record: state.Repository, entry: state.Status) -> Json:
    """A commit status."""
    return {**_status_core(record, entry), "creator": user(entry.creator, record.world.api_url)}


def combined_status(record: state.Repository, sha: str, entries: list[state.Status]) -> Json:
    """The newest status of each context, and their sum."""
    states = {entry.state for entry in entries}
    worst = "failure" if states & {"failure", "error"} else "success" if states == {"success"} else "pending"
    url = f"{repository_url(record)}/commits/{sha}"
    return {
        "state": worst,
        "statuses": [_status_core(record, entry) for entry in entries],
        "sha": sha,
        "total_count": len(entries),
        "repository": minimal_repository(record),
        "commit_url": url,
        "url": f"{url}/status",
    }


def _status_core(record: state.Repository, entry: state.Status) -> Json:
    return {
        "url": f"{repository_url(record)}/statuses/{entry.sha}",
        "avatar_url": f"https://avatars.githubusercontent.com/u/{entry.creator.id}?v=4",
        "id": entry.id,
        "node_id": node_id("StatusContext", entry.id),
        "state": entry.state,
        "description": entry.description,
        "target_url": entry.target_url,
        "context": entry.context,
        "created_at": stamp(entry.created),
        "updated_at": stamp(entry.created),
    }


def check_run(record: state.Repository, run: state.CheckRun) -> Json:
    """A check run."""
    url = f"{repository_url(record)}/check-runs/{run.id}"
    return {
        "id": run.id,
        "head_sha": run.head_sha,
        "node_id": node_id("CheckRun", run.id),
        "external_id": run.external_id,
        "url": url,
        "html_url": f"{WEB}/{record.full_name}/runs/{run.id}",
        "details_url": run.details_url,
        "status": run.status,
        "conclusion": run.conclusion,
        "started_at": stamp(run.started),
        "completed_at": stamp(run.completed),
        "output": {
            **{key: run.output.get(key) for key in ("title", "summary", "text")},
            "annotations_count": len(run.annotations),
            "annotations_url": f"{url}/annotations",
        },
        "name": run.name,
        "check_suite": {"id": run.suite},
        "app": None,
        "pull_requests": [],
    }


def workflow(record: state.Repository, entry: state.Workflow) -> Json:
    """A workflow."""
    web = f"{WEB}/{record.full_name}"
    return {
        "id": entry.id,
        "node_id": node_id("Workflow", entry.id),
        "name": entry.name,
        "path": entry.path,
        "state": "active",
        "created_at": stamp(record.created),
        "updated_at": stamp(record.created),
        "url": f"{repository_url(record)}/actions/workflows/{entry.id}",
        "html_url": f"{web}/blob/{record.default_branch}/{entry.path}",
        "badge_url": f"{web}/workflows/{entry.name}/badge.svg".replace(" ", "%20"),
    }


def workflow_run(run: state.Run) -> Json:
    """A workflow run."""
    record, api_url = run.repository, run.repository.world.api_url
    url = f"{repository_url(record)}/actions/runs/{run.id}"
    return {
        "id": run.id,
        "name": run.workflow.name,
        "node_id": node_id("WorkflowRun", run.id),
        "head_branch": run.head_branch,
        "head_sha": run.head_sha,
        "path": run.workflow.path,
        "display_title": run.title,
        "run_number": run.number,
        "run_attempt": run.attempt,
        "event": run.event,
        "status": run.status,
        "conclusion": run.conclusion,
        "workflow_id": run.workflow.id,
        "check_suite_id": run.id,
        "check_suite_node_id": node_id("CheckSuite", run.id),
        "url": url,
        "html_url": f"{WEB}/{record.full_name}/actions/runs/{run.id}",
        "pull_requests": [],
        "created_at": stamp(run.created),
        "updated_at": stamp(run.updated),
        "run_started_at": stamp(run.created),
        "actor": user(run.actor, api_url),
        "triggering_actor": user(run.actor, api_url),
        "jobs_url": f"{url}/jobs",
        "logs_url": f"{url}/logs",
        "check_suite_url": f"{repository_url(record)}/check-suites/{run.id}",
        "artifacts_url": f"{url}/artifacts",
        "cancel_url": f"{url}/cancel",
        "rerun_url": f"{url}/rerun",
        "previous_attempt_url": None,
        "workflow_url": f"{repository_url(record)}/actions/workflows/{run.workflow.id}",
        "head_commit": simple_commit(record, run.head_sha),
        "repository": minimal_repository(record),
        "head_repository": minimal_repository(run.head_repository or record),
    }


def job(run: state.Run, entry: state.Job) -> Json:
    """A job of a run."""
    record = run.repository
    return {
        "id": entry.id,
        "run_id": run.id,
        "run_url": f"{repository_url(record)}/actions/runs/{run.id}",
        "run_attempt": run.attempt,
        "node_id": node_id("CheckRun", entry.id),
        "head_sha": run.head_sha,
        "head_branch": run.head_branch,
        "url": f"{repository_url(record)}/actions/jobs/{entry.id}",
        "html_url": f"{WEB}/{record.full_name}/actions/runs/{run.id}/job/{entry.id}",
        "status": entry.status,
        "conclusion": entry.conclusion,
        "created_at": stamp(entry.created),
        "started_at": stamp(entry.started or entry.created),
        "completed_at": stamp(entry.completed),
        "name": entry.name,
        "steps": [],
        "check_run_url": f"{repository_url(record)}/check-runs/{entry.id}",
        "labels": list(entry.labels),
        "runner_id": None if entry.runner is None else 1,
        "runner_name": entry.runner,
        "runner_group_id": None if entry.runner is None else 1,
        "runner_group_name": None if entry.runner is None else "Default",
        "workflow_name": run.workflow.name,
    }


def artifact(run: state.Run, entry: state.Artifact) -> Json:
    """An artifact."""
    record = run.repository
    url = f"{repository_url(record)}/actions/artifacts/{entry.id}"
    return {
        "id": entry.id,
        "node_id": node_id("Artifact", entry.id),
        "name": entry.name,
        "size_in_bytes": len(entry.content),
        "url": url,
        "archive_download_url": f"{url}/zip",
        "expired": entry.expired,
        "created_at": stamp(entry.created),
        "updated_at": stamp(entry.created),
        "expires_at": stamp(entry.created.replace(year=entry.created.year + 1, day=1)),
        "workflow_run": {
            "id": run.id,
            "repository_id": record.id,
            "head_repository_id": record.id,
            "head_branch": run.head_branch,
            "head_sha": run.head_sha,
        },
    }


def git_ref(record: state.Repository, ref: str, sha: str) -> Json:
    """A ref and the commit it points at."""
    return {
        "ref": ref,
        "node_id": node_id("Ref", ref),
        "url": f"{repository_url(record)}/git/{ref}",
        "object": {"type": "commit", "sha": sha, "url": f"{repository_url(record)}/git/commits/{sha}"},
    }


def commit_info(record: state.Repository, sha: str) -> CommitInfo:
    """The commit by git, or a made-up one where the repository has none."""
    if record.store is not None and record.store.resolve(sha):
        return record.store.commit(sha)
    person = {"author": "Somebody", "author_email": "somebody@example.com", "author_date": "2026-01-01T00:00:00+00:00"}
    return CommitInfo(
        sha=sha,
        tree="4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        parents=(),
        **person,
        committer=person["author"],
        committer_email=person["author_email"],
        committer_date=person["author_date"],
        message="A commit",
    )


def simple_commit(record: state.Repository, sha: str) -> Json:
    """The head commit of a run or merge group."""
    info = commit_info(record, sha)
    return {
        "id": info.sha,
        "tree_id": info.tree,
        "message": info.message,
        "timestamp": info.committer_date,
        "author": {"name": info.author, "email": info.author_email},
        "committer": {"name": info.committer, "email": info.committer_email},
    }


def commit(record: state.Repository, sha: str, files: list[state.FileChange] | None = None) -> Json:
    """A commit by itself, with its files where given."""
    info = commit_info(record, sha)
    url, web = repository_url(record), f"{WEB}/{record.full_name}"
    return {
        "sha": info.sha,
        "node_id": node_id("Commit", info.sha),
        "url": f"{url}/commits/{info.sha}",
        "html_url": f"{web}/commit/{info.sha}",
        "comments_url": f"{url}/commits/{info.sha}/comments",
        "commit": {
            "url": f"{url}/git/commits/{info.sha}",
            "message": info.message,
            "comment_count": 0,
            "author": {"name": info.author, "email": info.author_email, "date": info.author_date},
            "committer": {"name": info.committer, "email": info.committer_email, "date": info.committer_date},
            "tree": {"sha": info.tree, "url": f"{url}/git/trees/{info.tree}"},
        },
        "author": None,
        "committer": None,
        "parents": [
            {"sha": parent, "url": f"{url}/commits/{parent}", "html_url": f"{web}/commit/{parent}"}
            for parent in info.parents
        ],
        **({} if files is None else {"files": [file_change(record, info.sha, file) for file in files]}),
    }
