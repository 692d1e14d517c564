"""What the joiner's worker takes in on a real Kafka, in one process, once everybody has a long history.

python -m benchmarks.joiner HOST:PORT

Half of the events are slates of ten candidates, and for each of them there are 0.3 clicks and 0.7 organic actions. The
state is put into its topic first, so reading it back is measured too; then the events, so that the worker never
waits for them. The topics have a prefix of their own and stay.
"""

from __future__ import annotations

import json
import random
import sys
import uuid
from collections.abc import Iterator
from time import perf_counter, process_time

import msgspec

from benchmarks.join import FIELDS, N_USERS, _action, _slate
from stream.cluster import Cluster
from stream.events import Event, Tick, encode_event
from stream.join import Joiner, JoinRules
from stream.joiner import EVENTS, SAMPLES, STATE, build
from stream.kafka import KafkaSink, KafkaWriter
from stream.log import Record
from stream.metrics import Metrics
from stream.partition import partition_of
from stream.service import now_ms
from stream.topics import create, topics

N_PARTITIONS = 4
RULES = JoinRules({"click": 60_000})


def _events(n: int, now: int) -> Iterator[Event]:
    """Eight milliseconds of event time a slate, so that windows close while it runs."""
    rng = random.Random(1)
    shown: list[tuple[int, str, str]] = []
    for i in range(n // 2):
        at_ms, user = now + 8 * i, rng.randrange(N_USERS)
        slate = _slate(rng, i, user, at_ms, 10)
        yield slate
        shown.append((user, slate.id, slate.candidates[i % 10].item))
        if rng.random() < 0.3:
            user, impression, item = shown[-1 - rng.randrange(min(len(shown), 200))]
            click = _action(rng, user, at_ms + 4, impression)
            yield msgspec.structs.replace(click, item=item)
        else:
            yield _action(rng, rng.randrange(N_USERS), at_ms + 4)
        if i % 125 == 0:
            yield Tick(at_ms)


def _put_state(cluster: Cluster, n_behaviours: int) -> int:
    """A state in which everybody has so many behaviours; returns the event time it is as of."""
    rng = random.Random(0)
    joiners = [Joiner(RULES, FIELDS, p) for p in range(N_PARTITIONS)]
    n = N_USERS * n_behaviours
    for i in range(n):
        action = _action(rng, i % N_USERS, i)
        joiner = joiners[partition_of(action.user, N_PARTITIONS)]
        joiner.apply(Record(joiner.partition, joiner.next_offset, b"", encode_event(action)))
    for joiner in joiners:
        joiner.next_offset = 0  # of the events to come
        sink = KafkaSink(cluster, [STATE], f"{cluster.prefix}.{joiner.partition}")
        for key, raw in joiner.snapshot().items():
            sink.write(joiner.partition, key, raw)
        sink.commit()
        sink.close()
    return n


def run(
    bootstrap: str, n_events: int = 60_000, n_behaviours: int = 500, poll_records: int = 2_000
) -> dict[str, float]:
    """Events a second, and what they cost."""
    cluster = Cluster(bootstrap, prefix=f"bench-{uuid.uuid4().hex[:8]}")
    create(cluster, topics(N_PARTITIONS, 1, 3_600_000, 3_600_000), 1)
    now = _put_state(cluster, n_behaviours)
    writer, n_written = KafkaWriter(cluster, EVENTS), 0
    for event in _events(n_events, now):
        raw = encode_event(event)
        if isinstance(event, Tick):
            to, key = range(N_PARTITIONS), b""
        else:
            to, key = range(p := partition_of(event.user, N_PARTITIONS), p + 1), event.user.encode()
        for p in to:
            writer.write(p, key, raw)
            n_written += 1
    writer.flush()
    writer.close()

    metrics = Metrics("joiner")
    worker = build(
        cluster,
        RULES,
        FIELDS,
        metrics,
        partitions=range(N_PARTITIONS),
        poll_records=poll_records,
        now_ms=now_ms,
    )
    began = perf_counter()
    while len(worker.partitions) < N_PARTITIONS:
        worker.step()
    restore_s = perf_counter() - began
    began, began_cpu, n_done = perf_counter(), process_time(), 0
    while n_done < n_written:
        n_done += worker.step()
    took_s, cpu_s = perf_counter() - began, process_time() - began_cpu
    worker.close()
    page = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in metrics.page().decode().splitlines()
        if line.startswith("instep_")
    }
    n_bytes = {t: page[f'instep_bytes_out_total{{topic="{t}",worker="joiner"}}'] for t in (SAMPLES, STATE)}
    return {
        "events": n_done,
        "events_per_s": n_done / took_s,
        "cpu_us_per_event": cpu_s / n_done * 1e6,
        "waiting_for_commits": page['instep_commit_seconds_sum{worker="joiner"}'] / took_s,
        "transactions": page['instep_commit_seconds_count{worker="joiner"}'],
        "sample_bytes_per_event": n_bytes[SAMPLES] / n_done,
        "state_bytes_per_event": n_bytes[STATE] / n_done,
        "restore_us_per_user": restore_s / N_USERS * 1e6,
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(json.dumps({name: round(value, 3) for name, value in run(sys.argv[1]).items()}, indent=2))
