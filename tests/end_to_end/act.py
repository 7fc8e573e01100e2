"""Runs a workflow under act, on this machine, as GitHub's runner would: real action.yml, real events, real signals.

`act` in host mode needs no Docker. What it fetches from GitHub is put in its place: our action by a copy of this
checkout (what GitHub's tarball of a release would hold), the three actions of GitHub's that the starter uses by the
stand-ins beside this file. A `Machine` is a self-hosted runner: its tool cache outlives the jobs.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.loopback_github import LoopbackGitHub, Pull, Repository, Run
from tests.loopback_github import represent as shown
from tests.loopback_github.contract import github_contract
from tests.loopback_github.state import now

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
STARTER = ROOT / "workflows" / "pull-request.yml"
BIN = Path(sys.executable).parent
OURS = "org/ml-test-action@v1"
ZERO = "0" * 40
_NUMBERING = threading.Lock()


def git(repository: Path, *arguments: str) -> str:
    """Runs git as somebody, at some fixed time; gives what it printed."""
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}.items()
    }
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(command, env={**os.environ, **identity}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def copy_tracked(source: Path, target: Path) -> Path:
    """Copies what git tracks of a folder (and what it would track if it were added)."""
    listed = git(source, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, set(listed.split("\0"))):
        if (source / name).is_file():  # not deleted meanwhile
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    return target


def make_repository(folder: Path, files: Mapping[str, str] | Path) -> Path:
    """A git repository with one commit on `main`: the files and the starter workflow, copied as the README says."""
    folder.mkdir(parents=True)
    if isinstance(files, Path):
        copy_tracked(files, folder)
    else:
        write(folder, files)
    (folder / ".github" / "workflows").mkdir(parents=True, exist_ok=True)
    shutil.copy(STARTER, folder / ".github" / "workflows" / "pull-request.yml")
    if not (folder / "requirements.txt").exists():
        (folder / "requirements.txt").write_text("pytest\n", encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "The project")
    return folder


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes text files by relative path."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def commit(repository: Path, message: str) -> str:
    """Commits everything on the current branch; gives the SHA."""
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", message)
    return git(repository, "rev-parse", "HEAD")


def branch(repository: Path, name: str, files: Mapping[str, str]) -> str:
    """A branch from main with one commit more; the work tree is back on main afterwards."""
    git(repository, "checkout", "--quiet", "-B", name, "main")
    write(repository, files)
    sha = commit(repository, f"Change for {name}")
    git(repository, "checkout", "--quiet", "main")
    return sha


# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EventFile:
    """What GitHub would tell the runner: the event, its payload, and the ref that is checked out."""

    name: str
    payload: Mapping[str, Any]
    ref: str


def push_event(repository: Repository, path: Path, *, before: str = ZERO) -> EventFile:
    """The push of what `main` points at."""
    after = git(path, "rev-parse", "main")
    owner = shown.user(repository.owner, repository.world.api_url)
    payload = {
        "ref": "refs/heads/main",
        "before": before,
        "after": after,
        "base_ref": None,
        "compare": f"https://github.com/{repository.full_name}/compare/{before[:12]}...{after[:12]}",
        "created": before == ZERO,
        "deleted": False,
        "forced": False,
        "commits": [],
        "head_commit": None,
        "pusher": {"name": owner["login"]},
        "repository": shown.repository(repository),
        "sender": owner,
    }
    _hold("push", payload)
    return EventFile(name="push", payload=payload, ref="refs/heads/main")


def pull_request_event(pull: Pull, path: Path, *, action: str = "opened") -> EventFile:
    """A pull request's event; makes the merge commit that GitHub makes, under `refs/pull/N/merge`."""
    ref = f"refs/pull/{pull.number}/merge"
    git(path, "checkout", "--quiet", "--detach", pull.base_sha)
    git(path, "merge", "--quiet", "--no-ff", "--message", f"Merge {pull.head_sha} into {pull.base_sha}", pull.head_sha)
    git(path, "update-ref", ref, "HEAD")
    git(path, "checkout", "--quiet", "main")
    payload = {
        "action": action,
        "number": pull.number,
        "pull_request": shown.pull_request(pull),
        "repository": shown.repository(pull.repository),
        "sender": shown.user(pull.author, pull.repository.world.api_url),
    }
    if action == "synchronize":
        payload |= {"before": pull.base_sha, "after": pull.head_sha}
    _hold(f"pull-request-{action}", payload)
    return EventFile(name="pull_request", payload=payload, ref=ref)


def dispatch_event(run: Run) -> EventFile:
    """What GitHub tells the runner of a dispatched run."""
    record = run.repository
    payload = {
        "inputs": dict(run.inputs),
        "ref": f"refs/heads/{run.head_branch}",
        "workflow": run.workflow.path,
        "repository": shown.repository(record),
        "sender": shown.user(run.actor, record.world.api_url),
    }
    _hold("workflow-dispatch", payload)
    return EventFile(name="workflow_dispatch", payload=payload, ref=f"refs/heads/{run.head_branch}")


def _hold(name: str, payload: Mapping[str, Any]) -> None:
    """A payload must be one that GitHub could send."""
    problems = github_contract().payload_problems(name, payload)
    assert not problems, "\n".join(problems)


# --- act -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one run of act said, as its JSON log."""

    exit_code: int
    log: Sequence[Mapping[str, Any]]
    artifacts: Path

    @cached_property
    def text(self) -> str:
        """All it printed, for the message of a failed assertion."""
        return "\n".join(str(entry.get("msg", "")).rstrip("\n") for entry in self.log)

    @cached_property
    def steps(self) -> Mapping[str, str]:
        """The results (success, failure, skipped) of the workflow's own steps, by name."""
        return {
            entry["step"]: entry["stepResult"]
            for entry in self.log
            if entry.get("stage") == "Main" and "stepResult" in entry and len(entry["stepID"]) == 1
        }

    @property
    def outputs(self) -> Mapping[str, str]:
        """The outputs of our action, as the workflow's later steps see them."""
        return {
            entry["name"]: entry["arg"]
            for entry in self.log
            if entry.get("command") == "set-output" and entry["step"] == OURS and len(entry["stepID"]) == 1
        }

    @property
    def summary(self) -> str:
        """What was written to the job's summary."""
        return "".join(entry["content"] for entry in self.log if entry.get("command") == "summary")

    @property
    def annotations(self) -> Sequence[tuple[str, Mapping[str, str], str]]:
        """The workflow commands `error`, `warning` and `notice`: kind, properties, text."""
        found = []
        for entry in self.log:
            said = re.match(
                r"::(error|warning|notice)( [^:]*)?::(.*)", str(entry.get("raw", entry.get("msg", ""))).strip()
            )
            if said:
                pairs = (pair.partition("=") for pair in (said[2] or "").strip().split(",") if pair)
                found.append((said[1], {key: value for key, _, value in pairs}, said[3]))
        return found


class Running:
    """A job that is going on."""

    def __init__(self, process: subprocess.Popen[str], artifacts: Path) -> None:
        self.process = process
        self.artifacts = artifacts

    def entry_process(self) -> int | None:
        """The process that the runner started for our step: act's own child, by now the orchestrator."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for pid in " ".join(file.read_text() for file in children).split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"--inside" in command:
                return int(pid)
        return None

    def finish(self, seconds: float = 400) -> Job:
        """Waits for the end of the job."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            out, err = self.process.communicate(timeout=30)
            raise AssertionError(f"the job did not end in {seconds:.0f} s:\n{out[-4000:]}{err[-2000:]}") from None
        log = [json.loads(line) for line in out.splitlines() + err.splitlines() if line.startswith("{")]
        return Job(exit_code=self.process.returncode, log=log, artifacts=self.artifacts)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A self-hosted runner. ``folder`` has no space in its path: act itself could not run a script there."""

    folder: Path
    action: Path

    @classmethod
    def make(cls, folder: Path) -> Machine:
        """A machine on which nothing has run yet, with this checkout as the released action."""
        return cls(folder=folder, action=copy_tracked(ROOT, folder / "released action"))

    @property
    def tool_cache(self) -> Path:
        """What outlives a job."""
        return self.folder / "cache" / "tool_cache"

    def start(
        self,
        repository: Path,
        event: EventFile,
        github: LoopbackGitHub,
        *,
        token: str,
        env: Mapping[str, str] | None = None,
        workflow_name: str = "pull-request.yml",
    ) -> Running:
        """Starts one of the repository's workflows for an event."""
        with _NUMBERING:
            number = sum(1 for _ in self.folder.glob("job-*"))
            job = self.folder / f"job-{number}"
            artifacts = job / "artifacts"
            artifacts.mkdir(parents=True)
        (job / "event.json").write_text(json.dumps(event.payload), encoding="utf-8")
        workflow = repository / ".github" / "workflows" / workflow_name
        variables = {
            "GITHUB_API_URL": github.api_url,
            "GITHUB_SERVER_URL": github.server_url,
            "GITHUB_REPOSITORY": event.payload["repository"]["full_name"],
            "GITHUB_REF": event.ref,
            "GITHUB_RUN_ID": str(1000 + number),
            "STAND_IN_ORIGIN": str(repository),
            "STAND_IN_PYTHON": str(BIN),
            "STAND_IN_ARTIFACTS": str(artifacts),
            **(env or {}),
        }
        command = [
            *(str(BIN / "act"), event.name, "--json", "--no-cache-server", "--no-skip-checkout"),
            *("--platform", "ubuntu-latest=-self-hosted", "--platform", "self-hosted=-self-hosted"),
            *("--action-cache-path", str(self.folder / "cache")),
            *("--directory", str(repository), "--workflows", str(workflow), "--eventpath", str(job / "event.json")),
            *("--actor", event.payload["sender"]["login"], "--secret", f"GITHUB_TOKEN={token}"),
        ]
        for name, value in variables.items():
            command += ["--env", f"{name}={value}"]
        texts = [path.read_text(encoding="utf-8") for path in workflow.parent.glob("*.yml")]
        named = set(re.findall(r"- uses: (org/ml-test-action)\S*(@\S+)", "\n".join(texts)))
        ours = {OURS, *("".join(parts) for parts in named)}
        for name, folder in {**dict.fromkeys(ours, self.action), **_stand_ins(workflow)}.items():
            command += ["--local-repository", f"{name}={folder}"]
        # The runner's own environment: none of ours, and no virtual environment of ours on its PATH.
        path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != BIN)
        if "GITHUB_RUN_ID" in (env or {}):  # a machine of the team's: its Python is there before the job
            path = f"{BIN}{os.pathsep}{path}"
        kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "OPENBLAS_", "LANG"))}
        process = subprocess.Popen(
            command,
            env={**kept, "PATH": path, "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Running(process, artifacts)

    def run(
        self,
        repository: Path,
        event: EventFile,
        github: LoopbackGitHub,
        *,
        token: str,
        env: Mapping[str, str] | None = None,
        workflow_name: str = "pull-request.yml",
    ) -> Job:
        """Runs one of the repository's workflows for an event to its end."""
        return self.start(repository, event, github, token=token, env=env, workflow_name=workflow_name).finish()


class Team:
    """The team's machines, and GitHub's for the second job: what is dispatched really runs, in a checkout of its own.

    ``Hooks(on_dispatch=team.take, on_cancel=team.cancel)`` connects it to the loopback GitHub. What act says of the
    jobs becomes what the API says of them, and what they upload its artifacts.
    """

    def __init__(self, machine: Machine, path: Path, *, at_once: int = 2) -> None:
        self.machine = machine
        self.path = path
        self.github: LoopbackGitHub | None = None
        self.token = ""
        self.away = False  # no machine takes anything
        self.jobs: dict[int, Job] = {}
        self._slots = threading.Semaphore(at_once)
        self._threads: list[threading.Thread] = []
        self._running: dict[int, subprocess.Popen[str]] = {}

    def take(self, run: Run) -> None:
        """A run was dispatched."""
        run.add_job("test", json.loads(run.inputs["runner"]))
        if not self.away:
            thread = threading.Thread(target=self._work, args=(run,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def cancel(self, run: Run) -> None:
        """A run was cancelled."""
        process = self._running.get(run.id)
        if process is not None:
            process.send_signal(signal.SIGINT)
        else:
            run.finish("cancelled")

    def finish(self, seconds: float = 400) -> list[Job]:
        """Waits for everything that was taken."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a dispatched run did not end"
        return [self.jobs[number] for number in sorted(self.jobs)]

    def _work(self, run: Run) -> None:
        with self._slots:
            self.run(run, dispatch_event(run))

    def run(self, run: Run, event: EventFile) -> Job:
        """Runs the workflow of a run to its end."""
        assert self.github is not None
        env = {"GITHUB_RUN_ID": str(run.id)}
        name = run.workflow.file_name
        running = self.machine.start(self.path, event, self.github, token=self.token, env=env, workflow_name=name)
        self._running[run.id] = running.process
        log = []
        assert running.process.stdout is not None
        assert running.process.stderr is not None
        for line in running.process.stdout:
            if line.startswith("{"):
                log.append(json.loads(line))
                self._told(run, log[-1], running.artifacts)
        log += [json.loads(line) for line in running.process.stderr if line.startswith("{")]
        code = running.process.wait(timeout=60)
        self.jobs[run.id] = Job(exit_code=code, log=log, artifacts=running.artifacts)
        run.finish("success" if code == 0 else "failure")
        return self.jobs[run.id]

    def _told(self, run: Run, entry: Mapping[str, Any], artifacts: Path) -> None:
        """What a line of act's log means for the run on GitHub."""
        name = entry.get("jobID")
        if name is None:
            return
        known = {job.name: job for job in run.jobs}
        job = known.get(name) or run.add_job(name, ("ubuntu-latest",))
        if job.status == "queued":
            run.start(f"machine-{run.id}")
        if "jobResult" in entry:
            job.status, job.conclusion, job.completed = "completed", entry["jobResult"], now()
            for folder in artifacts.iterdir():
                if folder.name not in {artifact.name for artifact in run.artifacts}:
                    run.add_artifact(folder.name, zipped(folder))


def zipped(folder: Path) -> bytes:
    """A folder as the artifact that actions/upload-artifact makes of it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


def _stand_ins(workflow: Path) -> dict[str, Path]:
    """Each action of GitHub's that the workflow or our action uses, as it is pinned there."""
    texts = [path.read_text(encoding="utf-8") for path in (*workflow.parent.glob("*.yml"), ROOT / "action.yml")]
    text = "\n".join(texts)
    return {
        f"actions/{name}@{ref}": STAND_INS / name for name, ref in re.findall(r"uses: actions/([\w-]+)@(\w+)", text)
    }


def until(condition: Any, seconds: float = 60) -> Any:
    """Waits for something another process does, and gives it; a bound, not a synchronisation."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return value
