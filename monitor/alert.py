"""What a rule found wrong: the message between what judges, what records, what delivers and what shows.

>>> alert = Alert(
...     rule="clicks-stopped", metric="data.coverage.click", size_ms=60_000, start_ms=600_000, raised_ms=660_000,
...     detector="below", value=0.02, error=0.01, n=300, reference=0.41, reference_error=0.03, severity="page",
...     reason="click coverage is 0.02; it was 0.41 ± 0.03 over the last hour",
...     remedy="Look at the feed of clicks.", offsets={0: (100, 250)},
... )
>>> alert.id
'clicks-stopped:data.coverage.click:600000'
>>> alert.is_open, cleared(alert, 900_000).is_open
(True, False)
>>> decode_alert(encode_alert(alert)) == alert
True
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

Severity = Literal["page", "ticket", "note"]
"""Wake somebody; look at it in the day's work; know of it."""

SEVERITIES: tuple[Severity, ...] = ("page", "ticket", "note")


class Alert(Struct, frozen=True, kw_only=True):
    """One metric that one rule holds against it, from the window that began it to the one that ended it."""

    rule: str
    metric: str
    """A name of `monitor.measures`, with what it is of behind a dot."""
    size_ms: int
    """Of the windows."""
    start_ms: int
    """Of the first window in which it was so. Event time, as all times here."""
    raised_ms: int
    """End of the window with which it was known: after ``in_a_row`` of them, the last."""
    detector: str
    value: float
    """The figure of the window that raised it."""
    error: float | None
    """Its standard error, where one is known."""
    n: int
    """Of how many it is, in the measure's own unit."""
    reference: float | None
    """What it was held against: the middle of the windows before, or a limit."""
    reference_error: float | None
    """How far a window may well be from that; None for a limit."""
    severity: Severity
    reason: str
    """In words, with the figures."""
    remedy: str
    """What to look at first."""
    offsets: dict[int, tuple[int, int]] = {}
    """Events of the windows from ``start_ms`` to ``raised_ms``: ``[from, to)`` by partition of ``instep.events``."""
    cleared_ms: int | None = None
    """End of the window with which it was over; None while it is not."""

    @property
    def id(self) -> str:
        """The same whenever the same log is judged by the same rules."""
        return f"{self.rule}:{self.metric}:{self.start_ms}"

    @property
    def is_open(self) -> bool:
        return self.cleared_ms is None


def cleared(alert: Alert, at_ms: int | None) -> Alert:
    """The same alert, over since then; or not, with None."""
    return msgspec.structs.replace(alert, cleared_ms=at_ms)


def encode_alert(alert: Alert) -> bytes:
    """As JSON, in one line: what is recorded, posted and shown. Its ``id`` stands first."""
    return msgspec.json.encode({"id": alert.id, **msgspec.structs.asdict(alert)})


def decode_alert(raw: bytes | str) -> Alert:
    """Read what ``encode_alert`` wrote; msgspec.DecodeError for anything else."""
    return msgspec.json.decode(raw, type=Alert)
