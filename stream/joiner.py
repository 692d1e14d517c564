"""The worker that hosts Joiners: events in, samples and state out, in one transaction for each poll and partition.

For each partition that becomes ours a sink is opened first, which fences whoever had it; then the state is read back
from its compacted topic up to the end, and events are read on from the offset that the state names. Since all that a
poll came to is committed before the next one, there is never anything to save: a partition that goes to another is
let go of, and a worker that is killed leaves nothing half done::

    instep.events p --> Joiner p --> one transaction: instep.samples p, instep.joiner p (what changed), instep.dead p
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from stream.cluster import Cluster
from stream.fields import Fields
from stream.group import Fixed, Group, LetGo, Share
from stream.host import DEAD as DEAD
from stream.host import SAMPLES as SAMPLES
from stream.host import STATE as STATE
from stream.host import Host, ReadBack
from stream.join import Joiner, JoinRules
from stream.kafka import KafkaSink, KafkaSource
from stream.log import LogError, Record, Sink, Source
from stream.metrics import Metrics

log = logging.getLogger(__name__)

EVENTS = "events"
LAG_MS = 1_000
"""How often, in wall time, to find out how much waits."""


class Logs(Protocol):
    """Where the events come from and the rest goes to."""

    def share(self, let_go: LetGo) -> Share:
        """Which partitions are mine."""

    def source(self, topic: str, partitions: Iterable[int]) -> Source:
        """A reader of the events or of the state."""

    def sink(self, partition: int) -> Sink:
        """A writer of samples, and of `STATE` and `DEAD` by name; from then on the only one for the partition."""


@dataclass(frozen=True)
class KafkaLogs:
    """The logs on Kafka; ``partitions`` are fixed, or shared by a consumer group if None."""

    cluster: Cluster
    partitions: Sequence[int] | None = None

    def share(self, let_go: LetGo) -> Share:
        """See `Logs`."""
        if self.partitions is not None:
            return Fixed(self.partitions, let_go)
        return Group(self.cluster, EVENTS, self.cluster.topic("joiner"), let_go)

    def source(self, topic: str, partitions: Iterable[int]) -> Source:
        """See `Logs`."""
        return KafkaSource(self.cluster, topic, partitions)

    def sink(self, partition: int) -> Sink:
        """See `Logs`."""
        name = f"{self.cluster.topic('joiner')}.{partition}"
        return KafkaSink(self.cluster, [SAMPLES, STATE, DEAD], name)


class JoinerWorker:
    """The Joiners of the partitions that are ours, as a worker of `stream.service`.

    Parameters
    ----------
    max_dead
        The share of unusable records of a partition above which the worker stops; see `stream.dead`.
    poll_records
        At most so many events a step.
    linger_ms
        After a step that found fewer, how long to wait for more: fewer and larger transactions.
    now_ms
        Wall time, for how far behind it event time is.

    Raises
    ------
    TooManyDeadError
        By ``step``, which has committed nothing of that poll then.
    """

    def __init__(
        self,
        logs: Logs,
        rules: JoinRules,
        fields: Fields,
        metrics: Metrics,
        *,
        max_dead: float,
        poll_records: int,
        linger_ms: int = 0,
        now_ms: Callable[[], int],
    ) -> None:
        self._logs = logs
        self._rules = rules
        self._fields = fields
        self._metrics = metrics
        self._max_dead = max_dead
        self._poll_records = poll_records
        self._linger_ms = linger_ms
        self._due_ms = 0
        self._now_ms = now_ms
        self._hosts: dict[int, Host] = {}
        self._waiting: list[int] = []
        self._reading: ReadBack | None = None
        self._events: Source | None = None
        self._reads: frozenset[int] = frozenset()
        self._is_stale = False  # the events are read for a partition that is not ours any more
        self._lag_at_ms = 0
        self._share = logs.share(self._let_go)

    @property
    def partitions(self) -> frozenset[int]:
        """Those that are being joined."""
        return frozenset(self._hosts)

    @property
    def not_ready(self) -> str:
        """See `Worker.not_ready`."""
        if self._reading is not None:
            return f"reading back the state of partition {self._reading.partition}"
        return "" if self._hosts else "owns no partition"

    @property
    def drained(self) -> bool:
        """See `Worker.drained`."""
        if self._events is None or self.not_ready or self._waiting:
            return False
        return not any(self._lag().values())

    def step(self) -> int:
        """See `Worker.step`."""
        mine = self._share.partitions()
        busy = self._hosts.keys() | ({self._reading.partition} if self._reading else set())
        self._waiting = sorted(mine - busy)
        if self._reading is None and self._waiting:
            self._reading = self._begin(self._waiting.pop(0))
        n = self._read_back() if self._reading is not None else 0
        if self._is_stale or (
            self._reading is None and not self._waiting and self._reads != self._hosts.keys()
        ):
            self._open_events()
        return n + self._join()

    def finish(self) -> None:
        """See `Worker.finish`. Every step has finished already what it began."""

    def close(self) -> None:
        """See `Worker.close`."""
        try:
            self._share.close()
        finally:
            self._let_go(
                frozenset(self._hosts) | frozenset({self._reading.partition} if self._reading else ())
            )
            if self._events is not None:
                self._events.close()
                self._events = None

    def _begin(self, partition: int) -> ReadBack:
        with ExitStack() as opened:
            sink = self._logs.sink(partition)  # first: then nothing is added any more to what is read back
            opened.callback(sink.close)
            source = self._logs.source(STATE, [partition])
            opened.callback(source.close)
            reading = ReadBack(partition, sink, source)
            opened.pop_all()
        return reading

    def _read_back(self) -> int:
        reading = self._reading
        assert reading is not None
        n = reading.step()
        if reading.is_done:
            joiner = self._restored(reading.partition, reading.state)
            reading.source.close()
            self._hosts[reading.partition] = Host(joiner, reading.sink, self._max_dead)
            self._reading = None
            self._metrics.set("instep_partitions", len(self._hosts))
            what = "state read back partition=%d n_users=%d next_offset=%d"
            log.info(what, reading.partition, joiner.n_users, joiner.next_offset)
        return n

    def _restored(self, partition: int, state: dict[bytes, bytes]) -> Joiner:
        if not state:
            return Joiner(self._rules, self._fields, partition)
        try:
            return Joiner.restore(self._rules, self._fields, partition, state)
        except ValueError as e:
            raise LogError(f"topic {STATE}: partition {partition}", str(e)) from e

    def _open_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
        self._reads, self._is_stale = frozenset(self._hosts), False
        if self._hosts:
            self._events = self._logs.source(EVENTS, self._hosts)
            begun = {p: host.joiner.next_offset for p, host in self._hosts.items() if host.joiner.n_in}
            self._events.seek(begun)

    def _join(self) -> int:
        if self._events is None or self._now_ms() < self._due_ms:
            return 0
        records = self._events.poll(self._poll_records)
        if len(records) < self._poll_records:
            self._due_ms = self._now_ms() + self._linger_ms
        polled: dict[int, list[Record]] = {}
        for record in records:
            polled.setdefault(record.partition, []).append(record)
        for partition, some in polled.items():
            self._hosts[partition].join(some)
        for partition in polled:
            with self._metrics.timed("instep_commit_seconds"):
                self._hosts[partition].sink.commit()
            self._tell(partition)
        if self._now_ms() >= self._lag_at_ms + LAG_MS:
            self._lag_at_ms = self._now_ms()
            for partition, n in self._lag().items():
                self._metrics.set("instep_lag_records", n, partition=partition)
        return len(records)

    def _lag(self) -> dict[int, int]:
        assert self._events is not None
        at = self._events.offsets
        return {p: end - at[p] for p, end in self._events.end().items()}

    def _tell(self, partition: int) -> None:
        metrics, host = self._metrics, self._hosts[partition]
        counts, clock_ms = Counter(host.joiner.counts), host.joiner.clock_ms
        for outcome, n in counts.items():
            if outcome == "in":
                metrics.add("instep_records_in_total", n - host.told[outcome], partition=partition)
            elif outcome != "pending" and n > host.told[outcome]:
                metrics.add("instep_outcomes_total", n - host.told[outcome], outcome=outcome)
        for topic, (n, n_bytes) in host.written.items():
            metrics.add("instep_records_out_total", n, topic=topic)
            metrics.add("instep_bytes_out_total", n_bytes, topic=topic)
        for outcome, n in host.skew.items():
            metrics.add("instep_sequences_total", n, outcome=outcome)
        host.told, host.written, host.skew = counts, {}, Counter()
        hosts = self._hosts.values()
        metrics.set("instep_pending", sum(h.told["pending"] for h in hosts))
        metrics.set("instep_users", sum(h.joiner.n_users for h in hosts))
        watermark_s = host.joiner.watermark_ms / 1000
        metrics.set("instep_watermark_timestamp_seconds", watermark_s, partition=partition)
        metrics.observe("instep_event_latency_seconds", (self._now_ms() - clock_ms) / 1000, stage="joined")

    def _let_go(self, partitions: frozenset[int]) -> None:
        """All that was polled is committed, so nothing is to be saved."""
        for partition in sorted(partitions):
            host = self._hosts.pop(partition, None)
            if host is not None:
                host.sink.close()
                self._is_stale = True
                for name in ("instep_lag_records", "instep_watermark_timestamp_seconds"):
                    self._metrics.forget(name, partition=partition)
            elif self._reading is not None and self._reading.partition == partition:
                self._reading.close()
                self._reading = None
            else:
                continue
            log.info("partition let go partition=%d", partition)
        self._metrics.set("instep_partitions", len(self._hosts))


def build(
    cluster: Cluster,
    rules: JoinRules,
    fields: Fields,
    metrics: Metrics,
    *,
    partitions: Sequence[int] | None = None,
    max_dead: float = 0.2,
    poll_records: int = 2_000,
    linger_ms: int = 100,
    now_ms: Callable[[], int],
) -> JoinerWorker:
    """The joiner on Kafka, for these partitions or for those that its consumer group gives it."""
    return JoinerWorker(
        KafkaLogs(cluster, partitions),
        rules,
        fields,
        metrics,
        max_dead=max_dead,
        poll_records=poll_records,
        linger_ms=linger_ms,
        now_ms=now_ms,
    )
