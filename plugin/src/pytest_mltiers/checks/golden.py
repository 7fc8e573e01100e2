"""Golden values: what a model said when it was right, kept in the repository, compared from then on."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_mltiers.checks.failures import fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.statistics import Comparison, not_higher_error, not_less_accurate

LIMIT = 20_000
"""A golden holds at most this many numbers; longer ones belong into a summary of them."""


class Golden:
    """The golden values of one test file, in ``goldens/<file>/<name>.json`` beside it.

    ``update``: write instead of compare (``--update-goldens``). A missing golden is a failure, never a skip: a check
    that cannot compare proves nothing. Files are JSON, so that a change can be reviewed.
    """

    def __init__(self, folder: Path, *, update: bool = False) -> None:
        self.folder, self.update = folder, update

    def check(
        self, name: str, value: Any, *, key: Mapping[str, Any] | None = None, rtol: float = 1e-5, atol: float = 1e-7
    ) -> None:
        """``value`` equals the golden ``name`` within ``rtol * |golden| + atol``.

        ``value``: tensors, arrays, numbers, strings, and lists or mappings of them, up to 20,000 numbers. ``key``: what
        the golden depends on (model, data fingerprint, GPU ...): a golden of another key is no reference, and says so.
        A difference with other software than the golden's is called drift, with both versions.
        """
        self._compare(name, _plain(value), key or {}, lambda old: _first_difference(old, _plain(value), rtol, atol))

    def check_accuracy(
        self, name: str, correct: Sequence[bool | int], *, key: Mapping[str, Any] | None = None, margin: float = 0.01
    ) -> Comparison | None:
        """Accuracy is not worse than the golden's by more than ``margin``, paired on the same samples.

        ``correct``: 0 or 1 per sample, in a fixed order. See
        :func:`~pytest_mltiers.checks.statistics.not_less_accurate`.
        """
        return self._paired(name, [int(c) for c in correct], key or {}, not_less_accurate, margin)

    def check_rmse(
        self, name: str, errors: Sequence[float], *, key: Mapping[str, Any] | None = None, margin: float = 0.01
    ) -> Comparison | None:
        """RMSE is not higher than the golden's by more than a share ``margin``, paired on the same samples.

        ``errors``: prediction minus target per sample, in a fixed order.
        """
        return self._paired(name, [float(e) for e in errors], key or {}, not_higher_error, margin)

    def _paired(self, name: str, values: list[Any], key: Mapping[str, Any], compare: Any, margin: float) -> Any:
        outcome: list[Comparison] = []

        def difference(old: Any) -> None:
            outcome.append(compare(old, values, margin=margin))

        self._compare(name, values, key, difference)
        return outcome[0] if outcome else None

    def _compare(self, name: str, value: Any, key: Mapping[str, Any], difference: Any) -> None:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"golden name {name!r}: letters, digits, '.', '_' and '-' only, it names a file")
        path = self.folder / f"{name}.json"
        plain_key = _plain(dict(key))
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"version": 1, "key": plain_key, "software": software(), "value": value}
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            return
        if not path.is_file():
            fail(
                f"there is no golden {name!r} at {path}",
                cause="never written, or not committed",
                fix="run this test once with --update-goldens, look at the file, commit it",
            )
        try:
            golden = json.loads(path.read_text(encoding="utf-8"))
            old, old_key, old_software = golden["value"], golden["key"], golden["software"]
        except (ValueError, KeyError, TypeError) as error:
            fail(
                f"{path} is not a golden: {type(error).__name__}: {error}",
                cause="edited by hand, or an unfinished merge",
                fix="run this test with --update-goldens",
            )
        if old_key != plain_key:
            changed = sorted(k for k in old_key.keys() | plain_key.keys() if old_key.get(k) != plain_key.get(k))
            fail(
                f"golden {name!r} was made for other circumstances: {', '.join(changed)} "
                f"({[old_key.get(k) for k in changed]} then, {[plain_key.get(k) for k in changed]} now)",
                cause="the model, the data or the device changed, so the old values are no reference",
                fix="look at the new values, then --update-goldens",
            )
        found = difference(old)
        if found:
            now = software()
            drifted = [f"{k} {old_software.get(k)} -> {now.get(k)}" for k in now if old_software.get(k) != now.get(k)]
            fail(
                f"golden {name!r}: {found}" + (f" (drift: {', '.join(drifted)})" if drifted else ""),
                cause="drift after a software change; compare sizes before you accept it"
                if drifted
                else "the code changed what the model says",
                fix="find the change; if it is wanted, --update-goldens and commit with the reason",
            )


def software() -> dict[str, str]:
    """The versions that can change numbers: Python's minor version, torch and NumPy where installed."""
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in ("torch", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def data_fingerprint(*parts: Any) -> str:
    """Sixteen hexadecimal digits that change when any tensor, array, number or string of ``parts`` changes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(_plain(part, limit=None), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _plain(value: Any, limit: int | None = LIMIT) -> Any:
    """JSON's types for ``value``; NaN and infinities as strings."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numel"):
        if limit is not None and value.numel() > limit:
            raise ValueError(f"a golden of {value.numel()} numbers: keep a slice or a summary of at most {limit}")
        return {"shape": list(value.shape), "values": _plain(value.double().flatten().tolist(), None)}
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), limit)
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, limit) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, limit) for v in value]
    raise TypeError(f"a golden cannot hold {type(value).__name__}: tensors, numbers, strings, lists and mappings only")


def _first_difference(old: Any, new: Any, rtol: float, atol: float, path: str = "value") -> str | None:
    if isinstance(old, (int, float)) and isinstance(new, (int, float)) and not isinstance(old, bool):
        if abs(old - new) <= rtol * abs(old) + atol:
            return None
        return f"{path} is {new!r}, was {old!r} (difference {abs(old - new):.3g})"
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() != new.keys():
            return f"{path} has keys {sorted(new)}, had {sorted(old)}"
        return next((d for k in old if (d := _first_difference(old[k], new[k], rtol, atol, f"{path}.{k}"))), None)
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{path} has length {len(new)}, had {len(old)}"
        found = [
            d
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            if (d := _first_difference(a, b, rtol, atol, f"{path}[{i}]"))
        ]
        return f"{found[0]}, {len(found)} of {len(old)} differ" if len(found) > 1 else (found[0] if found else None)
    return None if old == new else f"{path} is {new!r}, was {old!r}"
