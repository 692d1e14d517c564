"""Which charts a study has, and what each says to who does not see it; charts.js draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instep.study.results import Found, Study
from instep.study.summary import lines
from instep.study.text import (
    MEASURES,
    MISSING,
    figure,
    figure_of,
    groups,
    number,
    points,
    reference_of,
    share,
    short_number,
    value_of,
)


class Shown(NamedTuple):
    """What a chart can show, by the name that charts.js knows, and its title."""

    key: str
    title: str


class Chart(NamedTuple):
    """A chart of a group."""

    kind: str
    """bars, differences, time, cost or curve."""
    group: str
    title: str
    note: str
    measures: tuple[Shown, ...]
    """The first is shown at first."""
    told: str
    """The same in words."""


FOUND = (
    Shown("overlap", "of its own top k"),
    Shown("overlap_exact", "of the exact top k"),
    Shown("recall", "of the hidden topic"),
)
QUALITY = (Shown("auc", "AUC"), Shown("auc_less", "difference"), Shown("ne", "NE"), Shown("gauc", "gAUC"))
COST = (Shown("rank_ms", "ms a slate"), Shown("learn_per_s", "learned / s"))
DRIFT = (Shown("flips", "bits flipped"), Shown("ties", "ties"))


def charts(study: Study) -> list[Chart]:
    """Charts of every group in turn; one for which there are no figures is left out."""
    found = []
    for group in groups(study):
        runs = [run for run in study.runs if run.group == group]
        reference = reference_of(study, group)
        against = "the reference" if reference is None else reference.title
        if any(len({run.x for run in line}) > 1 for line in lines(runs).values()):
            found += _curves(study, group, runs, against)
        else:
            found += _bars(group, runs, against, study.best_auc)
        found += _over_time(group, runs)
    return found


def _bars(group: str, runs: Sequence[Found], against: str, best: float | None) -> list[Chart]:
    found = []
    if _some(runs, "auc"):
        line = "" if best is None else f" The dashed line is the best possible, {points(best)}."
        whiskers = "; whiskers are 95 % intervals" if _bounded(runs, "auc") else "; without intervals"
        note = f"Points, bars begin at chance{whiskers}.{line}"
        found.append(Chart("bars", group, "AUC", note, (Shown("auc", "AUC"),), _told(runs, ["auc"])))
    if _some(runs, "auc_less"):
        marks = (
            "a filled mark has an interval without 0" if _bounded(runs, "auc_less") else "without intervals"
        )
        note = f"AUC points on the same candidates; {marks}."
        shown = (Shown("auc_less", "difference"),)
        title = f"Difference to {against}"
        found.append(Chart("differences", group, title, note, shown, _told(runs, ["auc_less"])))
    for key, title in (
        ("rank_ms", "AUC against ranking time"),
        ("learn_per_s", "AUC against learning speed"),
    ):
        if any(value_of(r, key) is not None and r.auc.value is not None for r in runs):
            unit = {
                "rank_ms": "Milliseconds for a slate of 200 candidates",
                "learn_per_s": "Candidates learned a second",
            }
            note = f"{unit[key]}, one thread. The line joins runs that no other beats in both."
            told = _told(runs, ["auc", key])
            found.append(Chart("cost", group, title, note, (Shown(key, title),), told))
    for measure in FOUND:
        if _some(runs, measure.key):
            note = (
                "The tick is what drawing at random would find."
                if measure.key == "recall"
                else "Mean of the searches."
            )
            title = f"Found {measure.title}"
            found.append(Chart("bars", group, title, note, (measure,), _told(runs, [measure.key])))
    return found


def _curves(study: Study, group: str, runs: Sequence[Found], against: str) -> list[Chart]:
    along = study.x_axis or "x"
    bands = "Bands are 95 % intervals; the" if _bounded(runs, "auc") or _bounded(runs, "auc_less") else "The"
    found = []
    for title, note, measures in (
        (f"Quality along {along}", f"{bands} difference is to {against}.", QUALITY),
        (f"What the search finds along {along}", "Dotted: what drawing at random would find.", FOUND),
        (
            f"Codes along {along}",
            "Bits that changed in 100 steps; searches whose last place was a tie.",
            DRIFT,
        ),
        (
            f"Cost along {along}",
            "A slate of 200 candidates ranked; candidates learned a second; one thread.",
            COST,
        ),
    ):
        if shown := tuple(m for m in measures if _some(runs, m.key)):
            told = _told(runs, [m.key for m in shown])
            found.append(Chart("curve", group, title, note, shown, told))
    return found


def _over_time(group: str, runs: Sequence[Found]) -> list[Chart]:
    shown = tuple(
        Shown(key, title)
        for key, title in (("ne", "NE"), ("auc", "AUC"))
        if any(getattr(window, key) is not None for run in runs for window in run.windows)
    )
    if not shown:
        return []
    told = []
    for run in runs:
        known = [w.ne for w in run.windows if w.ne is not None]
        if known:
            told.append(f"{run.title}: NE {known[0]:.4f} in the first window, {known[-1]:.4f} in the last")
    note = "Each window of the log by itself, by event time. Below 1, NE beats the prior."
    return [Chart("time", group, "Over time", note, shown, ". ".join(told) or MISSING)]


def _bounded(runs: Sequence[Found], key: str) -> bool:
    """If any of them has an interval."""
    found = [figure_of(run, key) for run in runs]
    return any(f is not None and f.low is not None and f.high is not None for f in found)


def _some(runs: Sequence[Found], key: str) -> bool:
    return any(value_of(run, key) is not None for run in runs)


def _told(runs: Sequence[Found], keys: Sequence[str]) -> str:
    """Every run with these figures."""
    writers = {m.key: m.write for m in MEASURES}
    others = {
        "learn_per_s": "{:,.0f}".format,
        "rank_ms": "{:.2f} ms".format,
        "flips": "{:,.0f}".format,
        "ties": share,
    }
    told = []
    for run in runs:
        cells = [
            figure(figure_of(run, key), writers[key])
            if key in writers
            else number(value_of(run, key), others[key])
            for key in keys
        ]
        at = "" if run.x is None else f" at {short_number(run.x)}"
        told.append(f"{run.title}{at}: {', '.join(map(str, cells))}")
    return ". ".join(told)
