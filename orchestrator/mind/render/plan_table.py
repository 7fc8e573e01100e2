"""The plan as a table for people. Pure."""

from __future__ import annotations

import shlex

from orchestrator.mind.render.words import budget, expected, gpu_minutes, plural, visible
from orchestrator.words.plan import Plan, TierPlan


def render_plan(plan: Plan, *, plugin: str | None = None) -> str:
    """What would run, where, for how long, and why the rest would not; one block, ending in a line feed.

    ``plugin``: the folder of our copy of the pytest plugin, for tests' Pythons that have none.
    """
    header = ("tier", "", "where", "budget", "why")
    rows = [header, *(_row(tier) for tier in plan.tiers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
    lines = [_headline(plan), ""]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    for tier in plan.tiers:
        if tier.run:
            lines += ["", f"{tier.name}:"]
            lines += [f"  {note}" for note in (*tier.notes, *tier.details)]
            lines.append("  " + visible(_command(tier, plugin)))
    lines += ["", *plan.notes] if plan.notes else []
    return "\n".join(lines) + "\n"


def _command(tier: TierPlan, plugin: str | None) -> str:
    """What runs, for a shell in the configuration's folder."""
    env = dict(tier.env)
    words = []
    if plugin is not None and tier.python is not None and tier.python.plugin is None:
        own = shlex.quote(env.pop("PYTHONPATH", ""))
        more = f":{own}" if own != "''" else '${PYTHONPATH:+":$PYTHONPATH"}'
        words = [f"PYTHONPATH={shlex.quote(plugin)}{more}"]
    words += [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join([*words, shlex.join(tier.command)])


def _headline(plan: Plan) -> str:
    event = plan.event
    commit = f" of {event.sha[:10]}" if event.sha else ""
    if plan.changes.files is None:
        changed = f"changed files unknown: {plan.changes.source}"
    else:
        changed = plural(len(plan.changes.files), "changed file")
    return f"{plan.config_path}: {event.name}{commit}, {changed}"


def _row(tier: TierPlan) -> tuple[str, ...]:
    if tier.where == "dispatched":
        where = f"[{', '.join(tier.runner)}]"
    elif not tier.run:
        where = "here"
    else:
        where = f"here, {plural(tier.workers, 'worker')}" if tier.workers > 1 else "here, serially"
    name = tier.name if tier.required else f"{tier.name} (optional)"
    return name, "run" if tier.run else "skip", where, _time(tier), tier.reason


def _time(tier: TierPlan) -> str:
    told = expected(tier)
    if not told or not tier.run:
        return budget(tier.budget)
    cost = gpu_minutes(tier, tier.predicted_seconds or 0.0) if tier.where == "dispatched" else ""
    also = "".join(f", {word}" for word in (cost, tier.predicted_note) if word)
    return f"{budget(tier.budget)}, {told} expected{also}"
