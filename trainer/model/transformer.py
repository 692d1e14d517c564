"""A transformer encoder over the behaviours, whatever the candidate; then target attention over what it says of each.

    e_j = x_j + P[gap_j]
    post-norm:  y = norm1(e + attend(e)),          z = norm2(y + feed(y))
    pre-norm:   y = e + attend(norm1(e)),          z = y + feed(norm2(y))
    attend(e)_i = W_o (heads side by side of sum over j of softmax_j(W_q e_i . W_k e_j / sqrt(D / H)) W_v e_j)
    feed(y) = W_2 relu(W_1 y + b_1) + b_2
    out     = target attention (attention.py) of t over z

A list costs ``(4 + 2) D^2`` multiply-adds a behaviour and ``2 D`` a pair, once for all candidates of its slate.

The position of a behaviour is the bucket of the time since, learned. Places counted from the oldest mean another thing
with each behaviour that comes in, and places of any kind mean nothing where a search has picked from here and there; a
gap means the same for every user, and says how stale a neighbour is. What it gives up is the order within a bucket.

What public code gets wrong: a softmax over the padding, which then is a behaviour like others; positions from the
oldest; a residual or the norm's gain left out; a mask so wide that an empty list is not a number; dropout that goes on
while scoring. Here there is none: each sample is learned once, and a score is the same twice.

Source: Vaswani et al., arXiv 1706.03762, section 3; pre-norm: Xiong et al., arXiv 2002.04745.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import TargetAttention, softmax
from trainer.model.interest import N_GAPS, Interest, Picked, Seen, see


class Block(nn.Module):
    """Self-attention, then a feed-forward network as wide as its input, each with a residual and a LayerNorm.

    Parameters
    ----------
    sharpness
        The score of a unit vector with itself, over all heads, at the start.
    first
        Whether norms come before (pre-norm) or after the residual.
    leak
        Slope of the feed-forward network below zero.
    """

    def __init__(
        self, dim: int, heads: int, sharpness: float, first: bool = False, leak: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.first, self.leak = heads, first, leak
        self.query = nn.Parameter(sharpness * (dim / heads) ** 0.5 * torch.eye(dim))
        self.key, self.value, self.out = (nn.Parameter(torch.eye(dim)) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.narrow.weight)  # the feed-forward network begins by adding nothing
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor, filled: Tensor) -> Tensor:
        """``x`` ``[R, k, D]``, ``filled`` ``[R, k]`` -> ``[R, k, D]``; what is not filled is not attended to."""
        if not self.first:
            return self.after(x, self.attend(x, filled))
        x = x + self.attend(self.norm1(x), filled)
        z: Tensor = x + self.feed(self.norm2(x))
        return z

    def attend(self, x: Tensor, filled: Tensor) -> Tensor:
        shape = *x.shape[:2], self.heads, x.shape[2] // self.heads
        q, k, v = (
            (x @ w.T).view(shape).transpose(1, 2) for w in (self.query, self.key, self.value)
        )  # [R, H, k, D / H]
        alpha = softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, filled[:, None, None])
        return (alpha @ v).transpose(1, 2).flatten(2) @ self.out.T

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of a post-norm block, row by row."""
        y: Tensor = self.norm1(x + attended)
        z: Tensor = self.norm2(y + self.feed(y))
        return z

    def feed(self, x: Tensor) -> Tensor:
        fed: Tensor = self.narrow(functional.leaky_relu(self.wide(x), self.leak))
        return fed


class Transformer(Interest):
    """Behaviours encoded once a list, then attended over by each candidate."""

    first = False

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        self.position = nn.Parameter(torch.zeros(N_GAPS, dim))
        self.block = Block(dim, heads, sharpness, self.first)
        self.pool = TargetAttention(dim, heads, sharpness)

    def forward(self, target: Tensor, rows: Tensor, picked: Picked) -> Tensor:
        """``read``, with the encoded behaviours as rows for the kernel of target attention."""
        encoded = self.encode(see(target, rows, picked)).x
        index = np.arange(picked.gap.size, dtype=np.int32).reshape(*picked.gap.shape, 1)
        out: Tensor = self.pool(target, encoded.flatten(0, 1), replace(picked, index=index))
        return out

    def read(self, seen: Seen) -> Tensor:
        return self.pool.read(self.encode(seen))

    def weigh(self, seen: Seen) -> Tensor:
        """Of the target attention: what is said of a behaviour in its sequence."""
        return self.pool.weigh(self.encode(seen))

    def encode(self, seen: Seen) -> Seen:
        """The same lists, with what the encoder says of each behaviour in its place."""
        x = self.block(seen.x + functional.embedding(seen.gap, self.position), seen.filled)
        return seen._replace(x=x.masked_fill(~seen.filled[:, :, None], 0.0))


class PreNormTransformer(Transformer):
    """The same with norms before the residual, so that what is attended over begins as the behaviours themselves."""

    first = True
