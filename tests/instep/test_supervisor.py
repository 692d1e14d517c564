"""All workers under one process: started again, ended together, helped by a person when they ask for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instep.supervisor import run_once

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 30

SUPERVISED = """
import sys
from instep import supervisor
supervisor.FIRST_S = 0.05
folder, *names = sys.argv[1:]
commands = {name: [sys.executable, "-c", open(f"{folder}/{name}.py").read(), folder, name] for name in names}
sys.exit(supervisor.Supervisor(commands).run())
"""
SAID = """
import sys, os, time, signal
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
with (folder / f"{name}.said").open("a") as file:
    file.write(f"{os.getpid()}\\n")
"""
LIVES = (
    "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + SAID + "time.sleep(600)\n"
)


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.02)


class Supervised:
    """A supervisor in a process, and what its workers have said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **workers: str) -> subprocess.Popen[bytes]:
        for name, code in workers.items():
            (self.folder / f"{name}.py").write_text(code)
        self.process = subprocess.Popen([sys.executable, "-c", SUPERVISED, self.folder, *workers], cwd=ROOT)
        return self.process

    def pids(self, name: str) -> list[int]:
        said = self.folder / f"{name}.said"
        return [int(line) for line in said.read_text().split()] if said.exists() else []

    def alive(self, name: str) -> bool:
        try:
            os.kill(self.pids(name)[-1], 0)
        except ProcessLookupError:
            return False
        return True


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    there = Supervised(tmp_path)
    yield there
    if there.process is not None and there.process.poll() is None:
        there.process.kill()
        there.process.wait()
    for said in tmp_path.glob("*.said"):
        if there.alive(said.stem):
            os.kill(there.pids(said.stem)[-1], signal.SIGKILL)


def test_a_worker_that_ends_or_is_killed_is_started_again_and_others_go_on(supervised: Supervised) -> None:
    supervised.start(steady=LIVES, broken=SAID + "sys.exit(1)\n")
    until(lambda: len(supervised.pids("broken")) >= 3)
    until(lambda: len(supervised.pids("steady")) == 1)
    os.kill(supervised.pids("steady")[0], signal.SIGKILL)
    until(lambda: len(supervised.pids("steady")) == 2)


def test_told_to_finish_it_lets_all_finish(supervised: Supervised) -> None:
    process = supervised.start(a=LIVES, b=LIVES)
    until(lambda: bool(supervised.pids("a") and supervised.pids("b")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(WITHIN_S) == 0
    assert not supervised.alive("a")
    assert not supervised.alive("b")


def test_a_worker_that_a_person_must_help_ends_all(supervised: Supervised) -> None:
    process = supervised.start(a=LIVES, b=SAID + "time.sleep(0.5)\nsys.exit(2)\n")
    assert process.wait(WITHIN_S) == 2
    assert len(supervised.pids("b")) == 1
    assert not supervised.alive("a")


def test_once_runs_them_in_order_and_stops_at_the_first_that_fails(tmp_path: Path) -> None:
    def command(word: str, code: int) -> list[str]:
        said = tmp_path / "said"
        return [
            sys.executable,
            "-c",
            f"import sys; open({str(said)!r}, 'a').write({word!r}); sys.exit({code})",
        ]

    assert run_once({"a": command("a", 0), "b": command("b", 0)}) == 0
    assert run_once({"c": command("c", 0), "d": command("d", 3), "e": command("e", 0)}) == 3
    assert (tmp_path / "said").read_text() == "abcd"
