"""The network: one click-through-rate model whose interest unit can be exchanged.

    user, context ----------------------------------------------+
    target --------------------+--------------------------------+
    short part --> attention --+--> vector, dot with the target +--> towers --> + dots --> logit per kind
    long part  --> unit -------+--> vector, dot with the target +
    how many were near (counts) --------------------------------+

A unit that is whole reads both parts as one list, and there is one vector; of ``none``, which reads nothing, there is
no vector. Towers are an MLP that all kinds of action share, or a mixture of experts (`trainer/model/towers.py`).

The rows of the embedding table come in as one matrix ``[U, d]`` and are not parameters: the table learns them itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import TargetAttention
from trainer.model.inputs import Inputs, Reading
from trainer.model.interest import Interest
from trainer.model.searches import N_COUNTS, Searching, make_search
from trainer.model.sim import SIMSoft
from trainer.model.towers import MMoE, SharedBottom
from trainer.model.units import Unit, find_unit


@dataclass(frozen=True)
class Shape:
    """What decides the shapes of a network's weights."""

    unit: str = "eta"
    search: str = ""
    """How the unit's behaviours are found; empty for its own way."""
    dim: int = 32
    n_side: int = 1
    n_item_fields: int = 2
    n_coded: int = 2
    n_kinds: int = 1
    heads: int = 4
    mlp: tuple[int, ...] = (200, 80)
    towers: str = "shared"
    """How a candidate becomes a logit for each kind: shared or mmoe."""
    experts: int = 4
    """Of mmoe."""
    sharpness: float = 0.5
    """Where the attention's temperature starts, see TargetAttention."""

    @property
    def row_dim(self) -> int:
        """Of a row of the table: ``dim``, and half as much for an auxiliary model."""
        return self.dim + (self.dim // 2 if find_unit(self.unit).sample else 0)


class Network(nn.Module):
    """The dense part of the model. Built in a fixed order from torch's global generator: seed it first."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        unit = find_unit(shape.unit)
        wide = shape.dim * shape.n_item_fields
        arguments = wide, shape.heads, shape.sharpness, shape.n_item_fields
        self.short = None if unit.whole else TargetAttention(*arguments)
        self.long = unit.read(*arguments) if unit.read else None
        self.reading = _reading(unit, shape, self.long)
        parts = sum(part is not None for part in (self.short, self.long))
        n_inputs = shape.n_side * shape.dim + wide + parts * (wide + 1) + self.reading.width
        self.towers = _towers(shape, n_inputs)
        self.dots = nn.Linear(parts, shape.n_kinds, bias=False) if parts else None
        if self.dots is not None:
            nn.init.constant_(self.dots.weight, 1 / parts)  # one in all, however many parts there are
        self.extra_logits: Tensor | None = None
        """Of the first kind ``[N, 1]``, by an auxiliary model, of the last forward with gradients."""
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(shape.n_kinds))
        """Log-odds of each kind's base rate, so that the weights need not travel there first."""

    def forward(self, rows: Tensor, inputs: Inputs) -> Tensor:
        """``rows`` float32 ``[U, d]`` -> logits ``[N, K]``."""
        device = rows.device
        every = rows
        if self.shape.row_dim > self.shape.dim:
            rows = rows[:, : self.shape.dim].contiguous()
        slate = torch.as_tensor(inputs.slate, device=device)
        items = torch.as_tensor(inputs.items, device=device)
        side = functional.embedding(torch.as_tensor(inputs.side, device=device), rows).flatten(1)  # [B, S d]
        target = functional.embedding(items, rows).flatten(1)  # [N, D]
        found = self._interest(target, rows, inputs)
        self.extra_logits = None
        if isinstance(self.long, SIMSoft) and inputs.sampled is not None and torch.is_grad_enabled():
            own = every[:, self.shape.dim :]
            self.extra_logits = self.long.auxiliary(
                functional.embedding(items, own).flatten(1), own, inputs.sampled
            )
        dots = torch.stack([(target * f).sum(1) for f in found], 1) if found else target[:, :0]  # [N, parts]
        counts = torch.as_tensor(inputs.counts, device=device)
        x = torch.cat([side[slate], target, *found, dots, counts], 1)
        logits: Tensor = self.towers(x)
        if self.dots is not None:
            logits = logits + self.dots(dots)
        return logits + self.prior

    @property
    def extra_loss(self) -> Tensor | None:
        """What the unit wants added to a candidate's mean loss, of the last forward."""
        return self.long.extra_loss if self.long is not None else None

    def learned(self) -> None:
        """A batch was learned."""
        if self.long is not None:
            self.long.learned()

    def _interest(self, target: Tensor, rows: Tensor, inputs: Inputs) -> list[Tensor]:
        """What the sequence says about each candidate: up to two vectors ``[N, D]``."""
        parts = (self.short, inputs.short), (self.long, inputs.long)
        return [
            unit(target, rows, picked) for unit, picked in parts if unit is not None and picked is not None
        ]


def _towers(shape: Shape, n_inputs: int) -> SharedBottom | MMoE:
    if shape.towers == "shared":
        return SharedBottom(n_inputs, shape.mlp, shape.n_kinds)
    if shape.towers == "mmoe":
        return MMoE(n_inputs, shape.mlp, shape.n_kinds, shape.experts)
    raise ValueError(f"model: towers: expected shared or mmoe, got {shape.towers!r}")


def _reading(unit: Unit, shape: Shape, read: Interest | None) -> Reading:
    """How the unit's behaviours are found and counted: its own way, unless the shape says otherwise."""
    nothing = unit.whole and unit.read is None
    search = unit.search if nothing else shape.search or unit.search
    find = None
    if search == "attention":
        if not isinstance(read, Searching):
            raise ValueError(f"model: expected a unit that searches by its own attention, got {shape.unit!r}")
        find = read.search
    elif search not in ("recent", "none"):
        find = make_search(search, shape.n_coded, shape.dim)
    counts = search if search in N_COUNTS else unit.counts
    return Reading(
        find=find,
        recent=search == "recent",
        count=find if counts == search else make_search(counts, shape.n_coded, shape.dim) if counts else None,
        n_counts=N_COUNTS.get(counts, 0),
        short=not unit.whole,
        long=read is not None,
        n_hashed=shape.n_coded if unit.hashes else 0,
        sample=unit.sample,
    )
