"""A worker over files, for the tests of the shell: counts up to ``input`` and writes down what it does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stream import logs
from stream.log import Unavailable
from stream.metrics import Metrics
from stream.service import serve


class CountingWorker:
    """``away`` in the folder makes its other side not answer; what was counted is kept in ``did``."""

    def __init__(self, folder: Path, how: set[str], metrics: Metrics) -> None:
        self._folder = folder
        self._how = how
        self._metrics = metrics
        self._did("build")
        if "slow-build" in how:
            time.sleep(1)
        self._answer()
        lines = (folder / "did").read_text().splitlines()
        self._at = sum(int(line.split()[1]) for line in lines if line.startswith("step "))
        self._n_empty = 0
        self.not_ready = ""

    @property
    def drained(self) -> bool:
        return "never-drained" not in self._how

    def step(self) -> int:
        self._answer()
        n = min(int((self._folder / "input").read_text()) - self._at, 1_000)
        self._at += n
        self._n_empty += not n
        self._metrics.set("instep_lag_records", self._n_empty, partition=0)
        if n and "broken" in self._how:
            raise RuntimeError("offsets went back")
        if n and "hang-in-step" in self._how:
            time.sleep(600)
        if n:
            self._did(f"step {n}")
        return n

    def finish(self) -> None:
        self._did("finish")
        if "away-in-finish" in self._how:
            raise Unavailable("there", "expected an answer, got none")
        if "hang-in-finish" in self._how:
            time.sleep(600)

    def close(self) -> None:
        self._did("close")

    def _answer(self) -> None:
        if (self._folder / "away").exists():
            raise Unavailable("there", "expected an answer, got none")

    def _did(self, what: str) -> None:
        with (self._folder / "did").open("a") as file:
            file.write(f"{what}\n")


if __name__ == "__main__":
    logs.configure()
    where, *words = sys.argv[1:]
    metrics = Metrics("counter")
    serve(
        lambda: CountingWorker(Path(where), set(words), metrics),
        metrics,
        once="once" in words,
        stall_s=0.5,
        retry_s=(0.05, 0.2),
    )
