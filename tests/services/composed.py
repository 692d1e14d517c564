"""What docker-compose.yml brings up, beside whatever else runs: a project and ports of its own, gone on leaving."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.services.containers import find_image
from tests.services.processes import ROOT, NotThere
from tests.services.ready import free_port, last_lines
from trainer import jit

UP_S = 200.0
PROFILES = "simulator prometheus"
"""All but Grafana, for which there is no stand-in."""


@dataclass(frozen=True)
class Composed:
    """A project of Compose: the environment that its commands have, where the ranker and Prometheus answer."""

    environment: Mapping[str, str]

    @property
    def ranker_port(self) -> str:
        return self.environment["INSTEP_RANKER_PORT"]

    @property
    def monitor(self) -> str:
        return f"http://127.0.0.1:{self.environment['INSTEP_MONITOR_PORT']}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.environment['INSTEP_PROMETHEUS_PORT']}"

    def run(self, *command: str, within_s: float = UP_S) -> str:
        """What a command wrote on its standard output; AssertionError with the end of all it wrote if it failed."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=within_s,
        )
        what = f"{' '.join(command)[:200]}: expected code 0, got {done.returncode}"
        assert done.returncode == 0, f"{what}:\n{last_lines(done.stdout + done.stderr, 80)}"
        return done.stdout

    def compose(self, *words: str) -> str:
        """Compose with all profiles."""
        flags = (flag for profile in ("simulator", "dashboards") for flag in ("--profile", profile))
        return self.run("deploy/compose.sh", *flags, *words)


@contextlib.contextmanager
def composed(folder: Path) -> Iterator[Composed]:
    """A project in which nothing is up yet, on the images that are there; no container, volume or network is left.

    INSTEP_TEST_INSTEP_IMAGE names an image of deploy/Dockerfile. Else the workers run from this machine's sources and
    environment, mounted into a stand-in, with a copy of the code that has been compiled already.

    Raises
    ------
    NotThere
        If there is no engine, no Compose, or an image is not to be had.
    """
    images = {
        f"{name.upper()}_IMAGE": find_image(name) for name in ("kafka", "redis", "prometheus", "instep")
    }
    asked = subprocess.run(["deploy/compose.sh", "version"], cwd=ROOT, capture_output=True, check=False)
    if asked.returncode:
        raise NotThere("no docker compose and no docker-compose (deploy/engine.sh installs one)")
    ports = {
        f"INSTEP_{name}_PORT": str(free_port())
        for name in ("RANKER", "MONITOR", "KAFKA", "PROMETHEUS", "GRAFANA")
    }
    project = {
        "COMPOSE_PROJECT_NAME": f"t{uuid.uuid4().hex[:12]}",
        "PROFILES": PROFILES,
        "INSTEP_UP_WITHIN_S": "150",
    }
    if "INSTEP_TEST_INSTEP_IMAGE" not in os.environ:
        project |= {
            "COMPOSE_FILE": "docker-compose.yml:deploy/images/instep/compose.yml",
            "INSTEP_SOURCES": str(ROOT),
            "INSTEP_VENV": sys.prefix,
            "INSTEP_PYTHON_HOME": sys.base_prefix,
            "INSTEP_COMPILED": str(_copy_of_compiled(folder / "compiled")),
        }
    there = Composed({**os.environ, **images, **ports, **project})
    try:
        yield there
    finally:
        there.compose("down", "--volumes", "--timeout", "10")


def _copy_of_compiled(folder: Path) -> Path:
    """A folder that the workers' user can write to, with what numba has compiled here so far."""
    folder.mkdir()
    compiled = Path(jit._CACHE)
    if compiled.is_dir() and compiled.name:
        shutil.copytree(compiled, folder / compiled.name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return folder
