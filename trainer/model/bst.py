"""Behavior Sequence Transformer: one transformer layer over the behaviours and the candidate behind them.

    s   = x_1 + P[gap_1], ..., x_n + P[gap_n], t + P[0]
    a   = W_o (heads side by side of sum over j of softmax_j(W_q s_t . W_k s_j / sqrt(D / H) + [j = t] own) W_v s_j)
    y   = norm1(s_t + a)
    out = norm2(y + W_2 leaky_relu(W_1 y + b_1) + b_2)

The paper hands the outputs of all positions to the MLP, which needs a list of fixed length. What is read here is the
output of the target's position alone. With one layer, which the paper found best, no other row reaches it, so none is
computed: behaviours meet in the target's softmax, not one another (for that: transformer.py). ``W_k`` and ``W_v`` are
absorbed, the one into the query and the other into the sum (as in attention.py), so nothing is projected for each
behaviour, and what candidates share is ``x + P[gap]``. A candidate costs ``6 D^2 + 2 H k D`` multiply-adds. The paper
puts the position beside a behaviour's fields; for the projections that is the same as a learned vector that is added.

Nothing is nearer to the target than itself, and a norm keeps directions only: left alone, the output begins as the
target's own direction, whose dot with the target says nothing of the user, and it learns badly. So ``W_o`` begins as
``D`` times the identity, since the mean of many behaviours is short beside the target that it is added to; the output
begins with length 2; and one weight a head is ours, not the paper's: ``own``, a bias of the target's score with itself,
which begins at -5.

The name DST is given no paper on ranking by clicks that we could find; this is the one unit for BST and DST.

What public code gets wrong: the target left out of the sequence, so that it is self-attention and a pooling; positions
counted from the oldest behaviour in place of the time gap; a softmax over padding, or all outputs flattened with those
of the padding in between; dropout that goes on while scoring. Here there is none.

Source: Chen et al., arXiv 1905.06874, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import softmax
from trainer.model.interest import N_GAPS, Interest, Seen
from trainer.model.transformer import Block


class BST(Interest):
    """The target's row of a transformer layer over the sequence that it ends."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        self.position = nn.Parameter(torch.zeros(N_GAPS, dim))
        self.block = Block(dim, heads, sharpness, leak=0.01)
        self.own = nn.Parameter(torch.full((heads,), -5.0))
        self.block.out.data.mul_(dim)
        nn.init.constant_(self.block.norm2.weight, 2 * dim**-0.5)

    def read(self, seen: Seen) -> Tensor:
        s = self.sequence(seen)
        mixed = self.weights(s, seen) @ s  # [N, H, D]
        attended = (
            torch.einsum("nhd,hed->nhe", mixed, self.split(self.block.value)).flatten(1) @ self.block.out.T
        )
        out = self.block.after(s[:, -1], attended)
        return out.masked_fill(~seen.filled.any(1)[seen.of, None], 0.0)

    def weigh(self, seen: Seen) -> Tensor:
        """Mean of the heads' weights; what is missing to 1 the target gives to itself."""
        return self.weights(self.sequence(seen), seen).mean(1)[:, :-1]

    def sequence(self, seen: Seen) -> Tensor:
        """``[N, k + 1, D]``: behaviours, then the target, each with its position."""
        x = seen.x + functional.embedding(seen.gap, self.position)
        return torch.cat([x.index_select(0, seen.of), (seen.target + self.position[0])[:, None]], 1)

    def weights(self, s: Tensor, seen: Seen) -> Tensor:
        """Of each head ``[N, H, k + 1]``: of the target's row."""
        asked = torch.einsum("nd,hed->nhe", s[:, -1], self.split(self.block.query))
        asked = torch.einsum("nhe,hed->nhd", asked / asked.shape[2] ** 0.5, self.split(self.block.key))
        own = functional.pad(self.own[:, None], (s.shape[1] - 1, 0))  # [H, k + 1]
        filled = functional.pad(seen.filled.index_select(0, seen.of), (0, 1), value=True)
        return softmax(asked @ s.transpose(1, 2) + own, filled[:, None])

    def split(self, weight: Tensor) -> Tensor:
        """``[D, D]`` -> ``[H, D / H, D]``."""
        return weight.view(self.block.heads, -1, weight.shape[1])
