"""Is the search any good? What AUC does not show: it can look learned while retrieval is at chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.batch import Batch
from trainer.learner import Learner, locate
from trainer.model.inputs import Located, compared, prepare
from trainer.model.interest import see
from trainer.model.searches import hamming, make_search
from trainer.model.simhash import hamming as distance
from trainer.model.simhash import item_codes
from trainer.model.twin import heaviest

Topics = Callable[[NDArray[np.uint64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Overlap:
    """What the search of a unit found, beside the exact inner product over the same vectors and the truth."""

    with_own: float
    """Share of the k behaviours that weigh most in the unit's own attention over all that the search found; NaN for a
    unit that does not search, or does not weigh."""
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
    config, reading = learner.config, learner.network.reading
    middle = np.maximum(batch.start[:-1], batch.start[1:] - config.short)  # the long part ends there
    n_long = middle - batch.start[:-1]
    chosen = (n_long > config.k)[batch.slate]
    nothing = Overlap(*[float("nan")] * 4)
    if not reading.long or not (reading.find or reading.recent) or not chosen.any():
        return nothing
    at = locate(learner.table, batch)
    young = learner.n_steps < config.warm_up_steps
    seen = prepare(learner.table, batch, at, reading, short=config.short, k=config.k, young=young).long
    assert seen is not None
    places = seen.positions[seen.of]
    found = np.where(places < middle[batch.slate, None], places, -1)  # without the short part of a whole unit
    exact = make_search("inner", config.shape.n_coded, config.shape.dim)
    best = exact(learner.table, batch, at, False)(batch.start[:-1], middle, config.k).positions
    own = _weighed_most(learner, batch, at, middle)
    recall, chance = float("nan"), float("nan")
    if topics is not None:
        recall, chance = _recall(batch, found, chosen, topics, config.k, batch.start[:-1], middle)
    with_own = float("nan") if own is None else _shared(own[chosen], found[chosen])
    return Overlap(with_own, _shared(best[chosen], found[chosen]), recall, chance)


def _shared(wanted: NDArray[np.int32], found: NDArray[np.int32]) -> float:
    """The share of each list of positions ``[n, k]`` that the other has as well, on average."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)]))


@torch.no_grad()
def _weighed_most(
    learner: Learner, batch: Batch, at: Located, middle: NDArray[np.int64]
) -> NDArray[np.int32] | None:
    """Positions ``[N, k]`` of the behaviours of the long part with the largest weights in the unit's own attention.

    -1 where the part is shorter; None for a unit that does not weigh.
    """
    unit, shape, k = learner.network.long, learner.network.shape, learner.config.k
    everything = replace(learner.network.reading, find=None, recent=False, count=None, short=True, sample=0)
    inputs = prepare(learner.table, batch, at, everything, short=learner.config.short, k=k)
    assert unit is not None
    assert inputs.long is not None
    rows = torch.from_numpy(learner.table.rows[inputs.unique])[:, : shape.dim]
    target = rows[torch.from_numpy(inputs.items)].flatten(1)
    seen = see(target, rows, inputs.long)
    weights = unit.weigh(seen)
    if weights is None:
        return None
    weights = weights.masked_fill(~seen.filled[seen.of], -torch.inf)
    best = heaviest(weights.detach().numpy(), min(k, weights.shape[1]))
    return np.take_along_axis(inputs.long.positions[inputs.long.of], best, 1)


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
    found: NDArray[np.int32],
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
        hits += float((behaviours[found[n]] == wanted[n]).sum())
        possible += min(k, n_same)
        chance += n_same * k / (stop[b] - start[b])
    return hits / max(1.0, possible), chance / max(1.0, possible)
