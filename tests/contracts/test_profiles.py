"""What every implementation of Profiles does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Origin
from stream.profiles import MemoryProfiles, Profiles

Make = Callable[[int, int], Profiles]
"""From max_history and ttl_ms; two keys a behaviour."""


def in_memory(max_history: int, ttl_ms: int) -> Profiles:
    return MemoryProfiles(2, max_history, ttl_ms)


steadily = settings(deadline=None, derandomize=True)
each = pytest.mark.parametrize("make", [in_memory])

Put = tuple[int, int, int, int]
"""User, item, at_ms, kind; its place in the list is its offset."""
puts = st.lists(
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 20), st.integers(1, 2)), max_size=30
)


def put(profiles: Profiles, offset: int, p: Put) -> bool:
    user, item, at_ms, kind = p
    return profiles.put(user, Origin(user % 2, offset, 0), [item, 2**64 - item], at_ms, kind)


def got(profiles: Profiles, user: int, at_ms: int, limit: int) -> list[tuple[list[int], int]]:
    keys, at = profiles.get(user, at_ms, limit)
    assert keys.shape == (len(at), 2)
    return list(zip(keys.tolist(), at.tolist(), strict=True))


def expected(log: list[Put], user: int, at_ms: int, limit: int, ttl_ms: int) -> list[tuple[list[int], int]]:
    mine = sorted((p for p in dict.fromkeys(log) if p[0] == user), key=lambda p: p[2])
    found = [([p[1], 2**64 - p[1]], p[2]) for p in mine if at_ms - ttl_ms <= p[2] < at_ms]
    return found[-limit:]


@each
@steadily
@given(puts, st.integers(0, 25), st.integers(1, 8), st.integers(1, 20))
def test_a_sequence_is_the_most_recent_behaviours_strictly_before(
    make: Make, log: list[Put], at_ms: int, limit: int, ttl_ms: int
) -> None:
    profiles = make(100, ttl_ms)
    for offset, p in enumerate(log):
        put(profiles, offset, p)
    for user in (1, 2, 3):
        assert got(profiles, user, at_ms, limit) == expected(log, user, at_ms, limit, ttl_ms)


@each
@steadily
@given(puts, st.data())
def test_reading_a_part_of_the_log_again_changes_nothing(
    make: Make, log: list[Put], data: st.DataObject
) -> None:
    profiles = make(100, 1000)
    for offset, p in enumerate(log):
        put(profiles, offset, p)
        if data.draw(st.booleans(), label="again"):
            first = data.draw(st.integers(0, offset), label="from")
            assert not any(put(profiles, i, log[i]) for i in range(first, offset + 1))
    for user in (1, 2):
        assert got(profiles, user, 100, 100) == expected(log, user, 100, 100, 1000)


@each
def test_a_replayed_action_does_not_return_after_it_was_pushed_out(make: Make) -> None:
    profiles = make(1, 1000)
    for offset in range(10):
        assert put(profiles, offset, (1, 1, offset, 1))
    assert not put(profiles, 0, (1, 1, 0, 1))
    assert got(profiles, 1, 100, 100) == [([1, 2**64 - 1], 9)]


@each
@steadily
@given(puts, st.integers(1, 4))
def test_the_most_recent_are_kept_however_many_come(make: Make, log: list[Put], max_history: int) -> None:
    profiles = make(max_history, 1000)
    for offset, p in enumerate(log):
        put(profiles, offset, p)
        assert got(profiles, p[0], 100, 100) == expected(log[: offset + 1], p[0], 100, max_history, 1000)


@each
def test_a_user_who_comes_from_another_partition_is_heard(make: Make) -> None:
    profiles = make(100, 1000)
    assert profiles.put(1, Origin(5, 1000, 0), [1, 1], 10, 1)
    assert profiles.put(1, Origin(0, 3, 0), [2, 2], 11, 1)
    assert not profiles.put(1, Origin(0, 3, 0), [3, 3], 12, 1)
