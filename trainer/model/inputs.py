"""What the network needs to know of a batch: which rows it touches, and which behaviours each candidate attends over.

Everything without a gradient happens here, in numpy and numba: keys to rows of the table, the search, time gaps. The
touched rows are numbered anew, so that the network works on a small matrix ``[U, d]`` whose gradient is dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.batch import Batch
from trainer.jit import njit
from trainer.keymap import prefetch
from trainer.model.interest import N_GAPS, Picked
from trainer.model.search import Found
from trainer.model.simhash import item_codes

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

    @property
    def keys(self) -> NDArray[np.uint64]:
        """``[capacity]``."""


Finder = Callable[[Slots, Slots, int], Found]
"""``(start, stop, k)``: which k behaviours of ``start[b]:stop[b]`` the candidates of slate b should attend over."""


class Search(Protocol):
    """Looks up what it compares once a batch; what it returns is asked for several ranges."""

    def __call__(self, table: Rows, batch: Batch, at: Located, young: bool) -> Finder: ...


def compared(young: bool, n_coded: int) -> slice:
    """The item fields that a search compares: all that have codes, and of a young model all but the id.

    Until the network can tell behaviours apart, an id's vector is noise, and what it finds by it is what its gradient
    pulls it to: a bad beginning teaches itself (docs/log.md). Categories are few and learned at once.
    """
    return slice(1 if young and n_coded > 1 else 0, n_coded)


@dataclass(frozen=True)
class Reading:
    """Which behaviours a unit reads, and how near ones are counted."""

    find: Search | None = None
    """Picks from the long part for each candidate."""
    recent: bool = False
    """Without ``find``: the most recent ones, in the place of all."""
    count: Search | None = None
    """Counts near behaviours; may be the one that picks."""
    n_counts: int = 0
    """How many counts it gives."""
    short: bool = True
    """Whether the short part is read by itself; if not, its behaviours end each list of the long part."""
    long: bool = True
    """Whether more than the short part is read."""
    n_hashed: int = 0
    """How many item fields the unit reads codes of."""
    sample: int = 0
    """At most so many behaviours, evenly spaced, are given to an auxiliary model."""

    @property
    def width(self) -> int:
        """``C`` of ``Inputs.counts``."""
        return 1 + (1 + self.long) * self.n_counts


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
    short: Picked | None
    """The most recent behaviours, one list a slate."""
    long: Picked | None
    """What the unit reads, one list a slate or one a candidate."""
    sampled: Picked | None
    """Behaviours from all over the sequence, one list a slate."""
    counts: NDArray[np.float32]
    """``[N, C]``, log(1 + n): all behaviours, those near the candidate in the short part, in the long part."""


def prepare(
    table: Rows,
    batch: Batch,
    at: Located,
    reading: Reading,
    *,
    short: int,
    k: int,
    young: bool = False,
) -> Inputs:
    """Search, pick and number the rows.

    Parameters
    ----------
    short
        How many of the most recent behaviours are the short part, which every candidate reads.
    k
        How many behaviours of the long part are picked.
    young
        Whether the model is still in its warm-up, in which ids are not compared.
    """
    start, stop = batch.start[:-1], batch.start[1:]
    middle = np.maximum(start, stop - short)  # the long part of sample b is start[b]:middle[b]
    slate, samples = batch.slate, np.arange(batch.n_samples)
    number = _Numbering(len(table.rows))
    items, side = number(at.items), number(at.side)
    latest = _listed(middle, stop)
    picked_short = picked_long = found = None
    if reading.short:
        picked_short = _pick(latest, samples, slate, batch, at, number)
    find = reading.find(table, batch, at, young) if reading.find else None
    if reading.long:
        if find:
            found = find(start, middle, k)
            positions, sample, of = found.positions, slate, np.arange(len(slate))
            if not reading.short:
                positions = _side_by_side(positions, latest[slate])
        else:
            end = middle if reading.short else stop
            begin = np.maximum(start, middle - k) if reading.recent else start
            positions, sample, of = _listed(begin, end), samples, slate
        picked_long = _pick(positions, sample, of, batch, at, number)
        if reading.n_hashed:
            picked_long = _hashed(picked_long, table, at, compared(young, reading.n_hashed))
    picked_sample = None
    if reading.sample:
        picked_sample = _pick(_spaced(start, stop, reading.sample), samples, slate, batch, at, number)
    counts = [np.diff(batch.start)[slate][:, None]]
    if reading.count:
        same = find is not None and reading.count is reading.find
        near = find if same and find else reading.count(table, batch, at, young)
        counts.append(near(middle, stop, 1).counts)
        if reading.long:
            counts.append(found.counts if same and found else near(start, middle, 1).counts)
    return Inputs(
        unique=number.finish(),
        side=side,
        items=items,
        slate=slate,
        short=picked_short,
        long=picked_long,
        sampled=picked_sample,
        counts=np.log1p(np.concatenate(counts, axis=1, dtype=np.float32)),
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


def _pick(positions: Ints, sample: Slots, of: Slots, batch: Batch, at: Located, number: _Numbering) -> Picked:
    """Lists of positions ``[R, k]``, each of a sample ``[R]``, as rows; ``of`` ``[N]`` says whose list is whose."""
    index, count = number.picked(positions, at.sequence)
    return Picked(index, count, gaps(positions, sample, batch), of, positions)


def gaps(positions: Ints, sample: Slots, batch: Batch) -> NDArray[np.uint8]:
    """Buckets ``[R, k]`` of the time since behaviours, by their places in the flat sequence; each row of a sample."""
    return _gaps(positions, sample, batch.at_ms, batch.sequence_at)


def _hashed(picked: Picked, table: Rows, at: Located, fields: slice) -> Picked:
    """The same with codes."""
    places = np.maximum(picked.positions, 0)
    keys = item_codes(table.codes, at.sequence[:, fields])
    keys = keys[places] if len(keys) else np.zeros((*places.shape, table.codes.shape[1]), np.uint64)
    return replace(picked, codes=(item_codes(table.codes, at.items[:, fields]), keys))


def _side_by_side(a: Ints, b: Ints) -> Ints:
    """Each list of a, then that of b: ``[R, j]`` and ``[R, k]`` -> ``[R, j + k]``, what is missing at the end."""
    both = np.concatenate([a, b], 1)
    return np.take_along_axis(both, np.argsort(both < 0, axis=1, kind="stable"), 1)


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


def _listed(start: Slots, stop: Slots) -> Ints:
    """Positions ``start[b]:stop[b]`` as lists ``[B, longest]``, then -1."""
    places = np.arange(int(np.max(stop - start, initial=0)))
    return np.where(places < (stop - start)[:, None], start[:, None] + places, -1).astype(np.int32)


def _spaced(start: Slots, stop: Slots, n: int) -> Ints:
    """At most n positions of each ``start[b]:stop[b]``, evenly spaced: ``[B, n]``, then -1."""
    length = (stop - start)[:, None]
    place = np.arange(n)
    spaced = np.where(length > n, place * length // n, place)
    return np.where(place < length, start[:, None] + spaced, -1).astype(np.int32)
