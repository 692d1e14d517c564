"""Records through Kafka: transactions of 500 out, polls of 1,000 in, at two sizes.

    python -m benchmarks.kafka 127.0.0.1:9092

It makes topics of its own and takes half a minute.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from contextlib import closing

from stream.cluster import Cluster
from stream.kafka import KafkaSink, KafkaSource, KafkaWriter
from stream.topics import Topic, create

PARTITIONS = 4
SIZES = {200: 60_000, 12_000: 8_000}
"""Bytes of a record, a small event and a sample with a long history; how many records."""


def measure(bootstrap: str) -> dict[str, int]:
    """Records a second of one process, by what it does."""
    cluster = Cluster(bootstrap, f"bench-{uuid.uuid4().hex}")
    rates: dict[str, int] = {}
    for size, n in SIZES.items():
        name, value = f"of-{size}", os.urandom(size)
        create(cluster, {name: Topic(PARTITIONS, {}), f"{name}-plain": Topic(PARTITIONS, {})}, 1)
        with closing(KafkaSink(cluster, name, cluster.topic(name))) as sink:
            start_s = time.perf_counter()
            for i in range(n):
                sink.write(i % PARTITIONS, b"user-123", value)
                if i % 500 == 499:
                    sink.commit()
            sink.commit()
            rates[f"{size} B out, in transactions"] = int(n / (time.perf_counter() - start_s))
        with closing(KafkaSource(cluster, name)) as source:
            start_s, n_read = time.perf_counter(), 0
            while n_read < n:
                n_read += len(source.poll(1_000))
                _ = source.offsets
            rates[f"{size} B in"] = int(n / (time.perf_counter() - start_s))
        with closing(KafkaWriter(cluster, f"{name}-plain")) as writer:
            start_s = time.perf_counter()
            for i in range(n):
                writer.write(i % PARTITIONS, b"user-123", value)
            writer.flush()
            rates[f"{size} B out, without"] = int(n / (time.perf_counter() - start_s))
    return rates


if __name__ == "__main__":
    for what, rate in measure(sys.argv[1]).items():
        print(f"{what:28} {rate:>9,} records/s")
