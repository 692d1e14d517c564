"""One user's past behaviours in the order of event time, and how they looked before a moment.

The joiner builds samples from it and the ranker's profiles answer requests from it, so that training and
serving cut a sequence in the same way::

    at_ms   10  20  20  35          before(35, limit=2, ttl_ms=100) -> the two at 20
    keys    a   b   c   d           before(35, limit=2, ttl_ms=14)  -> none: 20 is older than 35 - 14
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from struct import Struct

import numpy as np
from numpy.typing import NDArray

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

    __slots__ = ("_at", "_keys", "_kinds", "n_fields")

    def __init__(self, n_fields: int) -> None:
        self.n_fields = n_fields
        self._keys = array("Q")
        self._at = array("q")
        self._kinds = array("Q")

    def __len__(self) -> int:
        return len(self._at)

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
        return max(n, 0)

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

    def encode(self) -> bytes:
        """All of it as bytes; the same behaviours in the same order give the same bytes."""
        head = _HEADER.pack(self.n_fields, len(self))
        return head + self._keys.tobytes() + self._at.tobytes() + self._kinds.tobytes()

    @classmethod
    def decode(cls, raw: bytes, n_fields: int) -> History:
        """The history that `encode` wrote.

        Raises
        ------
        ValueError
            If it was written with other fields than these, or is not whole.
        """
        if len(raw) < _HEADER.size:
            raise ValueError(f"history: expected at least {_HEADER.size} bytes, got {len(raw)}")
        width, n = _HEADER.unpack_from(raw)
        if width != n_fields:
            raise ValueError(f"history: expected {n_fields} keys a behaviour, got {width}")
        if len(raw) != (whole := _HEADER.size + n * 8 * (width + 2)):
            raise ValueError(f"history: expected {whole} bytes for {n} behaviours, got {len(raw)}")
        history = cls(n_fields)
        keys_end = _HEADER.size + n * 8 * width
        history._keys.frombytes(raw[_HEADER.size : keys_end])
        history._at.frombytes(raw[keys_end : keys_end + n * 8])
        history._kinds.frombytes(raw[keys_end + n * 8 :])
        return history
