"""Starting tiers on other machines, following them and holding them to their deadlines, against a GitHub."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.hands.dispatch import DispatchError, Office, dispatch_tier
from orchestrator.hands.follow import bring_results, close, follow
from orchestrator.hands.sweep import sweep
from orchestrator.mind.dispatched import Dispatch, Look, Phase, decode, encode, file_name
from orchestrator.mind.judge import judge_tier
from orchestrator.tools.github import GitHub
from orchestrator.tools.history import HistoryError, Snapshot, Store
from orchestrator.tools.history.folder import FolderStore
from orchestrator.words.event import Changes, Event, GithubRun
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Ending
from orchestrator.words.verdict import Verdict
from tests.loopback_github import READ, LoopbackGitHub, Repository, Run, dropped, secondary_rate_limit, server_error

SHA = "a" * 40
WORKFLOW = """\
run-name: "mltiers ${{ inputs.tier }} ${{ inputs.nonce }}"
on:
  workflow_dispatch:
    inputs: {tier: {}, sha: {}, shard: {}, pr: {}, nonce: {}, runner: {}, minutes: {}, config: {}}
"""
TIER = TierPlan(
    name="gpu",
    run=True,
    reason="label",
    where="dispatched",
    runner=("self-hosted", "cuda"),
    budget=1800.0,
    queue=3600.0,
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as github:
        yield github


@dataclass
class Clock:
    """Time that also passes when somebody sleeps; what is planned for a moment happens then."""

    begun: float = field(default_factory=time.time)
    slept: float = 0.0
    plans: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def now(self) -> float:
        return time.time() + self.slept

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """After so many seconds of sleep."""
        self.plans.append((seconds, action))
        self.plans.sort(key=lambda plan: plan[0])

    def sleep(self, seconds: float) -> None:
        end = self.slept + seconds
        assert end < 1_000_000, "it sleeps for ever"
        while self.plans and self.plans[0][0] <= end:
            moment, action = self.plans.pop(0)
            self.slept = max(self.slept, moment)
            action()
        self.slept = end


class Scene:
    """A repository with the workflow on its default branch, and an office at it."""

    def __init__(
        self, server: LoopbackGitHub, tmp_path: Path, *, workflow: str | None = WORKFLOW, **token: Any
    ) -> None:
        self.server = server
        self.repository: Repository = server.add_repository("octo/widgets")
        if workflow is not None:
            self.repository.add_workflow(".github/workflows/gpu-tier.yml", workflow)
        self.clock = Clock()
        self.talk = io.StringIO()
        self.cancelled = False
        self.store: Store = FolderStore(tmp_path / "history")
        self.token = server.add_token(**token)

    def office(self, **changes: Any) -> Office:
        github = GitHub(
            api_url=self.server.api_url, repository="octo/widgets", token=self.token, sleep=self.clock.sleep
        )
        options = {
            "github": github, "store": self.store, "talk": self.talk, "now": self.clock.now, "sleep": self.clock.sleep,
            "cancelled": lambda: self.cancelled,
        }  # fmt: skip
        return Office(**{**options, **changes})

    def dispatch(self, tier: TierPlan = TIER, **changes: Any) -> tuple[Dispatch, ...]:
        return dispatch_tier(plan(tier, **changes), tier, self.office())

    @property
    def runs(self) -> list[Run]:
        return list(self.repository.runs.values())

    def status(self, context: str = "mltiers/gpu") -> tuple[str, str | None] | None:
        """State and description of the newest status."""
        found = [s for s in self.repository.statuses if s.context == context and s.sha == SHA]
        return (found[-1].state, found[-1].description) if found else None

    def remembered(self) -> list[Dispatch]:
        snapshot = self.store.snapshot()
        found = [decode(data) for data in snapshot.read(sorted(snapshot.names)).values()]
        return [dispatch for dispatch in found if dispatch is not None]


def plan(tier: TierPlan = TIER, *, attempt: int = 1, run_id: int = 77, **changes: Any) -> Plan:
    event = Event(
        name="push", repository="octo/widgets", sha=SHA, default_branch="main",
        run=GithubRun(run_id=run_id, attempt=attempt, url="https://github.com/octo/widgets/actions/runs/77"),
    )  # fmt: skip
    return Plan(
        config_path="ml-tiers.yml", config_id="c", event=replace(event, **changes),
        changes=Changes(files=None, source=""), tiers=(tier,),
    )  # fmt: skip


@pytest.fixture
def scene(server: LoopbackGitHub, tmp_path: Path) -> Scene:
    return Scene(server, tmp_path)


# --- starting ------------------------------------------------------------------------------------------------------


def test_a_dispatched_tier_is_a_run_a_note_and_a_pending_status(scene: Scene) -> None:
    (dispatch,) = scene.dispatch()
    (run,) = scene.runs
    assert dispatch.run_id == run.id
    assert run.head_branch == "main"
    assert run.inputs["sha"] == SHA
    assert run.inputs["tier"] == "gpu"
    assert run.inputs["shard"] == ""
    assert json.loads(run.inputs["runner"]) == ["self-hosted", "cuda"]
    assert run.inputs["nonce"] == dispatch.nonce
    assert run.inputs["minutes"] == "40"
    assert dispatch.nonce in run.title.split()
    assert scene.remembered() == [dispatch]
    assert scene.status() == ("pending", "started on [self-hosted, cuda]; waits for its result")
    (asked,) = scene.server.asked("POST", "/dispatches")
    assert asked.body["return_run_details"] is True
    assert asked.headers["x-github-api-version"] == "2022-11-28"


def test_every_shard_is_a_run_of_its_own(scene: Scene) -> None:
    dispatches = scene.dispatch(replace(TIER, shards=3, timings="abc"))
    assert [run.inputs["shard"] for run in scene.runs] == ["1/3@abc", "2/3@abc", "3/3@abc"]
    assert len({dispatch.nonce for dispatch in dispatches}) == 3
    assert scene.status() == ("pending", "started on [self-hosted, cuda], on 3 machines; waits for its result")


@pytest.mark.parametrize("details", ["ignored", "rejected"])
@pytest.mark.parametrize("hidden", [0, 3])
def test_a_server_that_does_not_say_which_run_it_is(scene: Scene, details: str, hidden: int) -> None:
    """GitHub Enterprise Server: 204, or a refusal of the field. A new run may not be listed at once."""
    scene.server.world.run_details = details
    scene.server.world.new_run_hidden_listings = hidden
    other = scene.repository.add_run(
        next(iter(scene.repository.workflows.values())), event="workflow_dispatch", head_branch="main", head_sha=SHA,
        actor="somebody", inputs={"tier": "gpu", "nonce": "other"},
    )  # fmt: skip
    (dispatch,) = scene.dispatch()
    assert len(scene.runs) == 2
    assert dispatch.run_id == max(scene.repository.runs)
    assert dispatch.run_id != other.id


def test_the_run_is_found_among_hundreds_that_came_after_it(scene: Scene) -> None:
    scene.server.world.run_details = "ignored"
    workflow = next(iter(scene.repository.workflows.values()))

    def busy(_: Run) -> None:
        for number in range(250):
            scene.repository.add_run(
                workflow, event="workflow_dispatch", head_branch="main", head_sha=SHA, actor="somebody",
                inputs={"tier": "gpu", "nonce": f"other-{number}"},
            )  # fmt: skip

    scene.server.hooks = type(scene.server.hooks)(on_dispatch=busy)
    (dispatch,) = scene.dispatch()
    assert dispatch.run_id == min(scene.repository.runs)


@pytest.mark.parametrize("fault", [dropped(effect=True), server_error(effect=True)], ids=["dropped", "502"])
def test_an_answer_that_is_lost_after_the_run_was_made_makes_no_second_run(scene: Scene, fault: Any) -> None:
    scene.server.inject(fault, method="POST", path="/dispatches")
    scene.server.world.new_run_hidden_listings = 2
    (dispatch,) = scene.dispatch()
    (run,) = scene.runs
    assert dispatch.run_id == run.id
    assert len(scene.server.asked("POST", "/dispatches")) == 1


def test_an_answer_that_is_lost_with_its_run_is_told_and_not_asked_again(scene: Scene) -> None:
    scene.server.inject(dropped(effect=False), method="POST", path="/dispatches")
    with pytest.raises(DispatchError, match=r"no run with .* in its name appeared in 90 s"):
        scene.dispatch()
    assert scene.runs == []
    assert len(scene.server.asked("POST", "/dispatches")) == 1
    (note,) = scene.remembered()
    assert note.run_id is None


def test_the_same_plan_twice_is_one_run_and_another_attempt_another(scene: Scene) -> None:
    first = scene.dispatch()
    assert scene.dispatch() == first
    assert len(scene.runs) == 1
    scene.dispatch(attempt=2)
    scene.dispatch(run_id=78)
    assert len(scene.runs) == 3
    dispatch_tier(plan(), TIER, scene.office(), salt="again")
    assert len(scene.runs) == 4


def test_without_a_history_the_list_of_runs_keeps_it_one(scene: Scene) -> None:
    for _ in range(2):
        dispatch_tier(plan(), TIER, scene.office(store=None))
    assert len(scene.runs) == 1


def test_killed_between_the_note_and_the_note_of_the_run(scene: Scene) -> None:
    """Whoever comes next finds the run by its nonce; where there is none, waits until it would be listed."""
    (dispatch,) = scene.dispatch()
    unknown = replace(dispatch, run_id=None, url=None)
    scene.store.update(lambda _: {file_name(dispatch.nonce): encode(unknown)}, message="as before")
    (again,) = scene.dispatch()
    assert again.run_id == dispatch.run_id
    assert len(scene.runs) == 1

    scene.repository.runs.clear()
    scene.store.update(
        lambda _: {file_name(dispatch.nonce): encode(replace(unknown, dispatched=scene.clock.now()))}, message="early"
    )
    (anew,) = scene.dispatch()
    assert anew.run_id is not None
    assert len(scene.runs) == 1
    assert scene.clock.slept >= 80  # the first one's run might have been listed late


class Broken:
    """A history that cannot be reached."""

    def snapshot(self, version: str | None = None) -> Snapshot:
        raise HistoryError("the branch cannot be read")

    def update(self, change: Any, *, message: str, forget: bool = False) -> Snapshot:
        raise HistoryError("the branch cannot be written")


def test_a_history_that_cannot_be_written_is_said_and_stops_nothing(scene: Scene) -> None:
    scene.store = Broken()
    (dispatch,) = scene.dispatch()
    assert dispatch.run_id is not None
    assert "its deadlines are not remembered" in scene.talk.getvalue()
    assert sweep(scene.office()) == []


@pytest.mark.parametrize(
    ("workflow", "token", "says", "remedy"),
    [
        (None, {}, "404", "There is no .github/workflows/gpu-tier.yml"),
        (WORKFLOW, {"permissions": READ}, "403", "actions: write"),
        ("on: push\n", {}, "422", "does not take what this release gives it"),
        (WORKFLOW.replace("nonce: {}, ", ""), {}, "Unexpected inputs", "Copy the starter"),
    ],
    ids=["no workflow", "no permission", "no trigger", "other inputs"],
)
def test_a_refusal_says_what_to_change(
    server: LoopbackGitHub, tmp_path: Path, workflow: str | None, token: dict[str, Any], says: str, remedy: str
) -> None:
    scene = Scene(server, tmp_path, workflow=workflow, **token)
    with pytest.raises(DispatchError) as caught:
        scene.dispatch()
    assert "tier gpu could not be started" in caught.value.message
    assert says in caught.value.message
    assert remedy in (caught.value.remedy or "")
    assert scene.runs == []


def test_a_run_name_without_the_nonce_is_named_as_the_cause(server: LoopbackGitHub, tmp_path: Path) -> None:
    scene = Scene(server, tmp_path, workflow=WORKFLOW.replace(" ${{ inputs.nonce }}", ""))
    server.world.run_details = "ignored"
    with pytest.raises(DispatchError) as caught:
        scene.dispatch()
    assert "run-name" in (caught.value.remedy or "")


# --- deadlines without anybody who watches -------------------------------------------------------------------------


def test_what_no_runner_took_is_cancelled_by_whoever_comes_by(scene: Scene) -> None:
    (dispatch,) = scene.dispatch()
    (run,) = scene.runs
    run.add_job("test", ("self-hosted", "linux", "cuda"))
    scene.clock.slept += 3599
    assert sweep(scene.office()) == []
    assert run.status == "queued"
    scene.clock.slept += 2
    (ended,) = sweep(scene.office())
    assert (ended.nonce, ended.verdict) == (dispatch.nonce, "never-started")
    assert run.conclusion == "cancelled"
    assert scene.status() == ("error", "never-started: no runner with [self-hosted, cuda] took it within 1h")
    assert sweep(scene.office()) == []  # once


def test_what_runs_past_its_budget_is_cancelled_by_whoever_comes_by(scene: Scene) -> None:
    scene.dispatch()
    (run,) = scene.runs
    run.add_job("test", ("self-hosted", "linux", "cuda"))
    run.start()
    scene.clock.slept += 1800 + 599
    assert sweep(scene.office()) == []
    scene.clock.slept += 3
    (ended,) = sweep(scene.office())
    assert ended.verdict == "over-budget"
    assert run.conclusion == "cancelled"
    state, said = scene.status() or ("", "")
    assert state == "failure"
    assert "past its budget of 30m" in (said or "")


def test_a_queue_is_no_part_of_the_budget(scene: Scene) -> None:
    scene.dispatch()
    (run,) = scene.runs
    job = run.add_job("test")
    run.start()
    from datetime import timedelta

    job.started = (job.started or job.created) + timedelta(seconds=3000)  # a runner took it late
    scene.clock.slept += 3000 + 1800
    assert sweep(scene.office()) == []


def test_the_report_job_waits_for_its_own_machine_as_long_as_it_likes(scene: Scene) -> None:
    scene.dispatch()
    (run,) = scene.runs
    test = run.add_job("test")
    run.start()
    test.status, test.conclusion = "completed", "success"
    run.add_job("report", ("ubuntu-latest",))
    scene.clock.slept += 20_000
    assert sweep(scene.office()) == []


def test_a_run_that_never_appeared_has_never_started(scene: Scene) -> None:
    scene.server.inject(dropped(effect=False), method="POST", path="/dispatches")
    with pytest.raises(DispatchError):
        scene.dispatch()
    scene.clock.slept += 3600
    (ended,) = sweep(scene.office())
    assert ended.verdict == "never-started"
    assert scene.status() == ("error", "never-started: GitHub has no run of it")


@pytest.mark.parametrize(
    ("conclusion", "verdict", "says"),
    [
        ("success", "infrastructure", "left no results"),
        ("failure", "infrastructure", "left no results"),
        ("cancelled", "cancelled", "somebody cancelled"),
        ("timed_out", "over-budget", "timeout-minutes"),
        ("stale", "infrastructure", "stale"),
        ("startup_failure", "infrastructure", "could not be started"),
        ("action_required", "infrastructure", "approval"),
        ("neutral", "infrastructure", "neutral"),
        ("skipped", "infrastructure", "skipped"),
    ],
)
def test_a_run_that_ended_without_a_word_is_spoken_for(scene: Scene, conclusion: str, verdict: str, says: str) -> None:
    scene.dispatch()
    (run,) = scene.runs
    run.finish(conclusion)
    (ended,) = sweep(scene.office())
    assert ended.verdict == verdict
    state, said = scene.status() or ("", "")
    assert state == ("failure" if verdict == "over-budget" else "error")
    assert says in (said or "")


def test_a_run_that_has_reported_is_left_alone(scene: Scene) -> None:
    (dispatch,) = scene.dispatch()
    (run,) = scene.runs
    scene.office().github.set_status(SHA, state="success", context="mltiers/gpu", description="passed")
    run.finish("success")
    assert sweep(scene.office()) == []
    assert scene.status() == ("success", "passed")
    (note,) = scene.remembered()
    assert note.ended is not None
    assert note.nonce == dispatch.nonce


def test_a_shard_that_has_ended_waits_for_its_siblings(scene: Scene) -> None:
    scene.dispatch(replace(TIER, shards=2))
    first, second = scene.runs
    first.add_artifact("mltiers-test-gpu-1of2", results("gpu"))
    first.finish("success")
    assert sweep(scene.office()) == []
    second.add_artifact("mltiers-test-gpu-2of2", results("gpu"))
    second.finish("success")
    assert {ended.verdict for ended in sweep(scene.office())} == {"infrastructure"}  # and nobody reported
    assert "never reported" in (scene.status() or ("", ""))[1]


def test_what_ended_long_ago_is_forgotten(scene: Scene) -> None:
    scene.dispatch()
    scene.runs[0].finish("cancelled")
    sweep(scene.office())
    scene.clock.slept += 8 * 86400
    scene.dispatch(run_id=99)
    scene.runs[1].finish("cancelled")
    sweep(scene.office())
    assert [".99." in note.nonce or note.run_id == scene.runs[1].id for note in scene.remembered()] == [True]


def test_one_run_that_cannot_be_looked_at_does_not_keep_the_others_from_it(scene: Scene) -> None:
    scene.dispatch()
    scene.dispatch(run_id=78)
    first, second = scene.runs
    first.finish("cancelled")
    second.finish("cancelled")
    scene.server.inject(server_error(404), method="GET", path=f"/runs/{first.id}$")
    ended = sweep(scene.office())
    assert scene.runs[1].id in {dispatch.run_id for dispatch in ended}


# --- following -----------------------------------------------------------------------------------------------------


def results(
    tier: str, tests: Sequence[str] = ("test_a",), *, failing: Sequence[str] = (), sha: str = SHA,
    part: tuple[int, int] | None = None, collected: int | None = None, seconds: float = 5.0,
    machine: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """The artifact of a part that ran: laid out as ``--out`` writes it."""
    cases = "".join(
        f'<testcase classname="tests.test_it" name="{name}" file="tests/test_it.py" time="1.0">'
        + ('<failure message="assert 0">E assert 0</failure>' if name in failing else "")
        + "</testcase>"
        for name in tests
    )
    junit = (
        f'<testsuites><testsuite name="pytest" errors="0" failures="{len(failing)}" skipped="0" tests="{len(tests)}" '
        f'time="{seconds}">{cases}</testsuite></testsuites>'
    )
    result = {"version": 1, "tier": tier, "sha": sha, "ending": "exited", "exit_code": 1 if failing else 0,
              "seconds": seconds, "problems": [], "notes": [], "machine": machine or {}}  # fmt: skip
    files = {f"{tier}/junit.xml": junit, f"{tier}/result.json": json.dumps(result), "plan.json": "{}"}
    if part is not None:
        shard, shards = part
        count = len(tests) if collected is None else collected
        now = time.time()

        def event(kind: str, **fields: object) -> str:
            return json.dumps({"event": kind, "time": now, "worker": "main", **fields})

        lines = [
            event("session", version=1, pid=1, python="3.11", pytest="9", plugin="1", rootdir="/r", xdist=0),
            event("shard", shard=shard, shards=shards, digest="d", count=count, selected=len(tests)),
            event("collected", count=len(tests), deselected=0),
        ]
        for name in tests:
            node = f"tests/test_it.py::{name}"
            outcome = "failed" if name in failing else "passed"
            lines.append(event("start", nodeid=node, attempt=1))
            lines += [
                event("phase", nodeid=node, attempt=1, phase=phase, outcome=outcome if phase == "call" else "passed",
                      seconds=0.3)
                for phase in ("setup", "call", "teardown")
            ]  # fmt: skip
        lines.append(event("end", exitstatus=1 if failing else 0, failed=len(failing)))
        files[f"{tier}/events.jsonl"] = "\n".join(lines) + "\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


def finish(run: Run, content: bytes | None, conclusion: str = "success") -> None:
    if content is not None:
        run.add_artifact(f"mltiers-test-{run.inputs['tier']}", content)
    run.finish(conclusion)


def wait(scene: Scene, dispatches: Sequence[Dispatch], out: Path, tier: TierPlan = TIER) -> Any:
    """What `--wait` does with one tier: the verdict."""
    followed = follow(dispatches, scene.office())
    close(followed, scene.office())
    parts = [followed[dispatch.nonce] for dispatch in dispatches]
    result = bring_results(replace(tier, coverage=False), parts, scene.office(), out=out, root=out.parent)
    return judge_tier(tier, result)


def test_a_run_is_followed_to_its_results(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    (run,) = scene.runs
    run.add_job("test")
    scene.clock.at(60, run.start)
    scene.clock.at(600, lambda: finish(run, results("gpu", ["test_a", "test_b"])))
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is Verdict.PASSED, verdict.reasons
    assert {test.node_id for test in verdict.result.tests} == {"tests/test_it.py::test_a", "tests/test_it.py::test_b"}
    assert (tmp_path / "out" / "gpu" / "junit.xml").is_file()
    said = scene.talk.getvalue()
    assert said.index("waits for a runner") < said.index("gpu: runs") < said.index("has ended")
    assert [note.ended is not None for note in scene.remembered()] == [True]


def test_waiting_costs_nothing_of_the_rate_limit_while_nothing_changes(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    (run,) = scene.runs
    run.add_job("test")
    scene.clock.at(3000, lambda: finish(run, results("gpu")))
    before = scene.server.world.rate_used[scene.token]
    wait(scene, dispatches, tmp_path / "out")
    polls = [x for x in scene.server.exchanges if x.method == "GET" and "/runs/" in x.path]
    assert len(polls) < 2 * (3000 / 30 + 20)  # the looks become rarer
    assert scene.server.world.rate_used[scene.token] - before < 15
    assert sum(x.status == 304 for x in polls) > len(polls) * 0.8


def test_a_failing_test_there_fails_the_tier_here(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    finish(scene.runs[0], results("gpu", ["test_a", "test_b"], failing=["test_b"]), "failure")
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is Verdict.FAILED
    assert verdict.reasons[1] == "failed: tests/test_it.py::test_b"


@pytest.mark.parametrize(
    ("conclusion", "expected", "says"),
    [
        ("success", Verdict.INFRASTRUCTURE, "left no results"),
        ("failure", Verdict.INFRASTRUCTURE, "left no results"),
        ("cancelled", Verdict.CANCELLED, ""),
        ("timed_out", Verdict.OVER_BUDGET, "timeout-minutes"),
        ("stale", Verdict.INFRASTRUCTURE, "stale"),
        ("startup_failure", Verdict.INFRASTRUCTURE, "could not be started"),
        ("action_required", Verdict.INFRASTRUCTURE, "approval"),
        ("neutral", Verdict.INFRASTRUCTURE, "neutral"),
        ("skipped", Verdict.INFRASTRUCTURE, "skipped"),
    ],
)
def test_no_ending_without_results_is_green(
    scene: Scene, tmp_path: Path, conclusion: str, expected: Verdict, says: str
) -> None:
    dispatches = scene.dispatch()
    finish(scene.runs[0], None, conclusion)
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is expected
    assert says in " ".join(verdict.reasons)
    assert verdict.exit_code != 0


@pytest.mark.parametrize("patch", [None, 80.0])
def test_a_job_that_failed_beside_passing_tests_is_not_believed(
    scene: Scene, tmp_path: Path, patch: float | None
) -> None:
    """Nor where the change is to be covered, which is known only here: that says nothing of why the job failed."""
    dispatches = scene.dispatch()
    packed = io.BytesIO(results("gpu"))
    with zipfile.ZipFile(packed, "a") as archive:
        measured = {"src/a.py": {"executed_lines": [1], "missing_lines": []}}
        archive.writestr("gpu/coverage.json", json.dumps({"files": measured}))
    finish(scene.runs[0], packed.getvalue(), "failure")
    verdict = wait(scene, dispatches, tmp_path / "out", replace(TIER, coverage_patch=patch))
    assert verdict.verdict is Verdict.INFRASTRUCTURE
    assert "its job failed, though none of its tests did" in verdict.reasons[0]


def test_results_of_another_commit_are_not_believed(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    finish(scene.runs[0], results("gpu", sha="b" * 40))
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is Verdict.INFRASTRUCTURE
    assert "of commit bbbbbbbbbb, and aaaaaaaaaa was to be tested" in verdict.reasons[0]


def test_no_runner_within_the_queue_limit(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    (run,) = scene.runs
    run.add_job("test")
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is Verdict.NEVER_STARTED
    assert run.conclusion == "cancelled"
    assert 3600 <= scene.clock.slept < 3600 + 60


def test_past_the_budget_it_is_cancelled_and_what_it_left_is_read(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    (run,) = scene.runs
    run.add_job("test")
    run.start()

    def stops(one: Run) -> None:
        scene.clock.at(scene.clock.slept + 5, lambda: finish(one, results("gpu", seconds=2000.0), "cancelled"))

    scene.server.hooks = type(scene.server.hooks)(on_cancel=stops)
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is Verdict.OVER_BUDGET
    assert verdict.result.counts.passed == 1
    assert 2400 <= scene.clock.slept < 2400 + 120


def test_github_being_away_ends_nothing(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch()
    (run,) = scene.runs
    run.add_job("test")
    scene.server.inject(server_error(503), method="GET", path="/runs/", times=40)
    scene.server.inject(secondary_rate_limit(retry_after=30), method="GET", path="/runs/", times=12)
    scene.clock.at(900, lambda: finish(run, results("gpu")))
    assert wait(scene, dispatches, tmp_path / "out").verdict is Verdict.PASSED
    assert "GitHub does not say how it is" in scene.talk.getvalue()


def test_whoever_is_cancelled_cancels_what_it_started(scene: Scene, tmp_path: Path) -> None:
    dispatches = scene.dispatch(replace(TIER, shards=3))
    for run in scene.runs:
        run.add_job("test")
    finish(scene.runs[0], results("gpu", part=(1, 3), collected=3))

    def stop() -> None:
        scene.cancelled = True

    scene.clock.at(50, stop)
    verdict = wait(scene, dispatches, tmp_path / "out", replace(TIER, shards=3))
    assert verdict.verdict is Verdict.CANCELLED
    assert [run.conclusion for run in scene.runs] == ["success", "cancelled", "cancelled"]
    assert scene.status() == ("error", "cancelled: whoever waited for it was cancelled")


def test_eight_shards_are_one_result(scene: Scene, tmp_path: Path) -> None:
    tier = replace(TIER, shards=8)
    dispatches = scene.dispatch(tier)
    for number, run in enumerate(scene.runs, 1):
        part = results("gpu", [f"test_{number}"], part=(number, 8), collected=8)
        scene.clock.at(100 * (9 - number), lambda run=run, part=part: finish(run, part))
    verdict = wait(scene, dispatches, tmp_path / "out", tier)
    assert verdict.verdict is Verdict.PASSED, verdict.reasons
    assert verdict.result.counts.passed == 8
    merged = json.loads((tmp_path / "out" / "gpu" / "result.json").read_text())
    assert len(merged["tests"]) == 8
    assert [part["shard"] for part in merged["parts"]] == list(range(1, 9))


@pytest.mark.parametrize("lost", ["no results", "other part", "never started"])
def test_a_missing_shard_is_missed(scene: Scene, tmp_path: Path, lost: str) -> None:
    tier = replace(TIER, shards=3)
    dispatches = scene.dispatch(tier)
    for number, run in enumerate(scene.runs, 1):
        part = results("gpu", [f"test_{number}"], part=(number, 3), collected=3)
        if number == 2:
            part = {"no results": None, "never started": None,
                    "other part": results("gpu", ["test_1"], part=(1, 3), collected=3)}[lost]  # fmt: skip
        if number == 2 and lost == "never started":
            run.add_job("test")
            continue
        finish(run, part)
    verdict = wait(scene, dispatches, tmp_path / "out", tier)
    assert verdict.verdict in (Verdict.INFRASTRUCTURE, Verdict.NEVER_STARTED)
    assert "2" in " ".join(verdict.reasons)


def test_an_earlier_runs_results_are_no_evidence(scene: Scene, tmp_path: Path) -> None:
    old = tmp_path / "out" / "gpu"
    old.mkdir(parents=True)
    (old / "result.json").write_text(json.dumps({"sha": SHA, "ending": "exited", "exit_code": 0}))
    (old / "junit.xml").write_text('<testsuite tests="1"><testcase classname="a" name="b" time="1"/></testsuite>')
    dispatches = scene.dispatch()
    finish(scene.runs[0], None)
    assert wait(scene, dispatches, tmp_path / "out").verdict is Verdict.INFRASTRUCTURE


def test_a_hostile_artifact_is_refused(scene: Scene, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("gpu/junit.xml", "<testsuite/>")
        archive.writestr("../../escaped", "x")
    dispatches = scene.dispatch()
    finish(scene.runs[0], packed.getvalue())
    verdict = wait(scene, dispatches, tmp_path / "out")
    assert verdict.verdict is Verdict.INFRASTRUCTURE
    assert "refused" in " ".join(verdict.reasons)
    assert not list(tmp_path.rglob("escaped"))


def test_a_look_at_nothing_says_nothing() -> None:
    assert Look(phase=Phase.QUEUED).verdict is None
    assert Ending.NEVER_STARTED.value == "never-started"
