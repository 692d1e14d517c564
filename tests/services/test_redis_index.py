"""The index on a server: deaths of its writers, interleavings, an emptied server, growth, the log of updates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from indexer import parts
from indexer.index import GapError, MemoryIndex, Update
from indexer.redis_index import RedisIndex
from indexer.redis_rows import MIN_BUCKETS
from stream.events import Origin, Version
from stream.fields import Fields
from stream.profiles import MemoryProfiles, Put
from stream.redis_client import AT_A_TIME, Client
from stream.redis_profiles import RedisProfiles
from tests.services.processes import LocalRedis
from tests.services.updates import KINDS, Trainer, follow, make_update, names, new, same


class Died(Exception):
    """In the place of kill -9."""


class Watched(Client):
    """A client that something happens to before one of its commands, also in the middle of many."""

    def __init__(self, url: str, at: int, event: Callable[[], object]) -> None:
        self.n_left = 2**62
        self._lock = threading.Lock()
        super().__init__(url)
        self.n_left, self.event = at, event

    def call(self, *command: Any) -> Any:
        if self._count(1):
            self.event()
        return super().call(*command)

    def calls(self, commands: Iterable[Sequence[Any]], at_a_time: int = AT_A_TIME) -> list[Any]:
        some = list(commands)
        first = self._count(len(some))
        if not first:
            return super().calls(some, at_a_time)
        before = super().calls(some[: first - 1], at_a_time)
        self.event()
        return before + super().calls(some[first - 1 :], at_a_time)

    def _count(self, n: int) -> int:
        """Which of the next n commands it is, 0 for none of them; counted from 1."""
        with self._lock:  # writers have several connections
            left, self.n_left = self.n_left, self.n_left - n
        return left if 0 < left <= n else 0


def die() -> None:
    raise Died


def cuts(n: int) -> list[int]:
    """Places to cut n commands at: the first and last of them, and some between."""
    return sorted({*range(1, min(n, 40) + 1), *range(1, n, 23), *range(max(1, n - 20), n + 1)})


def n_commands(server: LocalRedis, prefix: str, update: Update) -> int:
    counted = Watched(server.url, 2**40, die)
    new(counted, prefix).apply(update)
    n = 2**40 - counted.n_left
    counted.close()
    return n


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_may_die_before_any_command_and_the_next_one_goes_on(
    server: LocalRedis, client: Client, kind: str
) -> None:
    trainer = Trainer(3)
    *before, update = [trainer.publish(**how) for how in KINDS[kind]]

    def begin(prefix: str) -> RedisIndex:
        index = new(client, prefix)
        for u in before:
            index.apply(u)
        return index

    begin("count")
    n = n_commands(server, "count", update)
    n_old = 0
    for at in cuts(n):
        reader = begin(prefix := f"cut{at}")
        follower = MemoryIndex()
        if before:
            follow(follower, reader)
        doomed = Watched(server.url, at, die)
        with pytest.raises(Died):
            new(doomed, prefix).apply(update)
        doomed.close()
        old = before[-1].version if before else None
        assert reader.version in (old, update.version)
        n_old += reader.version == old
        assert same(reader.load(), trainer.loads[reader.version])
        if reader.version is not None:
            follow(follower, reader)
            assert same(follower.load(), trainer.loads[reader.version])
        new(client, prefix).apply(update)
        assert (reader.version, reader.place) == (update.version, update.place)
        assert same(reader.load(), trainer.loads[update.version])
        held = reader.get(update.keys)
        assert held.steps.tolist() == update.steps.tolist()
        assert held.codes.tobytes() == update.codes.tobytes()
        follow(follower, reader)
        assert same(follower.load(), trainer.loads[update.version])
        # nothing is left over but the parts that go by themselves, or nothing is missing either way
        later = make_update(Version(9, 0), None, {1: 0})
        new(client, prefix).apply(later)
        left = [
            key for key in names(client) if f"{{{prefix}" in key and ":9-" not in key and ":part:" not in key
        ]
        assert left == [f"{{{prefix}}}:head", f"{{{prefix}}}:last"]
        stay = [key for key in names(client) if f"{{{prefix}}}:part:" in key and client.call("TTL", key) < 0]
        assert stay == []
    assert n_old > 0
    assert (
        n_old < len(cuts(n)) or kind == "the first"
    )  # of which nothing is left to do after the moment that counts


@pytest.mark.parametrize("seed", range(6))
def test_who_loads_while_it_is_written_gets_exactly_one_version(
    server: LocalRedis, client: Client, seed: int
) -> None:
    rng, trainer = np.random.default_rng(seed), Trainer(seed)
    new(client, "busy").apply(trainer.publish(whole=True))
    seen = set()
    for _ in range(12):
        reader = Watched(server.url, 2**40, die)

        def write() -> None:
            for _ in range(int(rng.integers(1, 4))):
                whole = rng.random() < 0.05
                update = trainer.publish(whole=whole, new_epoch=rng.random() < 0.05)
                doomed = Watched(server.url, int(rng.integers(1, 60)), die)
                try:
                    new(doomed, "busy").apply(update)
                except Died:
                    if rng.random() < 0.6:
                        new(client, "busy").apply(update)
                    else:  # the update is lost or its rows are half written: the trainer's next one holds everything
                        doomed.close()
                        trainer.publish(whole=True)
                        new(client, "busy").apply(trainer.sent[-1]) if rng.random() < 0.5 else None
                        break
                doomed.close()
            reader.n_left = int(rng.integers(1, 200))  # and again, further on  # noqa: B023

        reader.event, reader.n_left = write, int(rng.integers(1, 250))
        whole = new(reader, "busy").load()
        reader.close()
        assert whole is not None
        assert same(whole, trainer.loads[whole.version])
        seen.add(whole.version)
        if new(client, "busy").version != trainer.sent[-1].version:
            new(client, "busy").apply(trainer.publish(whole=True))
    assert len(seen) > 6


def test_a_writer_that_was_asleep_cannot_undo_what_another_did(server: LocalRedis, client: Client) -> None:
    trainer = Trainer(5)
    first, second, third = (trainer.publish(whole=whole) for whole in (True, False, False))
    assert set(second.keys.tolist()) & set(third.tombstones.tolist())
    assert set(second.tombstones.tolist()) & set(third.keys.tolist())
    new(client, "count").apply(first)
    n = n_commands(server, "count", second)
    for at in range(1, n + 1):
        prefix = f"zombie{at}"
        new(client, prefix).apply(first)

        def others() -> None:
            new(client, prefix).apply(second)  # noqa: B023
            new(client, prefix).apply(third)  # noqa: B023

        asleep = Watched(server.url, at, others)
        assert new(asleep, prefix).apply(second) >= 0
        asleep.close()
        assert same(new(client, prefix).load(), trainer.loads[third.version]), at
        follower = MemoryIndex()
        follower.apply(first)
        follow(follower, new(client, prefix))
        assert same(follower.load(), trainer.loads[third.version])


def test_of_two_writers_of_everything_one_wins_and_nothing_is_left_of_the_other(
    server: LocalRedis, client: Client
) -> None:
    trainer = Trainer(6)
    update = trainer.publish(whole=True)
    n = n_commands(server, "count", update)
    for at in cuts(n):
        client.call("FLUSHALL")
        slow = Watched(server.url, at, lambda: new(client, "two").apply(update))
        new(slow, "two").apply(update)
        slow.close()
        assert same(new(client, "two").load(), trainer.loads[update.version])
        assert len({key.split(":")[2] for key in names(client) if key.startswith("{two:")}) == 1


def test_a_writer_that_builds_what_another_clears_away_starts_over(
    server: LocalRedis, client: Client
) -> None:
    trainer = Trainer(16)
    update = trainer.publish(whole=True)
    n = n_commands(server, "count", update)
    n_swept = 4 * MIN_BUCKETS
    for at in (3, 40, 200, MIN_BUCKETS, n_swept):
        client.call("FLUSHALL")
        asleep, wake, awake = threading.Event(), threading.Event(), threading.Event()

        def sleep() -> None:
            asleep.set()  # noqa: B023
            assert wake.wait(20)  # noqa: B023

        def wake_the_other() -> None:
            wake.set()  # noqa: B023
            awake.wait(0.2)  # noqa: B023

        def write_and_say() -> None:
            new(builder, "two").apply(update)  # noqa: B023
            awake.set()  # noqa: B023

        builder = Watched(server.url, n, sleep)  # its last command is the one that counts
        other = Watched(server.url, at, wake_the_other)
        thread = threading.Thread(target=write_and_say)
        thread.start()
        assert asleep.wait(20)
        new(other, "two").apply(update)
        wake.set()
        thread.join(20)
        assert not thread.is_alive()
        builder.close()
        other.close()
        assert same(new(client, "two").load(), trainer.loads[update.version])


class Twice(Client):
    """A client all of whose calls are made again, as after an answer that was lost."""

    def call(self, *command: Any) -> Any:
        super().call(*command)
        return super().call(*command)

    def calls(self, commands: Iterable[Sequence[Any]], at_a_time: int = AT_A_TIME) -> list[Any]:
        some = list(commands)
        super().calls(some, at_a_time)
        return super().calls(some, at_a_time)


def test_a_call_whose_answer_was_lost_may_be_made_again(server: LocalRedis, client: Client) -> None:
    trainer, doubled = Trainer(17), Twice(server.url)
    index, profiles, others = new(doubled, "twice"), RedisProfiles(doubled, Fields()), MemoryProfiles(1)
    for how in (*KINDS["a whole"], *KINDS["a new epoch"]):
        index.apply(update := trainer.publish(**how))
        assert same(new(client, "twice").load(), trainer.loads[update.version])
    for offset in range(30):
        put = Put(1, Origin(0, offset, 0), [offset % 3], offset * 7 % 13, 1)
        profiles.put(*put)
        others.put(*put)
    assert profiles.get(1, 100, 100)[0].tolist() == others.get(1, 100, 100)[0].tolist()
    doubled.close()


def test_an_emptied_server_is_noticed_and_healed_bit_for_bit(client: Client) -> None:
    trainer, index = Trainer(7), new(client, "flushed")
    for update in (trainer.publish(whole=True), trainer.publish(), trainer.publish()):
        index.apply(update)
    before = index.load()
    client.call("FLUSHALL")
    assert (index.version, index.place, index.load(), index.since(Version(0, 1))) == (None, {}, None, None)
    assert index.get(np.array([1], np.uint64)).steps.tolist() == [-1]
    with pytest.raises(GapError):
        index.apply(trainer.publish())
    assert before is not None
    index.apply(replace(before, since=None))
    assert same(index.load(), before)
    index.apply(late := replace(trainer.sent[-1], since=before.version))
    assert same(index.load(), trainer.loads[late.version])


@pytest.mark.parametrize("kind", ["the first", "one that follows", "a new epoch"])
def test_a_server_may_be_emptied_before_any_command_of_an_update(
    server: LocalRedis, client: Client, kind: str
) -> None:
    trainer = Trainer(8)
    *before, update = [trainer.publish(**how) for how in KINDS[kind]]
    for u in before:
        new(client, "count").apply(u)
    n = n_commands(server, "count", update)
    whole = trainer.loads[update.version]
    assert whole is not None
    for at in cuts(n):
        client.call("FLUSHALL")
        for u in before:
            new(client, "cut").apply(u)
        struck = Watched(server.url, at, lambda: client.call("FLUSHALL"))
        try:
            new(struck, "cut").apply(update)
        except GapError:
            assert update.since is not None
        struck.close()
        index = new(client, "cut")
        if index.version is None:
            index.apply(whole)
        assert same(index.load(), whole)
        assert len({key.split(":")[2] for key in names(client) if key.startswith("{cut:")}) == 1


def test_a_store_grows_by_itself_and_who_follows_sees_nothing_of_it(client: Client) -> None:
    index, follower = new(client, "growing"), MemoryIndex()
    index.apply(make_update(Version(0, 1), None, {}))
    follow(follower, index)
    rng, n_loads = np.random.default_rng(0), 0
    for step in range(2, 10):
        keys = rng.integers(1, 2**63, 8_000, np.uint64).tolist()
        index.apply(make_update(Version(0, step), Version(0, step - 1), dict.fromkeys(keys, step)))
        n_loads += index.since(follower.version) is None
        follow(follower, index)
        assert same(index.load(), follower.load())
    assert n_loads == 0
    base = index.base
    assert base is not None
    assert base.n_buckets > MIN_BUCKETS
    assert {key.split(":")[2] for key in names(client) if key.startswith("{growing:")} == {base.name}


def test_who_loads_while_the_store_grows_gets_all_rows(server: LocalRedis, client: Client) -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.integers(1, 2**63, n, np.uint64).tolist() for n in (10_000, 50_000))
    index = new(client, "wider")
    index.apply(make_update(Version(0, 1), None, dict.fromkeys(first, 1)))
    before = index.base
    more = make_update(Version(0, 2), Version(0, 1), dict.fromkeys(second, 2))
    reader = Watched(server.url, MIN_BUCKETS // 2, lambda: index.apply(more))
    whole = new(reader, "wider").load()
    reader.close()
    assert index.base != before
    assert whole is not None
    assert sorted(whole.keys.tolist()) == sorted({*first, *second})
    assert same(whole, index.load())


def test_the_log_is_bounded_by_number_and_by_bytes(client: Client) -> None:
    trainer = Trainer(9)
    updates = [trainer.publish(whole=n == 0) for n in range(10)]
    n_bytes = sum(map(len, parts.encode(updates[1])))
    for keep, keep_bytes, expected in ((5, 2**30, 5), (64, int(3.5 * n_bytes), 3), (64, 1, 1)):
        index = RedisIndex(client, prefix := f"bounded{keep_bytes}", keep, keep_bytes)
        for update in updates:
            index.apply(update)
        followed = [n for n in range(1, 10) if index.since(updates[-1 - n].version) is not None]
        assert followed == list(range(1, expected + 1))
        kept = [k for k in names(client) if f"{{{prefix}}}:part:" in k and client.call("TTL", k) < 0]
        assert len(kept) == 2 * expected


def test_a_large_update_comes_in_parts_and_whole(client: Client) -> None:
    index = new(client, "large")
    index.apply(make_update(Version(0, 1), None, {}))
    keys = np.random.default_rng(1).integers(1, 2**63, 60_000, np.uint64).tolist()
    sent = make_update(Version(0, 2), Version(0, 1), dict.fromkeys(keys, 2))
    index.apply(sent)
    missed = index.since(Version(0, 1))
    assert missed is not None
    assert same(missed[0], sent)
    sizes = [client.call("STRLEN", key) for key in names(client) if key.startswith("{large}:part:")]
    assert len(sizes) > 2
    assert max(sizes) < 1.1 * 2**20
