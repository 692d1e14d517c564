"""A small simulated product, and settings that suit it, for the tests of the whole loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from instep.settings import Settings, check
from instep.simulator import Truth, World, events
from stream.events import Action, Event, Origin, Tick, encode_event, key_of
from stream.fields import Fields
from stream.log import MemoryLog
from stream.partition import partition_of
from stream.profiles import MemoryProfiles

WORLD = World(
    seed=5,
    n_users=30,
    n_items=120,
    n_topics=20,
    n_categories=5,
    interest_categories=2,
    history_median=30,
    history_days=0.5,
    slates_per_s=10,
    click_delay_s=0.5,
    click_delay_max_s=1.5,
    tick_s=1,
    tail_s=5,
)


@cache
def product(n_slates: int) -> tuple[Event, ...]:
    """Everything that happens, in the order of event time."""
    return tuple(events(WORLD, n_slates))


LIKED = replace(WORLD, kinds=("click", "like"), like_delay_s=0.5, like_delay_max_s=1.5)
"""The same world, in which users like some of what they clicked."""
TWO_KINDS = {"windows": LIKED.windows}
"""What [stream] says of it."""


@cache
def liked(n_slates: int) -> tuple[tuple[Event, ...], Truth]:
    """Everything that happens there, and the truth about it."""
    truth = Truth()
    return tuple(events(LIKED, n_slates, truth=truth)), truth


def small(**sections: dict[str, Any]) -> Settings:
    """Settings of a small model; ``sections`` change some."""
    raw: dict[str, Any] = {
        "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
        "stream": {"partitions": 2, "windows": {"click": 2_000}, "lateness_ms": 500},
        "model": {
            "dim": 8,
            "heads": 2,
            "mlp": [16, 8],
            "short": 4,
            "top_k": 8,
            "warm_up_steps": 12,
            "seed": 1,
        },
        "trainer": {
            "batch_samples": 8,
            "batch_span_ms": 2_000,
            "publish_ms": 1_000,
            "checkpoint_ms": 250,
            "capacity": 4_096,
        },
    }
    return check({**raw, **{name: {**raw.get(name, {}), **changes} for name, changes in sections.items()}})


def make_log(sent: Iterable[Event | bytes], partitions: int) -> MemoryLog:
    """The events as a product sends them; what is raw bytes goes to partition 0."""
    log = MemoryLog(partitions)
    for event in sent:
        if isinstance(event, bytes):
            log.append(0, b"", event)
        elif isinstance(event, Tick):
            for p in range(partitions):
                log.append(p, b"", encode_event(event))
        else:
            log.append(partition_of(event.user, partitions), event.user.encode(), encode_event(event))
    return log


def make_profiles(sent: Iterable[Event], fields: Fields, ttl_ms: int) -> MemoryProfiles:
    """What the service that keeps profiles has after these events."""
    profiles = MemoryProfiles(len(fields.item), ttl_ms=ttl_ms)
    for n, event in enumerate(sent):
        if isinstance(event, Action):
            keys = fields.item_keys(event.item, event.features)
            user, kind = key_of("user", event.user), key_of("kind", event.kind)
            profiles.put(user, Origin(0, n, 0), keys, event.at_ms, kind)
    return profiles


def damage(file: Path) -> None:
    """Flip one bit in the middle of a file."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
