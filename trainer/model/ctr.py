"""The network: one click-through-rate model whose interest unit can be exchanged.

    user, context ----------------------------------------------+
    target --------------------+--------------------------------+
    short part --> attention --+--> vector, dot with the target +--> MLP --> + dots --> logit per kind
    long part  --> unit -------+--> vector, dot with the target +
    how many were near (counts) --------------------------------+

The rows of the embedding table come in as one matrix ``[U, d]`` and are not parameters: the table learns them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import TargetAttention
from trainer.model.inputs import Inputs
from trainer.model.units import Unit, make_unit


@dataclass(frozen=True)
class Shape:
    """What decides the shapes of a network's weights."""

    unit: str = "eta"
    dim: int = 32
    n_side: int = 1
    n_item_fields: int = 2
    n_coded: int = 2
    n_kinds: int = 1
    heads: int = 4
    mlp: tuple[int, ...] = (200, 80)
    sharpness: float = 0.5
    """Where the attention's temperature starts, see TargetAttention."""


class Network(nn.Module):
    """The dense part of the model. Built in a fixed order from torch's global generator: seed it first."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.unit: Unit = make_unit(shape.unit, shape.n_coded)
        wide = shape.dim * shape.n_item_fields
        parts = {"nothing": 1, "picked": 2, "all": 2}[self.unit.reads] if self.unit.attends else 1
        n_counts = 1 + parts * self.unit.n_counts
        self.short = TargetAttention(wide, shape.heads, shape.sharpness) if self.unit.attends else None
        self.long = TargetAttention(wide, shape.heads, shape.sharpness) if parts == 2 else None
        sizes = [shape.n_side * shape.dim + wide + parts * (wide + 1) + n_counts, *shape.mlp, shape.n_kinds]
        linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(linear)
        self.dots = nn.Linear(parts, shape.n_kinds, bias=False)
        nn.init.constant_(self.dots.weight, 1 / parts)  # one in all, however many parts there are
        nn.init.zeros_(linear[-1].weight)
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(shape.n_kinds))
        """Log-odds of each kind's base rate, so that the weights need not travel there first."""

    def forward(self, rows: Tensor, inputs: Inputs) -> Tensor:
        """``rows`` float32 ``[U, d]`` -> logits ``[N, K]``."""
        device = rows.device
        slate = torch.as_tensor(inputs.slate, device=device)
        items = torch.as_tensor(inputs.items, device=device)
        side = functional.embedding(torch.as_tensor(inputs.side, device=device), rows).flatten(1)  # [B, S d]
        target = functional.embedding(items, rows).flatten(1)  # [N, D]
        found = self._interest(target, rows, inputs, slate)
        dots = torch.stack([(target * f).sum(1) for f in found], 1)  # [N, parts]
        counts = torch.as_tensor(inputs.counts, device=device)
        x = torch.cat([side[slate], target, *found, dots, counts], 1)
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        logits: Tensor = self.layers[-1](x) + self.dots(dots) + self.prior
        return logits

    def _interest(self, target: Tensor, rows: Tensor, inputs: Inputs, slate: Tensor) -> list[Tensor]:
        """What the sequence says about each candidate: one or two vectors ``[N, D]``."""
        if self.short is None:
            return [_mean(rows, inputs)[slate]]
        short = self.short(target, rows, inputs.short)
        if self.long is None:
            return [short]
        if inputs.long is not None:
            return [short, self.long(target, rows, inputs.long)]
        return [short, _attend_all(self.long, target, rows, inputs)]


def _mean(rows: Tensor, inputs: Inputs) -> Tensor:
    """Mean of every behaviour of each slate, ``[B, D]``; zeros for an empty sequence."""
    assert inputs.sequence is not None
    sequence = torch.as_tensor(inputs.sequence, device=rows.device)
    start = torch.as_tensor(inputs.start[:-1], device=rows.device)
    columns = [
        functional.embedding_bag(field.contiguous(), rows, start, mode="mean") for field in sequence.unbind(1)
    ]
    return torch.cat(columns, 1)


def _attend_all(attention: TargetAttention, target: Tensor, rows: Tensor, inputs: Inputs) -> Tensor:
    """Target attention over the whole long part: one matrix product a slate, shared by its candidates."""
    assert inputs.sequence is not None
    queries = attention.ask(target).transpose(0, 1)  # [N, H, D]
    sequence = torch.as_tensor(inputs.sequence, device=rows.device)
    gap = torch.as_tensor(inputs.gap, device=rows.device).long()
    out = []
    n_each = np.bincount(inputs.slate, minlength=len(inputs.middle)).tolist()
    slates = torch.split(queries, n_each)
    for q, start, middle in zip(slates, inputs.start[:-1], inputs.middle, strict=True):
        x = functional.embedding(sequence[start:middle], rows).flatten(1)  # [L, D]
        bias = functional.embedding(gap[start:middle], attention.gap_bias).T  # [H, L]
        alpha = (torch.matmul(q.flatten(0, 1), x.T).view(*q.shape[:2], -1) + bias).softmax(-1)  # [C, H, L]
        out.append((alpha.flatten(0, 1) @ x).view(q.shape))
    return attention.mix(torch.cat(out).transpose(0, 1))
