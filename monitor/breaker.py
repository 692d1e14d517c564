"""The circuit breaker: training holds while what comes in cannot be what it looks like.

A dead stream of clicks turns every sample negative, and a model learns within minutes that nobody clicks. The breaker
watches four figures over a window of event time, each against what it was in the last hour or so, and holds while one
is out of its band:

    coverage    actions read for each impression read, by kind: as they arrive, a whole attribution window before
                the labels that come of them
    events      impressions read a second
    positives   mean label of the samples, by kind
    ne          normalised entropy of the predictions, of the first kind

A figure is out of its band if its ratio to the usual is *and* chance would not do that: counts are compared by their
standard error. Beside the whole window its last twelfth and quarter are looked at too, so that a feed that dies at once
is seen at once.

Samples are held, not moments: when the figures are back, those whose impressions were shown before that still have the
labels of a broken feed, and are held as well. A person may hold, and may release; then what is usual is learned anew.

Everything is a function of the Ticks and the samples in the order of the log: the same log holds at the same batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.lanes import increments
from stream.events import Sample
from trainer.batcher import Told
from trainer.gate import Band
from trainer.scores import entropy, losses

PARTS = (12, 4, 1)
"""The last twelfth, the last quarter and all of a window."""
STEPS = 12
"""Of a window: how finely it moves."""
SETTLED = 5
"""Windows that what is usual must be of before anything is judged."""
CLUSTERED = 1.5
"""Variance of a count over that of independent events: clicks come by slates and by users."""


@dataclass(frozen=True)
class Bands:
    """The least and the greatest ratio to the usual that are let pass, by figure."""

    coverage: tuple[float, float] = (0.5, 3.0)
    events: tuple[float, float] = (0.05, 20.0)
    positives: tuple[float, float] = (0.5, 3.0)
    ne: tuple[float, float] = (0.0, 1.5)


@dataclass(frozen=True)
class BreakerRules:
    """How the breaker decides.

    Parameters
    ----------
    kinds
        Of action, in the order of the label columns.
    partitions
        How many the samples come in: event time is that of the one furthest behind.
    window_ms
        Event time that is looked at.
    usual_ms
        How long something counts as usual: its weight falls to a third in this time.
    least
        So many must be expected, and usual, of what is counted before it is judged.
    surprise
        Standard errors beyond which chance is ruled out.
    on
        Whether figures decide; a person's orders are obeyed in any case.
    """

    kinds: tuple[str, ...]
    partitions: int
    window_ms: int = 60_000
    usual_ms: int = 3_600_000
    least: int = 30
    surprise: float = 5.0
    bands: Bands = Bands()
    on: bool = True


class _Series(Struct):
    """One ratio of sums over time: the steps of the window, and what is usual."""

    above: dict[int, float] = {}
    """By number of the step."""
    below: dict[int, float] = {}
    usual_above: float = 0.0
    usual_below: float = 0.0
    n_usual: int = 0
    """Steps in what is usual that had something above."""

    def add(self, step: int, above: float, below: float) -> None:
        self.above[step] = self.above.get(step, 0.0) + above
        self.below[step] = self.below.get(step, 0.0) + below

    def move(self, first: int, decay: float, *, learn: bool) -> None:
        """Let go of steps before ``first``; if told to, into what is usual."""
        for step in sorted(s for s in self.below if s < first):
            above, below = self.above.pop(step), self.below.pop(step)
            if learn:
                self.usual_above = self.usual_above * decay + above
                self.usual_below = self.usual_below * decay + below
                self.n_usual += above > 0

    def is_known(self, least: int) -> bool:
        """Whether there is something to compare with."""
        return self.n_usual >= SETTLED * STEPS and self.usual_above >= least and self.usual_below > 0

    def sums(self, first: int, end: int) -> tuple[float, float]:
        """Over steps ``[first, end)``."""
        return (
            sum(self.above.get(step, 0.0) for step in range(first, end)),
            sum(self.below.get(step, 0.0) for step in range(first, end)),
        )


class _State(Struct):
    series: dict[str, _Series] = {}
    read: dict[int, dict[str, int]] = {}
    """The newest counts of each partition."""
    told_ms: dict[int, int] = {}
    now: int = -1
    """The step of event time that is going on."""
    out: str = ""
    """Why figures hold; empty where they do not."""
    in_since: int = 0
    """The first step from which on every figure was within its band."""
    bad_until_ms: int = -1
    """Samples whose impressions are no later are held."""
    ordered: bool = False
    """Whether a person holds."""


class _Figure(NamedTuple):
    """One figure that can be judged."""

    name: str
    now: float
    usual: float
    band: tuple[float, float]
    """Ratios to the usual."""
    is_met: bool

    @property
    def words(self) -> str:
        return _words(self.name, self.now, self.usual, self.band)


class Breaker:
    """A `trainer.gate.Gate` by bands.

    >>> breaker = Breaker(BreakerRules(("click",), partitions=1))
    >>> breaker.why_not([])
    ''
    >>> breaker.order("hold")
    >>> breaker.why_not([])
    'ordered'
    """

    def __init__(self, rules: BreakerRules) -> None:
        self.rules = rules
        self._step_ms = max(1, rules.window_ms // STEPS)
        self._decay = exp(-self._step_ms / rules.usual_ms)
        self._state = _State()

    @property
    def why(self) -> str:
        """Why it holds now; empty while it does not."""
        return "ordered" if self._state.ordered else self._state.out

    def told(self, told: Told) -> None:
        """See `Gate.told`."""
        state, tick = self._state, told.tick
        if tick.order:
            self.order(tick.order.split()[0])
        if not tick.read:
            return
        step = tick.at_ms // self._step_ms
        if (before := state.read.get(told.partition)) is not None:
            came = increments(before, tick.read)
            n_shown = came.get("impression", 0)
            self._add("events", step, n_shown, 0)  # below stand steps, see _move
            for kind in self.rules.kinds:
                self._add(f"coverage.{kind}", step, came.get(kind, 0), n_shown)
        state.read[told.partition] = dict(tick.read)
        state.told_ms[told.partition] = tick.at_ms
        if len(state.told_ms) == self.rules.partitions:
            self._move(min(state.told_ms.values()) // self._step_ms)

    def why_not(self, samples: Sequence[Sample]) -> str:
        """See `Gate.why_not`."""
        if self.why:
            return self.why
        if any(sample.at_ms <= self._state.bad_until_ms for sample in samples):
            return "shown before the figures were back"
        return ""

    def predicted(self, samples: Sequence[Sample], p: NDArray[np.float32]) -> None:
        """See `Gate.predicted`."""
        n_kinds = len(self.rules.kinds)
        final = [s.stage == "final" for s in samples]
        sizes = [len(s.labels) // n_kinds for s in samples]
        labels = np.frombuffer(b"".join(s.labels for s in samples), np.uint8).reshape(-1, n_kinds)
        counts = np.repeat(final, sizes)
        if not counts.any():
            return
        step = samples[-1].closed_ms // self._step_ms
        shown, said = labels[counts], p[counts]
        for kind, name in enumerate(self.rules.kinds):
            self._add(f"positives.{name}", step, float(shown[:, kind].sum()), len(shown))
        lost = losses(said[:, 0].astype(np.float64), shown[:, 0].astype(np.float64))
        # in whole units, so that the order of adding does not show
        self._add("loss", step, round(float(lost.sum()) * 2**20) / 2**20, len(shown))

    def bands(self) -> tuple[Band, ...]:
        """See `Gate.bands`: over the whole window, without what cannot be judged yet; none if figures do not decide."""
        if not self.rules.on:
            return ()
        first, now = self._state.now - STEPS, self._state.now
        found = []
        for figure in (*self._counts(first, now), *self._ne(first, now)):
            measure, times = self._measure(figure.name)
            low, high = (times * ratio * figure.usual for ratio in figure.band)
            found.append(Band(measure, times * figure.now, low, high, figure.is_met))
        return tuple(found)

    def order(self, verb: str) -> None:
        """What a person wants: ``hold``, ``release`` or ``learn``, which releases too."""
        state = self._state
        if verb == "hold":
            state.ordered = True
        elif verb in ("release", "learn"):
            state.ordered, state.out, state.bad_until_ms = False, "", -1
            state.series = {}

    def state(self) -> bytes:
        """See `Gate.state`."""
        return msgspec.msgpack.encode(self._state)

    def load(self, state: bytes) -> None:
        """See `Gate.load`."""
        self._state = msgspec.msgpack.decode(state, type=_State)

    def _add(self, name: str, step: int, above: float, below: float) -> None:
        self._state.series.setdefault(name, _Series()).add(step, above, below)

    def _move(self, now: int) -> None:
        """Event time has come to a step: judge those before it."""
        state = self._state
        if now <= state.now:
            return
        for step in range(max(state.now, now - 2 * STEPS), now):
            self._add("events", step, 0, 1)
        state.now = now
        for series in state.series.values():
            series.move(now - STEPS, self._decay, learn=not self.why)
        found = next(self._outside(now), "") if self.rules.on else ""
        if found:
            state.out, state.in_since = state.out or found, now + 1
        elif state.out and now - state.in_since >= STEPS:
            state.out, state.bad_until_ms = "", now * self._step_ms

    def _outside(self, now: int) -> Iterator[str]:
        """The figures that are out of their bands before a step, in words."""
        for part in PARTS:
            yield from (f.words for f in self._counts(now - STEPS // part, now) if not f.is_met)
        yield from (f.words for f in self._ne(now - STEPS, now) if not f.is_met)

    def _counts(self, first: int, end: int) -> Iterator[_Figure]:
        """What can be judged of the counts over steps ``[first, end)``."""
        bands = self.rules.bands
        for kind in self.rules.kinds:
            yield from self._counted(f"coverage.{kind}", first, end, bands.coverage)
            yield from self._counted(f"positives.{kind}", first, end, bands.positives)
        yield from self._counted("events", first, end, bands.events)

    def _counted(self, name: str, first: int, end: int, band: tuple[float, float]) -> Iterator[_Figure]:
        """A count for each of something else, if it can be judged."""
        series = self._state.series.get(name, _Series())
        above, below = series.sums(first, end)
        if not series.is_known(self.rules.least):
            return
        usual = series.usual_above / series.usual_below
        expected = usual * below
        if expected < self.rules.least:
            return
        error = sqrt(CLUSTERED * expected * (1 + below / series.usual_below))
        is_out = not band[0] * expected <= above <= band[1] * expected
        is_met = not (is_out and abs(above - expected) > self.rules.surprise * error)
        yield _Figure(name, above / below, usual, band, is_met)

    def _ne(self, first: int, end: int) -> Iterator[_Figure]:
        """The normalised entropy, if it can be judged."""
        lost, positives = (
            self._state.series.get(name, _Series()) for name in ("loss", f"positives.{self.rules.kinds[0]}")
        )
        (loss, n), (clicked, _) = lost.sums(first, end), positives.sums(first, end)
        if clicked < self.rules.least or not positives.is_known(self.rules.least):
            return
        by_chance, was = entropy(clicked / n), entropy(positives.usual_above / positives.usual_below)
        if not by_chance or not was:  # where all is positive there is nothing to predict
            return
        now, band = loss / n / by_chance, self.rules.bands.ne
        usual = lost.usual_above / lost.usual_below / was
        yield _Figure("ne", now, usual, band, band[0] * usual <= now <= band[1] * usual)

    def _measure(self, name: str) -> tuple[str, float]:
        """The name that a figure has in `monitor.measures`, and what it is to be multiplied by."""
        if name == "ne":
            return f"quality.ne.{self.rules.kinds[0]}", 1.0
        if name == "events":
            return "data.impressions", 1_000 / self._step_ms
        return f"data.{name}", 1.0


def _words(name: str, now: float, usual: float, band: tuple[float, float]) -> str:
    """
    >>> _words("coverage.click", 0.02, 0.4, (0.5, 3))
    'coverage.click is 0.02, expected 0.2 to 1.2'
    """
    return f"{name} is {now:.3g}, expected {band[0] * usual:.3g} to {band[1] * usual:.3g}"
