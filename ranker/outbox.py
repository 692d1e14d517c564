"""Events on their way to the log: a bounded buffer that no request waits for, and a thread that empties it.

At least once: what a writer had not flushed when Kafka went away is sent again, and the joiner drops what comes twice.
A full buffer refuses, and what it refused is counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Protocol

from stream.events import MAX_EVENT_BYTES, Action, BadEvent, Impression, Tick, encode_event
from stream.log import Unavailable
from stream.metrics import Metrics
from stream.partition import partition_of

log = logging.getLogger(__name__)

AT_ONCE = 1_000
"""Events between two flushes, at most."""
MOST_BYTES = MAX_EVENT_BYTES - 4096
"""Of an event and its user; the rest is for what Kafka puts around them."""
RETRY_S = (0.2, 5.0)
"""First and longest wait before a writer is made anew."""


class Writer(Protocol):
    """What of `stream.kafka.KafkaWriter` is used."""

    partitions: int

    def write(self, partition: int, key: bytes, value: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Outbox:
    """Takes events and brings them to the log.

    Parameters
    ----------
    open_writer
        Makes a writer; called again after each `Unavailable`.
    n_most
        Events that may wait.
    tick_ms
        How often a Tick is written into every partition, so that time passes where nothing happens; 0 for never.
    fail
        Called, on the outbox's thread, with an error that is not Kafka being away.
    """

    def __init__(
        self,
        open_writer: Callable[[], Writer],
        metrics: Metrics,
        *,
        n_most: int,
        tick_ms: int,
        now_ms: Callable[[], int],
        fail: Callable[[BaseException], object],
    ) -> None:
        self._open_writer = open_writer
        self._metrics = metrics
        metrics.add("instep_outbox_dropped_total", 0)  # where a count begins with 1, nobody sees that it grew
        self._n_most = n_most
        self._tick_ms = tick_ms
        self._now_ms = now_ms
        self._fail = fail
        self._waiting: deque[tuple[str, bytes]] = deque()
        """User and event of each."""
        self._changed = Condition()
        self._is_closing = False
        self._has_given_up = False
        self._is_away = False
        self._tick_due_ms = 0
        self._thread = Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, events: Sequence[Impression | Action]) -> bool:
        """Take all of these, in their order, or none; False if there is no room for them.

        Raises
        ------
        BadEvent
            If one is larger than the log takes; none is taken then.
        """
        encoded = [(event.user, encode_event(event)) for event in events]
        for user, raw in encoded:
            if (n := len(user.encode()) + len(raw)) > MOST_BYTES:
                self._metrics.add("instep_outbox_dropped_total", len(events))
                raise BadEvent(f"Expected an event of at most {MOST_BYTES} bytes with its user, got {n}")
        with self._changed:
            has_room = not self._is_closing and len(self._waiting) + len(events) <= self._n_most
            if has_room:
                self._waiting.extend(encoded)
                self._changed.notify()
        if not has_room:
            self._metrics.add("instep_outbox_dropped_total", len(events))
        return has_room

    @property
    def n_waiting(self) -> int:
        """Events that are not known to be on the log."""
        return len(self._waiting)

    def close(self, within_s: float = 5.0) -> None:
        """Take no more; what waits is written if that can be done in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(within_s)
        with self._changed:
            self._has_given_up = True
            self._changed.notify()
        if self._waiting:
            log.warning("events were not written n=%d", len(self._waiting))
            self._metrics.add("instep_outbox_dropped_total", len(self._waiting))

    def _run(self) -> None:
        wait_s, longest_s = RETRY_S
        while not self._is_over():
            try:
                writer = self._open_writer()
                try:
                    self._write(writer)
                finally:
                    writer.close()
            except Unavailable as e:
                if not self._is_away:
                    log.warning("kafka is away, events wait n=%d error=%s", len(self._waiting), e)
                self._is_away = True
                with self._changed:
                    self._changed.wait_for(lambda: self._has_given_up, wait_s)
                wait_s = min(2 * wait_s, longest_s)
            except BaseException as e:
                self._fail(e)
                raise

    def _is_over(self) -> bool:
        return self._has_given_up or (self._is_closing and not self._waiting)

    def _write(self, writer: Writer) -> None:
        """Write what comes until it is over."""
        while not self._is_over():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing, self._until_tick_s())
                some = [self._waiting[i] for i in range(min(AT_ONCE, len(self._waiting)))]
            for user, raw in some:
                writer.write(partition_of(user, writer.partitions), user.encode(), raw)
            tick_ms = self._tick(writer)
            if not some and tick_ms is None:
                continue
            writer.flush()
            n_ticks = 0
            if tick_ms is not None:  # only now: one that was lost is due still
                self._tick_due_ms, n_ticks = tick_ms + self._tick_ms, writer.partitions
            with self._changed:
                for _ in some:
                    self._waiting.popleft()
            self._is_away = False
            self._metrics.add("instep_records_out_total", len(some) + n_ticks, topic="events")
            self._metrics.touch("instep_last_success_timestamp_seconds")
            self._metrics.set("instep_outbox_waiting", len(self._waiting))

    def _until_tick_s(self) -> float:
        if not self._tick_ms:
            return 1.0
        return min(1.0, max(0, self._tick_due_ms - self._now_ms()) / 1000)

    def _tick(self, writer: Writer) -> int | None:
        """Write a Tick to every partition if one is due and nothing waits that happened before; its time."""
        now_ms = self._now_ms()
        if not self._tick_ms or now_ms < self._tick_due_ms or len(self._waiting) > AT_ONCE:
            return None
        raw = encode_event(Tick(now_ms))
        for partition in range(writer.partitions):
            writer.write(partition, b"", raw)
        return now_ms


__all__ = ["Outbox", "Writer"]
