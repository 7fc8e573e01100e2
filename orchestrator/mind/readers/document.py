"""JSON documents from outside."""

from __future__ import annotations

import json
from typing import Any


class BrokenReportError(ValueError):
    """A result file is not what it should be; the message says what is wrong with it."""


def load_json_object(data: bytes, *, limit: int) -> dict[str, Any]:
    """The JSON object in ``data``. Raises BrokenReportError for anything else, however hostile."""
    if not data.strip():
        raise BrokenReportError("it is empty")
    if len(data) > limit:
        raise BrokenReportError(f"it is larger than {limit // 2**20} MiB")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BrokenReportError("it is not UTF-8") from None
    except RecursionError:
        raise BrokenReportError("it is nested too deeply") from None
    except ValueError as error:
        raise BrokenReportError(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BrokenReportError("it is not a JSON object")
    return document
