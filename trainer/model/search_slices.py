"""Search by Hamming distance, 256 behaviours at a time.

The codes of a sequence are turned on their side once a slate: a *plane* is one bit of 256 behaviours in a
register, so that adding up differing bits takes a few logical operations for all of them. Distances never
stand as numbers, only as *slices*: the lowest bit of 256 of them, then the next. A threshold is found,
applied and counted on slices too; nothing is sorted, and nothing looks at a single behaviour until the k
found are written.

For a query ``q`` let ``S`` be its ones, or its zeros where those are fewer. Of a behaviour's code let ``z``
be the number of zeros and ``c`` how many of ``S`` are ones in it. Then its distance is ``|q| + bits - (z +
2c)`` if ``S`` are the ones, and ``z + 2c - |S|`` if they are the zeros. So at most half of the planes are
added up, on top of a ``z`` that is the same for all queries. ``z + 2c``, complemented in the first case, is
the distance plus an offset that depends on the query alone, and that is what the slices hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.jit import njit
from trainer.model.lanes import LANES, count, gather, load, lowest, popcount, splat, store
from trainer.model.search_kernels import WORD, keep_last, longest, mark_valid, write_marked

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Places = NDArray[np.int32]
Scalar = Any  # a number or a register: numba knows which

BLOCK = LANES * WORD
"""Behaviours in a register."""
GROUP = 16
"""Planes added up at a time."""
SLICES = 9
"""Bits of ``z + 2c``, which is at most 1.5 times 256."""
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_ALL = np.uint64(2**64 - 1)


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
    """Fill in the k nearest codes of each query, k being the width of ``positions``; 1 to 4 words."""
    words, k = keys.shape[1], positions.shape[1]
    bits = words * WORD
    n_slices = 7 if words == 1 else 8 if words == 2 else 9
    largest = 2**n_slices - 1
    blocks = (longest(start, stop) + BLOCK - 1) // BLOCK
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
        n_valid = mark_valid(mask, begin, end, line, valid)
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
            if n_valid <= k:
                write_marked(valid, line, begin, positions[q])
            else:
                _nearest(slices, line, n_slices, valid, k, inside, alive)
                write_marked(inside, line, begin, positions[q])


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
        counted = _add_up(planes, base, every, bits, eight)
        _put(zeros, block * SLICES * LANES, LANES, SLICES, none, counted)
        for i in range(base, base + bits * LANES, LANES):
            store(planes, i, ~load(planes, i))
        store(planes, base + bits * LANES, none)


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
def _choose(query: Words, chosen: Ints) -> Scalar:
    """List the planes of ``S``, filled up with the plane of nothing to a multiple of 16.

    Returns how many are listed, how many are in ``S``, and whether those are the ones.
    """
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
    slices: Words,
    n_slices: int,
) -> None:
    """Write the distances of a query plus its offset: ``n_slices`` slices of ``blocks`` registers."""
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
        # added to z from its second bit on, a plane counts twice
        s1, s2, s3, s4, s5, s6, s7, s8, _ = _add_up(planes, block * (bits + 1) * LANES, chosen, n, eight)
        nine = (load(zeros, z), s1, s2, s3, s4, s5, s6, s7, s8)
        _put(slices, block * LANES, blocks * LANES, n_slices, flip, nine)


@njit
def _add_up(planes: Words, base: int, chosen: Ints, n: int, slices: Scalar) -> Scalar:
    """Add the first ``n`` chosen planes, a multiple of 16, to a number in eight slices; nine, lowest first.

    Harley and Seal's adder, of which one step takes two carries (Hacker's Delight, section 5-1).
    """
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
def _add(a: Scalar, b: Scalar, c: Scalar) -> Scalar:
    """Three bits in every place: their sum and their carry."""
    u = a ^ b
    return u ^ c, (u & c) | (a & b)


@njit
def _put(out: Words, at: int, step: int, n: int, flip: Scalar, slices: Scalar) -> None:
    """Write the lowest ``n`` of nine slices, 7 at least, ``step`` words apart."""
    store(out, at, slices[0] ^ flip)
    store(out, at + step, slices[1] ^ flip)
    store(out, at + 2 * step, slices[2] ^ flip)
    store(out, at + 3 * step, slices[3] ^ flip)
    store(out, at + 4 * step, slices[4] ^ flip)
    store(out, at + 5 * step, slices[5] ^ flip)
    store(out, at + 6 * step, slices[6] ^ flip)
    if n > 7:
        store(out, at + 7 * step, slices[7] ^ flip)
    if n > 8:
        store(out, at + 8 * step, slices[8] ^ flip)


@njit
def _count_within(slices: Words, line: int, n_slices: int, valid: Words, limit: int) -> int:
    """How many valid behaviours' numbers are at most ``limit``."""
    n = 0
    for at in range(0, line, LANES):
        within = splat(_ALL)
        for s in range(n_slices):
            bit = load(slices, s * line + at)
            within = within | ~bit if (limit >> s) & 1 else within & ~bit
        n += count(within & load(valid, at))
    return n


@njit
def _nearest(
    slices: Words, line: int, n_slices: int, valid: Words, k: int, inside: Words, alive: Words
) -> None:
    """Mark the k smallest of more than k numbers in ``inside``, ties to the last.

    From the highest bit down: ``alive`` are those that agree with the k-th smallest so far, ``inside`` those
    below.
    """
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
    keep_last(alive, line, k)
    for at in range(0, line, LANES):
        store(inside, at, load(inside, at) | load(alive, at))
