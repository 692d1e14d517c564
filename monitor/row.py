"""What was measured in one window: the message between what measures, what judges, what keeps and what shows."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Source = Literal["data", "quality", "codes", "freshness"]
"""What a window is of: samples and Ticks, scores, publications, or how far each stage has come."""

SIZES_MS = (60_000, 600_000, 3_600_000)
"""Windows of event time: a minute, ten, an hour. Each begins at a multiple of its size."""


class Value(Struct, frozen=True, array_like=True):
    """A figure, of how many it is, and how sure it is."""

    value: float | None
    """None where it is undefined, such as an AUC without a click."""
    n: int
    """Candidates, slates, rows or events, as `monitor.measures` says."""
    error: float | None = None
    """Standard error; None where none is known."""


class Row(Struct, frozen=True):
    """One closed window of one source.

    Values go by the names of `monitor.measures`, with what they are of behind a dot: ``quality.ne.click``.
    """

    source: Source
    size_ms: int
    start_ms: int
    values: dict[str, Value]
    offsets: dict[int, tuple[int, int]] = {}
    """Of the events that are in it, ``[from, to)`` by partition of ``instep.events``: what a replay of it reads."""

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.size_ms
