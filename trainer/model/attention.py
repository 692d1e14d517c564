"""Multi-head target attention over the few behaviours that a search picked.

The projections of behaviours are absorbed, ``W_k`` into the query and ``W_v`` into what comes out, so that keys and
values are the embeddings themselves and nothing is projected per behaviour:

    score[h, j] = (W_k[h] W_q[h] t) . x_j + gap_bias[h, gap_j]
    alpha       = softmax over j
    out[h]      = W_v[h] (sum over j of alpha[h, j] x_j)

A candidate costs ``3 D^2 + 2 H k D`` multiply-adds, whatever the length of the sequence. ``attend`` is the inner part,
from scores to the weighted sum, as one kernel that reads rows of the embedding matrix in place; ``attend_torch`` is the
same in plain torch, its oracle and what runs on other devices.

Source: Vaswani et al. 2017, section 3.2; ETA, arXiv 2108.04468, section 3.3.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer.jit import F, compiled
from trainer.model.interest import N_GAPS, Interest, Picked, Seen, see

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]


def _fast(function: F) -> F:
    # Sums may be reassociated here, so that LLVM can use vector registers: the same bits on the same kind of
    # machine, as with torch's own matrix products. Codes and search, which must agree between machines, allow
    # nothing of the kind.
    return compiled(function, fastmath={"reassoc", "contract", "nsz"})


LONG = 128
"""Lists that may be longer and are shared by the candidates of a slate are attended over by matrix products."""


class TargetAttention(Interest):
    """Attention of a candidate over its picked behaviours; heads start on blocks of their own.

    Parameters
    ----------
    dim
        ``D`` of target and behaviour: all item fields side by side.
    heads
        ``H``; divides ``dim``.
    sharpness
        ``W_q' W_k`` starts as so many times the identity: the score of a unit vector with itself, over all heads.
    """

    def __init__(self, dim: int, heads: int, sharpness: float = 0.5, fields: int = 1) -> None:
        super().__init__(dim, heads, sharpness, fields)
        blocks = torch.eye(dim).view(heads, dim // heads, dim)
        self.query = nn.Parameter(sharpness * blocks)  # [H, D / H, D]
        self.key = nn.Parameter(blocks.clone())
        self.value = nn.Parameter(blocks.clone())
        self.gap_bias = nn.Parameter(torch.zeros(N_GAPS, heads))

    def forward(self, target: Tensor, rows: Tensor, picked: Picked) -> Tensor:
        """``target`` ``[N, D]``, ``rows`` ``[U, d]`` -> ``[N, D]``; zeros where nothing was picked."""
        if picked.index.shape[1] > LONG and len(picked.of) > len(picked.count):
            return self.mix(attend_shared(self.ask(target), rows, self.gap_bias, picked))
        if rows.device.type == "cpu" and rows.dtype == torch.float32:
            return self.mix(attend(self.ask(target), rows, self.gap_bias, picked))
        return self.read(see(target, rows, picked))

    def read(self, seen: Seen) -> Tensor:
        alpha = self.weights(seen)
        return self.mix(torch.einsum("hnk,nkd->hnd", alpha, seen.x[seen.of]))

    def weigh(self, seen: Seen) -> Tensor:
        """Mean of the heads' weights."""
        return self.weights(seen).mean(0)

    def weights(self, seen: Seen) -> Tensor:
        """Of each head ``[H, N, k]``; those of a list that is not empty sum up to 1."""
        scores = torch.einsum("hnd,nkd->hnk", self.ask(seen.target), seen.x[seen.of])
        scores = scores + self.gap_bias[seen.gap].permute(2, 0, 1)[:, seen.of]
        return softmax(scores, seen.filled[seen.of])

    def ask(self, target: Tensor) -> Tensor:
        """Queries with the key projection absorbed: ``[N, D]`` -> ``[H, N, D]``."""
        dim = target.shape[1]
        asked = (target @ self.query.view(dim, dim).T).view(len(target), *self.key.shape[:2])
        return torch.bmm(asked.transpose(0, 1), self.key)

    def mix(self, attended: Tensor) -> Tensor:
        """The value projection, after the sum: ``[H, N, D]`` -> ``[N, D]``, heads side by side."""
        return torch.bmm(attended, self.value.transpose(1, 2)).transpose(0, 1).flatten(1)


def softmax(scores: Tensor, filled: Tensor) -> Tensor:
    """Softmax over the last dimension of what is filled; zeros elsewhere, and for an empty list.

    What is not a number stays so, to be seen.
    """
    return scores.masked_fill(~filled, -torch.inf).softmax(-1).masked_fill(~filled, 0.0)


def attend(queries: Tensor, rows: Tensor, gap_bias: Tensor, picked: Picked) -> Tensor:
    """Softmax-weighted sum of the picked rows for every candidate and head.

    Parameters
    ----------
    queries
        float32 ``[H, N, D]``, ``D = F d``.
    rows
        float32 ``[U, d]``, the batch's embedding matrix.
    gap_bias
        float32 ``[N_GAPS, H]``, added to the score by the time since the behaviour.

    Returns
    -------
    float32 ``[H, N, D]``.
    """
    return cast(Tensor, _Attend.apply(queries, rows, gap_bias, picked))  # type: ignore[no-untyped-call]


def attend_torch(queries: Tensor, rows: Tensor, gap_bias: Tensor, picked: Picked) -> Tensor:
    """The same as ``attend`` in plain torch: any device, any dtype, any number of derivatives."""
    seen = see(queries[0], rows, picked)
    x = seen.x[seen.of]  # [N, k, D]
    scores = torch.einsum("hnd,nkd->hnk", queries, x) + gap_bias[seen.gap].permute(2, 0, 1)[:, seen.of]
    return torch.einsum("hnk,nkd->hnd", softmax(scores, seen.filled[seen.of]), x)


def attend_shared(queries: Tensor, rows: Tensor, gap_bias: Tensor, picked: Picked) -> Tensor:
    """The same once more, for long lists that many candidates share: two matrix products a list.

    Candidates of one list stand side by side.
    """
    index = torch.as_tensor(picked.index, device=rows.device)
    gap = torch.as_tensor(picked.gap, device=rows.device).long()
    n_each = np.bincount(picked.of, minlength=len(picked.count)).tolist()
    out = []
    for r, q in enumerate(torch.split(queries.transpose(0, 1), n_each)):  # [C, H, D]
        n = int(picked.count[r])
        x = functional.embedding(index[r, :n], rows).flatten(1)  # [L, D]
        bias = functional.embedding(gap[r, :n], gap_bias).T  # [H, L]
        alpha = (torch.matmul(q.flatten(0, 1), x.T).view(*q.shape[:2], n) + bias).softmax(-1)  # [C, H, L]
        out.append((alpha.flatten(0, 1) @ x).view(q.shape))
    return torch.cat(out).transpose(0, 1)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, rows: Tensor, gap_bias: Tensor, picked: Picked) -> Tensor:
        heads, n, dim = queries.shape
        alpha = np.empty((heads, n, picked.index.shape[1]), np.float32)
        out = np.empty((heads, n, dim), np.float32)
        arrays = [t.detach().contiguous().numpy() for t in (queries, rows, gap_bias)]
        q, x, bias = arrays
        _forward(q, x, bias, picked.index, picked.count, picked.gap, picked.of, alpha, out)
        ctx.arrays, ctx.picked, ctx.alpha = arrays, picked, alpha
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        picked: Picked = ctx.picked
        d_queries, d_rows, d_bias = (np.zeros_like(a) for a in ctx.arrays)
        grad = grads[0].contiguous().numpy()
        q, x, bias = ctx.arrays
        at = picked.index, picked.count, picked.gap
        _backward(q, x, bias, *at, picked.of, ctx.alpha, grad, d_queries, d_rows, d_bias)
        return torch.from_numpy(d_queries), torch.from_numpy(d_rows), torch.from_numpy(d_bias), None


@_fast
def _gather(rows: Floats, index: Ints, n: int, x: Floats) -> None:
    d = rows.shape[1]
    for j in range(n):
        for f in range(index.shape[1]):
            row = rows[index[j, f]]
            into = x[j, f * d : (f + 1) * d]
            for c in range(d):
                into[c] = row[c]


@_fast
def _forward(
    queries: Floats,
    rows: Floats,
    gap_bias: Floats,
    index: Ints,
    count: Ints,
    gap: Bytes,
    of: Numbers,
    alpha: Floats,
    out: Floats,
) -> None:
    heads, n_candidates, dim = queries.shape
    x = np.empty((index.shape[1], dim), np.float32)
    held = -1
    for n in range(n_candidates):
        r = of[n]
        m = count[r]
        if r != held:  # candidates of one slate come one after the other and may share a list
            _gather(rows, index[r], m, x)
            held = r
        for h in range(heads):
            q = queries[h, n]
            a = alpha[h, n]
            o = out[h, n]
            top = np.float32(-np.inf)
            for j in range(m):
                row = x[j]
                s = np.float32(0)
                for c in range(dim):
                    s += q[c] * row[c]
                s += gap_bias[gap[r, j], h]
                a[j] = s
                top = max(top, s)
            total = np.float32(0)
            for j in range(m):
                e = np.exp(a[j] - top)
                a[j] = e
                total += e
            for c in range(dim):
                o[c] = 0
            for j in range(m):
                w = a[j] / total
                a[j] = w
                row = x[j]
                for c in range(dim):
                    o[c] += w * row[c]


@_fast
def _backward(
    queries: Floats,
    rows: Floats,
    gap_bias: Floats,
    index: Ints,
    count: Ints,
    gap: Bytes,
    of: Numbers,
    alpha: Floats,
    grad: Floats,
    d_queries: Floats,
    d_rows: Floats,
    d_bias: Floats,
) -> None:
    # With p = softmax(s), o = p x and g the gradient of o:
    #   dp_j = g . x_j    ds_j = p_j (dp_j - sum_i p_i dp_i)    dq = sum_j ds_j x_j    dx_j = p_j g + ds_j q
    heads, n_candidates, dim = queries.shape
    n_fields = index.shape[2]
    d = rows.shape[1]
    x = np.empty((index.shape[1], dim), np.float32)
    dx = np.zeros((index.shape[1], dim), np.float32)
    ds = np.empty(index.shape[1], np.float32)
    held = -1
    for n in range(n_candidates):
        r = of[n]
        m = count[r]
        if r != held:
            _gather(rows, index[r], m, x)
            held = r
        for h in range(heads):
            q = queries[h, n]
            g = grad[h, n]
            p = alpha[h, n]
            dq = d_queries[h, n]
            mean = np.float32(0)
            for j in range(m):
                row = x[j]
                s = np.float32(0)
                for c in range(dim):
                    s += g[c] * row[c]
                ds[j] = s
                mean += p[j] * s
            for j in range(m):
                w = p[j]
                s = w * (ds[j] - mean)
                d_bias[gap[r, j], h] += s
                row = x[j]
                drow = dx[j]
                for c in range(dim):
                    dq[c] += s * row[c]
                    drow[c] += w * g[c] + s * q[c]
        if n + 1 == n_candidates or of[n + 1] != r:
            for j in range(m):
                for f in range(n_fields):
                    into = d_rows[index[r, j, f]]
                    for c in range(d):
                        into[c] += dx[j, f * d + c]
                        dx[j, f * d + c] = 0
