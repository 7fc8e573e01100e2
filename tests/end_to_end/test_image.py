"""The CPU image, built without a Docker engine, runs the example's fast tier: buildah, a base by debootstrap.

Needs root, `apt-get install buildah debootstrap`, Debian's mirror and the package index; a few minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.act import copy_tracked

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.torch,
    pytest.mark.skipif(os.geteuid() != 0, reason="a chroot takes root"),
    pytest.mark.skipif(
        not (shutil.which("buildah") and shutil.which("debootstrap")), reason="apt-get install buildah debootstrap"
    ),
]

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"  # of the Dockerfile's default base
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INSIDE = "/host-certificates.crt"
BASE, IMAGE = "localhost/mltiers-base", "localhost/mltiers-tests:cpu"


@dataclass(frozen=True)
class Buildah:
    """buildah with a store of its own. ``volumes``: host path → path inside, read-only."""

    store: Path
    volumes: Mapping[Path, str]

    def __call__(self, *arguments: str, minutes: float = 25) -> str:
        command = ["buildah", "--root", str(self.store / "root"), "--runroot", str(self.store / "run"), *arguments]
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    @property
    def mounts(self) -> list[str]:
        return [word for host, inside in self.volumes.items() for word in ("--volume", f"{host}:{inside}:ro")]

    def run(self, container: str, *command: str) -> str:
        return self("run", *self.mounts, container, "--", *command)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("image")
    # Wheels that this machine's own pip takes from folders (a CPU build of torch, say) are taken from there inside too.
    wheels = [Path(word) for word in os.environ.get("PIP_FIND_LINKS", "").split() if Path(word).is_dir()]
    yield Buildah(folder / "store", {CERTIFICATES: INSIDE, **{wheel: str(wheel) for wheel in wheels}})
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of the Dockerfile's target `cpu`, with torch."""
    system = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run(
        ["debootstrap", "--variant=minbase", SUITE, str(system)], check=True, capture_output=True, timeout=500
    )
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(system), "/")
    shutil.rmtree(system)
    links = " ".join(inside for inside in buildah.volumes.values() if inside != INSIDE)
    buildah("config", "--env", f"PIP_CERT={INSIDE}", "--env", f"PIP_FIND_LINKS={links}", container)
    buildah("commit", "--quiet", "--rm", container, BASE)
    torch = next(line for line in (ROOT / "requirements" / "torch.txt").read_text().splitlines() if line[:1] != "#")
    arguments = {"CPU_BASE": BASE, "TORCH": torch, "TORCH_INDEX": ""}
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    buildah("bud", "--format", "docker", "--target", "cpu", *given, *buildah.mounts, "--tag", IMAGE, ".")
    return IMAGE


def test_the_image_runs_the_examples_fast_tier(buildah: Buildah, image: str, tmp_path: Path) -> None:
    facts = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    assert facts["User"] == "runner"
    assert facts["Entrypoint"] == ["/usr/bin/tini", "--"]

    example = copy_tracked(ROOT / "examples" / "text-classifier", tmp_path / "example")
    container = buildah("from", image)
    buildah("copy", "--chown", "runner:runner", container, str(example), "/home/runner/project")
    buildah("config", "--workingdir", "/home/runner/project", container)
    assert buildah.run(container, "id", "-un") == "runner"
    assert buildah.run(container, "tini", "--version").startswith("tini version")
    # The orchestrator's Python has no torch and no pytest, the tests' Python has no orchestrator.
    for python, module in {"/opt/mltiers/bin/python": "pytest", "/opt/tests/bin/python": "orchestrator"}.items():
        found = buildah.run(container, python, "-c", f"import importlib.util as u; print(u.find_spec({module!r}))")
        assert found == "None"

    # As the image's user: their own project goes on top.
    buildah.run(container, "python", "-m", "pip", "install", "--quiet", "--requirement", "requirements.txt")
    said = json.loads(buildah.run(container, "tini", "-s", "--", "mltiers", "run", "unit", "--json"))
    unit = said["tiers"]["unit"]
    assert (said["verdict"], unit["verdict"]) == ("passed", "passed"), said
    assert unit["counts"]["passed"] > 10
    buildah("rm", container)
