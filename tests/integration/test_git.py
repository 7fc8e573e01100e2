"""git, for real: what changed between two commits, by file and by line, with the names people really use."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.tools.git import Git, GitError, parse_changed_lines


class Repository:
    """A real repository to write in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self("init", "-q", "-b", "main")

    def __call__(self, *arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, files: dict[str, str | None], message: str = "m") -> str:
        for name, text in files.items():
            path = self.root / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self("add", "-A")
        self("commit", "-q", "--allow-empty", "-m", message)
        return self("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "a folder with spaces")


def git(repository: Repository, folder: str = ".", **variables: str) -> Git:
    return Git(root=repository.root / folder, variables={**os.environ, **variables})


LONG = "".join(f"line {n}\n" for n in range(50))
HOSTILE = ('quote".py', "tab\there.py", "ünï.py", "-n", "new\nline.py", "back\\slash.py")


def test_added_modified_deleted_renamed(repository: Repository) -> None:
    base = repository.commit({"keep.py": "1\n", "gone.py": "2\n", "old name.py": LONG})
    head = repository.commit({"keep.py": "2\n", "gone.py": None, "old name.py": None, "dir/new name.py": LONG, "a": ""})
    found = {(f.status, f.old_path, f.path) for f in git(repository).changed_files(base, head)}
    assert found == {
        ("modified", None, "keep.py"),
        ("deleted", None, "gone.py"),
        ("renamed", "old name.py", "dir/new name.py"),
        ("added", None, "a"),
    }


def test_hostile_names_survive(repository: Repository) -> None:
    base = repository.commit({})
    head = repository.commit(dict.fromkeys(HOSTILE, "x\n"))
    assert {f.path for f in git(repository).changed_files(base, head)} == set(HOSTILE)
    assert set(git(repository).changed_lines(base, head)) == set(HOSTILE)


def test_what_the_base_branch_did_meanwhile_is_not_the_change(repository: Repository) -> None:
    repository.commit({"a": "1\n"})
    repository("checkout", "-q", "-b", "topic")
    head = repository.commit({"b": "1\n"})
    repository("checkout", "-q", "main")
    base = repository.commit({"c": "1\n"})
    assert [f.path for f in git(repository).changed_files(base, head)] == ["b"]


def test_changed_lines_are_those_of_the_new_file(repository: Repository) -> None:
    base = repository.commit({"m.py": "a\nb\nc\nd\n", "gone.py": "x\n"})
    head = repository.commit({"m.py": "new\na\nB\nd\n@@ -1 +1 @@\n+++ b/fake\n", "gone.py": None})
    assert git(repository).changed_lines(base, head) == {"m.py": frozenset({1, 3, 5, 6})}


def test_a_pure_rename_changes_no_line(repository: Repository) -> None:
    base = repository.commit({"old.py": LONG})
    head = repository.commit({"old.py": None, "new.py": LONG})
    assert git(repository).changed_lines(base, head) == {}


def test_the_working_tree_of_a_laptop(repository: Repository) -> None:
    base = repository.commit({"a": "1\n", "sub/b": "1\n", ".gitignore": "ignored\n"})
    (repository.root / "a").write_text("2\n")
    (repository.root / "new").write_text("1\n")
    (repository.root / "ignored").write_text("1\n")
    from_below = git(repository, "sub").working_tree_changes(base)
    assert {(f.status, f.path) for f in from_below} == {("modified", "a"), ("added", "new")}
    assert git(repository).changed_lines(base, None) == {"a": frozenset({1})}
    assert git(repository, "sub").head() == (git(repository).commit("HEAD"), "sub/")


def test_a_shallow_clone_knows_that_it_does_not_know(repository: Repository, tmp_path: Path) -> None:
    base = repository.commit({"a": "1\n"})
    repository.commit({"a": "2\n"})
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth=1", repository.root.as_uri(), str(clone)], check=True)
    shallow = Git(root=clone, variables=os.environ)
    assert shallow.commit(base) is None
    assert shallow.commit("HEAD") is not None
    with pytest.raises(GitError, match="git diff failed"):
        shallow.changed_files(base, "HEAD")


def test_a_merge_commit_has_two_parents(repository: Repository) -> None:
    one = repository.commit({"a": "1\n"})
    repository("checkout", "-q", "-b", "topic")
    two = repository.commit({"b": "1\n"})
    repository("checkout", "-q", "main")
    repository("merge", "-q", "--no-ff", "-m", "merge", "topic")
    assert git(repository).parents("HEAD") == (one, two)


def test_outside_git_there_is_no_commit(tmp_path: Path) -> None:
    assert Git(root=tmp_path, variables=os.environ).commit("HEAD") is None


def test_variables_of_another_repository_do_not_mislead(repository: Repository, tmp_path: Path) -> None:
    mine = repository.commit({"a": "1\n"})
    other = Repository(tmp_path / "other")
    other.commit({"b": "1\n"})
    assert git(repository, GIT_DIR=str(other.root / ".git")).commit("HEAD") == mine


def test_external_diff_programs_are_not_run(repository: Repository, tmp_path: Path) -> None:
    base = repository.commit({"a": "1\n", ".gitattributes": "a diff=evil\n"})
    head = repository.commit({"a": "2\n"})
    trace = tmp_path / "ran"
    for key in ("diff.external", "diff.evil.command", "diff.evil.textconv"):
        repository("config", key, f"touch {trace} #")
    assert git(repository).changed_lines(base, head) == {"a": frozenset({1})}
    assert not trace.exists()


def test_git_is_missing(repository: Repository) -> None:
    with pytest.raises(GitError, match="git is not installed"):
        Git(root=repository.root, variables={"PATH": "/nonexistent"}).run("status")


def test_a_revision_that_looks_like_an_option(repository: Repository) -> None:
    repository.commit({})
    assert git(repository).commit("--output=/dev/null") is None


def test_parse_a_diff_without_changes() -> None:
    assert parse_changed_lines(b"") == {}
