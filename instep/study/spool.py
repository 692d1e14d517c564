"""A log joined once for all models: its batches on disk, one compressed frame each, and its candidates beside them.

What is joined and how it is cut into batches is what ``instep.pipeline`` would do, so what a model learns from here is
what it would have learned live. A spool is written and read a batch at a time, however long the log is::

    batches.bin      frames, as ``index.npz`` says where; each the arrays of a ``trainer.batch.Batch``
    candidates.bin   one record a candidate, in the order in which they are predicted; see ``candidate_type``
    spool.json       what it was made from, and what became of every record
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

from trainer.batch import STAGES, Batch


class SpoolError(ValueError):
    """A spool that cannot be used: where, what was expected, what came."""


@dataclass(frozen=True)
class Joined:
    """One batch, and what of its samples no model needs to know."""

    batch: Batch
    impressions: NDArray[np.uint64]
    """``[B]`` keys."""


@dataclass(frozen=True)
class Spool:
    """A log that was joined. Any number of processes may read it."""

    path: Path
    made_of: dict[str, Any]
    """Log, join rules, features and how batches are cut."""
    counts: dict[str, int]
    """What became of every record, as ``Joiner.counts``."""
    ends: NDArray[np.int64]
    """``[n]``: where each frame of ``batches.bin`` ends."""
    sizes: NDArray[np.int64]
    """``[n]``: its bytes before they were compressed."""
    n_candidates: NDArray[np.int64]
    """``[n]`` of each batch."""
    closed_ms: NDArray[np.int64]
    """``[n]``: event time at which the labels of its last sample became final."""
    at_ms: NDArray[np.int64]
    """``[n]`` event time of its last impression."""

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, first: int = 0, stop: int | None = None) -> Iterator[Joined]:
        """Batches ``first`` to ``stop``, one after the other."""
        with (self.path / "batches.bin").open("rb") as file:
            file.seek(int(self.ends[first - 1]) if first else 0)
            for i in range(first, len(self) if stop is None else stop):
                raw = file.read(int(self.ends[i]) - file.tell())
                yield _decode(
                    pa.decompress(raw, int(self.sizes[i]), codec="zstd", asbytes=True), self.made_of
                )

    def candidates(self, n_batches: int | None = None) -> NDArray[np.void]:
        """Those of the first so many batches ``[n]``, mapped from the disk."""
        n = int(self.n_candidates[:n_batches].sum())
        return np.memmap(
            self.path / "candidates.bin", candidate_type(self.made_of["n_kinds"]), "r", shape=(n,)
        )

    def first_until(self, until_ms: int) -> int:
        """How many batches are final at a moment."""
        return int(np.searchsorted(self.closed_ms, until_ms, side="right"))


class _Frame(Struct, array_like=True):
    side: bytearray  # of bytearrays numpy makes arrays that can be written to, as those of a live batch
    at_ms: bytearray
    items: bytearray
    first: bytearray
    labels: bytearray
    stage: bytearray
    sequence: bytearray
    sequence_at: bytearray
    start: bytearray
    impressions: bytearray


class Manifest(Struct):
    """What stands in ``spool.json``."""

    made_of: dict[str, Any]
    counts: dict[str, int]


def candidate_type(n_kinds: int) -> np.dtype[np.void]:
    """The record of a candidate."""
    return np.dtype(
        [
            ("user", np.uint64),
            ("impression", np.uint64),
            ("item", np.uint64),
            ("at_ms", np.int64),
            ("place", np.uint16),  # in its slate; of a late label it says nothing
            ("late", np.bool_),  # a label that came after its impression was learned, under the eager policy
            ("label", np.uint8, (n_kinds,)),
        ]
    )


def load(path: Path) -> Spool:
    """A spool that was written.

    Raises
    ------
    SpoolError
        If it is something else.
    """
    try:
        manifest = msgspec.json.decode((path / "spool.json").read_bytes(), type=Manifest)
        with (path / "index.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as index:
            return Spool(path, manifest.made_of, manifest.counts, **dict(index))
    except (OSError, ValueError, TypeError) as e:
        raise SpoolError(f"{path}: expected a spool, got: {e}") from None


def candidates_of(batch: Batch, names: NDArray[np.uint64], kind: np.dtype[np.void]) -> NDArray[np.void]:
    """The records of a batch, ``names`` being the keys ``[B]`` of its impressions."""
    slate = batch.slate
    records = np.zeros(batch.n_candidates, kind)
    records["user"] = batch.side[slate, 0]
    records["impression"] = names[slate]
    records["item"] = batch.items[:, 0]
    records["at_ms"] = batch.at_ms[slate]
    records["place"] = np.arange(batch.n_candidates) - batch.first[slate]
    records["late"] = batch.stage[slate] == STAGES.index("click")
    records["label"] = batch.labels
    return records


def encode(batch: Batch, names: NDArray[np.uint64]) -> bytes:
    """A frame of ``batches.bin``, not yet compressed."""
    columns = (
        batch.side,
        batch.at_ms,
        batch.items,
        batch.first,
        batch.labels.astype(np.uint8),
        batch.stage,
        batch.sequence,
        batch.sequence_at,
        batch.start,
        names,
    )
    return msgspec.msgpack.encode([np.ascontiguousarray(c).tobytes() for c in columns])


_frames = msgspec.msgpack.Decoder(_Frame)


def _decode(raw: bytes, what: dict[str, Any]) -> Joined:
    frame, n_fields = _frames.decode(raw), what["n_item_fields"]
    batch = Batch(
        side=np.frombuffer(frame.side, np.uint64).reshape(-1, what["n_side"]),
        at_ms=np.frombuffer(frame.at_ms, np.int64),
        items=np.frombuffer(frame.items, np.uint64).reshape(-1, n_fields),
        first=np.frombuffer(frame.first, np.int64),
        labels=np.frombuffer(frame.labels, np.uint8).reshape(-1, what["n_kinds"]).astype(np.float32),
        stage=np.frombuffer(frame.stage, np.uint8),
        sequence=np.frombuffer(frame.sequence, np.uint64).reshape(-1, n_fields),
        sequence_at=np.frombuffer(frame.sequence_at, np.int64),
        start=np.frombuffer(frame.start, np.int64),
    )
    return Joined(batch, np.frombuffer(frame.impressions, np.uint64))
