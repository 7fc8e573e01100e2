"""A node tree read as a typed value, by the types alone: every key that is wrong becomes a problem at its own position.

msgspec.convert would stop at the first error and knows no positions, so the containers are walked here, generically,
and msgspec (or a leaf's registered function) judges each leaf.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec

from orchestrator.mind.config.model import extras, fields_of, unwrap
from orchestrator.mind.config.positions import Mapping, Node, Problems, Scalar, Sequence, describe, quote, step

INVALID: Final[Any] = object()
"""Stands for a value with a problem already recorded."""

_MAX_SUGGESTIONS = 100  # difflib takes milliseconds each; nobody reads further


class Reader:
    """Reads nodes as types. ``sections``: all structs of the model, for keys that were put in the wrong one."""

    def __init__(self, problems: Problems, sections: tuple[type[msgspec.Struct], ...] = ()) -> None:
        self.problems = problems
        self.sections = sections

    def read(self, node: Node, wanted: Any, path: str) -> Any:
        """The value of ``wanted`` type at this node, or INVALID with a problem added."""
        base, _ = unwrap(wanted)
        extra = extras(wanted)
        origin = get_origin(base)
        if "read" in extra:
            return self._leaf(node, extra, path)
        if origin in (Union, UnionType):
            return self._union(node, base, path)
        if origin is tuple:
            return self._list(node, wanted, path)
        if origin is dict:
            return self._dict(node, wanted, path)
        if isinstance(base, type) and issubclass(base, msgspec.Struct):
            return self._struct(node, base, path)
        return self._plain(node, wanted, path)

    def _wrong(self, node: Node, path: str, sentence: str) -> Any:
        self.problems.add(node.position, path, sentence)
        return INVALID

    def _mismatch(self, node: Node, wanted: Any, path: str) -> Any:
        sentence = f"expected {expects(wanted)}, got {describe(node)}"
        if isinstance(node, Scalar) and isinstance(node.value, str):
            sentence += self._did_you_mean(node.value, _choices(wanted))
        return self._wrong(node, path, sentence)

    def _leaf(self, node: Node, extra: dict[str, Any], path: str) -> Any:
        if not isinstance(node, Scalar):
            return self._wrong(node, path, f"expected {extra['expects']}, got {describe(node)}")
        try:
            return extra["read"](node)
        except ValueError as error:
            return self._wrong(node, path, str(error))

    def _plain(self, node: Node, wanted: Any, path: str) -> Any:
        if isinstance(node, Scalar):
            try:
                return msgspec.convert(node.value, wanted)
            except msgspec.ValidationError:
                pass  # worded below in the file's terms: msgspec would say `int` and `$`
        return self._mismatch(node, wanted, path)

    def _union(self, node: Node, union: Any, path: str) -> Any:
        members = get_args(union)
        if isinstance(node, Scalar) and node.value is None and node.text and type(None) in members:
            return None
        fitting = [m for m in members if m is not type(None) and isinstance(node, _node_kind(m))]
        if len(fitting) == 1:
            return self.read(node, fitting[0], path)
        for member in fitting:
            quiet = Reader(Problems())
            if (value := quiet.read(node, member, path)) is not INVALID:
                return value
        return self._mismatch(node, union, path)

    def _list(self, node: Node, wanted: Any, path: str) -> Any:
        (item, _) = get_args(unwrap(wanted)[0])
        if isinstance(node, Scalar) and extras(wanted).get("one-or-more") and node.value is not None:
            value = self.read(node, item, path)
            return value if value is INVALID else (value,)
        if not isinstance(node, Sequence):
            remedy = f". Put it in brackets: [{node.text}]" if isinstance(node, Scalar) and node.text else ""
            return self._wrong(node, path, f"expected {expects(wanted)}, got {describe(node)}{remedy}")
        values = [self.read(child, item, step(path, index)) for index, child in enumerate(node.items)]
        return tuple(value for value in values if value is not INVALID)

    def _dict(self, node: Node, wanted: Any, path: str) -> Any:
        base, metas = unwrap(wanted)
        key_type, value_type = get_args(base)
        if not isinstance(node, Mapping):
            return self._mismatch(node, wanted, path)
        if len(node.entries) < max((meta.min_length or 0 for meta in metas), default=0):
            return self._wrong(node, path, f"is empty. Give at least {expects(key_type)}, with {expects(value_type)}")
        values = {}
        for key, entry in node.entries.items():
            below = step(path, key)
            self.read(Scalar(position=entry.position, text=key, value=key), key_type, below)
            if (value := self.read(entry.value, value_type, below)) is not INVALID:
                values[key] = value
        return values

    def _struct(self, node: Node, struct: type[msgspec.Struct], path: str) -> Any:
        """The struct. A key that is wrong has its default, or None if required: never seen, a problem is recorded."""
        if not isinstance(node, Mapping):
            return self._mismatch(node, struct, path)
        fields = fields_of(struct)
        for key, entry in node.entries.items():
            if key not in fields:
                self.problems.add(entry.position, step(path, key), "unknown key" + self._nearest_key(key, struct))
        values: dict[str, Any] = {}
        for key, field in fields.items():
            below = step(path, key)
            if key not in node.entries:
                if field.required:
                    values[field.name] = None
                    self.problems.add(node.position, below, f"the key is missing. Add `{key}: {_example(field.type)}`")
                continue
            found = node.entries[key]
            value = self.read(found.value, field.type, below)
            if value is INVALID:
                values.update({field.name: None} if field.required else {})
            else:
                values[field.name] = value
        return struct(**values)

    def _nearest_key(self, key: str, struct: type[msgspec.Struct]) -> str:
        known = fields_of(struct)
        plain = _plainly(key)
        names = {name: name for name in known}
        for name, field in known.items():
            names.update(dict.fromkeys(extras(field.type).get("also", ()), name))
        for section in self.sections:
            if plain in fields_of(section) and plain not in names:
                return f". It belongs {getattr(section, 'PLACE', '')}"
        return self._did_you_mean(key, names)

    def _did_you_mean(self, word: str, known: dict[str, Any]) -> str:
        return did_you_mean(word, known) if len(self.problems) < _MAX_SUGGESTIONS else ""


def did_you_mean(word: str, known: dict[str, Any]) -> str:
    """``. Did you mean 'budget'?`` for the nearest of the words, which map to what is meant by them; or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 -- only an error needs it

    by_plain = {_plainly(name): meant for name, meant in known.items()}
    matches = get_close_matches(_plainly(word[:100]), by_plain, n=1)
    if not matches:
        return ""
    meant = by_plain[matches[0]]
    return f". Did you mean {str(meant).lower() if isinstance(meant, bool) else repr(meant)}?"


def expects(wanted: Any) -> str:
    """A type as the object of "expected …"."""
    base, metas = unwrap(wanted)
    if (said := extras(wanted).get("expects")) is not None:
        return str(said)
    origin = get_origin(base)
    if origin in (Union, UnionType):
        return " or ".join(expects(member) for member in get_args(base) if member is not type(None))
    if origin is Literal:
        words = [str(choice) if isinstance(choice, int) else quote(choice) for choice in get_args(base)]
        return words[0] if len(words) == 1 else "one of " + ", ".join(words)
    if origin is tuple:
        item = expects(get_args(base)[0])
        return f"{item}, or a list of such" if extras(wanted).get("one-or-more") else "a list"
    if base is bool:
        return "true or false"
    if base in (int, float):
        low, high = (
            next((getattr(m, end) for m in metas if getattr(m, end) is not None), None) for end in ("ge", "le")
        )
        between = f" from {low} to {high}" if high is not None else f" of at least {low}" if low is not None else ""
        return ("a whole number" if base is int else "a number") + between
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        return f"a mapping with keys such as {', '.join(list(fields_of(base))[:3])}"
    return "a mapping"


def _example(wanted: Any) -> str:
    base, _ = unwrap(wanted)
    return str(get_args(base)[0]) if get_origin(base) is Literal else "…"


def _choices(wanted: Any) -> dict[str, Any]:
    """The words that may stand there, and what YAML 1.1 took for booleans, with what is meant by each."""
    base, _ = unwrap(wanted)
    if base is bool:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if get_origin(base) is Literal:
        return {choice: choice for choice in get_args(base) if isinstance(choice, str)}
    return {word: meant for member in get_args(base) for word, meant in _choices(member).items()}


def _node_kind(wanted: Any) -> type[Scalar] | type[Sequence] | type[Mapping]:
    base, _ = unwrap(wanted)
    if get_origin(base) is tuple:
        return Sequence
    if get_origin(base) is dict or (isinstance(base, type) and issubclass(base, msgspec.Struct)):
        return Mapping
    return Scalar


def _plainly(word: str) -> str:
    return word.casefold().replace("_", "-").replace(" ", "-")
