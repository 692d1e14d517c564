"""TWIN: the search is the attention itself, over all behaviours at once, and cannot be out of step (arXiv 2302.02352).

    weight[j] = mean over heads of softmax_j((W_k W_q t) . x_j + gap_bias[gap_j])
    out       = target attention over the k behaviours with the largest weight

The paper's inherent features are the item's vectors here, its cross features the time gap. Behaviours are not
projected: ``W_k`` is absorbed into the query, as in ``attention.py``, so a slate costs one matrix product
``[C H, D] [D, L]``, and a candidate ``H L D`` multiply-adds that ETA does not have. Public code often searches with
weights of its own, or a dot product without the gap: then the stages disagree, which is what the paper is about.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.batch import Batch
from trainer.model.attention import TargetAttention
from trainer.model.inputs import Finder, Located, Rows, Slots, gaps
from trainer.model.search import Found


class TWIN(TargetAttention):
    """Target attention that finds its own behaviours."""

    @torch.no_grad()
    def search(self, table: Rows, batch: Batch, at: Located, young: bool) -> Finder:
        """The k behaviours with the largest weight; a young model does not look at ids, as in ``searches.py``."""
        items, sequence = at.items, at.sequence
        if young and items.shape[1] > 1:
            items, sequence = items.copy(), sequence.copy()
            items[:, 0] = sequence[:, 0] = 0  # the null row, all zeros
        queries = self.ask(torch.from_numpy(table.rows[items]).flatten(1))  # [H, N, D]
        first = batch.first.tolist()

        def find(start: Slots, stop: Slots, k: int) -> Found:
            positions = np.full((len(items), k), -1, np.int32)
            for b, (begin, end) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
                mine = slice(first[b], first[b + 1])
                if end - begin <= k:
                    positions[mine, : end - begin] = np.arange(begin, end)
                    continue
                x = torch.from_numpy(table.rows[sequence[begin:end]]).flatten(1)  # [L, D]
                since = gaps(np.arange(begin, end, dtype=np.int32)[None], np.array([b]), batch)[0]
                bias = self.gap_bias[torch.from_numpy(since).long()].T[:, None]  # [H, 1, L]
                scores = torch.baddbmm(bias, queries[:, mine], x.T.expand(len(bias), -1, -1))
                weights = scores.softmax(-1).mean(0)  # [C, L]
                positions[mine] = begin + heaviest(weights.detach().numpy(), k)
            return Found(positions, np.zeros((len(items), 0), np.int32))

        return find


def heaviest(weights: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Places ``[n, k]`` of the k largest of each row ``[n, L]``, ascending; of equal ones the last.

    >>> heaviest(np.array([[3.0, 1.0, 2.0, 1.0]]), 3).tolist()
    [[0, 2, 3]]
    """
    least = -np.partition(-weights, k - 1, axis=1)[:, k - 1 : k]
    chosen = weights >= least
    if chosen.sum() > k * len(weights):  # some are equal to the least, and too many
        equal = weights == least
        spare = k - (weights > least).sum(1, keepdims=True)
        later = equal[:, ::-1].cumsum(1)[:, ::-1]  # how many of the equal ones stand here or further on
        chosen &= ~equal | (later <= spare)
    return np.nonzero(chosen)[1].reshape(len(weights), k)
