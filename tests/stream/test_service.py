"""The shell around a worker, as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from stream.health import Health
from stream.log import LogError

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 30.0

Start = Callable[..., "Process"]


class Process:
    """A process that serves `counting_worker.py` over a folder with its input and what it has done."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.told = folder / "stderr"
        with self.told.open("ab") as stderr:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "tests.stream.counting_worker", str(folder), *args],
                cwd=ROOT,
                stderr=stderr,
            )

    @property
    def did(self) -> list[str]:
        """What the worker wrote down, line by line."""
        path = self.folder / "did"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, what: str, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < deadline, f"{what}: {self.did} {self.told.read_text()}"
            time.sleep(0.01)

    def exit_code(self) -> int:
        return self.child.wait(WITHIN_S)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        self.until("it listens", lambda: "serving worker=" in self.told.read_text())
        port = re.findall(r"serving worker=counter host=127.0.0.1 port=(\d+)", self.told.read_text())[-1]
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=WITHIN_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as e:
            with e:
                return e.code, e.read().decode()

    def waits(self) -> list[float]:
        """Seconds that it waited before each new start."""
        return [
            float(s) for s in re.findall(r"starting again worker=counter wait_s=(\S+)", self.told.read_text())
        ]

    def value(self, series: str) -> float:
        page = self.get("/metrics")[1]
        return next(
            (float(line.split()[-1]) for line in page.splitlines() if line.startswith(series + "{")), -1.0
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start(*args: str, n: int = 0) -> Process:
        (tmp_path / "input").write_text(str(n))
        started.append(Process(tmp_path, *args))
        return started[-1]

    yield start
    for process in started:
        process.child.kill()
        process.child.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_worker_finish_and_leave(start: Start, number: signal.Signals) -> None:
    process = start(n=3)
    process.until("it works", lambda: "step 3" in process.did)
    process.child.send_signal(number)
    assert process.exit_code() == 0
    assert process.did == ["build", "step 3", "finish", "close"]


def test_a_worker_that_could_not_be_built_had_nothing_to_finish(start: Start, tmp_path: Path) -> None:
    (tmp_path / "away").touch()
    process = start("slow-build", n=3)
    process.until("it is being built", lambda: "build" in process.did)
    process.child.terminate()
    assert process.exit_code() == 0
    assert process.did == ["build"]


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    process = start("hang-in-finish")
    process.until("it steps", lambda: process.get("/readyz")[0] == 200)
    process.child.terminate()
    process.until("it finishes", lambda: "finish" in process.did)
    process.child.terminate()
    assert process.exit_code() == -signal.SIGTERM
    assert "close" not in process.did


def test_once_ends_when_nothing_is_left(start: Start) -> None:
    process = start("once", n=2500)
    assert process.exit_code() == 0
    assert process.did == ["build", "step 1000", "step 1000", "step 500", "finish", "close"]


def test_once_waits_for_a_worker_that_lags(start: Start) -> None:
    process = start("once", "never-drained", n=5)
    process.until("it works", lambda: "step 5" in process.did)
    process.until("it steps on", lambda: process.value("instep_lag_records") > 20)  # counts its empty steps
    assert process.child.poll() is None


def test_a_worker_whose_other_side_goes_away_is_built_anew_until_it_is_back(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "away").touch()
    process = start(n=7)
    process.until("it tries again", lambda: process.value("instep_restarts_total") >= 2)
    status, why = process.get("/readyz")
    assert status == 503
    assert "there: expected an answer, got none" in why
    assert process.get("/healthz") == (200, "alive\n")
    assert process.value("instep_ready") == 0
    (tmp_path / "away").unlink()
    process.until("it works", lambda: "step 7" in process.did)
    process.until("it is ready", lambda: process.get("/readyz") == (200, "ready\n"))
    (tmp_path / "away").touch()  # in the middle of its work
    process.until("it notices", lambda: process.did[-1] == "build" and process.did.count("close") > 0)
    (tmp_path / "away").unlink()
    (tmp_path / "input").write_text("8")
    process.until("it goes on where it was", lambda: process.did[-1] == "step 1")
    process.child.terminate()
    assert process.exit_code() == 0
    assert process.did.count("build") == len(process.waits()) + 1


def test_waits_double_up_to_the_longest_and_a_signal_ends_them(start: Start, tmp_path: Path) -> None:
    (tmp_path / "away").touch()
    process = start()
    process.until("it waits its longest", lambda: process.waits()[3:])
    assert process.waits()[:4] == [0.05, 0.1, 0.2, 0.2]
    process.child.terminate()
    assert process.exit_code() == 0


def test_a_worker_that_cannot_finish_ends_with_an_error(start: Start) -> None:
    process = start("away-in-finish")
    process.until("it steps", lambda: process.get("/readyz")[0] == 200)
    process.child.terminate()
    assert process.exit_code() == 1
    assert process.did[-1] == "close"


def test_a_broken_promise_ends_it_with_the_error(start: Start) -> None:
    process = start("broken", n=1)
    assert process.exit_code() == 1
    assert process.did[-1] == "close"
    assert process.told.read_text().rstrip().endswith("RuntimeError: offsets went back")


def test_health_tells_a_loop_that_stands_still(start: Start) -> None:
    process = start("hang-in-step", n=1)
    process.until("it stands still", lambda: process.get("/healthz")[0] == 503)
    assert "expected a step at least every 0.5 s" in process.get("/healthz")[1]


def test_a_loop_that_never_goes_on_ends_the_process(start: Start) -> None:
    process = start("hang-in-step", n=1)
    assert process.exit_code() == 1
    assert "stuck, ending worker=counter" in process.told.read_text()
    assert "counting_worker.py" in process.told.read_text()  # where it stood


def test_metrics_tell_what_the_shell_did(start: Start) -> None:
    process = start(n=2500)
    process.until("it works", lambda: "step 500" in process.did)
    process.until("it is counted", lambda: process.value("instep_step_seconds_count") == 3)
    assert process.value("instep_ready") == 1
    assert abs(process.value("instep_last_success_timestamp_seconds") - time.time()) < WITHIN_S
    assert process.get("/nothing") == (404, "expected one of /healthz, /readyz, /metrics")


def test_a_port_that_is_taken_is_told() -> None:
    with Health("127.0.0.1", 0, {}) as first, pytest.raises(LogError) as taken:
        Health("127.0.0.1", first.port, {})
    assert str(taken.value).startswith(f"service: cannot listen on 127.0.0.1:{first.port}: ")
    with pytest.raises(LogError, match=r"cannot listen on 127\.0\.0\.1:99999"):
        Health("127.0.0.1", 99_999, {})
