"""Regenerates ``openapi.json``: the part of GitHub's own OpenAPI description that the loopback GitHub is held to.

    python tests/loopback_github/extract_openapi.py            # the pinned version, below
    python tests/loopback_github/extract_openapi.py 23.0.2     # another one; then set VERSION to it

It fetches npm's ``@octokit/openapi`` (with ``npm pack``, nothing is installed), keeps the operations and webhook
payloads named below with every schema they reach, and drops the prose. Two things are changed on the way, so that a
plain JSON Schema (draft 4) validator can be used and a mistake cannot hide:

- ``nullable: true`` becomes ``anyOf: [..., {"type": "null"}]``;
- an object with described properties and no word on others is closed (``additionalProperties: false``), except under
  ``allOf``: the fake may not answer with a field that GitHub does not describe, nor may a client send one.

Where the description is known to be wrong about what GitHub really answers, ``correct`` says so, with the evidence.

The file has one operation, payload or schema a line, so that a newer description gives a readable diff.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "@octokit/openapi"
VERSION = "23.0.2"
MEMBER = "package/generated/api.github.com.json"
TARGET = Path(__file__).with_name("openapi.json")

OPERATIONS = (
    "actions/cancel-workflow-run",
    "actions/create-workflow-dispatch",
    "actions/download-artifact",
    "actions/force-cancel-workflow-run",
    "actions/get-artifact",
    "actions/get-workflow",
    "actions/get-workflow-run",
    "actions/list-jobs-for-workflow-run",
    "actions/list-workflow-run-artifacts",
    "actions/list-workflow-runs",
    "actions/list-workflow-runs-for-repo",
    "checks/create",
    "checks/get",
    "checks/list-for-ref",
    "checks/update",
    "git/create-ref",
    "git/get-ref",
    "git/update-ref",
    "issues/create-comment",
    "issues/delete-comment",
    "issues/get-comment",
    "issues/list-comments",
    "issues/update-comment",
    "pulls/get",
    "pulls/list",
    "pulls/list-files",
    "rate-limit/get",
    "repos/compare-commits-with-basehead",
    "repos/create-commit-status",
    "repos/get",
    "repos/get-collaborator-permission-level",
    "repos/get-combined-status-for-ref",
    "repos/get-commit",
    "repos/list-commit-statuses-for-ref",
    "repos/list-pull-requests-associated-with-commit",
    "users/get-authenticated",
)
PAYLOADS = (
    "issue-comment-created",
    "merge-group-checks-requested",
    "pull-request-labeled",
    "pull-request-opened",
    "pull-request-reopened",
    "pull-request-synchronize",
    "push",
    "release-published",
    "workflow-dispatch",
    "workflow-run-completed",
)
# GitHub documents the errors any endpoint can give once for all, not at each operation.
COMMON_ERRORS = {
    "400": "bad_request",
    "401": "requires_authentication",
    "403": "forbidden",
    "404": "not_found",
    "422": "validation_failed",
    "429": "forbidden",
}

KEPT_KEYWORDS = frozenset(
    (
        *("type", "format", "enum", "required", "pattern", "minimum", "maximum"),
        *("minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    )
)
ONE_SCHEMA = ("items", "not")
MANY_SCHEMAS = ("allOf", "anyOf", "oneOf")


def main(argv: list[str]) -> None:
    """Writes ``openapi.json`` beside this file."""
    version = argv[1] if len(argv) > 1 else VERSION
    description, licence = download(version)
    extract = extract_from(description)
    extract["source"] = {"package": PACKAGE, "version": version, "file": MEMBER, "license": " ".join(licence.split())}
    TARGET.write_text(render(extract), encoding="utf-8")
    print(f"{TARGET.name}: {len(extract['operations'])} operations, {len(extract['schemas'])} schemas of {version}")


def download(version: str) -> tuple[dict[str, Any], str]:
    """GitHub's whole description and the licence of the package that carries it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{version}"]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
        with tarfile.open(Path(folder, name)) as archive:
            description, licence = archive.extractfile(MEMBER), archive.extractfile("package/LICENSE")
            assert description is not None
            assert licence is not None
            return json.load(description), licence.read().decode()


def extract_from(description: dict[str, Any]) -> dict[str, Any]:
    """The kept operations and payloads, and the schemas they reach, each under its name."""
    correct(description["components"])
    wanted = set(OPERATIONS)
    operations = {
        operation["operationId"]: simplify_operation(description, method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict) and operation.get("operationId") in wanted
    }
    if missing := wanted - operations.keys():
        raise SystemExit(f"{PACKAGE} no longer describes {sorted(missing)}")
    payloads = {name: content_schema(description["x-webhooks"][name]["post"]["requestBody"]) for name in PAYLOADS}
    common = {
        status: content_schema(description["components"]["responses"][name]) for status, name in COMMON_ERRORS.items()
    }
    kept = {"operations": operations, "payloads": payloads, "common_errors": common}
    return {**kept, "schemas": reachable(description["components"]["schemas"], kept)}


def correct(components: dict[str, Any]) -> None:
    """The known inaccuracies of the description, mended in place."""
    # It takes a range (`>=2026-01-31T12:00:00Z`), as the parameter's own description says.
    del components["parameters"]["created"]["schema"]["format"]
    schemas = components["schemas"]
    # A deleted fork leaves `"repo": null`: https://github.com/github/rest-api-description/issues/1811
    for name in ("pull-request", "pull-request-simple"):
        repo = schemas[name]["properties"]["head"]["properties"]["repo"]
        schemas[name]["properties"]["head"]["properties"]["repo"] = {"allOf": [repo], "nullable": True}


def simplify_operation(
    description: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> dict[str, Any]:
    """``{method, path, parameters, body, responses}``; a response is its schema, or null where there is no content."""
    parameters = [follow(description, parameter) for parameter in operation.get("parameters", [])]
    body = follow(description, operation["requestBody"]) if "requestBody" in operation else None
    return {
        "method": method.upper(),
        "path": path,
        "parameters": [
            {
                "name": parameter["name"],
                "in": parameter["in"],
                "required": parameter.get("required", False),
                "schema": clean(parameter["schema"]),
            }
            for parameter in parameters
        ],
        "body": None if body is None else {"required": body.get("required", False), "schema": content_schema(body)},
        "responses": {
            status: content_schema(follow(description, response))
            for status, response in sorted(operation["responses"].items())
        },
    }


def follow(description: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The node itself, or the component its ``$ref`` names."""
    while "$ref" in node:
        target: Any = description
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def content_schema(node: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema of a body, or None."""
    content = node.get("content", {}).get("application/json")
    return None if content is None else clean(content["schema"])


def clean(schema: dict[str, Any], *, closed: bool = True) -> dict[str, Any]:
    """An OpenAPI 3.0 schema as a draft 4 one, without prose (see the module's docstring for what changes)."""
    if "$ref" in schema:
        return {"$ref": "#/schemas/" + schema["$ref"].removeprefix("#/components/schemas/")}
    cleaned: dict[str, Any] = {key: schema[key] for key in sorted(KEPT_KEYWORDS & schema.keys())}
    if "properties" in schema:
        cleaned["properties"] = {name: clean(value) for name, value in schema["properties"].items()}
        if closed:
            cleaned["additionalProperties"] = False
    if "additionalProperties" in schema:
        others = schema["additionalProperties"]
        cleaned["additionalProperties"] = others if isinstance(others, bool) else clean(others)
    for key in ONE_SCHEMA:
        if key in schema:
            cleaned[key] = clean(schema[key])
    for key in MANY_SCHEMAS:
        if key in schema:
            cleaned[key] = [clean(part, closed=closed and key != "allOf") for part in schema[key]]
            # Beside alternatives, the object's own list of properties is only a part of what it may have.
            if cleaned.get("additionalProperties") is False:
                del cleaned["additionalProperties"]
    return {"anyOf": [cleaned, {"type": "null"}]} if schema.get("nullable") else cleaned


def references(node: Any) -> Iterator[str]:
    """The names of the schemas a cleaned node refers to."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix("#/schemas/")
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def reachable(schemas: dict[str, Any], roots: Any) -> dict[str, Any]:
    """Every schema reached from the roots, cleaned."""
    found: dict[str, Any] = {}
    waiting = set(references(roots))
    while waiting:
        name = waiting.pop()
        found[name] = clean(schemas[name])
        waiting |= set(references(found[name])) - found.keys()
    return dict(sorted(found.items()))


def render(extract: dict[str, Any]) -> str:
    """JSON with one entry of each section a line."""

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), sort_keys=True)

    sections = []
    for section in ("source", "common_errors", "operations", "payloads", "schemas"):
        lines = ",\n".join(f"{json.dumps(name)}:{compact(value)}" for name, value in sorted(extract[section].items()))
        sections.append(f"{json.dumps(section)}:{{\n{lines}\n}}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


if __name__ == "__main__":
    main(sys.argv)
