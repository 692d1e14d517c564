"""Which behaviours of a long sequence an interest unit sees: the k best of each candidate, in four ways.

All searches have one signature and one layout. The sequences of a batch stand in one flat array, oldest
first, that of slate ``b`` at ``start[b]:stop[b]``; its candidates are the queries ``first[b]:first[b + 1]``.
What a search does with a sequence it does once a slate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.model import search_kernels as kernels
from trainer.model.search_slices import hamming

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Found(NamedTuple):
    """What a search found for N queries."""

    positions: NDArray[np.int32]
    """``[N, k]`` into the flat sequence array, ascending, so the oldest first; then -1."""
    counts: NDArray[np.int32]
    """``[N, n]``: how many behaviours of the whole sequence are near, for each radius asked for."""


def hamming_top_k(
    queries: Words,
    keys: Words,
    first: Ints,
    start: Ints,
    stop: Ints,
    k: int,
    mask: Mask | None = None,
    radii: Sequence[int] = (),
) -> Found:
    """The k behaviours whose codes differ from a candidate's in the fewest bits.

    Parameters
    ----------
    queries
        uint64 ``[N, words]``, codes of the candidates; 1 to 4 words.
    keys
        uint64 ``[T, words]``, codes of the behaviours.
    first
        int64 ``[B + 1]``: where the queries of a slate begin.
    start, stop
        int64 ``[B]``: where its sequence begins and ends.
    k
        How many to find. Of equally near ones the most recent are taken; a shorter sequence is found whole.
    mask
        bool ``[T]``: False where a behaviour may not be found or counted.
    radii
        Distances in bits: ``counts`` says how many behaviours are as near, or nearer.

    Raises
    ------
    ValueError
        If shapes or bounds do not fit together.

    Notes
    -----
    ETA, arXiv 2108.04468, section 3.2. The result is exact; ``search_slices`` says how it is quick.

    >>> codes = np.uint64([[0b0000], [0b0111], [0b0001], [0b0011]])
    >>> first, start, stop = np.array([0, 1]), np.array([0]), np.array([4])
    >>> found = hamming_top_k(np.uint64([[0]]), codes, first, start, stop, k=2, radii=(0, 2))
    >>> found.positions, found.counts
    (array([[0, 2]], dtype=int32), array([[1, 3]], dtype=int32))
    """
    if (
        queries.ndim != 2
        or keys.ndim != 2
        or queries.shape[1] != keys.shape[1]
        or not 1 <= keys.shape[1] <= 4
    ):
        raise ValueError(f"search: expected codes of 1..4 words, got {queries.shape} and {keys.shape}")
    if any(r < 0 for r in radii):
        raise ValueError(f"search: expected radii of 0 or more, got {tuple(radii)}")
    first, start, stop = _bounds(first, start, stop, len(queries), len(keys))
    found = _nothing(len(queries), k, len(radii))
    queries, keys = np.ascontiguousarray(queries, np.uint64), np.ascontiguousarray(keys, np.uint64)
    at_most = np.array(radii, np.int64)
    hamming(queries, keys, first, start, stop, _mask(mask, len(keys)), at_most, *found)
    return found


def inner_top_k(
    queries: Floats,
    keys: Floats,
    first: Ints,
    start: Ints,
    stop: Ints,
    k: int,
    mask: Mask | None = None,
    radii: Sequence[float] = (),
) -> Found:
    """The k behaviours with the largest inner product; exact, products summed in the order of the dimensions.

    As ``hamming_top_k``, but ``queries`` are float32 ``[N, dim]``, ``keys`` float32 ``[T, dim]``, all finite,
    and ``radii`` are cosines: counted are behaviours whose cosine is as large, or larger. A zero vector's
    cosine is 0.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"search: expected vectors of one dim, got {queries.shape} and {keys.shape}")
    first, start, stop = _bounds(first, start, stop, len(queries), len(keys))
    found = _nothing(len(queries), k, len(radii))
    queries, keys = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(keys, np.float32)
    at_least = np.array(radii, np.float32)
    kernels.inner(queries, keys, first, start, stop, _mask(mask, len(keys)), at_least, *found)
    return found


def category_top_k(
    queries: Words, keys: Words, first: Ints, start: Ints, stop: Ints, k: int, mask: Mask | None = None
) -> Found:
    """The k most recent behaviours with the candidate's own category (SIM(hard), arXiv 2006.05639).

    As ``hamming_top_k``, but ``queries`` are uint64 ``[N]`` and ``keys`` uint64 ``[T]``; ``counts`` ``[N,
    1]`` are all that match.
    """
    if queries.ndim != 1 or keys.ndim != 1:
        raise ValueError(f"search: expected one key each, got {queries.shape} and {keys.shape}")
    first, start, stop = _bounds(first, start, stop, len(queries), len(keys))
    found = _nothing(len(queries), k, 1)
    queries, keys = np.ascontiguousarray(queries, np.uint64), np.ascontiguousarray(keys, np.uint64)
    kernels.category(queries, keys, first, start, stop, _mask(mask, len(keys)), *found)
    return found


def recent_top_k(first: Ints, start: Ints, stop: Ints, k: int, mask: Mask | None = None) -> Found:
    """The k most recent behaviours, whatever the candidate; ``counts`` ``[N, 1]`` are all there are."""
    length = int(np.max(stop, initial=0)) if mask is None else len(mask)
    first, start, stop = _bounds(first, start, stop, int(first[-1]), length)
    found = _nothing(int(first[-1]), k, 1)
    kernels.recent(first, start, stop, _mask(mask, length), *found)
    return found


def _bounds(first: Ints, start: Ints, stop: Ints, n_queries: int, length: int) -> tuple[Ints, Ints, Ints]:
    first, start, stop = (np.ascontiguousarray(a, np.int64) for a in (first, start, stop))
    if not len(first) - 1 == len(start) == len(stop):
        raise ValueError(f"search: expected B + 1, B, B bounds, got {len(first)}, {len(start)}, {len(stop)}")
    if first[0] != 0 or first[-1] != n_queries or (np.diff(first) < 0).any():
        raise ValueError(
            f"search: expected first to ascend from 0 to {n_queries}, got {first[0]}..{first[-1]}"
        )
    if len(start) and ((start > stop).any() or start.min() < 0 or stop.max() > length):
        raise ValueError(f"search: expected 0 <= start <= stop <= {length}, got {start.min()}..{stop.max()}")
    return first, start, stop


def _mask(mask: Mask | None, length: int) -> Mask:
    """As the kernels take it: empty for none."""
    if mask is None:
        return np.empty(0, np.bool_)
    if mask.shape != (length,):
        raise ValueError(f"search: expected a mask of [{length}], got {mask.shape}")
    return np.ascontiguousarray(mask, np.bool_)


def _nothing(n_queries: int, k: int, n_counts: int) -> Found:
    if k < 1:
        raise ValueError(f"search: expected k of 1 or more, got {k}")
    return Found(np.full((n_queries, k), -1, np.int32), np.zeros((n_queries, n_counts), np.int32))
