"""Keys of a window and how often each came: all of them, or those of a fair sample of keys once there are too many.

A key's *level* is how many zero bits its mix begins with, so each level holds half the keys of the one before.
Kept are the keys of at least the lowest level at which they fit. That level, and so what is kept, depends on which
keys there were and not on their order, and two windows merge to what one of both would hold.

>>> counts = KeyCounts(most=4)
>>> for key in range(1, 33):
...     counts.add(np.array([key, key], np.uint64))
>>> len(counts.keys), counts.counts.tolist()
(4, [2, 2, 2, 2])
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.tally import Ints, Packed, pack, unpack
from trainer.jit import njit
from trainer.keymap import mix

Keys = NDArray[np.uint64]


class KeyCountsState(Struct, array_like=True):
    """As it is kept."""

    most: int
    level: int
    keys: Packed
    counts: Packed


class KeyCounts:
    """Counts by key of at most ``most`` keys, ascending."""

    def __init__(self, most: int = 8_192) -> None:
        self.most = most
        self.level = 0
        self.keys: Keys = np.zeros(0, np.uint64)
        self.counts: Ints = np.zeros(0, np.int64)

    def add(self, keys: Keys) -> None:
        """Count keys ``[n]``; 0 counts as one, too."""
        keys, counts = np.unique(keys, return_counts=True)
        self._take(keys, counts.astype(np.int64))

    def merge(self, other: KeyCounts) -> None:
        """Count in what ``other`` holds."""
        self.level = max(self.level, other.level)
        self._take(other.keys, other.counts)

    def _take(self, keys: Keys, counts: Ints) -> None:
        if len(self.keys):
            keys, where = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
            both = np.zeros(len(keys), np.int64)
            np.add.at(both, where, np.concatenate([self.counts, counts]))
            counts = both
        if self.level or len(keys) > self.most:
            level = levels(keys)
            by_level = np.cumsum(np.bincount(level, minlength=66)[::-1])[::-1]  # keys of at least each level
            self.level = max(self.level, int(np.argmax(by_level <= self.most)))
            kept = level >= self.level
            keys, counts = keys[kept], counts[kept]
        self.keys, self.counts = keys, counts

    def encode(self) -> KeyCountsState:
        """All of it."""
        return KeyCountsState(self.most, self.level, pack(self.keys), pack(self.counts))

    @classmethod
    def decode(cls, state: KeyCountsState) -> KeyCounts:
        """What was encoded."""
        counts = cls(state.most)
        counts.level = state.level
        counts.keys, counts.counts = unpack(state.keys, np.uint64), unpack(state.counts, np.int64)
        return counts


@njit
def levels(keys: Keys) -> Ints:
    """Level of each key, int64 ``[n]``: 0 for half of them, 1 for a quarter, and so on to 64."""
    found = np.empty(keys.size, np.int64)
    for i in range(keys.size):
        bits, level = mix(keys[i]), 0
        while level < 64 and (bits >> np.uint64(63 - level)) == 0:
            level += 1
        found[i] = level
    return found
