"""DIEN: interests as states of a GRU over behaviours, and their evolution towards the candidate by an AUGRU.

    h_j  = GRU(x_j, h_(j-1))                          once a list
    a_j  = softmax over j of (h_j . W t)              once a candidate, as all below
    h'_j = AUGRU(h_j, h'_(j-1), a_j)                  gru.py
    out  = h'_n

    extra loss = weight * mean over all pairs of -log sigmoid(h_j . x_(j+1)) and of -log(1 - sigmoid(h_j . y_(j+1)))

``y``, what was not the next behaviour, is that of another place in the batch: the next behaviours of all lists stand in
a row, which is turned by half its length. It is always a behaviour, never padding; one of the same item is left out. A
behaviour without a next one is in no pair.

What public code gets wrong: an attention of 0 that overwrites the state (gru.py); a loss that is summed over pairs but
divided by all places, padding too, so that its weight falls where lists are short (``reduce_mean`` after the mask in
mouna99/dien and UIC-Paper/MIMN), or that padding is part of; a GRU over behaviours for each candidate.

A candidate costs ``3 k D^2 + k D`` multiply-adds, a list ``9 k D^2`` once.

Source: Zhou et al., arXiv 1809.03672, equations 2-14.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import softmax
from trainer.model.gru import GRU
from trainer.model.interest import Interest, Seen

AUXILIARY = 1.0
"""Weight of the extra loss."""


class DIEN(Interest):
    """The last state of an AUGRU over the states of a GRU."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        self.extraction = GRU(dim, dim)
        self.evolution = GRU(dim, dim)
        self.query = nn.Parameter(sharpness * torch.eye(dim))

    def read(self, seen: Seen) -> Tensor:
        states = self.extract(seen)
        self.extra_loss = None
        if torch.is_grad_enabled():
            self.extra_loss = AUXILIARY * next_loss(states, seen.x, seen.filled)
        attention = self.attend(states, seen).T.unsqueeze(2)
        projected = self.evolution.project(states.transpose(0, 1))
        out: Tensor = self.evolution(projected, attention, seen.of)[1]
        return out

    def weigh(self, seen: Seen) -> Tensor:
        return self.attend(self.extract(seen), seen)

    def extract(self, seen: Seen) -> Tensor:
        """States after each behaviour ``[R, k, D]``; those behind a list's end mean nothing."""
        states: Tensor = self.extraction(self.extraction.project(seen.x.transpose(0, 1)))[0]
        return states.transpose(0, 1)

    def attend(self, states: Tensor, seen: Seen) -> Tensor:
        """``[N, k]``."""
        asked = seen.target @ self.query.T
        scores = torch.einsum("nd,nkd->nk", asked, states.index_select(0, seen.of))
        return softmax(scores, seen.filled[seen.of])


def next_loss(states: Tensor, x: Tensor, filled: Tensor) -> Tensor:
    """Mean log loss of telling what came next from what came next elsewhere in the batch; 0 where nothing did.

    Parameters
    ----------
    states, x
        ``[R, k, D]``.
    filled
        bool ``[R, k]``.
    """
    has_next = filled[:, 1:]
    after = states[:, :-1][has_next]  # [P, D]
    came = x[:, 1:][has_next]
    other = came.roll(len(came) // 2, 0)
    differ = (came != other).any(1).to(x.dtype)
    losses = (
        functional.softplus(-(after * came).sum(1)) + functional.softplus((after * other).sum(1)) * differ
    )
    return losses.sum() / (len(came) + differ.sum()).clamp(min=1)
