"""The mirror as a service keeps it: one thread touches it, another one keeps it in step with the index.

    index -- since, load --> follower --+
                                        +--> jobs, one after the other, on the thread of the mirror
    requests ---------------------------+

So a request reads one Version from beginning to end without a lock, and an update is taken between two of them. A whole
publication is built beside the mirror that answers, and the job only puts it in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Thread
from typing import TypeVar

from indexer.index import GapError, Index, Update
from ranker.mirror import Mirror
from stream.events import Version
from stream.log import Unavailable
from stream.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

FOLLOW_S = 0.05
"""How often the index is asked for its Version."""
RETRY_S = 1.0


class LiveModel:
    """A mirror that follows an index until it is closed.

    Parameters
    ----------
    make
        An empty mirror.
    warm_up
        Called with a mirror that was loaded, before it answers.
    fail
        Called, on the follower's thread, with an error that is not the index being away.
    """

    def __init__(
        self,
        make: Callable[[], Mirror],
        index: Index,
        metrics: Metrics,
        *,
        warm_up: Callable[[Mirror], object],
        now_ms: Callable[[], int],
        fail: Callable[[BaseException], object],
    ) -> None:
        self._make = make
        self._warm_up = warm_up
        self._index = index
        self._metrics = metrics
        self._now_ms = now_ms
        self._fail = fail
        self._mirror = make()
        self._in_step_ms = now_ms()
        self.index_version: Version | None = None
        """The newest that the index was seen to have."""
        self._stop = Event()
        self._jobs = ThreadPoolExecutor(1, "mirror")
        self._thread = Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def submit(self, job: Callable[[Mirror], T]) -> Future[T]:
        """Let a function have the mirror, after those that were submitted before."""
        return self._jobs.submit(lambda: job(self._mirror))

    @property
    def version(self) -> Version | None:
        """The Version that answers now; None before the first."""
        return self._mirror.version

    @property
    def age_ms(self) -> int:
        """How long ago the newest sample that it has learned happened."""
        return max(0, self._now_ms() - self._mirror.at_ms)

    @property
    def behind_ms(self) -> int:
        """How long ago the index was last seen to hold nothing newer."""
        return max(0, self._now_ms() - self._in_step_ms)

    def follow(self) -> int:
        """Take what the index published since, if anything; returns how many publications that were.

        Raises
        ------
        Unavailable
            If the index does not answer. The mirror stays what it is.
        """
        updates = self._index.since(self._mirror.version)
        if updates is None and (whole := self._index.load()) is not None:
            updates = [whole]
        if updates:
            self.index_version = updates[-1].version
        for update in updates or []:
            self._take(update)
        if updates is not None:  # else the index is empty, which is no newer than anything
            self._in_step_ms = self._now_ms()
        return len(updates or [])

    def close(self) -> None:
        """Stop following; jobs that were submitted are done."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._jobs.shutdown()

    def _take(self, update: Update) -> None:
        if update.since is None:
            fresh = self._make()
            fresh.apply(update)
            self._warm_up(fresh)
            log.info("mirror loaded version=%s n_rows=%d", update.version, fresh.table.n_rows)
            self._jobs.submit(self._put, fresh).result()
        else:
            self.submit(lambda mirror: mirror.apply(update)).result()
        self._metrics.add("instep_publications_total")
        self._metrics.set("instep_version_epoch", update.version.epoch)
        self._metrics.set("instep_version_step", update.version.step)
        self._metrics.set("instep_table_rows", self._mirror.table.n_rows)
        late_s = (self._now_ms() - update.at_ms) / 1000
        self._metrics.observe("instep_event_latency_seconds", late_s, stage="served")

    def _put(self, fresh: Mirror) -> None:
        self._mirror = fresh

    def _run(self) -> None:
        is_away = False
        while not self._stop.wait(RETRY_S if is_away else FOLLOW_S):
            try:
                self.follow()
                is_away = False
            except Unavailable as e:
                if not is_away:
                    log.warning("the index is away, answering with what there is error=%s", e)
                is_away = True
            except GapError as e:  # taken between asking and reading: the next look loads everything
                log.warning("mirror begins anew error=%s", e)
            except BaseException as e:
                self._fail(e)
                raise


__all__ = ["LiveModel"]
