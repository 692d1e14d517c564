"""What was predicted of a slate before it was learned: the messages of ``instep.scores``."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.events import Sample, Version


class Scored(Struct, frozen=True):
    """One sample's predictions and labels. ``C`` candidates, ``K`` action kinds."""

    impression: str
    user: int
    at_ms: int
    closed_ms: int
    version: Version
    """After learning the batch; the predictions are those of the step before."""
    n_kinds: int
    p: bytes
    labels: bytes
    stage: str = "final"
    side: bytes = b""
    """Keys of user and context, as in the sample."""
    items: bytes = b""
    """Keys of the candidates, as in the sample."""
    served: bytes = b""
    """The scores that the slate was shown with, where they are known."""
    served_version: Version | None = None
    """The Version that these are of."""
    n_behaviours: int = 0
    """Of the user before the impression."""
    held: bool = False
    """Predicted and not learned, because training held."""

    def predicted(self) -> NDArray[np.float32]:
        """float32 ``[C, K]``."""
        return np.frombuffer(self.p, np.float32).reshape(-1, self.n_kinds)

    def side_keys(self) -> NDArray[np.uint64]:
        """uint64 ``[S]``."""
        return np.frombuffer(self.side, np.uint64)

    def item_keys(self) -> NDArray[np.uint64]:
        """uint64 ``[C, F]``."""
        return np.frombuffer(self.items, np.uint64).reshape(len(self.labels) // self.n_kinds, -1)

    def served_scores(self) -> NDArray[np.float64]:
        """float64 ``[C]``, empty where they are not known."""
        return np.frombuffer(self.served, np.float64)

    def labelled(self) -> NDArray[np.uint8]:
        """uint8 ``[C, K]``."""
        return np.frombuffer(self.labels, np.uint8).reshape(-1, self.n_kinds)


def scored(sample: Sample, version: Version, p: NDArray[np.float32], *, held: bool = False) -> Scored:
    """What was predicted of a sample, float32 ``[C, K]``."""
    return Scored(
        impression=sample.impression,
        user=sample.user,
        at_ms=sample.at_ms,
        closed_ms=sample.closed_ms,
        version=version,
        n_kinds=p.shape[1],
        p=p.tobytes(),
        labels=sample.labels,
        stage=sample.stage,
        side=sample.side,
        items=sample.items,
        served=sample.scores,
        served_version=sample.version,
        n_behaviours=len(sample.sequence_at) // 8,
        held=held,
    )


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(Scored)


def encode_scored(scored: Scored) -> bytes:
    """As it travels."""
    return _packer.encode(scored)


def decode_scored(raw: bytes) -> Scored:
    """Read what ``encode_scored`` wrote; msgspec.DecodeError for anything else."""
    return _unpacker.decode(raw)
