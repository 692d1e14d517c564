"""The shell around a long-lived worker: signals, health, and building it anew when the other side goes away.

A worker holds nothing that a new one would not find in the log or in a checkpoint, so there is one way to recover::

    build() -> step() step() step() ... -- Unavailable --> close(), wait 1 s, 2 s, 4 s ... 30 s --> build() ...
                        |
                     SIGTERM, or drained under --once --> finish(), close(), the process ends with 0

Everything else that a worker raises ends the process: a supervisor starts it again, and it finds its state.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType
from typing import NoReturn, Protocol

from stream.health import Answer, Health, Listening, Pages
from stream.log import Unavailable
from stream.metrics import Metrics

log = logging.getLogger(__name__)

N_EMPTY = 3
"""Steps in a row that must find nothing before a worker counts as drained."""


STUCK = 5
"""Times ``stall_s`` after which a step will not end any more."""


class Worker(Protocol):
    """What the shell runs, from one thread."""

    @property
    def not_ready(self) -> str:
        """Why it does not do its work yet; empty when it does."""

    @property
    def drained(self) -> bool:
        """Whether nothing is left in its input, as far as is known now."""

    def step(self) -> int:
        """Do some of what there is to do, in a second or so; returns how many records, 0 for nothing now.

        Raises
        ------
        Unavailable
            If the other side does not answer; the worker is closed then, and another one built.
        """

    def finish(self) -> None:
        """End what was begun and keep what must be kept: no step follows."""

    def close(self) -> None:
        """Let go of connections, whatever has happened; what was not committed is not kept."""


def now_ms() -> int:
    """Wall time in ms since 1970, for workers that are given their clock."""
    return time.time_ns() // 1_000_000


def end(error: BaseException) -> NoReturn:
    """End the process as it is, with 1: for whom a framework would not let go, or would keep what must not be kept.

    Faust acknowledges and commits while it stops, and may wait for ever.
    """
    what = "ending, to be started again error=%s"
    log.critical(what, error, exc_info=None if isinstance(error, Unavailable | ValueError) else error)
    logging.shutdown()
    os._exit(1)


def serve(
    build: Callable[[], Worker],
    metrics: Metrics,
    *,
    once: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    listen: Callable[[str, int, Pages], Listening] = Health,
    stall_s: float = 60.0,
    retry_s: tuple[float, float] = (1.0, 30.0),
    idle_s: float = 0.01,
) -> None:
    """Run a worker until SIGTERM or SIGINT, or until there is nothing left to do.

    The first signal lets the worker finish, a second one ends the process at once. To be called from the main
    thread.

    Parameters
    ----------
    build
        Makes a worker that goes on from what is kept. Called again after each `Unavailable`.
    once
        Return when the worker is drained.
    host, port
        Of ``/healthz``, ``/readyz`` and ``/metrics``; port 0 takes a free one, which is logged.
    listen
        What answers there while the worker is served.
    stall_s
        ``/healthz`` says 503 when the last step, or the building of the worker, began longer ago than this, and after
        five times as long the process ends.
    retry_s
        The first and the longest wait before a worker is built anew; in between it doubles. It begins from
        the first again after a worker that found records or lived longer than the longest.
    idle_s
        How long to wait after a step that found nothing.

    Raises
    ------
    LogError
        If nothing can listen on that port.
    Exception
        Whatever the worker raises, but `Unavailable`.
    """
    shell = _Shell(build, metrics, once, stall_s, retry_s, idle_s)
    pages = {"/healthz": shell.healthz, "/readyz": shell.readyz, "/metrics": shell.metrics_page}
    Thread(target=shell.watch, daemon=True).start()
    with listen(host, port, pages) as health, told_to_finish(shell.stop):
        log.info("serving worker=%s host=%s port=%d", metrics.worker, host, health.port)
        shell.run()
        log.info("left worker=%s", metrics.worker)


class _Shell:
    def __init__(
        self,
        build: Callable[[], Worker],
        metrics: Metrics,
        once: bool,
        stall_s: float,
        retry_s: tuple[float, float],
        idle_s: float,
    ) -> None:
        self.stop = Event()
        self._build = build
        self._metrics = metrics
        self._once = once
        self._stall_s = stall_s
        self._retry_s = retry_s
        self._idle_s = idle_s
        self._beat_s = time.monotonic()
        self._not_ready = "starting"
        self._n_done = 0
        self._has_built = False

    def run(self) -> None:
        """Build and run workers until one has finished."""
        shortest_s, longest_s = self._retry_s
        wait_s = shortest_s
        while not self.stop.is_set():
            began_s, self._n_done = time.monotonic(), 0
            try:
                return self._live()
            except Unavailable as e:
                if self.stop.is_set():
                    if not self._has_built:
                        return None  # there was nothing to finish
                    raise  # told to finish, and could not
                if self._n_done or time.monotonic() - began_s > longest_s:
                    wait_s = shortest_s
                what = "not available, starting again worker=%s wait_s=%g error=%s"
                log.warning(what, self._metrics.worker, wait_s, e)
                self._not_ready = f"starting again in {wait_s:g} s: {e}"
                self._metrics.add("instep_restarts_total")
                self._beat_s = time.monotonic() + wait_s
                self.stop.wait(wait_s)
                wait_s = min(2 * wait_s, longest_s)
        return None

    def _live(self) -> None:
        """One worker from its building to its end."""
        self._beat_s = time.monotonic()
        self._has_built = False
        worker = self._build()
        self._has_built = True
        try:
            n_empty = 0
            while not self.stop.is_set() and n_empty < N_EMPTY:
                n = self._step(worker)
                n_empty = n_empty + 1 if self._once and not n and worker.drained else 0
                if not n:
                    self.stop.wait(self._idle_s)
            log.info("finishing worker=%s", self._metrics.worker)
            self._not_ready = "finishing"
            worker.finish()
        finally:
            self._not_ready = self._not_ready or "stopped"
            _close(worker)

    def _step(self, worker: Worker) -> int:
        self._beat_s = began_s = time.monotonic()
        n = worker.step()
        if n:
            self._metrics.observe("instep_step_seconds", time.monotonic() - began_s)
            self._metrics.touch("instep_last_success_timestamp_seconds")
        self._n_done += n
        self._not_ready = worker.not_ready
        return n

    def watch(self) -> None:
        """End the process if the loop is stuck for good: a client's wait without end would be ours too."""
        while True:
            time.sleep(min(1.0, self._stall_s))
            age_s = time.monotonic() - self._beat_s
            if age_s > STUCK * self._stall_s:
                log.critical("stuck, ending worker=%s age_s=%.0f", self._metrics.worker, age_s)
                faulthandler.dump_traceback()
                os._exit(1)

    def healthz(self) -> Answer:
        """Whether the loop goes round."""
        age_s = time.monotonic() - self._beat_s
        if age_s > self._stall_s:
            what = f"expected a step at least every {self._stall_s:g} s, got none for {age_s:.0f} s\n"
            return 503, what.encode()
        return 200, b"alive\n"

    def readyz(self) -> Answer:
        """Whether the worker does its work."""
        why = self._not_ready
        return (503, f"{why}\n".encode()) if why else (200, b"ready\n")

    def metrics_page(self) -> Answer:
        """What the worker has counted."""
        self._metrics.set("instep_ready", not self._not_ready)
        return 200, self._metrics.page()


def _close(worker: Worker) -> None:
    try:
        worker.close()
    except Unavailable as e:
        log.warning("not available while closing error=%s", e)


@contextmanager
def told_to_finish(stop: Event) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT set the event, and the next one end the process. From the main thread."""

    def told(number: int, _: FrameType | None) -> None:
        log.info("told to finish signal=%s", signal.Signals(number).name)
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        stop.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
