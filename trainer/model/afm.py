"""AFM: products of features, weighted by an attention of their own: Xiao et al. 2017, arXiv 1708.04617, section 3.

The features are the ``f = 2 F`` fields of a candidate and of its behaviours' mean, each ``d`` wide:

    v   = (t_1 .. t_F, m_1 .. m_F),  m_i = mean over j of x_ji
    a_p = softmax over the f (f - 1) / 2 pairs p = (i, j), i < j, of  h . relu(W (v_i * v_j) + b)
    out = P sum over p of a_p (v_i * v_j)

The paper's ``p`` makes a number of the sum; here ``P`` ``[D, d]`` makes a vector of it, and the network around the unit
the number. The attention is over pairs of fields: no behaviour has a weight.

Public code keeps an axis of size one behind the pairs and takes the softmax over that, so that all weights are 1
(the authors' own: hexiangnan/attentional_factorization_machine, issue 19).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.interest import Interest, Seen

GAIN = 16.0
"""Where ``P`` starts, times an orthogonal matrix: products of short vectors are shorter still."""


class AFM(Interest):
    """``P (sum over p of a_p v_i * v_j)``, zeros if there is no behaviour."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        d = dim // fields
        self.fields = fields
        self.hidden = nn.Linear(d, d)
        self.score = nn.Linear(d, 1, bias=False)
        self.out = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, d), GAIN))  # [D, d]

    def read(self, seen: Seen) -> Tensor:
        products = self.products(seen)  # [N, P, d]
        pooled = torch.einsum("np,npd->nd", self.weights(products), products)
        some = seen.filled.any(1)[seen.of]
        return (pooled @ self.out.T).masked_fill(~some[:, None], 0.0)

    def products(self, seen: Seen) -> Tensor:
        """Of all pairs of fields ``[N, P, d]``: (1, 2), (1, 3) .. (2, 3) .."""
        mean = seen.x.sum(1) / seen.filled.sum(1, keepdim=True).clamp(min=1)
        f = 2 * self.fields
        both = torch.cat([seen.target, mean[seen.of]], 1).view(len(seen.target), f, -1)  # [N, f, d]
        i, j = torch.triu_indices(f, f, 1, device=both.device)
        products: Tensor = both[:, i] * both[:, j]
        return products

    def weights(self, products: Tensor) -> Tensor:
        """``[N, P]``; those of a candidate sum up to 1."""
        scores: Tensor = self.score(functional.relu(self.hidden(products)))[:, :, 0]
        return scores.softmax(1)
