"""What was predicted of a slate before it was learned: the messages of ``instep.scores``."""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.events import Version


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

    def predicted(self) -> NDArray[np.float32]:
        """float32 ``[C, K]``."""
        return np.frombuffer(self.p, np.float32).reshape(-1, self.n_kinds)

    def labelled(self) -> NDArray[np.uint8]:
        """uint8 ``[C, K]``."""
        return np.frombuffer(self.labels, np.uint8).reshape(-1, self.n_kinds)


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(Scored)


def encode_scored(scored: Scored) -> bytes:
    """As it travels."""
    return _packer.encode(scored)


def decode_scored(raw: bytes) -> Scored:
    """Read what ``encode_scored`` wrote; msgspec.DecodeError for anything else."""
    return _unpacker.decode(raw)
