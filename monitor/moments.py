"""Means and ratios with standard errors, from sums of what each slate has and of their products.

The candidates of a slate resemble each other, so the unit of chance is the slate. A figure's error is its derivative by
each slate's sums, squared and added up (delta method; `trainer.intervals` does the same from the candidates): with
the matrix of sums of products it is a quadratic form, and the matrix of two windows is the sum of theirs.

>>> slates = moments(np.array([[10.0, 1.0], [10.0, 3.0], [20.0, 2.0]]))  # candidates and clicks
>>> ratio(slates, 2, 1, n=40)
Value(value=0.15, n=40, error=0.057282196186948006)
"""

from __future__ import annotations

import numpy as np

from monitor.row import Value
from monitor.tally import UNIT, Floats, Ints, in_units
from trainer.scores import entropy


def moments(values: Floats) -> Ints:
    """Sums of the products of any two columns, a column of ones before them.

    Parameters
    ----------
    values
        float64 ``[slates, d]``, below 2**13 or so: products add up in units of 2**-20.

    Returns
    -------
    int64 ``[d + 1, d + 1]``: how many slates at ``[0, 0]``, the sum of column ``i`` at ``[0, i]``, counting from 1.
    """
    with_ones = np.concatenate([np.ones((len(values), 1)), values], 1)
    d = with_ones.shape[1]
    found = np.empty((d, d), np.int64)
    for i in range(d):
        for j in range(i + 1):
            found[i, j] = found[j, i] = in_units(with_ones[:, i] * with_ones[:, j]).sum()
    return found


def total(sums: Ints, i: int) -> float:
    """The sum of column ``i``; of column 0, how many slates there are."""
    return float(sums[0, i]) / UNIT


def between(sums: Ints, weights: Floats) -> float | None:
    """Standard error of a figure that each slate moves by the products of its columns with ``weights`` ``[d + 1]``.

    None of fewer than two slates.
    """
    n = total(sums, 0)
    if n < 2:
        return None
    squares = float(weights @ (sums.astype(np.float64) / UNIT) @ weights)
    return float(np.sqrt(max(squares, 0.0) * n / (n - 1)))


def ratio(sums: Ints, over: int, under: int, n: int) -> Value:
    """Sum of one column over that of another; None over nothing. ``under`` 0 gives the mean of a slate."""
    below = total(sums, under)
    if below <= 0:
        return Value(None, n)
    found = total(sums, over) / below
    weights = np.zeros(len(sums))
    weights[over] += 1 / below
    weights[under] -= found / below
    return Value(found, n, between(sums, weights))


def entropy_error(
    sums: Ints, candidates: int, clicks: int, loss: int, less: int | None = None
) -> float | None:
    """Standard error of the normalised entropy, from the columns of these sums; None without both labels.

    With ``less`` that of the difference of two, the losses of the other in that column.
    """
    n, clicked, lost = (total(sums, i) for i in (candidates, clicks, loss))
    if not 0 < clicked < n:
        return None
    weights = np.zeros(len(sums))
    weights[loss] = 1
    if less is not None:
        lost -= total(sums, less)
        weights[less] = -1
    rate, mean = clicked / n, lost / n
    h = entropy(rate)
    by_rate = mean / h * np.log((1 - rate) / rate)
    weights[clicks] -= by_rate
    weights[candidates] += by_rate * rate - mean
    return between(sums, weights / (n * h))
