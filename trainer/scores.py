"""How good predictions are: exact on arrays, and mergeable over a stream.

Every function takes predictions ``p`` in 0..1 and labels ``y`` in {0, 1}, one of each per candidate. What is
undefined (an AUC without both classes, anything of no candidates) is nan; input that makes no sense raises.

A streaming AUC can be badly wrong where few are clicked: river's ``metrics.ROCAUC`` counts at 10 thresholds
evenly spaced in 0..1, and at a click-through rate of 1 % nearly all predictions lie below the first above 0,
so that a good model reads as hardly better than chance. `Scores` has bins near even in the logit instead, and
says how far off it can be.

>>> p, y = [0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]
>>> auc(p, y), calibration(p, y), round(normalised_entropy(p, y), 3)
(0.75, 0.825, 0.681)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEAREST = 2.0**-24
"""A prediction nearer to 0 or 1 counts as this far from it: float32 comes no nearer to 1."""


def log_loss(p: ArrayLike, y: ArrayLike, w: ArrayLike | None = None) -> float:
    """Mean of the negative log likelihood, in nats; ``w`` are weights ``[n]``, 1 each when not given."""
    p, y, w = checked("log_loss", p, y, w)
    return _ratio((losses(p, y) * w).sum(), w.sum())


def normalised_entropy(p: ArrayLike, y: ArrayLike, w: ArrayLike | None = None) -> float:
    """Log loss over the entropy of the base rate; below 1 beats the prior (He et al. 2014, section 2.2)."""
    p, y, w = checked("normalised_entropy", p, y, w)
    return _ratio((losses(p, y) * w).sum(), w.sum() * entropy(_ratio((y * w).sum(), w.sum())))


def calibration(p: ArrayLike, y: ArrayLike, w: ArrayLike | None = None) -> float:
    """Mean prediction over mean label; above 1 promises too much."""
    p, y, w = checked("calibration", p, y, w)
    return _ratio((p * w).sum(), (y * w).sum())


def auc(p: ArrayLike, y: ArrayLike, w: ArrayLike | None = None) -> float:
    """Chance that a positive is ranked above a negative, a tie counting half. ``p`` may be any score.

    Exact: with whole weights (or none) every sum below is a whole number, so no order of the rows rounds
    differently.
    """
    p, y, w = checked("auc", p, y, w, low=-np.inf, high=np.inf)
    values, group = np.unique(p, return_inverse=True)
    return auc_of_counts(np.bincount(group, w * y, len(values)), np.bincount(group, w - w * y, len(values)))


def auc_of_counts(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """AUC from how many (or how much weight) of each class has each score, scores ascending, both ``[g]``."""
    positives, negatives = positives.astype(np.float64), negatives.astype(np.float64)
    won = (positives * (2 * negatives.cumsum() - negatives)).sum()
    return _ratio(won, 2 * positives.sum() * negatives.sum())


def auc_by_user(
    p: ArrayLike, y: ArrayLike, user: ArrayLike, w: ArrayLike | None = None
) -> tuple[Floats, Floats, Ints]:
    """AUC within each user.

    Returns
    -------
    AUC float64 ``[U]``, nan for a user without both classes; weight of the user's candidates float64 ``[U]``;
    and the user of each candidate as a number below ``U``, int64 ``[n]``, users in ascending order.
    """
    p, y, w = checked("auc_by_user", p, y, w, low=-np.inf, high=np.inf)
    owner = numbered("auc_by_user", user, len(p))
    order = np.lexsort((p, owner))
    by, score = owner[order], p[order]
    first = np.ones(len(p), bool)
    first[1:] = (by[1:] != by[:-1]) | (score[1:] != score[:-1])
    group = first.cumsum() - 1
    positives, negatives = np.bincount(group, (w * y)[order]), np.bincount(group, (w - w * y)[order])
    n_positive, n_negative = np.bincount(owner, w * y), np.bincount(owner, w - w * y)
    of = by[first]
    below = 2 * negatives.cumsum() - negatives - 2 * (n_negative.cumsum() - n_negative)[of]
    pairs = 2 * n_positive * n_negative
    each = np.full(len(pairs), np.nan)
    np.divide(np.bincount(of, positives * below, len(pairs)), pairs, out=each, where=pairs > 0)
    return each, np.bincount(owner, w).astype(np.float64), owner


def gauc(p: ArrayLike, y: ArrayLike, user: ArrayLike, w: ArrayLike | None = None) -> float:
    """Mean of the users' AUC, weighted by their candidates (Zhou et al. 2018, "DIN", section 6.3).

    Users without both classes are left out. With the slate in place of the user: AUC within a slate.

    Parameters
    ----------
    user
        ``[n]``, any type that sorts.
    """
    each, weight, _ = auc_by_user(p, y, user, w)
    both = ~np.isnan(each)
    return _ratio((each[both] * weight[both]).sum(), weight[both].sum())


class Decile(NamedTuple):
    """A tenth of the candidates by prediction: mean prediction and mean label.

    ``standard_error`` is the label mean's, had each candidate been shown independently. A tenth without
    candidates holds nans.
    """

    n: int
    predicted: float
    observed: float
    standard_error: float


def deciles(p: ArrayLike, y: ArrayLike) -> list[Decile]:
    """Calibration along the range, lowest predictions first; equal predictions share a decile.

    >>> [(d.n, d.observed) for d in deciles([0.1, 0.2, 0.2, 0.9], [0, 0, 1, 1]) if d.n]
    [(1, 0.0), (2, 0.5), (1, 1.0)]
    """
    p, y, _ = checked("deciles", p, y, None)
    _, group, size = np.unique(p, return_inverse=True, return_counts=True)
    tenth = (10 * (2 * size.cumsum() - size)[group]) // (2 * max(len(p), 1))
    found = []
    for k in range(10):
        own = tenth == k
        n = int(own.sum())
        observed = _ratio(y[own].sum(), n)
        error = _ratio(np.sqrt(n * observed * (1 - observed)), n)
        found.append(Decile(n, _ratio(p[own].sum(), n), observed, error))
    return found


def metrics(p: ArrayLike, y: ArrayLike, user: ArrayLike) -> dict[str, float]:
    """All of the above by name: ``candidates, ctr, auc, ne, gauc, log_loss, calibration``."""
    p, y, w = checked("metrics", p, y, None)
    return {
        "candidates": len(p),
        "ctr": _ratio(y.sum(), len(y)),
        "auc": auc(p, y, w),
        "ne": normalised_entropy(p, y, w),
        "gauc": gauc(p, y, user, w),
        "log_loss": log_loss(p, y, w),
        "calibration": calibration(p, y, w),
    }


class Scores:
    """Metrics of a stream in 92 KiB, however long it is; parts computed apart add up to the whole, exactly.

    AUC comes from counts in fixed bins, each at most 1/64 wide in the logit: 128 to each halving of the
    distance to 0 or 1, found from the float's own digits, so that no logarithm's rounding moves a candidate.
    The exact AUC is within `auc_error` of `auc`: pairs that share a bin count half. Losses and predictions
    are summed as whole multiples of 2**-40, so that every order of `add` and `merge` gives the same bits.

    >>> left, right = Scores(), Scores()
    >>> left.add([0.1, 0.4], [0, 0]); right.add([0.35, 0.8], [1, 1])
    >>> (left + right).auc, (left + right).auc_error
    (0.75, 0.0)
    """

    _PER_HALVING = 128
    _HALVINGS = 23  # from 1/2 down to NEAREST
    _UNIT = 2**40

    def __init__(self) -> None:
        n_bins = 2 * self._HALVINGS * self._PER_HALVING + 1
        self._positives = np.zeros(n_bins, np.int64)
        self._negatives = np.zeros(n_bins, np.int64)
        self._loss = 0
        self._predicted = 0

    def add(self, p: ArrayLike, y: ArrayLike) -> None:
        """Count candidates in; ``p`` and ``y`` are ``[n]``."""
        p, y, _ = checked("Scores.add", p, y, None)
        bins, clicked = self._bins(p), y == 1
        self._positives += np.bincount(bins[clicked], minlength=len(self._positives))
        self._negatives += np.bincount(bins[~clicked], minlength=len(self._negatives))
        self._loss += self._total(losses(p, y))
        self._predicted += self._total(p)

    def merge(self, other: Scores) -> None:
        """Count in what ``other`` has counted."""
        self._positives += other._positives
        self._negatives += other._negatives
        self._loss += other._loss
        self._predicted += other._predicted

    def __add__(self, other: Scores) -> Scores:
        both = Scores()
        both.merge(self)
        both.merge(other)
        return both

    @property
    def n(self) -> int:
        """Candidates counted."""
        return self.n_positive + int(self._negatives.sum())

    @property
    def n_positive(self) -> int:
        """Candidates with label 1."""
        return int(self._positives.sum())

    @property
    def ctr(self) -> float:
        """Mean label."""
        return _ratio(self.n_positive, self.n)

    @property
    def auc(self) -> float:
        """AUC of the binned predictions."""
        return auc_of_counts(self._positives, self._negatives)

    @property
    def auc_error(self) -> float:
        """No more than this is between `auc` and the exact AUC of what was counted, whatever it was.

        Bins that hold the same prediction over and over make the bound wide though the AUC is right.
        """
        positives, negatives = self._positives.astype(np.float64), self._negatives.astype(np.float64)
        return _ratio((positives * negatives).sum(), 2 * positives.sum() * negatives.sum())

    @property
    def log_loss(self) -> float:
        """Mean loss in nats, to 2**-41."""
        return _ratio(self._loss / self._UNIT, self.n)

    @property
    def ne(self) -> float:
        """Normalised entropy."""
        return _ratio(self.log_loss, entropy(self.ctr))

    @property
    def calibration(self) -> float:
        """Mean prediction over mean label."""
        return _ratio(self._predicted / self._UNIT, self.n_positive)

    @property
    def bins(self) -> tuple[Floats, Ints, Ints]:
        """The bins in use, ascending: the middle of each, and how many of each label are in it; all ``[g]``.

        A prediction is within 0.4 % of the middle of its bin, or as near to it on the side of 1.
        """
        used = np.flatnonzero(self._positives + self._negatives)
        last = 2 * self._HALVINGS * self._PER_HALVING
        halving, part = np.divmod(np.minimum(used, last - used), self._PER_HALVING)
        near = np.ldexp(0.5 + (part + 0.5) / (2 * self._PER_HALVING), halving - self._HALVINGS)
        middle = np.where(used == last // 2, 0.5, np.where(used < last // 2, near, 1 - near))
        return middle, self._positives[used], self._negatives[used]

    def encode(self) -> dict[str, list[int]]:
        """All that was counted, in numbers that any JSON reader holds exactly."""
        used = np.flatnonzero(self._positives + self._negatives)
        return {
            "bins": used.tolist(),
            "positives": self._positives[used].tolist(),
            "negatives": self._negatives[used].tolist(),
            "loss": list(divmod(self._loss, self._UNIT)),
            "predicted": list(divmod(self._predicted, self._UNIT)),
        }

    @classmethod
    def decode(cls, encoded: dict[str, list[int]]) -> Scores:
        """The `Scores` that was encoded; it goes on as if nothing had happened."""
        scores = cls()
        scores._positives[encoded["bins"]] = encoded["positives"]
        scores._negatives[encoded["bins"]] = encoded["negatives"]
        (loss, loss_part), (predicted, predicted_part) = encoded["loss"], encoded["predicted"]
        scores._loss = loss * cls._UNIT + loss_part
        scores._predicted = predicted * cls._UNIT + predicted_part
        return scores

    @classmethod
    def _bins(cls, p: Floats) -> Ints:
        """Bin of each prediction, int64 ``[n]``: ascending with it, the middle one for 1/2 alone."""
        # 1 - p is exact from 1/2 on
        digits, exponent = np.frexp(np.maximum(np.minimum(p, 1 - p), NEAREST))
        from_edge = (exponent.astype(np.int64) + cls._HALVINGS) * cls._PER_HALVING
        from_edge += ((2 * digits - 1) * cls._PER_HALVING).astype(np.int64)
        return np.where(p <= 0.5, from_edge, 2 * cls._HALVINGS * cls._PER_HALVING - from_edge)

    @classmethod
    def _total(cls, values: Floats) -> int:
        """Sum in units of 2**-40; taken in halves, for 64 bits hold but 500,000 of the greatest losses."""
        whole = np.rint(values * cls._UNIT).astype(np.int64)
        return (int((whole >> 20).sum()) << 20) + int((whole & 0xFFFFF).sum())


def losses(p: Floats, y: Floats) -> Floats:
    """Negative log likelihood of each label, in nats, float64 ``[n]``."""
    p = np.clip(p, NEAREST, 1 - NEAREST)
    return -np.log(np.where(y == 1, p, 1 - p))


def entropy(rate: float) -> float:
    """Entropy of a label that is 1 at this rate, in nats."""
    if not 0 < rate < 1:
        return 0.0
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def checked(
    where: str, p: ArrayLike, y: ArrayLike, w: ArrayLike | None, low: float = 0.0, high: float = 1.0
) -> tuple[Floats, Floats, Floats]:
    """Predictions, labels and weights as float64 ``[n]``, or a ValueError that says what is wrong."""
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    w = np.ones(p.shape) if w is None else np.asarray(w, np.float64)
    if p.ndim != 1 or p.shape != y.shape or p.shape != w.shape:
        raise ValueError(f"{where}: expected p, y, w of one shape [n], got {p.shape}, {y.shape}, {w.shape}")
    wrong = [
        ("p", p, (p >= low) & (p <= high), f"{low:g}..{high:g}"),
        ("y", y, (y == 0) | (y == 1), "0 or 1"),
        ("w", w, (w >= 0) & (w < np.inf), "0 or more"),
    ]
    for name, values, fine, expected in wrong:
        if not fine.all():
            at = int(fine.argmin())
            raise ValueError(f"{where}: {name}[{at}]: expected {expected}, got {values[at]}")
    return p, y, w


def numbered(where: str, user: ArrayLike, n: int) -> Ints:
    """Users as numbers 0, 1, ... in ascending order of the user, int64 ``[n]``."""
    user = np.asarray(user)
    if user.shape != (n,):
        raise ValueError(f"{where}: user: expected shape ({n},), got {user.shape}")
    return np.unique(user, return_inverse=True)[1].astype(np.int64)


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole > 0 else float("nan")
