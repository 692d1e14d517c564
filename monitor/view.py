"""What the page is told, as messages: pure functions of a board. The live page and the one in a file get the same.

>>> rows = [Row("data", 60_000, 60_000 * i, {"data.events": Value(x, 9)}) for i, x in enumerate([1.5, 2.25])]
>>> series(rows, 60_000, 0, 120_000).values["data.events"]
Column(value=[1.5, 2.25], n=[9, 9], error=[None, None])
>>> print(*csv_lines(rows), sep="", end="")
start,start_ms,size_ms,source,name,value,n,error
1970-01-01T00:00:00Z,0,60000,data,data.events,1.5,9,
1970-01-01T00:01:00Z,60000,60000,data,data.events,2.25,9,
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator
from math import isfinite
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from monitor.alert import encode_alert
from monitor.board import Board, Status
from monitor.layout import CHARTS, SOURCES, TITLES, WAITS_FOR, Chart
from monitor.measures import MEASURES, Panel
from monitor.row import SIZES_MS, Row, Source, Value

SIZES = dict(zip(("1m", "10m", "1h"), SIZES_MS, strict=True))
"""Windows by the names they have on the page."""


class Span(Struct, frozen=True):
    """Windows of one source and size that are kept."""

    from_ms: int
    to_ms: int
    """End of the last one."""
    n: int


class Windows(Struct, frozen=True):
    """One size."""

    size: str
    size_ms: int
    sources: dict[Source, Span]


class MeasureOf(Struct, frozen=True):
    """One of `monitor.measures`."""

    name: str
    title: str
    of: str
    counted: str
    """What ``n`` counts."""
    least: int
    unit: str
    help: str


class Section(Struct, frozen=True):
    """One panel, and what it waits for while it has no window."""

    panel: Panel
    title: str
    source: Source
    waits_for: str


class State(Struct, frozen=True):
    """All of the page but its series."""

    instep: str
    now_ms: int
    """Wall time, against which the browser sets its own clock."""
    last: str
    """The newest piece of news that is in it; the stream goes on behind it."""
    status: Status | None
    waits_for: str
    """Why there is nothing to show; empty where there is."""
    windows: list[Windows]
    sections: list[Section]
    charts: tuple[Chart, ...]
    measures: list[MeasureOf]
    alerts: list[msgspec.Raw]
    """Newest first, each as `monitor.alert.encode_alert` writes it."""


class Column(Struct, frozen=True):
    """One figure in each of the windows; None where it is not known, ``n`` 0 where the window does not have it."""

    value: list[float | None]
    n: list[int]
    error: list[float | None]


class Series(Struct, frozen=True):
    """Figures over time, window by window."""

    size_ms: int
    from_ms: int
    to_ms: int
    start_ms: list[int]
    values: dict[str, Column]


def news(run: str, n: int) -> str:
    """A piece of news as an event id: the run that it is of, and its number there."""
    return f"{run}-{n}"


def state(board: Board, version: str, now_ms: int) -> State:
    """The page but its series, at a wall time."""
    last = board.last  # first: what comes meanwhile is told twice rather than never
    windows = [Windows(size, size_ms, spans(board.rows(size_ms))) for size, size_ms in SIZES.items()]
    return State(
        instep=version,
        now_ms=now_ms,
        last=news(board.run, last),
        status=board.status,
        waits_for=waits_for(board.status, windows),
        windows=windows,
        sections=[Section(p, TITLES[p], source, WAITS_FOR[source]) for p, source in SOURCES.items()],
        charts=CHARTS,
        measures=[MeasureOf(m.name, m.title, m.of, m.n, m.least, m.unit, m.help) for m in MEASURES],
        alerts=[msgspec.Raw(encode_alert(alert)) for alert in board.alerts],
    )


def waits_for(status: Status | None, windows: Iterable[Windows]) -> str:
    """Why there is nothing to show, in words."""
    if any(w.sources for w in windows):
        return ""
    if status is None:
        return "the first record of instep.samples"
    end_ms = (status.at_ms // SIZES_MS[0] + 1) * SIZES_MS[0]
    return f"the first minute to close, at {utc(end_ms)} of event time"


def spans(rows: Iterable[Row]) -> dict[Source, Span]:
    """What is kept of each source."""
    found: dict[Source, Span] = {}
    for row in rows:
        old = found.get(row.source)
        found[row.source] = Span(old.from_ms if old else row.start_ms, row.end_ms, old.n + 1 if old else 1)
    return found


def series(
    rows: Iterable[Row], size_ms: int, from_ms: int, to_ms: int, chosen: Collection[str] | None = None
) -> Series:
    """Values of rows of one size as columns, each as long as there are windows.

    Parameters
    ----------
    chosen
        Names of values; all, if None.
    """
    rows = list(rows)
    starts = sorted({row.start_ms for row in rows})
    place = {start_ms: i for i, start_ms in enumerate(starts)}
    found: dict[str, Column] = {}
    for row in rows:
        i = place[row.start_ms]
        for name, value in row.values.items():
            if chosen is not None and name not in chosen:
                continue
            column = found.get(name)
            if column is None:
                n = len(starts)
                column = found[name] = Column([None] * n, [0] * n, [None] * n)
            column.value[i] = _short(value.value)
            column.n[i] = value.n
            column.error[i] = _short(value.error)
    return Series(size_ms, from_ms, to_ms, starts, dict(sorted(found.items())))


def rows_of(
    rows: Iterable[Row], panel: Panel | Literal[""], names: Collection[str] = ()
) -> tuple[list[Row], frozenset[str]]:
    """Those that have a value of a panel (of any, if empty) and of some names (all, if none), and the names found."""
    wanted = frozenset(names)
    found: set[str] = set()
    those = []
    for row in rows:
        has = {n for n in row.values if n.startswith(panel and f"{panel}.") and (not wanted or n in wanted)}
        if has:
            found |= has
            those.append(row)
    return those, frozenset(found)


def csv_lines(rows: Iterable[Row], chosen: Collection[str] | None = None) -> Iterator[str]:
    """Rows as CSV, a line for each value, under a heading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("start", "start_ms", "size_ms", "source", "name", "value", "n", "error"))
    for row in rows:
        for name, value in row.values.items():
            if chosen is None or name in chosen:
                start = utc(row.start_ms)
                cells = (value.value, value.n, value.error)
                writer.writerow((start, row.start_ms, row.size_ms, row.source, name, *cells))
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def utc(at_ms: int) -> str:
    """Event time as text.

    >>> utc(1_772_500_000_000)
    '2026-03-03T01:06:40Z'
    """
    return f"{np.datetime64(at_ms, 'ms').astype('datetime64[s]')}Z"


def _short(value: float | None) -> float | None:
    """Six digits are more than a chart shows; what is no number is not known."""
    return None if value is None or not isfinite(value) else float(f"{value:.6g}")


__all__ = ["SIZES", "Series", "State", "Value", "csv_lines", "rows_of", "series", "state", "utc"]
