"""What a study says in words: made from its numbers, and no more than they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instep.study.results import Figure, Found, Study
from instep.study.text import MISSING, figure, groups, points, points_more, reference_of, short_number

MANY = 10
"""Comparisons from which on it is said that some of them mislead."""


class Headline(NamedTuple):
    """A figure to begin with."""

    title: str
    value: str
    note: str


def headlines(study: Study) -> list[Headline]:
    """Who leads each group (the first four), how far the best possible is, and what was scored."""
    found = []
    names = groups(study)
    for group in names[:4]:
        if (best := leader(study, group)) is not None and best.auc.value is not None:
            cell = figure(best.auc, points)
            note = best.title + (f" ({cell.interval.replace(', ', ' to ')})" if cell.interval else "")
            found.append(Headline(f"best AUC, {group}" if len(names) > 1 else "best AUC", cell.text, note))
    tops = [best.auc.value for g in names if (best := leader(study, g)) and best.auc.value is not None]
    if study.best_auc is not None:
        note = "of predicting the true probabilities"
        if len(names) == 1 and tops:
            note = f"{points(study.best_auc - tops[0])} above the leader"
        found.append(Headline("best possible AUC", points(study.best_auc), note))
    seeds = "one seed" if study.seeds == 1 else f"each of {study.seeds} seeds"
    found.append(
        Headline("candidates scored", f"{study.candidates:,}", f"{seeds}; {study.warmup:,} learned before")
    )
    found.append(Headline("runs", f"{len(study.runs):,}", f"on {study.log}" if study.log else ""))
    return found


def summary(study: Study) -> list[str]:
    """Paragraphs: one for each group, then how far the figures can be trusted."""
    names = groups(study)
    told = [_of_group(study, group, f"{group}: " if len(names) > 1 else "") for group in names]
    return [*(told or ["No run."]), _scope(study)]


def leader(study: Study, group: str) -> Found | None:
    """The run with the highest AUC; of equal ones the first. None if no run has one."""
    known = [r for r in study.runs if r.group == group and r.auc.value is not None]
    return max(known, key=lambda r: r.auc.value or 0.0, default=None)


def _of_group(study: Study, group: str, begins: str) -> str:
    runs = [run for run in study.runs if run.group == group]
    best = leader(study, group)
    if best is None or best.auc.value is None:
        return f"{begins}No run has an AUC, so there is nothing to compare."
    cell = figure(best.auc, points)
    interval = f" (95 % interval {cell.interval.replace(', ', ' to ')})" if cell.interval else ""
    told = f"{begins}{best.title} has the highest AUC, {cell.text}{interval}"
    if study.best_auc is not None:
        gap = study.best_auc - best.auc.value
        told += f"; the best possible is {points(abs(gap))} points {'higher' if gap >= 0 else 'lower'}"
    if len(runs) == 1:
        return f"{told}. It is the only run, so there is nothing to compare it with."
    told += "."
    reference = reference_of(study, group)
    if reference is not None:
        told += _against(reference, [r for r in runs if r is not reference])
    return told + _along(study, runs)


def _against(reference: Found, others: Sequence[Found]) -> str:
    """Which differences have intervals without 0, and which not."""
    known = [(r, r.auc_less) for r in others if r.auc_less is not None and r.auc_less.value is not None]
    sure = [(r, d) for r, d in known if d.low is not None and d.high is not None]
    higher = [(r, d) for r, d in sure if d.low is not None and d.low > 0]
    lower = [(r, d) for r, d in sure if d.high is not None and d.high < 0]
    unsure = [(r, d) for r, d in sure if (r, d) not in higher and (r, d) not in lower]
    told = [f"{_listed(found)} {side} it" for side, found in (("above", higher), ("below", lower)) if found]
    said = f" Against {reference.title}, intervals without 0 put {', and '.join(told)}." if told else ""
    if unsure:
        said += f" Intervals that contain 0 do not tell {reference.title} apart from {_listed(unsure)}."
    if bare := len(known) - len(sure):
        whose = "The difference of 1 run" if bare == 1 else f"The differences of {bare} runs"
        said += f" {whose} to {reference.title} came without an interval: chance is not ruled out."
    return said


def _listed(runs: Sequence[tuple[Found, Figure]]) -> str:
    """The largest differences first; of many, the first four."""
    ordered = sorted(runs, key=lambda pair: -abs(pair[1].value or 0.0))
    named = [f"{r.title} ({points_more(d.value or 0.0)})" for r, d in ordered[:4]]
    if more := len(ordered) - len(named):
        return f"{', '.join(named)} and {more} more"
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _along(study: Study, runs: Sequence[Found]) -> str:
    """From the first to the last place on the axis, for each line."""
    said = []
    for title, line in lines(runs).items():
        ends = [run for run in line if run.auc.value is not None]
        if len(ends) > 1:
            first, last = ends[0], ends[-1]
            at = [MISSING if r.x is None else short_number(r.x) for r in (first, last)]
            auc = [MISSING if r.auc.value is None else points(r.auc.value) for r in (first, last)]
            said.append(f"{title} goes from {auc[0]} at {at[0]} to {auc[1]} at {at[1]}")
    return f" Along {study.x_axis or 'x'}: {'; '.join(said)}." if said else ""


def lines(runs: Sequence[Found]) -> dict[str, list[Found]]:
    """Runs that stand on the axis, by what they have in common, along it.

    A line is a unit; where a unit has several searches, a unit with its search.
    """
    placed = sorted((run for run in runs if run.x is not None), key=lambda run: run.x or 0.0)
    searches: dict[str, set[str]] = {}
    for run in placed:
        searches.setdefault(run.unit, set()).add(run.search)
    found: dict[str, list[Found]] = {}
    for run in (r for r in runs if r.x is not None):
        found.setdefault(line_of(run, searches), [])
    for run in placed:
        found[line_of(run, searches)].append(run)
    return found


def line_of(run: Found, searches: dict[str, set[str]]) -> str:
    """Name of the line that a run is on."""
    return run.unit if len(searches[run.unit]) == 1 else f"{run.unit}, {run.search}"


def _scope(study: Study) -> str:
    of = f" of {study.log}" if study.log else ""
    told = f"{study.candidates:,} candidates{of} were scored, each before it was learned"
    if study.warmup:
        told += f", after {study.warmup:,} that were only learned"
    if study.seeds > 1:
        told += f"; figures are means of {study.seeds} seeds."
    else:
        told += ". There is one seed: how much another would differ is not known."
    n = sum(run.auc_less is not None and run.auc_less.low is not None for run in study.runs)
    return (
        f"{told} Of {n} intervals of differences about one in twenty misses by chance." if n >= MANY else told
    )
