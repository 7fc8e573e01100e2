"""What was written down beside results from elsewhere: which tiers they are of, how each ended, of which commit.

None of it is believed further than it is what it says it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.mind.readers.document import load_json_object
from orchestrator.tools.evidence import MOST_BYTES, read_file
from orchestrator.words.results import Ending, Outcome


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
        stacks=facts["stacks"] if isinstance(facts.get("stacks"), str) else "",
        machine=_facts(facts.get("machine")),
        problems=(*problems, *_sentences(facts.get("problems"))),
    )


def _sentences(recorded: Any) -> tuple[str, ...]:
    """A recorded list of sentences, as far as it is one."""
    return tuple(str(entry)[:500] for entry in (recorded if isinstance(recorded, list) else ())[:20])


def _facts(recorded: Any) -> dict[str, str]:
    """A recorded machine, as far as it is one."""
    facts = recorded if isinstance(recorded, dict) else {}
    return {name[:50]: fact[:200] for name, fact in [*facts.items()][:20] if isinstance(fact, str)}


def recorded_plan(folder: Path) -> set[str]:
    """The tiers that the ``plan.json`` beside collected results said would run there; none without one."""
    plan = _document(folder / "plan.json", [])
    tiers = plan.get("tiers") if plan is not None else None
    if not isinstance(tiers, dict):
        return set()
    return {
        name
        for name, tier in tiers.items()
        if isinstance(tier, dict) and tier.get("run") is True and tier.get("where") == "here"
    }


def recorded_commit(folder: Path) -> str | None:
    """The commit that the ``result.json`` beside collected results says they are of."""
    facts = _document(folder / "result.json", [])
    sha = facts.get("sha") if facts is not None else None
    return sha if isinstance(sha, str) else None


def _document(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON document, or None where there is none; what is wrong with it goes to ``problems``."""
    return read_file(path, lambda chunks: load_json_object(b"".join(chunks), limit=MOST_BYTES), problems)
