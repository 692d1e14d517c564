"""What a score is made of: which behaviours the search picked for a candidate, how near they are, what they weigh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ranker.ranker import Model, NotReadyError, Scorer
from stream.events import Version
from trainer.batch import Batch
from trainer.learner import locate
from trainer.model.attention import TargetAttention
from trainer.model.inputs import prepare
from trainer.model.interest import see
from trainer.model.simhash import hamming, item_codes


@dataclass(frozen=True)
class Explained:
    """The behaviours that one candidate attends over, of the long part and of the short one; oldest first."""

    score: float
    p: tuple[float, ...]
    """Of each kind of action."""
    version: Version
    is_young: bool
    """Whether the search compares categories alone."""
    positions: NDArray[np.int64]
    """``[n]`` in the user's sequence."""
    is_long: NDArray[np.bool_]
    """``[n]``: picked by the search; the others are the most recent ones."""
    distances: NDArray[np.int64]
    """``[n]`` bits in which the codes of candidate and behaviour differ."""
    weights: NDArray[np.float32]
    """``[n, H]`` of each head's attention; those of a part sum up to 1."""


def explain(scorer: Scorer, model: Model, batch: Batch) -> Explained:
    """Explain the score of the one candidate of a batch of one sample.

    Raises
    ------
    NotReadyError
        Before the first publication, and for a model whose unit does not attend.
    """
    ranked = scorer.score(model, batch)
    network, table = model.network, model.table
    young = scorer.is_young(ranked.version)
    at = locate(table, batch)
    inputs = prepare(table, batch, at, network.reading, short=scorer.short, k=scorer.k, young=young)
    rows = torch.from_numpy(table.rows[inputs.unique])[:, : network.shape.dim]
    target = rows[torch.from_numpy(inputs.items)].flatten(1)
    positions, weights, is_long = [], [], []
    for unit, picked in ((network.long, inputs.long), (network.short, inputs.short)):
        if isinstance(unit, TargetAttention) and picked is not None:
            n = int(picked.count[picked.of[0]])
            with torch.no_grad():
                weights.append(unit.weights(see(target, rows, picked))[:, 0, :n].T.numpy())
            positions.append(picked.positions[picked.of[0], :n].astype(np.int64))
            is_long.append(np.full(n, unit is network.long))
    if not positions:
        raise NotReadyError(f"explain: expected a unit that attends, got {network.shape.unit}")
    n_coded = network.shape.n_coded
    query = item_codes(table.codes, at.items[:, :n_coded])
    where = np.concatenate(positions)
    return Explained(
        score=float(ranked.scores[0]),
        p=tuple(ranked.p[0].tolist()),
        version=ranked.version,
        is_young=young,
        positions=where,
        is_long=np.concatenate(is_long),
        distances=hamming(query, item_codes(table.codes, at.sequence[where][:, :n_coded])),
        weights=np.concatenate(weights),
    )
