"""How rows lie in Redis: records of a fixed size, some dozens to a string. Pure.

A key is ``rest * n_buckets + bucket``. Bucket ``b`` is two strings, whose records stand in the same order::

    codes     | rest 7 | code 8 x words | step 5 | rest 7 | ...        20 bytes a row with 64 bits
    vectors   | field 1 | vector 4 x dim | field 1 | ...              129 bytes a row with 32 dims

What a string of its own costs the server (a slot, an entry, an object, the name: about 110 bytes) is shared by the
rows of a bucket, and a row's step lies beside the code that it guards.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from indexer.index import Update

REST, STEP = 7, 5
"""Bytes."""
MIN_BUCKETS = 256
"""With fewer, the rest of a key would not fit its 7 bytes."""
FILL = 56
"""Rows of a bucket when it is made: 24.7 bytes a row all told, at 1 M rows (``benchmarks.redis_index``)."""
CROWDED = 4 * FILL
"""Rows of one bucket with which it is time for more of them: they have about doubled then, give or take."""

Bytes = NDArray[np.uint8]


class Base(Struct, frozen=True):
    """A set of buckets: what a whole publication was written to, and the updates since."""

    name: str
    epoch: int
    n_buckets: int
    words: int
    dim: int

    @property
    def code_bytes(self) -> int:
        """Of a record with a code."""
        return REST + 8 * self.words + STEP

    @property
    def vector_bytes(self) -> int:
        """Of a record with a vector."""
        return 1 + 4 * self.dim


class Records(NamedTuple):
    """Rows in the order of the places of their buckets."""

    places: NDArray[np.int64]
    """``[n]``, ascending."""
    codes: Bytes
    """``[n, code_bytes]``."""
    vectors: Bytes
    """``[n, vector_bytes]``."""

    def by_bucket(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Each place that has rows, with its two strings."""
        places, first = np.unique(self.places, return_index=True)
        ends = np.append(first, len(self.places))[1:].tolist()
        for place, start, end in zip(places.tolist(), first.tolist(), ends, strict=True):
            yield place, self.codes[start:end].tobytes(), self.vectors[start:end].tobytes()


def n_buckets_for(n_rows: int) -> int:
    """Buckets of a new base."""
    return max(MIN_BUCKETS, n_rows // FILL)


def split(keys: NDArray[np.uint64], base: Base) -> tuple[NDArray[np.int64], Bytes]:
    """Buckets int64 ``[n]`` of keys ``[n]``, and the rest of each, uint8 ``[n, 7]``."""
    rests, buckets = np.divmod(keys, np.uint64(base.n_buckets))
    return buckets.astype(np.int64), _bytes(rests, 8)[:, :REST]


def place_of(buckets: NDArray[np.int64], base: Base, n_shards: int) -> NDArray[np.int64]:
    """Places int64 ``[n]`` of buckets, in an order in which those of a shard, ``bucket % n_shards``, are neighbours."""
    return buckets % n_shards * -(-base.n_buckets // n_shards) + buckets // n_shards


def pack(update: Update, base: Base, n_shards: int = 1) -> Records:
    """The rows of an update, by place; with one shard that is the bucket.

    Raises
    ------
    ValueError
        If codes or vectors are of another size than those of the base, or a step does not fit.
    """
    n = len(update.keys)
    if update.codes.shape[1:] != (base.words,) or update.vectors.shape[1:] != (base.dim,):
        raise ValueError(
            f"update {update.version}: expected rows of {base.words} words and {base.dim} dims, "
            f"got {update.codes.shape[1:]} and {update.vectors.shape[1:]}"
        )
    if n and not 0 <= update.steps.min() <= update.steps.max() < 1 << 8 * STEP:
        raise ValueError(f"update {update.version}: expected steps in 0..2**{8 * STEP}, got {update.steps}")
    buckets, rests = split(update.keys, base)
    places = place_of(buckets, base, n_shards)
    order = np.argsort(places, kind="stable")
    steps = _bytes(update.steps.astype(np.uint64), 8)[:, :STEP]
    codes = np.concatenate([rests, _bytes(update.codes, 8 * base.words), steps], axis=1)
    vectors = np.empty((n, base.vector_bytes), np.uint8)
    vectors[:, 0] = update.fields[order]
    vectors[:, 1:] = _bytes(update.vectors, 4 * base.dim)[order]
    return Records(places[order], codes[order], vectors)


class Call(NamedTuple):
    """What one call writes, into buckets of one shard."""

    shard: int
    buckets: list[int]
    sizes: bytes
    """For each bucket how many rows are written, and how many go: 2 bytes each."""
    codes: bytes
    vectors: bytes
    gone: bytes
    """Rests of the keys that go."""


def plan(update: Update, base: Base, n_shards: int, n_rows: int) -> Iterator[Call]:
    """The calls that write an update: each for one shard, which is ``bucket % n_shards``.

    Parameters
    ----------
    n_rows
        Of a call, about: a bucket is not cut.
    """
    places, codes, vectors = pack(update, base, n_shards)
    gone, rests = split(update.tombstones, base)
    gone_places = place_of(gone, base, n_shards)
    order = np.argsort(gone_places, kind="stable")
    gone_places, rests = gone_places[order], rests[order]
    touched = np.union1d(places, gone_places)
    ends = np.searchsorted(places, touched, "right")
    gone_ends = np.searchsorted(gone_places, touched, "right")
    sizes = np.diff([ends, gone_ends], prepend=0).T.astype("<u2")
    per_shard = -(-base.n_buckets // n_shards)
    shards = touched // per_shard
    buckets = touched % per_shard * n_shards + shards
    cuts = np.flatnonzero(np.diff([shards, (ends + gone_ends - 1) // n_rows]).any(axis=0)) + 1
    start = gone_start = 0
    for i, j in pairwise([0, *cuts.tolist(), len(touched)]):
        if i == j:
            break  # nothing is touched
        end, gone_end = int(ends[j - 1]), int(gone_ends[j - 1])
        yield Call(
            int(shards[i]),
            buckets[i:j].tolist(),
            sizes[i:j].tobytes(),
            codes[start:end].tobytes(),
            vectors[start:end].tobytes(),
            rests[gone_start:gone_end].tobytes(),
        )
        start, gone_start = end, gone_end


class Rows(NamedTuple):
    """Columns of an `Update`."""

    keys: NDArray[np.uint64]
    fields: NDArray[np.uint8]
    steps: NDArray[np.int64]
    codes: NDArray[np.uint64]
    vectors: NDArray[np.float32]


def unpack_codes(
    codes: bytes, buckets: NDArray[np.int64], base: Base
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Keys ``[n]``, codes ``[n, words]`` and steps ``[n]`` of records that stand in these ``buckets`` ``[n]``."""
    records = np.frombuffer(codes, np.uint8).reshape(-1, base.code_bytes)
    rests, steps = (np.zeros((len(records), 8), np.uint8) for _ in range(2))
    rests[:, :REST], steps[:, :STEP] = records[:, :REST], records[:, -STEP:]
    keys = rests.view(np.uint64)[:, 0] * np.uint64(base.n_buckets) + buckets.astype(np.uint64)
    words = np.ascontiguousarray(records[:, REST:-STEP]).view(np.uint64)
    return keys, words, steps.view(np.int64)[:, 0]


def unpack(codes: bytes, vectors: bytes, buckets: NDArray[np.int64], base: Base) -> Rows:
    """What `pack` packed, of records that stand in these ``buckets`` ``[n]``."""
    keys, words, steps = unpack_codes(codes, buckets, base)
    records = np.frombuffer(vectors, np.uint8).reshape(-1, base.vector_bytes)
    floats = np.ascontiguousarray(records[:, 1:]).view(np.float32)
    return Rows(keys, records[:, 0].copy(), steps, words, floats)


def _bytes(values: NDArray[np.uint64] | NDArray[np.float32], width: int) -> Bytes:
    """Each row as its little-endian bytes: uint8 ``[n, width]``."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
