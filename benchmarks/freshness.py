"""When slates reach the index: its Version as it moves, against the Versions in which slates were learned."""

from __future__ import annotations

import time
from bisect import bisect_left
from threading import Event, Thread
from types import TracebackType
from typing import NamedTuple

import numpy as np
from kafka import TopicPartition
from numpy.typing import NDArray

from indexer.redis_index import RedisIndex
from instep.settings import Settings
from instep.stores import redis_client
from stream.events import Version
from stream.service import now_ms
from trainer.scored import decode_scored
from trainer.worker import SCORES

LOOK_S = 0.05


class Slates(NamedTuple):
    """Seconds from the moment a slate was shown, in the order in which they were learned."""

    published_s: NDArray[np.float64]
    indexed_s: NDArray[np.float64]


class Watch:
    """Looks at the Version of the index, some twenty times a second, while it is open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cluster = settings.cluster()
        self._client = redis_client(settings)
        self._index = RedisIndex(self._client, settings.redis.prefix, settings.redis.keep_updates)
        self._seen: list[tuple[Version, int]] = []
        self._over = Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._at: dict[TopicPartition, int] = {}

    def __enter__(self) -> Watch:
        topic = self._cluster.topic(SCORES)
        consumer = self._cluster.consumer()
        ends = consumer.end_offsets(
            [TopicPartition(topic, p) for p in range(self._settings.stream.partitions)]
        )
        consumer.close(autocommit=False)
        self._at = dict(ends)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def await_quiet(self, within_s: float, quiet_s: float = 3.0) -> bool:
        """Wait until the index has stood still for a while; whether it did in time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._seen and now_ms() - self._seen[-1][1] > quiet_s * 1000:
                return True
            time.sleep(0.1)
        return False

    def slates(self, name: str) -> Slates:
        """What became of the slates whose ids begin so, as far as they were indexed while this was open."""
        consumer = self._cluster.consumer()
        parts = list(self._at)
        consumer.assign(parts)
        for part, at in self._at.items():
            consumer.seek(part, at)
        ends = consumer.end_offsets(parts)
        versions, times = [v for v, _ in self._seen], [at for _, at in self._seen]
        found: list[tuple[Version, float, float]] = []
        while any(consumer.position(part) < ends[part] for part in parts):
            for records in consumer.poll(timeout_ms=200, max_records=5_000).values():
                for record in records:
                    scored = decode_scored(record.value)
                    seen = bisect_left(versions, scored.version)
                    if scored.impression.startswith(name) and seen < len(times):
                        published_s = (record.timestamp - scored.at_ms) / 1000
                        found.append((scored.version, published_s, (times[seen] - scored.at_ms) / 1000))
        consumer.close(autocommit=False)
        found.sort(key=lambda each: each[0])
        return Slates(np.array([each[1] for each in found]), np.array([each[2] for each in found]))

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            version = self._index.version
            if version is not None and (not self._seen or version > self._seen[-1][0]):
                self._seen.append((version, now_ms()))


def per_cent(seconds: NDArray[np.float64]) -> dict[str, float]:
    """p50 and p95."""
    if not len(seconds):
        return {"p50": float("inf"), "p95": float("inf")}
    return {f"p{q}": round(float(np.percentile(seconds, q)), 3) for q in (50, 95)}
