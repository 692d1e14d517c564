"""DIN: each behaviour weighted by what a small network thinks of it and the candidate. arXiv 1706.06978, section 4.3.

    s[j] = W [x_j, t, t - x_j, t * x_j] + b            C wide, of each candidate and behaviour
    w[j] = a . Dice(s[j]) + c
    out  = sum over j of w[j] x_j

There is no softmax: that many behaviours are near is to be seen in the length of what comes out. ``din_sigmoid`` and
``din_softmax`` put one or the other on ``w``.

The layer is never applied to the concatenation. With its four parts ``W = [K, Q, M, P]``

    s[j] = (K - M + P diag(t)) x_j + (Q + M) t + b

so that all there is for each candidate and behaviour is one product of ``C D`` multiply-adds, as many as ``t * x_j``
alone would need, in place of four.

It starts as a preference for what is near: half of the channels look at ``t - x_j`` in directions of their own, the
others against these, so that what Dice lets through grows with the distance, and ``a`` is below zero.

Public code, the authors' own among it (zhougr1993/DeepInterestNetwork, din/model.py), takes a softmax where the paper
has none, and masks with a large negative number, so that an empty list attends to its padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.model.attention import softmax
from trainer.model.dice import Dice
from trainer.model.interest import Interest, Seen

HIDDEN = 36
"""Units of the activation unit's hidden layer: the paper's figure 2."""


class DIN(Interest):
    """``sum over j of w[j] x_j``."""

    slope, base = 0.2, 0.1
    """Where ``a`` starts, for a ``sharpness`` of 1, and ``c``."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        self.hidden = nn.Linear(4 * dim, HIDDEN)
        self.dice = Dice(HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        directions = nn.init.orthogonal_(torch.empty(HIDDEN // 2, dim))
        nn.init.zeros_(self.hidden.weight)
        self.hidden.weight.data[:, 2 * dim : 3 * dim] = torch.cat([directions, -directions])
        nn.init.zeros_(self.hidden.bias)
        nn.init.constant_(self.score.weight, -self.slope * sharpness)
        nn.init.constant_(self.score.bias, self.base)

    def read(self, seen: Seen) -> Tensor:
        each = seen.each()
        return torch.einsum("nk,nkd->nd", self.weights(each), each.x)

    def weigh(self, seen: Seen) -> Tensor:
        return self.weights(seen.each())

    def weights(self, each: Seen) -> Tensor:
        """``[N, k]`` of lists that nobody shares."""
        hidden = self.dice(self.mix(each), each.filled)
        return self.activate(self.score(hidden)[:, :, 0], each.filled)

    def mix(self, each: Seen) -> Tensor:
        """The first layer ``[N, k, C]``, split."""
        key, query, minus, times = self.hidden.weight.chunk(4, 1)  # [C, D] each
        of_key = key - minus + times * each.target[:, None]  # [N, C, D]
        of_query = each.target @ (query + minus).T + self.hidden.bias  # [N, C]
        return torch.baddbmm(of_query[:, None], each.x, of_key.transpose(1, 2))

    def activate(self, scores: Tensor, filled: Tensor) -> Tensor:
        """Weights of scores ``[N, k]``, 0 where nothing is."""
        return scores.masked_fill(~filled, 0.0)

    def learned(self) -> None:
        self.dice.learned()


class SigmoidDIN(DIN):
    """Weights between 0 and 1, each on its own."""

    slope, base = 2.0, -1.0

    def activate(self, scores: Tensor, filled: Tensor) -> Tensor:
        return torch.sigmoid(scores).masked_fill(~filled, 0.0)


class SoftmaxDIN(DIN):
    """Weights that sum up to 1."""

    slope, base = 2.0, 0.0

    def activate(self, scores: Tensor, filled: Tensor) -> Tensor:
        return softmax(scores, filled)
