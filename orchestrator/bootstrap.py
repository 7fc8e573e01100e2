"""The action's entry: the job's `python3` runs this file, and this process becomes the orchestrator.

    python3 -I orchestrator/bootstrap.py       environment: the step's, with the action's inputs as MLTIERS_INPUT_*

1. Find (or build, once) a virtual environment that holds the locked dependencies and nothing of ours.
2. Translate the action's inputs into the command line of `mltiers run`.
3. exec the orchestrator in that environment, from this checkout. Exec, because a cancelled job signals only the step's
   entry process: the process that GitHub started must be the one that has something to publish.

Standard library only. The syntax stays readable for Python 3.6 (so no `from __future__ import annotations`, no walrus):
an older `python3` must get as far as looking for a newer one, or saying what is missing.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import machinery, util
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 10 ms of every start, and the annotations below are strings
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any  # noqa: F401 -- in comments, which an old Python can read

PACKAGE = Path(__file__).resolve().parent  # …/orchestrator of the action's checkout
LOCK = PACKAGE.parent / "requirements" / "action.txt"
OLDEST = (3, 10)
PREFIX = "MLTIERS_INPUT_"
USAGE, INFRASTRUCTURE, CANCELLED = 2, 3, 130  # orchestrator.words.errors.ExitCode, which an old Python could not import
INPUTS = ("config", "tiers", "python", "comment", "dispatch", "wait", "shard", "sha", "pr", "out")
# Those of the actions in plan/ and report/, which are this one with another command.
COMMANDS = {
    "run": INPUTS,
    "plan": ("config", "tiers", "sha", "pr"),
    "report": ("config", "tiers", "comment", "results", "nonce", "sha", "pr", "out"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/opt/homebrew/bin"  # where a Python may be beside the job's PATH
LAYOUT = "1"  # of the environment's folder: part of its key

# What the lock installs. The compiled ones are imported (another libc or CPU shows here), the others only located: that
# makes the check of every start 70 ms instead of 200.
COMPILED = ("msgspec", "yaml")
PURE = ("certifi", "charset_normalizer", "idna", "requests", "urllib3")
PROBE = "import sys, importlib.util as u, {}; sys.exit(not all(map(u.find_spec, {!r})))".format(
    ", ".join(COMPILED), PURE
)
FULL_PROBE = "import {}".format(", ".join(COMPILED + PURE))
CANDIDATE_PROBE = f"import sys; sys.version_info < {OLDEST!r} and sys.exit(1); import ensurepip, venv"

# pip may be told how to reach its index; everything else (target, user, constraint, …) would change what is installed.
PIP_SETTINGS = re.compile(
    "PIP_(CACHE_DIR|CERT|CLIENT_CERT|CONFIG_FILE|DEFAULT_TIMEOUT|EXTRA_INDEX_URL|FIND_LINKS|INDEX_URL|KEYRING_PROVIDER"
    "|NO_CACHE_DIR|NO_INDEX|PROXY|RETRIES|TIMEOUT|TRUSTED_HOST|USE_FEATURE)"
)


class BootstrapError(Exception):
    """The orchestrator cannot start: a sentence, a remedy where there is one, an exit code."""

    def __init__(self, message: str, remedy: str = "", exit_code: int = INFRASTRUCTURE) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code


class Cancelled(BaseException):
    """Somebody stopped us. No Exception: the orchestrator, still starting, must not take it for a defect of its own."""


# --- the command line ----------------------------------------------------------------------------------------------


def read_inputs(environ: "Mapping[str, str]") -> "dict[str, str]":
    """The action's inputs by name; one that is not set, or blank, is absent."""
    names = COMMANDS[command_of(environ)]
    values = ((name, environ.get(PREFIX + name.upper().replace("-", "_"), "").strip()) for name in names)
    return {name: value for name, value in values if value}


def command_of(environ: "Mapping[str, str]") -> str:
    """What the action that started us does: run, plan or report."""
    command = environ.get("MLTIERS_COMMAND", "run")
    return command if command in COMMANDS else "run"


def approves(environ: "Mapping[str, str]") -> bool:
    """Whether the event is somebody's approval, a comment or a label: that starts what runs elsewhere, nothing here."""
    if environ.get("GITHUB_EVENT_NAME") != "pull_request":
        return environ.get("GITHUB_EVENT_NAME") == "issue_comment"
    import json  # noqa: PLC0415 -- for this event alone

    try:
        payload = json.loads(Path(environ.get("GITHUB_EVENT_PATH", "")).read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return False  # the orchestrator says what is wrong with it
    return isinstance(payload, dict) and payload.get("action") == "labeled"


def command_line(inputs: "Mapping[str, str]", command: str = "run") -> "list[str]":
    """The arguments of `mltiers` that say what the inputs say. Raises BootstrapError, naming the input.

    The token is not among them: a command line is readable by every process of the machine.
    """
    tiers = re.split(r"[\s,]+", inputs["tiers"]) if "tiers" in inputs else []
    tiers = [tier for tier in tiers if tier]
    arguments = [command] + (["--tier=" + tier for tier in tiers] if command == "report" else tiers)
    for tier in tiers:
        if tier.startswith("-"):
            raise BootstrapError(
                f"input 'tiers': {tier!r} is not a name of a tier",
                "Give names of tiers, separated by spaces, commas or lines; switches have inputs of their own.",
                USAGE,
            )
    for name in ("config", "python", "comment", "shard", "nonce", "sha", "pr", "out"):
        if name in inputs:
            arguments.append(f"--{name}={inputs[name]}")  # one word: a value cannot become a switch
    if "dispatch" in inputs:
        arguments.append("--dispatch" if _boolean("dispatch", inputs) else "--no-dispatch")
    if _boolean("wait", inputs):
        arguments.append("--wait")
    if "results" in inputs:
        arguments += ["--", *_folders(inputs["results"])]
    return arguments


def _folders(lines: str) -> "list[str]":
    """The folders that the lines of the input `results` name. Raises BootstrapError where one names none."""
    import glob  # noqa: PLC0415 -- for this input alone

    folders = []  # type: list[str]
    for line in filter(None, map(str.strip, lines.splitlines())):
        found = sorted(path for path in glob.glob(line) if os.path.isdir(path))  # noqa: PTH112, PTH207
        if not found:
            raise BootstrapError(f"input 'results': {line}: there is no such folder", exit_code=USAGE)
        folders += found
    return folders


def _boolean(name: str, inputs: "Mapping[str, str]") -> bool:
    value = inputs.get(name, "false")
    if value.lower() not in ("true", "false"):
        raise BootstrapError(f"input '{name}': {value!r} is neither true nor false", exit_code=USAGE)
    return value.lower() == "true"


def artifact_name(inputs: "Mapping[str, str]", environ: "Mapping[str, str]") -> str:
    """The report's name among the artifacts of the workflow run: one per job, matrix leg, config, tiers and shard."""
    # A report is no result: its name keeps it from being taken for one.
    parts = ["mltiers" if command_of(environ) == "run" else "report", environ.get("GITHUB_JOB", "")]
    if inputs.get("config", "ml-tiers.yml") != "ml-tiers.yml":
        parts.append(inputs["config"])
    parts += [inputs.get("tiers", ""), inputs.get("shard", "").replace("/", "of")]
    if environ.get("MLTIERS_JOB_TOTAL", "1") not in ("", "1"):
        parts.append(environ.get("MLTIERS_JOB_INDEX", ""))
    slugs = (re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in parts)
    name = "-".join(slug for slug in slugs if slug)
    return name if len(name) <= 100 else name[:90] + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]


# --- the virtual environment ---------------------------------------------------------------------------------------


def environment_key(lock: bytes, base: str) -> str:
    """Names the environment: readable first, then a hash of all that it depends on.

    The base Python is named by its real path as well: a tool cache is shared with job containers, where the same
    version is another build with another C library.
    """
    machine = os.uname().machine
    facts = (LAYOUT, hashlib.sha256(lock).hexdigest(), sys.version, machine, machinery.EXTENSION_SUFFIXES[0], base)
    digest = hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()
    return "{}.{}.{}-{}-{}-{}".format(*sys.version_info[:3], sys.platform, machine, digest[:16])


def base_python() -> str:
    """The interpreter below any virtual environment that runs us, by its real path."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def cache_folders(environ: "Mapping[str, str]") -> "Iterator[Path]":
    """Where environments may live, best first: the folder that outlives the job, the job's own, the user's."""
    for variable in ("RUNNER_TOOL_CACHE", "RUNNER_TEMP", "XDG_CACHE_HOME"):
        if environ.get(variable):
            yield Path(environ[variable]) / "mltiers"
    with contextlib.suppress(RuntimeError):  # no home
        yield Path.home() / ".cache" / "mltiers"


def writable_folder(environ: "Mapping[str, str]") -> Path:
    """The first of cache_folders() that we can write to, made. Raises BootstrapError."""
    tried = []
    for folder in cache_folders(environ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=str(folder)):
                return folder.resolve()
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
    raise BootstrapError(
        "no folder to keep the orchestrator's virtual environment in ({})".format("; ".join(tried) or "none is known"),
        "Set RUNNER_TOOL_CACHE to a folder that the runner's user can write to.",
    )


def interpreter(environment: Path) -> str:
    """The Python of a virtual environment."""
    return str(environment / "bin" / "python")


def works(environment: Path, probe: str = PROBE) -> bool:
    """Whether the environment's Python still starts and still has the dependencies."""
    try:
        return subprocess.call([interpreter(environment), "-I", "-c", probe], **_SILENT) == 0
    except OSError:  # not built, or its base Python is gone
        return False


def ensure_environment(environ: "Mapping[str, str]", say: "Callable[[str], None]") -> Path:
    """The virtual environment for our lock, built if there is none that works. Raises BootstrapError."""
    try:
        lock = LOCK.read_bytes()
    except OSError as error:
        raise BootstrapError(f"cannot read {LOCK}: {error.strerror}") from None
    folder = writable_folder(environ)
    base = base_python()
    environment = folder / environment_key(lock, base)
    if works(environment):
        return environment
    with _locked(folder / (environment.name + ".lock"), say):
        if works(environment):  # another job built it while we waited
            return environment
        _remove_leftovers(environment)
        building = Path(tempfile.mkdtemp(prefix=environment.name + ".building-", dir=str(folder)))
        try:
            building.chmod(0o755)  # as any folder of the tool cache: runners of other users may share it
            _build(building, base, environ, say)
            _replace(environment, building)
        finally:
            shutil.rmtree(str(building), ignore_errors=True)
    return environment


def _build(building: Path, base: str, environ: "Mapping[str, str]", say: "Callable[[str], None]") -> None:
    started = time.monotonic()
    say("mltiers: installing the orchestrator's dependencies (once per machine, Python and release)")
    env = {name: value for name, value in environ.items() if name[:4] != "PIP_" or PIP_SETTINGS.fullmatch(name)}
    code, output = _run([base, "-I", "-m", "venv", "--clear", str(building)], env)
    if code:
        raise BootstrapError(f"{base} could not make a virtual environment:\n{output}", _VENV_REMEDY)
    pip = [
        interpreter(building),
        "-I",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--no-user",
    ]
    # Wheels only: building from source would run build dependencies that no hash vouches for, and need a compiler.
    code, output = _run([*pip, "--require-hashes", "--only-binary=:all:", "--no-deps", "-r", str(LOCK)], env)
    if code:
        raise _install_error(output)
    if not works(building, FULL_PROBE):
        raise BootstrapError(f"the installed dependencies cannot be imported by {base}")
    say(f"mltiers: installed in {time.monotonic() - started:.1f} s")


def _install_error(output: str) -> BootstrapError:
    tail = "\n".join(output.strip().splitlines()[-12:])
    if "DO NOT MATCH THE HASHES" in output or "--require-hashes" in output:
        return BootstrapError(
            f"what the package index serves is not what {LOCK.name} locks; nothing was installed:\n{tail}",
            "If the index is a mirror that repacks files, point PIP_INDEX_URL at one that does not.",
        )
    if "Invalid requirement" in output:
        return BootstrapError(f"{LOCK} is damaged:\n{tail}", "Use a released version of the action.")
    return BootstrapError(
        f"the orchestrator's dependencies could not be installed:\n{tail}",
        "The machine must reach its Python package index (PIP_INDEX_URL, PIP_PROXY and PIP_CERT are honoured), "
        "and the index must have wheels for Python {}.{} on {}.".format(*sys.version_info[:2], os.uname().machine),
    )


def _replace(environment: Path, building: Path) -> None:
    """Puts the finished folder in place. A rename: no other job ever sees half of it."""
    if os.path.lexists(str(environment)):
        broken = tempfile.mkdtemp(prefix=environment.name + ".broken-", dir=str(environment.parent))
        environment.rename(Path(broken) / "it")
        shutil.rmtree(broken, ignore_errors=True)
    try:
        building.rename(environment)
    except OSError:  # where locks do nothing (some network file systems), another job may have been first
        if not works(environment):
            raise


def _remove_leftovers(environment: Path) -> None:
    """Removes what killed builds of this environment left behind; ours is the lock, so nobody is building."""
    for leftover in environment.parent.glob(environment.name + ".b*-*"):
        shutil.rmtree(str(leftover), ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, say: "Callable[[str], None]") -> "Iterator[None]":
    """Holds an exclusive lock; the kernel drops it when the holder dies, however it dies."""
    import fcntl  # noqa: PLC0415 -- not on Windows, which must get as far as the sentence that says so

    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("mltiers: waiting for another job on this machine to finish installing")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            say(f"mltiers: {path.parent} cannot be locked here; going on without")
        yield


_SILENT = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # type: dict[str, Any]
_VENV_REMEDY = "On Debian and Ubuntu: apt-get install python3-venv"


def _run(command: "Sequence[str]", env: "Mapping[str, str]") -> "tuple[int, str]":
    """Runs a command in a process group of its own, which ends with us; gives its exit code and all it printed."""
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output.decode("utf-8", "replace")


# --- which Python --------------------------------------------------------------------------------------------------


def other_pythons(wanted: "str | None", path: str) -> "Iterator[str]":
    """Other interpreters on a search path that might do, best first; none twice, and not the one that runs us."""
    seen = {os.path.realpath(sys.executable)}
    numbered = [f"python3.{minor}" for minor in range(20, OLDEST[1] - 1, -1)]
    for name in [wanted or "python3", "python3", "python", *numbered]:
        found = shutil.which(name, path=path)
        if found and os.path.realpath(found) not in seen:
            seen.add(os.path.realpath(found))
            yield found


def choose_python(wanted: "str | None", path: str) -> "str | None":
    """Another Python to be run by, or None where the one that runs us will do. Raises BootstrapError.

    Any Python of the machine will do for the orchestrator: the one that runs the tests stays the user's.
    """
    if sys.version_info >= OLDEST and util.find_spec("ensurepip") and util.find_spec("venv"):
        return None
    for python in other_pythons(wanted, path):
        with contextlib.suppress(OSError):
            if subprocess.call([python, "-I", "-c", CANDIDATE_PROBE], **_SILENT) == 0:
                return python
    if sys.version_info >= OLDEST:
        raise BootstrapError(f"{sys.executable} has no venv and ensurepip modules", _VENV_REMEDY)
    raise BootstrapError(
        f"it needs Python 3.{OLDEST[1]} or newer; {sys.executable} is 3.{sys.version_info[1]}, and there is no other",
        "Put actions/setup-python before the action, or install a newer Python on the machine.",
    )


# --- entry ---------------------------------------------------------------------------------------------------------


def main(environ: "Mapping[str, str]") -> "tuple[str, list[str], dict[str, str]]":
    """Decides what this process becomes: executable, arguments, environment. Raises BootstrapError."""
    if os.name == "nt":
        raise BootstrapError("the action does not run on Windows", "Use `runs-on:` with Linux or macOS.", USAGE)
    inputs = read_inputs(environ)
    # The worst first, and the last word wins: whatever kills us or the orchestrator, the job's later steps see this.
    _write_outputs(environ, {"artifact-name": artifact_name(inputs, environ), **_outputs(INFRASTRUCTURE)})
    command = command_of(environ)
    arguments = command_line(inputs, "dispatch" if command == "run" and approves(environ) else command)
    other = choose_python(inputs.get("python"), environ.get("PATH", "") + os.pathsep + SYSTEM_PATH)
    if other:
        return other, [other, "-I", str(PACKAGE / "bootstrap.py")], dict(environ)
    python = interpreter(ensure_environment(environ, _say))
    # Only what is ours goes: PYTHONPATH and its like belong to the tests, and `-I` keeps them from us.
    ours = {name for name in environ if name.startswith((PREFIX, "MLTIERS_JOB_", "MLTIERS_COMMAND"))}
    environment = {name: value for name, value in environ.items() if name not in ours}
    return python, [python, "-I", str(PACKAGE / "bootstrap.py"), "--inside", *arguments], environment


def inside(arguments: "Sequence[str]") -> int:
    """Runs the orchestrator of this checkout; we are in its environment by now.

    Only the package itself becomes importable, not the folders beside it: see package_loader.py.
    """
    file = PACKAGE / "package_loader.py"
    loader = {"__name__": PACKAGE.name + ".package_loader"}  # type: dict[str, Any]
    exec(compile(file.read_bytes(), str(file), "exec"), loader)  # noqa: S102 -- never from bytecode that lies beside it
    loader["make_importable"](PACKAGE, cache=Path(sys.prefix, "orchestrator"))

    from orchestrator import cli  # noqa: PLC0415 -- importable only now

    sys.argv = ["mltiers", *arguments]
    try:
        return cli.main(list(arguments))
    except SystemExit as stop:  # argparse has said what is wrong
        return stop.code if isinstance(stop.code, int) else USAGE


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _outputs(exit_code: int) -> "dict[str, object]":
    """The outputs of an end without a run: nothing was judged, so a usage error has no verdict."""
    verdicts = {INFRASTRUCTURE: "infrastructure", CANCELLED: "cancelled"}
    return {"verdict": verdicts.get(exit_code, ""), "exit-code": exit_code}


def _write_outputs(environ: "Mapping[str, str]", outputs: "Mapping[str, object]") -> None:
    if environ.get("GITHUB_OUTPUT"):
        with contextlib.suppress(OSError), Path(environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def _fail(error: BootstrapError, environ: "Mapping[str, str]") -> int:
    """Says it where GitHub shows it, and sets the outputs that later steps of the job may ask for."""
    _write_outputs(environ, _outputs(error.exit_code))
    text = "mltiers: {}{}".format(error.message, "\n  " + error.remedy if error.remedy else "")
    _say(text)
    if environ.get("GITHUB_ACTIONS") == "true" and error.exit_code != CANCELLED:
        escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        sys.stdout.write(f"::error title=mltiers could not start::{escaped}\n")
        sys.stdout.flush()
    return error.exit_code


def _cancelled(number: int, frame: object) -> None:
    for later in SIGNALS:  # the runner's second signal must not interrupt the answer to its first
        signal.signal(later, lambda *_: None)  # not SIG_IGN: Python complains about one that has already arrived
    raise Cancelled(f"cancelled by {signal.Signals(number).name}")


def _entry(arguments: "list[str]", environ: "Mapping[str, str]") -> int:
    try:
        for number in SIGNALS:
            signal.signal(number, _cancelled)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked across the exec that started us, below
        if arguments[:1] == ["--inside"]:
            code = inside(arguments[1:])
            _write_outputs(environ, {"exit-code": code} if code != USAGE else _outputs(USAGE))
            return code
        executable, command, environment = main(environ)
        # From here until the orchestrator can answer, a signal waits instead of being lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.execve(executable, command, environment)  # noqa: S606 -- this process becomes it: that is the point
    except Cancelled as error:
        return _fail(BootstrapError(str(error), exit_code=CANCELLED), environ)
    except BootstrapError as error:
        return _fail(error, environ)
    except OSError as error:
        return _fail(BootstrapError(f"the orchestrator could not be started: {error}"), environ)


if __name__ == "__main__":
    sys.exit(_entry(sys.argv[1:], dict(os.environ)))
