"""What an interest unit is: behaviours picked for a candidate in, one vector for the candidate out.

The rows of the embedding table come as one matrix of the batch, behaviours as lists of its row numbers, ragged and
often shared: candidates of one slate have one list, unless a search chose for each of them. Work that does not depend
on the candidate is done once a list, never once a candidate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

N_GAPS = 32
"""Buckets of the time gap between a behaviour and the impression: the bit length of its seconds."""


@dataclass(frozen=True)
class Picked:
    """The behaviours that each candidate reads, as rows of the batch's embedding matrix.

    ``R`` lists of up to ``k`` behaviours, oldest first; several candidates may share one list.
    """

    index: NDArray[np.int32]
    """``[R, k, F]`` rows of the embedding matrix; places from ``count`` on are not read."""
    count: NDArray[np.int32]
    """``[R]``."""
    gap: NDArray[np.uint8]
    """``[R, k]`` bucket of the time since, ``< N_GAPS``."""
    of: NDArray[np.int64]
    """``[N]``: the list of each candidate."""
    positions: NDArray[np.int32]
    """``[R, k]`` places in the batch's flat sequence; -1 from ``count`` on."""
    codes: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None
    """Of the candidates ``[N, words]`` and of the behaviours ``[R, k, words]``, for units that hash."""


class Seen(NamedTuple):
    """The same as tensors, with the vectors in their place."""

    target: Tensor
    """``[N, D]``."""
    x: Tensor
    """``[R, k, D]`` behaviours, zeros from a list's end on."""
    filled: Tensor
    """bool ``[R, k]``."""
    gap: Tensor
    """int64 ``[R, k]``, 0 from a list's end on."""
    of: Tensor
    """int64 ``[N]``: the list of each candidate."""
    codes: tuple[Tensor, Tensor] | None = None
    """The bits of ``Picked.codes`` as int64."""

    def each(self) -> Seen:
        """The same with a list for each candidate: ``R = N``."""
        return Seen(self.target, self.x[self.of], self.filled[self.of], self.gap[self.of], self.all)

    @property
    def all(self) -> Tensor:
        """int64 ``[N]``: 0, 1, 2 ..."""
        return torch.arange(len(self.target), device=self.target.device)


def see(target: Tensor, rows: Tensor, picked: Picked) -> Seen:
    """Look up what was picked: ``target`` ``[N, D]``, ``rows`` ``[U, d]``, ``D = F d``."""
    device = rows.device
    filled = (
        torch.arange(picked.index.shape[1], device=device)
        < torch.as_tensor(picked.count, device=device)[:, None]
    )
    index = torch.as_tensor(picked.index, device=device).long().where(filled[:, :, None], 0)
    gap = torch.as_tensor(picked.gap, device=device).long().where(filled, 0)
    x = functional.embedding(index, rows).flatten(2).masked_fill(~filled[:, :, None], 0.0)
    codes = None
    if picked.codes is not None:
        queries, keys = (torch.as_tensor(c.view(np.int64), device=device) for c in picked.codes)
        codes = queries, keys
    return Seen(target, x, filled, gap, torch.as_tensor(picked.of, device=device), codes)


class Interest(nn.Module, ABC):
    """Base of the units. One says what it does in ``read``, in plain torch, for any device and floating dtype.

    Parameters
    ----------
    dim
        ``D`` of target, behaviour and what comes out: all item fields side by side.
    heads
        Divides ``dim``; of the units that have heads.
    sharpness
        Where the temperature of an attention starts.
    fields
        ``F``; ``D`` is so many times the ``d`` of a row.
    """

    extra_loss: Tensor | None = None
    """What the last ``forward`` wants added to a candidate's mean loss; of a forward with gradients only."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__()

    def forward(self, target: Tensor, rows: Tensor, picked: Picked) -> Tensor:
        """``[N, D]``, zeros where nothing was picked. A quicker way than ``read`` may be here."""
        return self.read(see(target, rows, picked))

    @abstractmethod
    def read(self, seen: Seen) -> Tensor:
        """``[N, D]``, zeros where nothing was picked."""

    def weigh(self, seen: Seen) -> Tensor | None:
        """The weight that each behaviour has for each candidate ``[N, k]``, 0 past the end; None if it has none."""
        return None

    def learned(self) -> None:
        """Called after each batch that was learned: running statistics move here, never in ``forward``."""
