"""What goes wrong in a running pipeline on purpose: exactly that, and it is over when it is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from instep.injections import rotate, stalled_indexer, stopped_trainer
from instep.pipeline import Pipeline
from stream.log import MemoryLog
from tests.worlds import make_log, product, small
from trainer.checkpoint import weights_sha256
from trainer.model.simhash import encode

N_SLATES = 240
S = small()


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    return make_log(product(N_SLATES), S.stream.partitions)


def half_way(log: MemoryLog) -> Pipeline:
    pipeline = Pipeline(S, log.source())
    while pipeline.loop.n_samples < N_SLATES // 2:
        assert pipeline.pump(16)
    return pipeline


def to_the_end(pipeline: Pipeline) -> str:
    while pipeline.pump(16):
        pass
    pipeline.finish()
    return weights_sha256(pipeline.learner.state())


@pytest.fixture(scope="module")
def untouched(log: MemoryLog) -> str:
    return to_the_end(Pipeline(S, log.source()))


def test_rotated_rows_keep_their_norms_and_angles_and_lose_their_codes(
    log: MemoryLog, untouched: str
) -> None:
    pipeline = half_way(log)
    table = pipeline.learner.table
    slots = np.flatnonzero(table.keys[: table.n_slots])
    before, codes, dense = table.rows[slots].copy(), table.codes[slots].copy(), pipeline.learner.dense()
    sums, seen = table.accumulators[slots].copy(), table.last_seen_ms[slots].copy()
    rotate(pipeline)
    after, fields = table.rows[slots], table.fields[slots]
    for number in np.unique(fields):
        mine = fields == number
        assert np.allclose(after[mine] @ after[mine].T, before[mine] @ before[mine].T, atol=1e-4)
        assert not np.allclose(after[mine], before[mine], atol=1e-2)
    assert (table.accumulators[slots] == sums).all()
    assert (table.last_seen_ms[slots] == seen).all()
    assert all((pipeline.learner.dense()[name] == w).all() for name, w in dense.items())
    coded = fields < len(table.planes)
    n_flipped = np.bitwise_count(table.codes[slots][coded] ^ codes[coded]).sum(1)
    flipped = n_flipped.mean() / (S.model.bits / S.n_coded)  # each field has bits of its own
    assert flipped == pytest.approx(0.5, abs=0.1)
    assert to_the_end(pipeline) != untouched


def test_a_rotation_is_published_whole_and_the_index_is_in_step_with_it(log: MemoryLog) -> None:
    pipeline = half_way(log)
    table = pipeline.learner.table
    rotate(pipeline, seed=3)
    slots = np.flatnonzero(table.keys[: table.n_slots])
    at = pipeline.index.version
    while pipeline.index.version == at:
        assert pipeline.pump(16)
    held = pipeline.index.load()
    assert held is not None
    assert at is not None
    assert (pipeline.index.get(table.keys[slots]).steps > at.step).all()
    for number, planes in enumerate(table.planes):
        mine = held.fields == number
        assert (held.codes[mine] == encode(held.vectors[mine], planes)).all()


def test_a_stalled_indexer_stands_still_while_training_goes_on_and_catches_up(
    log: MemoryLog, untouched: str
) -> None:
    pipeline = half_way(log)
    with stalled_indexer(pipeline):
        at, step = pipeline.index.version, pipeline.loop.version.step
        for _ in range(20):
            pipeline.pump(16)
        assert pipeline.index.version == at
        assert pipeline.loop.version.step > step
        assert pipeline.loop.said.published is not None
        assert at is not None
        assert pipeline.loop.said.published > at
    assert pipeline.index.version == pipeline.loop.said.published
    assert to_the_end(pipeline) == untouched
    assert pipeline.index.version == pipeline.loop.said.published


def test_a_stopped_trainer_learns_nothing_and_then_all_of_it_to_the_same_bits(
    log: MemoryLog, untouched: str
) -> None:
    pipeline = half_way(log)
    with stopped_trainer(pipeline):
        n = pipeline.loop.n_samples
        for _ in range(20):
            pipeline.pump(16)
        assert pipeline.loop.n_samples == n
    assert to_the_end(pipeline) == untouched
