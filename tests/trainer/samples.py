"""A tiny world of samples for the tests of the trainer: users who like one category each, and say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.events import Origin, Sample, Tick, encode_sample, key_of
from stream.log import MemoryLog
from trainer.batch import Batch, make_batch
from trainer.learner import LearnerConfig
from trainer.model.ctr import Shape

N_FIELDS, N_SIDE, N_CATEGORIES = 2, 2, 5
SHAPE = Shape(
    "eta", dim=8, n_side=N_SIDE, n_item_fields=N_FIELDS, n_coded=2, heads=2, mlp=(12, 6), sharpness=4.0
)
CONFIG = LearnerConfig(SHAPE, seed=3, short=4, k=6, row_lr=0.05, lr=0.002)
CAPACITY = 4096
START_MS = 1_700_000_000_000
WINDOW_MS = 500


def item_keys(items: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 ``[n, 2]``: items ``[n]`` and their categories; item 0 has none."""
    keys = [(key_of("item", str(i)), key_of("category", str(i % N_CATEGORIES)) if i else 0) for i in items]
    return np.array(keys, np.uint64).reshape(-1, N_FIELDS)


def sample(
    user: int,
    at_ms: int,
    items: NDArray[np.int64],
    labels: NDArray[np.uint8],
    sequence: NDArray[np.int64],
    sequence_at: NDArray[np.int64],
    stage: str = "final",
) -> Sample:
    """One slate; ``labels`` uint8 ``[C]`` or ``[C, K]``, ``sequence`` the items of behaviours, oldest first."""
    side = np.array([key_of("user", str(user)), key_of("device", str(user % 3))], np.uint64)
    return Sample(
        impression=f"{user}@{at_ms}",
        user=int(side[0]),
        at_ms=at_ms,
        closed_ms=at_ms + WINDOW_MS,
        origin=Origin(0, 0, 0),
        side=side.tobytes(),
        items=item_keys(items).tobytes(),
        labels=labels.astype(np.uint8).tobytes(),
        sequence=item_keys(sequence).tobytes(),
        sequence_at=sequence_at.astype(np.int64).tobytes(),
        stage=stage,
    )


def make_samples(
    n: int,
    seed: int = 0,
    *,
    n_items: int = 40,
    n_users: int = 8,
    lengths: Sequence[int] = (0, 1, 3, 12, 30),
    every_ms: int = 200,
    stage: str = "final",
) -> list[Sample]:
    """``n`` slates in the order of event time; a user clicks on items of one category, five times out of six."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        user, at_ms = int(rng.integers(n_users)), START_MS + i * every_ms
        items = rng.integers(0, n_items, rng.integers(1, 6))
        liked = items % N_CATEGORIES == user % N_CATEGORIES
        labels = np.where(rng.random(len(items)) < 5 / 6, liked, ~liked).astype(np.uint8)
        length = int(rng.choice(list(lengths)))
        sequence = rng.integers(0, n_items // N_CATEGORIES, length) * N_CATEGORIES + user % N_CATEGORIES
        ago = np.sort(rng.integers(1, 10_000_000, length))[::-1]
        made.append(sample(user, at_ms, items, labels, sequence, at_ms - ago, stage))
    return made


def as_batch(samples: Sequence[Sample], n_kinds: int = 1) -> Batch:
    return make_batch(samples, N_FIELDS, n_kinds)


def make_log(samples: Sequence[Sample], partitions: int = 2, tick_ms: int = 1_000) -> MemoryLog:
    """As the joiner writes it: a user's samples in one partition, Ticks in all of them."""
    log = MemoryLog(partitions)
    said = 0
    for s in samples:
        if said and s.closed_ms // tick_ms > said // tick_ms:
            for p in range(partitions):
                log.append(p, b"", encode_sample(Tick(s.closed_ms - 1)))
        said = s.closed_ms
        log.append(s.user % partitions, b"", encode_sample(s))
    return log
