"""How much of a log may be unusable."""

from __future__ import annotations

from stream.join import Dead

AT_LEAST = 1_000
"""Dead records before their share can stop anything."""


class TooManyDeadError(RuntimeError):
    """So much of the log cannot be used that learning from the rest would be wrong."""


def check_dead(last: Dead, n_dead: int, n_in: int, max_dead: float) -> None:
    """Stop where more than a share of the records cannot be used.

    Parameters
    ----------
    last
        One of them, to tell of.
    n_dead, n_in
        Records that could not be used, of so many.
    max_dead
        The share of them that may be; few are never too many, see `AT_LEAST`.

    Raises
    ------
    TooManyDeadError
        If they are more than that.

    Examples
    --------
    >>> check_dead(Dead("schema", "schema", 0, 7, b"?"), 1_200, 4_000, 0.2)
    Traceback (most recent call last):
    stream.dead.TooManyDeadError: events 0:7: expected at most 20% unusable records, got 1200 of 4000; the last: schema
    """
    if n_dead >= AT_LEAST and n_dead > max_dead * n_in:
        raise TooManyDeadError(
            f"events {last.partition}:{last.offset}: expected at most {max_dead:.0%} unusable records, "
            f"got {n_dead} of {n_in}; the last: {last.detail}"
        )
