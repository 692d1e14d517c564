"""The mirror: exactly one Version, whichever way it got there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.index import GapError, MemoryIndex, Update
from indexer.refresh import refresh
from ranker.mirror import Mirror
from stream.events import Version
from stream.log import MemoryLog
from tests.trainer.samples import CAPACITY, CONFIG, SHAPE, make_log, make_samples
from trainer.learner import Learner
from trainer.loop import Loop, LoopRules
from trainer.publication import Assembler

N_FIELDS = SHAPE.n_item_fields + SHAPE.n_side


def published() -> list[Update]:
    """A trainer's publications, over a stream long enough for rows to expire."""
    log, model = make_log(make_samples(150, n_users=40, n_items=80, every_ms=400)), MemoryLog(1)
    learner = Learner(CONFIG, CAPACITY)
    rules = LoopRules(batch_samples=4, publish_ms=2_000, row_ttl_ms=8_000)
    loop = Loop(learner, log.source(), model.sink(), {0: 0, 1: 0}, rules)
    while loop.poll():
        pass
    assembler, records = Assembler(), model.read(0, 0, 10**6)
    found = [p for r in records if (p := assembler.add(r.key, r.value)) is not None]
    return [refresh(p, learner.table.planes) for p in found]


UPDATES = published()


def new() -> Mirror:
    return Mirror(SHAPE, CONFIG.bits, CAPACITY)


def holds(mirror: Mirror, index: MemoryIndex) -> bool:
    """Whether the mirror is what the index is: rows, codes, fields, weights, Version, and nothing more."""
    whole = index.load()
    if whole is None:
        return mirror.version is None and mirror.table.n_rows == 0
    slots = mirror.table.find(whole.keys)
    weights = mirror.network.state_dict()
    return (
        (mirror.version, mirror.at_ms) == (whole.version, whole.at_ms)
        and mirror.table.n_rows == len(whole.keys)
        and bool((slots > 0).all())
        and mirror.table.rows[slots].tobytes() == whole.vectors.tobytes()
        and mirror.codes(whole.keys).tobytes() == whole.codes.tobytes()
        and mirror.table.fields[slots].tolist() == whole.fields.tolist()
        and weights.keys() == whole.dense.keys()
        and all(weights[name].numpy().tobytes() == w.tobytes() for name, w in whole.dense.items())
    )


def test_the_stream_is_worth_following() -> None:
    assert len(UPDATES) > 15
    assert [u.since for u in UPDATES] == [None, *(u.version for u in UPDATES[:-1])]
    assert sum(len(u.tombstones) for u in UPDATES) > 20
    born_again = {k for u in UPDATES for k in u.tombstones.tolist()} & set(UPDATES[-1].keys.tolist())
    assert born_again


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    keep=st.integers(1, len(UPDATES) + 1),
    at=st.lists(st.booleans(), min_size=len(UPDATES), max_size=len(UPDATES)),
)
def test_a_mirror_is_what_the_index_is_however_seldom_it_follows(keep: int, at: list[bool]) -> None:
    index, mirror = MemoryIndex(keep), new()
    assert mirror.follow(index) == 0
    assert holds(mirror, index)
    behind = 0
    for update, follows in zip(UPDATES, at, strict=True):
        index.apply(update)
        behind += 1
        if follows:
            knows_it = mirror.version is not None and behind <= keep
            assert mirror.follow(index) == (behind if knows_it else 1)
            assert holds(mirror, index)
            behind = 0
    mirror.follow(index)
    assert holds(mirror, index)


def test_following_an_index_that_stands_still_does_nothing() -> None:
    index, mirror = MemoryIndex(), new()
    for update in UPDATES[:3]:
        index.apply(update)
    assert mirror.follow(index) == 1
    table = mirror.table
    assert mirror.follow(index) == 0
    index.apply(UPDATES[3])
    assert mirror.follow(index) == 1
    assert mirror.table is table
    assert holds(mirror, index)


def test_after_a_gap_the_mirror_loads_everything_and_keeps_nothing_of_before() -> None:
    index, mirror = MemoryIndex(keep=2), new()
    for update in UPDATES[:4]:
        index.apply(update)
    mirror.follow(index)
    for update in UPDATES[4:]:
        index.apply(update)
    gone = {k for u in UPDATES[4:] for k in u.tombstones.tolist()}
    kept = index.load()
    assert kept is not None
    assert gone - set(kept.keys.tolist())
    assert mirror.follow(index) == 1
    assert holds(mirror, index)


def test_a_publication_that_does_not_follow_is_refused_and_changes_nothing() -> None:
    index, mirror = MemoryIndex(), new()
    with pytest.raises(GapError, match="expected an update since None, got one since"):
        mirror.apply(UPDATES[1])
    for update in UPDATES[:2]:
        index.apply(update)
    mirror.follow(index)
    for wrong in (UPDATES[0], UPDATES[3]):
        with pytest.raises(GapError, match="expected an update since"):
            mirror.apply(replace(wrong, since=Version(0, 10_000)))
        assert holds(mirror, index)


def test_a_publication_may_reach_back_further_than_it_must() -> None:
    index, mirror = MemoryIndex(), new()
    for update in UPDATES[:3]:
        index.apply(update)
    mirror.follow(index)
    back = replace(UPDATES[3], since=UPDATES[0].version)
    index.apply(back)
    mirror.apply(back)
    assert holds(mirror, index)


def test_the_codes_are_those_of_the_index_and_not_made_anew() -> None:
    odd = replace(UPDATES[0], codes=UPDATES[0].codes ^ np.uint64(2**64 - 1))
    mirror = new()
    mirror.apply(odd)
    assert mirror.codes(odd.keys).tolist() == odd.codes.tolist()


def test_what_is_not_known_has_no_code() -> None:
    mirror = new()
    mirror.apply(UPDATES[0])
    assert mirror.codes(np.array([0, 12345], np.uint64)).tolist() == [[0], [0]]


def test_a_mirror_shares_nothing_with_what_it_was_given() -> None:
    update = replace(UPDATES[0], dense={k: w.copy() for k, w in UPDATES[0].dense.items()})
    index, mirror = MemoryIndex(), new()
    index.apply(UPDATES[0])
    mirror.apply(update)
    for w in update.dense.values():
        w += 1
    assert holds(mirror, index)
