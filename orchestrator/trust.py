"""Whose configuration rules: what spends money or touches the team's machines comes from the base branch. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.config import Config

TIER_KEYS = ("runner", "gpus")
_UNTIL = "until it is merged the base branch's value holds"
TOP_KEYS = ("pre_merge_label", "gpu_minutes_per_day", "history")


def apply_base(own: Config, base: Config | None) -> tuple[Config, list[str]]:
    """A pull request's configuration with the base branch's say on trust and cost, and what that changed, in words.

    ``base`` None: the base branch has no readable configuration. A tier that is new in the pull request keeps what it
    says, except that it starts no other runner before it is merged.
    """
    notes: list[str] = []
    if base is None:
        if remote := [name for name, tier in own.tiers.items() if tier.runner]:
            notes.append(
                f"the base branch has no configuration yet: {', '.join(remote)} start no runner before the merge"
            )
        return own, notes
    top: dict[str, Any] = {}
    for key in TOP_KEYS:
        if getattr(own, key) != getattr(base, key):
            top[key] = getattr(base, key)
            notes.append(f"this pull request changes {_yaml(key)}; {_UNTIL}")
    tiers = {}
    for name, tier in own.tiers.items():
        trusted = base.tiers.get(name)
        changed: dict[str, Any] = {}
        for key in TIER_KEYS if trusted is not None else ():
            if getattr(tier, key) != getattr(trusted, key):
                changed[key] = getattr(trusted, key)
                notes.append(f"this pull request changes tiers.{name}.{_yaml(key)}; {_UNTIL}")
        if trusted is None and tier.runner:
            notes.append(f"tier {name} is new in this pull request: it starts no runner before the merge")
        tiers[name] = msgspec.structs.replace(tier, **changed) if changed else tier
    return msgspec.structs.replace(own, tiers=tiers, **top), notes


def _yaml(key: str) -> str:
    return key.replace("_", "-")
