"""What values a field takes, in 64 fixed bins: its entropy, and how far it has drifted.

The bin of a key is the top six bits of its mix (the finaliser of splitmix64), that of a score its logit's quarter.
Beside the counts stand those of pairs in one slate, from which follows how much they vary by chance::

    count      c[b]        candidates in bin b
    squares    q[b]        sum over slates of c[s, b]^2
    crossed    x[b]        sum over slates of c[s, b] * n[s]
    slates     [number of slates, sum of n[s]^2, 0 ...]

>>> keys = np.array([7, 7, 9], np.uint64)
>>> found = count_keys(keys, np.array([0, 2, 3]))
>>> sorted(found[COUNT])[-2:] == [1, 2], found[SLATES, :2].tolist(), round(entropy_bits(found).value, 3)
(True, [2, 5], 0.918)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitor.row import Value
from monitor.tally import Floats, Ints
from trainer.jit import njit
from trainer.keymap import mix

N_BINS = 64
COUNT, SQUARES, CROSSED, SLATES = range(4)
SHAPE = (4, N_BINS)

_EDGES = 1 / (1 + np.exp(-np.arange(-31, 32) / 4))
"""Between the bins of a score, a quarter of a logit each, from -7.75 to 7.75."""


def count_keys(keys: NDArray[np.uint64], first: Ints) -> Ints:
    """Keys ``[N]`` by bin; those of slate s are ``first[s]:first[s + 1]``. int64 ``[4, 64]``, which add up."""
    return _count(_bins_of_keys(keys), first)


def count_scores(scores: Floats, first: Ints) -> Ints:
    """Scores in 0..1 by bin, otherwise the same."""
    return _count(np.searchsorted(_EDGES, scores, side="right").astype(np.int64), first)


def entropy_bits(counts: Ints) -> Value:
    """Entropy of the bins; its error by the delta method, as if a slate were one draw."""
    n = int(counts[COUNT].sum())
    if n == 0:
        return Value(None, 0)
    share = counts[COUNT][counts[COUNT] > 0] / n
    bits = -np.log2(share)
    entropy = float((share * bits).sum())
    spread = max(float((share * bits**2).sum()) - entropy**2, 0.0)
    return Value(entropy, n, float(np.sqrt(spread / counts[SLATES, 0])))


def psi(counts: Ints, reference: Ints) -> Value:
    """Population stability index of the counts against a reference, less what chance makes of it; n is slates.

    The index is ``sum over b of (p[b] - q[b]) * ln(p[b] / q[b])``, about 0.1 for a small drift and 0.25 for a large
    one. Half a candidate is added to each bin in use, so that an empty one is no infinity.

    Notes
    -----
    By chance the index is about ``sum over b of (var p[b] + var q[b]) / pi[b]``, which is ``(B - 1) (1/n + 1/m)`` for
    independent draws (Yurdakul 2018) and as many times that as the counts vary more than those of such draws, because
    a slate's candidates are drawn together (the first-order correction of Rao & Scott 1981, with slates as clusters).
    Its standard error is that of a chi-square with the degrees of freedom of the bins in use, scaled the same.
    """
    n = int(counts[SLATES, 0])
    used = (counts[COUNT] + reference[COUNT]) > 0
    if not counts[COUNT].any() or not reference[COUNT].any():
        return Value(None, n)
    if used.sum() < 2:
        return Value(0.0, n, 0.0)
    p, q = (_shares(of[COUNT][used]) for of in (counts, reference))
    both = _shares((counts + reference)[COUNT][used])
    index = float(((p - q) * np.log(p / q)).sum())
    by_chance = sum(float((_variance(of, both, used) / both).sum()) for of in (counts, reference))
    return Value(index - by_chance, n, by_chance * float(np.sqrt(2 / (used.sum() - 1))))


def _shares(counts: Ints) -> Floats:
    smoothed: Floats = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return smoothed


def _variance(counts: Ints, share: Floats, used: NDArray[np.bool_]) -> Floats:
    """Of each bin's share, float64 ``[bins in use]``, by how it varies between slates around ``share``."""
    squares = counts[SQUARES][used] - 2 * share * counts[CROSSED][used] + share**2 * counts[SLATES, 1]
    smoothed = float(counts[COUNT].sum()) + 0.5 * int(used.sum())
    variance: Floats = np.maximum(squares, 0.0) / smoothed**2
    return variance


@njit
def _bins_of_keys(keys: NDArray[np.uint64]) -> Ints:
    bins = np.empty(keys.size, np.int64)
    for i in range(keys.size):
        bins[i] = np.int64(mix(keys[i]) >> np.uint64(58))
    return bins


@njit
def _count(bins: Ints, first: Ints) -> Ints:
    found = np.zeros((4, 64), np.int64)
    of_slate = np.zeros(64, np.int64)
    for s in range(first.size - 1):
        n = first[s + 1] - first[s]
        if n == 0:
            continue
        for i in range(first[s], first[s + 1]):
            of_slate[bins[i]] += 1
        for i in range(first[s], first[s + 1]):
            b = bins[i]
            c = of_slate[b]
            if c > 0:
                found[0, b] += c
                found[1, b] += c * c
                found[2, b] += c * n
                of_slate[b] = 0
        found[3, 0] += 1
        found[3, 1] += n * n
    return found
