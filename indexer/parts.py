"""An update in parts of a size that a server passes on without holding up others; pure.

The first part says everything but the rows, which follow in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from safetensors.numpy import load, save

from indexer.index import Update
from stream.events import Version

PART_BYTES = 1 << 20

Arrays = dict[str, NDArray[Any]]
ROWS = ("keys", "fields", "steps", "codes", "vectors")


class First(Struct, frozen=True, array_like=True):
    """The first part."""

    version: Version
    since: Version | None
    at_ms: int
    place: dict[int, int]
    dense: bytes
    rest: bytes
    """Tombstones, and the rows if there are none: they say how long codes and vectors are."""


def encode(update: Update) -> list[bytes]:
    """The parts in their order.

    The weights, all in the first one, are as large as they are.
    """
    n = len(update.keys)
    row_bytes = 8 + 1 + 8 + update.codes.itemsize * update.codes.shape[1] + 4 * update.vectors.shape[1]
    step = max(1, PART_BYTES // row_bytes)
    first = First(
        update.version,
        update.since,
        update.at_ms,
        dict(update.place),
        save({name: np.ascontiguousarray(w) for name, w in update.dense.items()}),
        save({"tombstones": update.tombstones, **_rows(update, 0, 0)}),
    )
    return [msgspec.msgpack.encode(first), *(save(_rows(update, i, i + step)) for i in range(0, n, step))]


def decode_first(part: bytes) -> First:
    """The first part."""
    return msgspec.msgpack.decode(part, type=First)


def dense_of(first: First) -> Arrays:
    """The weights in it."""
    return dict(load(first.dense))


def decode(parts: Sequence[bytes]) -> Update:
    """The update of these parts."""
    first = decode_first(parts[0])
    rest = load(first.rest)
    blocks = [load(part) for part in parts[1:]] or [rest]
    return Update(
        version=first.version,
        since=first.since,
        at_ms=first.at_ms,
        tombstones=rest["tombstones"],
        dense=dense_of(first),
        place=first.place,
        **{name: np.concatenate([block[name] for block in blocks]) for name in ROWS},
    )


def _rows(update: Update, start: int, stop: int) -> Arrays:
    return {name: np.ascontiguousarray(getattr(update, name)[start:stop]) for name in ROWS}
