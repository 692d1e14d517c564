"""NE and calibration of parts of the traffic: by position, age, popularity, and the values of declared features.

Of each part eight sums are kept, from which both figures and their errors follow, a candidate being the unit. A
feature's values go into 512 hashed slots, each with the least and the greatest key it has met; one that two values
share is left out, so a feature with hundreds of values has a few slices and one with thousands none.

>>> slices = Slices()
>>> slices.add("position", np.array([0, 1, 0]), np.array([0.25, 0.5, 0.5]), np.array([0.0, 1.0, 1.0]))
>>> slices.values()["slices.calibration.position.0"].value
0.75
"""

from __future__ import annotations

from sys import intern

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.moments import entropy_error, ratio
from monitor.row import Value
from monitor.tally import UNIT, Floats, Ints, Packed, Tally, in_units, pack, unpack
from trainer.jit import njit
from trainer.keymap import mix
from trainer.scores import entropy, losses

PARTS = {
    "position": tuple(f"position.{i}" for i in range(16)),
    "item_age": ("item.new", "item.old"),
    "user_age": ("user.new", "user.old"),
    "popularity": ("item.head", "item.tail"),
}
"""What traffic is parted by besides features, and what the parts are called. The last position stands for all behind it
as well."""
N_SUMS = 8  # candidates, labels, predictions, losses, losses squared, label * loss, predictions squared, label * pred.
N_SLOTS = 512
HEAVIEST = 8
"""So many values of a feature are told, those with the most candidates."""
_NONE = np.uint64(2**64 - 1)


class SlicesState(Struct, array_like=True):
    """As it is kept."""

    sums: dict[str, Packed]
    low: dict[str, Packed]
    high: dict[str, Packed]


class Slices:
    """Sums by slice. Adds up exactly."""

    def __init__(self) -> None:
        self._sums = Tally()
        self._low: dict[str, NDArray[np.uint64]] = {}
        self._high: dict[str, NDArray[np.uint64]] = {}

    def add(self, name: str, part: Ints, p: Floats, y: Floats) -> None:
        """Candidates: the part of each among ``PARTS[name]``, prediction and label, all ``[N]``."""
        self._add(name, len(PARTS[name]), part, p, y)

    def add_feature(self, name: str, keys: NDArray[np.uint64], p: Floats, y: Floats) -> None:
        """Candidates with their keys in a field, uint64 ``[N]``; 0 for one that has none."""
        keys = np.ascontiguousarray(keys)
        if name not in self._low:
            self._low[name] = np.full(N_SLOTS, _NONE)
            self._high[name] = np.zeros(N_SLOTS, np.uint64)
        slot = _slots(keys, self._low[name], self._high[name])
        self._add(f"feature.{name}", N_SLOTS, slot, p, y)

    def _add(self, name: str, n: int, part: Ints, p: Floats, y: Floats) -> None:
        inside = part >= 0
        part, p, y = part[inside], p[inside], y[inside].astype(np.float64)
        loss = losses(p, y)
        sums = np.zeros((n, N_SUMS), np.int64)
        sums[:, 0], sums[:, 1] = np.bincount(part, minlength=n), np.bincount(part, y, n)
        for i, values in enumerate((p, loss, loss**2, y * loss, p**2, y * p), 2):
            # whole numbers below 2**53 as floats: their sum is exact
            sums[:, i] = np.bincount(part, in_units(values), n)
        self._sums.add(name, sums)

    def merge(self, other: Slices) -> None:
        """Count in what ``other`` has."""
        self._sums.merge(other._sums)
        for name in other._low:
            low, high = other._low[name], other._high[name]
            self._low[name] = np.minimum(self._low.get(name, low), low)
            self._high[name] = np.maximum(self._high.get(name, high), high)

    def values(self) -> dict[str, Value]:
        """The figures of all slices that are not empty, by name."""
        found: dict[str, Value] = {}
        for name, sums in self._sums.arrays.items():
            if name in PARTS:
                for part, row in zip(PARTS[name], sums, strict=True):
                    _tell(part, row, found)
            else:
                self._of_feature(name.removeprefix("feature."), sums, found)
        return found

    def _of_feature(self, name: str, sums: Ints, found: dict[str, Value]) -> None:
        alone = np.flatnonzero((self._low[name] == self._high[name]) & (sums[:, 0] > 0))
        keys = self._low[name]
        heaviest = sorted(alone.tolist(), key=lambda slot: (-int(sums[slot, 0]), int(keys[slot])))
        for slot in heaviest[:HEAVIEST]:
            _tell(f"{name}.{int(keys[slot]):016x}", sums[slot], found)

    def encode(self) -> SlicesState:
        """All of it."""
        return SlicesState(
            self._sums.encode(),
            {name: pack(keys) for name, keys in self._low.items()},
            {name: pack(keys) for name, keys in self._high.items()},
        )

    @classmethod
    def decode(cls, state: SlicesState) -> Slices:
        """What was encoded."""
        slices = cls()
        slices._sums = Tally.decode(state.sums)
        slices._low = {name: unpack(keys, np.uint64) for name, keys in state.low.items()}
        slices._high = {name: unpack(keys, np.uint64) for name, keys in state.high.items()}
        return slices


def _tell(part: str, row: Ints, found: dict[str, Value]) -> None:
    n, clicks, predicted, loss, loss_2, click_loss, predicted_2, click_predicted = (int(v) for v in row)
    if n == 0:
        return
    n_units, y = n * UNIT, clicks * UNIT
    # as of slates of one candidate: ones, labels, predictions, losses; a label squared is itself
    sums = np.array(
        [
            [n_units, y, predicted, loss],
            [y, y, click_predicted, click_loss],
            [predicted, click_predicted, predicted_2, 0],  # of a prediction with its loss nobody asks
            [loss, click_loss, 0, loss_2],
        ],
        np.int64,
    )
    h = entropy(clicks / n)
    ne = loss / n_units / h if h > 0 else None
    found[intern(f"slices.ne.{part}")] = Value(ne, n, entropy_error(sums, 0, 1, 3))
    found[intern(f"slices.calibration.{part}")] = ratio(sums, 2, 1, n)


@njit
def _slots(keys: NDArray[np.uint64], low: NDArray[np.uint64], high: NDArray[np.uint64]) -> Ints:
    """Slot of each key, int64 ``[n]``, -1 for 0; the least and the greatest key of each slot are noted."""
    found = np.full(keys.size, -1, np.int64)
    for i in range(keys.size):
        if keys[i] != 0:
            slot = np.int64(mix(keys[i]) >> np.uint64(55))
            low[slot] = min(low[slot], keys[i])
            high[slot] = max(high[slot], keys[i])
            found[i] = slot
    return found
