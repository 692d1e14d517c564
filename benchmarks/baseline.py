"""An ETA training step as public code writes it: a row per candidate, whose history is hashed to floats and compared.

After FuxiCTR's and the paper's description: the sequence is embedded whole for each candidate, projected onto the
planes, turned into 0 and 1 by sign, compared with the target's, the top k gathered, and attended over with the usual
projections.
The network around it is ours: the same inputs, dims and losses; the optimisers are torch's Adagrad over a sparse
embedding (touched rows only) and fused Adam. In favour of the baseline, keys are rows already, and nothing is admitted,
aged, published or checkpointed.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

DIM, HEADS, SHORT, K, BITS, MLP = 32, 4, 16, 48, 64, (200, 80)


class PublicEta(nn.Module):
    """``[N]`` candidates with sequences ``[N, L, F]`` -> logits ``[N]``."""

    def __init__(self, n_rows: int, n_side: int, n_fields: int) -> None:
        super().__init__()
        wide = DIM * n_fields
        self.embedding = nn.Embedding(n_rows, DIM, sparse=True)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.register_buffer("planes", torch.randn(n_fields, DIM, BITS))
        self.short = nn.MultiheadAttention(wide, HEADS, batch_first=True)
        self.long = nn.MultiheadAttention(wide, HEADS, batch_first=True)
        sizes = [n_side * DIM + 3 * wide, *MLP, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def codes(self, x: Tensor) -> Tensor:
        """``[..., F, d]`` -> 0 or 1 as floats ``[..., F * bits]``."""
        return torch.sign(torch.einsum("...fd,fdb->...fb", x, self.planes)).relu().flatten(-2)

    def forward(self, side: Tensor, items: Tensor, sequence: Tensor) -> Tensor:
        """``side`` ``[N, S]``, ``items`` ``[N, F]``, ``sequence`` ``[N, L, F]``, all rows of the embedding."""
        behaviours = self.embedding(sequence)  # [N, L, F, d]
        target = self.embedding(items)  # [N, F, d]
        long = behaviours[:, :-SHORT]
        with torch.no_grad():
            distance = (self.codes(long) - self.codes(target)[:, None]).abs().sum(-1)  # [N, L - short]
            nearest = distance.topk(min(K, distance.shape[1]), largest=False).indices
        picked = long.flatten(2).gather(1, nearest[:, :, None].expand(-1, -1, target[0].numel()))
        query = target.flatten(1)[:, None]
        recent = behaviours[:, -SHORT:].flatten(2)
        by_search, _ = self.long(query, picked, picked, need_weights=False)
        by_time, _ = self.short(query, recent, recent, need_weights=False)
        x = torch.cat([self.embedding(side).flatten(1), query[:, 0], by_search[:, 0], by_time[:, 0]], 1)
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        logits: Tensor = self.layers[-1](x)[:, 0]
        return logits


class Baseline:
    """The model with its optimisers."""

    def __init__(self, n_rows: int, n_side: int, n_fields: int) -> None:
        torch.manual_seed(0)
        self.model = PublicEta(n_rows, n_side, n_fields)
        dense = [w for name, w in self.model.named_parameters() if not name.startswith("embedding")]
        self.rows = torch.optim.Adagrad(self.model.embedding.parameters(), lr=0.05)
        self.dense = torch.optim.Adam(dense, lr=0.002, fused=True)

    def step(self, side: Tensor, items: Tensor, sequence: Tensor, labels: Tensor) -> float:
        """One step on ``[N]`` candidates; returns the loss."""
        loss = functional.binary_cross_entropy_with_logits(self.model(side, items, sequence), labels)
        self.rows.zero_grad()
        self.dense.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.rows.step()
        self.dense.step()
        return float(loss.detach())
