"""MIMN: a memory of a few slots for each user, written behaviour by behaviour and read by the candidate.

    write key, read key, add = A_w x, A_r x, V x    erase = sigmoid(E x + b)
    w_j = softmax over slots of (s_w cos(write key_j, M_(j-1)) + B g_(j-1))     g_j = g_(j-1) + w_j
    M_j = M_(j-1) + w_j (add_j - erase_j * M_(j-1))
    r_j = softmax over slots of s_r cos(read key_j, M_j), the greatest few of it, 0 elsewhere
    S_j = AUGRU([x_j, M_j], S_(j-1), r_j)                 of each slot, gru.py
    out = attention of the candidate over the slots of M + another over those of S

``g`` is how much was written where, ``B`` how that moves what comes next: the paper's product of a softmax of each,
brought to a sum of 1, is this one softmax. ``B`` learns to even out what content alone would write to a few slots from

    extra loss = weight * mean over lists of the sum over slots of (g / n - 1 / slots)^2

whose shares keep long lists from counting more (the paper squares ``g`` itself). Where the paper updates chosen slots
of ``S`` in full, no derivative reaches the read key that chooses; here a slot's weight scales its update gate.

A user is a ``State`` whatever the length of the history: ``start`` and ``update``, with one behaviour as it comes or
with a whole list. Nothing of it depends on the candidate, so a list is read once; a candidate costs as much as two
attentions over as many behaviours as there are slots.

What public code gets wrong (the authors' own, UIC-Paper/MIMN): masking of padding is an option, off by default, and
when it is on padding still counts as usage; the state of the induction unit is no part of what a step returns, so no
user could be taken further later; no derivative passes from it to the memory.

Source: Pi et al., arXiv 1905.09248, sections 4.2-4.4, equations 1-9.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import TargetAttention
from trainer.model.gru import GRU
from trainer.model.interest import Interest, Seen
from trainer.model.memory import TINY, write

SLOTS = 4
CHOSEN = 2
"""Slots whose induction state a behaviour updates."""
STRENGTH = 4.0
"""Where the score of a vector with itself starts."""
ERASE = -3.0
"""Where the bias of erasing starts: what is written stays for long."""
BALANCE = 0.1
"""Weight of the extra loss."""


class State(NamedTuple):
    """What is kept of ``n`` users."""

    memory: Tensor
    """``[n, slots, D]``."""
    induced: Tensor
    """``[n, slots, D]``."""
    usage: Tensor
    """``[n, slots]``: how much was written; the sum is the number of behaviours."""


class MIMN(Interest):
    """Attention of the candidate over a memory of fixed size."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        self.memory = nn.Parameter(torch.randn(SLOTS, dim) * 0.005)
        self.keys = nn.Parameter(torch.eye(dim).repeat(2, 1))  # write, read
        self.add = nn.Parameter(torch.eye(dim))
        self.erase = nn.Linear(dim, dim)
        nn.init.zeros_(self.erase.weight)
        nn.init.constant_(self.erase.bias, ERASE)
        self.strength = nn.Parameter(torch.full((2,), STRENGTH))
        self.balance = nn.Parameter(torch.zeros(SLOTS, SLOTS))
        self.induction = GRU(2 * dim, dim)
        self.of_memory = TargetAttention(dim, heads, sharpness)
        self.of_induced = TargetAttention(dim, heads, sharpness)

    def read(self, seen: Seen) -> Tensor:
        state = self.update(self.start(len(seen.x)), seen.x, seen.filled)
        self.extra_loss = BALANCE * imbalance(state.usage) if torch.is_grad_enabled() else None
        there = seen.filled.any(1, keepdim=True).expand(-1, SLOTS)
        number = torch.arange(SLOTS, device=there.device).expand(len(there), -1)  # a bias for each slot
        parts = (self.of_memory, state.memory), (self.of_induced, state.induced)
        read = [part.read(Seen(seen.target, slots, there, number, seen.of)) for part, slots in parts]
        return read[0] + read[1]

    def start(self, n: int) -> State:
        """Users of whom nothing is known."""
        memory = self.memory.expand(n, -1, -1)
        return State(memory, torch.zeros_like(memory), memory.new_zeros(n, SLOTS))

    def update(self, state: State, x: Tensor, filled: Tensor) -> State:
        """Take in what users did, oldest first: one behaviour as it comes, or many.

        Parameters
        ----------
        x
            ``[n, j, D]``.
        filled
            bool ``[n, j]``: which of them are there. What is not changes nothing.
        """
        if not x.shape[1]:
            return state
        x, there = x.transpose(0, 1), filled.T.to(x.dtype)[:, :, None]  # [j, n, D], [j, n, 1]
        erase, add = torch.sigmoid(self.erase(x)), x @ self.add.T
        written, usage = write(state.memory, state.usage, self.key(x, 0), erase, add, self.balance, there)
        alike = torch.matmul(written, self.key(x, 1)[:, :, :, None])[:, :, :, 0]  # [j, n, slots]
        lengths = torch.linalg.vector_norm(written, dim=3).clamp(min=TINY)
        weights = greatest((alike / lengths).softmax(2)) * there
        of_x, of_memory = self.induction.input.chunk(2, 1)
        projected = functional.linear(x, of_x, self.induction.bias)[:, :, None] + written @ of_memory.T
        induced = self.induction(
            projected.flatten(1, 2), weights.flatten(1)[:, :, None], start=state.induced.flatten(0, 1)
        )[1]
        return State(written[-1], induced.view_as(state.induced), usage)

    def key(self, x: Tensor, head: int) -> Tensor:
        """``[j, n, D]`` -> ``[j, n, D]``, as long as the head is strong."""
        return self.strength[head] * functional.normalize(x @ self.keys.chunk(2)[head].T, dim=2)


def greatest(weights: Tensor) -> Tensor:
    """All but the greatest few along the last dimension set to 0."""
    chosen = torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, weights.topk(CHOSEN)[1], True)
    return weights.masked_fill(~chosen, 0.0)


def imbalance(usage: Tensor) -> Tensor:
    """Squared distance of the slots' shares from even ones, the mean over users who wrote; ``[n, slots]``."""
    n = usage.sum(1, keepdim=True)
    wrote = n > 0
    off = (usage / n.where(wrote, 1) - 1 / usage.shape[1]).where(wrote, 0)
    return off.square().sum() / wrote.sum().clamp(min=1)
