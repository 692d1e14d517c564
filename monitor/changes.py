"""river's change detectors over the windows before and the newest one: a verdict for the window that shows a change.

Each is fed anew with the windows that are remembered, so nothing but those is state; 60 of them take river
about a millisecond at most, once a window. Values are standardised first, by the middle and spread of the first
``least_before`` windows: the numbers of a detector mean the same for every measure then.

>>> steady = [Value(1.0 + 0.01 * (n % 3), 500, 0.01) for n in range(40)]
>>> risen = [Value(1.03 + 0.01 * (n % 3), 500, 0.01) for n in range(20)]
>>> said = [PageHinkley("up").judge((steady + risen)[:n], (steady + risen)[n]).is_out for n in range(60)]
>>> said.index(True)
45
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any

from msgspec import Meta, Struct

from monitor.row import Value
from monitor.verdict import Direction, Verdict, middle_of, unknown

Least = Annotated[int, Meta(ge=3, le=10_000)]

FARTHEST = 6.0
"""Standard deviations at which a window is cut off: one wild window is no change of level."""


def _river(name: str) -> Any:
    """One of river's detectors; it takes a second to import, so only who uses one does."""
    from river import drift

    return getattr(drift, name)


class Adwin(Struct, frozen=True, tag_field="kind", tag="adwin", forbid_unknown_fields=True):
    """ADWIN: two parts of the windows whose means differ by more than chance (Bifet and Gavaldà 2007)."""

    direction: Direction = "both"
    delta: Annotated[float, Meta(gt=0, lt=1)] = 0.002
    least_before: Least = 20

    def judge(self, before: Sequence[Value], now: Value) -> Verdict:
        if len(before) < self.least_before or now.value is None:
            return unknown()
        detector = _river("ADWIN")(delta=self.delta, clock=1, min_window_length=3)
        for n, x in enumerate(standardised([*before, now], self.least_before), 1):
            detector.update(x)
            if detector.drift_detected:
                return _changed(before, now, n - int(detector.width), self.direction)
        return _same(before)


class PageHinkley(Struct, frozen=True, tag_field="kind", tag="page-hinkley", forbid_unknown_fields=True):
    """Page-Hinkley: what has added up beyond ``delta`` since it was lowest (Page 1954)."""

    direction: Direction = "both"
    delta: Annotated[float, Meta(ge=0)] = 0.5
    """Standard deviations of a window that are let pass each time."""
    threshold: Annotated[float, Meta(gt=0)] = 8.0
    """Of the sum, in standard deviations."""
    least_before: Least = 20

    def judge(self, before: Sequence[Value], now: Value) -> Verdict:
        if len(before) < self.least_before or now.value is None:
            return unknown()
        # The mean is that of all windows so far, with nothing forgotten: there are few.
        test = _river("PageHinkley")(self.least_before, self.delta, self.threshold, 1.0, self.direction)
        for n, x in enumerate(standardised([*before, now], self.least_before)):
            test.update(x)
            if test.drift_detected:
                return _changed(before, now, n, self.direction)
        return _same(before)


class Kswin(Struct, frozen=True, tag_field="kind", tag="kswin", forbid_unknown_fields=True):
    """KSWIN: the last windows against as many drawn from those before, Kolmogorov and Smirnov (Raab et al. 2020)."""

    direction: Direction = "both"
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.0001
    newest: Annotated[int, Meta(ge=3, le=1_000)] = 15
    least_before: Least = 45

    def judge(self, before: Sequence[Value], now: Value) -> Verdict:
        n = self.least_before + 1
        if len(before) < self.least_before or now.value is None or n < 2 * self.newest:
            return unknown()
        last = [value.value or 0.0 for value in (*before, now)][-n:]
        # the draw from the older ones is seeded: the same windows get the same verdict
        test = _river("KSWIN")(self.alpha, n, self.newest, seed=0, window=last[:-1])
        test.update(last[-1])
        if test.drift_detected:
            return _changed(before, now, len(before) + 1 - self.newest, self.direction)
        return _same(before)


def standardised(values: Sequence[Value], n_first: int) -> list[float]:
    """Values less the middle of the first ``n_first``, over their spread, cut off at `FARTHEST`."""
    known = [value.value or 0.0 for value in values]
    middle, spread = middle_of(values[:n_first])
    return [max(-FARTHEST, min(FARTHEST, (x - middle) / spread)) if spread else 0.0 for x in known]


def _changed(before: Sequence[Value], now: Value, at: int, direction: Direction) -> Verdict:
    """The verdict on windows of which those from ``at`` on are of another level.

    Whether or not it is the wanted direction, what was before says no more. Nor does it matter with which window river
    saw the change: had it been seen before, the windows before it would not be here any more.
    """
    known = [value.value or 0.0 for value in (*before, now)]
    at = min(max(at, 1), len(known) - 1)
    old, new = fmean(known[:at]), fmean(known[at:])
    is_wanted = direction == "both" or (new > old) == (direction == "up")
    return Verdict(is_wanted, old, middle_of(before)[1], restart=True)


def _same(before: Sequence[Value]) -> Verdict:
    """The verdict on windows of one level."""
    return Verdict(False, fmean(value.value or 0.0 for value in before), middle_of(before)[1])
