"""What cannot be used, and how much of a log may be."""

from __future__ import annotations

from msgspec import Struct, field

AT_LEAST = 1_000
"""Unusable records before their share can stop anything."""
STEP = 100
"""How exactly it is remembered where the last of them were."""


class Dead(Struct, frozen=True, tag_field="type", tag="dead"):
    """A record that cannot be used: why, where it came from, and its bytes."""

    reason: str
    detail: str
    partition: int
    offset: int
    value: bytes


class TooManyDeadError(RuntimeError):
    """So much of the log cannot be used that learning from the rest would be wrong."""


class Recent(Struct, array_like=True):
    """The stretch of a log with the last `AT_LEAST` unusable records, and up to `STEP` more; at first all of it.

    It is of the log alone, and neither what went well long before it nor what was let pass has a say in it.

    >>> recent = Recent()
    >>> for n_in in [*range(10_000, 20_000, 5), *range(900_000, 900_600)]:
    ...     recent.add(n_in)
    >>> recent.n_dead, recent.n_in  # the last 400 of the first, and what lies between
    (1000, 882604)
    """

    n_all: int = 0
    last: int = 0
    begins: list[int] = field(default_factory=lambda: [0])
    """How many records had come by each `STEP`-th unusable one, of as many as are needed."""

    def add(self, n_in: int) -> None:
        """One more is unusable, the ``n_in``-th of the log."""
        self.n_all += 1
        self.last = n_in
        if self.n_all % STEP == 0:
            self.begins = [*self.begins, n_in][-AT_LEAST // STEP - 1 :]

    @property
    def n_dead(self) -> int:
        """Unusable records in the stretch."""
        return (len(self.begins) - 1) * STEP + self.n_all % STEP

    @property
    def n_in(self) -> int:
        """All records in the stretch, which ends with an unusable one."""
        return self.last - self.begins[0]


def check_dead(last: Dead, recent: Recent, max_dead: float) -> None:
    """Stop where more than a share of the records cannot be used.

    Parameters
    ----------
    last
        The last of them, to tell of.
    recent
        The stretch that ends with it.
    max_dead
        The share of its records that may be unusable; few are never too many, see `AT_LEAST`.

    Raises
    ------
    TooManyDeadError
        If they are more than that.

    Examples
    --------
    >>> recent = Recent()
    >>> for n_in in range(3, 3_001, 3):
    ...     recent.add(n_in)
    >>> check_dead(Dead("schema", "schema", 0, 7, b"?"), recent, 0.2)
    Traceback (most recent call last):
    stream.dead.TooManyDeadError: events 0:7: expected at most 20% unusable records, got 1000 of 3000; the last: schema
    """
    if recent.n_dead >= AT_LEAST and recent.n_dead > max_dead * recent.n_in:
        raise TooManyDeadError(
            f"events {last.partition}:{last.offset}: expected at most {max_dead:.0%} unusable records, "
            f"got {recent.n_dead} of {recent.n_in}; the last: {last.detail}"
        )
