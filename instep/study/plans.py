"""The studies as values: which models learn a log, what is changed for each, and what it is compared with.

A run is changes of settings, by their names in ``[model]``, and the little about the loop that is no setting: how codes
and the serving copy are held back, when learning ends, how much of a history is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from instep.settings import Settings, SettingsError
from instep.study.results import Kind
from trainer.model.units import UNITS

DAY_MS = 86_400_000
INTERVALS = (1, 10, 100, 1_000)
"""Steps."""
LENGTHS = (64, 128, 256, 512, 1_024, 2_048, 4_096)
BITS = (16, 32, 64, 128, 256)
KS = (8, 16, 32, 48, 64, 96, 128)
SEARCHES = ("none", "inner", "hamming", "category", "recent")
OFFLINE = 100
"""Steps between two indexes of a unit whose index is offline."""
TITLES = {
    "none": "no behaviours",
    "short": "short part alone",
    "average": "average pooling",
    "afm": "AFM",
    "additive": "additive attention",
    "din": "DIN",
    "din_sigmoid": "DIN, sigmoid",
    "din_softmax": "DIN, softmax",
    "dien": "DIEN",
    "bst": "BST",
    "transformer": "Transformer",
    "transformer_prenorm": "Transformer, pre-norm",
    "mimn": "MIMN",
    "sim_hard": "SIM(hard)",
    "sim_soft": f"SIM(soft), index every {OFFLINE} steps",
    "eta": "ETA",
    "sdim": "SDIM",
    "twin": "TWIN",
    "exact": "exact inner product",
    "full": "full target attention",
}


@dataclass(frozen=True)
class Run:
    """One line of a study."""

    name: str
    title: str
    group: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Of ``[model]``."""
    refresh_every: int = 1
    """Steps between recomputing the codes of rows that moved."""
    frozen_at: float | None = None
    """The part of the log after which codes stay as they are."""
    learn_until: float | None = None
    """The part of the log after which the model stays as it is."""
    learn_ms: int | None = None
    """The same in event time, from the first impression on."""
    sync_every: int | None = None
    """Predictions are those of a ranker's copy of the model that is brought up to date every so many steps."""
    length: int | None = None
    """Behaviours that are read of a history, the most recent ones; None for all there are."""
    scored: Literal["all", "new"] = "all"
    """Which candidates count: all, or new items in their first exposures."""
    x: float | None = None
    """Where it stands on the study's axis."""

    def __post_init__(self) -> None:
        held_back = self.refresh_every != 1 or self.frozen_at is not None
        if self.sync_every is not None and held_back:
            raise ValueError(
                f"run {self.name}: expected codes held back or a copy that is synced, got both: "
                "a copy's codes are made of its rows"
            )

    def learns(self) -> dict[str, Any]:
        """All that decides what it predicts: runs that agree in this are learned once."""
        told = ("name", "title", "group", "scored", "x")
        return {name: value for name, value in asdict(self).items() if name not in told}


@dataclass(frozen=True)
class Plan:
    """A study to be made."""

    kind: Kind
    title: str
    runs: tuple[Run, ...]
    references: dict[str, str]
    """By group: the name of the run that the others are compared with."""
    x_axis: str = ""
    notes: tuple[str, ...] = ()


def plan(kind: Kind, settings: Settings, models: Sequence[str] | None = None, span_ms: int = 0) -> Plan:
    """The runs of a study.

    Parameters
    ----------
    models
        Units: those to compare, all if None; for any other kind those to make it of, that of the settings if None.
    span_ms
        Event time of the log, which decides whether a day of it can be told from the rest.

    Raises
    ------
    SettingsError
        If there is such a unit not, or one that was asked for does not go with these settings.
    """
    chosen = (
        list(models) if models is not None else list(UNITS) if kind == "models" else [settings.model.unit]
    )
    for unit in chosen:
        if unit not in UNITS:
            raise SettingsError(f"--models: expected some of {', '.join(UNITS)}, got {unit!r}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise SettingsError(f"--models: expected models that differ, got {', '.join(chosen) or 'none'}")
    title, x_axis = _HEADS[kind]
    if kind == "models":
        runs = [_model(unit) for unit in chosen]
        reference = {"models": "eta" if "eta" in chosen else chosen[0]}
    else:
        runs, reference = [], {}
        for unit in chosen:
            of_unit, references = _of_unit(kind, settings, unit, span_ms)
            several = len(chosen) > 1
            runs += [_prefixed(run, unit) if several else run for run in of_unit]
            reference |= {
                _group(unit, group) if several else group: f"{unit}_{name}" if several else name
                for group, name in references.items()
            }
    kept, notes = [], []
    for run in runs:
        try:
            settings.with_model(**run.changes)
            kept.append(run)
        except SettingsError as e:
            if models is not None and kind == "models":
                raise
            notes.append(f"left out, {run.title}: {e}")
    if not kept:
        raise SettingsError(f"study {kind}: expected a run that can be, got none: {notes[0]}")
    names = {run.name for run in kept}
    first = {run.group: run.name for run in reversed(kept)}
    references = {g: reference[g] if reference[g] in names else first[g] for g in reference if g in first}
    return Plan(kind, title, tuple(kept), references, x_axis, tuple(notes))


def _model(unit: str) -> Run:
    every = OFFLINE if UNITS[unit].sample else 1
    return Run(unit, TITLES.get(unit, unit), "models", {"unit": unit}, refresh_every=every)


_HEADS: dict[Kind, tuple[str, str]] = {
    "models": ("Models", ""),
    "search": ("How behaviours are found", ""),
    "staleness": ("Staleness: codes, and what is served, held back", "steps between refreshes"),
    "length": ("Length of the history", "behaviours"),
    "bits": ("Bits of a code", "bits"),
    "k": ("Behaviours that the search picks", "k"),
    "cold": ("New items", ""),
}


def _of_unit(kind: Kind, settings: Settings, unit: str, span_ms: int) -> tuple[list[Run], dict[str, str]]:
    """A study of one unit: its runs, and the reference of each group."""
    of = {"unit": unit}
    if kind == "staleness":
        return list(_staleness(of, span_ms)), {"codes": "every_1", "serving": "sync_1"}
    if kind == "search":
        titles = {"none": "no search, all of them", "inner": "inner product", "hamming": "Hamming distance"}
        named = {s: titles.get(s, "most recent" if s == "recent" else f"same {s}") for s in SEARCHES}
        return [Run(s, title, "search", {**of, "search": s}) for s, title in named.items()], {
            "search": "none"
        }
    if kind == "cold":
        return list(_cold(of)), {"new items": "born_category", "all candidates": "all_born_category"}
    made: dict[str, tuple[str, Iterable[int], int, Callable[[int], Run]]] = {
        "length": (
            "length",
            LENGTHS,
            max(LENGTHS),
            lambda n: Run(f"length_{n}", f"the last {n:,}", "length", of, length=n),
        ),
        "bits": (
            "bits",
            BITS,
            settings.model.bits,
            lambda n: Run(f"bits_{n}", f"{n} bits", "bits", {**of, "bits": n}),
        ),
        "k": ("k", KS, settings.model.top_k, lambda n: Run(f"k_{n}", f"k = {n}", "k", {**of, "top_k": n})),
    }
    group, values, own, make = made[kind]
    every = sorted({*values, own})
    return [replace(make(n), x=float(n)) for n in every], {group: f"{group}_{own}"}


def _staleness(of: dict[str, Any], span_ms: int) -> Iterator[Run]:
    """Codes refreshed, a ranker synced, ever less often; and codes or the whole model frozen.

    What syncing costs is the question of Monolith's table of sync intervals (Liu et al. 2022, arXiv 2209.07663).
    """
    for n in INTERVALS:
        title = "codes live" if n == 1 else f"codes every {n:,} steps"
        yield Run(f"every_{n}", title, "codes", of, refresh_every=n, x=n)
    yield Run("frozen_half", "codes frozen half way", "codes", of, frozen_at=0.5)
    yield Run("frozen_start", "codes frozen at the start", "codes", of, frozen_at=0.0)
    yield Run("no_warm_up", "ids compared from the first step on", "codes", {**of, "warm_up_steps": 0})
    for n in INTERVALS:
        title = "served after every step" if n == 1 else f"served every {n:,} steps"
        yield Run(f"sync_{n}", title, "serving", of, sync_every=n, x=n)
    yield Run("model_half", "model frozen half way", "serving", of, learn_until=0.5)
    if span_ms > DAY_MS:
        yield Run("model_day", "model frozen after a day", "serving", of, learn_ms=DAY_MS)


def _cold(of: dict[str, Any]) -> Iterator[Run]:
    """New items born from their category or at random: in their first exposures, and what that does to the rest."""
    for scored, group, prefix in (("new", "new items", ""), ("all", "all candidates", "all_")):
        for born, title in (
            ("category", "new items born from their category"),
            ("random", "new items born at random"),
        ):
            changes = {**of, "born_from_category": born == "category"}
            yield Run(
                f"{prefix}born_{born}", title, group, changes, scored="new" if scored == "new" else "all"
            )


def _prefixed(run: Run, unit: str) -> Run:
    title = f"{TITLES.get(unit, unit)}, {run.title}"
    return replace(run, name=f"{unit}_{run.name}", title=title, group=_group(unit, run.group))


def _group(unit: str, group: str) -> str:
    return f"{TITLES.get(unit, unit)}: {group}"
