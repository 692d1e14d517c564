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
from trainer.model.attention import Picked, TargetAttention
from trainer.model.inputs import prepare
from trainer.model.simhash import hamming, item_codes


@dataclass(frozen=True)
class Explained:
    """The behaviours that one candidate attends over, of the long part and of the short one; oldest first."""

    score: float
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
    network, table, unit = model.network, model.table, model.network.unit
    young = scorer.is_young(ranked.version)
    at = locate(table, batch)
    inputs = prepare(
        table, batch, at, search=unit.search, reads=unit.reads, short=scorer.short, k=scorer.k, young=young
    )
    if network.short is None:
        raise NotReadyError(f"explain: expected a unit that attends, got {network.shape.unit}")
    rows = torch.from_numpy(table.rows[inputs.unique])
    target = rows[torch.from_numpy(inputs.items)].flatten(1)
    middle, end = int(inputs.middle[0]), int(batch.start[1])
    positions, weights = [np.arange(middle, end)], [_weights(network.short, target, rows, inputs.short)]
    if network.long is not None and inputs.long is not None and unit.search is not None:
        found = unit.search(table, batch, at, young)(batch.start[:-1], inputs.middle, scorer.k)
        positions.insert(0, found.positions[0][found.positions[0] >= 0].astype(np.int64))
        weights.insert(0, _weights(network.long, target, rows, inputs.long))
    n_coded = network.shape.n_coded
    query = item_codes(table.codes, at.items[:, :n_coded])
    where = np.concatenate(positions)
    return Explained(
        score=float(ranked.scores[0]),
        version=ranked.version,
        is_young=young,
        positions=where,
        is_long=where < middle,
        distances=hamming(query, item_codes(table.codes, at.sequence[where][:, :n_coded])),
        weights=np.concatenate(weights),
    )


def _weights(
    attention: TargetAttention, target: torch.Tensor, rows: torch.Tensor, picked: Picked
) -> NDArray[np.float32]:
    """``[n, H]``: the attention of the one candidate over the first list, as `trainer.model.attention` has it."""
    n = int(picked.count[0])
    index = torch.from_numpy(picked.index[0, :n].astype(np.int64))
    gap = torch.from_numpy(picked.gap[0, :n].astype(np.int64))
    with torch.no_grad():
        x = rows[index].flatten(1)  # [n, D]
        scores = attention.ask(target)[:, 0] @ x.T + attention.gap_bias[gap].T  # [H, n]
        return scores.softmax(-1).T.numpy()
