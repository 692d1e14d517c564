"""Since when each key is known: a Bloom filter whose cells hold minutes, so its memory is fixed.

A key has three cells; it was first seen at the latest of them, or never if one is empty. A cell takes the earliest
minute that it is told, so the order of what it is told does not matter. Of keys never seen a share ``fill**3`` reads as
known, which `unseen` takes off. With 2**21 cells (4 MiB) that is 0.2 % after 100,000 keys, 10 % after 450,000
and 73 %, from where on nothing is said any more, after 1.6 million.

>>> seen = Seen(cells=1024)
>>> seen.add(np.array([7, 8], np.uint64), 100)
>>> seen.add(np.array([9], np.uint64), 200)
>>> seen.before(np.array([7, 9, 10], np.uint64), 150)
array([ True, False, False])
"""

from __future__ import annotations

from zlib import compress, decompress

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.keys import KeyCounts
from trainer.jit import njit
from trainer.keymap import mix

FULL = 0.9
"""The share of cells in use from which on a filter says nothing."""
_SPAN = 60_000
"""Minutes that are told apart, of the 65,535 that fit: six weeks. What is older reads as that old."""
_MASK = np.uint64(0xFFFFFFFF)

Cells = NDArray[np.uint16]


class SeenState(Struct, array_like=True):
    """As it is kept."""

    base: int
    cells: bytes
    full_from: int | None = None


class Seen:
    """First minutes of keys, in ``cells`` cells, a power of two."""

    def __init__(self, cells: int = 1 << 21) -> None:
        self._cells: Cells = np.zeros(cells, np.uint16)
        self._base = -1  # the minute before that of cells that hold 1
        self._n_used = 0
        self._full_from: int | None = None

    def add(self, keys: NDArray[np.uint64], minute: int) -> None:
        """Keys ``[n]`` were there in this minute."""
        if self._base < 0:
            self._base = max(minute - _SPAN // 2, 0)
        if minute - self._base > _SPAN:
            self._forget(minute - self._base - _SPAN // 2)
        self._n_used += _add(self._cells, np.ascontiguousarray(keys), max(minute - self._base, 1))

    def before(self, keys: NDArray[np.uint64], minute: int) -> NDArray[np.bool_]:
        """Whether each key was seen before this minute. It stays so whatever is added of this minute and later."""
        return _before(self._cells, np.ascontiguousarray(keys), minute - self._base)

    def close(self, minute: int) -> bool:
        """All of this minute, and of those before, was added; whether the filter is full from here on."""
        if self._full_from is not None or self.fill <= FULL:
            return False
        # what was read ahead of this minute does not count, so that it is no matter how far that was
        n_used = int(((self._cells > 0) & (self._cells <= minute - self._base)).sum())
        if n_used <= FULL * len(self._cells):
            return False
        self._full_from = minute + 1
        return True

    def is_full(self, minute: int) -> bool:
        """Whether so much was seen before this minute that most keys read as known."""
        return self._full_from is not None and minute >= self._full_from

    @property
    def fill(self) -> float:
        """Share of the cells in use."""
        return self._n_used / len(self._cells)

    def unseen(self, counts: KeyCounts, minute: int) -> tuple[int, int]:
        """How many of what was counted are of keys not seen before this minute, and how many were counted."""
        fresh = ~self.before(counts.keys, minute)
        return int(counts.counts[fresh].sum()), int(counts.counts.sum())

    def _forget(self, by: int) -> None:
        """Let time begin later."""
        held = self._cells > 0
        self._cells[held] = np.maximum(self._cells[held].astype(np.int64) - by, 1)
        self._base += by

    def encode(self) -> SeenState:
        """All of it."""
        return SeenState(self._base, compress(self._cells.tobytes(), 1), self._full_from)

    @classmethod
    def decode(cls, state: SeenState) -> Seen:
        """What was encoded."""
        seen = cls(0)
        seen._cells = np.frombuffer(decompress(state.cells), np.uint16).copy()
        seen._base, seen._n_used = state.base, int((seen._cells > 0).sum())
        seen._full_from = state.full_from
        return seen


@njit
def _add(cells: Cells, keys: NDArray[np.uint64], at: int) -> int:
    mask, n_new = np.uint64(cells.size - 1), 0
    for i in range(keys.size):
        bits = mix(keys[i])
        step = (bits >> np.uint64(32)) | np.uint64(1)  # double hashing (Kirsch & Mitzenmacher 2006)
        for n in range(3):
            cell = (bits + np.uint64(n) * step) & mask
            if cells[cell] == 0 or at < cells[cell]:
                n_new += cells[cell] == 0
                cells[cell] = at
    return n_new


@njit
def _before(cells: Cells, keys: NDArray[np.uint64], at: int) -> NDArray[np.bool_]:
    mask = np.uint64(cells.size - 1)
    found = np.ones(keys.size, np.bool_)
    for i in range(keys.size):
        bits = mix(keys[i])
        step = (bits >> np.uint64(32)) | np.uint64(1)
        for n in range(3):
            cell = cells[(bits + np.uint64(n) * step) & mask]
            if cell == 0 or cell >= at:
                found[i] = False
    return found
