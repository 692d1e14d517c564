"""How good the predictions of a window are, from what the trainer said of each slate before it learned it.

Slates of the stage ``click`` (eager policy) repeat a candidate that was predicted before: their labels alone count.

AUC comes from the bins of `Scores`, its error from DeLong's placements of the bins, which takes candidates as
independent; the other errors take slates as the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.bins import SHAPE, count_scores, psi
from monitor.known import Known
from monitor.moments import entropy_error, moments, ratio, total
from monitor.row import Value
from monitor.slices import PARTS, Slices, SlicesState
from monitor.tally import Floats, Ints, Packed, Tally
from monitor.windows import MINUTE_MS, Reference
from trainer.batch import boundaries
from trainer.scored import Scored
from trainer.scores import Scores, auc_by_user, auc_of_counts, entropy, losses

N, CLICKS, PREDICTED, LOSS, SERVED = range(1, 6)
"""Columns of the moments."""
NEW_MINUTES = 60
"""What was first seen longer ago is old."""


class QualityState(Struct, array_like=True):
    """As it is kept."""

    tally: dict[str, Packed]
    scores: dict[str, dict[str, list[int]]]
    slices: SlicesState


class QualityWindow:
    """What is counted of a window. Adds up exactly."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.scores: dict[str, Scores] = {}
        self.slices = Slices()

    def add(self, block: Sequence[Scored], minute: int, known: Known, *, ages: bool) -> None:
        """Count slates in, all of one minute; ``ages`` says whether it is known what is old."""
        for s in block:
            if s.n_kinds != len(known.kinds):
                raise ValueError(
                    f"scores of {s.impression}: expected {len(known.kinds)} kinds, got {s.n_kinds}"
                )
            if s.stage == "click":
                for kind, clicks in zip(known.kinds, s.labelled().sum(0).tolist(), strict=True):
                    self.tally.add(f"{kind}.labels", moments(np.array([[0.0, clicks]])))
        shown = [s for s in block if s.stage != "click"]
        if shown:
            self._add_held(shown)
            self._add_shown(shown, minute, known, ages)

    def _add_held(self, shown: list[Scored]) -> None:
        held = np.array([[float(s.held)] for s in shown]).reshape(-1, 1)
        self.tally.add("held", moments(held))
        behind = [
            [float(s.version.step - s.served_version.step)]
            for s in shown
            if s.served_version is not None and s.served_version.epoch == s.version.epoch
        ]
        self.tally.add("behind", moments(np.array(behind).reshape(-1, 1)))

    def _add_shown(self, shown: list[Scored], minute: int, known: Known, ages: bool) -> None:
        n_kinds = len(known.kinds)
        p = np.frombuffer(b"".join([s.p for s in shown]), np.float32).reshape(-1, n_kinds).astype(np.float64)
        y = np.frombuffer(b"".join([s.labels for s in shown]), np.uint8).reshape(-1, n_kinds)
        first = boundaries([len(s.labels) // n_kinds for s in shown])
        slate = np.repeat(np.arange(len(shown)), np.diff(first))
        for k, kind in enumerate(known.kinds):
            self._add_kind(kind, p[:, k], y[:, k].astype(np.float64), first, slate)
        self._add_served(known.kinds[0], shown, p[:, 0], y[:, 0].astype(np.float64), first)
        self._add_slices(shown, p[:, 0], y[:, 0].astype(np.float64), first, slate, minute, known, ages)

    def _add_kind(self, kind: str, p: Floats, y: Floats, first: Ints, slate: Ints) -> None:
        scores = self.scores.setdefault(kind, Scores())
        scores.add(p, y)
        sizes = np.diff(first).astype(np.float64)
        columns = (y, p, losses(p, y))
        sums = moments(np.stack([sizes, *(_by_slate(column, first) for column in columns)], 1))
        self.tally.add(f"{kind}.moments", sums)
        self.tally.add(f"{kind}.labels", sums[:3, :3])
        each, weight, _ = auc_by_user(p, y, slate)
        both = ~np.isnan(each)
        self.tally.add(f"{kind}.slate_auc", moments(np.stack([weight, weight * each], 1)[both]))
        self.tally.add(f"bins.{kind}", count_scores(p, first))

    def _add_served(self, kind: str, shown: list[Scored], p: Floats, y: Floats, first: Ints) -> None:
        """The served scores beside the trainer's, of slates that were shown with probabilities."""
        chosen, served = [], []
        for b, s in enumerate(shown):
            if s.served:
                scores = s.served_scores()
                if len(scores) == first[b + 1] - first[b] and ((scores >= 0) & (scores <= 1)).all():
                    chosen.append(b)
                    served.append(scores)
        if not chosen:
            return
        own = np.concatenate([np.arange(first[b], first[b + 1]) for b in chosen])
        p, y = p[own], y[own]
        first = boundaries([len(scores) for scores in served])
        columns = (y, p, losses(p, y), losses(np.concatenate(served), y))
        sizes = np.diff(first).astype(np.float64)
        sums = moments(np.stack([sizes, *(_by_slate(column, first) for column in columns)], 1))
        self.tally.add(f"{kind}.served", sums)

    def _add_slices(
        self,
        shown: list[Scored],
        p: Floats,
        y: Floats,
        first: Ints,
        slate: Ints,
        minute: int,
        known: Known,
        ages: bool,
    ) -> None:
        n_last = len(PARTS["position"]) - 1
        self.slices.add("position", np.minimum(np.arange(len(p)) - first[slate], n_last), p, y)
        items = np.frombuffer(b"".join([s.items for s in shown]), np.uint64)
        side = np.frombuffer(b"".join([s.side for s in shown]), np.uint64)
        if not len(items) or not len(side):  # of a trainer that did not tell them yet
            return
        items = items.reshape(len(p), -1)
        side = side.reshape(len(shown), -1)
        if ages:
            for field, keys in (("item", items[:, 0]), ("user", side[slate, 0])):
                seen, since = known.seen[field], minute - NEW_MINUTES
                if seen.is_full(since):
                    continue
                old = seen.before(keys, since)
                self.slices.add(f"{field}_age", old.astype(np.int64), p, y)
        head = known.popular.head(items[:, 0], minute * MINUTE_MS)
        if head is not None:
            self.slices.add("popularity", (~head).astype(np.int64), p, y)
        for f, name in enumerate(known.item_fields[1:], 1):
            self.slices.add_feature(name, items[:, f], p, y)
        for f, name in enumerate(known.side_fields[1:], 1):
            self.slices.add_feature(name, side[slate, f], p, y)

    def merge(self, other: QualityWindow) -> None:
        """Count in what another window has."""
        self.tally.merge(other.tally)
        self.slices.merge(other.slices)
        for kind, scores in other.scores.items():
            self.scores.setdefault(kind, Scores()).merge(scores)

    @property
    def bins(self) -> Tally:
        """What later windows are compared with."""
        return self.tally.only("bins.")

    def values(self, kinds: Sequence[str], reference: Reference) -> dict[str, Value]:
        """All figures by name; ``reference`` is what the bins of predictions are compared with."""
        found: dict[str, Value] = {}
        for kind, scores in self.scores.items():
            found.update(_of_kind(kind, scores, self.tally, reference))
        for kind in kinds:
            labels = self.tally.get(f"{kind}.labels", (3, 3))
            found[intern(f"quality.ctr.{kind}")] = ratio(labels, CLICKS, N, round(total(labels, N)))
        served = self.tally.arrays.get(f"{kinds[0]}.served")
        if served is not None:
            found[intern(f"quality.staleness.{kinds[0]}")] = _staleness(served)
        held, behind = self.tally.get("held", (2, 2)), self.tally.get("behind", (2, 2))
        found["quality.held"] = ratio(held, 1, 0, round(total(held, 0)))
        if total(behind, 0):
            found["quality.served_behind"] = ratio(behind, 1, 0, round(total(behind, 0)))
        return {**found, **self.slices.values()}

    def encode(self) -> QualityState:
        """All of it."""
        scores = {kind: scores.encode() for kind, scores in self.scores.items()}
        return QualityState(self.tally.encode(), scores, self.slices.encode())

    @classmethod
    def decode(cls, state: QualityState) -> QualityWindow:
        """What was encoded."""
        window = cls()
        window.tally = Tally.decode(state.tally)
        window.scores = {kind: Scores.decode(scores) for kind, scores in state.scores.items()}
        window.slices = Slices.decode(state.slices)
        return window


def _of_kind(kind: str, scores: Scores, tally: Tally, reference: Reference) -> dict[str, Value]:
    sums, n = tally.arrays[f"{kind}.moments"], scores.n
    slates = tally.arrays[f"{kind}.slate_auc"]
    found = {
        "ne": Value(_defined(scores.ne), n, entropy_error(sums, N, CLICKS, LOSS)),
        "auc": Value(_defined(scores.auc), n, auc_standard_error(scores)),
        "slate_auc": ratio(slates, 2, 1, round(total(slates, 0))),
        "calibration": Value(_defined(scores.calibration), n, ratio(sums, PREDICTED, CLICKS, n).error),
    }
    bins = tally.get(f"bins.{kind}", SHAPE)
    before = reference.of(f"bins.{kind}")
    if before is not None:
        found["psi"] = psi(bins, before)
    named = {intern(f"quality.{what}.{kind}"): value for what, value in found.items()}
    for tenth, value in enumerate(calibration_by_decile(scores)):
        named[intern(f"quality.decile.{kind}.{tenth}")] = value
    return named


def auc_standard_error(scores: Scores) -> float | None:
    """DeLong's standard error of the AUC of binned predictions (DeLong et al. 1988); None of too few.

    It is that of `trainer.intervals.auc_standard_error` of the bins' middles: of each positive, the share of negatives
    below it; of each negative, the share of positives above it; and how much these vary.
    """
    _, positives, negatives = scores.bins
    n_positive, n_negative = int(positives.sum()), int(negatives.sum())
    if min(n_positive, n_negative) < 2:
        return None
    below = (negatives.cumsum() - negatives / 2) / n_negative
    above = 1 - (positives.cumsum() - positives / 2) / n_positive
    area = auc_of_counts(positives, negatives)
    won = (positives * (below - area) ** 2).sum() / (n_positive - 1) / n_positive
    lost = (negatives * (above - area) ** 2).sum() / (n_negative - 1) / n_negative
    return float(np.sqrt(won + lost))


def calibration_by_decile(scores: Scores) -> list[Value]:
    """Mean prediction over mean label in each tenth of the predictions, those of a bin in one; 0 the lowest.

    Predictions count as the middle of their bin. The error is that of the label mean, of independent candidates.
    """
    middle, positives, negatives = scores.bins
    size = positives + negatives
    tenth = (10 * (2 * size.cumsum() - size)) // (2 * max(int(size.sum()), 1))
    found = []
    for k in range(10):
        own = tenth == k
        n, clicks = int(size[own].sum()), int(positives[own].sum())
        if clicks == 0:
            found.append(Value(None, n))
            continue
        predicted = float((middle[own] * size[own]).sum())
        error = predicted / clicks * np.sqrt((1 - clicks / n) / clicks)
        found.append(Value(predicted / clicks, n, float(error)))
    return found


def _staleness(sums: Ints) -> Value:
    n, clicks = total(sums, N), total(sums, CLICKS)
    if not 0 < clicks < n:
        return Value(None, round(n))
    cost = (total(sums, SERVED) - total(sums, LOSS)) / (n * entropy(clicks / n))
    return Value(cost, round(n), entropy_error(sums, N, CLICKS, SERVED, LOSS))


def _by_slate(column: Floats, first: Ints) -> Floats:
    """Sums over the candidates of each slate, in their order, float64 ``[slates]``."""
    owner = np.repeat(np.arange(len(first) - 1), np.diff(first))
    sums: NDArray[Any] = np.bincount(owner, column, len(first) - 1)
    return sums


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
