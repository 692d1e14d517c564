"""What every implementation of Profiles does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from secrets import token_hex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Origin
from stream.fields import Feature, Fields
from stream.log import Unavailable
from stream.profiles import MemoryProfiles, Profiles, Put
from stream.redis_client import Client
from stream.redis_profiles import RedisProfiles

TWO = Fields([Feature("topic", "item")])


@dataclass(frozen=True)
class Make:
    """How an implementation is made, and how many examples its speed allows."""

    new: Callable[[int, int], Profiles]
    """From max_history and ttl_ms; two keys a behaviour."""
    n_examples: int

    def __call__(self, max_history: int, ttl_ms: int) -> Profiles:
        return self.new(max_history, ttl_ms)

    @property
    def steadily(self) -> settings:
        return settings(deadline=None, derandomize=True, max_examples=self.n_examples, database=None)


@pytest.fixture(scope="module", params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param == "memory":
        yield Make(lambda max_history, ttl_ms: MemoryProfiles(2, max_history, ttl_ms), 100)
        return
    client = Client(request.getfixturevalue("redis_server").url)
    yield Make(lambda n, ttl_ms: RedisProfiles(client, TWO, n, ttl_ms, f"test-{token_hex(4)}"), 40)
    client.close()


Behaviour = tuple[int, int, int, int]
"""User, item, at_ms, kind; its place in the list is its offset."""
behaviours = st.lists(
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 20), st.integers(1, 2)), max_size=30
)


def as_put(offset: int, b: Behaviour) -> Put:
    user, item, at_ms, kind = b
    return Put(user, Origin(user % 2, offset, 0), [item, 2**64 - item], at_ms, kind)


def put(profiles: Profiles, offset: int, b: Behaviour) -> bool:
    return profiles.put(*as_put(offset, b))


def got(profiles: Profiles, user: int, at_ms: int, limit: int) -> list[tuple[list[int], int]]:
    keys, at = profiles.get(user, at_ms, limit)
    assert keys.shape == (len(at), 2)
    return list(zip(keys.tolist(), at.tolist(), strict=True))


def expected(
    log: list[Behaviour], user: int, at_ms: int, limit: int, ttl_ms: int
) -> list[tuple[list[int], int]]:
    mine = sorted((b for b in dict.fromkeys(log) if b[0] == user), key=lambda b: b[2])
    found = [([b[1], 2**64 - b[1]], b[2]) for b in mine if at_ms - ttl_ms <= b[2] < at_ms]
    return found[-limit:]


def test_a_sequence_is_the_most_recent_behaviours_strictly_before(make: Make) -> None:
    @make.steadily
    @given(behaviours, st.integers(0, 25), st.integers(1, 8), st.integers(1, 20))
    def holds(log: list[Behaviour], at_ms: int, limit: int, ttl_ms: int) -> None:
        profiles = make(100, ttl_ms)
        for offset, b in enumerate(log):
            assert put(profiles, offset, b) == (b not in log[:offset])
        for user in (1, 2, 3):
            assert got(profiles, user, at_ms, limit) == expected(log, user, at_ms, limit, ttl_ms)

    holds()


def test_many_at_once_are_as_one_after_another(make: Make) -> None:
    @make.steadily
    @given(behaviours, st.integers(1, 9), st.integers(1, 4))
    def holds(log: list[Behaviour], n: int, max_history: int) -> None:
        single, batches = make(max_history, 1000), make(max_history, 1000)
        puts = [as_put(offset, b) for offset, b in enumerate(log)]
        for at in range(0, len(puts), n):
            said = [single.put(*one) for one in puts[at : at + n]]
            assert batches.put_many(puts[at : at + n]) == said
            assert batches.put_many(puts[: at + n]) == [False] * len(puts[: at + n])
        for user in (1, 2):
            assert got(batches, user, 100, 100) == got(single, user, 100, 100)

    holds()


def test_reading_a_part_of_the_log_again_changes_nothing(make: Make) -> None:
    @make.steadily
    @given(behaviours, st.data())
    def holds(log: list[Behaviour], data: st.DataObject) -> None:
        profiles = make(100, 1000)
        for offset, b in enumerate(log):
            put(profiles, offset, b)
            if data.draw(st.booleans(), label="again"):
                first = data.draw(st.integers(0, offset), label="from")
                assert not any(put(profiles, i, log[i]) for i in range(first, offset + 1))
        for user in (1, 2):
            assert got(profiles, user, 100, 100) == expected(log, user, 100, 100, 1000)

    holds()


def test_a_replayed_action_does_not_return_after_it_was_pushed_out(make: Make) -> None:
    profiles = make(1, 1000)
    for offset in range(10):
        assert put(profiles, offset, (1, 1, offset, 1))
    assert not put(profiles, 0, (1, 1, 0, 1))
    assert got(profiles, 1, 100, 100) == [([1, 2**64 - 1], 9)]


def test_the_most_recent_are_kept_however_many_come(make: Make) -> None:
    @make.steadily
    @given(behaviours, st.integers(1, 4))
    def holds(log: list[Behaviour], max_history: int) -> None:
        profiles = make(max_history, 1000)
        for offset, b in enumerate(log):
            put(profiles, offset, b)
            assert got(profiles, b[0], 100, 100) == expected(log[: offset + 1], b[0], 100, max_history, 1000)

    holds()


def test_one_of_the_last_millisecond_kept_is_still_known(make: Make) -> None:
    profiles = make(1, 1000)
    for offset, b in enumerate([(1, 1, 1, 1), (1, 2, 5, 1), (1, 3, 5, 1)]):
        assert put(profiles, offset, b)
    assert not put(profiles, 3, (1, 2, 5, 1))
    assert got(profiles, 1, 100, 100) == [([3, 2**64 - 3], 5)]


def test_a_late_one_finds_its_place_however_far_back(make: Make) -> None:
    profiles = make(200, 10_000)
    for offset, at_ms in enumerate(range(2, 402, 2)):
        assert put(profiles, offset, (1, 1, at_ms, 1))
    for offset, at_ms in enumerate((399, 3, 201, 1, 401, 201, 200), 1000):
        assert put(profiles, offset, (1, 2 + (offset == 1005), at_ms, 1))
    for offset, at_ms in enumerate((399, 3, 201, 2, 400), 2000):
        assert not put(profiles, offset, (1, 2 if at_ms % 2 else 1, at_ms, 1))
    _, at = profiles.get(1, 500, 300)
    assert len(at) == 200
    assert at.tolist() == sorted(at.tolist())
    late = [(item, at_ms) for (item, _), at_ms in got(profiles, 1, 500, 300) if item != 1]
    assert late == [(2, 200), (2, 201), (3, 201), (2, 399), (2, 401)]


def test_a_user_who_comes_from_another_partition_is_heard(make: Make) -> None:
    profiles = make(100, 1000)
    assert profiles.put(1, Origin(5, 1000, 0), [1, 1], 10, 1)
    assert profiles.put(1, Origin(0, 3, 0), [2, 2], 11, 1)
    assert not profiles.put(1, Origin(0, 3, 0), [3, 3], 12, 1)


def test_a_user_who_comes_back_to_a_partition_is_known_there(make: Make) -> None:
    profiles = make(100, 1000)
    assert profiles.put(1, Origin(5, 2**40, 2), [1, 1], 10, 1)
    assert profiles.put(1, Origin(0, 3, 0), [2, 2], 11, 1)
    assert profiles.put(1, Origin(70_000, 0, 0), [3, 3], 12, 1)
    for known in (Origin(5, 2**40, 2), Origin(5, 2**40, 1), Origin(5, 7, 9), Origin(0, 3, 0)):
        assert not profiles.put(1, known, [4, 4], 13, 1)
    assert profiles.put(1, Origin(5, 2**40, 3), [5, 5], 9, 1)
    assert [keys[0] for keys, _ in got(profiles, 1, 100, 100)] == [5, 1, 2, 3]


def test_the_place_of_a_partition_moves_forward_from_where_it_began(make: Make) -> None:
    profiles = make(1, 1000)
    assert profiles.place(0) is None
    profiles.begin(0, 5)
    profiles.begin(300, 2**40)
    profiles.advance({0: (5, 7), 300: (2**40, 2**40)})
    assert (profiles.place(0), profiles.place(300), profiles.place(1)) == (7, 2**40, None)
    profiles.advance({0: (6, 6)})  # by one who is behind another
    assert profiles.place(0) == 7


def test_a_place_that_was_lost_is_told_and_not_noted_again(make: Make) -> None:
    profiles = make(1, 1000)
    with pytest.raises(Unavailable, match=r"partition 3: expected to keep .* before offset 0, got None"):
        profiles.advance({3: (0, 9)})
    assert profiles.place(3) is None
    profiles.begin(3, 9)
    profiles.begin(3, 4)
    with pytest.raises(Unavailable, match=r"partition 3: expected to keep .* before offset 5, got 4"):
        profiles.advance({3: (5, 9)})
    assert profiles.place(3) == 4


def test_nothing_is_put_where_a_place_was_lost(make: Make) -> None:
    profiles = make(10, 1000)
    with pytest.raises(Unavailable, match=r"partition 1: expected to keep .* before offset 7, got None"):
        profiles.put_many([as_put(9, (1, 1, 5, 1))], {1: 7})
    assert got(profiles, 1, 100, 100) == []
    profiles.begin(0, 50)
    profiles.begin(1, 0)
    with pytest.raises(Unavailable, match=r"partition 1: expected to keep .* before offset 7, got 0"):
        profiles.put_many([as_put(9, (1, 1, 5, 1))], {0: 50, 1: 7})
    assert got(profiles, 1, 100, 100) == []
    log = [(1, item, at_ms, 1) for at_ms, item in enumerate((1, 2, 3))]  # from the beginning, as after a loss
    assert profiles.put_many([as_put(i, b) for i, b in enumerate(log)], {0: 50, 1: 0}) == [True] * 3
    assert got(profiles, 1, 100, 100) == expected(log, 1, 100, 100, 1000)
