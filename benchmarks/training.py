"""A training step: ours against one that re-hashes floats and against full attention, and as histories grow."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.baseline import Baseline
from trainer.batch import Batch, boundaries
from trainer.learner import Learner, LearnerConfig
from trainer.model.ctr import Shape

N_ITEMS, N_CATEGORIES, N_USERS = 20_000, 200, 5_000
SLATE = 10


def make_batches(n: int, n_slates: int, length: int, seed: int = 0) -> list[Batch]:
    """Random slates of users with ``length`` behaviours; items are popular by Zipf's law."""
    rng = np.random.default_rng(seed)
    category = rng.integers(0, N_CATEGORIES, N_ITEMS).astype(np.uint64) + np.uint64(10_000_000)

    def items(size: int) -> np.ndarray:
        drawn = np.minimum(rng.zipf(1.3, size) * 7919 % N_ITEMS, N_ITEMS - 1)
        return np.stack([drawn.astype(np.uint64) + np.uint64(1), category[drawn]], 1)

    return [
        Batch(
            side=np.stack(
                [
                    rng.integers(0, N_USERS, n_slates).astype(np.uint64) + np.uint64(20_000_000),
                    rng.integers(0, 3, n_slates).astype(np.uint64) + np.uint64(30_000_000),
                ],
                1,
            ),
            at_ms=np.full(n_slates, 10**9, np.int64),
            items=items(n_slates * SLATE),
            first=boundaries([SLATE] * n_slates),
            labels=(rng.random((n_slates * SLATE, 1)) < 0.2).astype(np.float32),
            stage=np.zeros(n_slates, np.uint8),
            sequence=items(n_slates * length),
            sequence_at=np.sort(rng.integers(0, 10**9, (n_slates, length)), 1).ravel(),
            start=boundaries([length] * n_slates),
        )
        for _ in range(n)
    ]


def run(n_slates: int = 16) -> dict[str, object]:
    """Samples are candidates; a batch is ``n_slates`` slates of ten. Medians of steps, models taking turns."""
    torch.set_num_threads(1)
    lengths = (256, 1_024, 4_096)
    batches = {length: make_batches(8, n_slates, length) for length in lengths}
    each, learner = _each("eta", batches, n_slates)
    full, _ = _each("full", {length: batches[length] for length in lengths[1:]}, n_slates)
    theirs = _baseline(batches[1_024], n_slates)
    return {
        "samples_per_s": round(1 / each[1_024]),
        "slates_per_s": round(1 / each[1_024] / SLATE),
        "baseline_samples_per_s": round(1 / theirs),
        "times_the_baseline": round(theirs / each[1_024], 1),
        "us_per_sample_by_length": {length: round(1e6 * t, 1) for length, t in each.items()},
        "cost_of_4096_over_256": round(each[4_096] / each[256], 3),
        "full_us_per_sample_by_length": {length: round(1e6 * t, 1) for length, t in full.items()},
        "times_full_attention": {length: round(t / each[length], 2) for length, t in full.items()},
        "bytes_per_row": round(learner.table.bytes_per_row, 1),
    }


def _each(unit: str, batches: dict[int, list[Batch]], n_slates: int) -> tuple[dict[int, float], Learner]:
    """Seconds a candidate by length, and a learner that took them."""
    config = LearnerConfig(shape=Shape(unit, n_side=2), threads=1)
    learners = {length: Learner(config, 1 << 18) for length in batches}
    for length, learner in learners.items():
        for batch in batches[length]:
            learner.step(batch)
    # Turn by turn, so that what else runs on the machine hits all of them alike.
    took: dict[int, list[float]] = {length: [] for length in batches}
    for turn in range(40):
        for length, learner in learners.items():
            began = perf_counter()
            learner.step(batches[length][turn % 8])
            took[length].append(perf_counter() - began)
    return {length: median(t) / (n_slates * SLATE) for length, t in took.items()}, learner


def _baseline(batches: list[Batch], n_slates: int) -> float:
    """Seconds a candidate of the baseline on the same batches."""
    keys = np.unique(
        np.concatenate(
            [np.concatenate([b.side.ravel(), b.items.ravel(), b.sequence.ravel()]) for b in batches]
        )
    )

    def rows(wanted: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.searchsorted(keys, wanted))

    theirs = Baseline(len(keys), 2, 2)
    took = []
    for turn, batch in enumerate([batches[0], *batches]):
        slate = batch.slate
        sequence = rows(batch.sequence).view(n_slates, -1, 2)
        # a smaller batch than ours: 640 sequences of 1,024 do not fit the caches, and its time is per candidate
        for part in np.array_split(np.arange(len(slate)), 10):
            inputs = (rows(batch.side[slate[part]]), rows(batch.items[part]), sequence[slate[part]])
            labels = torch.from_numpy(batch.labels[part, 0])
            began = perf_counter()
            theirs.step(*inputs, labels)
            if turn:  # the first batch warms up
                took.append((perf_counter() - began) / len(part))
    return median(took)
