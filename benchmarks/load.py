"""The events that `benchmarks.services` sends, and the process that sends them at a steady rate, stamped as they go.

python -m benchmarks.load SETTINGS USERS RATE SECONDS NAME
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from pathlib import Path
from time import process_time

from instep.settings import Settings, load
from stream.events import Action, Candidate, Event, Impression, Tick, encode_event
from stream.joiner import EVENTS
from stream.kafka import KafkaWriter
from stream.partition import partition_of
from stream.service import now_ms

N_ITEMS = 20_000
CLICKED = 0.5
"""Clicks a slate."""
WINDOW_MS, LATENESS_MS = 1_000, 200
CLICK_MS = 800
"""The longest delay of a click: well within its window."""
TICK_MS = 100
HOUR_MS = 3_600_000
AFTER = "after"
"""Slates of the time after the one that is measured: with them the last of those is published."""
AFTER_S = 3.0


def histories(n_users: int, n_behaviours: int, end_ms: int, seed: int = 0) -> Iterator[Event]:
    """So many clicks of every user in the hour before ``end_ms``, in the order of time."""
    rng = random.Random(seed)
    n = n_users * n_behaviours
    for i in range(n):
        yield _click(rng.randrange(N_ITEMS), f"user{i % n_users}", end_ms - HOUR_MS + i * HOUR_MS // n, None)


def slates(
    rng: random.Random,
    n_users: int,
    rate: float,
    from_ms: int,
    seconds: float,
    name: str,
    after_s: float = 0.0,
) -> Iterator[Event]:
    """Slates of ten at a rate, their clicks and Ticks, in the order of time; the last Ticks close all windows."""
    due: list[tuple[int, int, Action]] = []
    n, n_named, tick_ms, end_ms = (
        0,
        round(seconds * rate),
        from_ms,
        from_ms + round((seconds + after_s) * 1000),
    )
    while (at_ms := from_ms + round(1000 * n / rate)) < end_ms:
        while due and due[0][0] <= at_ms:
            yield heappop(due)[2]
        if tick_ms <= at_ms:
            yield Tick(tick_ms)
            tick_ms += TICK_MS
        user, shown = f"user{rng.randrange(n_users)}", rng.sample(range(N_ITEMS), 10)
        candidates = [Candidate(f"item{i}", _features(i)) for i in shown]
        impression = f"{name}.{n}" if n < n_named else f"{AFTER}.{name}.{n}"
        yield Impression(impression, user, at_ms, candidates, {"device": "phone"})
        if rng.random() < CLICKED:
            when = at_ms + rng.randrange(1, CLICK_MS)
            heappush(due, (when, n, _click(rng.choice(shown), user, when, impression)))
        n += 1
    while due:
        yield heappop(due)[2]
    for at_ms in range(end_ms + CLICK_MS, end_ms + CLICK_MS + WINDOW_MS + 3 * LATENESS_MS, TICK_MS):
        yield Tick(at_ms)


def send(settings: Settings, events: Iterable[Event], *, live: bool = False) -> int:
    """Write events to Kafka, ``live`` each at its own time; returns how many records that were."""
    writer = KafkaWriter(settings.cluster(), EVENTS)
    n, all_partitions = 0, range(writer.partitions)
    try:
        for event in events:
            if live and (early_ms := event.at_ms - now_ms()) > 0:
                time.sleep(early_ms / 1000)
            raw = encode_event(event)
            if isinstance(event, Tick):
                for partition in all_partitions:
                    writer.write(partition, b"", raw)
                n += writer.partitions
            else:
                writer.write(partition_of(event.user, writer.partitions), event.user.encode(), raw)
                n += 1
        writer.flush()
    finally:
        writer.close()
    return n


def _click(item: int, user: str, at_ms: int, impression: str | None) -> Action:
    return Action("click", user, f"item{item}", at_ms, impression, _features(item))


def _features(item: int) -> dict[str, str | int | float]:
    return {"category": f"c{item % 50}"}


def main(path: str, users: str, rate: str, seconds: str, name: str) -> None:
    """Send slates from now on; prints a line as it begins, and at the end how many events and seconds it took."""
    settings = load(Path(path))
    print("begins", flush=True)  # imports took seconds; whoever measures waits for this
    began_s, cpu_s = time.monotonic(), process_time()
    stream = slates(random.Random(name), int(users), float(rate), now_ms(), float(seconds), name, AFTER_S)
    n = send(settings, stream, live=True)
    took_s = time.monotonic() - began_s
    print(json.dumps({"events": n, "took_s": took_s, "cpu_s": process_time() - cpu_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
