"""What a detector says of one window, and the robust middle and spread that it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

from monitor.row import Value

Direction = Literal["up", "down", "both"]

MAD_TO_STD = 1.4826
"""Of normal values, their median absolute deviation times this is their standard deviation."""


class Verdict(Struct, frozen=True):
    """What a detector says of one window."""

    is_out: bool
    reference: float | None
    """What it was held against; None where nothing can be said yet."""
    error: float | None
    """How far a window may well be from that."""
    restart: bool = False
    """The series is of another level from this window on: those before say no more."""


def unknown() -> Verdict:
    """Nothing can be said yet."""
    return Verdict(False, None, None)


def middle_of(values: Sequence[Value]) -> tuple[float, float]:
    """The median, and a robust standard deviation that is not below the median standard error."""
    known = [value.value for value in values if value.value is not None]
    middle = median(known)
    error = median(value.error or 0.0 for value in values)
    return middle, max(MAD_TO_STD * median(abs(x - middle) for x in known), error)
