"""What the profiles worker carries, and how soon a click is in its profile; all of it on one machine.

python -m benchmarks.profiles
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stream import logs
from stream.app import run as run_worker
from stream.cluster import Cluster
from stream.events import Action, Origin, encode_event, key_of
from stream.fields import Feature, Fields
from stream.kafka import KafkaWriter
from stream.metrics import Metrics
from stream.partition import partition_of
from stream.profiles import Put
from stream.redis_client import Client
from stream.redis_profiles import RedisProfiles
from stream.service import now_ms
from tests.services.processes import local_kafka, local_redis

FIELDS = Fields([Feature("category", "item")])
PARTITIONS = 4
N_USERS, N_ITEMS = 1_000, 2_000
WITHIN_S = 60.0
RECENT = 16
"""Behaviours among which a click is looked for: others of its millisecond may come behind it."""
_EARLIER = PARTITIONS  # the histories come from a partition that no click comes from


def click(user: str, at_ms: int, rng: random.Random) -> Action:
    item = rng.randrange(N_ITEMS)
    return Action("click", user, f"item{item}", at_ms, None, {"category": f"c{item % 20}"})


def run(
    n_clicks: int = 30_000, n_behaviours: int = 500, load_per_s: int = 1_000, n_probes: int = 200
) -> dict[str, object]:
    """Clicks a second when there are more than it can take, and the latency of some under a fixed load."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as other,
        local_kafka(Path(folder)) as kafka,
        local_redis(Path(other)) as redis,
    ):
        cluster = Cluster(kafka.bootstrap, prefix=f"b{uuid.uuid4().hex[:8]}")
        with cluster.admin() as admin:
            admin.create_topics(
                {cluster.topic("events"): {"num_partitions": PARTITIONS}}, wait_for_metadata=True
            )
        client = Client(redis.url)
        profiles = RedisProfiles(client, FIELDS, prefix=cluster.prefix)
        _give_histories(profiles, n_behaviours)
        with _process("worker", kafka.bootstrap, cluster.prefix, redis.url):
            writer = KafkaWriter(cluster, "events", linger_ms=0)
            rng = random.Random(1)
            _probe(writer, profiles, "warm", rng)
            per_s = _saturate(writer, profiles, n_clicks, rng)
            with _process("load", kafka.bootstrap, cluster.prefix, str(load_per_s)):
                _probe(writer, profiles, "warm", rng)
                took_ms = [
                    _probe(writer, profiles, f"user{rng.randrange(N_USERS)}", rng) for _ in range(n_probes)
                ]
            writer.close()
        client.close()
    p50, p95 = np.percentile(took_ms, (50, 95))
    return {
        "history": n_behaviours,
        "clicks_per_s": round(per_s),
        "latency_at_clicks_per_s": load_per_s,
        "latency_p50_ms": round(float(p50), 1),
        "latency_p95_ms": round(float(p95), 1),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def _give_histories(profiles: RedisProfiles, n_behaviours: int) -> None:
    """Let every user have a history, of the minutes before now."""
    rng, kind, from_ms = random.Random(0), key_of("kind", "click"), now_ms() - 10_000_000
    for n in range(n_behaviours):
        puts = []
        for user in range(N_USERS):
            event = click(f"user{user}", from_ms + n * 10_000, rng)
            keys = FIELDS.item_keys(event.item, event.features)
            puts.append(Put(key_of("user", event.user), Origin(_EARLIER, n, 0), keys, event.at_ms, kind))
        profiles.put_many(puts)


def _write(writer: KafkaWriter, event: Action) -> None:
    partition = partition_of(event.user, PARTITIONS)
    writer.write(partition, event.user.encode(), encode_event(event))


def _probe(writer: KafkaWriter, profiles: RedisProfiles, user: str, rng: random.Random) -> float:
    """Milliseconds from the writing of a click until it is read from the profile."""
    event = click(user, now_ms(), rng)
    start = time.perf_counter()
    _write(writer, event)
    _await(profiles, event)
    return (time.perf_counter() - start) * 1e3


def _await(profiles: RedisProfiles, event: Action) -> None:
    key, deadline = key_of("user", event.user), time.monotonic() + WITHIN_S
    wanted = FIELDS.item_keys(event.item, event.features)
    while True:
        keys, at_ms = profiles.get(key, event.at_ms + 1, RECENT)
        if wanted in keys[at_ms == event.at_ms].tolist():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"profiles: expected the click within {WITHIN_S:g} s, got none")
        time.sleep(0.001)


def _saturate(writer: KafkaWriter, profiles: RedisProfiles, n_clicks: int, rng: random.Random) -> float:
    """Clicks a second from the first one written to the last one, of every partition, in its profile."""
    events = [click(f"user{rng.randrange(N_USERS)}", now_ms() + n, rng) for n in range(n_clicks)]
    last = {partition_of(event.user, PARTITIONS): event for event in events}
    start = time.perf_counter()
    for event in events:
        _write(writer, event)
    writer.flush()
    for event in last.values():
        _await(profiles, event)
    took_s = time.perf_counter() - start
    while now_ms() <= events[-1].at_ms:
        time.sleep(0.1)  # a click of now is to be the newest
    return n_clicks / took_s


@contextmanager
def _process(*words: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.profiles", *words]) as child:
        try:
            yield
        finally:
            child.kill()


def _load(bootstrap: str, prefix: str, per_s: str) -> None:
    """Write clicks at a fixed rate, until killed."""
    writer = KafkaWriter(Cluster(bootstrap, prefix=prefix), "events")
    rng, start, n = random.Random(2), time.perf_counter(), 0
    while True:
        while n < (time.perf_counter() - start) * int(per_s):
            _write(writer, click(f"user{rng.randrange(N_USERS)}", now_ms(), rng))
            n += 1
        time.sleep(0.002)


def _worker(bootstrap: str, prefix: str, redis_url: str) -> None:
    logs.configure(level=30)
    profiles = RedisProfiles(Client(redis_url), FIELDS, prefix=prefix)
    cluster = Cluster(bootstrap, prefix=prefix)
    run_worker(cluster, profiles, FIELDS, ("click",), Metrics("profiles"), now_ms=now_ms)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        _load(*sys.argv[2:])
    elif sys.argv[1:2] == ["worker"]:
        _worker(*sys.argv[2:])
    else:
        print(json.dumps(run(), indent=2))
