"""A history against a plain sorted list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import history as module
from stream.history import History

Behaviour = tuple[tuple[int, int], int, int]

keys = st.tuples(st.sampled_from([1, 2**63, 2**64 - 1]), st.integers(0, 1))
behaviours = st.lists(st.tuples(keys, st.integers(0, 12), st.integers(1, 2)), max_size=25)
steadily = settings(deadline=None, derandomize=True)
limits, ttls = st.integers(1, 6), st.integers(1, 12)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """So that a few behaviours make several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 3)
        yield


def history_of(added: list[Behaviour]) -> History:
    history = History(n_fields=2)
    for k, at_ms, kind in added:
        history.add(k, at_ms, kind)
    return history


def listed(added: list[Behaviour]) -> list[Behaviour]:
    """Each once, the first that came; sorted by time, those of one time as they came."""
    once = list(dict.fromkeys(added))
    return sorted(once, key=lambda b: b[1])


def seen(history: History, *args: int) -> list[tuple[tuple[int, ...], int]]:
    k, at = history.before(*args)
    assert k.dtype == np.uint64
    assert at.dtype == np.int64
    return [(tuple(row), t) for row, t in zip(k.tolist(), at.tolist(), strict=True)]


def expected(
    added: list[Behaviour], at_ms: int, limit: int, ttl_ms: int
) -> list[tuple[tuple[int, int], int]]:
    found = [(k, t) for k, t, _ in listed(added) if at_ms - ttl_ms <= t < at_ms]
    return found[-limit:]


@steadily
@given(behaviours, st.integers(0, 14), limits, ttls)
def test_what_lies_before_a_moment_is_what_a_sorted_list_gives(
    added: list[Behaviour], at_ms: int, limit: int, ttl_ms: int
) -> None:
    assert seen(history_of(added), at_ms, limit, ttl_ms) == expected(added, at_ms, limit, ttl_ms)


@steadily
@given(behaviours)
def test_a_behaviour_is_added_once(added: list[Behaviour]) -> None:
    history, known = History(n_fields=2), set[Behaviour]()
    for b in added:
        assert history.add(*b) == (b not in known)
        known.add(b)
    assert len(history) == len(known)
    assert history.newest_ms == max((b[1] for b in known), default=-1)


@steadily
@given(behaviours, behaviours, st.integers(0, 12), st.integers(0, 5), limits, ttls)
def test_trimming_changes_no_answer_from_then_on(
    added: list[Behaviour], later: list[Behaviour], from_ms: int, ahead_ms: int, limit: int, ttl_ms: int
) -> None:
    trimmed, later = history_of(added), [b for b in later if b[1] >= from_ms]
    n = len(trimmed)
    assert trimmed.trim(from_ms, limit, ttl_ms) == n - len(trimmed)
    for b in later:
        trimmed.add(*b)
    at_ms = from_ms + ahead_ms
    assert seen(trimmed, at_ms, limit, ttl_ms) == expected(added + later, at_ms, limit, ttl_ms)


@steadily
@given(behaviours, st.integers(0, 12), limits, ttls)
def test_trimming_leaves_only_what_an_answer_can_need(
    added: list[Behaviour], from_ms: int, limit: int, ttl_ms: int
) -> None:
    history = history_of(added)
    history.trim(from_ms, limit, ttl_ms)
    kept = [b for b in listed(added) if b[1] >= from_ms - ttl_ms]
    n_before = sum(b[1] < from_ms for b in kept)
    assert len(history) == len(kept) - max(n_before - limit, 0)
    assert history.trim(from_ms, limit, ttl_ms) == 0


moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), behaviours),
        st.tuples(st.just("trim"), st.integers(0, 14)),
        st.tuples(st.sampled_from(["keep", "keep all", "restart"]), st.none()),
    ),
    max_size=12,
)


@given(moves, limits, ttls)
@settings(steadily, max_examples=300)
def test_kept_blocks_with_what_changed_laid_over_are_the_history(
    moves: list[Any], limit: int, ttl_ms: int
) -> None:
    was, kept = History(n_fields=2), dict[int, bytes]()
    oldest_ms = 0  # what a history was trimmed to is not added to any more
    for move, what in [*moves, ("keep", None)]:
        if move == "add":
            for b in what:
                if b[1] >= oldest_ms:
                    was.add(*b)
        elif move == "trim":
            oldest_ms = max(oldest_ms, what)
            was.trim(oldest_ms, limit, ttl_ms)
        elif move == "keep all":
            kept = was.blocks()
        else:
            for n, raw in was.changed_blocks().items():
                kept.pop(n, None) if raw is None else kept.update({n: raw})
        copy = (
            History.of_blocks(kept, 2, was.first, was.end) if move in ("keep", "keep all", "restart") else was
        )
        assert seen(copy, 99) == seen(was, 99)
        assert copy.blocks() == was.blocks()
        if move == "restart":
            assert copy.changed_blocks() == {}
            was = copy
    assert kept.keys() == was.blocks().keys()
    assert len(kept) <= len(was) / 3 + 2


def test_one_more_behaviour_changes_the_newest_block_alone() -> None:
    history = history_of([((1, n), n, 1) for n in range(10)])
    assert list(history.changed_blocks()) == [0, 1, 2, 3]
    assert history.changed_blocks() == {}
    history.add((1, 1), 10, 1)
    assert list(history.changed_blocks()) == [3]
    history.add((2, 2), 4, 1)  # late: those after it get other numbers
    assert list(history.changed_blocks()) == [1, 2, 3]
    history.trim(8, limit=4)  # behaviours 0 to 4
    assert history.changed_blocks() == {0: None}
    history.trim(99, limit=0)
    assert history.changed_blocks() == {1: None, 2: None, 3: None}


@pytest.fixture
def blocks() -> dict[int, bytes]:
    return history_of([((1, n), n, 1) for n in range(8)]).blocks()


def test_blocks_that_are_not_whole_are_refused(blocks: dict[int, bytes]) -> None:
    for n in blocks:
        with pytest.raises(ValueError, match=f"history: expected blocks 0 to 2, got none {n}"):
            History.of_blocks({i: raw for i, raw in blocks.items() if i != n}, 2, 0, 8)
        for size in range(len(blocks[n])):
            with pytest.raises(ValueError, match="history: expected"):
                History.of_blocks(blocks | {n: blocks[n][:size]}, 2, 0, 8)
    with pytest.raises(ValueError, match="history: expected"):
        History.of_blocks(blocks, 2, 0, 9)
    with pytest.raises(ValueError, match="history: expected"):
        History.of_blocks(blocks | {1: blocks[2]}, 2, 0, 8)


def test_blocks_of_other_fields_are_refused(blocks: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="expected 3 keys a behaviour, got 2"):
        History.of_blocks(blocks, 3, 0, 8)


def test_what_was_given_out_does_not_change() -> None:
    history = history_of([((1, 1), 1, 1)])
    given_out, _ = history.before(5)
    history.add((2, 2), 0, 1)
    assert given_out.tolist() == [[1, 1]]
