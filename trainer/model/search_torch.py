"""The Hamming search once more, in torch: for any device, and a second opinion on the quick one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**23
"""Distances made at a time: 64 MB of int64 a word."""


class FoundTorch(NamedTuple):
    """As ``search.Found``."""

    positions: Tensor
    """int64 ``[N, k]``."""
    counts: Tensor
    """int64 ``[N, n]``."""


def hamming_top_k_torch(
    queries: Tensor,
    keys: Tensor,
    first: Tensor,
    start: Tensor,
    stop: Tensor,
    k: int,
    mask: Tensor | None = None,
    radii: Sequence[int] = (),
) -> FoundTorch:
    """``search.hamming_top_k`` on the device of its arguments, with exactly its result.

    Parameters
    ----------
    queries, keys
        int64 ``[N, words]`` and ``[T, words]``: the bits of the uint64 codes, as ``encode_torch`` gives them.
    first, start, stop
        int64 ``[B + 1]``, ``[B]``, ``[B]``.
    mask
        bool ``[T]``.
    """
    device, n_queries = queries.device, len(queries)
    positions = torch.full((n_queries, k), -1, dtype=torch.int64, device=device)
    counts = torch.zeros((n_queries, len(radii)), dtype=torch.int64, device=device)
    longest = int((stop - start).max()) if len(start) else 0
    if longest == 0:
        return FoundTorch(positions, counts)
    slate = torch.repeat_interleave(torch.arange(len(start), device=device), first.diff())
    for chunk in torch.split(torch.arange(n_queries, device=device), max(1, CHUNK // longest)):
        of = slate[chunk]
        at = start[of, None] + torch.arange(longest, device=device)
        valid = at < stop[of, None]
        at = at.clamp(max=len(keys) - 1)
        if mask is not None:
            valid &= mask[at]
        distances = torch.zeros_like(at)
        for word in range(keys.shape[1]):
            distances += _popcount(queries[chunk, word, None] ^ keys[at, word])
        for i, radius in enumerate(radii):
            counts[chunk, i] = (valid & (distances <= radius)).sum(dim=1)
        never = 64 * keys.shape[1] + 1
        rank = distances.where(valid, torch.full_like(at, never)) * longest + (stop[of, None] - 1 - at).clamp(
            min=0
        )
        best, place = rank.topk(min(k, longest), dim=1, largest=False)
        last = len(keys)
        found = (
            at.gather(1, place).where(best < never * longest, torch.full_like(best, last)).sort(dim=1).values
        )
        positions[chunk, : found.shape[1]] = found.where(found < last, torch.full_like(found, -1))
    return FoundTorch(positions, counts)


def _popcount(words: Tensor) -> Tensor:
    """Set bits of each int64, by adding neighbours (Hacker's Delight, 5-1); the masks drop the sign."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((words * 0x0101010101010101) >> 56) & 0xFF
