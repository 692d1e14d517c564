"""Which items are popular, by how often they were shown of late: half of what is shown are the head, the rest the tail.

Counts are kept in 32,768 hashed cells, which fade by a quarter every ten minutes; each time it is written down
which cells are the head, for the slates of the slot after the next, so that nothing has to wait for it.

>>> popular = Popular()
>>> popular.close(0, cells_of(np.array([7, 7, 7, 8], np.uint64)))
>>> popular.head(np.array([7, 8], np.uint64), 1_200_000).tolist(), popular.head(np.array([7], np.uint64), 0)
([True, False], None)
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.tally import Ints, Packed, pack, unpack
from monitor.windows import TEN_MS
from trainer.jit import njit
from trainer.keymap import mix

N_CELLS = 1 << 15
KEPT = 144
"""For so many slots of ten minutes it is known which items were the head: a trainer may be a day behind."""


class PopularState(Struct, array_like=True):
    """As it is kept."""

    counts: Packed
    heads: dict[int, bytes]


class Popular:
    """Counts, and the heads of the last slots by when they begin."""

    def __init__(self) -> None:
        self._counts: Ints = np.zeros(N_CELLS, np.int64)
        self._heads: dict[int, NDArray[np.bool_]] = {}

    def close(self, slot_ms: int, shown: Ints) -> None:
        """Ten minutes have passed, in which so many of each cell ``[N_CELLS]`` were shown."""
        if not shown.any() and not self._counts.any():
            return
        self._counts += shown - (self._counts >> 2)
        order = np.argsort(-self._counts, kind="stable")
        before = np.cumsum(self._counts[order]) - self._counts[order]
        head = np.zeros(N_CELLS, np.bool_)
        head[order] = (2 * before < self._counts.sum()) & (self._counts[order] > 0)
        self._heads[slot_ms] = head
        while len(self._heads) > KEPT:
            del self._heads[min(self._heads)]

    def head(self, items: NDArray[np.uint64], at_ms: int) -> NDArray[np.bool_] | None:
        """Whether each item ``[n]`` was of the head, for slates of a moment; None if that is not known."""
        until_ms = at_ms // TEN_MS * TEN_MS - 2 * TEN_MS
        slot = max((slot for slot in self._heads if slot <= until_ms), default=None)
        if slot is None:
            return None
        head: NDArray[np.bool_] = self._heads[slot][_cells(np.ascontiguousarray(items))]
        return head

    def encode(self) -> PopularState:
        """All of it."""
        heads = {slot: np.packbits(head).tobytes() for slot, head in self._heads.items()}
        return PopularState(pack(self._counts), heads)

    def load(self, state: PopularState) -> None:
        """Go on from what was encoded."""
        self._counts = unpack(state.counts, np.int64)
        self._heads = {
            slot: np.unpackbits(np.frombuffer(head, np.uint8)).astype(np.bool_)
            for slot, head in state.heads.items()
        }


def cells_of(items: NDArray[np.uint64]) -> Ints:
    """How many of the items ``[n]`` are in each cell, int64 ``[N_CELLS]``."""
    return np.bincount(_cells(items), minlength=N_CELLS).astype(np.int64)


@njit
def _cells(keys: NDArray[np.uint64]) -> Ints:
    found = np.empty(keys.size, np.int64)
    for i in range(keys.size):
        found[i] = np.int64(mix(keys[i]) >> np.uint64(49))
    return found
