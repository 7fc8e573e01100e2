"""The end of the line, for results of any origin: judge → remember → render → publish."""

from __future__ import annotations

import time

from orchestrator.hands.gather import Situation, changed_lines
from orchestrator.hands.publish import Published, publish, spoiled
from orchestrator.hands.remember import blob_ids
from orchestrator.hands.statuses import post_statuses
from orchestrator.line.prepare import Hands, Options, out_folder
from orchestrator.mind.coverage_past import coverage_past, measured_files
from orchestrator.mind.failures import explain
from orchestrator.mind.judge import judge
from orchestrator.words.errors import InfrastructureError
from orchestrator.words.plan import Plan
from orchestrator.words.results import TierResult

# Events whose commit is a pull request's head.
_OF_A_HEAD = ("pull_request", "issue_comment", "workflow_dispatch", "workflow_run")


def conclude(
    plan: Plan, results: dict[str, TierResult], situation: Situation, options: Options, hands: Hands
) -> Published:
    """Judge, remember, render, publish."""
    lines = changed_lines(situation)
    past = coverage_past(
        situation.history,
        base_sha=situation.event.base_sha,
        current=blob_ids(measured_files(situation.history), situation.root),
        now=time.time(),
    )
    judged = judge(plan, results, changed_lines=lines, newer_head=_newer_head(situation, hands), past=past)
    verdict = explain(judged, situation.history)
    if situation.github is not None and options.dispatch:
        url = situation.event.run.url if situation.event.run is not None else None
        wrong = post_statuses(verdict, situation.github, url=url)
        verdict = spoiled(verdict, f"GitHub could not be told: {'; '.join(wrong)}") if wrong else verdict
    return publish(
        verdict,
        memory=situation.memory if _speaks_for_itself(plan, situation) else None,
        history=situation.history,
        changed_lines=lines,
        past=past,
        out=out_folder(options, situation),
        prefix=situation.prefix,
        environment=hands.environment,
        github=situation.github,
        comment=options.comment,
        talk=hands.talk,
    )


def _speaks_for_itself(plan: Plan, situation: Situation) -> bool:
    """Whether this job's results are remembered by itself. A part of a tier is remembered with the others by the job
    that reports them, and the job that runs tests on a team's machine holds no token that could write.
    """
    here = [tier for tier in plan.tiers if tier.run and tier.where == "here"]
    return not any(tier.shards > 1 or (tier.runner and situation.event.on_github) for tier in here)


def _newer_head(situation: Situation, hands: Hands) -> str | None:
    """The pull request's head by now, if it is not the commit we tested."""
    event = situation.event
    if event.name not in _OF_A_HEAD or event.pull_request is None or situation.github is None or hands.cancel.is_set:
        return None
    try:
        head = situation.github.pull_request(event.pull_request.number).head_sha
    except InfrastructureError as error:
        print(f"whether the pull request has a newer head is unknown: {error.message}", file=hands.talk)
        return None
    return None if head == event.sha or _merges(situation, event.sha, head) else head


def _merges(situation: Situation, sha: str | None, head: str) -> bool:
    """Whether the tested commit is one that merges the head, as that of a merge queue does."""
    return situation.git is not None and sha is not None and situation.git.parents(sha)[1:] == (head,)
