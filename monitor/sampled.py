"""Which slates a search is tried on: a few of each minute, the same whatever the order they came in."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.events import Sample

N_SLATES = 8
"""So many of a minute."""
MOST_BEHAVIOURS = 1_024
"""So many of a history, the most recent ones."""


class Searched(Struct, frozen=True, array_like=True):
    """A slate and its user's history."""

    draw: bytes
    """Those with the least are kept: a hash of the impression."""
    items: bytes
    sequence: bytes

    def keys(self, n_fields: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Candidates uint64 ``[C, F]`` and behaviours uint64 ``[L, F]``, oldest first."""
        items = np.frombuffer(self.items, np.uint64).reshape(-1, n_fields)
        return items, np.frombuffer(self.sequence, np.uint64).reshape(-1, n_fields)


def keep_least(slates: Iterable[Searched]) -> list[Searched]:
    """The few that are kept, in the order of their draw."""
    return sorted(slates, key=lambda s: (s.draw, s.items))[:N_SLATES]


def draw_least(samples: Iterable[Sample], k: int) -> list[Searched]:
    """The same of samples, those with more than ``k`` behaviours, of which the most recent are kept."""
    long = [s for s in samples if len(s.sequence_at) > 8 * k]
    drawn = sorted((_draw(s), s.items, i) for i, s in enumerate(long))[:N_SLATES]
    found = []
    for draw, items, i in drawn:
        width = len(long[i].sequence) // (len(long[i].sequence_at) // 8)  # bytes of a behaviour
        found.append(Searched(draw, items, long[i].sequence[-width * MOST_BEHAVIOURS :]))
    return found


def _draw(sample: Sample) -> bytes:
    return blake2b(f"{sample.user}\0{sample.impression}".encode(), digest_size=8).digest()
