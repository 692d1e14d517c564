"""The loops of the searches by inner product, category and time, and the marks that all searches use.

*Marks* are one bit a behaviour of a sequence, 64 to a word, the oldest lowest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.jit import njit
from trainer.model.lanes import SUMS, dots, lowest, popcount

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Places = NDArray[np.int32]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Scalar = Any  # a number: numba knows which

WORD = 64
TILE = 16
"""Queries that share a look at 64 behaviours' vectors, so that these stay close to the processor."""
LEAST = np.int32(-(2**31))
"""Below any product: a behaviour that may not be found."""
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_ALL = np.uint64(2**64 - 1)
_FAR = np.float32(1e30)


@njit
def longest(start: Ints, stop: Ints) -> int:
    """Length of the longest sequence."""
    length = 0
    for b in range(start.size):
        length = max(length, stop[b] - start[b])
    return length


@njit
def mark_valid(mask: Mask, begin: int, end: int, line: int, valid: Words) -> int:
    """Mark the behaviours that may be found, all where ``mask`` is empty, in ``line`` words; how many."""
    n = 0
    for i in range(line):
        at = begin + i * WORD
        left = min(WORD, end - at)
        if left <= 0:
            word = _ZERO
        elif mask.size == 0:
            word = _ALL >> np.uint64(WORD - left)
        else:
            word = _ZERO
            for j in range(left):
                word |= np.uint64(mask[at + j]) << np.uint64(j)
        valid[i] = word
        n += popcount(word)
    return n


@njit
def keep_last(marked: Words, line: int, k: int) -> None:
    """Clear the oldest marks, so that at most k are left."""
    for i in range(line - 1, -1, -1):
        word = marked[i]
        n = popcount(word)
        while n > k:
            word &= word - _ONE
            n -= 1
        marked[i] = word
        k -= n


@njit
def write_marked(marked: Words, line: int, begin: int, positions: Places) -> None:
    """The places of the marked behaviours, oldest first; the rest stays as it is."""
    n = 0
    for i in range(line):
        word = marked[i]
        while word:
            positions[n] = begin + i * WORD + lowest(word)
            word &= word - _ONE
            n += 1


@njit
def recent(first: Ints, start: Ints, stop: Ints, mask: Mask, positions: Places, counts: Places) -> None:
    """Fill in the k most recent, the same for all queries of a slate."""
    valid = np.empty((longest(start, stop) + WORD - 1) // WORD, np.uint64)
    for b in range(start.size):
        line = (stop[b] - start[b] + WORD - 1) // WORD
        n = mark_valid(mask, start[b], stop[b], line, valid)
        keep_last(valid, line, positions.shape[1])
        for q in range(first[b], first[b + 1]):
            counts[q, 0] = n
            write_marked(valid, line, start[b], positions[q])


@njit
def category(
    queries: Words,
    keys: Words,
    first: Ints,
    start: Ints,
    stop: Ints,
    mask: Mask,
    positions: Places,
    counts: Places,
) -> None:
    """Fill in the k most recent keys that equal each query's."""
    valid = np.empty((longest(start, stop) + WORD - 1) // WORD, np.uint64)
    same = np.empty(valid.size, np.uint64)
    for b in range(start.size):
        begin, end = start[b], stop[b]
        line = (end - begin + WORD - 1) // WORD
        mark_valid(mask, begin, end, line, valid)
        for q in range(first[b], first[b + 1]):
            n, query = 0, queries[q]
            for i in range(line):
                word, at = _ZERO, begin + i * WORD
                for j in range(min(WORD, end - at)):
                    word |= np.uint64(keys[at + j] == query) << np.uint64(j)
                same[i] = word & valid[i]
                n += popcount(same[i])
            counts[q, 0] = n
            keep_last(same, line, positions.shape[1])
            write_marked(same, line, begin, positions[q])


@njit
def inner(
    queries: Floats,
    keys: Floats,
    first: Ints,
    start: Ints,
    stop: Ints,
    mask: Mask,
    cosines: Floats,
    positions: Places,
    counts: Places,
) -> None:
    """Fill in the k largest inner products of each query."""
    dim, k = keys.shape[1], positions.shape[1]
    padded = (longest(start, stop) + SUMS - 1) // SUMS * SUMS
    panels = np.zeros((padded // SUMS, dim, SUMS), np.float32)
    products = np.empty((TILE, padded), np.float32)
    lengths = np.empty(padded, np.float32)
    order, places = np.empty(padded, np.int32), np.empty(padded, np.int32)
    valid = np.empty(padded // WORD, np.uint64)
    hidden = np.empty(padded, np.bool_)
    for b in range(start.size):
        begin, n = start[b], stop[b] - start[b]
        line = (n + WORD - 1) // WORD
        n_valid = mark_valid(mask, begin, stop[b], line, valid)
        if first[b] < first[b + 1]:
            _lay_out(keys[begin : stop[b]], panels, lengths)
            for i in range(n):
                hidden[i] = mask.size > 0 and not mask[begin + i]
        for tile in range(first[b], first[b + 1], TILE):
            after = min(tile + TILE, first[b + 1])
            for panel in range(line):
                for q in range(tile, after):
                    dots(queries[q], panels[panel], 0, products[q - tile], panel * SUMS)
            for q in range(tile, after):
                of = products[q - tile]
                length = _length(queries[q])
                for r in range(cosines.size):
                    counts[q, r] = _count_cosines(of, length, lengths, hidden, n, cosines[r])
                if n_valid <= k:
                    write_marked(valid, line, begin, positions[q])
                else:
                    _order(of, hidden, n, order)
                    for i in range(n):
                        places[i] = begin + i
                    _largest(order, places, n, k, positions[q])


@njit
def _lay_out(keys: Floats, panels: Floats, lengths: Floats) -> None:
    """Write the vectors on their side, 64 to a panel, and their lengths."""
    for begin in range(0, len(keys), SUMS):
        panel, n = panels[begin // SUMS], min(SUMS, len(keys) - begin)
        of = lengths[begin : begin + n]
        of[:] = 0
        for d in range(keys.shape[1]):
            for i in range(n):
                x = keys[begin + i, d]
                panel[d, i] = x
                of[i] += x * x
        for i in range(n):
            of[i] = np.sqrt(of[i])


@njit
def _length(vector: Floats) -> Scalar:
    total = np.float32(0)
    for x in vector:
        total += x * x
    return np.sqrt(total)


@njit
def _count_cosines(
    products: Floats, length: Scalar, lengths: Floats, hidden: Mask, n: int, cosine: Scalar
) -> Scalar:
    """How many have a cosine as large; nothing has a direction, and its cosine counts as 0."""
    within: Scalar = np.int32(0)
    for i in range(n):
        scale = length * lengths[i]
        scale = scale if scale > 0 else _FAR
        within += np.int32((products[i] >= cosine * scale) & ~hidden[i])
    return within


@njit
def _order(products: Floats, hidden: Mask, n: int, order: Places) -> None:
    """Integers in the order of the floats; no product is -0, since sums begin with 0."""
    bits = products.view(np.int32)
    for i in range(n):
        bit = bits[i]
        order[i] = LEAST if hidden[i] else bit ^ ((bit >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit
def _largest(order: Places, places: Places, n: int, k: int, positions: Places) -> None:
    """The places of the k largest of n > k numbers, ties to the last; both arrays are used up.

    By bisection, since counting is quick, with what is too small thrown out whenever that halves the work.
    """
    low, high = np.int64(order[0]), np.int64(order[0])
    for i in range(n):
        low, high = min(low, np.int64(order[i])), max(high, np.int64(order[i]))
    while low < high:  # the k-th largest is in low..high
        middle = (low + high + 1) >> 1
        n_from = _count_from(order, n, np.int32(middle))
        if n_from < k:
            high = middle - 1
            continue
        low = middle
        if 2 * n_from <= n:
            n = _throw_out(order, places, n, np.int32(middle))
    above = 0
    for i in range(n):
        above += order[i] > low
    ties, i = k - above, n
    while k > 0:
        i -= 1
        tie = order[i] == low and ties > 0
        ties -= tie
        if tie or order[i] > low:
            k -= 1
            positions[k] = places[i]


@njit
def _count_from(order: Places, n: int, least: Scalar) -> Scalar:
    n_from = np.int32(0)
    for i in range(n):
        n_from += np.int32(order[i] >= least)
    return n_from


@njit
def _throw_out(order: Places, places: Places, n: int, least: Scalar) -> Scalar:
    """Move what is ``least`` or more to the front, in order; how many that is."""
    kept = 0
    for i in range(n):
        value = order[i]
        order[kept], places[kept] = value, places[i]
        kept += value >= least
    return kept
