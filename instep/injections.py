"""What can go wrong in a running `Pipeline`, done to it while a ``with`` block lasts: for trying the monitor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from indexer.index import Update
from instep.pipeline import Pipeline


def rotate(pipeline: Pipeline, seed: int = 0) -> None:
    """Turn the rows of each field by a random rotation of its own, and leave the dense weights as they are.

    As when rows are restored from another run: norms and angles within a field are the same, codes follow, and nothing
    fits the network any more. It happens once and stays; the next publication holds all rows.
    """
    table = pipeline.learner.table
    used = table.n_slots
    slots = np.flatnonzero(table.keys[:used])
    for number in np.unique(table.fields[slots]):
        of_field = slots[table.fields[slots] == number]
        turned = table.rows[of_field] @ rotation(table.dim, [seed, int(number)])
        table.put(
            table.keys[of_field],
            table.fields[of_field],
            turned,
            table.accumulators[of_field],
            pipeline.learner.n_steps + 1,  # later than the last publication, so that the next one has them
            at_ms=table.last_seen_ms[of_field],
        )


def rotation(dim: int, seed: list[int]) -> NDArray[np.float32]:
    """A random orthogonal matrix float32 ``[dim, dim]``, each as likely as any other.

    >>> turn = rotation(4, [1])
    >>> bool(np.allclose(turn @ turn.T, np.eye(4), atol=1e-6))
    True
    """
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


@contextmanager
def stalled_indexer(pipeline: Pipeline) -> Iterator[None]:
    """Publications wait and are applied at the end of the block, as by an indexer that was started again."""
    waiting: list[Update] = []
    apply = pipeline.index.apply
    pipeline.index.apply = waiting.append  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        pipeline.index.apply = apply  # type: ignore[method-assign]
        for update in waiting:
            apply(update)


@contextmanager
def stopped_trainer(pipeline: Pipeline) -> Iterator[None]:
    """Samples wait and are learned after the block, as by a trainer that was started again."""
    poll = pipeline.loop.poll
    pipeline.loop.poll = lambda max_records=512, end=False: 0  # type: ignore[method-assign]
    try:
        yield
    finally:
        pipeline.loop.poll = poll  # type: ignore[method-assign]
