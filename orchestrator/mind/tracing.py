"""With which of coverage.py's cores a tier is measured. Pure.

sys.monitoring costs a fraction of a tracer, but cannot do all of what one can: before Python 3.14 it knows no branches,
and nowhere does it know of contexts, of plugins' files or of greenlets. What a project's own settings ask for is read
from their text; where that is in doubt, coverage.py is left to choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from orchestrator.words.plan import PythonFacts

VARIABLE = "COVERAGE_CORE"
FILES = (".coveragerc", ".coveragerc.toml", "setup.cfg", "tox.ini", "pyproject.toml")
"""Where coverage.py looks for its settings."""

_SECTION = re.compile(r"^\s*\[+([^\]]*)\]")
_KEY = re.compile(r"""(?:^|[\s.{,"'])(branch|dynamic_context|concurrency|plugins|timid|core)["']?\s*=\s*(\S*)""")
_NO = re.compile(r"^(?:false|no|off|0)\b", re.IGNORECASE)
_OPTION = re.compile(r"--cov-(branch|context|config)\b")


class Measuring(Struct, frozen=True, kw_only=True):
    """What a project asks of coverage.py."""

    branch: bool = False
    tracer: bool = False  # something that only a tracer can do, or a core of its own choice


def measuring(files: Mapping[str, str], options: Iterable[str]) -> Measuring:
    """``files``: texts of the settings of coverage.py and pytest, by name; ``options``: further arguments of pytest."""
    found: set[str] = set()
    for name, text in files.items():
        found |= _asked(text, whole=name.startswith(".coveragerc"))
    for text in (*files.values(), *options):
        found.update(_OPTION.findall(text))
    return Measuring(branch="branch" in found, tracer=bool(found - {"branch"}))


def _asked(text: str, *, whole: bool) -> set[str]:
    """The settings of coverage.py in a file; ``whole``: it has no others."""
    found: set[str] = set()
    ours = whole
    for line in text.splitlines():
        section = _SECTION.match(line)
        if section is not None:
            ours = whole or "coverage" in section[1]
        elif ours and not line.lstrip().startswith(("#", ";")):
            found.update(key for key, value in _KEY.findall(line) if not _NO.match(value))
    return found


def core(
    python: PythonFacts, asked: Measuring, *, contexts: bool, variables: Mapping[str, str], args: Sequence[str]
) -> str | None:
    """The core to ask for, or None where coverage.py is to choose. ``variables``: what the tests inherit; ``contexts``:
    which test executes which line is measured.
    """
    if VARIABLE in variables or "COVERAGE_RCFILE" in variables:
        return None
    if contexts:
        return "ctrace"  # the only one that knows of them
    beside = measuring({}, args)
    if asked.tracer or beside.tracer or not re.match(r"3\.\d+", python.version):
        return None
    minor = int(python.version.split(".")[1])
    branch = asked.branch or beside.branch
    return "sysmon" if minor >= 14 or (minor >= 12 and not branch) else None
