"""SDIM, sampling-based deep interest modelling: hash collisions in the place of attention (arXiv 2205.10249).

Behaviours are summed into buckets, once a list; a candidate looks up the buckets that it falls into itself:

    out = W_v (mean over signatures g of  s_g / |s_g|),    s_g = sum of x_j where signature_g(x_j) = signature_g(t)

``G = bits // WIDTH`` signatures of ``WIDTH`` bits each are read from the SimHash code that the table keeps for every
row, so nothing is hashed here, and the buckets follow the embeddings. In expectation a behaviour at angle ``a`` weighs
``(1 - a / pi) ** WIDTH`` before it is normalised: the width is the temperature. Bits of a signature lie ``G`` apart, so
that each has some of every coded field.

A list costs ``G L D`` additions, a candidate ``G D``. Public code often normalises the sum over all signatures once;
the paper does it for each of them, so that a full bucket does not drown the others. No gradient goes through the hash.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer.jit import compiled
from trainer.model.interest import Interest, Picked, Seen

WIDTH = 4
"""Bits of a signature: the best of 2, 3, 4, 6 and 8 in docs/results.md. The paper has 3."""


class SDIM(Interest):
    """Normalised sums of the behaviours that collide with the candidate."""

    def __init__(self, dim: int, heads: int, sharpness: float, fields: int) -> None:
        super().__init__(dim, heads, sharpness, fields)
        self.value = nn.Parameter(torch.eye(dim))

    def forward(self, target: Tensor, rows: Tensor, picked: Picked) -> Tensor:
        if rows.device.type != "cpu" or picked.codes is None:
            return super().forward(target, rows, picked)
        queries, keys = (signatures(codes) for codes in picked.codes)
        buckets = cast(Tensor, _Sums.apply(rows, picked, keys))  # type: ignore[no-untyped-call]
        return self._look_up(buckets, torch.from_numpy(queries).long(), torch.from_numpy(picked.of))

    def read(self, seen: Seen) -> Tensor:
        assert seen.codes is not None
        queries, keys = (
            torch.from_numpy(signatures(c.cpu().numpy().view(np.uint64))).long() for c in seen.codes
        )
        falls = functional.one_hot(keys.to(seen.x.device), 2**WIDTH).to(seen.x.dtype)  # [R, k, G, 2 ** width]
        falls = falls * seen.filled[:, :, None, None]
        buckets = torch.einsum("rkgs,rkd->rgsd", falls, seen.x)
        return self._look_up(buckets, queries.to(seen.x.device), seen.of)

    def _look_up(self, buckets: Tensor, queries: Tensor, of: Tensor) -> Tensor:
        """``buckets`` ``[R, G, 2 ** width, D]``, ``queries`` ``[N, G]`` -> ``[N, D]``."""
        sums = buckets[of[:, None], torch.arange(queries.shape[1], device=of.device), queries]  # [N, G, D]
        return functional.normalize(sums, dim=2).mean(1) @ self.value.T


def signatures(codes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Codes uint64 ``[..., words]`` as ``G`` numbers below ``2 ** WIDTH``: uint8 ``[..., G]``."""
    found = np.empty((codes.size // codes.shape[-1], 64 * codes.shape[-1] // WIDTH), np.uint8)
    _sign(np.ascontiguousarray(codes).reshape(-1, codes.shape[-1]), found)
    return found.reshape(*codes.shape[:-1], found.shape[1])


class _Sums(torch.autograd.Function):
    """Rows ``[U, d]`` summed by signature: ``[R, G, 2 ** WIDTH, D]``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, picked: Picked, keys: NDArray[np.uint8]) -> Tensor:
        ctx.picked, ctx.keys, ctx.like = picked, keys, rows
        n, _, n_signatures = keys.shape
        out = np.zeros((n, n_signatures, 2**WIDTH, picked.index.shape[2] * rows.shape[1]), rows.numpy().dtype)
        _add(rows.detach().contiguous().numpy(), picked.index, picked.count, keys, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        d_rows = torch.zeros_like(ctx.like)
        _add_back(grads[0].contiguous().numpy(), ctx.picked.index, ctx.picked.count, ctx.keys, d_rows.numpy())
        return d_rows, None, None


@compiled
def _sign(codes: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    n_signatures = out.shape[1]
    for r in range(codes.shape[0]):
        for g in range(n_signatures):
            signature = np.uint64(0)
            for i in range(WIDTH):
                b = g + i * n_signatures
                bit = (codes[r, b >> 6] >> np.uint64(b & 63)) & np.uint64(1)
                signature |= bit << np.uint64(i)
            out[r, g] = signature


@compiled
def _add(
    rows: NDArray[Any],
    index: NDArray[np.int32],
    count: NDArray[np.int32],
    keys: NDArray[np.uint8],
    out: NDArray[Any],
) -> None:
    d = rows.shape[1]
    for r in range(index.shape[0]):
        for j in range(count[r]):
            for f in range(index.shape[2]):
                row = rows[index[r, j, f]]
                for g in range(keys.shape[2]):
                    into = out[r, g, keys[r, j, g], f * d : (f + 1) * d]
                    for c in range(d):
                        into[c] += row[c]


@compiled
def _add_back(
    grad: NDArray[Any],
    index: NDArray[np.int32],
    count: NDArray[np.int32],
    keys: NDArray[np.uint8],
    out: NDArray[Any],
) -> None:
    d = out.shape[1]
    for r in range(index.shape[0]):
        for j in range(count[r]):
            for f in range(index.shape[2]):
                into = out[index[r, j, f]]
                for g in range(keys.shape[2]):
                    row = grad[r, g, keys[r, j, g], f * d : (f + 1) * d]
                    for c in range(d):
                        into[c] += row[c]
