"""What the types cannot say: rules between keys and between tiers. Pure."""

from __future__ import annotations

from orchestrator.mind.config.model import Tier
from orchestrator.mind.config.positions import Entry, Mapping, Position, Problems, Scalar, Sequence, step
from orchestrator.mind.config.reading import did_you_mean


def check_tiers(tiers: dict[str, Tier], written: Mapping, problems: Problems) -> None:
    """Add a problem for each rule the tiers break. ``written``: the node of ``tiers``, defaults merged in."""
    _check_names(written, problems)
    needs: dict[str, list[str]] = {}
    for name, tier in tiers.items():
        needs[name] = []
        for need in tier.needs:
            position, path = _item(written.entries[name], step("tiers", name), "needs", need)
            if need == name:
                problems.add(position, path, f"a tier cannot need itself. Remove {need!r}")
            elif need not in written.entries:
                sentence = f"there is no tier {need!r}" + (
                    did_you_mean(need, {tier: tier for tier in tiers}) or f". There is: {_some(tiers)}"
                )
                problems.add(position, path, sentence)
            elif need in tiers:
                needs[name].append(need)
    _check_cycles(needs, written, problems)


def _check_names(written: Mapping, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for name, entry in written.entries.items():
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            sentence = f"differs from the tier {other!r} only in case; their folders would be the same. Rename one"
            problems.add(entry.position, step("tiers", name), sentence)


def _check_cycles(needs: dict[str, list[str]], written: Mapping, problems: Problems) -> None:
    from graphlib import CycleError, TopologicalSorter  # noqa: PLC0415 -- most files have no `needs`

    order = list(needs)
    while any(needs.values()):
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1][:0:-1]  # each needs the next
            first = min(range(len(cycle)), key=lambda index: order.index(cycle[index]))
            cycle = cycle[first:] + cycle[:first]
            following = cycle[1]
            position, path = _item(written.entries[cycle[0]], step("tiers", cycle[0]), "needs", following)
            circle = " → ".join((*cycle, cycle[0])) if len(cycle) <= 20 else f"{' → '.join(cycle[:20])} → …"
            problems.add(position, path, f"the tiers need each other in a circle: {circle}. Remove one of these needs")
            needs[cycle[0]].remove(following)  # look for the next one
        else:
            return


def _item(tier: Entry, path: str, key: str, text: str) -> tuple[Position, str]:
    """The position and path of one item of a tier's list (or of its single word)."""
    assert isinstance(tier.value, Mapping)  # noqa: S101 -- it was read as a Tier
    node = tier.value.entries[key].value
    if isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            if isinstance(item, Scalar) and item.text == text:
                return item.position, step(f"{path}.{key}", index)
    return node.position, f"{path}.{key}"


def _some(tiers: dict[str, Tier]) -> str:
    names = list(tiers)
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
