"""The one comment of a configuration on a pull request: found again, updated in place, never doubled."""

from __future__ import annotations

from orchestrator.tools.github import AnswerLost, Comment, GitHub, NotFound
from orchestrator.words.errors import InfrastructureError

ACTIONS_BOT = "github-actions[bot]"  # whom GITHUB_TOKEN writes as
_ROUNDS = 4


def upsert_comment(github: GitHub, *, number: int, marker: str, body: str, policy: str) -> str | None:
    """Leaves exactly one comment of ours on pull request ``number``, saying ``body``; returns its address for humans.

    Ours is a comment that carries ``marker`` (hidden text in ``body``, one per configuration) *and* was written by
    this token's account: a stranger's comment with the same marker is never touched. All pages are searched.

    ``policy``:

    - ``on-change``: the comment is edited only when what it says would change. A run that has nothing new to say
      leaves it alone, so it is not marked as edited again and nobody watching the thread sees it move.
    - ``always``: it is edited on every run, even to the same text, so that its "edited" time tells of the last run.
      It stays one comment in its place; nothing is posted anew.
    - ``never``: nothing is written or looked up, an older comment stays; returns None.

    Two jobs may do this at once: each lists again after creating, keeps the oldest and deletes its account's others,
    so that whatever the order one comment remains. Raises as `GitHub` does; Forbidden where the token may not comment.
    """
    if policy == "never":
        return None
    if marker not in body:
        raise ValueError("the body must carry the marker, or it will not be found again")
    login = github.login() or ACTIONS_BOT
    for _ in range(_ROUNDS):
        ours = _ours(github, number, marker, login)
        created = None
        if not ours:
            try:
                created = github.create_comment(number, body)
            except AnswerLost:
                continue  # the next listing tells whether it arrived
            # An app's token writes as the app, which only now shows: earlier comments of its may be there as well.
            login = created.author or login
            # A listing may lag behind what was created; and where another job has since written over it, that
            # job's is the later word.
            ours = _ours(github, number, marker, login) | {created.id: created}
        kept = ours.pop(min(ours))
        try:
            if not _says(kept, body) or (policy == "always" and kept is not created):
                kept = github.update_comment(kept.id, body)
        except NotFound:
            continue  # deleted under our hands: look again
        for other in ours:
            github.delete_comment(other)
        return kept.url
    raise InfrastructureError(
        f"the comment on pull request #{number} was gone or unanswered {_ROUNDS} times in a row",
        remedy="Does another workflow delete comments? The report itself is in the job's summary.",
    )


def _ours(github: GitHub, number: int, marker: str, login: str) -> dict[int, Comment]:
    """Our comments with the marker, by id. Ids grow, so the lowest is the oldest, for every job that looks."""
    comments = github.issue_comments(number)
    return {comment.id: comment for comment in comments if comment.author == login and marker in comment.body}


def _says(comment: Comment, body: str) -> bool:
    """Whether it says this already, line ends and the ends of the text aside (GitHub may normalize both)."""
    return comment.body.replace("\r\n", "\n").strip() == body.replace("\r\n", "\n").strip()
