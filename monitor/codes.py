"""How embeddings and their codes move: a bounded sample of rows, what each publication does to them, and the search.

Held are rows of the coded fields, chosen by their keys' level (`monitor.keys`): all of them until there are too many of
a field, then half, a quarter ... A code is what `trainer.model.simhash` makes of the vector, as the indexer does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.keys import levels
from monitor.moments import moments, ratio, total
from monitor.row import Value
from monitor.sampled import Searched
from monitor.tally import Floats, Packed, Tally, pack, unpack
from trainer.keymap import KeyMap
from trainer.model.search import hamming_top_k, inner_top_k
from trainer.model.simhash import encode, hamming, item_codes
from trainer.publication import Publication

MOST_ROWS = 65_536
LARGEST = 1_000.0
"""A row that grows by more than this is counted as growing by this."""


class CodesState(Struct, array_like=True):
    """The rows held, as they are kept."""

    levels: list[int]
    keys: Packed
    fields: Packed
    vectors: Packed


class Codes:
    """Rows held. Row 0 is the null row: key 0, zeros.

    Parameters
    ----------
    planes
        float32 ``[coded fields, dim, bits]``, those of the trainer.
    most
        Rows held of all fields together; each field has its part.
    """

    def __init__(self, planes: NDArray[np.float32], most: int = MOST_ROWS) -> None:
        self._planes = planes
        self._most = max(1, most // max(1, len(planes)))
        self._levels = [0] * len(planes)
        self._own_bits = [int((of_field != 0).any(0).sum()) for of_field in planes]
        self._slots = KeyMap()
        self._free: list[int] = []
        self._fields = np.full(1, -1, np.int64)  # -1 for a place that is free
        self._keys = np.zeros(1, np.uint64)
        self._vectors = np.zeros((1, planes.shape[1]), np.float32)
        self._codes = np.zeros((1, planes.shape[2] // 64), np.uint64)

    @property
    def n_rows(self) -> int:
        """Rows held."""
        return len(self._slots)

    def apply(self, publication: Publication, tally: Tally) -> None:
        """Take a publication over, and count what it changes."""
        tally.add("rows", np.array([len(publication.keys)]))
        for number, planes in enumerate(self._planes):
            of_field = publication.fields == number
            if of_field.any():
                self._apply_field(
                    number, planes, publication.keys[of_field], publication.vectors[of_field], tally
                )
        self._remove(publication.tombstones)

    def _apply_field(
        self,
        number: int,
        planes: NDArray[np.float32],
        keys: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        tally: Tally,
    ) -> None:
        vectors = vectors[:, : planes.shape[0]]  # what is auxiliary has no code
        tally.add("norm", moments(_norms(vectors)[:, None]))
        chosen = levels(keys) >= self._levels[number]
        keys, vectors = keys[chosen], np.ascontiguousarray(vectors[chosen])
        codes = encode(vectors, planes)
        slots = self._slots.find(keys)
        there = slots >= 0
        old = slots[there]
        before = _norms(self._vectors[old])
        change = _norms(vectors[there] - self._vectors[old])[before > 0] / before[before > 0]
        tally.add("update", moments(np.minimum(change, LARGEST)[:, None]))
        flipped = hamming(codes[there], self._codes[old]) / self._own_bits[number]
        tally.add("flipped", moments(flipped[:, None]))
        new = np.flatnonzero(~there)
        slots[new] = self._allot(len(new))
        self._slots.put(keys[new], slots[new])
        self._fields[slots], self._keys[slots] = number, keys
        self._vectors[slots], self._codes[slots] = vectors, codes
        while (held := np.flatnonzero(self._fields == number)).size > self._most:
            self._levels[number] += 1
            self._remove(self._keys[held[levels(self._keys[held]) < self._levels[number]]])

    def _allot(self, n: int) -> NDArray[np.int64]:
        """Places for new rows, freed ones first."""
        if len(self._free) < n:
            held, more = len(self._keys), max(1_024, len(self._keys), n)
            self._fields = np.concatenate([self._fields, np.full(more, -1)])
            self._keys = np.concatenate([self._keys, np.zeros(more, np.uint64)])
            self._vectors = np.concatenate(
                [self._vectors, np.zeros((more, self._vectors.shape[1]), np.float32)]
            )
            self._codes = np.concatenate([self._codes, np.zeros((more, self._codes.shape[1]), np.uint64)])
            self._free.extend(range(held + more - 1, held - 1, -1))
        return np.array([self._free.pop() for _ in range(n)], np.int64)

    def _remove(self, keys: NDArray[np.uint64]) -> None:
        slots = self._slots.find(keys)
        slots = slots[slots > 0]
        self._slots.remove(self._keys[slots])
        self._fields[slots] = -1
        self._free.extend(slots.tolist())

    def look(self) -> dict[str, Value]:
        """How the codes of items are spread over their bits, as they stand now."""
        items = np.flatnonzero(self._fields == 0)
        n = len(items)
        if n == 0:
            return {"codes.balance": Value(None, 0), "codes.bucket_entropy": Value(None, 0)}
        codes = self._codes[items]
        own = np.flatnonzero((self._planes[0] != 0).any(0))
        bits = np.unpackbits(codes.view(np.uint8), axis=1, bitorder="little")[:, own]
        means = bits.mean(0)
        share = np.unique(codes[:, 0] & np.uint64(0xFFFF), return_counts=True)[1] / n
        return {
            "codes.balance": Value(float(np.abs(means - 0.5).mean()), n),
            "codes.bucket_entropy": Value(float(-(share * np.log2(share)).sum()), n),
        }

    def search(self, slates: Sequence[Searched], n_fields: int, k: int, tally: Tally) -> None:
        """Try the search by codes against the exact one, on what is held of some histories."""
        n_coded = len(self._planes)
        found = []
        for slate in slates:
            items, sequence = (self._find(keys[:, :n_coded]) for keys in slate.keys(n_fields))
            if len(items) == 0 or len(sequence) <= k:
                continue
            place = (np.array([0, len(items)]), np.array([0]), np.array([len(sequence)]), k)
            by_codes = hamming_top_k(
                item_codes(self._codes, items), item_codes(self._codes, sequence), *place
            )
            wide = n_coded * self._vectors.shape[1]
            exact = inner_top_k(
                self._vectors[items].reshape(-1, wide), self._vectors[sequence].reshape(-1, wide), *place
            )
            both = (by_codes.positions[:, :, None] == exact.positions[:, None, :]).any(2)
            found.append([float(len(items)), float(both.mean(1).sum())])
        tally.add("overlap", moments(np.array(found).reshape(-1, 2)))

    def _find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places ``[m, F]`` of the rows of keys ``[n, F]``, without those of which a row is not held."""
        slots = np.where(keys == 0, 0, self._slots.find(keys.ravel()).reshape(keys.shape))
        found: NDArray[np.int64] = np.ascontiguousarray(slots[(slots >= 0).all(1)])
        return found

    def encode(self) -> CodesState:
        """All of it, the codes made anew when it is read."""
        held = np.flatnonzero(self._fields >= 0)
        return CodesState(
            list(self._levels), pack(self._keys[held]), pack(self._fields[held]), pack(self._vectors[held])
        )

    def load(self, state: CodesState) -> None:
        """Go on from what was encoded. ValueError if it was of other planes."""
        keys, fields = unpack(state.keys, np.uint64), unpack(state.fields, np.int64)
        vectors = unpack(state.vectors, np.float32)
        if len(state.levels) != len(self._planes) or vectors.shape[1] != self._planes.shape[1]:
            raise ValueError(
                f"codes: expected rows of {self._planes.shape[:2]} fields and dims, got "
                f"{(len(state.levels), vectors.shape[1])}"
            )
        slots = self._allot(len(keys))
        self._levels = list(state.levels)
        self._slots.put(keys, slots)
        self._keys[slots], self._fields[slots], self._vectors[slots] = keys, fields, vectors
        for number, planes in enumerate(self._planes):
            own = slots[fields == number]
            self._codes[own] = encode(self._vectors[own], planes)


class CodesWindowState(Struct, array_like=True):
    """As it is kept."""

    tally: dict[str, Packed]
    last: dict[str, Value]


class CodesWindow:
    """What is counted of a window, and what was seen at its end."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.last: dict[str, Value] = {}

    def merge(self, other: CodesWindow) -> None:
        """Count in a later window."""
        self.tally.merge(other.tally)
        self.last = other.last or self.last

    def values(self, size_ms: int) -> dict[str, Value]:
        """All figures by name."""
        n = int(self.tally.get("rows", (1,))[0])
        found = {"codes.rows": Value(n / (size_ms / 1000), n)}
        n_refused, n_tried = self.tally.get("refused", (2,)).tolist()
        if n_tried:
            found["codes.refused"] = Value(n_refused / n_tried, n_tried)
        for name, of in (("row_norm", "norm"), ("update_norm", "update"), ("flipped", "flipped")):
            sums = self.tally.get(of, (2, 2))
            found[intern(f"codes.{name}")] = ratio(sums, 1, 0, round(total(sums, 0)))
        flipped = found["codes.flipped"]
        if flipped.value is not None:
            error = None if flipped.error is None else 180 * flipped.error
            found["codes.angle"] = Value(180 * flipped.value, flipped.n, error)
        overlap = self.tally.get("overlap", (3, 3))
        found["codes.overlap"] = ratio(overlap, 2, 1, round(total(overlap, 1)))
        return {**found, **self.last}

    def encode(self) -> CodesWindowState:
        """All of it."""
        return CodesWindowState(self.tally.encode(), self.last)

    @classmethod
    def decode(cls, state: CodesWindowState) -> CodesWindow:
        """What was encoded."""
        window = cls()
        window.tally, window.last = Tally.decode(state.tally), state.last
        return window


def _norms(vectors: NDArray[np.float32]) -> Floats:
    norms: Floats = np.sqrt((vectors.astype(np.float64) ** 2).sum(1))
    return norms


__all__ = ["MOST_ROWS", "Codes", "CodesState", "CodesWindow", "CodesWindowState"]
