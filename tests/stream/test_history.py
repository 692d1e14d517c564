"""A history against a plain sorted list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.history import History

Behaviour = tuple[tuple[int, int], int, int]

keys = st.tuples(st.sampled_from([1, 2**63, 2**64 - 1]), st.integers(0, 1))
behaviours = st.lists(st.tuples(keys, st.integers(0, 12), st.integers(1, 2)), max_size=25)
steadily = settings(deadline=None, derandomize=True)
limits, ttls = st.integers(1, 6), st.integers(1, 12)


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


@steadily
@given(behaviours, behaviours)
def test_a_decoded_history_goes_on_like_the_one_encoded(
    added: list[Behaviour], later: list[Behaviour]
) -> None:
    history = history_of(added)
    copy = History.decode(history.encode(), n_fields=2)
    assert [copy.add(*b) for b in later] == [history.add(*b) for b in later]
    assert copy.encode() == history.encode()


@steadily
@given(behaviours, st.data())
def test_a_history_that_is_not_whole_is_refused(added: list[Behaviour], data: st.DataObject) -> None:
    raw = history_of(added).encode()
    with pytest.raises(ValueError, match="history: expected"):
        History.decode(raw[: data.draw(st.integers(0, len(raw) - 1))], n_fields=2)


def test_a_history_of_other_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 keys a behaviour, got 2"):
        History.decode(History(n_fields=2).encode(), n_fields=3)


def test_what_was_given_out_does_not_change() -> None:
    history = history_of([((1, 1), 1, 1)])
    given_out, _ = history.before(5)
    history.add((2, 2), 0, 1)
    assert given_out.tolist() == [[1, 1]]
