"""How sure a metric is: standard errors that know that a user's candidates resemble each other.

What one user did is no independent draw for each candidate, so errors here are between users. Two ways, which
the tests hold against each other: closed forms (each candidate's influence on the metric, summed by user:
milliseconds) and the bootstrap (users drawn with replacement: any statistic, and differences of two models).

>>> p, y, user = [0.1, 0.4, 0.35, 0.8, 0.6, 0.2], [0, 0, 1, 1, 0, 1], [1, 1, 2, 2, 3, 3]
>>> round(auc_standard_error(p, y), 3), round(auc_standard_error(p, y, user), 3)
(0.314, 0.246)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.jit import njit
from trainer.scores import (
    Floats,
    Ints,
    auc_by_user,
    calibration,
    checked,
    entropy,
    losses,
    normalised_entropy,
    numbered,
)


class Estimate(NamedTuple):
    """A figure, its standard error, and the 95 % interval (percentiles of the resamples)."""

    value: float
    standard_error: float
    low: float
    high: float


def standard_errors(p: ArrayLike, y: ArrayLike, user: ArrayLike) -> dict[str, float]:
    """Standard errors between users of ``auc, ne, gauc, log_loss, calibration``, by name.

    First-order (delta method): the metric's derivative by each candidate, summed by user. nan where the
    metric is undefined or there is but one user.
    """
    p, y, _ = checked("standard_errors", p, y, None)
    each, weight, owner = auc_by_user(p, y, user)
    both = ~np.isnan(each)
    n, n_positive, loss = len(p), y.sum(), losses(p, y)
    rate = n_positive / max(n, 1)
    found = {"auc": auc_standard_error(p, y, owner)}
    if 0 < rate < 1:
        mean, h, ratio = loss.mean(), entropy(rate), normalised_entropy(p, y)
        by_rate = np.log((1 - rate) / rate)
        found["ne"] = _between(((loss - mean) - ratio * by_rate * (y - rate)) / (n * h), owner)
    if both.any():
        share = weight[both] / weight[both].sum()
        found["gauc"] = _between(share * (each[both] - (share * each[both]).sum()), np.arange(len(share)))
    if n:
        found["log_loss"] = _between((loss - loss.mean()) / n, owner)
    if n_positive:
        found["calibration"] = _between((p - calibration(p, y) * y) / n_positive, owner)
    return {name: found.get(name, np.nan) for name in ("auc", "ne", "gauc", "log_loss", "calibration")}


def auc_standard_error(p: ArrayLike, y: ArrayLike, user: ArrayLike | None = None) -> float:
    """Standard error of the AUC: DeLong's of independent candidates, Obuchowski's where ``user`` is given.

    nan unless at least two users (candidates, where ``user`` is not given) have positives and two negatives.

    Notes
    -----
    From the placements: of each positive, the share of negatives below it; of each negative, the share of
    positives above it (DeLong et al. 1988; Sun & Xu 2014 for O(n log n); Obuchowski 1997 for clusters, which
    with one candidate a cluster is DeLong's).
    """
    p, y, _ = checked("auc_standard_error", p, y, None, low=-np.inf, high=np.inf)
    owner = np.arange(len(p)) if user is None else numbered("auc_standard_error", user, len(p))
    n_positive, n_negative = y.sum(), len(y) - y.sum()
    with_positive, with_negative = len(np.unique(owner[y == 1])), len(np.unique(owner[y == 0]))
    if min(with_positive, with_negative) < 2:
        return float("nan")
    values, group = np.unique(p, return_inverse=True)
    positives, negatives = (np.bincount(group, label, len(values)) for label in (y, 1 - y))
    below = (negatives.cumsum() - negatives / 2)[group] / n_negative
    above = 1 - (positives.cumsum() - positives / 2)[group] / n_positive
    area = (below * y).sum() / n_positive
    won = np.bincount(owner, y * (below - area)) / n_positive
    lost = np.bincount(owner, (1 - y) * (above - area)) / n_negative
    variance = (
        (won**2).sum() * with_positive / (with_positive - 1)
        + (lost**2).sum() * with_negative / (with_negative - 1)
        + 2 * (won * lost).sum() * len(won) / (len(won) - 1)
    )
    return float(np.sqrt(max(variance, 0.0)))


def bootstrap_by_user(
    statistic: Callable[..., float], user: ArrayLike, *arrays: ArrayLike, n: int = 200, seed: int = 0
) -> Estimate:
    """Any statistic, estimated by drawing users with replacement.

    Parameters
    ----------
    statistic
        Called as ``statistic(*arrays, w)``: a user drawn three times weighs 3. `log_loss`, `auc` and the like
        fit as they are; nan of a resample makes the errors nan.
    user, arrays
        ``[rows]`` each.

    Examples
    --------
    >>> from trainer.scores import log_loss
    >>> a, b, y, user = [0.2, 0.6, 0.7, 0.3], [0.3, 0.5, 0.6, 0.5], [0, 1, 1, 0], [1, 1, 2, 2]
    >>> gain = bootstrap_by_user(lambda a, b, y, w: log_loss(b, y, w) - log_loss(a, y, w), user, a, b, y)
    >>> round(gain.value, 3), gain.low > 0
    (0.202, True)
    """
    columns = [np.asarray(a) for a in arrays]
    owner = numbered("bootstrap_by_user", user, len(columns[0]))
    value = statistic(*columns, np.ones(len(owner)))
    draws = _draws(owner, n, seed)
    return _estimate(
        value, np.array([statistic(*columns, drawn[owner].astype(np.float64)) for drawn in draws])
    )


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, y: ArrayLike, user: ArrayLike, *, n: int = 500, seed: int = 0
) -> Estimate:
    """How much better ``a`` ranks than ``b``: AUC of ``a`` less AUC of ``b`` on the same candidates.

    Both are taken on the same resamples of users, so what is hard about a user cancels.

    Parameters
    ----------
    a, b
        Scores of the two models, ``[rows]``.
    y, user
        Label and user of each candidate, ``[rows]``.
    """
    a, y, _ = checked("paired_bootstrap", a, y, None, low=-np.inf, high=np.inf)
    b, _, _ = checked("paired_bootstrap", b, y, None, low=-np.inf, high=np.inf)
    owner = numbered("paired_bootstrap", user, len(a))
    sorted_a, sorted_b = _sorted(a, y, owner), _sorted(b, y, owner)
    draws = _draws(owner, n, seed)
    once = np.ones(draws.shape[1], np.int64)
    return _estimate(
        _resampled_auc(once, *sorted_a) - _resampled_auc(once, *sorted_b),
        np.array([_resampled_auc(drawn, *sorted_a) - _resampled_auc(drawn, *sorted_b) for drawn in draws]),
    )


def paired_entropy_bootstrap(
    a: ArrayLike, b: ArrayLike, y: ArrayLike, user: ArrayLike, *, n: int = 500, seed: int = 0
) -> Estimate:
    """Normalised entropy of ``a`` less that of ``b``, as ``paired_bootstrap``; below 0 where ``a`` is better.

    It is a ratio of sums, so a resample is a weighted sum over users.
    """
    a, y, _ = checked("paired_entropy_bootstrap", a, y, None)
    b, _, _ = checked("paired_entropy_bootstrap", b, y, None)
    owner = numbered("paired_entropy_bootstrap", user, len(a))
    draws = _draws(owner, n, seed)
    columns = (np.ones(len(y)), y, losses(a, y) - losses(b, y))
    by_user = np.stack([np.bincount(owner, column) for column in columns], 1)

    def less(sums: Floats) -> float:
        shown, clicked, loss = sums.tolist()
        h = entropy(clicked / shown)
        return loss / (shown * h) if h > 0 else np.nan

    return _estimate(less(by_user.sum(0)), np.array([less(sums) for sums in draws @ by_user]))


def _estimate(value: float, resampled: Floats) -> Estimate:
    if len(resampled) < 2:
        raise ValueError(f"bootstrap: n: expected 2 or more resamples, got {len(resampled)}")
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(float(value), float(resampled.std(ddof=1)), float(low), float(high))


def _draws(owner: Ints, n: int, seed: int) -> Ints:
    """How often each user is drawn, int64 ``[n, U]``."""
    if not len(owner):
        raise ValueError("bootstrap: user: expected at least one candidate, got none")
    n_users = int(owner.max()) + 1
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, n_users, n_users), minlength=n_users) for _ in range(n)])


def _sorted(p: Floats, y: Floats, owner: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Owner and label in ascending order of ``p``, and which is the last of its ties, all ``[rows]``."""
    order = np.argsort(p)
    last = np.ones(len(p), bool)
    last[:-1] = p[order][1:] != p[order][:-1]
    return owner[order], y[order].astype(np.int64), last


@njit
def _resampled_auc(drawn: Ints, owner: Ints, y: Ints, last: NDArray[np.bool_]) -> float:
    """AUC where user ``u`` counts ``drawn[u]`` times, in whole numbers."""
    won = below = positives = tied_positives = tied_negatives = 0
    for i in range(len(owner)):
        weight = drawn[owner[i]]
        tied_positives += weight * y[i]
        tied_negatives += weight * (1 - y[i])
        if last[i]:
            won += tied_positives * (2 * below + tied_negatives)
            below += tied_negatives
            positives += tied_positives
            tied_positives = tied_negatives = 0
    if positives == 0 or below == 0:
        return np.nan
    return won / (2 * positives * below)


def _between(influence: Floats, owner: Ints) -> float:
    """Standard error of a sum of influences that are independent between owners only."""
    sums = np.bincount(owner, influence)
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)))
