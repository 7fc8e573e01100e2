"""What `mltiers init` knows about a repository, and how a Python file is read for it. Pure: text in, values out."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from msgspec import Struct

# pytest's own marks and those of plugins that say how a test runs, not what it costs.
_NOT_A_KIND = frozenset({
    "parametrize", "skip", "skipif", "xfail", "usefixtures", "filterwarnings", "tryfirst", "trylast", "asyncio",
    "anyio", "trio", "timeout", "flaky", "order", "dependency", "django_db", "benchmark", "repeat", "xdist_group",
    "forked", "no_cover", "hypothesis",
})  # fmt: skip
_MODEL_BASES = frozenset({"Module", "LightningModule", "PreTrainedModel", "ScriptModule", "Model"})
_DATA_BASES = frozenset({"Dataset", "IterableDataset", "TensorDataset", "LightningDataModule"})
_DATA_WORDS = re.compile(
    r"normali[sz]e|standardi[sz]e|preprocess|tokeni[sz]|augment|collate|featuri[sz]e|clean_|resample|"
    r"(^|_)(transform|crop|resize|pad|encode|decode|one_hot)(_|$)"
)
_LOSS_NAME = re.compile(r"Loss$|(^|_)loss$")
_TRAIN_NAME = re.compile(r"^(train|fit|finetune|fine_tune)(_|$)|(^|_)(train|training)_(step|loop|epoch|model)$")
_PREDICT_NAME = re.compile(r"^(predict|infer|generate)(_|$)|(^|_)inference(_|$)")


class Finding(Struct, frozen=True, kw_only=True):
    """One thing of the repository that deserves a test. ``kind``: data, model, loss, training, inference."""

    kind: str
    name: str
    path: str
    line: int


class Case(Struct, frozen=True, kw_only=True):
    """One test function, before any parameters."""

    markers: frozenset[str] = frozenset()  # its own, its class's and its module's
    benchmark: bool = False  # uses pytest-benchmark's fixture


class PythonFile(Struct, frozen=True, kw_only=True):
    """What one Python file holds. ``problem``: why it could not be read, and then nothing else is known."""

    path: str  # POSIX, relative to the root
    cases: tuple[Case, ...] = ()
    markers: frozenset[str] = frozenset()  # all in the file, those of single parameters included
    findings: tuple[Finding, ...] = ()
    problem: str | None = None


class PytestSettings(Struct, frozen=True, kw_only=True):
    """What the repository's pytest configuration says."""

    file: str | None = None
    testpaths: tuple[str, ...] = ()
    python_files: tuple[str, ...] = ("test_*.py", "*_test.py")
    markers: tuple[str, ...] = ()  # registered names


class RepositoryFacts(Struct, frozen=True, kw_only=True):
    """What a scan of a repository found. Paths are POSIX and relative to the scanned folder."""

    files: tuple[PythonFile, ...] = ()
    test_paths: frozenset[str] = frozenset()  # of the files that pytest would collect
    settings: PytestSettings = PytestSettings()
    install: tuple[str, ...] = ()  # arguments of pip that install the project, best first
    workflows: tuple[str, ...] = ()  # that run pytest already
    default_branch: str = "main"
    prefix: str = ""  # the scanned folder inside the git repository: "" or "sub/folder"
    notes: tuple[str, ...] = ()  # what the scan could not see

    @property
    def tests(self) -> tuple[PythonFile, ...]:
        """The test files in which there is a test."""
        return tuple(file for file in self.files if file.path in self.test_paths and file.cases)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What deserves a test, outside the tests."""
        return tuple(found for file in self.files if file.path not in self.test_paths for found in file.findings)


def read_python(path: str, source: str) -> PythonFile:
    """One file's tests, markers, imports and findings. Never raises: what Python cannot parse is a ``problem``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes of somebody else's file
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return PythonFile(path=path, problem=f"{type(error).__name__}{where}")
    return PythonFile(
        path=path,
        cases=tuple(_cases(tree.body, _module_markers(tree))),
        markers=_markers(tree),
        findings=tuple(_findings(tree, path)),
    )


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _cases(body: list[ast.stmt], markers: frozenset[str]) -> Iterator[Case]:
    """Functions and methods that pytest's default rules collect. ``markers``: of the class or module around."""
    for node in body:
        if isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or "TestCase" in _base_names(node)):
            yield from _cases(node.body, markers | _decorator_markers(node))
        elif isinstance(node, _Function) and node.name.startswith("test"):
            fixtures = {argument.arg for argument in node.args.args}
            yield Case(markers=markers | _decorator_markers(node), benchmark="benchmark" in fixtures)


def _decorator_markers(node: ast.ClassDef | _Function) -> frozenset[str]:
    """Without those inside a ``parametrize``: they are of single parameters."""
    plain = [d for d in node.decorator_list if not (isinstance(d, ast.Call) and "parametrize" in ast.dump(d.func))]
    return frozenset(marker for decorator in plain for marker in _markers(decorator))


def _module_markers(tree: ast.Module) -> frozenset[str]:
    named = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
    )
    return frozenset(marker for value in named for marker in _markers(value))


def _markers(tree: ast.AST) -> frozenset[str]:
    """X of every ``pytest.mark.X`` (or ``mark.X``) at or below a node."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if name == "mark":
                found.add(node.attr)
    return frozenset(found) - _NOT_A_KIND


def _findings(tree: ast.Module, path: str) -> Iterator[Finding]:
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | _Function) or node.name.startswith("_"):
            continue
        kind = _class_kind(node) if isinstance(node, ast.ClassDef) else _function_kind(node.name)
        if kind is not None:
            yield Finding(kind=kind, name=node.name, path=path, line=node.lineno)


def _class_kind(node: ast.ClassDef) -> str | None:
    bases = _base_names(node)
    if _LOSS_NAME.search(node.name):
        return "loss"
    if bases & _MODEL_BASES:
        return "model"
    if bases & _DATA_BASES or re.search(r"Tokenizer$|Transform$|Normalizer$|Augmentation$", node.name):
        return "data"
    if re.search(r"Trainer$", node.name):
        return "training"
    return "inference" if re.search(r"Predictor$|Pipeline$", node.name) else None


def _function_kind(name: str) -> str | None:
    for kind, pattern in (
        ("loss", _LOSS_NAME),
        ("training", _TRAIN_NAME),
        ("inference", _PREDICT_NAME),
        ("data", _DATA_WORDS),
    ):
        if pattern.search(name):
            return kind
    return None


def _base_names(node: ast.ClassDef) -> set[str]:
    names = set()
    for base in node.bases:
        target = base.value if isinstance(base, ast.Subscript) else base  # Dataset[int]
        if isinstance(target, ast.Attribute):
            names.add(target.attr)
        elif isinstance(target, ast.Name):
            names.add(target.id)
    return names
