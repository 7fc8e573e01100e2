"""GitHub's OpenAPI description as a judge: is this a request GitHub knows, and an answer GitHub could give?

Pure: values in, lists of sentences out. The description is ``openapi.json``, see ``extract_openapi.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jsonschema import Draft4Validator, FormatChecker
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.jsonschema import DRAFT4

DESCRIPTION = "urn:github"
# Conditional requests answer 304 wherever there was an ETag; the description lists it at some operations only.
# https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests
CONDITIONAL = "304"

_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo is not None


@_FORMATS.checks("uri", raises=ValueError)
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One endpoint. ``pattern`` matches its raw path; ``parameters`` and ``body`` are the description's own."""

    id: str
    method: str
    pattern: re.Pattern[str]
    parameters: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any] | None
    responses: Mapping[str, Any]
    pointer: str  # where in the document its schemas are


class Contract:
    """The operations of a description, and the verdicts on what is sent and answered under them."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        resource = DRAFT4.create_resource(dict(document))
        self._registry: Registry[Any] = Registry().with_resource(DESCRIPTION, resource)
        self._validators: dict[str, Draft4Validator] = {}
        self.operations = {
            name: Operation(
                id=name,
                method=operation["method"],
                pattern=_path_pattern(operation["path"]),
                parameters=tuple(operation["parameters"]),
                body=operation["body"],
                responses=operation["responses"],
                pointer=f"/operations/{name.replace('/', '~1')}",
            )
            for name, operation in document["operations"].items()
        }

    def match(self, method: str, path: str) -> tuple[Operation, dict[str, Any]] | None:
        """The operation of a request and its path parameters (typed), or None. ``path`` is raw, still quoted."""
        for operation in self.operations.values():
            if operation.method == method and (found := operation.pattern.fullmatch(path)):
                schemas = {p["name"]: p["schema"] for p in operation.parameters if p["in"] == "path"}
                return operation, {
                    name: _typed(unquote(value), schemas[name]) for name, value in found.groupdict().items()
                }
        return None

    def typed_query(self, operation: Operation, query: Mapping[str, str]) -> dict[str, Any]:
        """The query with integers and booleans where the description has them; what it does not know stays text."""
        schemas = {p["name"]: p["schema"] for p in operation.parameters if p["in"] == "query"}
        return {name: _typed(value, schemas.get(name, {})) for name, value in query.items()}

    def request_problems(
        self, operation: Operation, path: Mapping[str, Any], query: Mapping[str, Any], body: Any, *, has_body: bool
    ) -> list[str]:
        """What is wrong with a request; empty: GitHub would understand it."""
        problems = []
        given = {"path": path, "query": query}
        for index, parameter in enumerate(operation.parameters):
            values = given.get(parameter["in"], {})
            if parameter["name"] in values:
                pointer = f"{operation.pointer}/parameters/{index}/schema"
                problems += self._check(pointer, values[parameter["name"]], f"parameter {parameter['name']}")
            elif parameter["required"]:
                problems.append(f"parameter {parameter['name']} is missing")
        known = {p["name"] for p in operation.parameters if p["in"] == "query"}
        problems += [f"unknown query parameter {name}" for name in query if name not in known]
        if operation.body is None:
            problems += ["a body, where none is described"] if has_body else []
        elif has_body:
            problems += self._check(f"{operation.pointer}/body/schema", body, "body")
        elif operation.body["required"]:
            problems.append("the body is missing")
        return problems

    def answer_problems(self, operation: Operation, status: int, body: Any, *, has_body: bool) -> list[str]:
        """What is wrong with an answer; empty: GitHub could give it."""
        word = str(status)
        if word in operation.responses:
            schema, pointer = operation.responses[word], f"{operation.pointer}/responses/{word}"
        elif word in self._document["common_errors"]:
            schema, pointer = self._document["common_errors"][word], f"/common_errors/{word}"
        elif word == CONDITIONAL and operation.method == "GET":
            schema, pointer = None, ""
        else:
            return [f"status {status} is not described"]
        if schema is None:
            return [f"a body with status {status}, where none is described"] if has_body else []
        if not has_body:
            return [f"no body with status {status}, where one is described"]
        return self._check(pointer, body, f"answer {status}")

    def payload_problems(self, name: str, payload: Any) -> list[str]:
        """What is wrong with a webhook payload, named as in the description (``pull-request-opened``)."""
        return self._check(f"/payloads/{name}", payload, name)

    def _check(self, pointer: str, value: Any, what: str) -> list[str]:
        validator = self._validators.get(pointer)
        if validator is None:
            schema = {"$ref": f"{DESCRIPTION}#{pointer}"}
            validator = Draft4Validator(schema, registry=self._registry, format_checker=_FORMATS)
            self._validators[pointer] = validator
        return [
            f"{what}{_where(error.absolute_path)}: {_shorten(error.message)}"
            for error in map(_deepest, validator.iter_errors(value))
        ]


@cache
def github_contract() -> Contract:
    """The contract of the committed extract, read once."""
    return Contract(json.loads(Path(__file__).with_name("openapi.json").read_text(encoding="utf-8")))


def _path_pattern(template: str) -> re.Pattern[str]:
    # A git ref is several segments (`heads/main`); every other parameter is one.
    several = "/git/ref" in template
    parts = re.split(r"\{(\w+)\}", template)
    pieces = [re.escape(parts[0])]
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        pieces += [f"(?P<{name}>{'.+' if several and name == 'ref' else '[^/]+'})", re.escape(literal)]
    return re.compile("".join(pieces))


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    types = {schema.get("type"), *(part.get("type") for part in schema.get("oneOf", ()))}
    if "integer" in types and re.fullmatch(r"-?\d+", text):
        return int(text)
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    return text


def _deepest(error: Any) -> Any:
    return best_match([error]) or error


def _where(path: Iterable[object]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _shorten(message: str, limit: int = 300) -> str:
    return message if len(message) <= limit else message[:limit] + "…"
