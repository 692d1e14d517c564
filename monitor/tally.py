"""What is counted in a window: arrays of whole numbers by name. Windows add up, in any order, to the same bits.

What is no whole number (a loss, a length) is counted in units of 2**-20, rounded once for each slate; so neither the
order of slates nor how they were parted into blocks can be told from a sum.

>>> left, right = Tally(), Tally()
>>> left.add("click", np.array([1, 2])); right.add("click", np.array([3, 4])); right.add("like", np.array([5]))
>>> left.merge(right)
>>> left.get("click", (2,)).tolist(), left.get("purchase", (2,)).tolist()
([4, 6], [0, 0])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNIT = 2**20
"""What is no whole number is counted in parts of so many. Sums stay below 2**63 as long as they are below 8e12."""


class Packed(Struct, array_like=True):
    """An array as it is kept."""

    shape: tuple[int, ...]
    values: bytes


class Tally:
    """Named int64 arrays that add up."""

    def __init__(self) -> None:
        self.arrays: dict[str, Ints] = {}

    def add(self, name: str, counts: Ints) -> None:
        """Count in an array, of one shape for each name."""
        held = self.arrays.get(name)
        if held is None:
            self.arrays[name] = counts.copy()
        else:
            held += counts

    def merge(self, other: Tally) -> None:
        """Count in all that ``other`` has."""
        for name, counts in other.arrays.items():
            self.add(name, counts)

    def take_out(self, other: Tally) -> None:
        """Undo a `merge`, to the bit."""
        for name, counts in other.arrays.items():
            self.arrays[name] -= counts

    def get(self, name: str, shape: tuple[int, ...]) -> Ints:
        """What was counted by a name, zeros if nothing was."""
        held = self.arrays.get(name)
        return np.zeros(shape, np.int64) if held is None else held

    def only(self, prefix: str) -> Tally:
        """A tally of the names that begin so; it shares their arrays."""
        part = Tally()
        part.arrays = {name: counts for name, counts in self.arrays.items() if name.startswith(prefix)}
        return part

    def encode(self) -> dict[str, Packed]:
        """All of it."""
        return {name: pack(counts) for name, counts in self.arrays.items()}

    @classmethod
    def decode(cls, packed: Mapping[str, Packed]) -> Tally:
        """What was encoded."""
        tally = cls()
        tally.arrays = {name: unpack(counts, np.int64) for name, counts in packed.items()}
        return tally


def pack(array: NDArray[Any]) -> Packed:
    """An array as bytes."""
    return Packed(array.shape, array.tobytes())


def unpack(packed: Packed, dtype: type[np.generic]) -> NDArray[Any]:
    """The array again, a copy that may be written to."""
    return np.frombuffer(packed.values, dtype).reshape(packed.shape).copy()


def in_units(values: Floats) -> Ints:
    """Values as whole numbers of units, each rounded to the nearest."""
    return np.rint(values * UNIT).astype(np.int64)
