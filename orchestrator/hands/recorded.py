"""What was written down beside results from elsewhere: which tiers they are of, how each ended, of which commit.

None of it is believed further than it is what it says it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from orchestrator.mind.readers.document import load_json_object
from orchestrator.tools.evidence import MOST_BYTES, read_file
from orchestrator.tools.output import TAIL_BYTES, last_lines
from orchestrator.words.plan import PythonFacts, TierPlan
from orchestrator.words.results import Ending, Outcome


class RecordedPlan(Struct, frozen=True, kw_only=True):
    """What was planned where results come from: only how it was to run, and why."""

    partial: bool  # of a run in which only tiers named on the command line were run
    tiers: Mapping[str, TierPlan]


def find_parts(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The tiers that lie in folders laid out as ``--out`` writes them: name → one folder per part."""
    parts: dict[str, list[Path]] = {}
    for folder in folders:
        for entry in sorted(folder.iterdir()):
            if entry.is_symlink() or not entry.is_dir():
                continue
            if any((entry / name).exists() for name in ("junit.xml", "result.json", "events.jsonl")):
                parts.setdefault(entry.name, []).append(entry)
    return parts


def recorded_outcome(name: str, folder: Path) -> Outcome:
    """How a tier ended, as the ``result.json`` beside its report says; unknown where there is none."""
    problems: list[str] = []
    facts = _document(folder / "result.json", problems)
    if facts is None:
        return Outcome(tier=name, ending=Ending.UNKNOWN, problems=tuple(problems))
    try:
        ending = Ending(str(facts.get("ending")))
    except ValueError:
        ending = Ending.UNKNOWN
        problems.append(f"result.json says an unknown ending: {facts.get('ending')!r}")
    code, seconds, reason = facts.get("exit_code"), facts.get("seconds"), facts.get("reason")
    stopped, started, peak = facts.get("stopped"), facts.get("started"), facts.get("peak_memory")
    return Outcome(
        tier=name,
        ending=ending,
        exit_code=code if type(code) is int else None,
        seconds=float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e7 else 0.0,
        started=float(started) if isinstance(started, (int, float)) and 0 <= started < 1e11 else None,
        peak_memory=peak if type(peak) is int and 0 < peak < 2**60 else None,
        stopped=float(stopped) if isinstance(stopped, (int, float)) and 0 <= stopped < 1e11 else None,
        reason=reason if isinstance(reason, str) else None,
        notes=_sentences(facts.get("notes")),
        details=_sentences(facts.get("details")),
        output_tail=read_file(folder / "output.log", _last_lines, problems) or "",
        stacks=facts["stacks"] if isinstance(facts.get("stacks"), str) else "",
        machine=_facts(facts.get("machine")),
        problems=(*problems, *_sentences(facts.get("problems"))),
    )


def _last_lines(chunks: Iterator[bytes]) -> str:
    """What a log ends with, as far as a run that has just ended keeps it."""
    total, tail = 0, b""
    for chunk in chunks:
        total += len(chunk)
        tail = (tail + chunk)[-TAIL_BYTES:]
    return last_lines(tail, total=total)


def _sentences(recorded: Any) -> tuple[str, ...]:
    """A recorded list of sentences, as far as it is one."""
    return tuple(str(entry)[:500] for entry in (recorded if isinstance(recorded, list) else ())[:20])


def _facts(recorded: Any) -> dict[str, str]:
    """A recorded machine, as far as it is one."""
    facts = recorded if isinstance(recorded, dict) else {}
    return {name[:50]: fact[:200] for name, fact in [*facts.items()][:20] if isinstance(fact, str)}


def recorded_plan(folder: Path) -> RecordedPlan | None:
    """What the ``plan.json`` beside collected results says; None without one."""
    plan = _document(folder / "plan.json", [])
    tiers = plan.get("tiers") if plan is not None else None
    if plan is None or not isinstance(tiers, dict):
        return None
    return RecordedPlan(
        partial=plan.get("partial") is True,
        tiers={name: _recorded_tier(name, tier) for name, tier in tiers.items() if isinstance(tier, dict)},
    )


def _recorded_tier(name: str, tier: Mapping[str, Any]) -> TierPlan:
    workers, executable, installed = tier.get("workers"), tier.get("python"), tier.get("installed")
    command, note = tier.get("command"), tier.get("predicted_note")
    return TierPlan(
        name=name,
        run=tier.get("run") is True,
        reason=str(tier.get("reason") or "")[:500],
        where=str(tier.get("where")),
        coverage=tier.get("coverage") is not False,
        workers=workers if type(workers) is int and 0 < workers < 10_000 else 1,
        python=_python(executable, installed) if isinstance(executable, str) else None,
        command=tuple(str(word)[:4_000] for word in command[:2_000]) if isinstance(command, list) else (),
        notes=_sentences(tier.get("notes")),
        details=_sentences(tier.get("details")),
        predicted_seconds=_seconds(tier.get("predicted_seconds")),
        predicted_low=_seconds(tier.get("predicted_low")),
        predicted_high=_seconds(tier.get("predicted_high")),
        predicted_note=note[:500] if isinstance(note, str) else None,
    )


def _python(executable: str, installed: Any) -> PythonFacts:
    facts = _facts(installed)
    return PythonFacts(
        executable=executable[:4_000],
        version=facts.get("version", ""),
        pytest=facts.get("pytest"),
        xdist=facts.get("xdist"),
        cov=facts.get("cov"),
        benchmark=facts.get("benchmark"),
        plugin=facts.get("plugin"),
        torch=facts.get("torch"),
    )


def _seconds(recorded: Any) -> float | None:
    return float(recorded) if isinstance(recorded, (int, float)) and 0 <= recorded < 1e7 else None


def recorded_commit(folder: Path) -> str | None:
    """The commit that the ``result.json`` beside collected results says they are of."""
    facts = _document(folder / "result.json", [])
    sha = facts.get("sha") if facts is not None else None
    return sha if isinstance(sha, str) else None


def _document(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON document, or None where there is none; what is wrong with it goes to ``problems``."""
    return read_file(path, lambda chunks: load_json_object(b"".join(chunks), limit=MOST_BYTES), problems)
