"""`mltiers`: argv and environment in, exit code out. Every error a user can meet ends here as a sentence."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from orchestrator import __version__
from orchestrator.tools.console import open_streams, say, say_bytes
from orchestrator.words.errors import ConfigError, ExitCode, InfrastructureError, MltiersError, UsageError

if TYPE_CHECKING:
    from orchestrator.hands.history_commands import Past
    from orchestrator.hands.publish import Published
    from orchestrator.line.prepare import Hands, Options
    from orchestrator.tools.cancellation import Cancellation
    from orchestrator.tools.github import GitHub
    from orchestrator.words.environment import Environment

# GitHub interrupts a cancelled step, terminates it after 7.5 s and kills it 2.5 s later.
_SAID_WITHIN = 6.5

DESCRIPTION = "Tiered tests for ML code: what runs when, where, inside which budget, and what the results mean."


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the command. Returns the exit code."""
    open_streams()
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit:  # --help and --version
        say("")
        return ExitCode.PASSED
    except UsageError as error:
        return _failed(error, as_json="--json" in (sys.argv[1:] if argv is None else argv))
    try:
        code = int(arguments.command(arguments))
        say("")
        return code
    except MltiersError as error:
        return _failed(error, as_json=getattr(arguments, "json", False))
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    except OSError as error:
        _talk(f"mltiers: {error}")
        return ExitCode.INFRASTRUCTURE
    except Exception as error:
        _talk(f"mltiers: this is a defect of mltiers {__version__}: {type(error).__name__}: {error}")
        if os.environ.get("MLTIERS_DEBUG"):
            raise
        _talk("  set MLTIERS_DEBUG=1 for the traceback, and please report it")
        return ExitCode.INFRASTRUCTURE


def _failed(error: MltiersError, *, as_json: bool) -> ExitCode:
    """An expected failure, in words and, where one JSON document was asked for, as that document."""
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        _talk(problem if isinstance(error, ConfigError) else f"mltiers: {problem}")
    _annotate(problems)
    if as_json:
        with contextlib.suppress(InfrastructureError):
            say(json.dumps({"version": 1, "exit_code": int(error.exit_code), "errors": list(problems)}) + "\n")
    return error.exit_code


def _annotate(problems: Sequence[str]) -> None:
    """In a job, say it also where GitHub shows it without anybody looking into the log."""
    if problems and os.environ.get("GITHUB_ACTIONS") == "true":
        from orchestrator.mind.render.annotations import render_refusal

        for line in render_refusal(problems):
            _talk(line)


# --- the command line ----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """One whose errors are told as all others are: in a job and as JSON, too."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message, remedy=self.format_usage().strip())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mltiers", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"mltiers {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    check = _command(commands, "check", _check, "validate ml-tiers.yml and show every error at once")
    check.add_argument("--config", type=Path, default=Path("ml-tiers.yml"), metavar="PATH")
    check.add_argument("--json", action="store_true", help="print one JSON document")

    plan = _command(commands, "plan", _plan, "print what would run, where, for how long, and why the rest would not")
    plan.add_argument("tiers", nargs="*", metavar="TIER")
    _line_options(plan)

    run = _command(commands, "run", _run, "run the tiers of the event (or the named ones) here, and say what it means")
    run.add_argument("tiers", nargs="*", metavar="TIER")
    _line_options(run)
    _publish_options(run)

    dispatch = _command(commands, "dispatch", _dispatch, "start the tiers that belong on other machines")
    dispatch.add_argument("tiers", nargs="*", metavar="TIER")
    dispatch.add_argument("--sweep", action="store_true", help="start nothing: end what was started and is overdue")
    _line_options(dispatch)
    _publish_options(dispatch)

    report = _command(commands, "report", _report, "judge and show results that were collected elsewhere")
    report.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="laid out as --out writes it (in a job without any: what the jobs of this run uploaded)",
    )
    report.add_argument("--tier", action="append", dest="tiers", default=[], metavar="TIER", help="only this one")
    report.add_argument("--nonce", help="of the dispatched run that this is")
    _line_options(report)
    _publish_options(report)

    _history_commands(_command(commands, "history", _history, "show, compact or export what earlier runs left"))

    _command(commands, "schema", _schema, "print the JSON Schema of ml-tiers.yml")

    init = _command(commands, "init", _init, "look at this repository's tests and write a first ml-tiers.yml")
    init.add_argument("--dry-run", action="store_true", help="print the files instead of writing them")
    init.add_argument("--force", action="store_true", help="overwrite files that are there")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    function: Callable[[argparse.Namespace], ExitCode],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    return parser


def _history_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    show = actions.add_parser("show", help="newest runs, slowest and flaky tests, and where the durations are going")
    show.add_argument("tier", nargs="?", metavar="TIER")
    show.add_argument("--gpu-memory", action="store_true", help="print `gpu_memory` marks from measured peaks")
    show.add_argument("--advice", action="store_true", help="print, for `git apply`, what moves tests to a slower tier")
    show.add_argument("--json", action="store_true", help="print one JSON document")
    compact = actions.add_parser("compact", help="keep old runs as sketches (it happens by itself when it is due)")
    export = actions.add_parser("export", help="print everything, one run (JSON) or one test (CSV) a line")
    export.add_argument("--format", choices=("json", "csv"), default="json")
    export.add_argument("--out", type=Path, metavar="FILE", help="write it there instead")
    for action in (show, compact, export):
        action.add_argument("--config", type=Path, default=Path("ml-tiers.yml"), metavar="PATH")
        action.add_argument("--branch", action="store_true", help="of the branch at `origin`, not of the folder here")


def _line_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, default=Path("ml-tiers.yml"), metavar="PATH")
    add("--event", metavar="NAME", help="push, pull_request, schedule, …: the event to stand in for")
    add("--out", type=Path, metavar="DIR", help="where results go (.mltiers beside the configuration)")
    add("--json", action="store_true", help="print one JSON document")
    add("--python", metavar="PATH", help="the Python that runs the tests (python on PATH)")
    add("--dispatch", action=argparse.BooleanOptionalAction, default=True, help="start tiers that belong elsewhere")
    add("--force", action="store_true", help="run although no file in `changes` was touched")
    add("--sha", metavar="COMMIT", help="the commit that results belong to (from the event)")
    add("--pr", type=int, metavar="N", help="the pull request (from the event)")


def _publish_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comment", choices=("on-change", "always", "never"), default="on-change")
    parser.add_argument("--wait", action="store_true", help="follow what was started elsewhere to its end")
    parser.add_argument("--shard", metavar="K/N", help="run this part of the tiers (of the history's VERSION)")
    parser.add_argument("--fit", action="store_true", help="fit the tiers to their budgets")


# --- the commands --------------------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.hands.gather import missing_paths, read_config_file
    from orchestrator.mind.config import parse_config

    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    try:
        config = parse_config(read_config_file(arguments.config), filename=str(arguments.config))
        warnings = missing_paths(config, arguments.config.absolute().parent)
    except UsageError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    if arguments.json:
        found = {"version": 1, "valid": not problems, "errors": list(problems), "warnings": list(warnings)}
        say(json.dumps(found) + "\n")
    for line in (*problems, *warnings):
        _talk(line)
    _annotate(problems)
    if not problems and not arguments.json:
        tiers = "1 tier" if len(config.tiers) == 1 else f"{len(config.tiers)} tiers"
        say(f"{arguments.config}: {tiers}, no errors\n")
    return ExitCode.USAGE if problems else ExitCode.PASSED


def _plan(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.line.prepare import prepare
    from orchestrator.mind.render.documents import plan_document
    from orchestrator.mind.render.outputs import plan_outputs
    from orchestrator.mind.render.plan_table import render_plan
    from orchestrator.tools.cancellation import Cancellation
    from orchestrator.tools.job import append
    from orchestrator.tools.plugin import plugin_folder

    hands = _hands(Cancellation())
    _, plan = prepare(_options(arguments), hands)
    document = plan_document(plan)
    append(hands.environment.output_file, plan_outputs(plan), talk=sys.stderr)
    if arguments.json:
        say(json.dumps(document) + "\n")
    else:
        say(render_plan(plan, plugin=str(plugin_folder())))
    return ExitCode.PASSED


def _run(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.hands.ahead import start_ahead
    from orchestrator.tools.cancellation import Cancellation

    with Cancellation.on_signals(*_signals()) as cancel:
        # Before anything that takes long to import.
        kept = start_ahead(arguments.config, python=arguments.python, variables=os.environ)
        with kept or contextlib.nullcontext():
            from orchestrator.line.pipeline import run

            return _conclude(arguments, cancel, lambda options, hands: run(options, hands, kept))


def _dispatch(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.line.dispatching import dispatch, sweep_only
    from orchestrator.mind.render.documents import dispatch_document, verdict_document
    from orchestrator.mind.render.terminal import render_terminal
    from orchestrator.tools.cancellation import Cancellation

    with Cancellation.on_signals(*_signals()) as cancel:
        hands = _hands(cancel)
        if arguments.sweep:
            started, published = sweep_only(_options(arguments), hands), None
        else:
            started, published = dispatch(_options(arguments), hands)
    run = published.run if published is not None else None
    if arguments.json:
        verdict = verdict_document(run) if run is not None else None
        say(json.dumps(dispatch_document(started, verdict=verdict)) + "\n")
    else:
        for one in started:
            say(f"{one.name} of {one.sha[:10]}: {one.verdict or 'started'}: {one.url or 'its run is not known'}\n")
        if run is not None:
            say(f"{render_terminal(run, width=_width(), color=False)}\n")
    return run.exit_code if run is not None else ExitCode.PASSED


def _report(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.line.reporting import report
    from orchestrator.tools.cancellation import Cancellation

    # Millions of lines and tests are read and kept to the end: looking through them again and again finds no garbage.
    gc.set_threshold(100_000, 50, 100)
    with Cancellation.on_signals(*_signals()) as cancel:
        return _conclude(arguments, cancel, lambda options, hands: report(options, arguments.folders, hands))


def _conclude(
    arguments: argparse.Namespace, cancel: Cancellation, line: Callable[[Options, Hands], Published]
) -> ExitCode:
    hands = _hands(cancel)
    published = line(_options(arguments), hands)
    from orchestrator.mind.render.documents import verdict_document
    from orchestrator.mind.render.terminal import render_terminal

    run = published.run
    if arguments.json:
        say(json.dumps(verdict_document(run)) + "\n")
    else:
        color = hands.environment.color and sys.stdout.isatty()
        comment = f"comment: {published.comment_url}\n" if published.comment_url else ""
        say(f"{render_terminal(run, width=_width(), color=color)}\nreport: {published.report}\n{comment}")
    return run.exit_code


def _history(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.hands import history_commands as history

    environment = _read_environment()
    past = history.open_past(arguments.config, branch=arguments.branch, environment=environment)
    if arguments.action == "compact":
        say(history.compact_past(past, now=time.time()) + "\n")
        return ExitCode.PASSED
    if arguments.action == "show":
        return _show_history(arguments, past)
    notes: list[str] = []
    lines = history.export_past(past, form=arguments.format, notes=notes)
    if arguments.out is not None:
        history.write_export(lines, arguments.out)
    else:
        for line in lines:
            say(line)
    for note in notes:
        _talk(note)
    return ExitCode.PASSED


def _show_history(arguments: argparse.Namespace, past: Past) -> ExitCode:
    from orchestrator.hands import history_commands as history
    from orchestrator.mind.gpu_marks import gpu_marks
    from orchestrator.mind.render.past import past_document, render_gpu_marks, render_past

    tiers, notes = history.show(past, arguments.tier, advice=arguments.advice)
    edit, by_hand = history.advice_edit(past, tiers, arguments.config) if arguments.advice else (b"", [])
    marks = {tier.name: gpu_marks(tier.records) for tier in tiers} if arguments.gpu_memory else {}
    if arguments.json:
        document = past_document(tiers, notes=notes)
        if arguments.gpu_memory:
            document["gpu_memory"] = {
                name: [{"node_id": one.node_id, "peak_bytes": one.peak_bytes, "mark": one.mark} for one in found]
                for name, found in marks.items()
            }
        if arguments.advice:
            document |= {"edit": edit.decode(errors="replace"), "by_hand": by_hand}
        say(json.dumps(document) + "\n")
        return ExitCode.PASSED
    if arguments.gpu_memory:
        say(render_gpu_marks(marks))
        return ExitCode.PASSED
    text = render_past(tiers, now=time.time(), notes=notes)
    if not arguments.advice:
        say(text)
        return ExitCode.PASSED
    _talk(text)  # standard output is for `git apply`
    if not any(tier.move for tier in tiers):
        _talk("no tier is known to take more than 80% of its budget: nothing has to move")
    for line in by_hand:
        _talk(f"by hand: {line}")
    say_bytes(edit)
    return ExitCode.PASSED


def _schema(_: argparse.Namespace) -> ExitCode:
    from orchestrator.mind.config import json_schema

    say(json.dumps(json_schema(), indent=2) + "\n")
    return ExitCode.PASSED


def _init(arguments: argparse.Namespace) -> ExitCode:
    from orchestrator.hands.initialise import run_init

    return run_init(Path.cwd(), dry_run=arguments.dry_run, force=arguments.force, out=sys.stdout)


# --- what every command needs --------------------------------------------------------------------------------------


def _options(arguments: argparse.Namespace) -> Options:
    from orchestrator.line.prepare import Options
    from orchestrator.mind.shards import parse_shard

    given = getattr(arguments, "shard", None)
    shard = parse_shard(given) if given is not None else None
    if given is not None and shard is None:
        raise UsageError(f"--shard {given!r} is no part of a tier", remedy="such as 2/8: the second of eight")
    return Options(
        config=arguments.config,
        tiers=tuple(getattr(arguments, "tiers", ())),
        event=arguments.event,
        out=arguments.out,
        python=arguments.python,
        comment=getattr(arguments, "comment", "never"),
        dispatch=arguments.dispatch,
        force=arguments.force,
        fit=getattr(arguments, "fit", False),
        sha=arguments.sha,
        pr=arguments.pr,
        wait=getattr(arguments, "wait", False),
        shard=shard,
        nonce=getattr(arguments, "nonce", None),
    )


def _read_environment() -> Environment:
    from orchestrator.words.environment import Environment
    from orchestrator.words.secrets import SECRET_VARIABLES

    environment = Environment.read(os.environ, terminal=sys.stderr.isatty())
    if environment.token is not None:
        from orchestrator.tools.veil import veil_environment

        veil_environment(SECRET_VARIABLES)
    return environment


def _hands(cancel: Cancellation) -> Hands:
    from orchestrator.line.prepare import Hands

    environment = _read_environment()
    return Hands(
        environment=environment,
        talk=sys.stderr,
        terminal=sys.stderr.isatty() and not environment.in_actions,
        connect=lambda environment: _connect(environment, cancel),
        cancel=cancel,
        seconds_left=lambda: _seconds_left(cancel),
    )


def _connect(environment: Environment, cancel: Cancellation) -> GitHub | None:
    """A client for the repository of this job, where there is a token to speak with."""
    if not (environment.in_actions and environment.token and environment.repository and environment.api_url):
        return None
    from orchestrator.tools.github import GitHub

    return GitHub(
        api_url=environment.api_url,
        repository=environment.repository,
        token=environment.token,
        deadline=lambda: _seconds_left(cancel),
        log=_talk,
    )


def _seconds_left(cancel: Cancellation) -> float:
    """How long we may still speak to GitHub: without end, or what a cancelled job leaves us."""
    return float("inf") if cancel.at is None else cancel.at + _SAID_WITHIN - time.monotonic()


def _signals() -> list[signal.Signals]:
    """Those that stop a run. `nohup` has us ignore that the terminal went away."""
    stops = [signal.SIGINT, signal.SIGTERM]
    return stops if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*stops, signal.SIGHUP]


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _talk(text: str) -> None:
    print(text, file=sys.stderr)
