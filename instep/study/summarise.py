"""From what the runs predicted to what a study found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from instep import truth as truth_file
from instep.settings import Settings
from instep.study.engine import finished, predictions, traces
from instep.study.figures import (
    METRICS,
    Scored,
    estimates,
    in_first_exposures,
    less,
    mean_of,
    probes_mean,
    scored,
    windows,
)
from instep.study.plans import Plan, Run
from instep.study.results import Cost, Found
from instep.study.spool import Spool
from trainer.scores import auc

FolderOf = Callable[[Run, int, int], Path]
"""Where a run of a log and a seed, by their numbers, has its predictions."""


@dataclass(frozen=True)
class Log:
    """One log of a study, and which of its candidates count."""

    name: str
    spool: Spool
    n_batches: int
    warmup: int
    """Candidates that are learned before and not scored."""
    truth: Path | None

    @property
    def kinds(self) -> list[str]:
        return list(self.spool.made_of["kinds"])


@dataclass(frozen=True)
class _Line:
    """A run by one kind of action: a row of a table."""

    run: Run
    kind: int
    name: str
    title: str
    group: str


def summarise(
    plan: Plan,
    settings: Settings,
    logs: Sequence[Log],
    n_seeds: int,
    folder_of: FolderOf,
    *,
    n_bootstrap: int,
    costs: dict[str, Cost],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Found], int, float | None]:
    """What each run found, in the order of the plan; how many candidates were scored; the best possible AUC.

    Parameters
    ----------
    settings
        The log's own, which a run's changes are told against.
    costs
        By name of a run, where measured.
    tell
        Called after each run: how many, of how many.
    """
    n_kinds = len(logs[0].kinds)
    lines = list(_lines(plan, logs[0].kinds))
    counted = _Counted(logs)
    found = []
    for n, line in enumerate(lines):
        of = counted.of(line.kind, line.run.scored)
        reference = next(x for x in lines if x.kind == line.kind and x.name == _reference(plan, line))

        def predicted(run: Run, of: list[Scored] = of, kind: int = line.kind) -> list[list[NDArray[Any]]]:
            """By log and seed."""
            return [
                [np.array(predictions(folder_of(run, i, s), n_kinds)[own.rows, kind]) for s in range(n_seeds)]
                for i, own in enumerate(of)
            ]

        own = predicted(line.run)
        against = None if reference is line else predicted(reference.run)
        found.append(_found(line, settings, logs, own, against, of, folder_of, n_bootstrap, costs))
        tell(n + 1, len(lines))
    shown = counted.of(0, plan.runs[0].scored)
    best = [auc(s.best, s.label) for s in shown if s.best is not None]
    best_auc = float(np.mean(best)) if len(best) == len(logs) and np.isfinite(best).all() else None
    return found, sum(len(s.rows) for s in shown), best_auc


class _Counted:
    """The candidates that count, of each log: read once for each kind of action."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self._logs = logs
        self._known = [truth_file.load(log.truth) if log.truth is not None else None for log in logs]
        self._found: dict[tuple[int, str], list[Scored]] = {}

    def of(self, kind: int, which: str) -> list[Scored]:
        if (kind, which) not in self._found:
            self._found[kind, which] = list(self._make(kind, which))
        return self._found[kind, which]

    def _make(self, kind: int, which: str) -> Iterator[Scored]:
        for log, known in zip(self._logs, self._known, strict=True):
            candidates = log.spool.candidates(log.n_batches)
            every = scored(candidates, log.warmup, kind, known)
            yield every if which == "all" else every.only(in_first_exposures(candidates, known))


def _lines(plan: Plan, kinds: Sequence[str]) -> Iterator[_Line]:
    """Every run by the first kind of action, which is ranked by; then by the others, in groups of their own."""
    for k, kind in enumerate(kinds):
        for run in plan.runs:
            if k == 0:
                yield _Line(run, k, run.name, run.title, run.group)
            else:
                yield _Line(run, k, f"{run.name}.{kind}", run.title, f"{run.group}: {kind}")


def references(plan: Plan, kinds: Sequence[str]) -> dict[str, str]:
    """By group, for all kinds of actions."""
    return {line.group: _reference(plan, line) for line in _lines(plan, kinds)}


def _reference(plan: Plan, line: _Line) -> str:
    return plan.references[line.run.group] + line.name.removeprefix(line.run.name)


def _found(
    line: _Line,
    settings: Settings,
    logs: Sequence[Log],
    own: list[list[NDArray[Any]]],
    against: list[list[NDArray[Any]]] | None,
    of: list[Scored],
    folder_of: FolderOf,
    n_bootstrap: int,
    costs: dict[str, Cost],
) -> Found:
    run = line.run
    each = [[estimates(p, s) for p in seeds] for seeds, s in zip(own, of, strict=True)]
    by_name = {name: mean_of([[e[name] for e in seeds] for seeds in each]) for name in METRICS}
    auc_less = ne_less = None
    if against is not None:
        pairs = [
            [less(a, b, s, n_bootstrap, seed) for seed, (a, b) in enumerate(zip(x, y, strict=True))]
            for x, y, s in zip(own, against, of, strict=True)
        ]
        auc_less, ne_less = (mean_of([[pair[i] for pair in seeds] for seeds in pairs]) for i in (0, 1))
    changed = settings.with_model(**run.changes)
    flat = [(p, s) for seeds, s in zip(own, of, strict=True) for p in seeds]
    found = Found(
        line.name,
        line.title,
        line.group,
        changed.model.unit,
        getattr(changed.model, "search", "own"),
        changes_of(settings, run),
        auc=by_name["auc"],
        ne=by_name["ne"],
        gauc=by_name["gauc"],
        log_loss=by_name["log_loss"],
        calibration=by_name["calibration"],
        auc_less=auc_less,
        ne_less=ne_less,
        windows=windows([p for p, _ in flat], [s for _, s in flat]),
        cost=costs.get(run.name),
        x=run.x,
    )
    return _with_traces(found, run, changed, logs, len(own[0]), folder_of)


def _with_traces(
    found: Found, run: Run, settings: Settings, logs: Sequence[Log], n_seeds: int, folder_of: FolderOf
) -> Found:
    """The same with what the search found and how much moved."""
    columns: list[list[list[NDArray[np.float64]]]] = [[], [], [], []]
    flips, seconds = [], []
    for i, log in enumerate(logs):
        kept = [traces(folder_of(run, i, s)) for s in range(n_seeds)]
        first = _first_batch(log)
        for c, column in enumerate(columns):
            column.append([t.probes[t.probed >= first, c] for t in kept])
        flips += [float(t.flips[first:].mean()) for t in kept]
        done = [finished(folder_of(run, i, s)) for s in range(n_seeds)]
        seconds += [d.seconds for d in done if d is not None]
    overlap_exact, recall, by_chance, ties = (probes_mean(column) for column in columns)
    real = min(settings.model.bits, 64) / 64  # a shorter code stands in its word several times
    return msgspec.structs.replace(
        found,
        overlap_exact=overlap_exact,
        recall=recall,
        by_chance=by_chance,
        flips=100 * real * float(np.mean(flips)) if ties is not None else None,
        ties=ties.value if ties is not None else None,
        seconds=float(np.sum(seconds)),
    )


def _first_batch(log: Log) -> int:
    """The first batch of which a candidate is scored."""
    ends = np.cumsum(log.spool.n_candidates[: log.n_batches])
    return int(np.searchsorted(ends, log.warmup, side="right"))


def changes_of(settings: Settings, run: Run) -> dict[str, str | int | float | bool]:
    """The settings in which a run differs from the log's own, by their names in the file."""
    before, after = (msgspec.to_builtins(s.model) for s in (settings, settings.with_model(**run.changes)))
    changed = {f"model.{name}": value for name, value in after.items() if value != before[name]}
    if run.length is not None:
        changed["stream.max_history"] = run.length
    return {
        name: value if isinstance(value, str | int | float | bool) else str(list(value))
        for name, value in changed.items()
    }
