"""Makes a place for tests that are moved: a tier in ml-tiers.yml, a marker that pytest knows; and a diff of it. Pure.

Every edit is an insertion or one replaced word in the author's own text, and is read back before it is offered.
"""

from __future__ import annotations

import configparser
import difflib
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from orchestrator.mind.advice import Destination
from orchestrator.mind.config import Config, Tier, format_duration, parse_config
from orchestrator.words.errors import ConfigError

_INDENT = "  "


class EditError(ValueError):
    """The text is written in a way that we cannot edit; the message says what to write by hand."""


# --- ml-tiers.yml ----------------------------------------------------------------------------------------------------


def add_tier(text: str, config: Config, *, tier: str, place: Destination) -> str:
    """ml-tiers.yml with the new tier, and with the marker left out of the one that the tests leave.

    Raises EditError.
    """
    own = config.tiers[tier]
    new = {
        "paths": f"[{', '.join(map(_word, own.paths))}]" if own.paths else None,
        "markers": _word(place.markers),
        "when": "[nightly]",
        "budget": format_duration(place.budget),
    }
    body = {key: value for key, value in new.items() if value is not None}
    try:
        tiers = _value(_root(text), "tiers")
        node = _value(tiers, tier)
        edits = [_insert_tier(text, tiers, place.tier, body)]
        if place.own_markers is not None:
            edits.append(_set_markers(text, node, _word(place.own_markers)))
        for start, end, replacement in sorted(edits, reverse=True):
            text = text[:start] + replacement + text[end:]
        edited = parse_config(text, filename="")
    except (KeyError, yaml.YAMLError, ConfigError) as error:
        raise EditError(_by_hand(tier, place, body)) from error
    left = own if place.own_markers is None else msgspec.structs.replace(own, markers=place.own_markers)
    added = edited.tiers.get(place.tier, Tier())
    tiers_wanted = {**config.tiers, tier: left, place.tier: added}
    if dict(edited.tiers) != tiers_wanted or (added.markers, added.when) != (place.markers, ("nightly",)):
        raise EditError(_by_hand(tier, place, body))
    return text


def _by_hand(tier: str, place: Destination, body: dict[str, str]) -> str:
    said = ", ".join(f"{key}: {value}" for key, value in body.items())
    leave = f", and give `{tier}` markers: {_word(place.own_markers)}" if place.own_markers is not None else ""
    return f"add the tier `{place.tier}: {{{said}}}`{leave}"


def _word(text: str) -> str:
    """A plain scalar that stands inside brackets too, or a quoted one."""
    plain = re.fullmatch(r"[A-Za-z_./(][\w ./()-]*", text) and text not in ("true", "false", "null")
    return text if plain and not text.endswith(" ") else json.dumps(text)


def _root(text: str) -> Any:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _value(node: Any, key: str) -> Any:
    """The value of a key of a mapping, written out there. Raises KeyError."""
    if not isinstance(node, yaml.MappingNode):
        raise KeyError(key)
    for name, value in node.value:
        if name.value == key:
            return value
    raise KeyError(key)


def _set_markers(text: str, node: Any, word: str) -> tuple[int, int, str]:
    try:
        old = _value(node, "markers")
    except KeyError:
        return _insert_key(text, node, f"markers: {word}")
    if not isinstance(old, yaml.ScalarNode) or old.style in ("|", ">"):
        raise KeyError("markers")
    return old.start_mark.index, old.end_mark.index, word


def _insert_key(text: str, node: Any, pair: str) -> tuple[int, int, str]:
    if not isinstance(node, yaml.MappingNode) or (not node.value and not node.flow_style):
        raise KeyError(pair)
    start = node.start_mark.index
    if node.flow_style:
        return start + 1, start + 1, pair + (", " if node.value else "")
    return start, start, f"{pair}{_line_end(text)}{' ' * node.start_mark.column}"


def _insert_tier(text: str, tiers: Any, name: str, body: dict[str, str]) -> tuple[int, int, str]:
    """After the last tier."""
    if not isinstance(tiers, yaml.MappingNode) or not tiers.value:
        raise KeyError(name)
    end = _end(tiers.value[-1][1])
    flow = "{" + ", ".join(f"{key}: {value}" for key, value in body.items()) + "}"
    if tiers.flow_style:
        return end, end, f", {name}: {flow}"
    line = _line_end(text)
    at = text.find("\n", end)
    at = len(text) if at < 0 else at + 1
    before = "" if text[:at].endswith("\n") else line
    outer = " " * tiers.start_mark.column
    keys = "".join(f"{outer}{_INDENT}{key}: {value}{line}" for key, value in body.items())
    return at, at, f"{before}{outer}{name}:{line}{keys}"


def _end(node: Any) -> int:
    """Index after the last character of a node: a block's own end mark lies behind comments and blank lines."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _end(node.value[-1])
    return int(node.end_mark.index)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


# --- pytest's configuration ------------------------------------------------------------------------------------------


def register(text: str, *, file: str, marker: str, meaning: str) -> str:
    """pytest's configuration file with one more marker. ``file``: its name. Raises EditError."""
    entry = f"{marker}: {meaning}"
    toml = file.endswith(".toml")
    header = _HEADERS.get(file.rpartition("/")[2], "pytest")
    section = re.search(rf"^\[{re.escape(header)}\][^\n]*\n", text, re.M)
    if section is None:
        raise EditError(f"register the marker in {file}: {entry}")
    rest = text[section.end() :]
    until = re.search(r"^\[", rest, re.M)
    body = rest[: until.start()] if until else rest
    edited = _into_toml(body, entry) if toml else _into_ini(body, entry)
    result = text[: section.end()] + edited + rest[len(body) :]
    if not _registered(result, header, entry, toml=toml):
        raise EditError(f"register the marker in {file}: {entry}")
    return result


_HEADERS = {"pyproject.toml": "tool.pytest.ini_options", "setup.cfg": "tool:pytest"}


def _into_toml(body: str, entry: str) -> str:
    word = json.dumps(entry)
    found = re.search(r"^markers\s*=\s*\[", body, re.M)
    if found is None:
        return f"markers = [{word}]{_line_end(body)}{body}"
    rest = body[found.end() :]
    if (more := re.match(r"[ \t]*(#[^\n]*)?\r?\n([ \t]*)", rest)) is None:
        return body[: found.end()] + word + ("" if re.match(r"\s*\]", rest) else ", ") + rest
    at = found.end() + more.start(2)
    indent = more[2] or _INDENT
    return f"{body[:at]}{indent}{word},{_line_end(body)}{body[at:]}"


def _into_ini(body: str, entry: str) -> str:
    found = re.search(r"^markers[ \t]*[=:][^\n]*(\n|\Z)", body, re.M)
    line = _line_end(body)
    if found is None:
        return f"markers ={line}    {entry}{line}{body}"
    more = re.match(r"[ \t]+", body[found.end() :])
    start = body[: found.end()] + ("" if found[1] else line)
    return f"{start}{more[0] if more else '    '}{entry}{line}{body[found.end() :]}"


def _registered(text: str, header: str, entry: str, *, toml: bool) -> bool:
    try:
        if not toml:
            parser = configparser.ConfigParser(interpolation=None, strict=False)
            parser.read_string(text)
            return entry in [line.strip() for line in parser[header]["markers"].splitlines()]
        if sys.version_info >= (3, 11):
            import tomllib  # noqa: PLC0415

            table: Any = tomllib.loads(text)
            for key in header.split("."):
                table = table[key]
            return entry in table["markers"]
    except (ValueError, KeyError, TypeError, configparser.Error):
        return False
    return True  # this Python reads no TOML; pytest will


# --- diff ------------------------------------------------------------------------------------------------------------


def unified_diff(path: str, before: bytes, after: bytes) -> bytes:
    """What `git apply` takes. ``path``: from the top of the working tree, POSIX."""
    if before == after:
        return b""
    old, new = _lines(before), _lines(after)
    left, right = _quoted(f"a/{path}"), _quoted(f"b/{path}")
    tail = b"\t" if b" " in left and not left.startswith(b'"') else b""
    parts = [b"diff --git %s %s\n--- %s%s\n+++ %s%s\n" % (left, right, left, tail, right, tail)]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(3):
        parts.append(_hunk(group, old, new))
    return b"".join(parts)


def _hunk(group: Sequence[tuple[str, int, int, int, int]], old: Sequence[bytes], new: Sequence[bytes]) -> bytes:
    first, last = group[0], group[-1]
    parts = [b"@@ -%s +%s @@\n" % (_range(first[1], last[2]), _range(first[3], last[4]))]
    for tag, i, j, k, m in group:
        if tag == "equal":
            parts += [_line(b" ", line) for line in old[i:j]]
        else:
            parts += [_line(b"-", line) for line in old[i:j]] + [_line(b"+", line) for line in new[k:m]]
    return b"".join(parts)


def _range(start: int, end: int) -> bytes:
    length = end - start
    return b"%d,%d" % (start + 1 if length else start, length)


def _lines(data: bytes) -> list[bytes]:
    """As git counts them: a carriage return alone ends none."""
    return re.findall(rb"[^\n]*\n|[^\n]+\Z", data)


def _line(sign: bytes, line: bytes) -> bytes:
    return sign + line if line.endswith(b"\n") else sign + line + b"\n\\ No newline at end of file\n"


def _quoted(path: str) -> bytes:
    """A name as git writes it in a diff: in C's quotes where it has anything but printable ASCII in it."""
    data = path.encode(errors="surrogateescape")
    if all(0x20 <= byte < 0x7F and byte not in b'"\\' for byte in data):
        return data
    escaped = (
        b"\\" + bytes([byte]) if byte in b'"\\' else bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%03o" % byte
        for byte in data
    )
    return b'"' + b"".join(escaped) + b'"'
