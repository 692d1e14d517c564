"""Board: what is shown, filled by one thread and read by many.

>>> board = Board()
>>> rung: list[int] = []
>>> leave = board.subscribe(lambda: rung.append(board.last))
>>> _ = board.add(Row("data", 60_000, 0, {"data.events": Value(12.5, 750)}))
>>> rung, [told.kind for told in board.since(0) or []]
([1], ['row'])
>>> leave()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Literal

import msgspec
from msgspec import Struct

from monitor.alert import Alert, encode_alert
from monitor.freshness import StageName
from monitor.kept import Kept
from monitor.row import Row, Value
from stream.events import Version
from trainer.gate import Band

N_ALERTS = 1_000
"""So many alerts are kept, the newest."""
N_TOLD = 4_096
"""So many news are kept for a reader that was away; one that missed more reads everything again."""
SCHEMA = 1


class Stage(Struct, frozen=True):
    """How far one stage has come."""

    version: Version
    at_ms: int
    """Event time of the newest sample in it: its last success. What is behind it is its age."""


class Status(Struct, frozen=True):
    """How things stand."""

    at_ms: int
    """Event time that the log has come to."""
    heard_ms: int
    """Wall time at which the log was last heard of. While nothing comes it stays, and all ages grow."""
    held: str = ""
    """Why nothing is learned, in words; empty while the trainer learns."""
    held_since_ms: int | None = None
    """Event time."""
    breaker: Literal["closed", "open", "none"] = "none"
    """``open`` while the breaker holds the trainer; a person may hold it while it is ``closed``."""
    bands: tuple[Band, ...] = ()
    """What the breaker looks at."""
    stages: dict[StageName, Stage] = {}
    counts: dict[str, int] = {}
    """What became of records since the monitor began, by reason."""


@dataclass(frozen=True)
class Told:
    """One piece of news, as it is sent."""

    n: int
    kind: Literal["row", "alert"]
    raw: bytes
    """JSON."""


class _Recorded(Struct, frozen=True):
    """As a board is kept."""

    schema: int
    kept: msgspec.Raw
    """`Kept.encode`."""
    alerts: list[Alert]
    status: Status | None


class Board:
    """Rows, alerts and the status of now. Any thread may call any method.

    Parameters
    ----------
    kept, alerts, status
        What is known already.
    run
        Tells this board's news from those of the process before it; any text without a hyphen that another run does
        not have.
    """

    def __init__(
        self,
        kept: Kept | None = None,
        alerts: Iterable[Alert] = (),
        status: Status | None = None,
        *,
        run: str = "0",
    ) -> None:
        self.run = run
        self._lock = Lock()
        self._kept = kept if kept is not None else Kept()
        self._alerts = {alert.id: alert for alert in alerts}
        self._status = status
        self._told: deque[Told] = deque(maxlen=N_TOLD)
        self._last = 0
        self._wakers: dict[object, Callable[[], None]] = {}
        self._closed = False

    def add(self, row: Row) -> Row:
        """Show a window that has closed; what is shown of it: itself, or what was there already."""
        with self._lock:
            shown = self._kept.at(row)
            if shown is not None:
                return shown
            self._kept.add(row)
            self._tell("row", msgspec.json.encode(row))
        self._wake()
        return row

    def put(self, alert: Alert) -> None:
        """Show an alert as it is now: raised, or over. What is shown so already is no news."""
        with self._lock:
            if self._alerts.get(alert.id) == alert:
                return
            self._alerts.pop(alert.id, None)
            self._alerts[alert.id] = alert
            if len(self._alerts) > N_ALERTS:
                del self._alerts[next(iter(self._alerts))]
            self._tell("alert", encode_alert(alert))
        self._wake()

    def tell(self, status: Status) -> None:
        """Show how things stand."""
        with self._lock:
            self._status = status
        self._wake()

    @property
    def status(self) -> Status | None:
        """None before the log was heard of."""
        return self._status

    @property
    def last(self) -> int:
        """Number of the newest row or alert that came; 0 before the first."""
        return self._last

    @property
    def alerts(self) -> list[Alert]:
        """Newest first, by the window they began with."""
        with self._lock:
            found = list(self._alerts.values())
        return sorted(found, key=lambda alert: (alert.start_ms, alert.raised_ms, alert.id), reverse=True)

    def rows(self, size_ms: int, since_ms: int = 0, until_ms: int = 1 << 62) -> list[Row]:
        """Rows of a size that begin in ``[since_ms, until_ms)``, source by source, oldest first."""
        with self._lock:
            return list(self._kept.rows(size_ms, since_ms, until_ms))

    def since(self, n: int) -> list[Told] | None:
        """What came after the ``n``-th, oldest first; None if some of it is not kept any more."""
        with self._lock:
            missed = self._last - n
            if missed < 0 or missed > len(self._told):
                return None
            return list(islice(self._told, len(self._told) - missed, None))

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called after each change, by the thread that made it; what is returned ends it."""
        key = object()
        with self._lock:
            self._wakers[key] = wake

        def leave() -> None:
            with self._lock:
                self._wakers.pop(key, None)

        return leave

    def close(self) -> None:
        """Nothing comes any more: whoever listens may leave."""
        self._closed = True
        self._wake()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def encode(self) -> bytes:
        """Rows, alerts and status; `decode` reads them back."""
        with self._lock:
            alerts = list(self._alerts.values())
            recorded = _Recorded(SCHEMA, msgspec.Raw(self._kept.encode()), alerts, self._status)
        return msgspec.msgpack.encode(recorded)

    @classmethod
    def decode(cls, raw: bytes) -> Board:
        """What was encoded.

        Raises
        ------
        ValueError
            If it is of another schema, or nothing that was encoded here.
        """
        recorded = msgspec.msgpack.decode(raw, type=_Recorded)
        if recorded.schema != SCHEMA:
            raise ValueError(f"board: expected schema {SCHEMA}, got {recorded.schema}")
        return cls(Kept.decode(bytes(recorded.kept)), recorded.alerts, recorded.status)

    def _tell(self, kind: Literal["row", "alert"], raw: bytes) -> None:
        self._last += 1
        self._told.append(Told(self._last, kind, raw))

    def _wake(self) -> None:
        with self._lock:
            wakers = list(self._wakers.values())
        for wake in wakers:
            wake()


__all__ = [
    "Board",
    "Stage",
    "Status",
    "Told",
    "Value",
]  # the last is for the example
