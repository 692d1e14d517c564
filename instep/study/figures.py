"""From predictions to figures: metrics, paired differences, windows, and their mean over logs and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instep.scorebook import OTHER, RECORD, corrected
from instep.study.results import Figure, Window
from instep.truth import Known
from trainer.intervals import Estimate, paired_bootstrap, paired_entropy_bootstrap, standard_errors
from trainer.scores import auc, metrics, normalised_entropy

N_WINDOWS = 20
PER_WINDOW = 500
"""Candidates of a window, at least."""
FIRST_EXPOSURES = 10
"""So often a new item is new."""
METRICS = ("auc", "ne", "gauc", "log_loss", "calibration")

P = NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """The candidates of a log that count, of one kind of action."""

    rows: NDArray[np.int64]
    """``[n]`` among all candidates, ascending."""
    user: NDArray[np.uint64]
    """``[n]``."""
    label: NDArray[np.uint8]
    """``[n]``."""
    at_ms: NDArray[np.int64]
    """``[n]``."""
    best: P | None
    """``[n]``: their true probabilities, of a simulated log and the first kind."""

    def only(self, counts: NDArray[np.bool_]) -> Scored:
        """Those of the candidates for which ``counts`` (bool, of all candidates) is True."""
        own = counts[self.rows]
        best = self.best[own] if self.best is not None else None
        return Scored(self.rows[own], self.user[own], self.label[own], self.at_ms[own], best)


def scored(candidates: NDArray[np.void], warmup: int, kind: int = 0, known: Known | None = None) -> Scored:
    """What counts of a log: all that was shown but the first ``warmup``, with what became of it.

    Parameters
    ----------
    candidates
        ``[n]`` of ``Spool.candidates``.
    kind
        The column of its label.
    """
    late = np.array(candidates["late"])
    as_records = np.zeros(len(candidates), RECORD)
    for name in ("user", "impression", "item", "at_ms"):
        as_records[name] = candidates[name]
    as_records["label"] = candidates["label"][:, kind] + OTHER * late
    shown = corrected(as_records)
    rows = np.flatnonzero(~late)
    own = rows >= warmup
    rows, shown = rows[own], shown[own]
    best = None
    if known is not None and kind == 0:
        best = known.p_of(shown["impression"], candidates["place"][rows].astype(np.int64))
    return Scored(rows, shown["user"].copy(), shown["label"].copy(), shown["at_ms"].copy(), best)


def in_first_exposures(candidates: NDArray[np.void], known: Known | None = None) -> NDArray[np.bool_]:
    """Which candidates ``[n]`` are new items, shown for one of the first `FIRST_EXPOSURES` times.

    New are those that the truth says came later; without it, those that half of the log had not shown.
    """
    item, late = np.array(candidates["item"]), np.array(candidates["late"])
    order = np.lexsort((np.arange(len(item)), late, item))  # what is late is no exposure
    first = np.ones(len(item), bool)
    first[1:] = item[order][1:] != item[order][:-1]
    begins = np.flatnonzero(first)
    which = np.cumsum(first) - 1
    nth = np.empty(len(item), np.int64)
    nth[order] = np.arange(len(item)) - begins[which]
    if known is not None and len(known.new_items):
        new = np.isin(item, known.new_items)
    else:
        new = np.empty(len(item), bool)
        new[order] = (order[begins] >= len(item) / 2)[which]
    result: NDArray[np.bool_] = new & (nth < FIRST_EXPOSURES) & ~late
    return result


def estimates(p: P, of: Scored) -> dict[str, Estimate]:
    """All metrics of predictions ``[n]``; candidates without one (nan) are left out."""
    fine = ~np.isnan(p)
    columns = p[fine], of.label[fine], of.user[fine]
    if not fine.any():
        return dict.fromkeys(METRICS, Estimate(*[np.nan] * 4))
    found, errors = metrics(*columns), standard_errors(*columns)
    return {name: _normal(found[name], errors[name]) for name in METRICS}


def less(a: P, b: P, of: Scored, n: int, seed: int) -> tuple[Estimate, Estimate]:
    """AUC and NE of ``a`` less those of ``b`` on the candidates that both predicted, users resampled."""
    fine = ~(np.isnan(a) | np.isnan(b))
    if not fine.any():
        nothing = Estimate(*[np.nan] * 4)
        return nothing, nothing
    columns = a[fine], b[fine], of.label[fine], of.user[fine]
    return paired_bootstrap(*columns, n=n, seed=seed), paired_entropy_bootstrap(*columns, n=n, seed=seed)


def windows(p: Sequence[P], of: Sequence[Scored]) -> list[Window]:
    """Equally long parts of the logs, the mean of predictions that each belong to one of ``of``."""
    n = min(N_WINDOWS, max(1, min(len(s.rows) for s in of) // PER_WINDOW))
    found = []
    for w in range(n):
        parts = [np.array_split(np.arange(len(s.rows)), n)[w] for s in of]
        each = []
        for q, s, part in zip(p, of, parts, strict=True):
            own = part[~np.isnan(q[part])]
            each.append((auc(q[own], s.label[own]), normalised_entropy(q[own], s.label[own])))
        first = parts[0]
        until_ms = int(of[0].at_ms[first[-1]]) if len(first) else 0
        means = [_finite(float(np.mean(column))) for column in zip(*each, strict=True)]
        found.append(Window(until_ms, len(first), *means))
    return found


def mean_of(logs: Sequence[Sequence[Estimate]]) -> Figure:
    """The mean over logs of the mean over seeds, with a 95 % interval.

    Errors of logs are independent, and add up as such. Seeds share the users of their log, so a log's error is no less
    than that of one seed, whose mean is taken; what the seeds differ by comes on top. One seed of one log keeps its own
    interval.
    """
    if len(logs) == 1 and len(logs[0]) == 1:
        only = logs[0][0]
        return Figure(_finite(only.value), _finite(only.low), _finite(only.high))
    value = float(np.mean([np.mean([e.value for e in seeds]) for seeds in logs]))
    error = float(np.sqrt(np.sum([_variance(seeds) for seeds in logs]))) / len(logs)
    return Figure(_finite(value), _finite(value - 1.96 * error), _finite(value + 1.96 * error))


def probes_mean(logs: Sequence[Sequence[NDArray[np.float64]]]) -> Figure | None:
    """The mean over batches of what was probed in each, ``[m]``; None where nothing could be."""
    each: list[list[Estimate]] = []
    for seeds in logs:
        own = [column[~np.isnan(column)] for column in seeds]
        each.append([_of_batches(column) for column in own if len(column)])
    found = [seeds for seeds in each if seeds]
    return mean_of(found) if found else None


def _of_batches(column: NDArray[np.float64]) -> Estimate:
    error = float(column.std(ddof=1) / np.sqrt(len(column))) if len(column) > 1 else np.nan
    return _normal(float(column.mean()), error)


def _variance(seeds: Sequence[Estimate]) -> float:
    of_users = float(np.mean([e.standard_error for e in seeds])) ** 2
    between = float(np.var([e.value for e in seeds], ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    return of_users + between


def _normal(value: float, error: float) -> Estimate:
    return Estimate(value, error, value - 1.96 * error, value + 1.96 * error)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
