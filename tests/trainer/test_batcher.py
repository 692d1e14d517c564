"""Batches against a sort of everything."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Sample, Tick
from tests.trainer.samples import make_samples
from trainer.batcher import Batcher, OutOfOrderError, Ranges

N_SAMPLES, SPAN_MS = 3, 10
TEMPLATE = make_samples(1)[0]


class At(NamedTuple):
    """A record of the log; samples are told apart by their places."""

    partition: int
    offset: int
    message: Sample | Tick


Taken = tuple[list[tuple[int, int]], Ranges]


def closing(closed_ms: int, name: str = "") -> Sample:
    return msgspec.structs.replace(TEMPLATE, closed_ms=closed_ms, impression=name)


@st.composite
def partitions(draw: st.DrawFn) -> list[list[At]]:
    """Up to three partitions, each in order, with offsets that jump as those of a transactional topic do.

    Under the eager policy samples close by the clock, and Ticks come behind with the watermark.
    """
    made, is_eager = [], draw(st.booleans())
    for p in range(draw(st.integers(1, 3))):
        records, offset, complete_ms, closed_ms, told_ms = [], 0, -1, 0, 0
        for _ in range(draw(st.integers(0, 12))):
            offset += draw(st.sampled_from([1, 1, 1, 3]))
            if draw(st.booleans()):
                closed_ms = max(closed_ms, complete_ms + 1) + draw(st.sampled_from([0, 0, 1, 2, 9, 25]))
                complete_ms = max(complete_ms, closed_ms - 1)
                records.append(At(p, offset, closing(closed_ms, f"{p}:{offset}")))
            else:
                told_ms = told_ms if is_eager else max(0, complete_ms)
                told_ms += draw(st.sampled_from([0, 1, 5, 30]))
                records.append(At(p, offset, Tick(told_ms)))
                complete_ms = max(complete_ms, told_ms)
        made.append(records)
    return made


def oracle(records: Iterable[At]) -> list[Taken]:
    """All samples sorted, cut where a span ends and where a batch is full."""
    ordered = sorted(
        (r.message.closed_ms, r.partition, r.offset) for r in records if isinstance(r.message, Sample)
    )
    batches: list[Taken] = []
    for _, of_span in groupby(ordered, lambda place: place[0] // SPAN_MS):
        places = [(p, offset) for _, p, offset in of_span]
        for i in range(0, len(places), N_SAMPLES):
            batch = places[i : i + N_SAMPLES]
            offsets = {p: [o for q, o in batch if q == p] for p, _ in batch}
            batches.append((batch, {p: (o[0], o[-1] + 1) for p, o in offsets.items()}))
    return batches


def take_all(batcher: Batcher, end: bool = False) -> list[Taken]:
    taken = []
    while (batch := batcher.take(end)) is not None:
        samples, ranges = batch
        names = [s.impression.split(":") for s in samples]
        taken.append(([(int(p), int(offset)) for p, offset in names], ranges))
    return taken


def interleaved(data: st.DataObject, lanes: list[list[At]]) -> list[At]:
    """The records of all partitions, each partition in its order."""
    turns = data.draw(st.permutations([p for p, lane in enumerate(lanes) for _ in lane]))
    left = [iter(lane) for lane in lanes]
    return [next(left[p]) for p in turns]


@given(partitions(), st.data())
@settings(max_examples=300, deadline=None)
def test_batches_are_a_sort_cut_by_size_and_span_however_the_log_is_polled(
    lanes: list[list[At]], data: st.DataObject
) -> None:
    batcher = Batcher(range(len(lanes)), N_SAMPLES, SPAN_MS)
    taken = []
    for record in interleaved(data, lanes):
        batcher.add(*record)
        if data.draw(st.booleans()):
            taken += take_all(batcher)
    taken += take_all(batcher, end=True)
    assert taken == oracle(r for lane in lanes for r in lane)


@given(partitions(), st.data())
@settings(max_examples=100, deadline=None)
def test_nothing_waits_for_the_end_once_every_partition_is_past_it(
    lanes: list[list[At]], data: st.DataObject
) -> None:
    batcher = Batcher(range(len(lanes)), N_SAMPLES, SPAN_MS)
    for record in interleaved(data, lanes):
        batcher.add(*record)
    for p in range(len(lanes)):
        batcher.add(p, 10**6, Tick(10**6))
    assert take_all(batcher) == oracle(r for lane in lanes for r in lane)


@given(partitions(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_batcher_that_starts_behind_any_batch_makes_the_rest(
    lanes: list[list[At]], data: st.DataObject
) -> None:
    expected = oracle(r for lane in lanes for r in lane)
    n_done = data.draw(st.integers(0, len(expected)))
    offsets = dict.fromkeys(range(len(lanes)), 0)
    for _, ranges in expected[:n_done]:
        offsets.update({p: to for p, (_, to) in ranges.items()})
    batcher = Batcher(offsets, N_SAMPLES, SPAN_MS)
    for record in interleaved(
        data, [[r for r in lane if r.offset >= offsets[r.partition]] for lane in lanes]
    ):
        batcher.add(*record)
    assert take_all(batcher, end=True) == expected[n_done:]


def heard(batcher: Batcher, end: bool = False) -> list[tuple[int, int] | str]:
    """Places of Ticks, and batches by their first sample, in the order in which they come."""
    found: list[tuple[int, int] | str] = []
    while (batch := batcher.take(end)) is not None:
        found += [(t.partition, t.offset) for t in batcher.ticks()]
        found.append(batch[0][0].impression)
    return found + [(t.partition, t.offset) for t in batcher.ticks()]


def between(order: list[tuple[int, int] | str]) -> list[list[tuple[int, int]]]:
    """The Ticks before each batch, and after the last one."""
    parts: list[list[tuple[int, int]]] = [[]]
    for one in order:
        parts.append([]) if isinstance(one, str) else parts[-1].append(one)
    return parts


@given(partitions(), st.data())
@settings(max_examples=300, deadline=None)
def test_ticks_come_before_the_same_batches_however_the_log_is_polled(
    lanes: list[list[At]], data: st.DataObject
) -> None:
    whole = Batcher(range(len(lanes)), N_SAMPLES, SPAN_MS)
    for lane in lanes:
        for record in lane:
            whole.add(*record)
    expected = heard(whole, end=True)
    batcher = Batcher(range(len(lanes)), N_SAMPLES, SPAN_MS)
    found = []
    for record in interleaved(data, lanes):
        batcher.add(*record)
        if data.draw(st.booleans()):
            found += heard(batcher)
    found += heard(batcher, end=True)

    assert [one for one in found if isinstance(one, str)] == [one for one in expected if isinstance(one, str)]
    assert between(found)[:-1] == between(expected)[:-1]
    for p, lane in enumerate(lanes):  # each once, in the order of its partition
        offsets = [one[1] for one in found if not isinstance(one, str) and one[0] == p]
        assert offsets == [r.offset for r in lane if isinstance(r.message, Tick)][: len(offsets)]


@given(partitions(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_batcher_that_starts_behind_any_batch_tells_the_ticks_that_were_not_told(
    lanes: list[list[At]], data: st.DataObject
) -> None:
    first = Batcher(range(len(lanes)), N_SAMPLES, SPAN_MS)
    for record in interleaved(data, lanes):
        first.add(*record)
    n_done = data.draw(st.integers(0, len(oracle(r for lane in lanes for r in lane))))
    offsets = dict.fromkeys(range(len(lanes)), 0)
    told: set[tuple[int, int]] = set()
    for _ in range(n_done):
        taken = first.take(end=True)
        assert taken is not None
        offsets.update({p: to for p, (_, to) in taken[1].items()})
        told.update((t.partition, t.offset) for t in first.ticks())
    again = Batcher(offsets, N_SAMPLES, SPAN_MS, first.closed_ms)
    left = [[r for r in lane if r.offset >= offsets[r.partition]] for lane in lanes]
    for record in interleaved(data, left):
        again.add(*record)
    expected = between(heard(first, end=True))
    found = between(heard(again, end=True))
    assert [[t for t in part if t not in told] for part in found] == expected


def test_ticks_with_nothing_to_learn_do_not_pile_up() -> None:
    batcher = Batcher([0, 1], 5, SPAN_MS)
    n_told = 0
    for at_ms in range(1_000):
        for p in range(2):
            batcher.add(p, at_ms, Tick(at_ms))
        assert batcher.take() is None
        n_told += len(batcher.ticks())
    assert n_told == 2 * 999


def test_a_silent_partition_holds_back_what_it_could_still_precede() -> None:
    batcher = Batcher([0, 1], 1, SPAN_MS)
    batcher.add(1, 0, closing(7, "1:0"))
    assert batcher.take() is None
    batcher.add(0, 0, Tick(6))  # a sample of partition 0 at 7 would still go first
    assert batcher.take() is None
    batcher.add(0, 1, Tick(7))
    assert take_all(batcher) == [([(1, 0)], {1: (0, 1)})]
    batcher.add(0, 2, closing(8, "0:2"))
    batcher.add(1, 1, Tick(7))  # a sample of partition 1 at 8 would go second
    assert take_all(batcher) == [([(0, 2)], {0: (2, 3)})]


def test_what_goes_backwards_is_refused_by_its_place() -> None:
    batcher = Batcher([0], 5, SPAN_MS)
    batcher.add(0, 4, closing(20))
    batcher.add(0, 5, closing(20))
    with pytest.raises(OutOfOrderError, match=r"samples 0:6.*at or after 20, got 19"):
        batcher.add(0, 6, closing(19))
    with pytest.raises(OutOfOrderError, match="samples 0:5: expected offset >= 6"):
        batcher.add(0, 5, closing(21))
    batcher.add(0, 6, Tick(30))
    with pytest.raises(OutOfOrderError, match=r"samples 0:7.*at or after 31, got 30"):
        batcher.add(0, 7, closing(30))
    with pytest.raises(OutOfOrderError, match=r"samples 0:7.*at or after 30, got 29"):
        batcher.add(0, 7, Tick(29))
    batcher.add(0, 7, closing(31))
    assert batcher.take() is not None
