"""What the network needs to know of a batch: which rows it touches, and which behaviours each candidate attends over.

Everything without a gradient happens here, in numpy and numba: keys to rows of the table, the search, time gaps. The
touched rows are numbered anew, so that the network works on a small matrix ``[U, d]`` whose gradient is dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.batch import Batch
from trainer.jit import njit
from trainer.keymap import prefetch
from trainer.model.attention import N_GAPS, Picked
from trainer.model.search import Found

Slots = NDArray[np.int64]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Located:
    """Rows of the table that the keys of a batch live in; 0 is the null row."""

    side: Slots
    """``[B, S]``."""
    items: Slots
    """``[N, F]``."""
    sequence: Slots
    """``[T, F]``."""


class Rows(Protocol):
    """The part of a table that prediction reads: the trainer's own, or a ranker's mirror of it."""

    @property
    def rows(self) -> NDArray[np.float32]:
        """``[capacity, d]``."""

    @property
    def codes(self) -> NDArray[np.uint64]:
        """``[capacity, words]``."""


Finder = Callable[[Slots, Slots, int], Found]
"""``(start, stop, k)``: which k behaviours of ``start[b]:stop[b]`` the candidates of slate b should attend over."""


class Search(Protocol):
    """Looks up what it compares once a batch; what it returns is asked for several ranges."""

    def __call__(self, table: Rows, batch: Batch, at: Located, young: bool) -> Finder: ...


@dataclass(frozen=True)
class Inputs:
    """A batch as the network sees it; row numbers refer to the matrix ``table.rows[unique]``."""

    unique: Slots
    """``[U]`` touched rows of the table, in the order of first use."""
    side: Slots
    """``[B, S]``."""
    items: Slots
    """``[N, F]``."""
    slate: Slots
    """``[N]``."""
    short: Picked
    """The most recent behaviours, one list a slate."""
    long: Picked | None
    """What the search picked from the rest, one list a candidate."""
    counts: NDArray[np.float32]
    """``[N, C]``, log(1 + n): all behaviours, those near the candidate in the short part, in the long part."""
    sequence: Slots | None
    """``[T, F]``, for the units that read all of it."""
    gap: NDArray[np.uint8] | None
    """``[T]`` buckets of the time since, with ``sequence``."""
    start: Slots
    """``[B + 1]``."""
    middle: Slots
    """``[B]``: the long part of sample b is ``start[b]:middle[b]``, the short part goes on from there."""


def prepare(
    table: Rows,
    batch: Batch,
    at: Located,
    *,
    search: Search | None,
    reads: str,
    short: int,
    k: int,
    young: bool = False,
) -> Inputs:
    """Search, pick and number the rows.

    Parameters
    ----------
    search
        How near behaviours are found and counted; None for a unit that does neither.
    reads
        What a unit reads of the long part: ``nothing``, what the search ``picked``, or ``all``.
    short
        How many of the most recent behaviours are the short part, which every candidate attends over.
    k
        How many behaviours of the long part the search picks.
    young
        Whether the model is still in its warm-up, in which ids are not compared.
    """
    start, stop = batch.start[:-1], batch.start[1:]
    middle = np.maximum(start, stop - short)
    slate = batch.slate
    number = _Numbering(len(table.rows))
    items, side = number(at.items), number(at.side)
    recent = _recent(middle, stop, short)
    picked_short = _pick(recent, np.arange(batch.n_samples), slate, batch, at, number)
    picked_long = None
    counts = [np.diff(batch.start)[slate][:, None]]
    if search is not None:
        find = search(table, batch, at, young)
        counts.append(find(middle, stop, 1).counts)
        if reads != "nothing":
            found = find(start, middle, k if reads == "picked" else 1)
            counts.append(found.counts)
            if reads == "picked":
                picked_long = _pick(found.positions, slate, np.arange(len(slate)), batch, at, number)
    sequence = gap = None
    if reads == "all":
        sequence = number(at.sequence)
        sample = np.repeat(np.arange(batch.n_samples), np.diff(batch.start))
        gap = _gaps(np.arange(len(sample), dtype=np.int32)[:, None], sample, batch.at_ms, batch.sequence_at)[
            :, 0
        ]
    return Inputs(
        unique=number.finish(),
        side=side,
        items=items,
        slate=slate,
        short=picked_short,
        long=picked_long,
        counts=np.log1p(np.concatenate(counts, axis=1, dtype=np.float32)),
        sequence=sequence,
        gap=gap,
        start=batch.start,
        middle=middle,
    )


class _Numbering:
    """Numbers rows of the table in the order in which they are first used."""

    _idle: ClassVar[list[Ints]] = []
    """Scratch, all zero: one for each numbering at the same time. One that fails does not give its own back."""

    def __init__(self, capacity: int) -> None:
        try:
            self._mark = self._idle.pop()
        except IndexError:
            self._mark = np.zeros(0, np.int32)
        if len(self._mark) < capacity:
            self._mark = np.zeros(capacity, np.int32)
        self._unique = np.empty(1024, np.int64)
        self._n = 0

    def __call__(self, slots: Slots) -> Slots:
        self._reserve(slots.size)
        numbers = np.empty(slots.shape, np.int64)
        self._n = _number(slots.ravel(), self._mark, self._unique, self._n, numbers.ravel())
        return numbers

    def picked(
        self, positions: NDArray[np.int32], slots: Slots
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows of the behaviours at ``positions`` ``[R, k]`` as numbers ``[R, k, F]``, and how many there are."""
        self._reserve(positions.size * slots.shape[1])
        index = np.zeros((*positions.shape, slots.shape[1]), np.int32)
        count = np.empty(len(positions), np.int32)
        self._n = _number_picked(positions, slots, self._mark, self._unique, self._n, index, count)
        return index, count

    def finish(self) -> Slots:
        unique = self._unique[: self._n].copy()
        self._mark[unique] = 0
        self._idle.append(self._mark)
        return unique

    def _reserve(self, more: int) -> None:
        if self._n + more > len(self._unique):
            self._unique = np.concatenate([self._unique, np.empty(len(self._unique) + more, np.int64)])


def _pick(
    positions: NDArray[np.int32],
    sample: Slots,
    of: Slots,
    batch: Batch,
    at: Located,
    number: _Numbering,
) -> Picked:
    index, count = number.picked(positions, at.sequence)
    return Picked(index, count, _gaps(positions, sample, batch.at_ms, batch.sequence_at), of)


@njit
def _number(slots: Slots, mark: Ints, unique: Slots, n: int, numbers: Slots) -> int:
    for i in range(slots.size):
        s = slots[i]
        if mark[s] == 0:
            unique[n] = s
            n += 1
            mark[s] = n
        numbers[i] = mark[s] - 1
    return n


@njit
def _number_picked(
    positions: Ints, slots: Slots, mark: Ints, unique: Slots, n: int, index: Ints, count: Ints
) -> int:
    for r in range(positions.shape[0]):
        m = 0
        while m < positions.shape[1] and positions[r, m] >= 0:
            if r + 1 < positions.shape[0]:
                prefetch(slots, max(positions[r + 1, m], 0))
            for f in range(slots.shape[1]):
                s = slots[positions[r, m], f]
                if mark[s] == 0:
                    unique[n] = s
                    n += 1
                    mark[s] = n
                index[r, m, f] = mark[s] - 1
            m += 1
        count[r] = m
    return n


@njit
def _gaps(positions: Ints, sample: Slots, at_ms: Slots, sequence_at: Slots) -> NDArray[np.uint8]:
    gap = np.zeros(positions.shape, np.uint8)
    for r in range(positions.shape[0]):
        for j in range(positions.shape[1]):
            p = positions[r, j]
            if p < 0:
                break
            if r + 1 < positions.shape[0]:
                prefetch(sequence_at, max(positions[r + 1, j], 0))
            seconds = max(0, at_ms[sample[r]] - sequence_at[p]) // 1000
            bits = 0
            while seconds > 0 and bits < N_GAPS - 1:
                seconds >>= 1
                bits += 1
            gap[r, j] = bits
    return gap


@njit
def _recent(start: Slots, stop: Slots, k: int) -> Ints:
    positions = np.full((start.size, k), -1, np.int32)
    for b in range(start.size):
        for j in range(stop[b] - start[b]):
            positions[b, j] = start[b] + j
    return positions
