"""Source and Sink on Kafka: assign and seek, read what is committed, write in transactions.

Where to read on is always told by the caller, never by the cluster: a group's offsets are neither read nor written. One
transaction holds records of several topics, and whoever opens a sink under a ``transactional_id`` ends what an
earlier holder of it had begun: its open transaction is aborted, one that it was committing is committed, also where the
broker forgot to (`stream.hanging`), and it is `Fenced` from then on. So open the sink first and then read what was
committed: readers see a commit a moment after it was made, but all of an earlier holder's before the next is open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from kafka import TopicPartition, errors

from stream.cluster import Cluster
from stream.hanging import Ends
from stream.log import LogError, Offsets, Record, Unavailable

log = logging.getLogger(__name__)

BATCH_BYTES = 256 << 10
"""Of one partition's records that travel together."""


class KafkaSource:
    """A `Pausable` source of some partitions of a topic, or of all.

    Parameters
    ----------
    topic
        Its name without the prefix.
    wait_ms
        How long a poll waits for the first record, if there is none.

    Raises
    ------
    LogError
        If the topic is missing or has not these partitions, or where the cluster refuses us.
    Unavailable
        If the cluster does not answer, here and by every method.
    """

    def __init__(
        self, cluster: Cluster, topic: str, partitions: Iterable[int] | None = None, *, wait_ms: int = 20
    ) -> None:
        self.topic = cluster.topic(topic)
        self._cluster = cluster
        self._wait_ms = wait_ms
        n = cluster.partitions([topic])[topic]
        chosen = sorted(range(n) if partitions is None else partitions)
        if not set(chosen) <= set(range(n)):
            raise LogError(f"topic {self.topic}", f"expected partitions in 0..{n - 1}, got {chosen}")
        self._at = {p: TopicPartition(self.topic, p) for p in chosen}
        self._consumer = cluster.consumer(max_partition_fetch_bytes=4 << 20, fetch_max_wait_ms=100)
        self._consumer.assign(list(self._at.values()))
        try:
            self._seek(self._start())
        except BaseException:
            self.close()
            raise
        self._heard_s = time.monotonic()

    @property
    def offsets(self) -> Offsets:
        # Not behind the last record: what ends a transaction takes an offset too, and is passed over.
        with self._cluster.trouble(self.topic):
            return {
                p: self._consumer.position(at, timeout_ms=self._cluster.timeout_ms)
                for p, at in self._at.items()
            }

    def poll(self, max_records: int) -> list[Record]:
        try:
            found = self._consumer.poll(timeout_ms=self._wait_ms, max_records=max_records)
        except (
            errors.OffsetOutOfRangeError,
            errors.NoOffsetForPartitionError,
            errors.LogTruncationError,
        ) as e:
            self._check({p: self._place(p) for p in self._at})
            raise LogError(self.topic, f"expected offsets that are there still, got: {e}") from e
        except errors.KafkaError as e:
            raise self._cluster.explained(e, self.topic) from e
        if not found and time.monotonic() - self._heard_s > self._cluster.timeout_ms / 2000:
            self.end()  # silence is no news, or no broker: it answers or raises
        if found:
            self._heard_s = time.monotonic()
        return [
            Record(record.partition, record.offset, record.key or b"", record.value or b"")
            for records in found.values()
            for record in records
        ]

    def seek(self, offsets: Offsets) -> None:
        if not offsets.keys() <= self._at.keys():
            raise LogError(self.topic, f"expected partitions among {sorted(self._at)}, got {sorted(offsets)}")
        self._check(offsets)
        self._seek(offsets)

    def pause(self, partitions: Collection[int]) -> None:
        self._consumer.resume(*self._at.values())
        self._consumer.pause(*(at for p, at in self._at.items() if p in partitions))

    def end(self) -> Offsets:
        with self._cluster.trouble(self.topic):
            found = self._consumer.end_offsets(
                list(self._at.values()), timeout_ms=self._cluster.timeout_ms // 2
            )
        self._heard_s = time.monotonic()
        return {p: found[at] for p, at in self._at.items()}

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=self._cluster.timeout_ms)

    def _start(self) -> Offsets:
        with self._cluster.trouble(self.topic):
            found = self._consumer.beginning_offsets(
                list(self._at.values()), timeout_ms=self._cluster.timeout_ms
            )
        return {p: found[at] for p, at in self._at.items()}

    def _check(self, offsets: Offsets) -> None:
        start, end = self._start(), self.end()
        for p, at in offsets.items():
            if not start[p] <= at <= end[p]:
                what = f"expected an offset in {start[p]}..{end[p]}, got {at}"
                raise LogError(f"{self.topic}: partition {p}", what)

    def _seek(self, offsets: Offsets) -> None:
        for p, at in offsets.items():
            self._consumer.seek(self._at[p], at)

    def _place(self, partition: int) -> int:
        position = self._consumer._subscription.assignment[self._at[partition]].position
        return -1 if position is None else int(position.offset)


class KafkaSink:
    """A `Sink` in transactions, of one topic or several.

    Parameters
    ----------
    topics
        Names without the prefix; records go to the first where no other is named.
    transactional_id
        Whose transactions these are. A newer sink of the same id fences this one.

    Raises
    ------
    LogError
        If a topic or a partition is missing, a record is too large, or where the cluster refuses us.
    Fenced
        If there is a newer sink of this id: by ``commit`` at the latest.
    Unavailable
        If the cluster does not answer, or could not do what was asked. Whether a commit that ends so was made is only
        decided when the next sink of this id is opened, so read what was written again after that.

    After any of these there is nothing to be done with a sink but to close it.
    """

    def __init__(self, cluster: Cluster, topics: str | Sequence[str], transactional_id: str) -> None:
        names = [topics] if isinstance(topics, str) else list(topics)
        self._cluster = cluster
        self._topics: dict[str | None, str] = {name: cluster.topic(name) for name in names}
        self._topics[None] = cluster.topic(names[0])
        self._n = {cluster.topic(name): n for name, n in cluster.partitions(names).items()}
        self._where = f"transactional id {transactional_id}"
        self._open = False
        self._broken = False
        self._failures: list[Exception] = []  # of records of the transaction that is open
        self._touched: set[TopicPartition] = set()  # by it, and if none is open, by the last one
        self._ends = Ends(cluster, transactional_id)
        self._producer = cluster.producer(
            transactional_id=transactional_id,
            transaction_timeout_ms=cluster.transaction_timeout_ms,
            batch_size=BATCH_BYTES,
            linger_ms=5,
        )
        try:
            everywhere = [TopicPartition(name, p) for name, n in self._n.items() for p in range(n)]
            committed = self._ends.committed_and_hanging(everywhere)
            with cluster.trouble(self._where):
                self._producer.init_transactions()
            if committed:
                self._end(committed, "commit")
            if aborted := self._ends.waiting(self._producer_id, everywhere):
                self._end(aborted, "abort")
        except BaseException:
            self._broken = True
            self.close()
            raise

    def write(self, partition: int, key: bytes, value: bytes | None, topic: str | None = None) -> None:
        name = _named(self._topics, topic)
        if not 0 <= partition < self._n[name]:
            raise LogError(
                f"topic {name}", f"expected a partition in 0..{self._n[name] - 1}, got {partition}"
            )
        try:
            if not self._open:
                self._begin()
            self._touched.add(TopicPartition(name, partition))
            self._producer.send(name, value, key, partition=partition).add_errback(self._failures.append)
        except errors.KafkaError as e:
            raise self._failed(e) from e

    def commit(self) -> None:
        if self._open:
            self._complete("commit")

    def abort(self) -> None:
        if self._open:
            self._complete("abort")

    def close(self) -> None:
        try:
            if not self._broken:
                self.abort()
        except (Unavailable, errors.KafkaError):
            pass  # the next sink of this id aborts it, or time does
        finally:
            self._ends.close()
            _close(self._producer, self._cluster.timeout_ms)

    @property
    def _producer_id(self) -> int:
        return int(self._producer._transaction_manager.producer_id_and_epoch.producer_id)

    def _begin(self) -> None:
        """Begin a transaction, once the last one has ended everywhere: what hangs would end with this one."""
        deadline_s = time.monotonic() + self._cluster.timeout_ms / 1000
        while self._touched and (waiting := self._ends.waiting(self._producer_id, self._touched)):
            if time.monotonic() > deadline_s:
                self._broken = True
                raise Unavailable(self._where, f"expected the last transaction to end, got none in {waiting}")
            time.sleep(0.002)
        self._touched, self._failures = set(), []
        self._producer.begin_transaction()
        self._open = True

    def _end(self, partitions: Sequence[TopicPartition], how: str) -> None:
        """Do what was decided on records of an earlier holder that hang, with a transaction of ours that writes nothing
        there: its end is the end of theirs."""
        log.warning("ending what a broker forgot id=%s how=%s partitions=%s", self._where, how, partitions)
        transactions = self._producer._transaction_manager
        try:
            self._begin()
            self._touched.update(partitions)
            with transactions._lock:
                for at in partitions:
                    transactions.maybe_add_partition_to_transaction(at)
                joining = transactions._add_partitions_to_transaction_handler()
                transactions._enqueue_request(joining)
            self._wait(joining.result, "joining what hangs")
        except errors.KafkaError as e:
            raise self._failed(e) from e
        self._complete(how)

    def _complete(self, how: str) -> None:
        # The public methods wait for ever while a broker is frozen; what they consist of does not. And they commit
        # what is left where records were given up (after delivery_timeout_ms, without a word).
        transactions = self._producer._transaction_manager
        try:
            if how == "commit":
                self._producer.flush(timeout=self._cluster.timeout_ms / 1000)
                self._check_delivered()
                self._wait(transactions.begin_commit(), "a commit")
            else:
                self._wait(transactions.begin_abort(), "an abort")
        except errors.KafkaError as e:
            raise self._failed(e) from e
        self._open = False

    def _wait(self, result: Any, what: str) -> None:
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=self._cluster.timeout_ms):
            raise errors.KafkaTimeoutError(f"no answer to {what} within {self._cluster.timeout_ms} ms")

    def _check_delivered(self) -> None:
        for error in self._failures:
            raise error if isinstance(error, errors.KafkaError) else errors.KafkaError(error)

    def _failed(self, error: errors.KafkaError) -> Exception:
        self._broken = True
        transactions = self._producer._transaction_manager
        deadline_s = time.monotonic() + self._cluster.timeout_ms / 1000
        while transactions.is_bumping_epoch() and time.monotonic() < deadline_s:
            time.sleep(0.005)  # it asks whether it was fenced
        first = transactions.last_error  # later ones only say that there was one
        return self._cluster.explained(first or error, self._where)


class KafkaWriter:
    """Writes records to one topic as they come, each once and in order, without a transaction and its gaps in offsets.

    Raises
    ------
    LogError
        As a `KafkaSink`.
    Unavailable
        By ``write`` and ``flush``: of what was written since the last flush some may be there and some not.

    After any of these there is nothing to be done with a writer but to close it.
    """

    def __init__(self, cluster: Cluster, topic: str, *, linger_ms: int = 5) -> None:
        self.topic = cluster.topic(topic)
        self.partitions = cluster.partitions([topic])[topic]
        self._cluster = cluster
        self._failures: list[Exception] = []
        self._producer = cluster.producer(batch_size=BATCH_BYTES, linger_ms=linger_ms)

    def write(self, partition: int, key: bytes, value: bytes) -> None:
        """Send a record on its way. It is there when ``flush`` has returned."""
        if not 0 <= partition < self.partitions:
            raise LogError(
                f"topic {self.topic}", f"expected a partition in 0..{self.partitions - 1}, got {partition}"
            )
        try:
            self._producer.send(self.topic, value, key, partition=partition).add_errback(
                self._failures.append
            )
        except errors.KafkaError as e:
            raise self._cluster.explained(e, self.topic) from e
        self._raise()

    def flush(self) -> None:
        """Wait until all that was written is there."""
        with self._cluster.trouble(self.topic):
            self._producer.flush(timeout=self._cluster.timeout_ms / 1000)
        self._raise()

    def close(self) -> None:
        """Let go; what was not flushed may be lost."""
        _close(self._producer, self._cluster.timeout_ms)

    def _raise(self) -> None:
        if self._failures:
            first, self._failures = self._failures[0], []
            if not isinstance(first, errors.KafkaError):
                raise first
            raise self._cluster.explained(first, self.topic) from first


def _named(topics: dict[str | None, str], topic: str | None) -> str:
    if topic not in topics:
        raise LogError("log", f"expected a topic among {sorted(filter(None, topics))}, got {topic!r}")
    return topics[topic]


def _close(producer: Any, timeout_ms: int) -> None:
    """End a producer at once: whatever it still holds was not committed, and is not to be waited for."""
    producer._sender.force_close()
    producer.close(timeout=timeout_ms / 1000)
