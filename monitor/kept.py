"""The windows that were measured, as series: a day of minutes, a fortnight of ten minutes, a quarter of hours.

>>> kept = Kept()
>>> for minute, ne in enumerate([0.8, 0.7]):
...     kept.add(Row("quality", 60_000, minute * 60_000, {"quality.ne.click": Value(ne, 5_000, 0.01)}))
>>> [(start_ms, v.value) for start_ms, v in kept.series("quality.ne.click", 60_000)]
[(0, 0.8), (60000, 0.7)]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from monitor.row import Row, Value

KEPT = {60_000: 1_440, 600_000: 2_016, 3_600_000: 2_160}
"""How many windows of each size are kept, by size in ms."""


class Kept:
    """Rows by size and source, the oldest going when there are too many.

    Memory is bounded: 5,616 windows of each source, of about 100 bytes a value.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str], deque[Row]] = {}

    def add(self, row: Row) -> None:
        """Keep a window. ValueError if one of its source and size that begins as late or later is there already."""
        rows = self._rows.setdefault((row.size_ms, row.source), deque(maxlen=KEPT[row.size_ms]))
        if rows and rows[-1].start_ms >= row.start_ms:
            raise ValueError(
                f"kept: expected a {row.source} window after {rows[-1].start_ms}, got one at {row.start_ms}"
            )
        rows.append(row)

    def at(self, row: Row) -> Row | None:
        """The window in the place of a row; None if that is newer than all. One that is gone or was none is the row."""
        rows = self._rows.get((row.size_ms, row.source))
        if not rows or rows[-1].start_ms < row.start_ms:
            return None
        return next((one for one in reversed(rows) if one.start_ms == row.start_ms), row)

    def rows(self, size_ms: int, since_ms: int = 0, until_ms: int = 1 << 62) -> Iterator[Row]:
        """Rows of a size that begin in ``[since_ms, until_ms)``, source by source, oldest first."""
        for (size, _), rows in sorted(self._rows.items(), key=lambda item: item[0]):
            if size == size_ms:
                yield from (row for row in rows if since_ms <= row.start_ms < until_ms)

    def names(self, size_ms: int) -> list[str]:
        """Names of all values that any row of this size has, sorted."""
        return sorted({name for row in self.rows(size_ms) for name in row.values})

    def series(
        self, name: str, size_ms: int, since_ms: int = 0, until_ms: int = 1 << 62
    ) -> list[tuple[int, Value]]:
        """One value over time, as beginnings of windows and values; windows without it are left out."""
        return [
            (row.start_ms, row.values[name])
            for row in self.rows(size_ms, since_ms, until_ms)
            if name in row.values
        ]

    def encode(self) -> bytes:
        """All of it; `decode` reads it back."""
        return msgspec.msgpack.encode([row for size in KEPT for row in self.rows(size)])

    @classmethod
    def decode(cls, raw: bytes) -> Kept:
        """What was encoded. msgspec.DecodeError for anything else."""
        kept = cls()
        for row in msgspec.msgpack.decode(raw, type=list[Row]):
            kept.add(row)
        return kept
