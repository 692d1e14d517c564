"""SIM(soft): the search has embeddings and a loss of its own, and an index that is rebuilt now and then.

Source: Pi et al. 2020, arXiv 2006.05639, section 3.2. SIM(hard), the most recent of the same category, needs nothing
but `TargetAttention`. Besides ``d`` dims for the network a row has ``a = d / 2`` auxiliary ones ``e``, which only a
small model learns, by the labels of the first kind:

    r_j   = (W_a e_t) . (W_b e_j) / n        over n behaviours, at most SAMPLE of them, evenly spaced
    u     = sum over j of r_j e_j
    logit = MLP([u, e_t]) + u . e_t

and the search takes the k behaviours with the largest ``r_j``. Because ``r`` is linear, ``u`` is
``(X' X / n) W_b' W_a e_t``: one small matrix a slate. What is found is attended over by several heads with time gaps.
The dot product is ours, as in the network around: without it the search learns nothing in a few hundred steps
(docs/log.md).

The paper's index is built offline. So here: with ``refresh_every`` above 1, vectors and ``W`` are copied every so many
steps, and from the first time on the search sees nothing newer; an item that is younger than the index has no vector in
it. At 1 it is live. Public code often searches with the embeddings of the network itself and calls it soft search; then
there is no second loss, and nothing is offline.

The two parts of a row share its Adagrad step size. A mirror has no index: replay and studies only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.model.attention import TargetAttention
from trainer.model.inputs import Finder, Located, Rows, compared
from trainer.model.interest import Picked, see
from trainer.model.search import inner_top_k

SAMPLE = 128
"""The paper samples long sequences too, for the auxiliary model alone."""
HIDDEN = 32

Floats = NDArray[np.float32]


class SIMSoft(TargetAttention):
    """Target attention over what an auxiliary model finds."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        wide = dim // fields // 2 * fields  # A = F a
        self.ask_by = nn.Parameter(torch.eye(wide))  # W_a
        self.found_by = nn.Parameter(torch.eye(wide))  # W_b
        self.score = nn.Sequential(nn.Linear(2 * wide, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.index: Index | None = None
        """What the search sees; None for the rows as they are."""

    def auxiliary(self, target: Tensor, rows: Tensor, sampled: Picked) -> Tensor:
        """Logits ``[N, 1]`` of the model that the search is learned by.

        Parameters
        ----------
        target
            ``[N, A]`` auxiliary vectors of the candidates.
        rows
            ``[U, a]``.
        sampled
            Behaviours, one list a slate.
        """
        seen = see(target, rows, sampled)
        n = seen.filled.sum(1).clamp(min=1)[:, None, None]
        moments = seen.x.transpose(1, 2) @ seen.x / n  # [R, A, A]
        wanted = target @ self.ask_by.T @ self.found_by  # [N, A]
        interest = torch.einsum("nab,nb->na", moments[seen.of], wanted)
        logits: Tensor = self.score(torch.cat([interest, target], 1))
        return logits + (interest * target).sum(1, keepdim=True)

    def search(self, table: Rows, batch: Batch, at: Located, young: bool) -> Finder:
        """The k behaviours with the largest ``r``; a young model does not look at ids, as in ``searches.py``."""
        fields = compared(young, at.items.shape[1])
        index = self.index or Index.of(table, self, 0)
        queries, keys = (index.vectors(table, slots, fields) for slots in (at.items, at.sequence))
        wanted = np.ascontiguousarray(queries @ index.product)
        return lambda start, stop, k: inner_top_k(wanted, keys, batch.first, start, stop, k)

    def rebuild(self, table: Rows, n_slots: int) -> None:
        """Let the search see everything as it is now, and nothing newer until the next time."""
        self.index = Index.of(table, self, n_slots)


class Index:
    """Auxiliary vectors by slot of the table, and the product of W, at one moment.

    Parameters
    ----------
    product
        float32 ``[A, A]``: ``W_a' W_b``.
    rows
        float32 ``[n_slots, a]``; empty to read those of the table as they are.
    keys
        uint64 ``[n_slots]``: whose they are; a slot may have been given to another key since.
    """

    def __init__(self, product: Floats, rows: Floats, keys: NDArray[np.uint64]) -> None:
        self.product, self.rows, self.keys = product, rows, keys

    @classmethod
    def of(cls, table: Rows, unit: SIMSoft, n_slots: int) -> Index:
        """As table and unit are now, of the first ``n_slots`` slots; of none it reads the table itself."""
        product = (unit.ask_by.detach().T @ unit.found_by.detach()).numpy().copy()
        width = table.rows.shape[1] // 3  # of d + d / 2
        return cls(product, table.rows[:n_slots, -width:].copy(), table.keys[:n_slots].copy())

    def vectors(self, table: Rows, slots: NDArray[np.int64], fields: slice) -> Floats:
        """float32 ``[n, A]`` of items by their slots ``[n, F]``; zeros for fields that are not compared."""
        width = table.rows.shape[1] // 3
        found = np.zeros((*slots.shape, width), np.float32)
        chosen = slots[:, fields]
        if len(self.rows):
            place = np.minimum(chosen, len(self.rows) - 1)
            known = (chosen < len(self.rows)) & (self.keys[place] == table.keys[chosen])
            found[:, fields] = self.rows[place] * known[:, :, None]
        else:
            found[:, fields] = table.rows[chosen][:, :, -width:]
        return found.reshape(len(slots), slots.shape[1] * width)

    def state(self) -> dict[str, NDArray[Any]]:
        """As a checkpoint keeps it."""
        return {"product": self.product, "rows": self.rows, "keys": self.keys}
