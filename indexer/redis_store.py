"""The store: rows of an index in the buckets of a base, on Redis. How they lie there is in redis_rows.py."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.index import Held, Update
from indexer.redis_rows import Base, Rows, n_buckets_for, pack, plan, split, unpack, unpack_codes
from stream.redis_client import Client, script

SHARDS = 16
"""Hash tags over which buckets are spread: so many nodes of a cluster can share them."""
CALL_ROWS, CALLS_AT_A_TIME, WRITERS = 200, 2, 2
"""Rows of one call, which holds the server for about a millisecond, calls that may come in one piece, and connections:
the server writes for one while the rows of the other are packed."""


class Overtaken(Exception):
    """Another writer came between, or the server was emptied."""


class Store:
    """Bases of rows. All keys are in docs/redis.md."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._write = script("indexer", "redis_write.lua")

    def new_base(self, update: Update) -> Base:
        """The name and the measures of a base for these rows; nothing is written."""
        name = f"{update.version.epoch}-{secrets.token_hex(3)}"
        n_buckets = n_buckets_for(len(update.keys))
        return Base(name, update.version.epoch, n_buckets, update.codes.shape[1], update.vectors.shape[1])

    def build(self, base: Base, update: Update) -> None:
        """Write all rows of an update to a base that nobody reads yet."""
        records = pack(update, base)

        def sets() -> Iterator[Sequence[Any]]:
            for shard in range(SHARDS):
                yield "SET", self._at(base, shard), update.version.step
            for bucket, *values in records.by_bucket():
                for key, value in zip(self._bucket(base, bucket), values, strict=True):
                    yield "SET", key, value

        self._client.calls(sets())

    def write(self, base: Base, update: Update) -> tuple[int, int]:
        """Write the rows that are newer, take tombstones away.

        Returns
        -------
        int, int
            How many rows were newer, and how many the fullest bucket has of those that grew.

        Raises
        ------
        Overtaken
            If the base is gone, or the rows of a later update are there.
        """
        writes = list(self._writes(base, update))
        with ThreadPoolExecutor(WRITERS) as writers:
            shares = (writes[i::WRITERS] for i in range(WRITERS))
            answers = [
                a for some in writers.map(self._client.calls, shares, repeat(CALLS_AT_A_TIME)) for a in some
            ]
        if any(written < 0 for written, _ in answers):
            raise Overtaken
        return sum(written for written, _ in answers), max((fullest for _, fullest in answers), default=0)

    def remove(self, base: Base) -> None:
        """Take a base away, a few keys at a time; first what lets it be written to."""
        self._client.calls(("UNLINK", self._at(base, shard)) for shard in range(SHARDS))
        self._client.calls(("UNLINK", *self._bucket(base, b)) for b in range(base.n_buckets))

    def scan(self, base: Base) -> Rows:
        """All rows, each as it was at some moment while this reads."""
        found = self._client.calls(("MGET", *self._bucket(base, b)) for b in range(base.n_buckets))
        sizes = [len(codes or b"") // base.code_bytes for codes, _ in found]
        codes, vectors = (b"".join(pair[i] or b"" for pair in found) for i in range(2))
        return unpack(codes, vectors, np.repeat(np.arange(base.n_buckets), sizes), base)

    def get(self, keys: NDArray[np.uint64], base: Base | None) -> Held:
        """Codes and Versions of keys ``[n]``; without a base there are none."""
        n, words = len(keys), base.words if base else 1
        held = Held(np.zeros((n, words), np.uint64), np.full(n, -1), np.full(n, -1))
        if base is None:
            return held
        buckets = np.unique(split(keys, base)[0])
        found = self._client.calls(("GET", self._bucket(base, b)[0]) for b in buckets.tolist())
        sizes = [len(codes or b"") // base.code_bytes for codes in found]
        raw = b"".join(codes or b"" for codes in found)
        there, codes, steps = unpack_codes(raw, np.repeat(buckets, sizes), base)
        if len(there):
            order = np.argsort(there)
            rows = order[np.searchsorted(there, keys, sorter=order) % len(order)]
            known = np.flatnonzero(there[rows] == keys)
            rows = rows[known]
            held.codes[known], held.steps[known], held.epochs[known] = codes[rows], steps[rows], base.epoch
        return held

    def _writes(self, base: Base, update: Update) -> Iterator[Sequence[Any]]:
        sizes = (update.version.step, base.code_bytes, base.vector_bytes)
        for call in plan(update, base, SHARDS, CALL_ROWS):
            keys = [self._at(base, call.shard)]
            for bucket in call.buckets:
                keys += self._bucket(base, bucket)
            rows = (call.sizes, call.codes, call.vectors, call.gone)
            yield "EVAL", self._write, len(keys), *keys, *sizes, *rows

    def _at(self, base: Base, shard: int) -> str:
        """What a shard was last written by; without it the base is not there."""
        return f"{{{self._prefix}:{shard}}}:{base.name}:at"

    def _bucket(self, base: Base, bucket: int) -> tuple[str, str]:
        """Codes and vectors."""
        head = f"{{{self._prefix}:{bucket % SHARDS}}}:{base.name}"
        return f"{head}:c:{bucket}", f"{head}:v:{bucket}"
