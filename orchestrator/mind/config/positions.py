"""YAML text → a tree of nodes that know their line and column. Pure: text in, values out.

The tree is built from PyYAML's stream of events, not by its composer: the composer recurses once per nesting level,
knows no bound on what aliases expand to, and takes the last of two equal keys. Scalars are resolved by the core schema
of YAML 1.2, as editors and GitHub's workflow files are: `on` and `yes` are text, and `1:30` is not the number 90.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec
import yaml

MAX_CHARACTERS = 1_000_000
MAX_NODES = 10_000  # with every alias written out; a real configuration has a few hundred
MAX_DEPTH = 32

Value: TypeAlias = str | int | float | bool | None

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where PyYAML was built with it
_CORE_TAGS = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUES = frozenset({"true", "True", "TRUE"})
_FALSES = frozenset({"false", "False", "FALSE"})
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]{1,300}(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_PLAIN_KEY = re.compile(r"[\w-][\w.-]{0,63}")


class Position(NamedTuple):
    """Where something stands in the file, both counted from 1; columns are characters."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True, kw_only=True):
    """One word of the file: ``text`` as written, ``value`` as the core schema reads it."""

    position: Position
    text: str
    value: Value
    size: int = 1


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """A list. ``size`` counts all nodes below, aliases written out, and itself."""

    position: Position
    items: tuple[Node, ...]
    size: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a mapping and its value."""

    position: Position
    value: Node


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping from key texts to entries, merge keys (``<<``) already applied."""

    position: Position
    entries: dict[str, Entry]
    size: int


Node: TypeAlias = Scalar | Sequence | Mapping


class Problem(NamedTuple):
    """One thing wrong with the file; the order of the fields is the order problems are shown in."""

    position: Position
    path: str  # "tiers.gpu.when[1]"; empty for the file as a whole
    sentence: str


class Problems:
    """Gathers problems.

    Of those that say the same about one place (an alias used twice, a default of several tiers) only the first is kept,
    and of those about the same key and place (what follows from a mistake) as well.
    """

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._said: set[tuple[Position, str]] = set()

    def add(self, position: Position, path: str, sentence: str) -> None:
        """Record one problem, cut where the file's own names would make it endless."""
        path, sentence = _cut(path, 300), _cut(sentence, 600)
        said = {(position, sentence), (position, path)}
        if self._said.isdisjoint(said):
            self._found.append(Problem(position, path, sentence))
        self._said |= said

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(sorted(self._found))


class _UnreadableError(Exception):
    """Reading cannot go on; becomes one problem."""

    def __init__(self, position: Position, sentence: str, path: str = "") -> None:
        super().__init__(sentence)
        self.problem = (position, path, sentence)


def compose(text: str | bytes, problems: Problems, *, loader: Any = LOADER) -> Node | None:
    """The tree of a one-document YAML text; None, with a problem added, where there is none to be had."""
    try:
        return _Composer(problems, loader).compose(_decode(text))
    except _UnreadableError as unreadable:
        problems.add(*unreadable.problem)
        return None


def step(path: str, key: str | int) -> str:
    """The path one key or list index below ``path``, safe to print on one line."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    shown = key if _PLAIN_KEY.fullmatch(key) else quote(key)
    return f"{path}.{shown}" if path else shown


def quote(text: str, limit: int = 60) -> str:
    """A text as it can be shown inside a sentence: quoted, escaped, cut."""
    return repr(_cut(text, limit))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def describe(node: Node) -> str:
    """What stands there, as the object of "expected a duration, got …"."""
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar(value=None):
            return "null" if node.text else "nothing"
        case Scalar(value=bool()):
            return f"the boolean {node.text}"
        case Scalar(value=int() | float()):
            return f"the number {node.text[:40]}"
        case Scalar() if isinstance(resolve(node.text), int | float):
            return f"the text {quote(node.text)}"
        case _:
            return quote(node.text)


def resolve(text: str) -> Value:
    """A plain (unquoted) scalar by the core schema; numbers no configuration needs (hex, infinite, huge) stay text."""
    if text in _NULLS:
        return None
    if text in _TRUES or text in _FALSES:
        return text in _TRUES
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _decode(source: str | bytes) -> str:
    if len(source) > MAX_CHARACTERS:
        sentence = f"the file has {len(source) / 1e6:.1f} MB; at most {MAX_CHARACTERS / 1e6:.0f} MB is read"
        raise _UnreadableError(Position(1, 1), sentence)
    text = source if isinstance(source, str) else _decode_bytes(source)
    text = text.removeprefix("\ufeff")
    if control := _CONTROL.search(text):
        sentence = f"the control character U+{ord(control[0]):04X} cannot stand in a YAML file. Remove it"
        raise _UnreadableError(_position_after(text[: control.start()]), sentence)
    return text


def _decode_bytes(source: bytes) -> str:
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _UnreadableError(Position(1, 1), "the file is encoded in UTF-16. Save it as UTF-8")
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError as error:
        sentence = f"the byte 0x{source[error.start]:02x} is not UTF-8. Save the file as UTF-8"
        position = _position_after(source[: error.start].decode("utf-8").removeprefix("\ufeff"))
        raise _UnreadableError(position, sentence) from None


def _position_after(before: str) -> Position:
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return Position(len(lines), len(lines[-1]) + 1)


class _Open:
    """A sequence or mapping whose end has not been read yet."""

    def __init__(self, event: Any, position: Position) -> None:
        self.anchor: str | None = event.anchor
        self.position = position
        self.items: list[Node] | None = [] if isinstance(event, yaml.SequenceStartEvent) else None
        self.entries: dict[str, Entry] = {}
        self.merged: list[Mapping] = []
        self.key: Scalar | None = None
        self.size = 1

    @property
    def here(self) -> str | int | None:
        """The key or index of the child being read; None while it is a key itself."""
        return len(self.items) if self.items is not None else self.key.text if self.key else None


class _Composer:
    def __init__(self, problems: Problems, loader: Any) -> None:
        self.problems = problems
        self.loader = loader
        self.anchors: dict[str, Node | None] = {}  # None: still open
        self.open: list[_Open] = []
        self.size = 0
        self.root: Node | None = None

    def compose(self, text: str) -> Node:
        try:
            for event in yaml.parse(text, Loader=self.loader):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            raise _syntax_problem(error, text) from None
        except yaml.YAMLError as error:
            raise _UnreadableError(Position(1, 1), f"not valid YAML: {error}") from None
        if self.root is None or (isinstance(self.root, Scalar) and not self.root.text):
            raise _UnreadableError(Position(1, 1), "the file is empty. Begin with `version: 1` and `tiers:`")
        return self.root

    def path(self) -> str:
        path = ""
        for parent in self.open:
            path = path if parent.here is None else step(path, parent.here)
        return path

    def _take(self, event: Any) -> None:
        position = Position(event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case yaml.DocumentStartEvent() if self.root is not None:
                raise _UnreadableError(
                    position, "a second document begins here. Keep one document, without `---` between"
                )
            case yaml.ScalarEvent():
                self._grow(1, position)
                self._add(self._scalar(event, position), event.anchor)
            case yaml.AliasEvent():
                node = self._alias(event.anchor, position)
                self._grow(node.size, position)
                self._add(node, None)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._grow(1, position)
                self._start(event, position)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._end()

    def _grow(self, nodes: int, position: Position) -> None:
        self.size += nodes
        if self.size > MAX_NODES:
            raise _UnreadableError(position, f"more than {MAX_NODES} values, with every alias written out")

    def _scalar(self, event: Any, position: Position) -> Scalar:
        text = event.value
        if event.tag not in (None, "!", _CORE_TAGS + "str"):
            self.problems.add(position, self.path(), _tag_sentence(event.tag, text))
            text = f"{event.tag} {text}".strip()  # what was meant, so that it is not found empty as well
        if control := _CONTROL.search(text):
            self.problems.add(position, self.path(), f"the escaped character U+{ord(control[0]):04X} is not allowed")
        plain = event.implicit[0] and event.tag is None
        return Scalar(position=position, text=text, value=resolve(text) if plain else text)

    def _alias(self, name: Any, position: Position) -> Node:
        if name not in self.anchors:
            raise _UnreadableError(
                position,
                f"there is no anchor {quote(name)} above. Quote a text that begins with *: {quote('*' + name)}",
                self.path(),
            )
        node = self.anchors[name]
        if node is None:
            raise _UnreadableError(
                position, f"{quote('*' + name)} stands inside what it repeats, which would never end", self.path()
            )
        return node

    def _start(self, event: Any, position: Position) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise _UnreadableError(position, f"nested deeper than {MAX_DEPTH} levels")
        if event.tag not in (None, "!", _CORE_TAGS + "seq", _CORE_TAGS + "map"):
            self.problems.add(position, self.path(), _tag_sentence(event.tag, ""))
        parent = self.open[-1] if self.open else None
        if parent is not None and parent.items is None and parent.key is None:
            raise _UnreadableError(position, "a key must be one word, not a list or mapping", self.path())
        if event.anchor:
            self.anchors[event.anchor] = None
        self.open.append(_Open(event, position))

    def _end(self) -> None:
        done = self.open.pop()
        node: Node
        if done.items is not None:
            node = Sequence(position=done.position, items=tuple(done.items), size=done.size)
        else:
            entries: dict[str, Entry] = {}
            for mapping in done.merged:  # an earlier one wins over a later one, own keys over both
                for key, entry in mapping.entries.items():
                    entries.setdefault(key, entry)
            node = Mapping(position=done.position, entries={**entries, **done.entries}, size=done.size)
        self._add(node, done.anchor)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        parent.size += node.size
        if parent.items is not None:
            parent.items.append(node)
        elif parent.key is None:
            if not isinstance(node, Scalar):
                raise _UnreadableError(node.position, "a key must be one word, not a list or mapping", self.path())
            parent.key = node
        else:
            self._add_entry(parent, parent.key, node)
            parent.key = None

    def _add_entry(self, parent: _Open, key: Scalar, value: Node) -> None:
        if key.text == "<<":
            sources = value.items if isinstance(value, Sequence) else (value,)
            for source in sources:
                if isinstance(source, Mapping):
                    parent.merged.append(source)
                else:
                    self.problems.add(
                        key.position, self.path(), f"`<<` merges mappings (`<<: *name`), not {describe(source)}"
                    )
        elif (first := parent.entries.get(key.text)) is not None:
            line, column = first.position
            sentence = f"duplicate key; first given at {line}:{column}. Remove one of them"
            self.problems.add(key.position, self.path(), sentence)
        else:
            parent.entries[key.text] = Entry(position=key.position, value=value)


def _tag_sentence(tag: str, text: str) -> str:
    if tag.startswith("!"):
        written = f"{tag} {text}".strip()
        return f"an unquoted ! begins a YAML tag. Quote it: {quote(written)}"
    return f"the YAML tag {quote(tag.replace(_CORE_TAGS, '!!', 1))} is not supported. Remove it"


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> _UnreadableError:
    """PyYAML's error with the position a person would point at and, for the usual slips, the remedy."""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    problem, context = str(error.problem or error), str(error.context or "")
    character = text[mark.index : mark.index + 1] if mark else ""
    remedy = ""
    if "maximum nesting depth" in problem:  # libyaml looks ahead, and has a limit of its own
        position = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        return _UnreadableError(position, f"nested deeper than {MAX_DEPTH} levels")
    if "scanning a tag" in context:
        mark, remedy = begin, ". An unquoted ! begins a YAML tag: put quotes around the text"
    elif "scanning an alias" in context or "scanning an anchor" in context:
        mark, remedy = begin, ". An unquoted * or & begins a YAML alias: put quotes around the text"
    elif character == "\t":
        remedy = ". YAML is indented with spaces, not tabs"
    elif "cannot start any token" in problem:
        remedy = f". Put quotes around a text that begins with {character}"
    elif "mapping values are not allowed" in problem:
        remedy = (
            ". A colon needs a space after it, a text with `: ` in it needs quotes, a key its neighbours' indentation"
        )
    elif "did not find expected key" in problem or "expected <block end>" in problem:
        remedy = ". Is this line indented like its neighbours?"
    elif begin and ("flow" in context or "quoted" in context):
        remedy = f". What began at {begin.line + 1}:{begin.column + 1} is not closed, or not well formed"
    position = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
    return _UnreadableError(position, f"not valid YAML: {problem}{remedy}")
