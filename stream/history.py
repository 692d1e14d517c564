"""One user's past behaviours in the order of event time, and how they looked before a moment.

The joiner builds samples from it and the ranker's profiles answer requests from it, so that training and
serving cut a sequence in the same way::

    at_ms   10  20  20  35          before(35, limit=2, ttl_ms=100) -> the two at 20
    keys    a   b   c   d           before(35, limit=2, ttl_ms=14)  -> none: 20 is older than 35 - 14

To be kept outside, a history falls into blocks of `BLOCK` behaviours by their number, the forgotten ones counted.
So a new behaviour changes the newest block alone, however long the history is, and what is forgotten changes none::

    number       0 ...        31 | 32 ...     63 | 64  65        two were forgotten: block 0 is kept as 2 .. 31
    block             0          |       1       |   2           one comes: block 2 is written again, with 64 .. 66
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from struct import Struct

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Behaviours of a block: half of it is written again for one more, and each is a record of its own."""

_HEADER = Struct("<II")


class History:
    """Behaviours sorted by event time, then by arrival.

    Columns are flat arrays that grow at the end: nearly every behaviour is newer than all before it, and one
    that is not is moved in. Two behaviours are the same if item, features, kind and millisecond agree.

    >>> history = History(n_fields=1)
    >>> history.add([7], 20, kind=1), history.add([5], 10, kind=1), history.add([7], 20, kind=1)
    (True, True, False)
    >>> history.before(21)[0].ravel().tolist()
    [5, 7]
    """

    __slots__ = ("_at", "_changed_from", "_kept", "_keys", "_kinds", "first", "n_fields")

    def __init__(self, n_fields: int) -> None:
        self.n_fields = n_fields
        self.first = 0
        """Number of the oldest behaviour: how many were forgotten."""
        self._changed_from = 0  # behaviours before this number are in the blocks given out as they are
        self._kept = range(0)  # blocks that may be kept outside
        self._keys = array("Q")
        self._at = array("q")
        self._kinds = array("Q")

    def __len__(self) -> int:
        return len(self._at)

    @property
    def end(self) -> int:
        """Number that the next behaviour gets if it is the newest."""
        return self.first + len(self._at)

    @property
    def newest_ms(self) -> int:
        """Event time of the most recent behaviour; -1 if there is none."""
        return self._at[-1] if self._at else -1

    def add(self, keys: Sequence[int], at_ms: int, kind: int) -> bool:
        """Put a behaviour in its place, behind those of the same millisecond.

        Parameters
        ----------
        keys
            The item and its features, ``n_fields`` keys of 64 bits.
        kind
            Key of the kind of action.

        Returns
        -------
        bool
            False if the same behaviour is already there; nothing changes then.
        """
        at, n_fields = self._at, self.n_fields
        if not at or at_ms > at[-1]:
            self._keys.extend(keys)
            at.append(at_ms)
            self._kinds.append(kind)
            return True
        row = array("Q", keys)
        i = j = bisect_right(at, at_ms)
        while j and at[j - 1] == at_ms:
            j -= 1
            if self._kinds[j] == kind and self._keys[j * n_fields : (j + 1) * n_fields] == row:
                return False
        self._keys[i * n_fields : i * n_fields] = row
        at.insert(i, at_ms)
        self._changed_from = min(self._changed_from, self.first + i)
        self._kinds.insert(i, kind)
        return True

    def packed_before(self, at_ms: int, limit: int = 2**31, ttl_ms: int = 2**62) -> tuple[bytes, bytes]:
        """As `before`, as the bytes that travel in a Sample."""
        stop = bisect_left(self._at, at_ms)
        start = max(bisect_left(self._at, at_ms - ttl_ms, 0, stop), stop - limit)
        return (
            self._keys[start * self.n_fields : stop * self.n_fields].tobytes(),
            self._at[start:stop].tobytes(),
        )

    def before(
        self, at_ms: int, limit: int = 2**31, ttl_ms: int = 2**62
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The behaviours strictly before a moment.

        Parameters
        ----------
        limit
            At most so many, the most recent ones.
        ttl_ms
            None that is older than this at that moment.

        Returns
        -------
        keys, at_ms
            uint64 ``[L, n_fields]`` and int64 ``[L]``, oldest first; copies.
        """
        keys, at = self.packed_before(at_ms, limit, ttl_ms)
        return np.frombuffer(keys, np.uint64).reshape(-1, self.n_fields), np.frombuffer(at, np.int64)

    def trim(self, from_ms: int, limit: int = 2**31, ttl_ms: int = 2**62) -> int:
        """Forget what no answer can need if nothing older than ``from_ms`` is asked or added any more.

        Every later ``before(at_ms, limit, ttl_ms)`` with ``at_ms >= from_ms`` stays the same, whatever is
        added at or after ``from_ms`` in between.

        Returns
        -------
        int
            How many were forgotten.
        """
        fixed = bisect_left(self._at, from_ms)
        n = max(bisect_left(self._at, from_ms - ttl_ms, 0, fixed), fixed - limit)
        if n > 0:
            del self._keys[: n * self.n_fields], self._at[:n], self._kinds[:n]
            self.first += n
        return max(n, 0)

    def blocks(self) -> dict[int, bytes]:
        """All blocks by number; they may be kept from now on, so `changed_blocks` says which are to go."""
        now, kept = self._blocks(), self._kept
        if now:
            self._kept = range(min(kept.start, now.start), now.stop) if kept else now
        return {n: self._encode_block(n) for n in now}

    def changed_blocks(self) -> dict[int, bytes | None]:
        """The blocks that differ from those given out so far, by number; None for one that is to go."""
        now, kept = self._blocks(), self._kept
        changed: dict[int, bytes | None] = dict.fromkeys(n for n in kept if n not in now)
        if self._changed_from < self.end:
            for n in range(max(now.start, self._changed_from // BLOCK), now.stop):
                changed[n] = self._encode_block(n)
        self._changed_from, self._kept = self.end, now
        return changed

    @property
    def kept_blocks(self) -> range:
        """The blocks that may be kept outside."""
        return self._kept

    @classmethod
    def from_columns(
        cls, keys: NDArray[np.uint64], at_ms: NDArray[np.int64], kinds: NDArray[np.uint64]
    ) -> History:
        """The history of behaviours that are in order already: keys ``[n, n_fields]``, the others ``[n]``."""
        history = cls(keys.shape[1])
        history._keys.frombytes(keys.tobytes())
        history._at.frombytes(at_ms.tobytes())
        history._kinds.frombytes(kinds.tobytes())
        return history

    @classmethod
    def of_blocks(cls, blocks: Mapping[int, bytes], n_fields: int, first: int, end: int) -> History:
        """The history whose behaviours ``first`` to ``end`` are in these blocks, as they were given out last.

        Raises
        ------
        ValueError
            If behaviours are missing, or were written with other fields than these.
        """
        history = cls(n_fields)
        history.first = first
        needed = history._blocks_of(first, end)
        for n in needed:
            if n not in blocks:
                raise ValueError(
                    f"history: expected blocks {needed.start} to {needed.stop - 1}, got none {n}"
                )
            history._append(blocks[n], min((n + 1) * BLOCK, end))
        if history.end != end:
            raise ValueError(f"history: expected behaviours {first} to {end}, got {history.end - first}")
        history._changed_from = end
        history._kept = range(min(blocks, default=0), max(blocks, default=-1) + 1)
        return history

    def _blocks(self) -> range:
        return self._blocks_of(self.first, self.end)

    @staticmethod
    def _blocks_of(first: int, end: int) -> range:
        return range(first // BLOCK, -(-end // BLOCK)) if first < end else range(0)

    def _encode_block(self, n: int) -> bytes:
        start = max(n * BLOCK - self.first, 0)
        stop = (n + 1) * BLOCK - self.first
        at, width = self._at[start:stop], self.n_fields
        keys = self._keys[start * width : stop * width]
        return (
            _HEADER.pack(width, len(at)) + keys.tobytes() + at.tobytes() + self._kinds[start:stop].tobytes()
        )

    def _append(self, raw: bytes, end: int) -> None:
        """Add the behaviours of a block that ends before number ``end``, but those that are here or forgotten."""
        if len(raw) < _HEADER.size:
            raise ValueError(f"history: expected at least {_HEADER.size} bytes, got {len(raw)}")
        width, n = _HEADER.unpack_from(raw)
        if width != self.n_fields:
            raise ValueError(f"history: expected {self.n_fields} keys a behaviour, got {width}")
        if len(raw) != (whole := _HEADER.size + n * 8 * (width + 2)):
            raise ValueError(f"history: expected {whole} bytes for {n} behaviours, got {len(raw)}")
        skip = self.end - (end - n)
        if not 0 <= skip <= n:
            raise ValueError(f"history: expected behaviours from {self.end} on, got {end - n} to {end}")
        keys, at = _HEADER.size, _HEADER.size + n * 8 * width
        kinds = at + n * 8
        self._keys.frombytes(raw[keys + skip * 8 * width : at])
        self._at.frombytes(raw[at + skip * 8 : kinds])
        self._kinds.frombytes(raw[kinds + skip * 8 :])


def digest(keys: bytes, at_ms: bytes) -> str:
    """What tells a sequence from another: 64 bits in hex, of the bytes that travel in a Sample.

    A ranker sends it along with an impression that it has scored, so the joiner can say whether the model was trained
    on the behaviours that it served with.
    """
    hashed = blake2b(keys, digest_size=8)
    hashed.update(at_ms)
    return hashed.hexdigest()
