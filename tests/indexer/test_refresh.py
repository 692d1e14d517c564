"""From publications to codes: those of the trainer, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.refresh import refresh
from stream.events import Version
from stream.log import MemoryLog
from tests.trainer.samples import CAPACITY, CONFIG, as_batch, make_samples
from trainer.learner import Learner
from trainer.loop import Loop, LoopRules
from trainer.model.simhash import make_planes
from trainer.publication import Assembler, Publication

DIM = 8


def make_publication(n: int, n_fields: int, seed: int = 0) -> Publication:
    rng = np.random.default_rng(seed)
    return Publication(
        version=Version(2, 9),
        since=Version(2, 7),
        at_ms=123,
        keys=rng.permutation(np.arange(1, n + 1)).astype(np.uint64),
        fields=rng.integers(0, n_fields, n).astype(np.uint8),
        steps=rng.integers(8, 10, n),
        vectors=rng.normal(size=(n, DIM)).astype(np.float32),
        tombstones=np.array([77, 99], np.uint64),
        dense={"w": rng.normal(size=3).astype(np.float32)},
        offsets={0: 5},
        journal=[{0: (1, 5)}],
    )


def slow_code(vector: NDArray[np.float32], planes: NDArray[np.float32]) -> list[int]:
    """Words of a code, one rounded operation after the other."""
    words = [0] * (planes.shape[1] // 64)
    for bit in range(planes.shape[1]):
        total = np.float32(0)
        for d in range(len(vector)):
            total = np.float32(total + np.float32(vector[d] * planes[d, bit]))
        words[bit // 64] |= int(total > 0) << (bit % 64)
    return words


@pytest.mark.parametrize(("n_coded", "bits"), [(1, 64), (2, 64), (2, 128), (3, 192)])
def test_codes_are_the_signs_of_the_vectors_by_field_and_others_have_none(n_coded: int, bits: int) -> None:
    publication = make_publication(30, n_fields=n_coded + 2)
    planes = make_planes(n_coded, DIM, bits, seed=3)
    codes = refresh(publication, planes).codes
    assert codes.shape == (30, bits // 64)
    rows = zip(publication.fields, publication.vectors, strict=True)
    nothing = [0] * (bits // 64)
    expected = [slow_code(v, planes[f]) if f < n_coded else nothing for f, v in rows]
    assert codes.tolist() == expected
    assert len({tuple(code) for code in expected}) > n_coded


def test_everything_else_passes_as_it_is() -> None:
    publication = make_publication(5, n_fields=2)
    update = refresh(publication, make_planes(2, DIM, 64, seed=3))
    for name in ("version", "since", "at_ms", "keys", "fields", "steps", "vectors", "tombstones", "dense"):
        assert getattr(update, name) is getattr(publication, name), name


def test_a_publication_without_rows_has_no_codes() -> None:
    update = refresh(make_publication(0, n_fields=2), make_planes(2, DIM, 128, seed=3))
    assert update.codes.shape == (0, 2)
    assert update.tombstones.tolist() == [77, 99]


def test_the_codes_of_what_a_trainer_publishes_are_its_own() -> None:
    learner, model = Learner(CONFIG, CAPACITY), MemoryLog(1)
    loop = Loop(learner, MemoryLog(1).source(), model.sink(), {0: 0}, LoopRules())
    assembler, n_rows, source = Assembler(), [], model.source()
    for n, sample in enumerate(make_samples(40)):
        learner.step(as_batch([sample]))
        if n % 10 == 9:
            loop.publish()
            found = [p for r in source.poll(1_000) if (p := assembler.add(r.key, r.value)) is not None]
            (update,) = [refresh(p, learner.table.planes) for p in found]
            assert update.codes.tolist() == learner.table.codes[learner.table.find(update.keys)].tolist()
            n_rows.append(len(update.keys))
    assert n_rows[0] > 20
    assert 0 < n_rows[-1] < learner.table.n_rows
