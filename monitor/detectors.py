"""Detectors: the windows before and the newest one in, a verdict out. Nothing else is remembered.

A detector is a value of numbers; what it holds a window against are the last windows that were as usual, in `Usual`.

>>> usual = Usual()
>>> band = Band(z=5, ratio=0.3)
>>> for value in [0.40, 0.42, 0.41, 0.39, 0.40, 0.41, 0.42, 0.40, 0.41, 0.40, 0.02]:
...     verdict = usual.judge(band, Value(value, 300, 0.03))
>>> verdict.is_out, verdict.reference, verdict.error
(True, 0.405, 0.03)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from monitor.changes import Adwin, Kswin, PageHinkley
from monitor.row import Value
from monitor.verdict import Direction, Verdict, middle_of, unknown

Count = Annotated[int, Meta(ge=0, le=10_000)]
Positive = Annotated[float, Meta(ge=0)]


class Band(Struct, frozen=True, tag_field="kind", tag="band", forbid_unknown_fields=True):
    """Out where a window is far from the middle of the windows before, by every measure that is given.

    The middle is their median. How far a window may well be from it is the greatest of their median absolute deviation,
    their median standard error and its own: many alike windows make no narrower a band than their figures are sure.
    """

    direction: Direction = "both"
    z: Positive = 0.0
    """So many of these."""
    ratio: Positive = 0.0
    """So great a share of the middle."""
    margin: Positive = 0.0
    """So much, in the measure's unit."""
    least_before: Annotated[int, Meta(ge=3, le=10_000)] = 10
    """Windows before, below which nothing is said."""

    def judge(self, before: Sequence[Value], now: Value) -> Verdict:
        if len(before) < self.least_before or now.value is None:
            return unknown()
        middle, spread = middle_of(before)
        spread = max(spread, now.error or 0.0)
        far = now.value - middle
        if (self.direction == "up" and far <= 0) or (self.direction == "down" and far >= 0) or far == 0:
            return Verdict(False, middle, spread)
        is_out = abs(far) >= max(self.z * spread, self.ratio * abs(middle), self.margin)
        return Verdict(is_out, middle, spread)


class Limits(Struct, frozen=True, tag_field="kind", tag="limits", forbid_unknown_fields=True):
    """Out where a window is surely above or below a fixed limit: by ``z`` of its standard errors, where it has one."""

    above: float | None = None
    below: float | None = None
    z: Positive = 0.0
    least_before: Count = 0
    """Windows before, below which nothing is said: at the beginning all keys are new."""

    def judge(self, before: Sequence[Value], now: Value) -> Verdict:
        if len(before) < self.least_before or now.value is None:
            return unknown()
        slack = self.z * (now.error or 0.0)
        if self.above is not None and now.value - slack > self.above:
            return Verdict(True, self.above, None)
        if self.below is not None and now.value + slack < self.below:
            return Verdict(True, self.below, None)
        return Verdict(False, self.above if self.above is not None else self.below, None)


class First(Struct, frozen=True, tag_field="kind", tag="first", forbid_unknown_fields=True):
    """Out where something is above a limit that none of the last windows was above: it had not happened."""

    above: float = 0.0
    least_before: Annotated[int, Meta(ge=1, le=10_000)] = 30

    def judge(self, before: Sequence[Value], now: Value) -> Verdict:
        last = before[-self.least_before :]
        if len(last) < self.least_before or now.value is None:
            return unknown()
        most = max(value.value or 0.0 for value in last)
        is_out = now.value > self.above >= most
        return Verdict(is_out, most, None, restart=is_out)


Detector = Band | Limits | First | Adwin | PageHinkley | Kswin


class Usual(Struct):
    """The windows of one series that were as usual, and those since it is out: all that judging needs to remember.

    Windows that are out are not added to what is usual, so that an hour without clicks does not become the band. When
    ``adopt`` of them have followed each other, the series has a new level, and they become what is usual.
    """

    before: list[Value] = []
    out: list[Value] = []
    """Since the series is out; empty while it is not."""

    def judge(self, detector: Detector, now: Value, keep: int = 60, adopt: int = 60) -> Verdict:
        """Judge a window, and remember it.

        Parameters
        ----------
        keep
            Windows that are remembered.
        """
        verdict = detector.judge(self.before, now)
        if verdict.restart:  # a change of level is told once, with the window that shows it
            self.before, self.out = [now], []
        elif verdict.is_out and len(self.out) + 1 < adopt:
            self.out.append(now)
        else:
            self.before = [*self.before, now][-keep:] if not verdict.is_out else [*self.out, now][-keep:]
            self.out = []
        return verdict
