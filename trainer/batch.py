"""Samples as arrays: the shapes that everything behind the joiner works on.

A batch is ragged and flat, without padding. With ``B`` samples (slates), ``N`` candidates in all, ``T`` behaviours
in all, ``F`` item fields, ``S`` side fields and ``K`` action kinds::

    sample 0            sample 1
    c0 c1 c2            c3 c4             items    [N, F]   first = [0, 3, 5]
    b0 b1 b2 b3 b4      b5 b6             sequence [T, F]   start = [0, 5, 7], oldest first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.events import Sample

STAGES = ("final", "early", "click")
"""How a sample came about; its place here is the number in ``Batch.stage``."""


@dataclass(frozen=True)
class Batch:
    """Some slates, ready for the model."""

    side: NDArray[np.uint64]
    """``[B, S]`` keys of user and context, the user first."""
    at_ms: NDArray[np.int64]
    """``[B]`` event time of the impression."""
    items: NDArray[np.uint64]
    """``[N, F]`` keys of the candidates, the item first."""
    first: NDArray[np.int64]
    """``[B + 1]``: candidates of sample b are ``first[b]:first[b + 1]``."""
    labels: NDArray[np.float32]
    """``[N, K]``."""
    stage: NDArray[np.uint8]
    """``[B]``, see STAGES."""
    sequence: NDArray[np.uint64]
    """``[T, F]`` keys of the behaviours."""
    sequence_at: NDArray[np.int64]
    """``[T]`` event times of the behaviours."""
    start: NDArray[np.int64]
    """``[B + 1]``: behaviours of sample b are ``start[b]:start[b + 1]``, oldest first."""

    @property
    def n_samples(self) -> int:
        return len(self.at_ms)

    @property
    def n_candidates(self) -> int:
        return len(self.items)

    @property
    def slate(self) -> NDArray[np.int64]:
        """int64 ``[N]``: the sample that each candidate belongs to."""
        return np.repeat(np.arange(self.n_samples), np.diff(self.first))


def make_batch(samples: Sequence[Sample], n_item_fields: int, n_kinds: int) -> Batch:
    """Lay samples side by side, in their order.

    Raises
    ------
    ValueError
        If a sample was joined with other declared fields or kinds than these.
    """
    for s in samples:
        n_each = len(s.labels) // n_kinds
        if len(s.items) != 8 * n_item_fields * n_each or len(s.labels) != n_kinds * n_each:
            raise ValueError(
                f"sample {s.origin}: expected {n_item_fields} item fields and {n_kinds} kinds, "
                f"got {len(s.items) // 8} keys and {len(s.labels)} labels"
            )
    sequences = [s.behaviours(n_item_fields) for s in samples]
    items = [s.item_keys(n_item_fields) for s in samples]
    labels = [s.label_matrix(n_kinds) for s in samples]
    return Batch(
        side=np.stack([s.side_keys for s in samples]),
        at_ms=np.array([s.at_ms for s in samples], np.int64),
        items=np.concatenate(items),
        first=boundaries([len(i) for i in items]),
        labels=np.concatenate(labels).astype(np.float32),
        stage=np.array([STAGES.index(s.stage) for s in samples], np.uint8),
        sequence=np.concatenate([keys for keys, _ in sequences]),
        sequence_at=np.concatenate([at for _, at in sequences]),
        start=boundaries([len(at) for _, at in sequences]),
    )


def side_by_side(batches: Sequence[Batch]) -> Batch:
    """Batches as one, in their order; there has to be one at least."""
    if len(batches) == 1:
        return batches[0]

    def flat(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(batch, name) for batch in batches])

    return Batch(
        side=flat("side"),
        at_ms=flat("at_ms"),
        items=flat("items"),
        first=boundaries([n for batch in batches for n in np.diff(batch.first).tolist()]),
        labels=flat("labels"),
        stage=flat("stage"),
        sequence=flat("sequence"),
        sequence_at=flat("sequence_at"),
        start=boundaries([n for batch in batches for n in np.diff(batch.start).tolist()]),
    )


def boundaries(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where each part starts in the flat array, and where the last one ends.

    >>> boundaries([3, 2]).tolist()
    [0, 3, 5]
    """
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
