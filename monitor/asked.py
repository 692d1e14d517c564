"""Which windows somebody asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from monitor.board import Board
from monitor.measures import Panel, measure_of
from monitor.row import Row
from monitor.view import SIZES, rows_of

N_NAMES = 1_000

Time = Annotated[int, Meta(ge=0, le=1 << 52)]


class RangeQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Windows of a size that begin in ``[from, to)``, in ms of event time, and which of their values."""

    size: Literal["1m", "10m", "1h"] = "1m"
    since_ms: Time = field(default=0, name="from")
    until_ms: Time = field(default=1 << 52, name="to")
    names: Annotated[str, Meta(max_length=65_536)] = ""
    """Between commas; all of the panel, if left out."""
    panel: Panel | Literal[""] = ""
    """All of them, if left out."""


class BadRange(ValueError):
    """A range of windows that cannot be: where, what was expected, what came."""


@dataclass(frozen=True)
class Range:
    """What is asked of the rows."""

    query: RangeQuery
    rows: Sequence[Row]
    names: frozenset[str] | None
    """None for all."""

    @classmethod
    def of(cls, query: RangeQuery, board: Board) -> Range:
        """The rows of a board that a query is about. BadRange if it contradicts itself, or names what is no measure."""
        if query.since_ms > query.until_ms:
            raise BadRange(f"query: expected from <= to, got {query.since_ms} > {query.until_ms}")
        names = [name for name in query.names.split(",") if name]
        if len(names) > N_NAMES:
            raise BadRange(f"names: expected at most {N_NAMES}, got {len(names)}")
        for name in names:
            try:
                measure_of(name)
            except KeyError:
                raise BadRange(f"names: expected one of the state's measures, got {name!r}") from None
        rows = board.rows(SIZES[query.size], query.since_ms, query.until_ms)
        if not names and not query.panel:
            return cls(query, rows, None)
        return cls(query, *rows_of(rows, query.panel, names))

    @property
    def size_ms(self) -> int:
        return SIZES[self.query.size]

    def chosen(self, row: Row) -> Row:
        """A row with those of its values that were asked for."""
        if self.names is None:
            return row
        values = {name: value for name, value in row.values.items() if name in self.names}
        return msgspec.structs.replace(row, values=values)
