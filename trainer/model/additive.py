"""Additive attention, in the tanh form of Bahdanau et al. 2014, arXiv 1409.0473, appendix A.1.2.

    score[j] = v . tanh(W_q t + W_k x_j + b)
    alpha    = softmax over j
    out      = sum over j of alpha[j] x_j

``W_k x_j`` is done once a list and ``W_q t`` once a candidate; a candidate costs a tanh for each behaviour and unit.

While vectors are short, tanh is nearly a line, and a line of a sum knows nothing of how candidate and behaviour go
together: from random weights it takes long to find out. So the unit starts from what this form is able to say of
nearness. Its tanhs come in pairs on one direction ``o``, bent to either side,

    tanh(o . (t - x_j) + BEND) - tanh(o . (t - x_j) - BEND)

which is largest at no distance and falls to either side.
"""

from __future__ import annotations

from math import atanh, sqrt

import torch
from torch import Tensor, nn

from trainer.model.attention import softmax
from trainer.model.interest import Interest, Seen

BEND = atanh(sqrt(1 / 3))
"""Where a pair is curved the most at no distance."""
NARROW = 8.0
"""Squared length of a direction at a ``sharpness`` of 1."""


class Additive(Interest):
    """``sum over j of alpha[j] x_j``."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        half = (dim + 1) // 2
        directions = sqrt(NARROW * sharpness) * nn.init.orthogonal_(torch.empty(half, dim))
        signs = torch.ones(2, half)
        signs[1] = -1
        self.query = nn.Linear(dim, 2 * half)
        self.key = nn.Linear(dim, 2 * half, bias=False)
        self.score = nn.Linear(2 * half, 1, bias=False)
        self.query.weight.data = directions.repeat(2, 1)
        self.query.bias.data = BEND * signs.flatten()
        self.key.weight.data = -directions.repeat(2, 1)
        self.score.weight.data = signs.view(1, -1)

    def read(self, seen: Seen) -> Tensor:
        return torch.einsum("nk,nkd->nd", self.weigh(seen), seen.x[seen.of])

    def weigh(self, seen: Seen) -> Tensor:
        hidden = torch.tanh(self.query(seen.target)[:, None] + self.key(seen.x)[seen.of])  # [N, k, A]
        return softmax(self.score(hidden)[:, :, 0], seen.filled[seen.of])
