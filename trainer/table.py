"""EmbeddingTable: one growing store of vectors for the keys of all fields, with their codes in step.

A key is looked up exactly, so two things never share a row. What is known of a row stands in columns:

    slot   key     field  row             accumulator  code      last seen  changed
    0      0       -      0    0    0     -            0         -          -         the null row
    1      9c4e..  1      .04 -.02  .07   1e-6         0b0110..  12:00:07   41        category "music"
    2      51fa..  0      .04 -.02  .07   1e-6         0b1100..  12:00:07   41        a song, born from it

The columns are reserved as virtual memory for ``capacity`` rows and take memory as they are written, so
growing moves nothing and ``table.rows`` stays where it is. A row of 32 dims with a code of 64 bits takes 169
bytes, and 32 to 64 in the map of keys.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer import table_kernels as kernels
from trainer.keymap import KeyMap, Keys, find_all, reserve

Slots = NDArray[np.int64]
State = dict[str, NDArray[np.generic]]

_SAVED = ("rows", "accumulators", "codes", "keys", "fields", "sightings", "last_seen_ms", "changed")


class TableFull(RuntimeError):
    """More rows are needed than were reserved."""


class EmbeddingTable:
    """Key to row: rows are born when a key has been seen often enough, learn, and expire when idle.

    Everything is a function of the calls and their order, and a restored table goes on with the same bits.

    Parameters
    ----------
    dim
        Length of a vector.
    n_fields
        How many fields there are; a field is a number below it.
    planes
        float32 ``[coded fields, dim, bits]``: rows of field ``f`` are encoded with ``planes[f]``, those of
        later fields keep a code of zeros.
    seed, init_std
        A row without a parent starts as normal numbers of this deviation that depend on seed and key only.
    accumulator
        Adagrad's sum of squares at birth, a child's too; more makes the first steps smaller.
    admit_after
        The sighting, 1 to 1023, with which a row is born. Until then a key waits, and reads as its parent.
    born_from_parent
        Whether a row starts from its parent's, where there is one: that vector, plus its own noise, so that no two
        children are the same.
    capacity
        Rows reserved, with the null row.

    Attributes
    ----------
    rows, codes, keys, fields, accumulators, sightings, last_seen_ms, changed
        The columns: float32 ``[capacity, dim]``, uint64 ``[capacity, bits / 64]``, and of ``[capacity]``
        uint64, uint8, float32, int32, int64 and int64. Zeros where no row is; ``changed`` is the step in
        which a row last moved.

    Examples
    --------
    >>> table = EmbeddingTable(4, 2, np.zeros((1, 4, 64), np.float32), seed=1)
    >>> int(table.see([11], 1, 0, 1000, 1)[0]), int(table.see([7], 0, 11, 1000, 1)[0])
    (1, 2)
    >>> bool(abs(table.rows[2] - table.rows[1]).max() < 0.3), table.find([7, 8, 11]).tolist()
    (True, [2, 0, 1])
    """

    def __init__(
        self,
        dim: int,
        n_fields: int,
        planes: NDArray[np.float32],
        *,
        seed: int,
        init_std: float = 0.05,
        accumulator: float = 1e-6,
        admit_after: int = 1,
        born_from_parent: bool = True,
        capacity: int = 2**24,
    ) -> None:
        if planes.ndim != 3 or planes.shape[1] != dim or planes.shape[2] % 64 or not 0 < n_fields <= 256:
            raise ValueError(f"table: expected planes [fields, {dim}, n * 64], got {list(planes.shape)}")
        if not 1 <= admit_after < 2**kernels.COUNT_BITS:
            most = 2**kernels.COUNT_BITS - 1
            raise ValueError(f"table: admit_after: expected 1..{most}, got {admit_after}")
        if not accumulator > 0:
            raise ValueError(f"table: accumulator: expected more than 0, got {accumulator}")
        self.dim, self.n_fields, self.capacity = dim, n_fields, capacity
        self.planes = np.ascontiguousarray(planes, np.float32)
        self._birth = kernels.Birth(
            np.uint64(seed % 2**64),
            np.float32(init_std),
            np.float32(accumulator),
            np.int64(admit_after),
            np.bool_(born_from_parent),
        )
        self._columns = kernels.Columns(
            rows=reserve((capacity, dim), np.float32),
            accumulators=reserve((capacity,), np.float32),
            codes=reserve((capacity, planes.shape[2] // 64), np.uint64),
            keys=reserve((capacity,), np.uint64),
            fields=reserve((capacity,), np.uint8),
            sightings=reserve((capacity,), np.int32),
            last_seen_ms=reserve((capacity,), np.int64),
            changed=reserve((capacity,), np.int64),
            free=reserve((capacity,), np.int64),
            counts=np.array([1, 0]),
        )
        self._columns.changed[0] = -1
        self.rows, self.codes, self.keys = self._columns.rows, self._columns.codes, self._columns.keys
        self.fields, self.sightings = self._columns.fields, self._columns.sightings
        self.accumulators, self.changed = self._columns.accumulators, self._columns.changed
        self.last_seen_ms = self._columns.last_seen_ms
        self._live, self._waiting, self._gone = KeyMap(), KeyMap(), KeyMap()

    @property
    def n_rows(self) -> int:
        """Rows there are, without the null row."""
        return len(self._live)

    @property
    def n_slots(self) -> int:
        """Places in use: the null row, rows, and free places between them; the columns hold nothing behind."""
        return int(self._columns.counts[kernels.USED])

    @property
    def n_waiting(self) -> int:
        """Keys seen, but not often enough for a row."""
        return len(self._waiting)

    @property
    def bytes_per_row(self) -> float:
        """Memory in use, for a row: its columns, and its share of the maps and of slots that are free."""
        used, free = (int(n) for n in self._columns.counts)
        columns = sum(column[:used].nbytes for column in self._columns[:-2]) + 8 * free
        maps = self._live.n_bytes + self._waiting.n_bytes + self._gone.n_bytes
        return (columns + maps) / max(1, self.n_rows)

    def known(self, keys: ArrayLike) -> tuple[Slots, NDArray[np.bool_] | None]:
        """Slots of the rows there are, 0 for key 0 and -1 for the others; and a mask of those, None if there are none.

        The quick half of ``find``, ``see`` and ``meet``: keys uint64 of any shape, slots int64 and mask bool alike.
        """
        wanted = np.ascontiguousarray(keys, np.uint64)
        slots = np.empty(wanted.shape, np.int64)
        if not find_all(self._live.slots, wanted.ravel(), slots.ravel()):
            return slots, None
        slots[wanted == 0] = 0
        unknown = slots < 0
        return slots, unknown if unknown.any() else None

    def find(self, keys: ArrayLike, parents: ArrayLike | None = None) -> Slots:
        """Where the rows of ``keys`` are; a key without one reads as its parent, or as the null row.

        Parameters
        ----------
        keys
            uint64, any shape.
        parents
            uint64, of a shape that broadcasts to that of ``keys``; 0 for no parent.

        Returns
        -------
        int64, the shape of ``keys``.
        """
        slots, unknown = self.known(keys)
        if unknown is not None:
            if parents is None:
                slots[unknown] = 0
            else:
                wanted = np.broadcast_to(np.asarray(parents, np.uint64), slots.shape)[unknown]
                slots[unknown] = np.maximum(self._live.find(wanted), 0)
        return slots

    def see(
        self, keys: ArrayLike, fields: ArrayLike, parents: ArrayLike, at_ms: ArrayLike, step: int
    ) -> Slots:
        """Count a sighting of each key, one after the other; a row is born with sighting ``admit_after``.

        Parameters
        ----------
        keys
            uint64, any shape, taken in C order; 0 is nothing and reads as the null row.
        fields, parents, at_ms
            Field number, parent's key (0 for none) and event time in ms (0 or more) of each sighting, of any
            shape that broadcasts to that of ``keys``. To be born from a parent, a key must come after it.
        step
            The step of the trainer, 0 or more; rows born count as changed in it.

        Returns
        -------
        int64 slots, the shape of ``keys``. A key that still waits reads as its parent, or as the null row.

        Raises
        ------
        TableFull
            When more than ``capacity - 1`` rows are needed. Sightings before that one have been counted.
        """
        slots, unknown = self.known(keys)
        times = _each(at_ms, np.int64, slots.shape)
        kernels.sight(self._columns, slots.ravel(), times.ravel())
        if unknown is not None:
            self._admit(slots, unknown, keys, fields, parents, times, step, True)
        return slots

    def meet(
        self, keys: ArrayLike, fields: ArrayLike, parents: ArrayLike, at_ms: ArrayLike, step: int
    ) -> Slots:
        """As ``see``, for behaviours, which come again with every sample: a row that exists is not counted.

        So it is as fast as ``find``, and the other arguments are read for keys without a row only. A row that
        is only ever met, and never seen, expires.
        """
        slots, unknown = self.known(keys)
        if unknown is not None:
            self._admit(slots, unknown, keys, fields, parents, np.asarray(at_ms, np.int64), step, False)
        return slots

    def learn(
        self, slots: Slots, grads: NDArray[np.float32], lr: float, step: int, encode: bool = True
    ) -> int:
        """One step of row-wise Adagrad: ``sum += mean(grad ** 2); row -= lr * grad / sqrt(sum)``.

        Parameters
        ----------
        slots
            int64 ``[u]``, each at most once; the null row is passed over.
        grads
            float32 ``[u, dim]``.
        lr
            Learning rate.
        step
            The step of the trainer; the rows count as changed in it.
        encode
            Whether the codes of these rows follow at once.

        Returns
        -------
        How many bits of codes flipped.

        Notes
        -----
        Adagrad (Duchi et al. 2011), with one sum for the whole row instead of one for each of its numbers.
        """
        if grads.shape != (slots.size, self.dim):
            raise ValueError(f"table: expected grads [{slots.size}, {self.dim}], got {list(grads.shape)}")
        return int(
            kernels.learn(
                self._columns,
                self.planes,
                np.ascontiguousarray(slots, np.int64),
                np.ascontiguousarray(grads, np.float32),
                np.float32(lr),
                step,
                encode,
            )
        )

    def encode(self, slots: Slots) -> int:
        """Bring the codes of ``slots`` (int64 ``[n]``) in step with their vectors; how many bits flipped."""
        return int(kernels.encode(self._columns, self.planes, np.ascontiguousarray(slots, np.int64)))

    def put(
        self,
        keys: ArrayLike,
        fields: ArrayLike,
        vectors: NDArray[np.float32],
        accumulators: ArrayLike | None = None,
        step: int = 0,
        *,
        at_ms: ArrayLike = 0,
        encode: bool = True,
    ) -> Slots:
        """Store whole rows, as a mirror does with a publication.

        Parameters
        ----------
        keys
            uint64 ``[n]``, without 0.
        fields, accumulators, at_ms
            Of each key, or one for all. The field is for new rows only; without accumulators they are as at
            birth.
        vectors
            float32 ``[n, dim]``.
        step
            The rows count as changed in it.
        encode
            Whether codes are made of the vectors.

        Returns
        -------
        int64 slots ``[n]``.
        """
        new = np.ascontiguousarray(keys, np.uint64)
        if vectors.shape != (new.size, self.dim) or not new.all():
            raise ValueError(f"table: expected n keys other than 0 and vectors [n, {self.dim}]")
        slots = np.empty(new.size, np.int64)
        done = kernels.write(
            self._columns,
            self.planes,
            self._live.room(new.size),
            self._waiting.room(0),
            self._gone.room(0),
            new,
            np.ascontiguousarray(self._field_numbers(fields, slots.shape)),
            np.ascontiguousarray(vectors, np.float32),
            _each(self._birth.accumulator if accumulators is None else accumulators, np.float32, slots.shape),
            _each(at_ms, np.int64, slots.shape),
            step,
            encode,
            slots,
        )
        self._check_room(done, new.size)
        return slots

    def remove(self, keys: ArrayLike, step: int | None = None) -> int:
        """Drop the rows of ``keys`` (uint64 ``[n]``), leaving tombstones of ``step``; how many there were."""
        doomed = np.ascontiguousarray(keys, np.uint64)
        if step is not None:
            here = doomed[self._live.find(doomed) >= 0]
            self._gone.put(here, np.full(here.size, step))
        return int(kernels.remove(self._columns, self._live.room(0), doomed))

    def expire(self, before_ms: int, step: int) -> Keys:
        """Drop rows, and forget waiting keys, not seen since ``before_ms``: keys of the rows, uint64 by slot.

        A tombstone with ``step`` stays for each row; its slot is used again.
        """
        waiting, packed = self._waiting.items()
        self._waiting.remove(waiting[packed >> kernels.COUNT_BITS < before_ms])
        used = slice(0, self.n_slots)
        idle = (self.last_seen_ms[used] < before_ms) & (self.keys[used] != 0)
        doomed: Keys = self.keys[used][idle]
        self.remove(doomed, step)
        return doomed

    def changed_since(self, step: int) -> tuple[Slots, Keys]:
        """What a mirror at ``step`` does not have: rows that changed later, and rows that have gone since.

        Returns
        -------
        int64 slots, ascending, and uint64 keys, ascending, of tombstones later than ``step``; no key in both.
        """
        gone, when = self._gone.items()
        used = self.n_slots
        return np.flatnonzero(self._columns.changed[:used] > step), gone[when > step]

    def forget_tombstones(self, step: int) -> None:
        """Drop tombstones of ``step`` and before, when every mirror is past it."""
        gone, when = self._gone.items()
        self._gone.remove(gone[when <= step])

    def state(self) -> State:
        """All there is, for a checkpoint, as arrays: two tables with the same state have the same future."""
        used, free = (int(n) for n in self._columns.counts)
        waiting, packed = self._waiting.items()
        gone, when = self._gone.items()
        state: State = {name: getattr(self._columns, name)[:used].copy() for name in _SAVED}
        return state | {
            "free": self._columns.free[:free].copy(),
            "waiting_keys": waiting,
            "waiting": packed,
            "gone_keys": gone,
            "gone": when,
            "planes": self.planes,
            "seed": np.array([self._birth.seed], np.uint64),
            "birth": np.array([self._birth.init_std, self._birth.accumulator], np.float32),
            "rules": np.array([self.n_fields, self._birth.admit_after, self._birth.from_parent], np.int64),
        }

    @classmethod
    def restore(cls, state: State, *, capacity: int = 2**24) -> Self:
        """The table that ``state`` was taken from."""
        n_fields, admit_after, from_parent = (int(n) for n in state["rules"])
        init_std, accumulator = (float(x) for x in state["birth"])
        used, free = len(state["keys"]), len(state["free"])
        if used > capacity:
            raise TableFull(f"table: expected at most {capacity} rows (capacity), got a state of {used}")
        table = cls(
            state["rows"].shape[1],
            n_fields,
            state["planes"].astype(np.float32),
            seed=int(state["seed"][0]),
            init_std=init_std,
            accumulator=accumulator,
            admit_after=admit_after,
            born_from_parent=bool(from_parent),
            capacity=capacity,
        )
        for name in _SAVED:
            getattr(table._columns, name)[:used] = state[name]
        table._columns.free[:free] = state["free"]
        table._columns.counts[:] = used, free
        slots = np.flatnonzero(table.keys[:used])
        table._live.put(table.keys[slots], slots)
        table._waiting.put(state["waiting_keys"], state["waiting"])
        table._gone.put(state["gone_keys"], state["gone"])
        return table

    def _admit(
        self,
        slots: Slots,
        unknown: NDArray[np.bool_],
        keys: ArrayLike,
        fields: ArrayLike,
        parents: ArrayLike,
        at_ms: NDArray[np.int64],
        step: int,
        again: bool,
    ) -> None:
        new = np.asarray(keys, np.uint64)[unknown]
        times = np.broadcast_to(at_ms, slots.shape)[unknown]
        if times.min() < 0:
            raise ValueError(f"table: expected event times of 0 ms or more, got {times.min()}")
        found = np.empty(new.size, np.int64)
        done = kernels.admit(
            self._columns,
            self.planes,
            self._birth,
            self._live.room(new.size),
            self._waiting.room(new.size if self._birth.admit_after > 1 else 0),
            self._gone.room(0),
            new,
            self._field_numbers(fields, slots.shape)[unknown],
            np.broadcast_to(np.asarray(parents, np.uint64), slots.shape)[unknown],
            times,
            step,
            again,
            found,
        )
        self._check_room(done, new.size)
        slots[unknown] = found

    def _field_numbers(self, fields: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        numbers = np.asarray(fields)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.n_fields:
            raise ValueError(f"table: expected fields 0..{self.n_fields - 1}, got up to {numbers.max()}")
        return np.broadcast_to(numbers.astype(np.uint8), shape)

    def _check_room(self, done: int, n: int) -> None:
        if done < n:
            raise TableFull(f"table: expected at most {self.capacity - 1} rows (capacity), got more")


def _each(values: ArrayLike, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype), shape))
