"""The loops of the searches.

Hamming search works on *slices*. The codes of a sequence are turned on their side once a slate: a plane holds one bit of
256 behaviours in a register, so that adding up differing bits takes a few logical operations for 256 behaviours at a
time. Distances never stand as numbers, only as slices: the lowest bit of 256 of them, then the next. A threshold is
found, applied and counted on slices too; nothing is sorted, and nothing looks at a single behaviour until the k found are
written down.

For a query ``q`` let ``S`` be its ones, or its zeros where those are fewer. Of a behaviour's code let ``z`` be the number
of zeros and ``c`` how many of ``S`` are ones. Then the distance is ``|q| + bits - (z + 2c)`` if ``S`` are the ones and
``z + 2c - |S|`` if they are the zeros. So at most half of the planes are added up, on top of a ``z`` that is the same for all
queries; ``z + 2c``, complemented in the first case, is the distance plus an offset that depends on the query alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.jit import njit
from trainer.model.lanes import LANES, SUMS, count, dots, gather, load, lowest, popcount, splat, store

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Places = NDArray[np.int32]
Floats = NDArray[np.float32]
Scalar = Any  # a scalar or a register: numba knows which

WORD = 64
BLOCK = LANES * WORD
"""Behaviours in a register."""
GROUP = 16
"""Planes added up at a time."""
SLICES = 9
"""Bits of ``z + 2c``, which is at most 1.5 times 256."""
HIDDEN = np.int32(-(2**31))
"""Below any product: a behaviour that may not be found."""
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_ALL = np.uint64(2**64 - 1)
_FAR = np.float32(3.4e38)


@njit
def _add(a: Scalar, b: Scalar, c: Scalar) -> Scalar:
    """Three bits in every place: their sum and their carry."""
    u = a ^ b
    return u ^ c, (u & c) | (a & b)


@njit
def _add_eight(planes: Words, base: int, chosen: Ints, s0: Scalar, s1: Scalar, s2: Scalar) -> Scalar:
    """Add eight planes to the number in three slices; with the carry, which is worth 8."""
    s0, a = _add(s0, load(planes, base + chosen[0]), load(planes, base + chosen[1]))
    s0, b = _add(s0, load(planes, base + chosen[2]), load(planes, base + chosen[3]))
    s1, c = _add(s1, a, b)
    s0, a = _add(s0, load(planes, base + chosen[4]), load(planes, base + chosen[5]))
    s0, b = _add(s0, load(planes, base + chosen[6]), load(planes, base + chosen[7]))
    s1, d = _add(s1, a, b)
    s2, c = _add(s2, c, d)
    return s0, s1, s2, c


@njit
def _add_up(planes: Words, base: int, chosen: Ints, n: int, slices: Scalar) -> Scalar:
    """Add the first ``n`` chosen planes, a multiple of 16, to the number in eight slices, lowest first; nine slices."""
    s0, s1, s2, s3, s4, s5, s6, s7 = slices
    s8 = s0 ^ s0
    for group in range(0, n, GROUP):
        s0, s1, s2, a = _add_eight(planes, base, chosen[group:], s0, s1, s2)
        s0, s1, s2, b = _add_eight(planes, base, chosen[group + 8 :], s0, s1, s2)
        s3, a = _add(s3, a, b)
        s4, a = s4 ^ a, s4 & a
        s5, a = s5 ^ a, s5 & a
        s6, a = s6 ^ a, s6 & a
        s7, a = s7 ^ a, s7 & a
        s8 = s8 ^ a
    return s0, s1, s2, s3, s4, s5, s6, s7, s8


@njit
def _turn(keys: Words, row: int, planes: Words, base: int) -> None:
    """Write the planes of the complements of 256 codes: ``words * 64`` registers from ``base`` on."""
    words = keys.shape[1]
    for word in range(words):
        at = base + word * WORD * LANES
        for i in range(WORD):
            store(planes, at + i * LANES, ~gather(keys, (row + i) * words + word, WORD * words))
        half, mask = 32, np.uint64(0xFFFFFFFF)
        while half:  # transposes 64 by 64 bits in every lane: Hacker's Delight, section 7-3
            shift = np.uint64(half)
            same = splat(mask)
            for i in range(0, WORD, 2 * half):
                for j in range(i, i + half):
                    low, high = load(planes, at + j * LANES), load(planes, at + (j + half) * LANES)
                    swap = ((low >> shift) ^ high) & same
                    store(planes, at + j * LANES, low ^ (swap << shift))
                    store(planes, at + (j + half) * LANES, high ^ swap)
            half >>= 1
            mask ^= mask << np.uint64(half)


@njit
def _lay_out(keys: Words, begin: int, end: int, planes: Words, zeros: Words, spare: Words) -> None:
    """Planes of a sequence and the slices of how many zeros its codes have; afterwards a plane of nothing.

    ``planes`` holds ``[blocks, bits + 1]`` registers, ``zeros`` ``[blocks, SLICES]``, ``spare`` 256 codes.
    """
    words = keys.shape[1]
    bits = words * WORD
    every = np.arange(bits) * LANES
    none = splat(_ZERO)
    for block in range((end - begin + BLOCK - 1) // BLOCK):
        row = begin + block * BLOCK
        base = block * (bits + 1) * LANES
        if end - row >= BLOCK:
            _turn(keys, row, planes, base)
        else:
            spare[: end - row] = keys[row:end]
            _turn(spare, 0, planes, base)
        eight = (none, none, none, none, none, none, none, none)
        s0, s1, s2, s3, s4, s5, s6, s7, s8 = _add_up(planes, base, every, bits, eight)
        at = block * SLICES * LANES
        store(zeros, at, s0)
        store(zeros, at + LANES, s1)
        store(zeros, at + 2 * LANES, s2)
        store(zeros, at + 3 * LANES, s3)
        store(zeros, at + 4 * LANES, s4)
        store(zeros, at + 5 * LANES, s5)
        store(zeros, at + 6 * LANES, s6)
        store(zeros, at + 7 * LANES, s7)
        store(zeros, at + 8 * LANES, s8)
        for i in range(base, base + bits * LANES, LANES):
            store(planes, i, ~load(planes, i))
        store(planes, base + bits * LANES, none)


@njit
def _choose(query: Words, chosen: Ints) -> Scalar:
    """List the planes of ``S``, filled up with the plane of nothing; how many, how many in ``S``, and are they the ones."""
    bits = query.size * WORD
    ones = 0
    for word in query:
        ones += popcount(word)
    are_ones = 2 * ones <= bits
    n = 0
    for i in range(query.size):
        word = query[i] if are_ones else ~query[i]
        while word:
            chosen[n] = (i * WORD + lowest(word)) * LANES
            word &= word - _ONE
            n += 1
    in_s = n
    while n % GROUP:
        chosen[n] = bits * LANES
        n += 1
    return n, in_s, are_ones


@njit
def _slice(
    planes: Words,
    zeros: Words,
    bits: int,
    blocks: int,
    chosen: Ints,
    n: int,
    flip: Scalar,
    out: Words,
    n_slices: int,
) -> None:
    """Write the distances of a query plus its offset: ``n_slices`` slices of ``blocks`` registers."""
    line = blocks * LANES
    for block in range(blocks):
        z = block * SLICES * LANES
        eight = (
            load(zeros, z + LANES),
            load(zeros, z + 2 * LANES),
            load(zeros, z + 3 * LANES),
            load(zeros, z + 4 * LANES),
            load(zeros, z + 5 * LANES),
            load(zeros, z + 6 * LANES),
            load(zeros, z + 7 * LANES),
            load(zeros, z + 8 * LANES),
        )
        s1, s2, s3, s4, s5, s6, s7, s8, _ = _add_up(planes, block * (bits + 1) * LANES, chosen, n, eight)
        at = block * LANES
        store(out, at, load(zeros, z) ^ flip)
        store(out, at + line, s1 ^ flip)
        store(out, at + 2 * line, s2 ^ flip)
        store(out, at + 3 * line, s3 ^ flip)
        store(out, at + 4 * line, s4 ^ flip)
        store(out, at + 5 * line, s5 ^ flip)
        store(out, at + 6 * line, s6 ^ flip)
        if n_slices > 7:
            store(out, at + 7 * line, s7 ^ flip)
        if n_slices > 8:
            store(out, at + 8 * line, s8 ^ flip)


@njit
def _count_within(slices: Words, line: int, n_slices: int, valid: Words, limit: int) -> int:
    """How many valid behaviours' numbers are at most ``limit``."""
    n = 0
    for at in range(0, line, LANES):
        within = splat(_ALL)
        for s in range(n_slices):
            bit = load(slices, s * line + at)
            if (limit >> s) & 1:
                within = within | ~bit
            else:
                within = within & ~bit
        n += count(within & load(valid, at))
    return n


@njit
def _nearest(
    slices: Words, line: int, n_slices: int, valid: Words, k: int, inside: Words, alive: Words
) -> None:
    """Mark the k smallest numbers in ``inside``, ties to the last; from the highest slice down, like a radix sort's half."""
    for at in range(0, line, LANES):
        store(inside, at, splat(_ZERO))
        store(alive, at, load(valid, at))
    for s in range(n_slices - 1, -1, -1):
        n = 0
        for at in range(0, line, LANES):
            n += count(load(alive, at) & ~load(slices, s * line + at))
        if n <= k:
            k -= n
            for at in range(0, line, LANES):
                bit, of = load(slices, s * line + at), load(alive, at)
                store(inside, at, load(inside, at) | (of & ~bit))
                store(alive, at, of & bit)
            if k == 0:
                return
        else:
            for at in range(0, line, LANES):
                store(alive, at, load(alive, at) & ~load(slices, s * line + at))
    i = line
    while k > 0:
        i -= 1
        word = alive[i]
        n = popcount(word)
        while n > k:
            word &= word - _ONE
            n -= 1
        inside[i] |= word
        k -= n


@njit
def _write(marked: Words, line: int, begin: int, positions: Places) -> None:
    """The places of the marked behaviours, oldest first, then -1."""
    n = 0
    for i in range(line):
        word = marked[i]
        while word:
            positions[n] = begin + i * WORD + lowest(word)
            word &= word - _ONE
            n += 1
    positions[n:] = -1


@njit
def _mark_valid(mask: NDArray[np.bool_], begin: int, end: int, line: int, valid: Words) -> int:
    """Set the bits of behaviours that may be found, all if ``mask`` is empty; how many."""
    n = 0
    for i in range(line):
        word, at = _ZERO, begin + i * WORD
        for j in range(min(WORD, end - at)):
            if mask.size == 0 or mask[at + j]:
                word |= _ONE << np.uint64(j)
        valid[i] = word
        n += popcount(word)
    return n


@njit
def hamming(
    queries: Words,
    keys: Words,
    first: Ints,
    start: Ints,
    stop: Ints,
    mask: NDArray[np.bool_],
    radii: Ints,
    positions: Places,
    counts: Places,
) -> None:
    """The k nearest codes of each query, k being the width of ``positions``."""
    words = keys.shape[1]
    bits = words * WORD
    n_slices = 7 if words == 1 else 8 if words == 2 else 9
    largest = 2**n_slices - 1
    longest = 0
    for b in range(start.size):
        longest = max(longest, stop[b] - start[b])
    blocks = (longest + BLOCK - 1) // BLOCK
    planes = np.empty(blocks * (bits + 1) * LANES, np.uint64)
    zeros = np.empty(blocks * SLICES * LANES, np.uint64)
    slices = np.empty(blocks * n_slices * LANES, np.uint64)
    valid, inside, alive = np.empty((3, blocks * LANES), np.uint64)
    spare = np.zeros((BLOCK, words), np.uint64)
    chosen = np.empty(bits // 2 + GROUP, np.int64)
    for b in range(start.size):
        begin, end = start[b], stop[b]
        blocks = (end - begin + BLOCK - 1) // BLOCK
        line = blocks * LANES
        n_valid = _mark_valid(mask, begin, end, line, valid)
        if first[b] < first[b + 1]:
            _lay_out(keys, begin, end, planes, zeros, spare)
        for q in range(first[b], first[b + 1]):
            n, in_s, are_ones = _choose(queries[q], chosen)
            flip = splat(_ALL if are_ones else _ZERO)
            offset = largest - bits - in_s if are_ones else in_s
            _slice(planes, zeros, bits, blocks, chosen, n, flip, slices, n_slices)
            for r in range(radii.size):
                limit = min(largest, radii[r] + offset)
                counts[q, r] = _count_within(slices, line, n_slices, valid, limit)
            if n_valid <= positions.shape[1]:
                _write(valid, line, begin, positions[q])
            else:
                _nearest(slices, line, n_slices, valid, positions.shape[1], inside, alive)
                _write(inside, line, begin, positions[q])


@njit
def _products(query: Floats, panels: Floats, n: int, out: Floats) -> None:
    for panel in range((n + SUMS - 1) // SUMS):
        dots(query, panels[panel], 0, out, panel * SUMS)


@njit
def _largest(order: Places, n: int, k: int, begin: int, positions: Places) -> None:
    """The places of the k largest of n > k numbers, ties to the last; bisection, since counting is quick and exact."""
    low, high = np.int64(HIDDEN), np.int64(HIDDEN)
    for i in range(n):
        high = max(high, order[i])
    while low < high:  # the k-th largest is in low..high
        middle = np.int32((low + high + 1) >> 1)
        above = 0
        for i in range(n):
            above += order[i] >= middle
        if above >= k:
            low = np.int64(middle)
        else:
            high = np.int64(middle) - 1
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
            positions[k] = begin + i


@njit
def _length(vector: Floats) -> Scalar:
    total = np.float32(0)
    for x in vector:
        total += x * x
    return np.sqrt(total)


@njit
def inner(
    queries: Floats,
    keys: Floats,
    first: Ints,
    start: Ints,
    stop: Ints,
    mask: NDArray[np.bool_],
    cosines: Floats,
    positions: Places,
    counts: Places,
) -> None:
    """The k largest inner products of each query, k being the width of ``positions``."""
    dim, k = keys.shape[1], positions.shape[1]
    longest = 0
    for b in range(start.size):
        longest = max(longest, stop[b] - start[b])
    padded = (longest + SUMS - 1) // SUMS * SUMS
    panels = np.zeros((padded // SUMS, dim, SUMS), np.float32)
    products, lengths = np.empty((2, padded), np.float32)
    order = np.empty(padded, np.int32)
    bits = products.view(np.int32)
    valid = np.empty(padded, np.bool_)
    for b in range(start.size):
        begin, n = start[b], stop[b] - start[b]
        if first[b] == first[b + 1]:
            continue
        n_valid = 0
        for i in range(n):
            key = keys[begin + i]
            for d in range(dim):
                panels[i // SUMS, d, i % SUMS] = key[d]
            lengths[i] = _length(key)
            valid[i] = mask.size == 0 or mask[begin + i]
            n_valid += valid[i]
        for q in range(first[b], first[b + 1]):
            _products(queries[q], panels, n, products)
            length = _length(queries[q])
            for r in range(cosines.size):
                cosine, within = cosines[r], 0
                for i in range(n):
                    scale = length * lengths[i]
                    scale = scale if scale > 0 else _FAR  # nothing has a direction: its cosine counts as 0
                    within += valid[i] & (products[i] >= cosine * scale)
                counts[q, r] = within
            for i in range(n):  # integers in the order of the floats
                bit = bits[i]
                order[i] = bit ^ ((bit >> 31) & 0x7FFFFFFF) if valid[i] else HIDDEN
            if n_valid > k:
                _largest(order, n, k, begin, positions[q])
            else:
                found = 0
                for i in range(n):
                    if valid[i]:
                        positions[q, found] = begin + i
                        found += 1
                positions[q, found:] = -1


@njit
def category(
    queries: Words,
    keys: Words,
    first: Ints,
    start: Ints,
    stop: Ints,
    mask: NDArray[np.bool_],
    positions: Places,
    counts: Places,
) -> None:
    """The k most recent keys that equal each query's, k being the width of ``positions``."""
    longest = 0
    for b in range(start.size):
        longest = max(longest, stop[b] - start[b])
    valid = np.empty((longest + WORD - 1) // WORD, np.uint64)
    same = np.empty(valid.size, np.uint64)
    for b in range(start.size):
        begin, end = start[b], stop[b]
        line = (end - begin + WORD - 1) // WORD
        _mark_valid(mask, begin, end, line, valid)
        for q in range(first[b], first[b + 1]):
            n = 0
            for i in range(line):
                word, at = _ZERO, begin + i * WORD
                for j in range(min(WORD, end - at)):
                    word |= np.uint64(keys[at + j] == queries[q]) << np.uint64(j)
                same[i] = word & valid[i]
                n += popcount(same[i])
            counts[q, 0] = n
            _keep_last(same, line, n, positions.shape[1])
            _write(same, line, begin, positions[q])


@njit
def recent(
    first: Ints,
    start: Ints,
    stop: Ints,
    mask: NDArray[np.bool_],
    positions: Places,
    counts: Places,
) -> None:
    """The k most recent, the same for all queries of a slate."""
    longest = 0
    for b in range(start.size):
        longest = max(longest, stop[b] - start[b])
    valid = np.empty((longest + WORD - 1) // WORD, np.uint64)
    for b in range(start.size):
        line = (stop[b] - start[b] + WORD - 1) // WORD
        n = _mark_valid(mask, start[b], stop[b], line, valid)
        _keep_last(valid, line, n, positions.shape[1])
        for q in range(first[b], first[b + 1]):
            counts[q, 0] = n
            _write(valid, line, start[b], positions[q])


@njit
def _keep_last(marked: Words, line: int, n: int, k: int) -> None:
    """Clear the oldest of n marks so that k are left."""
    for i in range(line):
        while n > k and marked[i]:
            marked[i] &= marked[i] - _ONE
            n -= 1
