"""The worker that keeps the profiles: a Faust app that puts each behaviour into its user's sequence as it happens.

One task reads, another writes whatever has come meanwhile, so a batch is as large as the last write was slow::

    instep.events --> agent --> in hand --> put_many --> advance (durable) --> acknowledged

At least once: where to read on is noted beside the profiles and after them, what was written and not noted is read
again, and its Origin says that it is known. Profiles that were emptied, or restored from before, are so read again
too. Whatever goes wrong ends the process with 1, and a supervisor starts it again at what was noted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NoReturn

import faust
from faust.streams import Stream
from faust.types import TP, EventT, StreamT

from stream.cluster import Cluster
from stream.events import Action, BadEvent, Origin, decode_event, key_of
from stream.faust_kafka import make_app
from stream.fields import Fields
from stream.health import Answer, Health
from stream.log import Unavailable
from stream.metrics import Metrics
from stream.places import Places
from stream.profiles import Profiles, Put
from stream.service import end

log = logging.getLogger(__name__)

EVENTS = "events"
BATCH = 512
"""Records that are written at once, at most."""
IN_HAND = 4 * BATCH
"""Records that are read ahead of the writer, at most."""
LOOK_S = 0.05
ASK_S = 1.0
"""How often at least it is asked whether what was written is still there."""
LEAVE_S = 10.0
N_EMPTY = 3
"""Looks in a row that must find nothing waiting before the worker counts as drained."""


class ProfilesWorker:
    """Reads events, puts behaviours, acknowledges what is durable; runs on one event loop.

    Parameters
    ----------
    kinds
        Kinds of action that extend a history.
    fail
        Called with what went wrong; nothing is acknowledged from then on.
    now_ms
        Wall time, for how far behind it event time is.
    """

    def __init__(
        self,
        profiles: Profiles,
        fields: Fields,
        kinds: Collection[str],
        metrics: Metrics,
        places: Places,
        *,
        fail: Callable[[BaseException], object],
        now_ms: Callable[[], int],
    ) -> None:
        self.places = places
        self.is_leaving = False
        self._profiles = profiles
        self._fields = fields
        self._kinds = frozenset(kinds)
        self._metrics = metrics
        self._fail = fail
        self._now_ms = now_ms
        self._in_hand: deque[EventT[bytes]] = deque()
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "profiles")
        self.began_s: float | None = None
        """When the write under way began, by the loop's clock."""

    async def read(self, stream: StreamT[bytes]) -> None:
        """Take records into the hand as they come, in order: the agent."""
        assert isinstance(stream, Stream)
        try:
            async for event in stream.noack().events():
                while len(self._in_hand) >= IN_HAND:
                    self._has_room.clear()
                    await self._has_room.wait()
                if self.places.take(event.message.partition, event.message.offset):
                    self._in_hand.append(event)
                    self._arrived.set()
                else:
                    event.ack()
        except Exception as e:
            self._fail(e)

    async def write(self) -> None:
        """Make durable what is in the hand, batch after batch, until told to leave."""
        loop = asyncio.get_running_loop()
        try:
            while not self.is_leaving:
                if not self._in_hand:
                    self._arrived.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._arrived.wait(), ASK_S)
                batch = [self._in_hand.popleft() for _ in range(min(BATCH, len(self._in_hand)))]
                self._has_room.set()
                self.began_s = loop.time()
                known = dict(self.places.durable)
                to = self._behind(batch, known)
                counts = await loop.run_in_executor(self._thread, self._put, batch, known, to)
                took_s, self.began_s = loop.time() - self.began_s, None
                for partition, offset in to.items():
                    self.places.keep(partition, offset)
                for event in batch:
                    event.ack()
                if batch:
                    self._tell(batch, counts, took_s)
        except Exception as e:
            self._fail(e)

    def leave(self) -> None:
        """Let `write` return when the batch under way is durable."""
        self.is_leaving = True
        self._arrived.set()

    def _behind(self, batch: list[EventT[bytes]], known: Mapping[int, int]) -> dict[int, int]:
        """Where each partition stands when the batch is durable, with what follows and holds no record."""
        to = dict(known)
        for event in batch:
            partition = event.message.partition
            to[partition] = max(to.get(partition, 0), event.message.offset + 1)
        return {partition: self.places.beyond(partition, offset) for partition, offset in to.items()}

    def _put(
        self, batch: list[EventT[bytes]], known: Mapping[int, int], to: Mapping[int, int]
    ) -> Counter[str]:
        """Put the behaviours among these and note how far that is; what became of each record.

        Runs on a thread of its own.
        """
        counts: Counter[str] = Counter()
        puts: list[Put] = []
        for event in batch:
            message = event.message
            try:
                happened = decode_event(message.value or b"")
                if not isinstance(happened, Action):
                    counts[f"used.{type(happened).__name__.lower()}"] += 1
                    continue
                keys = self._fields.item_keys(happened.item, happened.features)
            except BadEvent as e:
                counts[f"dead.{e.reason}"] += 1
                continue
            if happened.kind not in self._kinds:
                counts["orphan.kind"] += 1
                continue
            origin = Origin(message.partition, message.offset, 0)
            kind = key_of("kind", happened.kind)
            puts.append(Put(key_of("user", happened.user), origin, keys, happened.at_ms, kind))
        is_new = self._profiles.put_many(puts, known) if puts else []
        if known:
            self._profiles.advance({p: (offset, to[p]) for p, offset in known.items()})
        counts["used.history"] = sum(is_new)
        counts["duplicate.action"] = len(puts) - counts["used.history"]
        if puts:
            late_s = (self._now_ms() - max(put.at_ms for put in puts)) / 1000
            self._metrics.observe("instep_event_latency_seconds", late_s, stage="profile")
        return counts

    def _tell(self, batch: list[EventT[bytes]], counts: Counter[str], took_s: float) -> None:
        metrics = self._metrics
        for partition, n in Counter(event.message.partition for event in batch).items():
            metrics.add("instep_records_in_total", n, partition=partition)
        for outcome, n in counts.items():
            if n:
                metrics.add("instep_outcomes_total", n, outcome=outcome)
        metrics.observe("instep_step_seconds", took_s)
        metrics.observe("instep_commit_seconds", took_s)
        metrics.touch("instep_last_success_timestamp_seconds")


class _Process:
    """The app, the worker and their end, in one process that serves health while it lives."""

    def __init__(self, app: faust.App, worker: ProfilesWorker, metrics: Metrics, stall_s: float) -> None:
        self._app = app
        self._worker = worker
        self._metrics = metrics
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._beat_s = self._loop.time()
        self._lag: dict[int, int] = {}
        self._told: set[int] = set()
        self._not_ready = "starting"
        self._has_started = False

    async def live(self, once: bool) -> None:
        """From the start of the app until it is told to leave or has nothing left to do."""
        writing = asyncio.create_task(self._worker.write())
        try:
            async with asyncio.timeout(self._stall_s):
                await self._app.start()
        except TimeoutError:  # Faust asks for ever, and meanwhile nobody could tell it to leave
            raise Unavailable(
                "kafka.bootstrap", f"expected Faust to start within {self._stall_s:g} s"
            ) from None
        self._has_started = True
        n_empty = 0
        while not self._worker.is_leaving and n_empty < N_EMPTY:
            await asyncio.sleep(LOOK_S)
            self._beat_s = self._loop.time()
            if reason := self._app.crash_reason:
                end(reason)
            self._look_at_lag()
            self._not_ready = "" if self._lag else "owns no partition"
            n_empty = n_empty + 1 if once and self._lag and not any(self._lag.values()) else 0
        log.info("finishing worker=%s", self._metrics.worker)
        self._not_ready = "finishing"
        self._worker.leave()
        await writing
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._app.consumer.commit()
                await self._app.stop()
        except TimeoutError:
            log.warning("kafka did not let go in time; what was not committed is read again")
            _leave()  # by itself the loop would wait for tasks that ask for ever

    def told(self, number: signal.Signals) -> None:
        """The first signal lets the worker finish; the next one ends the process."""
        log.info("told to finish signal=%s", number.name)
        for one in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(one)
        if not self._has_started:  # Faust may be asking a Kafka that is gone, and nothing was begun
            _leave()
        self._worker.leave()

    def pages(self) -> dict[str, Callable[[], Answer]]:
        """What a `Health` answers."""
        return {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics_page}

    def _mine(self) -> set[TP]:
        """The partitions that are read; none while the group is not agreed."""
        if self._app.rebalancing or not self._worker.places.next:
            return set()
        return self._app.consumer.assignment()

    def _look_at_lag(self) -> None:
        """How much waits, as of the last answer to a fetch; the broker gives one as soon as there is more."""
        places, consumer = self._worker.places, self._app.consumer
        self._lag = {
            tp.partition: max(0, max(places.end[tp.partition], consumer.highwater(tp) or 0) - durable)
            for tp in self._mine()
            if (durable := places.durable.get(tp.partition)) is not None
        }
        for partition in self._told - self._lag.keys():
            self._metrics.forget("instep_lag_records", partition=partition)
        for partition, n in self._lag.items():
            self._metrics.set("instep_lag_records", n, partition=partition)
        self._told = set(self._lag)
        self._metrics.set("instep_partitions", len(self._lag))

    def _healthz(self) -> Answer:
        since_s = min(self._beat_s, self._worker.began_s or self._beat_s)
        if (age_s := self._loop.time() - since_s) > self._stall_s:
            what = f"expected a write within {self._stall_s:g} s, one takes {age_s:.0f} s\n"
            return 503, what.encode()
        return 200, b"alive\n"

    def _readyz(self) -> Answer:
        why = self._not_ready
        return (503, f"{why}\n".encode()) if why else (200, b"ready\n")

    def _metrics_page(self) -> Answer:
        self._metrics.set("instep_ready", not self._not_ready)
        return 200, self._metrics.page()


def run(
    cluster: Cluster,
    profiles: Profiles,
    fields: Fields,
    kinds: Collection[str],
    metrics: Metrics,
    *,
    once: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    stall_s: float = 60.0,
    now_ms: Callable[[], int],
) -> None:
    """Keep profiles until SIGTERM or SIGINT, or with ``once`` until nothing waits. To be called from the main thread.

    The partitions are shared with whoever runs under the same prefix. Whatever goes wrong once it runs ends the
    process with 1, with a line in the log.

    Parameters
    ----------
    profiles
        Where the behaviours go; what `Profiles.put_many` has returned from must be durable.
    kinds
        Kinds of action that extend a history.
    host, port
        Of ``/healthz``, ``/readyz`` and ``/metrics``; port 0 takes a free one, which is logged.
    stall_s
        ``/healthz`` says 503 when a write takes longer than this.

    Raises
    ------
    LogError
        If the events' topic is missing, Kafka refuses us, or nothing can listen on that port.
    Unavailable
        If no broker answers.
    """
    cluster.partitions([EVENTS])

    async def main() -> None:
        places = Places()
        app = make_app(cluster, cluster.topic("profiles"), places, profiles)
        worker = ProfilesWorker(profiles, fields, kinds, metrics, places, fail=end, now_ms=now_ms)
        topic = app.topic(cluster.topic(EVENTS), key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="profiles")(worker.read)
        process = _Process(app, worker, metrics, stall_s)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.told, number)
        with Health(host, port, process.pages()) as health:
            log.info("serving worker=%s host=%s port=%d", metrics.worker, host, health.port)
            try:
                await process.live(once)
            except Exception as e:
                end(e)
        log.info("left worker=%s", metrics.worker)

    asyncio.run(main())


def _leave() -> NoReturn:
    """End the process as it is, with 0: nothing is begun that was not finished."""
    logging.shutdown()
    os._exit(0)


__all__ = ["ProfilesWorker", "run"]
