"""What joining costs: events in JSON to samples, one partition, one thread.

python -m benchmarks.join
"""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Sequence
from time import process_time

import msgspec

from stream.events import Action, Candidate, Event, Impression, Origin, Tick, encode_event
from stream.fields import Feature, Fields
from stream.join import Joiner, JoinRules
from stream.log import Record
from stream.profiles import MemoryProfiles

FIELDS = Fields([Feature("category", "item"), Feature("device", "context")])
N_USERS, N_ITEMS = 1_000, 2_000


def _action(rng: random.Random, user: int, at_ms: int, impression: str | None = None) -> Action:
    item = rng.randrange(N_ITEMS)
    return Action("click", f"user{user}", f"item{item}", at_ms, impression, {"category": f"c{item % 20}"})


def _slate(rng: random.Random, n: int, user: int, at_ms: int, n_candidates: int) -> Impression:
    items = rng.sample(range(N_ITEMS), n_candidates)
    candidates = [Candidate(f"item{i}", {"category": f"c{i % 20}"}) for i in items]
    return Impression(f"impression{n}", f"user{user}", at_ms, candidates, {"device": "phone"})


def _us_each(joiner: Joiner, events: Sequence[Event]) -> float:
    first = joiner.next_offset
    records = [Record(0, first + n, b"", encode_event(e)) for n, e in enumerate(events)]
    gc.collect()
    gc.freeze()
    start = process_time()
    for record in records:
        joiner.apply(record)
    return (process_time() - start) / len(events) * 1e6


def run(n_slates: int = 10_000, n_behaviours: int = 500, n_candidates: int = 10) -> dict[str, float]:
    """Microseconds of processor time an event, once everybody has ``n_behaviours`` of history."""
    rng = random.Random(0)
    joiner = Joiner(JoinRules({"click": 60_000}), FIELDS, 0)
    history: list[Event] = [_action(rng, n % N_USERS, n) for n in range(N_USERS * n_behaviours)]
    now = len(history)
    organic_us = _us_each(joiner, history)
    out_of_order: list[Event] = [
        _action(rng, n % N_USERS, now - rng.randrange(5_000)) for n in range(min(n_slates, len(history)))
    ]
    out_of_order_us = _us_each(joiner, out_of_order)

    slates, clicks = list[Impression](), list[Event]()
    for n in range(n_slates):
        slates.append(_slate(rng, n, n % N_USERS, now + n, n_candidates))
        shown = slates[-1].candidates[n % n_candidates]
        click = _action(rng, n % N_USERS, now + n_slates + n, f"impression{n}")
        clicks.append(msgspec.structs.replace(click, item=shown.item, features=shown.features))
    open_us, label_us = _us_each(joiner, slates), _us_each(joiner, clicks)
    ends: list[Event] = [Tick(now + n + 60_000 + 5_001) for n in range(n_slates)]
    close_us = _us_each(joiner, ends)
    start = process_time()
    state = joiner.snapshot()
    snapshot_us = (process_time() - start) / N_USERS * 1e6
    start = process_time()
    Joiner.restore(joiner.rules, FIELDS, 0, state)
    restore_us = (process_time() - start) / N_USERS * 1e6
    return {
        "organic_action_us": organic_us,
        "action_out_of_order_us": out_of_order_us,
        "slate_open_us": open_us,
        "slate_close_us": close_us,
        "slate_all_told_us": open_us + close_us,
        "label_us": label_us,
        "snapshot_us_per_user": snapshot_us,
        "restore_us_per_user": restore_us,
        "profile_get_us": _profile_get_us(n_behaviours),
    }


def _profile_get_us(n_behaviours: int, n: int = 20_000) -> float:
    profiles = MemoryProfiles(n_fields=2)
    for i in range(n_behaviours):
        profiles.put(1, Origin(0, i, 0), [i + 1, 7], i, 1)
    start = process_time()
    for _ in range(n):
        profiles.get(1, n_behaviours, 1_024)
    return (process_time() - start) / n * 1e6


if __name__ == "__main__":
    print(json.dumps({name: round(value, 2) for name, value in run().items()}, indent=2))
