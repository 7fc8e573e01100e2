"""The configuration, ml-tiers.yml: text in, one validated and frozen value out. Pure: no files, no environment.

positions  YAML text → nodes that know line and column; bounds on what aliases and nesting may do
leaves     durations, globs, marker expressions …: each registered once, with its wording and its JSON Schema
model      the keys: types, defaults, meanings
reading    nodes + types → values, every problem gathered
rules      what the types cannot say
schema     the JSON Schema and the reference page, from the same types
"""

from __future__ import annotations

from orchestrator import __version__
from orchestrator.mind.config.leaves import format_duration, parse_duration
from orchestrator.mind.config.model import VERSION, Benchmark, Config, Coverage, History, Tier, TierCoverage
from orchestrator.mind.config.positions import MAX_NODES, Entry, Mapping, Node, Problems, Scalar, compose, describe
from orchestrator.mind.config.reading import Reader
from orchestrator.mind.config.rules import check_tiers
from orchestrator.mind.config.schema import json_schema, reference_markdown
from orchestrator.words.errors import ConfigError

__all__ = [
    "Benchmark",
    "Config",
    "Coverage",
    "History",
    "Tier",
    "TierCoverage",
    "format_duration",
    "json_schema",
    "parse_config",
    "parse_duration",
    "reference_markdown",
]

_SECTIONS = (Config, Tier, Coverage, Benchmark, History)
_MAX_SHOWN = 100


def parse_config(text: str | bytes, *, filename: str) -> Config:
    """The configuration that a text describes, ``defaults`` merged into every tier.

    Raises ConfigError with every problem, in the order of the file, each as ``filename:line:column: key: sentence``.
    """
    problems = Problems()
    root = compose(text, problems)
    if isinstance(root, Mapping):
        newer = _newer_version(root)
        if newer is not None:  # nothing else in the file can be judged by us
            problems = Problems()
            problems.add(newer.position, "version", _newer_sentence(newer))
        else:
            merged = _with_defaults(root, problems)
            config: Config = Reader(problems, _SECTIONS).read(merged, Config, "")
            if config.tiers:
                written = merged.entries["tiers"].value
                assert isinstance(written, Mapping)  # noqa: S101 -- it was read as a dict
                check_tiers(config.tiers, written, problems)
            if not len(problems):
                return config
    elif root is not None:
        sentence = f"expected a mapping that begins with `version: 1` and `tiers:`, got {describe(root)}"
        problems.add(root.position, "", sentence)
    raise ConfigError(_formatted(problems, filename))


def _formatted(problems: Problems, filename: str) -> list[str]:
    lines = [
        f"{filename}:{position.line}:{position.column}: {f'{path}: ' if path else ''}{sentence}"
        for position, path, sentence in problems
    ]
    hidden = len(lines) - _MAX_SHOWN
    return lines[:_MAX_SHOWN] + ([f"{filename}: and {hidden} more problems"] if hidden > 0 else [])


def _newer_version(root: Mapping) -> Scalar | None:
    entry = root.entries.get("version")
    node = entry.value if entry else None
    if isinstance(node, Scalar) and type(node.value) is int and node.value > VERSION:
        return node
    return None


def _newer_sentence(node: Scalar) -> str:
    return (
        f"version {node.text} needs mltiers >= {node.value}.0; this is mltiers {__version__}, which reads "
        f"version {VERSION}. Update mltiers (in a workflow: the version after `ml-test-action@`)"
    )


def _with_defaults(root: Mapping, problems: Problems) -> Mapping:
    """The tree with `defaults` written out in every tier. Nodes keep their positions: errors point at their origin."""
    defaults, tiers = (_mapping_at(root, key) for key in ("defaults", "tiers"))
    if defaults is None or tiers is None:
        return root
    if len(tiers.entries) * defaults.size > MAX_NODES:
        sentence = f"written out in every tier these are more than {MAX_NODES} values"
        problems.add(root.entries["defaults"].position, "defaults", sentence)
        return root
    written: dict[str, Entry] = {}
    for name, entry in tiers.entries.items():
        value: Node = entry.value
        if isinstance(value, Mapping):
            entries = {**defaults.entries, **value.entries}
            common, own = _mapping_at(defaults, "env"), _mapping_at(value, "env")
            if common is not None and own is not None:
                env = Mapping(position=own.position, entries={**common.entries, **own.entries}, size=own.size)
                entries["env"] = Entry(position=value.entries["env"].position, value=env)
            value = Mapping(position=value.position, entries=entries, size=value.size)
        written[name] = Entry(position=entry.position, value=value)
    merged = Mapping(position=tiers.position, entries=written, size=tiers.size)
    entry = Entry(position=root.entries["tiers"].position, value=merged)
    return Mapping(position=root.position, entries={**root.entries, "tiers": entry}, size=root.size)


def _mapping_at(node: Mapping, key: str) -> Mapping | None:
    entry = node.entries.get(key)
    return entry.value if entry is not None and isinstance(entry.value, Mapping) else None
