"""What each user did up to now: the live behaviour sequences that the ranker scores with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.events import Origin
from stream.history import History
from stream.log import Unavailable


class Put(NamedTuple):
    """A behaviour to add; what its parts are, see `Profiles.put`."""

    user: int
    origin: Origin
    keys: Sequence[int]
    at_ms: int
    kind: int


class Profiles(Protocol):
    """Keeps behaviours as they arrive, at least once, and gives out the sequence as of a moment."""

    def put(self, user: int, origin: Origin, keys: Sequence[int], at_ms: int, kind: int) -> bool:
        """Add a behaviour, unless it is known.

        Parameters
        ----------
        user
            Key of the user.
        origin
            Where the action stands in the log. One that is not behind the user's last of its partition was
            applied before and changes nothing, so a log may be read again from anywhere.
        keys
            The item and its features, one key a field.
        kind
            Key of the kind of action.

        Returns
        -------
        bool
            Whether the sequence has changed.
        """

    def put_many(self, puts: Sequence[Put], known: Mapping[int, int] | None = None) -> list[bool]:
        """As `put`, one after another.

        Parameters
        ----------
        known
            The places of partitions that their reader knows of.

        Raises
        ------
        Unavailable
            If less is kept than that, as `advance`; where that is so nothing is put.
        """

    def get(self, user: int, at_ms: int, limit: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The most recent ``limit`` behaviours strictly before a moment.

        Returns
        -------
        keys, at_ms
            uint64 ``[L, F]`` and int64 ``[L]``, oldest first.
        """

    def place(self, partition: int) -> int | None:
        """The offset before which all of a partition is kept; None if that is not known, or was and is lost."""

    def begin(self, partition: int, offset: int) -> None:
        """All of a partition before this offset is kept, whatever was known of it."""

    def advance(self, moves: Mapping[int, tuple[int, int]]) -> None:
        """All before these offsets is kept now.

        Parameters
        ----------
        moves
            For each partition the place that its reader knows of, and the new one, which is not before it.

        Raises
        ------
        Unavailable
            If less is kept than its reader knows of: whoever reads must begin again, at `place`.
        """


class MemoryProfiles:
    """Profiles in memory.

    A sequence as of now is exactly what the joiner puts into a sample of now, as far as the same actions have
    come. The most recent ``max_history`` behaviours are kept at least.

    Parameters
    ----------
    n_fields
        Keys of a behaviour.
    ttl_ms
        How old a behaviour may be at the moment asked for.

    Examples
    --------
    >>> profiles = MemoryProfiles(n_fields=1)
    >>> profiles.put(9, Origin(0, 0, 0), [5], 10, kind=1), profiles.put(9, Origin(0, 0, 0), [5], 10, kind=1)
    (True, False)
    >>> profiles.get(9, at_ms=11, limit=100)[0].tolist()
    [[5]]
    """

    def __init__(self, n_fields: int, max_history: int = 2_048, ttl_ms: int = 90 * 86_400_000) -> None:
        self.n_fields = n_fields
        self.max_history = max_history
        self.ttl_ms = ttl_ms
        self._users: dict[int, tuple[dict[int, Origin], History]] = {}
        self._places: dict[int, int] = {}

    def put(self, user: int, origin: Origin, keys: Sequence[int], at_ms: int, kind: int) -> bool:
        """See `Profiles.put`."""
        last, history = self._users.setdefault(user, ({}, History(self.n_fields)))
        if origin.partition in last and origin <= last[origin.partition]:
            return False
        last[origin.partition] = origin
        is_new = history.add(keys, at_ms, kind)
        if len(history) > 2 * self.max_history:
            # whole milliseconds: one of the last kept may come again and must be known
            _, at = history.before(history.newest_ms + 1, self.max_history)
            history.trim(int(at[0]), limit=0)
        return is_new

    def put_many(self, puts: Sequence[Put], known: Mapping[int, int] | None = None) -> list[bool]:
        """See `Profiles.put_many`."""
        self._check(known or {})
        return [self.put(*one) for one in puts]

    def get(self, user: int, at_ms: int, limit: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """See `Profiles.get`."""
        _, history = self._users.get(user, ({}, History(self.n_fields)))
        return history.before(at_ms, min(limit, self.max_history), self.ttl_ms)

    def place(self, partition: int) -> int | None:
        """See `Profiles.place`."""
        return self._places.get(partition)

    def begin(self, partition: int, offset: int) -> None:
        """See `Profiles.begin`."""
        self._places[partition] = offset

    def advance(self, moves: Mapping[int, tuple[int, int]]) -> None:
        """See `Profiles.advance`."""
        self._check({partition: known for partition, (known, _) in moves.items()})
        for partition, (_, to) in moves.items():
            self._places[partition] = max(self._places[partition], to)

    def _check(self, known: Mapping[int, int]) -> None:
        for partition, offset in known.items():
            kept = self._places.get(partition)
            if kept is None or kept < offset:
                raise lost(partition, offset, kept)


def lost(partition: int, known: int, kept: int | None) -> Unavailable:
    """What `Profiles.advance` raises."""
    return Unavailable(
        f"profiles: partition {partition}",
        f"expected to keep what was read before offset {known}, got {kept} (was the store emptied or restored?)",
    )
