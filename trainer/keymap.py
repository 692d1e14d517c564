"""KeyMap: 64-bit keys to numbers, growing without a pause.

Open addressing with linear probing, at most half full. The top bits of a mixed key are its place, so that
a table of twice the size has the same order, and growing is one walk through both::

    old   [ . a b . | c . . d ]          b is where it is because a was there first
    new   [ . . a b . . . . | . . . . . . . . ]
              ^ each new key moves a few old slots; until the walk ends, a key is in one of the two

Neighbours without a gap between them move together, so what is left of the old table is a table too (those
that wrapped around from its end are the first to go).
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from trainer.jit import njit

Keys = NDArray[np.uint64]
Values = NDArray[np.int64]
Scalar = Any
"""A number inside a kernel, where numba and not mypy tells a uint64 from an int64."""

MOVES = 8
"""Old slots moved for each new key. With 2 the old table would be empty just as the new one is full."""
AHEAD = 24
"""How many keys ahead a batch asks for memory: 2 to 5 times as fast as waiting, flat between 16 and 64."""

_N, _MOVED, _SHIFT, _OLD_SHIFT = 0, 1, 2, 3
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class Slots(NamedTuple):
    """What the kernels see. A slot is a key and its value + 1; an empty slot is zeros, and so reads as -1."""

    table: NDArray[np.uint64]
    """``[size, 2]``."""
    old: NDArray[np.uint64]
    """``[old size, 2]``, no rows when nothing is left to move."""
    meta: NDArray[np.int64]
    """``[4]``: keys in both, old slots already moved, what a mixed key is shifted by in each."""


class KeyMap:
    """A growing map from uint64 keys (not 0) to int64 values (not negative), for batches of keys.

    >>> ages = KeyMap()
    >>> ages.put([7, 8, 9], [36, 41, 28])
    >>> ages.remove([8])
    1
    >>> ages.find([9, 8, 7, 0]).tolist(), len(ages)
    ([28, -1, 36, -1], 2)
    """

    def __init__(self) -> None:
        self.slots = _empty(64)
        self._given_back = 0  # bytes

    def __len__(self) -> int:
        return int(self.slots.meta[_N])

    @property
    def n_bytes(self) -> int:
        """Memory of the slots."""
        return self.slots.table.nbytes + self.slots.old.nbytes

    def find(self, keys: ArrayLike) -> Values:
        """The values of ``keys`` (uint64 ``[n]``), -1 where there is none: int64 ``[n]``."""
        wanted = np.ascontiguousarray(keys, np.uint64)
        values = np.empty(wanted.size, np.int64)
        find_all(self.slots, wanted, values)
        return values

    def put(self, keys: ArrayLike, values: ArrayLike) -> None:
        """Give each key (uint64 ``[n]``) a value (int64 ``[n]``, 0 or more); of equal keys the last one wins.

        Raises
        ------
        ValueError
            For key 0 or a negative value; nothing is stored then.
        """
        new, numbers = np.ascontiguousarray(keys, np.uint64), np.ascontiguousarray(values, np.int64)
        if new.shape != numbers.shape:
            raise ValueError(f"expected a value for each key, got {new.size} keys, {numbers.size} values")
        if not new.all() or (numbers < 0).any():
            raise ValueError("expected keys other than 0 and values of 0 or more")
        _put_all(self.room(new.size), new, numbers)

    def remove(self, keys: ArrayLike) -> int:
        """Forget ``keys`` (uint64 ``[n]``); how many of them there were."""
        return int(_drop_all(self.slots, np.ascontiguousarray(keys, np.uint64)))

    def items(self) -> tuple[Keys, Values]:
        """All keys, ascending, and their values: uint64 ``[n]``, int64 ``[n]``."""
        slots = np.concatenate([part[part[:, 0] != 0] for part in (self.slots.table, self.slots.old)])
        slots = slots[np.argsort(slots[:, 0])]
        return slots[:, 0].copy(), slots[:, 1].astype(np.int64) - 1

    def room(self, n: int) -> Slots:
        """The slots, after making sure that ``n`` more keys fit: for kernels that call ``put``."""
        slots, needed = self.slots, 2 * (len(self) + n)
        if slots.old.size:
            moved = int(slots.meta[_MOVED])
            self._given_back = _give_back(slots.old, self._given_back, moved)
            if moved == len(slots.old):
                slots = slots._replace(old=slots.old[:0].copy())
                slots.meta[_MOVED] = self._given_back = 0
        if needed > len(slots.table):
            _move(slots, len(slots.old))
            bigger = _empty(1 << (needed - 1).bit_length())
            bigger.meta[:] = len(self), 0, bigger.meta[_SHIFT], slots.meta[_SHIFT]
            slots = bigger._replace(old=slots.table)
            self._given_back = 0
        self.slots = slots
        return slots


def reserve(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that take memory only where they are written, page by page, for however large a shape."""
    n = int(np.prod(shape))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    memory = mmap.mmap(-1, max(1, n * np.dtype(dtype).itemsize), flags=flags)
    return np.frombuffer(memory, dtype, n).reshape(shape)


def _give_back(slots: Keys, start: int, moved: int) -> int:
    """Return the memory of moved slots from byte ``start`` on, up to where: all at once would be a pause."""
    stop = moved * slots.itemsize * 2 // mmap.PAGESIZE * mmap.PAGESIZE
    owner = slots.base
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if stop > start and isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED, start, stop - start)
    return max(start, stop)


def _empty(size: int) -> Slots:
    shift = 65 - size.bit_length()
    return Slots(reserve((size, 2), np.uint64), np.zeros((0, 2), np.uint64), np.array([0, 0, shift, shift]))


def _prefetch(typing: Any, array: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(array)(context, builder, args[0])
        stride = builder.extract_value(view.strides, 0)
        at = builder.add(builder.ptrtoint(view.data, stride.type), builder.mul(args[1], stride))
        flag, address = ir.IntType(32), builder.inttoptr(at, ir.IntType(8).as_pointer())
        takes = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [address.type], takes)
        builder.call(ask, [address, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


prefetch: Callable[[NDArray[Any], Scalar], None] = cast(Any, intrinsic(_prefetch))
"""Ask for the memory of ``array[i]`` (along the first axis) without waiting for it."""


@njit
def _home(shift: Scalar, key: Scalar) -> Scalar:
    """The place that a key would have in an empty table: the top bits of its product with the golden ratio.

    One multiplication spreads keys that are hashes already, and keys in a row as well (Knuth, volume 3, section 6.4).
    """
    return (np.uint64(key) * _GOLDEN) >> np.uint64(shift)


@njit
def mix(key: Scalar) -> Scalar:
    """The finaliser of splitmix64 (Steele et al. 2014): each bit of a key reaches all of the result."""
    z = np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit
def _place(table: Keys, shift: Scalar, key: Scalar) -> Scalar:
    """Where ``key`` is or, if it is not there, the empty slot where it would go."""
    mask = np.uint64(table.shape[0] - 1)
    at = _home(shift, key)
    while table[at, 0] != key and table[at, 0] != 0:
        at = (at + np.uint64(1)) & mask
    return at


@njit
def get(slots: Slots, key: Scalar) -> Scalar:
    """The value of one key, -1 if there is none (0 has none)."""
    value = slots.table[_place(slots.table, slots.meta[_SHIFT], key), 1]
    if value == 0 and slots.meta[_MOVED] < slots.old.shape[0]:
        value = slots.old[_place(slots.old, slots.meta[_OLD_SHIFT], key), 1]
    return np.int64(value) - 1


@njit
def put(slots: Slots, key: Scalar, value: Scalar) -> None:
    """Store one value, with ``slots`` from ``KeyMap.room``; a new key moves a few old slots."""
    at = _place(slots.table, slots.meta[_SHIFT], key)
    new = slots.table[at, 0] == 0
    if new and slots.meta[_MOVED] < slots.old.shape[0]:
        was = _place(slots.old, slots.meta[_OLD_SHIFT], key)
        if slots.old[was, 0] == key:
            slots.old[was, 1] = np.uint64(value + 1)
            return
    slots.table[at, 0] = key
    slots.table[at, 1] = np.uint64(value + 1)
    if new:
        slots.meta[_N] += 1
        _move(slots, MOVES)


@njit
def drop(slots: Slots, key: Scalar) -> Scalar:
    """Forget one key; False if it was not there."""
    at = _place(slots.table, slots.meta[_SHIFT], key)
    if slots.table[at, 1] != 0:
        _close(slots.table, slots.meta[_SHIFT], at)
    else:
        if slots.meta[_MOVED] == slots.old.shape[0]:
            return False
        at = _place(slots.old, slots.meta[_OLD_SHIFT], key)
        if slots.old[at, 1] == 0:
            return False
        _close(slots.old, slots.meta[_OLD_SHIFT], at)
    slots.meta[_N] -= 1
    return True


@njit
def _close(table: Keys, shift: Scalar, hole: Scalar) -> None:
    """Empty a slot, and shift back those that it kept from being nearer home: no marker is left behind."""
    mask = np.uint64(table.shape[0] - 1)
    at = (hole + np.uint64(1)) & mask
    while table[at, 0] != 0:
        home = _home(shift, table[at, 0])
        if ((at - home) & mask) >= ((at - hole) & mask):
            table[hole] = table[at]
            hole = at
        at = (at + np.uint64(1)) & mask
    table[hole] = np.uint64(0)


@njit
def _move(slots: Slots, n: Scalar) -> None:
    """Move the next ``n`` old slots, and on to the first gap."""
    old, at = slots.old, slots.meta[_MOVED]
    stop = min(at + n, old.shape[0])
    while at < stop or (at < old.shape[0] and old[at, 0] != 0):
        if old[at, 0] != 0:
            slots.table[_place(slots.table, slots.meta[_SHIFT], old[at, 0])] = old[at]
            old[at] = np.uint64(0)
        at += 1
    slots.meta[_MOVED] = at


@njit
def find_all(slots: Slots, keys: Keys, values: Values) -> Scalar:
    """``get`` for many keys; how many of them have no value."""
    missing = _find_in(slots.table, slots.meta[_SHIFT], keys, values)
    if missing and slots.meta[_MOVED] < slots.old.shape[0]:
        shift, missing = np.uint64(slots.meta[_OLD_SHIFT]), 0
        for i in range(keys.size):
            if i + AHEAD < keys.size and values[i + AHEAD] < 0:
                prefetch(slots.old, _home(shift, keys[i + AHEAD]))
            if values[i] < 0:
                values[i] = np.int64(slots.old[_place(slots.old, shift, keys[i]), 1]) - 1
                missing += values[i] < 0
    return missing


@njit
def _find_in(table: Keys, shift: Scalar, keys: Keys, values: Values) -> Scalar:
    missing: Scalar = 0
    for i in range(keys.size):
        if i + AHEAD < keys.size:
            prefetch(table, _home(shift, keys[i + AHEAD]))
        value = np.int64(table[_place(table, shift, keys[i]), 1]) - 1
        missing += value < 0
        values[i] = value
    return missing


@njit
def _put_all(slots: Slots, keys: Keys, values: Values) -> None:
    for i in range(keys.size):
        put(slots, keys[i], values[i])


@njit
def _drop_all(slots: Slots, keys: Keys) -> Scalar:
    n: Scalar = 0
    for i in range(keys.size):
        n += drop(slots, keys[i])
    return n
