"""The loops of EmbeddingTable: rows are born, learned, encoded and removed here, one after the other.

What makes a bit of a row is integer arithmetic, or rounded operations one after the other in a fixed order,
so a row is the same on any machine and in any batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.jit import njit
from trainer.keymap import Keys, Scalar, drop, get, mix, prefetch, put
from trainer.keymap import Slots as Map
from trainer.model.simhash import encode_row, popcount

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Fields = NDArray[np.uint8]

COUNT_BITS = 10
"""A key that waits is one number: when it was last seen, and in the lowest bits how often."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LEFT = np.uint64(16)
_LOW = np.uint64(0xFFFF)
_AHEAD = 6
_MANY: Scalar = 2**31 - 1
USED, FREE = 0, 1


class Columns(NamedTuple):
    """One entry a slot in each. Slot 0 is the null row, and stays zeros."""

    rows: NDArray[np.float32]
    """``[capacity, dim]``."""
    accumulators: NDArray[np.float32]
    """Adagrad's sum of mean squared gradients, one a row."""
    codes: NDArray[np.uint64]
    """``[capacity, words]``."""
    keys: NDArray[np.uint64]
    """0 where a slot holds no row."""
    fields: NDArray[np.uint8]
    sightings: NDArray[np.int32]
    last_seen_ms: NDArray[np.int64]
    changed: NDArray[np.int64]
    """The last step in which the vector changed, -1 where there is no row."""
    free: NDArray[np.int64]
    """A stack of slots that expired rows have left."""
    counts: NDArray[np.int64]
    """``[2]``: slots ever used (with the null row), and how many of them are free."""


class Birth(NamedTuple):
    """How a row begins."""

    seed: np.uint64
    init_std: np.float32
    accumulator: np.float32
    admit_after: np.int64
    from_parent: np.bool_


@njit
def draw(seed: Scalar, key: Scalar, init_std: Scalar, row: Floats) -> None:
    """Fill ``row`` with normal numbers that depend on nothing but ``seed`` and ``key``.

    Each is a sum of twelve 16-bit pieces of a splitmix64 sequence: its mean is 393210 and its variance
    2**32 - 1, it ends at six deviations, and no logarithm or cosine is in it, whose last bit may differ
    between machines.
    """
    scale = np.float32(init_std / np.float32(65536))
    state = mix(mix(seed + _GOLDEN) ^ key)
    for d in range(row.size):
        total = np.uint64(0)
        for _ in range(3):
            state += _GOLDEN
            z = mix(state)
            for _ in range(4):
                total += z & _LOW
                z >>= _LEFT
        row[d] = np.float32(np.int64(total) - 393210) * scale


@njit
def sight(columns: Columns, slots: Ints, at_ms: Ints) -> None:
    """Count one more sighting of each row; -1 and the null row are passed over."""
    for i in range(slots.size):
        if i + _AHEAD < slots.size:
            prefetch(columns.sightings, max(0, slots[i + _AHEAD]))
            prefetch(columns.last_seen_ms, max(0, slots[i + _AHEAD]))
        s = slots[i]
        if s > 0:
            columns.sightings[s] = min(columns.sightings[s] + 1, _MANY)
            columns.last_seen_ms[s] = max(columns.last_seen_ms[s], at_ms[i])


@njit
def admit(
    columns: Columns,
    planes: Floats,
    birth: Birth,
    live: Map,
    waiting: Map,
    gone: Map,
    keys: Keys,
    fields: Fields,
    parents: Keys,
    at_ms: Ints,
    step: Scalar,
    again: bool,
    slots: Ints,
) -> Scalar:
    """Let unknown keys wait or be born, in order; how many were done, fewer than all when the table is full.

    ``again`` counts a key that comes once more after it was born in this same call.
    """
    for i in range(keys.size):
        key: Scalar = keys[i]
        at: Scalar = at_ms[i]
        s = get(live, key)
        if s >= 0:
            if again:
                columns.sightings[s] = min(columns.sightings[s] + 1, _MANY)
                columns.last_seen_ms[s] = max(columns.last_seen_ms[s], at)
            slots[i] = s
            continue
        parent = max(0, get(live, parents[i]))
        n: Scalar = 1
        waits = get(waiting, key)
        if waits >= 0:
            n += waits & ((1 << COUNT_BITS) - 1)
            at = max(at, waits >> COUNT_BITS)
        if n < birth.admit_after:
            put(waiting, key, (at << COUNT_BITS) | n)
            slots[i] = parent
            continue
        s = _take(columns, live, gone, key, fields[i])
        if s < 0:
            return i
        if waits >= 0:
            drop(waiting, key)
        draw(birth.seed, key, birth.init_std, columns.rows[s])
        if parent > 0 and birth.from_parent:
            columns.rows[s] += columns.rows[parent]
        columns.accumulators[s] = birth.accumulator
        columns.sightings[s] = n
        columns.last_seen_ms[s] = at
        columns.changed[s] = step
        if columns.fields[s] < planes.shape[0]:
            encode_row(columns.rows[s], planes[columns.fields[s]], columns.codes[s])
        slots[i] = s
    return keys.size


@njit
def _take(columns: Columns, live: Map, gone: Map, key: Scalar, field: Scalar) -> Scalar:
    """A slot for a new row, the one left last if there is one; -1 when the table is full."""
    counts = columns.counts
    if counts[FREE] > 0:
        counts[FREE] -= 1
        s = columns.free[counts[FREE]]
    elif counts[USED] < columns.keys.size:
        s = counts[USED]
        counts[USED] += 1
    else:
        return -1
    put(live, key, s)
    drop(gone, key)
    columns.keys[s] = key
    columns.fields[s] = field
    return s


@njit
def write(
    columns: Columns,
    planes: Floats,
    live: Map,
    waiting: Map,
    gone: Map,
    keys: Keys,
    fields: Fields,
    rows: Floats,
    accumulators: Floats,
    at_ms: Ints,
    step: Scalar,
    codes: bool,
    slots: Ints,
) -> Scalar:
    """Store whole rows; how many were done, fewer than all when the table is full."""
    for i in range(keys.size):
        s = get(live, keys[i])
        if s < 0:
            s = _take(columns, live, gone, keys[i], fields[i])
            if s < 0:
                return i
            drop(waiting, keys[i])
        columns.last_seen_ms[s] = max(columns.last_seen_ms[s], at_ms[i])
        columns.rows[s] = rows[i]
        columns.accumulators[s] = accumulators[i]
        columns.changed[s] = step
        if codes and columns.fields[s] < planes.shape[0]:
            encode_row(columns.rows[s], planes[columns.fields[s]], columns.codes[s])
        slots[i] = s
    return keys.size


@njit
def learn(
    columns: Columns, planes: Floats, slots: Ints, grads: Floats, lr: Scalar, step: Scalar, codes: bool
) -> Scalar:
    """One Adagrad step, with new codes if ``codes``; how many bits flipped."""
    dim = grads.shape[1]
    code = np.empty(columns.codes.shape[1], np.uint64)
    flipped: Scalar = 0
    for i in range(slots.size):
        if i + _AHEAD < slots.size:
            _expect(columns, slots[i + _AHEAD])
        s = slots[i]
        if s == 0:
            continue
        total = np.float32(0)
        for d in range(dim):
            total += grads[i, d] * grads[i, d]
        columns.accumulators[s] += total / np.float32(dim)
        pace = lr / np.sqrt(columns.accumulators[s])
        for d in range(dim):
            columns.rows[s, d] -= pace * grads[i, d]
        columns.changed[s] = step
        if codes and columns.fields[s] < planes.shape[0]:
            flipped += _encode_slot(columns.rows, columns.codes, planes[columns.fields[s]], s, code)
    return flipped


@njit
def encode(columns: Columns, planes: Floats, slots: Ints) -> Scalar:
    """New codes from the vectors as they are; how many bits flipped."""
    code = np.empty(columns.codes.shape[1], np.uint64)
    flipped: Scalar = 0
    for i in range(slots.size):
        if i + _AHEAD < slots.size:
            _expect(columns, slots[i + _AHEAD])
        s = slots[i]
        if s > 0 and columns.fields[s] < planes.shape[0]:
            flipped += _encode_slot(columns.rows, columns.codes, planes[columns.fields[s]], s, code)
    return flipped


@njit
def remove(columns: Columns, live: Map, keys: Keys) -> Scalar:
    """Empty the slots of ``keys`` to zeros and put them on the stack of free ones; how many there were."""
    n = 0
    for i in range(keys.size):
        s = get(live, keys[i])
        if s > 0:
            drop(live, keys[i])
            columns.rows[s] = np.float32(0)
            columns.accumulators[s] = np.float32(0)
            columns.codes[s] = np.uint64(0)
            columns.keys[s] = np.uint64(0)
            columns.fields[s] = np.uint8(0)
            columns.sightings[s] = 0
            columns.last_seen_ms[s] = 0
            columns.changed[s] = -1
            columns.free[columns.counts[FREE]] = s
            columns.counts[FREE] += 1
            n += 1
    return n


@njit
def _encode_slot(rows: Floats, codes: Keys, planes: Floats, s: Scalar, code: Keys) -> Scalar:
    encode_row(rows[s], planes, code)
    flipped: Scalar = 0
    for w in range(code.size):
        flipped += popcount(codes[s, w] ^ code[w])
        codes[s, w] = code[w]
    return flipped


@njit
def _expect(columns: Columns, s: Scalar) -> None:
    prefetch(columns.rows, s)
    prefetch(columns.accumulators, s)
    prefetch(columns.changed, s)
    prefetch(columns.codes, s)
    prefetch(columns.fields, s)
