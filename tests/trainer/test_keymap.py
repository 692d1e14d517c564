"""KeyMap against a dict, through every size, and in the middle of every move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.keymap import KeyMap, mix

# In tables of up to 512 slots all of these have the last one as their place, so that they wrap around.
CROWDED = [key for key in range(1, 60_000) if int(mix(np.uint64(key))) >> 55 == 511]

few_keys = st.sampled_from([*range(1, 40), *CROWDED[:40], 2**64 - 1, 2**63])
operations = st.one_of(
    st.tuples(st.just("put"), st.lists(few_keys, max_size=30)),
    st.tuples(st.just("remove"), st.lists(few_keys, max_size=30)),
    st.tuples(st.just("room"), st.integers(0, 400)),
)


def agree(found: KeyMap, expected: dict[int, int], also: list[int]) -> None:
    keys = np.array([*expected, *also], np.uint64)
    assert found.find(keys).tolist() == [expected.get(int(key), -1) for key in keys]
    assert len(found) == len(expected)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(operations, max_size=25))
def test_any_calls_leave_what_a_dict_would_hold(calls: list[tuple[str, list[int] | int]]) -> None:
    found, expected, value = KeyMap(), dict[int, int](), 0
    for name, argument in calls:
        if isinstance(argument, int):
            found.room(argument)
        elif name == "put":
            values = range(value, value + len(argument))
            value += len(argument)
            found.put(np.array(argument, np.uint64), np.array(values, np.int64))
            expected.update(zip(argument, values, strict=True))
        else:
            there = len(expected.keys() & set(argument))
            assert found.remove(np.array(argument, np.uint64)) == there
            for key in argument:
                expected.pop(key, None)
        agree(found, expected, [0, 1, CROWDED[0], CROWDED[50]])
    keys, numbers = found.items()
    assert list(zip(keys.tolist(), numbers.tolist(), strict=True)) == sorted(expected.items())


def test_every_key_is_found_and_can_go_at_every_moment_of_every_move() -> None:
    rng = np.random.default_rng(5)
    keys = np.concatenate([rng.integers(1, 2**64, 1500, np.uint64), np.array(CROWDED[:60], np.uint64)])
    keys = rng.permutation(keys)
    found, expected, moving = KeyMap(), dict[int, int](), 0
    for i, key in enumerate(keys.tolist()):
        found.put([np.uint64(key)], [i])
        expected[key] = i
        moving += found.slots.old.size > 0
        assert (found.find(keys[: i + 1]) >= 0).sum() == len(expected)
        if i % 3 == 0:
            gone = int(rng.choice(np.fromiter(expected, np.uint64)))
            assert found.remove([np.uint64(gone)]) == 1
            del expected[gone]
            agree(found, expected, [gone, 1])
    assert moving > 100


def test_a_new_key_moves_a_bounded_number_of_slots() -> None:
    rng = np.random.default_rng(6)
    found = KeyMap()
    found.put(rng.integers(1, 2**64, 2**15, np.uint64), np.arange(2**15))
    worst = 0
    for key in rng.integers(1, 2**64, 5_000, np.uint64):
        was = int(found.slots.meta[1]) if found.slots.old.size else 0
        found.put([key], [0])
        worst = max(worst, int(found.slots.meta[1]) - was)
    assert 8 <= worst < 100  # eight and the rest of a group, never the 65,536 of the table


def test_a_table_is_at_most_half_full_and_keeps_that_when_keys_come_and_go() -> None:
    found = KeyMap()
    for start in range(1, 200_000, 1000):
        keys = np.arange(start, start + 1000, dtype=np.uint64)
        found.put(keys, keys.astype(np.int64))
        found.remove(keys[:-1])
        assert 2 * len(found) <= len(found.slots.table) <= 4096
    assert len(found) == 200


def test_large_values_come_back() -> None:
    found = KeyMap()
    found.put([1, 2], [2**63 - 2, 2**53])
    assert found.find([1, 2]).tolist() == [2**63 - 2, 2**53]


@pytest.mark.parametrize(("keys", "values"), [([0], [1]), ([1, 2], [5, -1]), ([1, 2], [1])])
def test_what_cannot_be_stored_is_refused_and_nothing_is_stored(keys: list[int], values: list[int]) -> None:
    found = KeyMap()
    with pytest.raises(ValueError, match="expected"):
        found.put(keys, values)
    assert len(found) == 0
