"""What the trainer tells the world: the rows that changed, the dense weights, and a marker that commits them.

A publication travels as several messages on ``instep.model``, blocks first, the marker last, so that a reader that sees
the marker has seen everything, and one that does not drops what it has. The marker carries a hash over all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from safetensors.numpy import load, save

from stream.events import Version
from stream.log import Record, Source
from trainer.gate import Band

BLOCK_ROWS = 4096
"""Rows of one block: 0.6 MB at 32 dimensions, below the 1 MB that brokers accept unless told otherwise."""

TAIL = 64
"""Messages looked at first for the last marker."""

Journal = list[dict[int, tuple[int, int]]]
"""One entry a batch: the offset ranges ``[from, to)`` of ``instep.samples`` that it is made of, by partition."""


class TornPublicationError(ValueError):
    """A publication's blocks do not match its marker."""


@dataclass(frozen=True)
class Publication:
    """The difference between two states of the model, or all of it when ``since`` is None."""

    version: Version
    since: Version | None
    at_ms: int
    """Event time of the newest sample in it."""
    keys: NDArray[np.uint64]
    """``[n]``, rows that changed."""
    fields: NDArray[np.uint8]
    """``[n]`` field numbers."""
    steps: NDArray[np.int64]
    """``[n]`` the step at which each row last moved."""
    vectors: NDArray[np.float32]
    """``[n, d]``."""
    tombstones: NDArray[np.uint64]
    """Keys whose rows are gone."""
    dense: dict[str, NDArray[Any]]
    """The network's weights, all of them: they are small."""
    offsets: dict[int, int]
    """Next samples to read."""
    journal: Journal
    """Batches learned since ``since``."""
    wall_ms: int = 0
    """Wall time when the newest sample was learned; 0 where no clock is read."""
    passed_by: list[int] = field(default_factory=list)
    """Which batches of the journal were predicted and not learned, because training held."""
    why_held: str = ""
    """Why it holds now; empty while it learns."""
    bands: tuple[Band, ...] = ()
    """What decides whether it does."""


class Marker(Struct, frozen=True):
    """Commits the blocks before it."""

    version: Version
    since: Version | None
    at_ms: int
    offsets: dict[int, int]
    journal: Journal
    n_blocks: int
    sha256: str
    wall_ms: int = 0
    passed_by: list[int] = []
    why_held: str = ""
    bands: tuple[Band, ...] = ()


class Refused(Struct, frozen=True):
    """Tells in the place of a publication that a Version does not go live; readers of the model pass it over."""

    version: Version
    live: Version | None
    """Which stays."""
    at_ms: int
    why: str


_marker = msgspec.json.Decoder(Marker)
_refused = msgspec.json.Decoder(Refused)


def encode(publication: Publication) -> list[tuple[bytes, bytes]]:
    """Messages ``(key, value)`` in the order to write them."""
    n = len(publication.keys)
    blocks = [
        save(
            {
                "keys": publication.keys[i : i + BLOCK_ROWS],
                "fields": publication.fields[i : i + BLOCK_ROWS],
                "steps": publication.steps[i : i + BLOCK_ROWS],
                "vectors": publication.vectors[i : i + BLOCK_ROWS],
            }
        )
        for i in range(0, max(1, n), BLOCK_ROWS)  # one at least: it says how long a vector is
    ]
    rest = {f"dense.{name}": np.ascontiguousarray(w) for name, w in publication.dense.items()}
    blocks.append(save({"tombstones": publication.tombstones, **rest}))
    marker = Marker(
        publication.version,
        publication.since,
        publication.at_ms,
        publication.offsets,
        publication.journal,
        len(blocks),
        _digest(blocks),
        publication.wall_ms,
        publication.passed_by,
        publication.why_held,
        publication.bands,
    )
    return [*((b"block", b) for b in blocks), (b"marker", msgspec.json.encode(marker))]


def refusal(refused: Refused) -> tuple[bytes, bytes]:
    """Its message, ``(key, value)``."""
    return b"refused", msgspec.json.encode(refused)


def refused(key: bytes, value: bytes) -> Refused | None:
    """What a message tells of a refusal; None if it is another one."""
    return _refused.decode(value) if key == b"refused" else None


class Said(NamedTuple):
    """The newest Versions on a model log; None where there is none."""

    published: Version | None
    told: Version | None
    """Published or refused."""


def last_said(model: Source) -> Said:
    """What was published last, and told last; reads as little of the log's end as it can.

    Parameters
    ----------
    model
        Of partition 0 of ``instep.model``; where it stands afterwards is anywhere.
    """
    start, end = model.offsets[0], model.end()[0]
    n = TAIL
    while True:
        model.seek({0: max(start, end - n)})
        read = list(_until(model, end))
        markers = [_marker.decode(r.value).version for r in read if r.key == b"marker"]
        turned_down = [one.version for r in read if (one := refused(r.key, r.value)) is not None]
        if markers or n >= end - start:
            return Said(markers[-1] if markers else None, max(markers[-1:] + turned_down[-1:], default=None))
        n *= 8


def _until(source: Source, end: int) -> Iterator[Record]:
    while source.offsets[0] < end:
        yield from source.poll(TAIL)


class Assembler:
    """Puts messages together again: whole publications, or nothing."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def add(self, key: bytes, value: bytes) -> Publication | None:
        """Take the next message; returns the publication that it completes.

        Raises
        ------
        TornPublicationError
            If the blocks at hand are not those that the marker commits.
        """
        if key == b"block":
            self._blocks.append(value)
            return None
        if key == b"refused":
            return None
        marker = _marker.decode(value)
        blocks = self._blocks[-marker.n_blocks :]
        self._blocks = []
        if len(blocks) != marker.n_blocks or _digest(blocks) != marker.sha256:
            raise TornPublicationError(
                f"publication {marker.version}: expected {marker.n_blocks} blocks with hash "
                f"{marker.sha256[:12]}, got {len(blocks)} with {_digest(blocks)[:12]}"
            )
        return _assemble(marker, [load(b) for b in blocks])


def _assemble(marker: Marker, parts: list[Mapping[str, NDArray[Any]]]) -> Publication:
    *rows, rest = parts
    return Publication(
        version=marker.version,
        since=marker.since,
        at_ms=marker.at_ms,
        keys=np.concatenate([r["keys"] for r in rows]),
        fields=np.concatenate([r["fields"] for r in rows]),
        steps=np.concatenate([r["steps"] for r in rows]),
        vectors=np.concatenate([r["vectors"] for r in rows]),
        tombstones=rest["tombstones"],
        dense={name[len("dense.") :]: w for name, w in rest.items() if name.startswith("dense.")},
        offsets=marker.offsets,
        journal=marker.journal,
        wall_ms=marker.wall_ms,
        passed_by=marker.passed_by,
        why_held=marker.why_held,
        bands=marker.bands,
    )


def _digest(blocks: list[bytes]) -> str:
    whole = sha256()
    for block in blocks:
        whole.update(sha256(block).digest())
    return whole.hexdigest()
