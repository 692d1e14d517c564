"""What profiles hold of a log: in Redis, and what they have to, which is what profiles in memory make of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from instep.settings import Settings
from stream.events import Action, BadEvent, Origin, decode_event, key_of
from stream.log import Record
from stream.profiles import MemoryProfiles, Profiles, Put

TTL_MS = 1_000 * 86_400_000
"""Longer than the year by which some of the broken events are ahead: as of then all others are there still."""
Kept = dict[str, tuple[NDArray[np.uint64], NDArray[np.int64]]]
"""Keys and event times of each user."""


def expected(settings: Settings, records: Iterable[Record]) -> Kept:
    """What profiles in memory have after all of these, each once and in order."""
    records = list(records)
    profiles = _in_memory(settings)
    put_in(settings, profiles, records)
    return histories(settings, records, profiles)


def histories(settings: Settings, records: Iterable[Record], profiles: Profiles) -> Kept:
    """The whole sequences of the users of these records, as of a moment after the newest action."""
    happened = [event for _, event in _actions(settings, records)]
    after_ms = max(event.at_ms for event in happened) + 1
    users = sorted({event.user for event in happened})
    return {user: profiles.get(key_of("user", user), after_ms, settings.stream.max_history) for user in users}


def n_new(settings: Settings, records: Iterable[Record]) -> int:
    """How many of the records add a behaviour."""
    return sum(put_in(settings, _in_memory(settings), records))


def put_in(settings: Settings, profiles: Profiles, records: Iterable[Record]) -> list[bool]:
    """Put the behaviours among these in order; whether each is new."""
    return profiles.put_many(
        [
            Put(
                key_of("user", event.user),
                Origin(record.partition, record.offset, 0),
                settings.fields.item_keys(event.item, event.features),
                event.at_ms,
                key_of("kind", event.kind),
            )
            for record, event in _actions(settings, records)
        ]
    )


def total(kept: Kept) -> int:
    """Behaviours of all users."""
    return sum(len(at_ms) for _, at_ms in kept.values())


def same(kept: Kept, wanted: Kept) -> bool:
    """Whether two are equal; that what is wanted holds anything is asserted."""
    assert total(wanted) > 0, "expected behaviours to compare, got none"
    return kept.keys() == wanted.keys() and all(
        np.array_equal(a, b) for user in kept for a, b in zip(kept[user], wanted[user], strict=True)
    )


def _in_memory(settings: Settings) -> MemoryProfiles:
    stream = settings.stream
    return MemoryProfiles(len(settings.fields.item), stream.max_history, stream.history_ttl_ms)


def _actions(settings: Settings, records: Iterable[Record]) -> Iterator[tuple[Record, Action]]:
    """Those of the records that extend a history."""
    for record in records:
        try:
            event = decode_event(record.value)
        except BadEvent:
            continue
        if isinstance(event, Action) and event.kind in settings.stream.history_kinds:
            yield record, event
