"""The small languages inside ml-tiers.yml: durations, percentages, paths, globs, marker expressions, arguments …

Each is a type: a plain Python type annotated with how it is read (a function from the word in the file to the value,
raising ValueError with a sentence for the user), what it is called in "expected …", and its JSON Schema. The validator,
the schema and the reference page all use this one registration. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta

from orchestrator.mind.config.markers import check_markers
from orchestrator.mind.config.positions import Scalar, describe, quote

_MAX_TEXT = 4_000
_MAX_DURATION = 7 * 24 * 3600
_UNITS = {"h": 3600, "m": 60, "s": 1}


def leaf(read: Callable[[Scalar], Any], expects: str, **schema: Any) -> Meta:
    """Register a leaf type: ``schema`` replaces the JSON Schema that its Python type alone would have."""
    return Meta(extra={"read": read, "expects": expects}, extra_json_schema={"x-replace": schema})


def one_or_more() -> Meta:
    """A list whose single element may stand there without brackets."""
    return Meta(extra={"one-or-more": True}, extra_json_schema={"x-one-or-more": True})


# --- text ----------------------------------------------------------------------------------------------------------


def read_text(word: Scalar) -> str:
    """A non-empty text of one line."""
    text = _string(word)
    if not text.strip():
        raise ValueError("is empty")
    if "\n" in text or "\r" in text:
        raise ValueError("must be one line")
    return text


def read_word(word: Scalar) -> str:
    """A text that may be a number as well: what is written counts (``3.10`` stays ``3.10``)."""
    if isinstance(word.value, bool) or word.value is None:
        raise ValueError(_quote_it(word))
    _check_text(word.text)
    return word.text


def _string(word: Scalar) -> str:
    if not isinstance(word.value, str):
        raise ValueError(_quote_it(word))
    _check_text(word.value)
    return word.value


def _quote_it(word: Scalar) -> str:
    if word.value is None and not word.text:
        return "expected text, got nothing. Give it a value or remove it"
    return f'expected text, got {describe(word)}. If text is meant, quote it: "{word.text[:40]}"'


def _check_text(text: str) -> None:
    if len(text) > _MAX_TEXT:
        raise ValueError(f"is longer than {_MAX_TEXT} characters")
    if "${{" in text:
        raise ValueError("`${{ }}` is not evaluated in this file. Write the value itself, or set it in the workflow")


# --- durations and percentages -------------------------------------------------------------------------------------

_DURATION_PATTERN = r"^(?=[0-9])([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}(\.[0-9]{1,3})?s)?$"
_DURATION = re.compile(_DURATION_PATTERN)


def parse_duration(text: str) -> float:
    """``90s``, ``2m``, ``1h30m`` in seconds. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            raise ValueError(f"{text} has no unit. Write {text}s for seconds or {text}m for minutes")
        raise ValueError(f"{quote(text)} is not a duration. Write it like 90s, 2m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9.]+)([hms])", text))
    if not 0 < seconds <= _MAX_DURATION:
        raise ValueError(f"{text} is out of range: more than 0s and at most {format_duration(_MAX_DURATION)}")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest way to write a duration in ml-tiers.yml: 5400 → ``1h30m``."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    fraction = seconds - whole
    last = f"{rest + fraction:g}s" if rest or fraction else ""
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "") + last or "0s"


def _read_duration(word: Scalar) -> float:
    if word.value is None or isinstance(word.value, bool):
        raise ValueError(f"expected a duration such as 90s, 2m or 1h30m, got {describe(word)}")
    return parse_duration(word.text)


_PERCENT_PATTERN = r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?) ?%$"


def _read_percent(word: Scalar) -> float:
    wrong = f"expected a percentage from 0 to 100 such as 85 or 85%, got {describe(word)}"
    if isinstance(word.value, str):
        if not re.fullmatch(_PERCENT_PATTERN, word.value):
            raise ValueError(wrong)
        return float(word.value.rstrip("%"))
    if word.value is None or isinstance(word.value, bool) or not 0 <= word.value <= 100:
        raise ValueError(wrong)
    if 0 < word.value < 1:
        raise ValueError(
            f"{word.text} is less than one percent. Write {100 * word.value:g}%, or {word.text}% if so meant"
        )
    return float(word.value)


# --- names ---------------------------------------------------------------------------------------------------------

_TIER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_TAKEN_NAMES = frozenset({"plan.json", "verdict.json", "comment.md", "report.html", "history"})
_ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_RESERVED_ENV = {
    r"MLTIERS_\w*": "mltiers uses it itself",
    r"(GITHUB|ACTIONS|RUNNER)_\w*": "GitHub's own variables are never given to tests or replaced for them",
    r"PYTEST_ADDOPTS": "use `args`",
    r"PYTEST_(XDIST_\w*|CURRENT_TEST|PLUGINS|DISABLE_PLUGIN_AUTOLOAD)": "pytest and mltiers set it themselves",
    r"(COVERAGE|COV_CORE)_\w*": "mltiers measures coverage itself; see `source` and `coverage`",
}


def _read_tier_name(word: Scalar) -> str:
    if not re.fullmatch(_TIER_PATTERN, word.text):
        raise ValueError(
            "is not a tier name. It becomes a folder and a status: begin with a letter or digit, then letters, digits, "
            "_ . -, at most 64 characters"
        )
    if word.text.casefold() in _TAKEN_NAMES:
        raise ValueError(
            "is taken by a file or folder that mltiers writes beside those of the tiers. Choose another name"
        )
    return word.text


def _read_env_name(word: Scalar) -> str:
    if not re.fullmatch(_ENV_PATTERN, word.text):
        raise ValueError("is not the name of an environment variable (letters, digits and _, no digit first)")
    for pattern, why in _RESERVED_ENV.items():
        if re.fullmatch(pattern, word.text.upper()):
            raise ValueError(f"cannot be set: {why}")
    return word.text


def _read_label(word: Scalar) -> str:
    text = read_text(word)
    if len(text) > 50 or "," in text or text != text.strip():
        raise ValueError(f"{quote(text)} is not a label: at most 50 characters, without commas or spaces around it")
    return text


def _read_python(word: Scalar) -> str:
    if not isinstance(word.value, bool) and re.fullmatch(r"[0-9]+(\.[0-9]+)*", word.text):
        raise ValueError(f"{word.text} is a version, not a program. Write python{'.'.join(word.text.split('.')[:2])}")
    text = read_text(word)
    if text.startswith("-"):
        raise ValueError(f"{quote(text)} is not a program. Write a name on PATH or a path, such as .venv/bin/python")
    return text


def _read_module(word: Scalar) -> str:
    text = read_text(word)
    if not all(part.isidentifier() for part in text.split(".")):
        raise ValueError(f"{quote(text)} is not a module. Write it as in an import, such as torch or my_package.data")
    return text


# --- paths ---------------------------------------------------------------------------------------------------------


def _inside(text: str) -> str:
    """A path inside the repository, POSIX, without ``./`` and trailing slashes. Raises ValueError."""
    if "\\" in text:
        raise ValueError(f"{quote(text)} has a backslash. Write / between folders")
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
        raise ValueError(f"{quote(text)} is not inside the repository. Write it relative to the folder of this file")
    if text.startswith("-"):
        raise ValueError(f"{quote(text)} begins with a dash, like an option. Write ./{text}, or use `args`")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{quote(text)} leaves the folder of this file. Write a path without ..")
    joined = "/".join(parts) or "."
    return f"./{joined}" if joined.startswith("-") else joined


def _read_path(word: Scalar) -> str:
    text = _inside(read_text(word))
    if "*" in text or "?" in text:
        raise ValueError(f"{quote(text)} is a pattern. Name the folder or file itself")
    return text


def _read_test_path(word: Scalar) -> str:
    file, separator, test = read_text(word).partition("::")
    if "*" in file or "?" in file:
        raise ValueError(f"{quote(file)} is a pattern, and pytest collects folders and files. Name the folder")
    return _inside(file) + separator + test


def _read_known_gap(word: Scalar) -> str:
    file, separator, function = read_text(word).partition("::")
    if separator and not all(part.isidentifier() for part in function.replace("::", ".").split(".")):
        raise ValueError(f"{quote(word.text)} is neither `file` nor `file::function` (or `file::Class.method`)")
    return _inside(file) + separator + function.replace("::", ".")


def _read_glob(word: Scalar) -> str:
    text = read_text(word)
    negated = text.startswith("!")
    pattern = text[1:] if negated else text
    if not pattern:
        raise ValueError("'!' alone excludes nothing. Write a pattern after it")
    inside = _inside(pattern)
    return ("!" if negated else "") + inside + ("/**" if pattern.endswith("/") and inside != "." else "")


# --- what pytest is given ------------------------------------------------------------------------------------------


def _read_markers(word: Scalar) -> str:
    text = " ".join(_string(word).split("\n")).strip()  # a folded or literal block is still one expression
    if text:
        check_markers(text)
    return text


_REFUSED_ARGUMENTS: tuple[tuple[str, str], ...] = (
    (r"-n\d*|-n ?(auto|logical|\d+)|--(numprocesses|maxprocesses|dist|tx)\b.*|-d", "use `workers`"),
    (r"-m\b.*|-m[^-].*", "use `markers`"),
    (r"--junit-?(xml|prefix)\b.*", "mltiers writes and reads the report itself"),
    (r"((-o|--override-ini)[ =]?)?junit_\w+=.*", "mltiers reads the report in the form it asks for"),
    (r"(-p ?)?no:(pytest_)?mltiers", "mltiers needs its plugin to know which tests finished"),
    (r"(-p ?)?no:(xdist(\.\w+)?)", "use `workers: 1`"),
    (r"(-p ?)?no:(junitxml|terminal|pytest_cov|main|runner|python)", "mltiers needs it"),
    (r"--(no-)?cov\b.*", "use `source` and `coverage`"),
    (r"--benchmark-json\b.*", "mltiers writes and reads it itself"),
    (r"--rootdir\b.*|--confcutdir\b.*", "test names are relative to the folder of this file"),
    (
        r"--collect-only|--co|-h|--help|-V|--version|--fixtures(-per-test)?|--markers|--setup-(plan|only)",
        "it runs no test",
    ),
    (r"--pdb\b.*|--trace|-f|--looponfail", "it waits for a person at the keyboard"),
)


def _read_argument(word: Scalar) -> str:
    text = read_word(word)
    if not text.strip() or "\n" in text:
        raise ValueError("must be one line of text")
    for pattern, instead in _REFUSED_ARGUMENTS:
        if re.fullmatch(pattern, text):
            raise ValueError(f"{quote(text)} cannot be used here: {instead}")
    if re.match(r"--[\w-]+\s", text):
        raise ValueError(f"{quote(text)} is two arguments in one. Write them as two list items, or with = between")
    return text


# --- the types -----------------------------------------------------------------------------------------------------

_TEXT = {"type": "string", "minLength": 1}
_WORD = {"type": ["string", "number"]}

Text = Annotated[str, leaf(read_text, "text", **_TEXT)]
Word = Annotated[str, leaf(read_word, "text or a number", **_WORD)]
Duration = Annotated[
    float, leaf(_read_duration, "a duration such as 90s, 2m or 1h30m", type="string", pattern=_DURATION_PATTERN)
]
Percent = Annotated[
    float,
    leaf(
        _read_percent,
        "a percentage from 0 to 100 such as 85 or 85%",
        anyOf=[{"type": "number", "minimum": 0, "maximum": 100}, {"type": "string", "pattern": _PERCENT_PATTERN}],
    ),
]
TierName = Annotated[str, leaf(_read_tier_name, "the name of a tier", type="string", pattern=_TIER_PATTERN)]
EnvName = Annotated[str, leaf(_read_env_name, "an environment variable", type="string", pattern=_ENV_PATTERN)]
Label = Annotated[str, leaf(_read_label, "a label", type="string", minLength=1, maxLength=50, pattern="^[^,]+$")]
Python = Annotated[str, leaf(_read_python, "a Python on PATH or its path", **_TEXT, pattern=r"[^0-9.]")]
Module = Annotated[str, leaf(_read_module, "a module", **_TEXT)]
Path = Annotated[str, leaf(_read_path, "a path", **_TEXT)]
TestPath = Annotated[str, leaf(_read_test_path, "a folder, file or test", **_TEXT)]
KnownGap = Annotated[str, leaf(_read_known_gap, "`file` or `file::function`", **_TEXT)]
Glob = Annotated[str, leaf(_read_glob, "a glob such as src/** or !docs/**", **_TEXT)]
Markers = Annotated[str, leaf(_read_markers, "a marker expression", type="string")]
Argument = Annotated[str, leaf(_read_argument, "an argument of pytest", **_WORD)]
