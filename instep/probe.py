"""Is the search any good? What AUC does not show: it can look learned while retrieval is at chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trainer.batch import Batch
from trainer.learner import Learner, locate
from trainer.model.inputs import compared
from trainer.model.search import Found
from trainer.model.searches import hamming, make_search
from trainer.model.simhash import hamming as distance
from trainer.model.simhash import item_codes

Topics = Callable[[NDArray[np.uint64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Overlap:
    """What the search of a unit found, beside the exact inner product over the same vectors and the truth."""

    with_exact: float
    """Share of the exact top k that the search found as well; 1 is perfect. NaN if nothing was long enough."""
    topic_recall: float
    """Of the behaviours with the candidate's hidden topic, the share that was found, up to k of them; NaN untold."""
    by_chance: float
    """The recall that k behaviours drawn at random would have."""


def overlap(learner: Learner, batch: Batch, topics: Topics | None = None) -> Overlap:
    """Compare the learner's search with the exact one on a batch, on sequences longer than k only.

    Parameters
    ----------
    topics
        Hidden topic of item keys ``[n]``, where a simulator knows it.
    """
    config = learner.config
    find = learner.network.reading.find
    exact = make_search("inner", config.shape.n_coded)
    start, stop = batch.start[:-1], np.maximum(batch.start[:-1], batch.start[1:] - config.short)
    nothing = Overlap(float("nan"), float("nan"), float("nan"))
    if find is None:
        return nothing
    at = locate(learner.table, batch)
    young = learner.n_steps < config.warm_up_steps
    found = find(learner.table, batch, at, young)(start, stop, config.k)
    best = exact(learner.table, batch, at, False)(start, stop, config.k)
    long = ((stop - start) > config.k)[batch.slate]
    if not long.any():
        return nothing
    shared = [np.isin(a, b).mean() for a, b in zip(found.positions[long], best.positions[long], strict=True)]
    recall, chance = float("nan"), float("nan")
    if topics is not None:
        recall, chance = _recall(batch, found, long, topics, config.k, start, stop)
    return Overlap(float(np.mean(shared)), recall, chance)


def ties(learner: Learner, batch: Batch) -> float:
    """Share of a batch's searches by codes whose last place was decided by recency alone.

    That is where the behaviour that just came in and the one that just did not are equally near. Counted are candidates
    with more than k behaviours; nan if there are none, or the unit does not search by codes.
    """
    config = learner.config
    if getattr(learner.network.reading.find, "func", None) is not hamming:
        return float("nan")
    at = locate(learner.table, batch)
    young = learner.n_steps < config.warm_up_steps
    fields = compared(young, config.shape.n_coded)
    queries = item_codes(learner.table.codes, at.items[:, fields])
    keys = item_codes(learner.table.codes, at.sequence[:, fields])
    undecided = []
    for b, (start, end) in enumerate(pairwise(batch.start.tolist())):
        stop = max(start, end - config.short)
        if stop - start <= config.k:
            continue
        for query in queries[batch.first[b] : batch.first[b + 1]]:
            far = np.partition(distance(query, keys[start:stop]), [config.k - 1, config.k])
            undecided.append(far[config.k - 1] == far[config.k])
    return float(np.mean(undecided)) if undecided else float("nan")


def _recall(
    batch: Batch,
    found: Found,
    long: NDArray[np.bool_],
    topics: Topics,
    k: int,
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
) -> tuple[float, float]:
    behaviours = topics(batch.sequence[:, 0])
    wanted = topics(batch.items[:, 0])
    hits, possible, chance = 0.0, 0.0, 0.0
    for n in np.flatnonzero(long):
        b = batch.slate[n]
        same = behaviours[start[b] : stop[b]] == wanted[n]
        n_same = int(same.sum())
        hits += float((behaviours[found.positions[n]] == wanted[n]).sum())
        possible += min(k, n_same)
        chance += n_same * k / (stop[b] - start[b])
    return hits / max(1.0, possible), chance / max(1.0, possible)
