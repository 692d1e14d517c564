"""How the figures of a study are written: one column for each, for tables of every kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from instep.study.results import Figure, Found, Study

MISSING = "\N{EN DASH}"


class Cell(NamedTuple):
    """A figure of a run, written."""

    text: str
    interval: str = ""
    """``low, high``; empty where there is none."""
    sort: float | str | None = None
    """What a column is sorted by; None goes last."""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


class Column(NamedTuple):
    """A column of a table: a name, what stands in it, and if a short table has it."""

    key: str
    title: str
    cell: Callable[[Found], Cell]
    brief: bool = True


class Measure(NamedTuple):
    """A figure with an interval, and how it is written."""

    key: str
    title: str
    write: Callable[[float], str]
    brief: bool = True


def points(value: float) -> str:
    """An AUC in points.

    >>> points(0.83344)
    '83.34'
    """
    return f"{100 * value:.2f}"


def points_more(value: float) -> str:
    """A difference of AUCs in points.

    >>> points_more(-0.00004), points_more(0.0012)
    ('-0.00', '+0.12')
    """
    return f"{100 * value:+.2f}"


def share(value: float) -> str:
    """A share in percent, in whole ones.

    >>> share(0.874)
    '87%'
    """
    return f"{100 * value:.0f}%"


MEASURES = (
    Measure("auc", "AUC", points),
    Measure("auc_less", "AUC less {reference}", points_more),
    Measure("ne", "NE", "{:.4f}".format),
    Measure("ne_less", "NE less {reference}", "{:+.4f}".format, brief=False),
    Measure("gauc", "gAUC", points, brief=False),
    Measure("log_loss", "log loss", "{:.4f}".format, brief=False),
    Measure("calibration", "calibration", "{:.3f}".format, brief=False),
    Measure("overlap", "its own top k found", share),
    Measure("overlap_exact", "exact top k found", share),
    Measure("recall", "hidden topic found", share),
    Measure("by_chance", "by chance", share),
)
"""In the order of the columns; each is a field of ``Found``."""


def figure_of(run: Found, key: str) -> Figure | None:
    """The figure of a measure; None if the run has none."""
    found = getattr(run, key)
    return found if isinstance(found, Figure) else None


def value_of(run: Found, key: str) -> float | None:
    """Its value, or that of a plain number of the run or of its cost."""
    found = getattr(run.cost, key, None) if key in ("learn_per_s", "rank_ms") else getattr(run, key)
    if isinstance(found, Figure):
        return found.value
    return None if found is None else float(found)


def figure(found: Figure | None, write: Callable[[float], str]) -> Cell:
    """A figure with its interval, if it has one.

    >>> str(figure(Figure(0.8334, 0.8310, 0.8358), points)), str(figure(Figure(None), points))
    ('83.34 (83.10, 83.58)', '–')
    """
    if found is None or found.value is None:
        return Cell(MISSING)
    if found.low is None or found.high is None:
        return Cell(write(found.value), "", found.value)
    return Cell(write(found.value), f"{write(found.low)}, {write(found.high)}", found.value)


def number(value: float | None, write: Callable[[float], str]) -> Cell:
    """A plain number."""
    return Cell(MISSING) if value is None else Cell(write(value), "", value)


def short_number(value: float) -> str:
    """A number as short as it is exact enough to tell: of an axis.

    >>> short_number(1000.0), short_number(0.25), short_number(65536.0)
    ('1,000', '0.25', '65,536')
    """
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def groups(study: Study) -> list[str]:
    """Groups in the order in which they come first."""
    return list(dict.fromkeys(run.group for run in study.runs))


def reference_of(study: Study, group: str) -> Found | None:
    """The run that the others of a group are compared with."""
    name = study.references.get(group)
    return next((run for run in study.runs if run.name == name and run.group == group), None)


def columns(study: Study, runs: Sequence[Found], reference: Found | None) -> list[Column]:
    """Columns of a table of these runs: those that at least one of them fills.

    Parameters
    ----------
    reference
        That the differences are against; None if the runs have not one in common.
    """
    against = "the reference" if reference is None else reference.title
    found = [Column("title", "model", lambda run: Cell(run.title, "", run.title))]
    if any(run.x is not None for run in runs):
        found.append(Column("x", study.x_axis or "x", lambda run: number(run.x, short_number)))
    found += [_of_measure(m, against, study) for m in MEASURES if _fills(runs, m.key)]
    plain = [
        Column("flips", "bits flipped / 100 steps", lambda run: number(run.flips, "{:,.0f}".format)),
        Column("ties", "last place tied", lambda run: number(run.ties, share)),
        Column("learn_per_s", "candidates learned / s", lambda run: _cost(run, "learn_per_s", "{:,.0f}")),
        Column("rank_ms", "ms for a slate of 200", lambda run: _cost(run, "rank_ms", "{:.2f}")),
        Column("seconds", "took, s", lambda run: number(run.seconds, "{:,.0f}".format), brief=False),
    ]
    return found + [c for c in plain if _fills(runs, c.key)]


def _fills(runs: Sequence[Found], key: str) -> bool:
    always = key in ("auc", "ne", "gauc", "log_loss", "calibration")
    return always or any(value_of(run, key) is not None for run in runs)


def _cost(run: Found, key: str, written: str) -> Cell:
    return number(value_of(run, key), written.format)


def _of_measure(measure: Measure, against: str, study: Study) -> Column:
    def cell(run: Found) -> Cell:
        if measure.key.endswith("_less") and study.references.get(run.group) == run.name:
            return Cell("reference", "", 0.0)
        return figure(figure_of(run, measure.key), measure.write)

    return Column(measure.key, measure.title.replace("{reference}", against), cell, measure.brief)
