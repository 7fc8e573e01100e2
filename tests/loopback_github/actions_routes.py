"""The endpoints of GitHub Actions: workflows, dispatches, runs, jobs, artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.loopback_github import represent
from tests.loopback_github.api import Answer, ApiError, Call, not_found, route
from tests.loopback_github.routes import PAGED
from tests.loopback_github.state import Artifact, Run, Workflow

RUN_FILTERS = f"{PAGED} actor branch event status created head_sha"


def _workflow(call: Call) -> Workflow:
    wanted = call.path["workflow_id"]
    for workflow in call.repository.workflows.values():
        if wanted in (workflow.id, workflow.file_name):
            return workflow
    raise not_found()


def _run(call: Call) -> Run:
    run = call.repository.runs.get(call.path["run_id"])
    if run is None:
        raise not_found()
    return run


@route("actions/get-workflow", read="actions")
def get_workflow(call: Call) -> Answer:
    return Answer(body=represent.workflow(call.repository, _workflow(call)))


def _dispatch_inputs(workflow: Workflow, given: Mapping[str, Any]) -> dict[str, Any]:
    declared = workflow.dispatch_inputs
    if declared is None:
        raise ApiError(422, "Workflow does not have 'workflow_dispatch' trigger")
    if unexpected := [name for name in given if name not in declared]:
        raise ApiError(422, f"Unexpected inputs provided: {json.dumps(unexpected)}")
    filled = {name: str(spec.get("default", "")) for name, spec in declared.items()} | {
        # Actions hands every input on as text, whatever JSON type it came as.
        name: json.dumps(value) if isinstance(value, bool) else str(value)
        for name, value in given.items()
    }
    for name, spec in declared.items():
        if spec.get("required") and not filled[name]:
            raise ApiError(422, f"Required input '{name}' not provided")
        if spec.get("type") == "choice" and filled[name] not in map(str, spec.get("options", ())):
            raise ApiError(422, f"Provided value '{filled[name]}' for input '{name}' not in the list of allowed values")
    return filled


@route("actions/create-workflow-dispatch", write="actions")
def dispatch(call: Call) -> Answer:
    workflow, body = _workflow(call), call.body
    if "return_run_details" in body and call.world.run_details == "rejected":
        raise ApiError(422, 'Invalid request.\n\n"return_run_details" is not a permitted key.')
    inputs = _dispatch_inputs(workflow, body.get("inputs", {}))
    branch = body["ref"].removeprefix("refs/heads/")
    sha = call.repository.resolve(branch)
    if sha is None:
        raise ApiError(422, f"No ref found for: {body['ref']}")
    run = call.repository.add_run(
        workflow, event="workflow_dispatch", head_branch=branch, head_sha=sha, actor=call.login, inputs=inputs
    )
    after = partial(call.hooks.on_dispatch, run) if call.hooks.on_dispatch is not None else None
    if not body.get("return_run_details") or call.world.run_details == "ignored":
        return Answer(status=204, after=after)
    shown = represent.workflow_run(run)
    details = {"workflow_run_id": run.id, "run_url": shown["url"], "html_url": shown["html_url"]}
    return Answer(body=details, after=after)


def _created(run: Run, wanted: str) -> bool:
    """GitHub's date search: ``>=X``, ``<X``, ``X..Y``; a date or a time."""

    def within(moment: str) -> str:
        shown = represent.stamp(run.created)
        assert shown is not None
        return shown[: len(moment)]

    if ".." in wanted:
        first, last = wanted.split("..")
        return (first == "*" or within(first) >= first) and (last == "*" or within(last) <= last)
    for sign in (">=", "<=", ">", "<"):
        if wanted.startswith(sign):
            bound = wanted.removeprefix(sign)
            shown = within(bound)
            return {">=": shown >= bound, "<=": shown <= bound, ">": shown > bound, "<": shown < bound}[sign]
    return within(wanted) == wanted


def _list_runs(call: Call, workflow: Workflow | None) -> Answer:
    query = call.query
    runs = []
    for run in sorted(call.repository.runs.values(), key=lambda run: -run.id):
        if run.hidden_listings > 0:
            run.hidden_listings -= 1
            continue
        if (
            (workflow is None or run.workflow is workflow)
            and query.get("actor", run.actor.login) == run.actor.login
            and query.get("branch", run.head_branch) == run.head_branch
            and query.get("event", run.event) == run.event
            and query.get("head_sha", run.head_sha) == run.head_sha
            and query.get("status", run.status) in (run.status, run.conclusion)
            and ("created" not in query or _created(run, query["created"]))
        ):
            runs.append(run)
    return call.page(runs, represent.workflow_run, wrap="workflow_runs")


@route("actions/list-workflow-runs", read="actions", query=RUN_FILTERS)
def list_workflow_runs(call: Call) -> Answer:
    return _list_runs(call, _workflow(call))


@route("actions/list-workflow-runs-for-repo", read="actions", query=RUN_FILTERS)
def list_repository_runs(call: Call) -> Answer:
    return _list_runs(call, None)


@route("actions/get-workflow-run", read="actions")
def get_run(call: Call) -> Answer:
    return Answer(body=represent.workflow_run(_run(call)))


def _cancel(call: Call) -> Answer:
    run = _run(call)
    if run.status == "completed":
        raise ApiError(409, "Cannot cancel a workflow run that is completed.")
    run.cancel_requested = True
    if call.hooks.on_cancel is None:
        run.finish("cancelled")
        return Answer(status=202, body={})
    return Answer(status=202, body={}, after=partial(call.hooks.on_cancel, run))


@route("actions/cancel-workflow-run", write="actions")
def cancel_run(call: Call) -> Answer:
    return _cancel(call)


@route("actions/force-cancel-workflow-run", write="actions")
def force_cancel_run(call: Call) -> Answer:
    return _cancel(call)


@route("actions/list-jobs-for-workflow-run", read="actions", query=PAGED)
def list_jobs(call: Call) -> Answer:
    run = _run(call)
    return call.page(run.jobs, lambda job: represent.job(run, job), wrap="jobs")


@route("actions/list-workflow-run-artifacts", read="actions", query=f"{PAGED} name")
def list_artifacts(call: Call) -> Answer:
    run = _run(call)
    artifacts = [a for a in run.artifacts if call.query.get("name", a.name) == a.name]
    return call.page(artifacts, lambda artifact: represent.artifact(run, artifact), wrap="artifacts")


def _artifact(call: Call) -> tuple[Run, Artifact]:
    found = call.repository.artifacts.get(call.path["artifact_id"])
    if found is None:
        raise not_found()
    return found


@route("actions/get-artifact", read="actions")
def get_artifact(call: Call) -> Answer:
    return Answer(body=represent.artifact(*_artifact(call)))


@route("actions/download-artifact", read="actions")
def download_artifact(call: Call) -> Answer:
    _, artifact = _artifact(call)
    if call.path["archive_format"] != "zip":
        raise not_found()
    if call.token is None:
        raise ApiError(401, "You must have the actions scope to download artifacts.")
    if artifact.expired:
        raise ApiError(410, "Artifact has expired")
    return Answer(status=302, headers={"Location": call.store(artifact.content)})
