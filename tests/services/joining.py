"""The joiner's logs on Kafka, for its tests; as a program, a joiner of all partitions: bootstrap, prefix, [once]."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Sequence

from stream import logs
from stream.cluster import Cluster
from stream.joiner import DEAD, EVENTS, SAMPLES, STATE, KafkaLogs, Logs, build
from stream.kafka import KafkaSource, KafkaWriter
from stream.log import Record
from stream.metrics import Metrics
from stream.service import now_ms, serve
from tests.stream.joining import FIELDS, RULES, N, Written


class KafkaWorld:
    """The joiner's topics, made anew under a prefix of their own."""

    def __init__(self, bootstrap: str) -> None:
        self.cluster = Cluster(bootstrap, prefix=f"t{uuid.uuid4().hex[:12]}", timeout_ms=10_000)
        make = {
            self.cluster.topic(name): {
                "num_partitions": N,
                "configs": {"cleanup.policy": "compact"} if name == STATE else {},
            }
            for name in (EVENTS, SAMPLES, STATE, DEAD)
        }
        with self.cluster.admin() as admin:
            admin.create_topics(make, wait_for_metadata=True)

    def append(self, records: Iterable[Record]) -> None:
        writer = KafkaWriter(self.cluster, EVENTS)
        try:
            for record in records:
                writer.write(record.partition, record.key, record.value)
            writer.flush()
        finally:
            writer.close()

    def logs(self, partitions: Sequence[int] | None = None) -> Logs:
        return KafkaLogs(self.cluster, partitions)

    def read(self, topic: str) -> Written:
        read: Written = [[] for _ in range(N)]
        source = KafkaSource(self.cluster, topic)
        try:
            while any(source.offsets[p] < end for p, end in source.end().items()):
                for record in source.poll(10_000):
                    read[record.partition].append((record.key, record.value))
        finally:
            source.close()
        return read


def main(bootstrap: str, prefix: str, *words: str) -> None:
    """Join until told to stop, or until nothing is left; few records a step, so that there are many transactions."""
    logs.configure()
    metrics = Metrics("joiner")
    cluster = Cluster(bootstrap, prefix=prefix, timeout_ms=10_000)
    limits = {"max_dead": 0.5, "poll_records": 20}
    serve(
        lambda: build(cluster, RULES, FIELDS, metrics, partitions=range(N), now_ms=now_ms, **limits),  # type: ignore[arg-type]
        metrics,
        once="once" in words,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
