"""Where each partition of the events stands: what was read, what is durable, and which offsets hold no record."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from stream.log import LogError


class Keeper(Protocol):
    """Who keeps what is read, and how far that was; see `stream.profiles.Profiles`."""

    def place(self, partition: int) -> int | None:
        """The offset before which all of a partition is kept."""

    def begin(self, partition: int, offset: int) -> None:
        """All of a partition before this offset is kept."""


class Places:
    """Where each partition of the events stands, as far as this process knows.

    The consumer's thread tells where it goes on from and what it gives out (`sought`, `fetched`, `lost`); the other
    methods are for the thread that the agent runs on.

    Examples
    --------
    Here offset 8 ends a transaction:

    >>> places = Places()
    >>> places.sought(0, 7)
    >>> places.begin(0, 7, end=9)
    >>> places.fetched(0, [7, 9, 10], 11)
    >>> places.take(0, 6), places.take(0, 7), places.take(0, 9)
    (False, True, True)
    >>> places.take(0, 11)
    Traceback (most recent call last):
    stream.frames.LogError: events: partition 0: expected offset 10, got 11: one between was given out and not seen
    """

    def __init__(self) -> None:
        self.next: dict[int, int] = {}
        """The next offset to be read."""
        self.durable: dict[int, int] = {}
        """The offset before which everything is kept."""

        self.end: dict[int, int] = {}
        """What the next offset to be written was when reading began."""

        self._fetched: dict[int, int] = {}
        self._passed: dict[int, dict[int, int]] = {}
        """Offsets at which the consumer was given nothing, and the next at which it may be; those not yet durable."""

    def sought(self, partition: int, offset: int) -> None:
        """The consumer goes on from here."""
        self._fetched[partition], self._passed[partition] = offset, {}

    def fetched(self, partition: int, offsets: Iterable[int], to: int) -> None:
        """The consumer has given out these, in order, and gone on to ``to``: at no other offset it was given any."""
        if (at := self._fetched.get(partition)) is None:
            return
        durable = self.durable.get(partition, 0)
        passed = {a: b for a, b in self._passed[partition].items() if a >= durable}
        for offset in (*offsets, to):
            if offset > at:
                passed[at] = offset
            at = offset + 1
        self._fetched[partition], self._passed[partition] = to, passed

    def lost(self) -> None:
        """The consumer may go on from anywhere, until it is told."""
        self._fetched.clear()

    def begin(self, partition: int, offset: int, end: int) -> None:
        """Reading goes on from here, and all before is durable."""
        self.next[partition], self.end[partition] = offset, end
        self.durable[partition] = max(offset, self.durable.get(partition, 0))

    def forget_all_but(self, mine: Collection[int]) -> None:
        """Others read on in the partitions that are not among these."""
        for of in (self.next, self.end, self.durable):
            for partition in of.keys() - mine:
                del of[partition]

    def take(self, partition: int, offset: int) -> bool:
        """Let a record be read; False if it is one from before the place where reading began.

        Raises
        ------
        LogError
            If one before it was not, which nobody would see again.
        """
        expected = self.next.get(partition)
        if expected is not None and offset > expected:
            expected = self.beyond(partition, expected)
        if expected is None or offset > expected:
            raise LogError(
                f"events: partition {partition}",
                f"expected offset {expected}, got {offset}: one between was given out and not seen",
            )
        if offset == expected:
            self.next[partition] = offset + 1
        return offset == expected

    def beyond(self, partition: int, offset: int) -> int:
        """The offset itself, or the next one behind it at which the consumer was given a record, or may be."""
        passed = self._passed.get(partition, {})
        while (to := passed.get(offset)) is not None:
            offset = to
        return offset

    def keep(self, partition: int, offset: int) -> None:
        """All before this offset is durable; nothing to us if the partition is no longer ours."""
        if partition in self.durable:
            self.durable[partition] = max(offset, self.durable[partition])
            self.next[partition] = max(offset, self.next[partition])


__all__ = ["Keeper", "Places"]
