"""The trainer's worker on logs in memory: wherever it is killed, the logs hold what they would have held anyway."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.index import MemoryIndex
from indexer.worker import IndexerWorker
from stream.events import Version
from stream.log import MemoryLog
from stream.metrics import Metrics
from tests.trainer.samples import CAPACITY, CONFIG, make_log, make_samples
from tests.trainer.test_loop import FROM, HELD_BACK, mirrored, refusals, spoiled
from trainer import checkpoint, worker
from trainer.canary import Canary
from trainer.checkpoint import CheckpointError
from trainer.loop import LoopRules
from trainer.publication import Assembler, Publication, last_said
from trainer.scored import Scored, decode_scored
from trainer.worker import SCORES, TrainerRules, TrainerWorker

SAMPLES = make_samples(240, lengths=(0, 1, 3, 12), n_users=60, n_items=150)
LOG = make_log(SAMPLES, partitions=2)
LOOP = LoopRules(batch_samples=4, batch_span_ms=1_000, publish_ms=2_500, row_ttl_ms=24_000)


def rules_for(folder: Path | str) -> TrainerRules:
    made_with = {"model": {"dim": 8}}
    return TrainerRules(CONFIG, LOOP, made_with, str(folder), 4_000, 2, CAPACITY, poll_records=16)


class World:
    """The logs around a trainer, and the trainer that runs now."""

    def __init__(
        self,
        folder: Path | str,
        said: Iterable[tuple[bytes, bytes]] = (),
        log: MemoryLog | None = None,
        **changes: Any,
    ) -> None:
        self.log = LOG if log is None else log
        self.rules = replace(rules_for(folder), **changes)
        self.model, self.scores = MemoryLog(1), MemoryLog(2)
        for key, value in said:
            self.model.append(0, key, value)
        self.worker = self.start()

    def start(self) -> TrainerWorker:
        sink = self.model.sink({SCORES: self.scores})
        source, model = self.log.source(), self.model.source()
        return TrainerWorker(source, sink, model, self.rules, Metrics("trainer"), now_ms=lambda: 7)

    def drain(self) -> None:
        while self.worker.step() or not self.worker.drained:
            pass

    def scored(self) -> list[list[Scored]]:
        return [[decode_scored(r.value) for r in self.scores.read(p, 0, 10**6)] for p in range(2)]

    def published(self) -> list[Publication]:
        assembler = Assembler()
        records = self.model.read(0, 0, 10**6)
        return [p for r in records if (p := assembler.add(r.key, r.value)) is not None]

    def messages(self) -> list[tuple[bytes, bytes]]:
        return [(r.key, r.value) for r in self.model.read(0, 0, 10**6)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("whole"))
    world.drain()
    return world


def test_predictions_are_those_of_the_loop_each_once(whole: World) -> None:
    scored = [s for lane in whole.scored() for s in lane]
    published = whole.published()
    assert {s.version.step for s in scored} == set(range(1, published[-1].version.step + 1))
    by_name = {s.impression: s for s in SAMPLES}
    assert len({s.impression for s in scored}) == len(scored) > 200
    for one in scored:
        assert one.labelled().tobytes() == by_name[one.impression].labels
        assert one.predicted().shape == one.labelled().shape
        assert ((one.predicted() > 0) & (one.predicted() < 1)).all()
    assert [p.since for p in published] == [None, *(p.version for p in published[:-1])]
    assert len(published) > 10
    assert all(p.wall_ms == 7 for p in published)


@given(steps=st.lists(st.integers(0, 12), max_size=5))
@settings(max_examples=15, deadline=None)
def test_killed_anywhere_it_publishes_everything_once_and_ends_with_the_same_bits(
    whole: World, steps: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder)
        for n in steps:
            for _ in range(n):
                world.worker.step()
            world.worker = world.start()  # without a word to the one before
        world.drain()
        assert world.messages() == whole.messages()
        assert world.scored() == whole.scored()
        expected = whole.worker.loop.learner.state()
        for name, array in world.worker.loop.learner.state().items():
            assert array.tobytes() == expected[name].tobytes(), name


def test_it_is_drained_when_all_that_is_left_waits_for_a_partition_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.WAITING_MOST", 20)
    log = MemoryLog(2)
    for r in LOG.read(0, 0, 10**6):
        log.append(0, r.key, r.value)
    world = World(tmp_path, log=log)
    world.drain()
    assert log.end()[0] - world.worker._source.offsets[0] > 50


def test_told_to_finish_it_saves_and_the_next_one_repeats_nothing(whole: World, tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(6):
        world.worker.step()
    version = world.worker.loop.version
    assert version.step > 0
    world.worker.finish()
    names = checkpoint.names(tmp_path)
    assert checkpoint.load(tmp_path).version == version
    world.worker.finish()  # which has nothing to do
    assert checkpoint.names(tmp_path) == names
    world.worker = world.start()
    assert world.worker.loop.version == version
    world.drain()
    assert world.messages() == whole.messages()


def test_all_of_the_model_can_be_had_from_a_checkpoint(whole: World, tmp_path: Path) -> None:
    world = World(tmp_path)
    assert worker.whole(world.rules) is None
    world.drain()
    world.worker.save()
    found = worker.whole(world.rules)
    assert found is not None
    publication, place = found
    assert place == world.model.end()[0]
    assert (publication.version, publication.since) == (world.worker.loop.version, None)
    table = world.worker.loop.learner.table
    slots = np.flatnonzero(table.keys)
    assert publication.keys.tolist() == table.keys[slots].tolist()
    assert publication.vectors.tobytes() == table.rows[slots].tobytes()
    assert publication.steps.tolist() == table.changed[slots].tolist()
    dense = world.worker.loop.learner.dense()
    assert {k: v.tobytes() for k, v in publication.dense.items()} == {
        k: v.tobytes() for k, v in dense.items()
    }


class Refusing(World):
    """Half of the users are held back, and from step `FROM` on every weight is turned round."""

    def start(self) -> TrainerWorker:
        self.rules = replace(self.rules, loop=replace(LOOP, publish_ms=1), poll_records=1)
        return TrainerWorker(
            LOG.source(),
            self.model.sink({SCORES: self.scores}),
            self.model.source(),
            self.rules,
            Metrics("trainer"),
            now_ms=lambda: 7,
            canary=Canary(HELD_BACK),
            on_step=lambda step: spoiled(step, self.worker.loop.learner),
        )


def test_an_index_is_not_filled_with_what_was_refused(tmp_path: Path) -> None:
    world = Refusing(tmp_path)
    while world.worker.loop.version.step < FROM + 2:
        world.worker.step()
    told = [refused.version for refused in refusals(world.model)]
    assert told == [Version(0, n) for n in range(FROM, FROM + 3)]
    names = checkpoint.names(tmp_path)
    world.worker.save()
    world.worker.finish()
    assert checkpoint.names(tmp_path) == names
    index, planes = MemoryIndex(), world.worker.loop.learner.table.planes
    indexer = IndexerWorker(
        world.model.source(),
        index,
        planes,
        lambda: worker.whole(world.rules),
        Metrics("indexer"),
        now_ms=lambda: 7,
    )
    assert index.version == checkpoint.load(tmp_path).version < told[0]
    while not indexer.drained:
        indexer.step()
    assert index.version == last_said(world.model.source()).published == Version(0, FROM - 1)
    # a trainer that is built anew repeats what was refused, and says nothing twice
    before, version = world.messages(), world.worker.loop.version
    world.worker = world.start()
    assert world.worker.loop.version < told[0]
    while world.worker.loop.version < version:
        world.worker.step()
    assert world.messages() == before
    while world.worker.loop.standing.why_refused:
        world.worker.step()
    world.worker.finish()
    assert checkpoint.load(tmp_path).version == world.worker.loop.version > told[-1]


def test_a_rollback_begins_an_epoch_with_a_whole_publication(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.drain()
    world.worker.finish()
    names = checkpoint.names(tmp_path)
    last = last_said(world.model.source()).published
    then = checkpoint.load(tmp_path, names[0]).version
    begun = worker.rollback(world.rules, names[0], last)
    assert begun == Version(1, then.step)
    n_before = len(world.published())
    world.worker = world.start()
    assert world.worker.loop.version == begun
    world.drain()
    after = world.published()[n_before:]
    assert after[0].since is None
    assert after[0].version.epoch == 1
    assert [p.since for p in after[1:]] == [p.version for p in after[:-1]]
    steps = {s.version for lane in world.scored() for s in lane}
    assert {v for v in steps if v.epoch == 1} == {
        Version(1, n) for n in range(begun.step + 1, after[-1].version.step + 1)
    }


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Gone back to its first checkpoint; its worker is not started again."""
    world = World(tmp_path_factory.mktemp("rolled_back"))
    world.drain()
    world.worker.finish()
    folder = world.rules.checkpoints
    worker.rollback(world.rules, checkpoint.names(folder)[0], last_said(world.model.source()).published)
    return world


def begun(rolled_back: World, folder: str) -> World:
    """A copy of it, with a worker that reads a record a step and has no checkpoint for long."""
    shutil.copytree(rolled_back.rules.checkpoints, folder, dirs_exist_ok=True)
    return World(folder, rolled_back.messages(), checkpoint_ms=10_000, poll_records=1)


@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_killed_anywhere_in_a_new_epoch_it_publishes_the_same(rolled_back: World, steps: list[int]) -> None:
    with TemporaryDirectory() as undisturbed, TemporaryDirectory() as folder:
        whole, world = begun(rolled_back, undisturbed), begun(rolled_back, folder)
        whole.drain()
        for n in steps:
            for _ in range(n):
                world.worker.step()
            world.worker = world.start()
        world.drain()
        assert world.messages() == whole.messages()
        assert world.scored() == whole.scored()


def test_a_checkpoint_of_an_epoch_that_is_over_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path / "new")
    world.drain()
    world.worker.finish()
    worker.rollback(world.rules, checkpoint.names(tmp_path / "new")[0], None)
    world.worker = world.start()
    world.drain()
    old = World(tmp_path / "old")
    old.model = world.model
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of epoch 1.*got none"):
        old.start()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.drain()
    world.worker.finish()
    world.rules = replace(world.rules, made_with={"model": {"dim": 16}})
    with pytest.raises(CheckpointError, match=r"expected the same \[model\] settings"):
        world.start()


@pytest.mark.parametrize(
    ("name", "then", "now", "changes"),
    [
        ("trainer.batch_samples", 4, 8, {"loop": replace(LOOP, batch_samples=8)}),
        ("trainer.row_ttl_ms", 24_000, 10**8, {"loop": replace(LOOP, row_ttl_ms=10**8)}),
        ("trainer.threads", 1, 2, {"config": replace(CONFIG, threads=2)}),
        ("breaker.mode", None, "off", {"breaker": {"mode": "off"}}),
    ],
)
@pytest.mark.parametrize("checkpoint_ms", [4_000, 10**9])
def test_what_was_published_is_repeated_with_what_it_was_learned_with_or_not_at_all(
    whole: World,
    tmp_path: Path,
    checkpoint_ms: int,
    name: str,
    then: object,
    now: object,
    changes: dict[str, Any],
) -> None:
    world = World(tmp_path, checkpoint_ms=checkpoint_ms)
    before = world.rules
    while world.worker.loop.n_published < 5:
        world.worker.step()
    n_saved = len(checkpoint.names(tmp_path))
    world.rules = replace(before, **changes)
    told = world.worker.loop.said.told
    expected = rf"checkpoint 0\.\d+: expected {name} = {then}, .* up to {told} were learned, got {now}: "
    with pytest.raises(CheckpointError, match=expected):
        world.start()
    assert len(checkpoint.names(tmp_path)) == n_saved
    world.rules = before
    world.worker = world.start()
    world.drain()
    assert world.messages() == whole.messages()


def test_a_trainer_that_has_finished_goes_on_with_other_rules_and_repeats_them_when_killed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    for _ in range(9):
        world.worker.step()
    world.worker.finish()
    before = world.rules
    others = replace(before, loop=replace(LOOP, batch_samples=8, publish_ms=1_000), checkpoint_ms=10**9)
    world.rules = others
    for n in (3, 2, 1):
        world.worker = world.start()
        for _ in range(n):
            world.worker.step()
    world.rules = before
    with pytest.raises(CheckpointError, match=r"expected trainer.batch_samples = 8,"):
        world.start()
    world.rules = others
    world.worker = world.start()
    world.drain()
    world.worker.loop.publish()
    rows = {key: vector for key, (_, _, vector) in mirrored(world.published()).items()}
    table = world.worker.loop.learner.table
    assert rows == {int(table.keys[i]): table.rows[i].tobytes() for i in np.flatnonzero(table.keys)}


def test_without_its_checkpoint_it_repeats_what_is_there_from_the_first_sample_or_is_refused(
    whole: World, tmp_path: Path
) -> None:
    world = World(tmp_path / "lost", log=make_log(SAMPLES, partitions=2))
    for _ in range(9):
        world.worker.step()
    world.rules = replace(world.rules, checkpoints=str(tmp_path / "mistyped"))
    world.worker = world.start()
    world.drain()
    assert world.messages() == whole.messages()
    world.log.trim({1: 3})
    world.rules = replace(world.rules, checkpoints=str(tmp_path / "mistyped again"))
    told = world.worker.loop.said.told
    with pytest.raises(
        CheckpointError, match=rf"mistyped again: expected a checkpoint.* at {told} .*got none"
    ):
        world.start()
    assert checkpoint.names(tmp_path / "mistyped again") == []


@pytest.mark.parametrize("n_noise", [0, 1, 63, 64, 700])
def test_the_last_version_is_found_behind_any_number_of_blocks(whole: World, n_noise: int) -> None:
    model = MemoryLog(1)
    assert last_said(model.source()).published is None
    for _ in range(n_noise):
        model.append(0, b"block", b"")
    assert last_said(model.source()).published is None
    for key, value in whole.messages():
        model.append(0, key, value)
    for _ in range(n_noise):
        model.append(0, b"block", b"")
    assert last_said(model.source()).published == whole.published()[-1].version
