"""Regenerates what the README shows: a real comment, the demo's output and a picture of a real report.

    python docs/samples.py

Copies the example project into a repository of its own, commits a change that breaks something (the deviation of a
column is no longer guarded, and a new function has no test), runs `mltiers run --event push` on it, and puts what
comes out between the markers of README.md and, the comment as a whole, into docs/sample-comment.md. The picture
needs Chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "text-classifier"
PICTURE = ROOT / "docs" / "images" / "report.png"
COMMENT = ROOT / "docs" / "sample-comment.md"
BREAK = (
    "normalized = torch.where(varies, (matrix - base.mean(dim=0)) / deviation, 0.0)",
    "normalized = (matrix - base.mean(dim=0)) / base.std(dim=0, correction=0)",
)
NEW = '''

def column_ranges(features: torch.Tensor) -> torch.Tensor:
    """The largest minus the smallest value of each column."""
    if features.ndim != 2:
        raise ValueError("features must be a matrix")
    return features.amax(dim=0) - features.amin(dim=0)
'''


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "text-classifier"
        shutil.copytree(
            EXAMPLE, project, ignore=shutil.ignore_patterns(".mltiers", "__pycache__", ".*_cache", ".coverage*")
        )
        git(project, "init", "-q", "-b", "main")
        commit(project, "base")
        passing = run(project, 0)
        git(project, "checkout", "-q", "-b", "topic")
        features = project / "src" / "data" / "features.py"
        text = features.read_text()
        if BREAK[0] not in text:
            raise SystemExit(f"{features} has no line to break: {BREAK[0]}")
        features.write_text(text.replace(*BREAK) + NEW)
        commit(project, "a change")
        run(project, 1)
        comment = (project / ".mltiers" / "comment.md").read_text()
        COMMENT.write_text(comment)
        readme = ROOT / "README.md"
        shown = between(readme.read_text(), "demo", f"```text\n{passing}```")
        # What every comment begins with; a failure's traceback is a click away, here as on GitHub.
        readme.write_text(between(shown, "comment", comment.partition("\n#### ")[0].strip()))
        picture(project / ".mltiers" / "report.html")


def run(project: Path, expected: int) -> str:
    """The standard output of a real run, with this machine's paths taken out."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "MLTIERS_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    mltiers = str(Path(sys.executable).parent / "mltiers")
    done = subprocess.run(
        [mltiers, "run", "--event", "push"], cwd=project, env=env, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != expected:
        raise SystemExit(f"mltiers run ended with {done.returncode}, not {expected}:\n{done.stdout}")
    return done.stdout.strip("\n").replace(str(project.resolve()) + "/", "").replace(str(project) + "/", "") + "\n"


def picture(report: Path) -> None:
    """The top of the report as a browser shows it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(report.as_uri())
        page.wait_for_load_state("networkidle")
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=str(PICTURE))
        browser.close()


def between(text: str, name: str, content: str) -> str:
    """``text`` with what is between the markers of ``name`` replaced."""
    pattern = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no markers for {name}")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def commit(project: Path, message: str) -> None:
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", message)


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=example", "-c", "user.email=example@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True)


if __name__ == "__main__":
    main()
