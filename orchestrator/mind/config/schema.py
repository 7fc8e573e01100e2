"""The JSON Schema and the reference page of ml-tiers.yml, both made from the model. Pure."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import msgspec

from orchestrator.mind.config.leaves import format_duration
from orchestrator.mind.config.model import (
    Benchmark,
    Config,
    Coverage,
    History,
    Tier,
    TierCoverage,
    extras,
    fields_of,
    unwrap,
)

_SECTIONS: tuple[type[msgspec.Struct], ...] = (Config, Tier, Coverage, TierCoverage, Benchmark, History)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ml-tiers.yml, for editors and for `mltiers schema`."""
    generated = msgspec.json.schema(Config)
    definitions = generated["$defs"]
    for section in _SECTIONS:
        for key, field in fields_of(section).items():
            _correct_default(definitions[section.__name__]["properties"][key], field)
    top = definitions.pop("Config")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ml-tiers.yml",
        **{key: _finish(value) for key, value in top.items() if key != "title"},
        "$defs": _finish(definitions),
    }


def _correct_default(schema: dict[str, Any], field: msgspec.structs.FieldInfo) -> None:
    """Defaults as they are written in the file: durations as text; none where leaving the key out means "none"."""
    written = shown_default(field)
    if isinstance(field.default, msgspec.Struct) or written is None:
        schema.pop("default", None)
    elif isinstance(field.default, float):
        schema["default"] = written


def shown_default(field: msgspec.structs.FieldInfo) -> str | None:
    """A field's default as one would write it in the file; None where there is none."""
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return None
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    match value:
        case None | "":
            return None
        case bool():
            return str(value).lower()
        case float():
            return format_duration(value)
        case tuple():
            return f"[{', '.join(value)}]"
        case dict() | msgspec.Struct():
            return "{}"
        case _:
            return str(value)


def _finish(schema: Any) -> Any:
    """Apply the two marks of `leaves`: a leaf's own schema, and lists that may be written as their only element."""
    if isinstance(schema, list | tuple):
        return [_finish(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    done = {key: _finish(value) for key, value in schema.items()}
    if "x-replace" in done:
        done.pop("type", None)
        done.update(done.pop("x-replace"))
    if done.pop("x-one-or-more", False):
        array = {"type": done.pop("type"), "items": done.pop("items")}
        done["anyOf"] = [array["items"], array]
    return done


# --- the reference page --------------------------------------------------------------------------------------------

_OPENING = """\
# ml-tiers.yml

<!-- Made from orchestrator/mind/config/model.py. Do not edit: `make docs` writes it, and a test holds it equal. -->

`mltiers check` validates the file and shows all errors at once, each with its position:

```
ml-tiers.yml:12:5: tiers.gpu.budjet: unknown key. Did you mean 'budget'?
```

`mltiers schema` prints its JSON Schema; [ml-tiers.schema.json](ml-tiers.schema.json) is the same for editors.

The smallest file that does something:

```yaml
version: 1
tiers:
  unit:
    paths: tests
```
"""

_READING = """\
## How the file is read

- It is YAML 1.2, as in GitHub's workflow files: `on`, `yes` and `no` are text, `true` and `false` are the booleans.
- Unknown keys, duplicate keys and values of the wrong kind are errors; nothing is ever ignored.
- Where a list is wanted, a single text may stand without brackets: `when: push`. (`args` is always a list.)
- A text that begins with `*`, `!` or `&` must be quoted: `"!docs/**"`.
- Paths are relative to the folder of the file and use `/`.
- Environment variables take text or a number as it is written: `OMP_NUM_THREADS: 1`. Booleans must be quoted.
- Anchors, aliases and merge keys (`<<: *name`) work.
- `null` for a key without a default takes back what `defaults` says.
"""

_VALUES = """\
## Values

| value | written as |
|---|---|
| duration | `90s`, `2m`, `1h30m`; up to seven days, always with a unit |
| percent | `85`, `85%`, `2.5%` |
| test path | `tests/unit`, `tests/test_data.py`, `tests/test_data.py::test_normalize` |
| glob | `src/**`, `**/*.py`, `"!docs/**"` |
| marker expression | as for `pytest -m`: `not gpu and (slow or convergence)`, `device(name="cuda")` |
"""


def reference_markdown() -> str:
    """The page docs/configuration.md."""
    parts = [_OPENING, "## Top level", _table(Config), "## Tiers"]
    parts += ["Each key below stands under a tier, or under `defaults` for every tier.", _table(Tier)]
    for title, section in (
        ("`coverage`", Coverage),
        ("`coverage` of a tier", TierCoverage),
        ("`benchmark`", Benchmark),
        ("`history`", History),
    ):
        parts += [f"## {title}", _table(section)]
    parts += [_VALUES, _READING]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(section: type[msgspec.Struct]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in fields_of(section).items():
        default = shown_default(field)
        shown = "**required**" if field.required else "none" if default is None else f"`{default}`"
        meaning = " ".join(meta.description for meta in unwrap(field.type)[1] if meta.description)
        sentence = meaning[:1].upper() + meaning[1:]
        rows.append(f"| `{key}` | {_kind(field.type)} | {shown} | {sentence}. |".replace("||", "|"))
    return "\n".join(rows)


def _kind(wanted: Any) -> str:
    """What may be written there, for a table."""
    base, _ = unwrap(wanted)
    extra = extras(wanted)
    if "expects" in extra:
        return str(extra["expects"]).removeprefix("a ").removeprefix("an ").split(" such as")[0].split(" from")[0]
    origin, arguments = get_origin(base), get_args(base)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        kind = _kind(arguments[0])
        return f"list of: {kind}"
    if origin is dict:
        return f"mapping: {_kind(arguments[0])} → {_kind(arguments[1])}"
    if arguments:
        return " or ".join(_kind(member) for member in arguments if member is not type(None))
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        return "mapping, see below" if base is not Tier else "tier keys"
    return {bool: "`true`, `false`", int: "whole number", float: "number"}[base]
