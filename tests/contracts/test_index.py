"""What every implementation of Index does; the oracle is a dict of what each row was when it was written last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from secrets import token_hex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.index import GapError, Index, MemoryIndex, Update
from indexer.redis_index import RedisIndex
from stream.events import Version
from stream.redis_client import Client


@dataclass(frozen=True)
class Make:
    """How an implementation is made, and how many examples its speed allows."""

    new: Callable[[int], Index]
    """From the number of updates that it keeps."""
    n_examples: int

    def __call__(self, keep: int) -> Index:
        return self.new(keep)

    @property
    def steadily(self) -> settings:
        return settings(deadline=None, derandomize=True, max_examples=self.n_examples, database=None)


@pytest.fixture(scope="module", params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param == "memory":
        yield Make(MemoryIndex, 100)
        return
    client = Client(request.getfixturevalue("redis_server").url)
    yield Make(lambda keep: RedisIndex(client, f"test-{token_hex(4)}", keep), 20)
    client.close()


DIM, WORDS, N_KEYS = 3, 2, 12
ALL_KEYS = np.arange(N_KEYS + 2, dtype=np.uint64)  # 0 is nothing, and the last one is never written
Row = tuple[int, int, int, bytes, bytes]
"""Epoch, step, field, code, vector."""
Rows = dict[int, Row]


def make_update(
    version: Version,
    since: Version | None,
    rows: dict[int, int],
    tombstones: list[int] | None = None,
    seed: int = 0,
) -> Update:
    """One whose numbers are drawn; ``rows`` are the steps of its keys."""
    rng = np.random.default_rng([seed, *version])
    n = len(rows)
    return Update(
        version=version,
        since=since,
        at_ms=1_000 * version.step,
        keys=np.array(list(rows), np.uint64),
        fields=(np.array(list(rows), np.int64) % 3).astype(np.uint8),
        steps=np.array(list(rows.values()), np.int64),
        codes=rng.integers(0, 2**64, (n, WORDS), np.uint64),
        vectors=rng.normal(size=(n, DIM)).astype(np.float32),
        tombstones=np.array(tombstones or [], np.uint64),
        dense={
            "w": rng.normal(size=4).astype(np.float32),
            "experts": rng.normal(size=(2, 3, 4)).astype(np.float32),
        },
        place={0: version.epoch, 3: version.step},
    )


def rows_of(update: Update) -> Rows:
    columns = (update.keys, update.steps, update.fields, update.codes, update.vectors)
    return {
        int(key): (update.version.epoch, int(step), int(number), code.tobytes(), vector.tobytes())
        for key, step, number, code, vector in zip(*columns, strict=True)
    }


@dataclass
class Oracle:
    """What an index should hold."""

    rows: Rows = field(default_factory=dict)
    last: Update | None = None

    def apply(self, update: Update) -> int:
        """How many rows were written; -1 where a gap should be reported."""
        if self.last is not None and update.version <= self.last.version:
            return 0
        if update.since is None:
            self.rows = {}
        elif self.last is None or update.since > self.last.version or len(self.epochs(update)) > 1:
            return -1
        newer = {
            k: row for k, row in rows_of(update).items() if k not in self.rows or row[:2] > self.rows[k][:2]
        }
        self.rows |= newer
        for key in update.tombstones:
            self.rows.pop(int(key), None)
        self.last = update
        return len(newer)

    def epochs(self, update: Update) -> set[int]:
        """Those that take part when it is applied."""
        held = self.last.version if self.last else None
        return {version.epoch for version in (update.version, update.since, held) if version is not None}


def check(index: Index, oracle: Oracle) -> None:
    """Everything that an index says agrees with the oracle."""
    assert index.version == (oracle.last.version if oracle.last else None)
    assert index.place == (oracle.last.place if oracle.last else {})
    held = index.get(ALL_KEYS)
    for i, key in enumerate(ALL_KEYS.tolist()):
        epoch, step, _, code, _ = oracle.rows.get(key, (-1, -1, 0, bytes(held.codes[i].nbytes), b""))
        assert (held.epochs[i], held.steps[i], held.codes[i].tobytes()) == (epoch, step, code)
    whole = index.load()
    if oracle.last is None:
        assert whole is None
        return
    assert whole is not None
    assert (whole.version, whole.since, whole.at_ms) == (oracle.last.version, None, oracle.last.at_ms)
    assert len(whole.keys) == len(oracle.rows)
    # the Version of a row in a whole update is that of the update's epoch
    assert {k: row[1:] for k, row in rows_of(whole).items()} == {k: row[1:] for k, row in oracle.rows.items()}
    assert len(whole.tombstones) == 0
    assert {n: w.tolist() for n, w in whole.dense.items()} == {
        n: w.tolist() for n, w in oracle.last.dense.items()
    }
    assert whole.place == oracle.last.place


def content(index: Index) -> tuple[Version | None, Rows]:
    whole = index.load()
    return index.version, {} if whole is None else {k: (0, *r[1:]) for k, r in rows_of(whole).items()}


@st.composite
def updates(draw: st.DrawFn, held: Version | None) -> Update:
    """Any update for an index at ``held``: the next one, one from further back, a whole, old or later one."""
    epoch, step = held or (0, 0)
    kind = draw(st.sampled_from(["next", "next", "back", "whole", "old", "gap", "epoch", "leap"]))
    ahead = draw(st.integers(1, 3))
    version, since = Version(epoch, step + ahead), held
    if kind == "whole":
        since = None
    elif kind == "epoch":
        version, since = Version(epoch + 1, draw(st.integers(0, step + 3))), None
    elif kind == "old":
        version = Version(epoch, draw(st.integers(0, step)))
        since = draw(st.sampled_from([None, held]))
    elif kind == "back":
        since = Version(epoch, draw(st.integers(0, step)))
    elif kind == "leap":  # into an epoch whose beginning was missed
        version = Version(epoch + 1, step + ahead)
    elif kind == "gap":
        since = Version(epoch, step + draw(st.integers(1, 2)))
        version = Version(epoch, since.step + ahead)
    steps = st.integers(0, version.step)
    rows = draw(st.dictionaries(st.integers(1, N_KEYS), steps, max_size=8))
    gone = draw(st.lists(st.integers(1, N_KEYS), unique=True, max_size=3))
    return make_update(version, since, rows, [k for k in gone if k not in rows], draw(st.integers(0, 9)))


def test_an_index_is_what_a_dict_of_the_newest_rows_is(make: Make) -> None:
    @make.steadily
    @given(data=st.data(), keep=st.integers(1, 6))
    def holds(data: st.DataObject, keep: int) -> None:
        index, oracle = make(keep), Oracle()
        for _ in range(data.draw(st.integers(1, 8))):
            update = data.draw(updates(index.version))
            written = oracle.apply(update)
            if written < 0:
                with pytest.raises(GapError):
                    index.apply(update)
            else:
                assert index.apply(update) == written
            check(index, oracle)
            if written >= 0:
                assert index.apply(update) == 0
                check(index, oracle)

    holds()


class Trainer:
    """Rows that move, come and go, and the publications of them."""

    def __init__(self) -> None:
        self.version = Version(0, 0)
        self.rows: dict[int, int] = {}
        self.seed = 0

    def publish(self, moved: set[int], gone: set[int], is_whole: bool, is_new_epoch: bool) -> Update:
        since = None if is_whole or is_new_epoch or self.version == (0, 0) else self.version
        self.version = Version(self.version.epoch + is_new_epoch, self.version.step + 1)
        self.rows = {k: step for k, step in self.rows.items() if k not in gone}
        self.rows |= dict.fromkeys(moved - gone, self.version.step)
        changed = self.rows if since is None else dict.fromkeys(sorted(moved - gone), self.version.step)
        # a row is the same in every publication until it moves
        parts = [make_update(Version(0, step), None, {k: step}, seed=k) for k, step in changed.items()]
        update = make_update(self.version, since, changed, sorted(gone))
        if not parts:
            return update
        codes, vectors = (np.concatenate([getattr(p, name) for p in parts]) for name in ("codes", "vectors"))
        return replace(update, codes=codes, vectors=vectors)


key_sets = st.sets(st.integers(1, N_KEYS), max_size=4)


histories = st.lists(
    st.tuples(key_sets, key_sets, st.booleans(), st.sampled_from([False] * 4 + [True]), st.booleans()),
    min_size=1,
    max_size=9,
)


def test_whoever_follows_ends_with_the_same_however_long_it_was_away(make: Make) -> None:
    @make.steadily
    @given(keep=st.integers(1, 5), steps=histories)
    def holds(keep: int, steps: list[tuple[set[int], set[int], bool, bool, bool]]) -> None:
        index, trainer, often = make(keep), Trainer(), make(1)
        all_of_them = [often]
        for moved, gone, is_whole, is_new_epoch, follows in steps:
            index.apply(trainer.publish(moved, gone, is_whole, is_new_epoch))
            assert content(index)[1].keys() == trainer.rows.keys()
            if follows:
                catch_up(often, index)
                assert content(often) == content(index)
            catch_up(fresh := make(1), index)
            all_of_them.append(fresh)
        for follower in all_of_them:
            catch_up(follower, index)
            assert content(follower) == content(index)
            assert index.since(follower.version) == []

    holds()


def catch_up(follower: Index, index: Index) -> None:
    """As a mirror does."""
    missed = index.since(follower.version)
    if missed is None:
        whole = index.load()
        assert whole is not None
        missed = [whole]
    for update in missed:
        assert follower.version is None or update.version > follower.version
        follower.apply(update)


def test_newer_rows_win_and_older_ones_are_refused_one_by_one(make: Make) -> None:
    index = make(4)
    index.apply(first := make_update(Version(0, 5), None, {1: 5, 2: 3, 3: 4}))
    second = make_update(Version(0, 7), Version(0, 5), {1: 6, 2: 3, 3: 2, 4: 0})
    assert index.apply(second) == 2
    held = index.get(np.array([1, 2, 3, 4], np.uint64))
    assert held.steps.tolist() == [6, 3, 4, 0]
    expected = [second.codes[0], first.codes[1], first.codes[2], second.codes[3]]
    assert held.codes.tolist() == np.stack(expected).tolist()


def test_an_older_publication_is_refused_whatever_it_holds(make: Make) -> None:
    index = make(4)
    index.apply(make_update(Version(0, 5), None, {1: 5}))
    before = content(index)
    for since in (None, Version(0, 4), Version(0, 5)):
        for version in (Version(0, 4), Version(0, 5)):
            assert index.apply(make_update(version, since, {1: 99, 2: 99}, [1], seed=7)) == 0
            assert content(index) == before


def test_after_a_gap_nothing_has_changed_and_a_whole_publication_mends_it(make: Make) -> None:
    index = make(4)
    with pytest.raises(GapError, match=r"expected an update since None, got one since 0\.1 to 0\.2"):
        index.apply(make_update(Version(0, 2), Version(0, 1), {1: 2}))
    assert index.load() is None
    index.apply(make_update(Version(0, 2), None, {1: 2, 2: 2}))
    before = content(index)
    with pytest.raises(GapError, match=r"expected an update since 0\.2, got one since 0\.3"):
        index.apply(make_update(Version(0, 4), Version(0, 3), {1: 4}, [2]))
    assert content(index) == before
    assert index.apply(make_update(Version(0, 4), None, {1: 4})) == 1
    assert content(index)[1].keys() == {1}


def test_a_tombstone_takes_the_row_away_until_it_is_born_again(make: Make) -> None:
    index = make(4)
    index.apply(make_update(Version(0, 1), None, {1: 1, 2: 1}))
    index.apply(make_update(Version(0, 2), Version(0, 1), {3: 2}, [1, 9]))
    held = index.get(np.array([1, 2, 9], np.uint64))
    assert held.steps.tolist() == [-1, 1, -1]
    assert held.codes[0].tolist() == [0] * WORDS
    index.apply(again := make_update(Version(0, 3), Version(0, 2), {1: 3}))
    assert index.get(again.keys).codes.tolist() == again.codes.tolist()


def test_a_whole_publication_replaces_everything(make: Make) -> None:
    index = make(4)
    index.apply(make_update(Version(0, 1), None, {1: 1, 2: 1, 3: 1}))
    index.apply(whole := make_update(Version(0, 2), None, {2: 2, 5: 0}))
    assert content(index) == (Version(0, 2), {k: (0, *r[1:]) for k, r in rows_of(whole).items()})


def test_a_publication_without_rows_moves_the_version(make: Make) -> None:
    index, oracle = make(4), Oracle()
    for update in (
        make_update(Version(0, 0), None, {}),
        make_update(Version(0, 1), Version(0, 0), {}, [4]),
        make_update(Version(0, 2), Version(0, 1), {1: 2}),
        make_update(Version(0, 3), None, {}),
    ):
        assert index.apply(update) == oracle.apply(update)
        check(index, oracle)


def test_those_who_follow_get_what_they_lack_and_nothing_twice(make: Make) -> None:
    index = make(3)
    chain = [make_update(Version(0, 1), None, {1: 1})]
    chain += [make_update(Version(0, n), Version(0, n - 1), {n: n}) for n in range(2, 7)]
    assert index.since(None) == []
    for n, update in enumerate(chain):
        index.apply(update)
        for m, seen in enumerate(chain[: n + 1]):
            missed = index.since(seen.version)
            expected = [u.version for u in chain[m + 1 : n + 1]]
            got = None if missed is None else [u.version for u in missed]
            assert got == (expected if len(expected) <= 3 else None)
    assert index.since(None) is None
    assert index.since(Version(1, 0)) is None
    assert index.since(Version(0, 7)) is None  # who is ahead has missed nothing, but is not with us


def test_an_update_that_is_followed_is_the_one_that_was_applied(make: Make) -> None:
    index = make(3)
    index.apply(make_update(Version(0, 1), None, {1: 1}))
    for sent in (
        make_update(Version(0, 2), Version(0, 1), {2: 2, 3: 1}, [1, 7]),
        make_update(Version(0, 3), Version(0, 2), {}),
    ):
        index.apply(sent)
        missed = index.since(sent.since)
        assert missed is not None
        assert len(missed) == 1
        assert vars(missed[0]).keys() == vars(sent).keys()
        for name, value in vars(sent).items():
            got = getattr(missed[0], name)
            if isinstance(value, np.ndarray):
                assert (got.shape, got.dtype, got.tobytes()) == (value.shape, value.dtype, value.tobytes())
            elif name == "dense":
                assert {k: w.tobytes() for k, w in got.items()} == {k: w.tobytes() for k, w in value.items()}
            else:
                assert got == value


def test_one_who_has_not_seen_the_last_whole_publication_loads(make: Make) -> None:
    index = make(9)
    index.apply(make_update(Version(0, 1), None, {1: 1}))
    index.apply(make_update(Version(0, 2), Version(0, 1), {2: 2}))
    index.apply(make_update(Version(0, 3), None, {2: 2, 3: 3}))
    for behind in (None, Version(0, 1), Version(0, 2)):
        assert index.since(behind) is None
    index.apply(make_update(Version(0, 4), Version(0, 3), {4: 4}))
    for behind in (None, Version(0, 1), Version(0, 2)):
        assert index.since(behind) is None
    missed = index.since(Version(0, 3))
    assert missed is not None
    assert [u.version.step for u in missed] == [4]


def test_an_update_may_reach_back_further_than_it_must(make: Make) -> None:
    index = make(9)
    index.apply(make_update(Version(0, 1), None, {1: 1, 2: 1, 3: 1}))
    index.apply(make_update(Version(0, 2), Version(0, 1), {1: 2, 4: 2}, [2]))
    index.apply(make_update(Version(0, 3), Version(0, 2), {3: 3}))
    back = make_update(Version(0, 4), Version(0, 1), {1: 2, 3: 4, 4: 2, 5: 4}, [2])
    assert index.apply(back) == 2
    assert index.get(np.array([1, 2, 3, 4, 5], np.uint64)).steps.tolist() == [2, -1, 4, 2, 4]
    for behind in (1, 2, 3):  # one step for everybody whom it reaches
        missed = index.since(Version(0, behind))
        assert missed is not None
        assert [u.version.step for u in missed] == [4]


def test_an_update_of_another_epoch_is_a_gap_unless_it_is_whole(make: Make) -> None:
    index = make(9)
    index.apply(make_update(Version(1, 5), None, {1: 1}))
    for version, since in (((2, 1), (2, 0)), ((2, 1), (1, 5)), ((1, 6), (0, 9)), ((2, 6), (1, 4))):
        with pytest.raises(GapError):
            index.apply(make_update(Version(*version), Version(*since), {1: 1}))
    assert index.apply(make_update(Version(2, 0), None, {1: 0})) == 1
    assert index.version == (2, 0)


def test_many_rows_come_and_go(make: Make) -> None:
    rng = np.random.default_rng(4)
    index, oracle, version = make(2), Oracle(), None
    for step in range(1, 9):
        keys = rng.choice(np.arange(1, 9_000), 3_000, replace=False).tolist()
        update = make_update(Version(0, step), version, dict.fromkeys(keys[:2_500], step), keys[2_500:])
        version = update.version
        assert index.apply(update) == oracle.apply(update) == 2_500
        check(index, oracle)
    assert oracle.last is not None
    again = replace(oracle.last, version=Version(1, 0), since=None)
    assert index.apply(again) == oracle.apply(again)
    check(index, oracle)
