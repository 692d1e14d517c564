"""Topics made, records written and read back, for tests of what Kafka does."""

from __future__ import annotations

import time
from collections.abc import Callable

from stream.cluster import Cluster
from stream.kafka import KafkaSink, KafkaSource, KafkaWriter
from stream.log import Record
from stream.topics import Topic, create

N = 2
WITHIN_S = 30.0


def make(cluster: Cluster, *names: str, partitions: int = N, config: dict[str, str] | None = None) -> None:
    create(cluster, dict.fromkeys(names, Topic(partitions, config or {})), 1)


def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait for it, asking again and again."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "expected it to come, it did not"
        time.sleep(0.01)


def read(source: KafkaSource, n: int) -> list[Record]:
    """The next ``n`` records, and what comes up to the end."""
    records: list[Record] = []

    def all_there() -> bool:
        records.extend(source.poll(100))
        return len(records) >= n and source.offsets == source.end()

    until(all_there)
    return records


def write_and_commit(sink: KafkaSink, value: bytes) -> None:
    sink.write(0, b"k", value)
    sink.commit()


def write_and_flush(writer: KafkaWriter, value: bytes) -> None:
    writer.write(0, b"k", value)
    writer.flush()
