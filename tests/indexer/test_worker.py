"""The indexer's worker: killed, late, or with an index that was emptied, it ends with what the trainer published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.index import MemoryIndex, Update
from indexer.refresh import refresh
from indexer.worker import IndexerWorker
from stream.events import Version
from stream.log import MemoryLog, Unavailable
from stream.metrics import Metrics
from tests.trainer.test_worker import World, rules_for
from trainer import checkpoint, worker


class Indexed:
    """A model log, the checkpoints beside it, and an indexer that can be killed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.planes = world.worker.loop.learner.table.planes
        self.index = MemoryIndex()
        self.log = MemoryLog(1)
        self.n_said = 0

    def say(self, n: int) -> None:
        """Let the trainer's next ``n`` messages be there."""
        messages = self.world.messages()[self.n_said :][:n]
        for key, value in messages:
            self.log.append(0, key, value)
        self.n_said += len(messages)

    def start(self) -> IndexerWorker:
        rules = self.world.rules
        metrics, whole = Metrics("indexer"), lambda: worker.whole(rules)
        return IndexerWorker(self.log.source(), self.index, self.planes, whole, metrics, now_ms=lambda: 0)

    def check(self, version: Version | None = None) -> None:
        """The index holds the trainer's rows with the codes of its table."""
        found, table = self.index.load(), self.world.worker.loop.learner.table
        assert found is not None
        assert self.index.version == (version or self.world.worker.loop.said.published)
        assert content(found) == content(expected(self.world, self.index.version))
        if self.index.version == self.world.worker.loop.version:
            assert found.codes.tobytes() == table.codes[table.find(found.keys)].tobytes()


def expected(world: World, version: Version | None) -> Update:
    """All publications up to a Version, one after the other."""
    index = MemoryIndex()
    for publication in world.published():
        if version is not None and publication.version <= version:
            index.apply(refresh(publication, world.worker.loop.learner.table.planes))
    found = index.load()
    assert found is not None
    return found


def content(update: Update) -> tuple[object, ...]:
    arrays = (update.keys, update.fields, update.steps, update.codes, update.vectors)
    dense = {name: w.tobytes() for name, w in update.dense.items()}
    return (update.version, *(a.tobytes() for a in arrays), dense)


def drain(indexer: IndexerWorker) -> None:
    while indexer.step() or not indexer.drained:
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With checkpoints, and publications before and behind them."""
    world = World(tmp_path_factory.mktemp("trainer"))
    world.drain()
    assert len(checkpoint.names(world.rules.checkpoints)) == 2
    return world


@given(steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=6))
@settings(max_examples=25, deadline=None)
def test_killed_anywhere_the_index_ends_up_in_step(world: World, steps: list[tuple[int, int]]) -> None:
    indexed = Indexed(world)
    indexed.world.rules = rules_for("memory://nothing-here")  # the log alone
    indexer = indexed.start()
    for n_said, n_steps in steps:
        indexed.say(n_said)
        for _ in range(n_steps):
            indexer.step()
        indexer = indexed.start()  # without a word to the one before
    indexed.say(10**6)
    drain(indexer)
    indexed.check()
    assert indexed.index.place == {0: len(world.messages())}


@pytest.fixture
def indexed(world: World, tmp_path: Path) -> Indexed:
    world.rules = rules_for(world.worker._rules.checkpoints)
    return Indexed(world)


def test_an_index_that_was_emptied_is_filled_from_the_checkpoint_bit_for_bit(indexed: Indexed) -> None:
    indexed.say(10**6)
    indexer = indexed.start()
    drain(indexer)
    before = indexed.index.load()
    assert before is not None
    indexed.index._last = None  # as after FLUSHALL
    indexed.index._updates.clear()
    indexed.index._rows, indexed.index._free = {}, []
    indexed.index._slots = type(indexed.index._slots)()
    drain(indexer)
    after = indexed.index.load()
    assert after is not None
    assert content(after) == content(before)
    indexed.check()


def test_one_that_begins_behind_what_the_log_keeps_begins_with_the_checkpoint(indexed: Indexed) -> None:
    indexed.say(10**6)
    at = worker.whole(indexed.world.rules)
    assert at is not None
    indexed.log.trim({0: at[1]})
    indexer = indexed.start()
    assert indexed.index.version == at[0].version
    drain(indexer)
    indexed.check()


def test_a_gap_without_a_checkpoint_is_waited_for_and_loses_nothing(indexed: Indexed) -> None:
    good = indexed.world.rules
    indexed.say(10**6)
    markers = [r.offset for r in indexed.log.read(0, 0, 10**6) if r.key == b"marker"]
    indexed.log.trim({0: markers[2] + 1})
    indexed.world.rules = rules_for("memory://nothing-here")
    indexer = indexed.start()
    with pytest.raises(Unavailable, match="waits for a checkpoint that is newer"):
        drain(indexer)
    assert indexed.index.version is None
    indexed.world.rules = good
    drain(indexed.start())
    indexed.check()


def test_after_a_rollback_the_index_turns_to_the_new_epoch(tmp_path: Path) -> None:
    world = World(tmp_path)
    indexed = Indexed(world)
    world.drain()
    world.worker.finish()
    indexed.say(10**6)
    indexer = indexed.start()
    drain(indexer)
    worker.rollback(world.rules, checkpoint.names(tmp_path)[0], world.worker.loop.said.published)
    world.worker = world.start()
    world.drain()
    indexed.say(10**6)
    drain(indexer)
    assert indexed.index.version is not None
    assert indexed.index.version.epoch == 1
    found, table = indexed.index.load(), world.worker.loop.learner.table
    assert found is not None
    moved = table.changed[table.find(found.keys)] <= indexed.index.version.step
    assert moved.any()
    assert np.array_equal(found.vectors[moved], table.rows[table.find(found.keys)][moved])
