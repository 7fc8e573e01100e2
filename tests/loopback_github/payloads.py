"""The payloads GitHub Actions writes to ``GITHUB_EVENT_PATH``, for the repositories and pull requests of a loopback.

They are what the webhook of that name carries, and held to the same description (``tests/contract``). ``schedule`` is
no webhook and described nowhere; its shape is what jobs have been seen to get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.loopback_github import represent
from tests.loopback_github.represent import Json
from tests.loopback_github.state import WEB, Comment, Pull, Repository, Run

ZERO = "0" * 40


def _about(repository: Repository, sender: str) -> Json:
    return {
        "repository": represent.repository(repository),
        "sender": represent.user(repository.world.account(sender), repository.world.api_url),
    }


def push(
    repository: Repository, *, after: str, before: str = ZERO, ref: str | None = None, sender: str = "contributor"
) -> Json:
    """A push of ``before..after`` to ``ref`` (the default branch); ``before`` zero: a new branch."""
    ref = ref or f"refs/heads/{repository.default_branch}"
    web = f"{WEB}/{repository.full_name}"
    created, deleted = before == ZERO, after == ZERO
    shas = [] if deleted else [after]
    if repository.store is not None and not created and not deleted:
        shas = repository.store.commits_between(before, after)
    commits = [_pushed_commit(repository, sha) for sha in shas]
    return {
        "ref": ref,
        "before": before,
        "after": after,
        "base_ref": None,
        "created": created,
        "deleted": deleted,
        "forced": False,
        "compare": f"{web}/compare/{before[:12]}...{after[:12]}",
        "commits": commits,
        "head_commit": commits[-1] if commits else None,
        "pusher": {"name": sender, "email": f"{sender}@example.com"},
        **_about(repository, sender),
    }


def _pushed_commit(repository: Repository, sha: str) -> Json:
    commit = represent.simple_commit(repository, sha)
    files = repository.changes(f"{sha}^", sha) if represent.commit_info(repository, sha).parents else []
    by_status = {"added": "added", "removed": "removed"}
    lists: dict[str, list[str]] = {"added": [], "removed": [], "modified": []}
    for file in files:
        lists[by_status.get(file.status, "modified")].append(file.filename)
    return {**commit, **lists, "distinct": True, "url": f"{WEB}/{repository.full_name}/commit/{sha}"}


def pull_request(
    pull: Pull,
    *,
    action: str = "opened",
    sender: str | None = None,
    label: str | None = None,
    before: str | None = None,
) -> Json:
    """``opened``, ``reopened``, ``synchronize`` (with ``before``, the old head) or ``labeled`` (with ``label``)."""
    extra: Json = {}
    if action == "labeled":
        if label is None:
            raise ValueError("a labeled payload names its label")
        extra["label"] = represent.label(pull.repository, label)
    if action == "synchronize":
        extra |= {"before": before or ZERO, "after": pull.head_sha}
    return {
        "action": action,
        "number": pull.number,
        "pull_request": represent.pull_request(pull),
        **extra,
        **_about(pull.repository, sender or pull.author.login),
    }


def merge_group(pull: Pull, *, head_sha: str, sender: str = "github-merge-queue[bot]") -> Json:
    """``checks_requested`` for a queue of this one pull request, merged at ``head_sha``."""
    repository = pull.repository
    return {
        "action": "checks_requested",
        "merge_group": {
            "head_sha": head_sha,
            "head_ref": f"refs/heads/gh-readonly-queue/{pull.base_ref}/pr-{pull.number}-{pull.base_sha}",
            "base_sha": pull.base_sha,
            "base_ref": f"refs/heads/{pull.base_ref}",
            "head_commit": represent.simple_commit(repository, head_sha),
        },
        **_about(repository, sender),
    }


def schedule(
    repository: Repository, *, cron: str = "17 3 * * *", workflow: str = ".github/workflows/nightly.yml"
) -> Json:
    """A scheduled run on the default branch."""
    return {"schedule": cron, "workflow": workflow, **_about(repository, "github-actions[bot]")}


def workflow_dispatch(
    repository: Repository,
    *,
    inputs: Mapping[str, str] | None = None,
    ref: str | None = None,
    workflow: str = ".github/workflows/gpu-tier.yml",
    sender: str = "contributor",
) -> Json:
    """A dispatch; Actions hands every input on as text."""
    return {
        "inputs": dict(inputs) if inputs is not None else None,
        "ref": ref or f"refs/heads/{repository.default_branch}",
        "workflow": workflow,
        **_about(repository, sender),
    }


def release(repository: Repository, *, tag: str = "v1.0.0", sender: str = "maintainer") -> Json:
    """A published release of ``tag``."""
    api, web, number = represent.repository_url(repository), f"{WEB}/{repository.full_name}", repository.world.next_id()
    moment = represent.stamp(repository.created)
    return {
        "action": "published",
        "release": {
            "url": f"{api}/releases/{number}",
            "assets_url": f"{api}/releases/{number}/assets",
            "upload_url": f"https://uploads.github.com/repos/{repository.full_name}/releases/{number}/assets{{?name,label}}",
            "html_url": f"{web}/releases/tag/{tag}",
            "id": number,
            "author": represent.user(repository.world.account(sender), repository.world.api_url),
            "node_id": represent.node_id("Release", number),
            "tag_name": tag,
            "target_commitish": repository.default_branch,
            "name": tag,
            "draft": False,
            "immutable": False,
            "prerelease": False,
            "created_at": moment,
            "updated_at": moment,
            "published_at": moment,
            "assets": [],
            "tarball_url": f"{api}/tarball/{tag}",
            "zipball_url": f"{api}/zipball/{tag}",
            "body": None,
        },
        **_about(repository, sender),
    }


def issue_comment(pull: Pull, comment: Comment) -> Json:
    """A comment on a pull request was created; its author is the sender."""
    if comment.author is None:
        raise ValueError("a deleted account comments no more")
    return {
        "action": "created",
        "issue": _issue(pull),
        "comment": represent.comment(pull, comment),
        **_about(pull.repository, comment.author.login),
    }


def _issue(pull: Pull) -> Json:
    """A pull request as the issue it also is."""
    shown: dict[str, Any] = represent.simple_pull_request(pull)
    issue, web = shown["issue_url"], shown["html_url"]
    same = (
        *(
            "number",
            "title",
            "state",
            "locked",
            "body",
            "user",
            "labels",
            "assignee",
            "assignees",
            "milestone",
            "draft",
        ),
        *("created_at", "updated_at", "closed_at", "author_association", "active_lock_reason", "comments_url"),
    )
    return {
        **{name: shown[name] for name in same},
        "id": shown["id"],
        "node_id": shown["node_id"],
        "url": issue,
        "html_url": web,
        "repository_url": represent.repository_url(pull.repository),
        "labels_url": f"{issue}/labels{{/name}}",
        "events_url": f"{issue}/events",
        "timeline_url": f"{issue}/timeline",
        "comments": len(pull.comments),
        "reactions": represent.reactions(issue),
        "performed_via_github_app": None,
        "state_reason": None,
        "pull_request": {
            "url": shown["url"],
            "html_url": web,
            "diff_url": shown["diff_url"],
            "patch_url": shown["patch_url"],
            "merged_at": None,
        },
    }


def workflow_run(run: Run, *, sender: str | None = None) -> Json:
    """A run was completed."""
    shown = represent.workflow_run(run)
    return {
        "action": "completed",
        "workflow": represent.workflow(run.repository, run.workflow),
        "workflow_run": {**shown, "referenced_workflows": []},
        **_about(run.repository, sender or run.actor.login),
    }
