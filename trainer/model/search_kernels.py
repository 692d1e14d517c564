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
def _add_planes(planes: Words, base: int, chosen: Ints, n: int, into: Words, slices: Words, at: int) -> None:
    """Add the first n chosen planes to the number in 8 slices ``into`` and write its 9 slices."""


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
