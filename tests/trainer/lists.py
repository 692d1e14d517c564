"""Lists of behaviours for the tests of interest units, and the units with weights that are nowhere special."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.model.interest import N_GAPS, Interest, Picked
from trainer.model.units import UNITS

HEADS, FIELDS, DIM, WORDS = 2, 2, 4, 1
WIDE = FIELDS * DIM
N_ROWS = 12
READING = [name for name, unit in UNITS.items() if unit.read is not None]
"""Units that read more than the short part."""


def make_unit(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Interest:
    """The unit, none of whose weights is where it started; statistics stay as they are."""
    read = UNITS[name].read
    assert read is not None
    unit = read(WIDE, HEADS, 0.5, FIELDS).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for weight in unit.parameters():
        weight.data = weight.data + torch.randn(weight.shape, generator=generator, dtype=dtype) / 3
    return unit


def make_lists(counts: Sequence[int], seed: int = 0, k: int | None = None, shared: bool = True) -> Picked:
    """Lists of these lengths, two candidates to each, or one; what lies behind a list's end may not be read."""
    rng = np.random.default_rng(seed)
    n = len(counts)
    k = max(counts, default=0) if k is None else k
    filled = np.arange(k) < np.array(counts, int)[:, None]
    of = np.repeat(np.arange(n), 2 if shared else 1)
    codes = (
        rng.integers(0, 2**64, (len(of), WORDS), np.uint64),
        rng.integers(0, 2**64, (n, k, WORDS), np.uint64),
    )
    return Picked(
        index=np.where(filled[:, :, None], rng.integers(0, N_ROWS, (n, k, FIELDS)), 2**31 - 1).astype(
            np.int32
        ),
        count=np.array(counts, np.int32),
        gap=np.where(filled, rng.integers(0, N_GAPS, (n, k)), 255).astype(np.uint8),
        of=of,
        positions=np.where(filled, np.arange(k), -1).astype(np.int32),
        codes=codes,
    )


def make_vectors(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Targets ``[n, D]`` and the embedding matrix ``[N_ROWS, d]``."""
    generator = torch.Generator().manual_seed(seed)
    target, rows = (
        torch.randn(shape, generator=generator, dtype=dtype) for shape in ((n, WIDE), (N_ROWS, DIM))
    )
    return target.requires_grad_(), rows.requires_grad_()
