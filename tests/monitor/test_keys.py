"""Keys: what is kept depends on what there was; what was seen, on when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.keys import KeyCounts, levels
from monitor.popular import Popular, cells_of
from monitor.seen import Seen
from trainer.keymap import mix

RNG = np.random.default_rng(0)


def some(n: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return RNG.integers(1, 2**64, n, dtype=np.uint64)


def test_a_level_is_the_number_of_leading_zero_bits() -> None:
    keys = np.append(some(500), np.uint64(0))
    assert levels(keys).tolist() == [64 - int(mix(k)).bit_length() for k in keys]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    drawn=st.lists(st.integers(0, 60), max_size=120),
    cuts=st.lists(st.integers(0, 120), max_size=4),
    most=st.integers(1, 30),
)
def test_parts_merge_to_what_the_whole_would_be(drawn: list[int], cuts: list[int], most: int) -> None:
    keys = np.array(drawn, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    whole = KeyCounts(most)
    whole.add(keys)
    merged = KeyCounts(most)
    for part in reversed(np.split(keys, sorted(cuts))):
        own = KeyCounts(most)
        own.add(part)
        merged.merge(KeyCounts.decode(own.encode()))
    assert (merged.level, merged.keys.tolist(), merged.counts.tolist()) == (
        whole.level,
        whole.keys.tolist(),
        whole.counts.tolist(),
    )
    exact = Counter(keys.tolist())
    assert all(exact[k] == n for k, n in zip(whole.keys.tolist(), whole.counts.tolist(), strict=True))
    assert len(whole.keys) <= most or whole.level == 64
    if len(exact) <= most:
        assert len(whole.keys) == len(exact)


def test_a_key_was_seen_from_its_first_minute_on_whatever_the_order() -> None:
    keys = some(300)
    minutes = np.repeat([5, 70, 900], 100)
    for order in (np.arange(300), np.arange(300)[::-1]):
        seen = Seen(1 << 14)
        for i in order:
            seen.add(keys[i : i + 1], 28_000_000 + int(minutes[i]))
            seen.add(keys[i : i + 1], 28_000_000 + int(minutes[i]) + 3)
        for minute in (5, 6, 70, 71, 901):
            before = seen.before(keys, 28_000_000 + minute)
            assert before[minutes < minute].all()
            assert before[minutes >= minute].sum() <= 3
    assert Seen.decode(seen.encode()).before(keys, 28_000_901).all()


def test_what_was_seen_is_known_months_later() -> None:
    seen, keys = Seen(1 << 12), some(20)
    for day in range(100):
        seen.add(keys if day == 0 else some(1), 28_000_000 + day * 1_440)
        assert seen.before(keys, 28_000_000 + day * 1_440 + 1).all()
        assert not seen.before(keys, 28_000_000).any()


def test_the_share_of_unseen_keys_is_right_in_a_filter_that_fills() -> None:
    seen = Seen(1 << 12)
    old = some(2_000)
    seen.add(old, 28_000_000)
    counts = KeyCounts()
    counts.add(np.concatenate([old[:1_000], some(500)]))
    seen.add(counts.keys, 28_000_010)  # its own minute does not make a key known
    new, n = seen.unseen(counts, 28_000_010)
    fill = 1 - np.exp(-3 * 2_000 / 4_096)
    assert n == 1_500
    assert new / n / (1 - fill**3) == pytest.approx(1 / 3, rel=0.1)


def test_a_filter_is_full_from_the_same_minute_on_however_far_was_read_ahead() -> None:
    keys = [some(700) for _ in range(12)]
    found = []
    for ahead in (0, 1, 5):
        seen, full = Seen(1 << 12), []
        for minute in range(12 + ahead):
            if minute < 12:
                seen.add(keys[minute], 28_000_000 + minute)
            if minute >= ahead and seen.close(28_000_000 + minute - ahead):
                full.append(minute - ahead)
            seen = Seen.decode(seen.encode())
        found.append(full)
        assert [seen.is_full(28_000_000 + m) for m in range(12)] == [m > full[0] for m in range(12)]
    assert found == [[4]] * 3


def test_half_of_what_is_shown_is_the_head() -> None:
    items = some(1_000)
    weight = 1 / np.arange(1, 1_001)
    popular = Popular()
    for slot in range(3):
        popular.close(slot * 600_000, cells_of(RNG.choice(items, 20_000, p=weight / weight.sum())))
    head = popular.head(items, 4 * 600_000)
    assert head is not None
    assert weight[head].sum() / weight.sum() == pytest.approx(0.5, abs=0.06)
    assert head[:5].all()
    assert not head[500:].mean() > 0.05
    assert popular.head(items, 600_000) is None
