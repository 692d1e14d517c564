"""What importing a public data set into an event log takes besides reading it: order, Ticks, chance, an account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TypeVar

from stream.events import Action, Event, Tick

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

CLICK_AFTER_MS = 500
"""The sets do not say when a click came: this long after its slate, less than the second they resolve."""

END_S = 2**32
"""The first second that is too late to be true, in 2106: what is meant there are milliseconds."""

E = TypeVar("E")


@dataclass
class Account:
    """What became of the rows of a data set, for the one line at the end of an import."""

    n_rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows, by why they were left out."""
    noted: Counter[str] = field(default_factory=Counter)
    """What else there is to know, counted."""
    n_events: int = 0

    def told(self) -> str:
        """The line.

        >>> Account(1200, Counter({"twice the same": 3})).told()
        '1,200 rows; skipped 3: 3 twice the same'
        """
        n = self.skipped.total()
        line = f"{self.n_rows:,} rows; skipped {n:,}" if n else f"{self.n_rows:,} rows; skipped none"
        for start, counts in ((": ", self.skipped), ("; ", self.noted)):
            known = {what: count for what, count in sorted(counts.items()) if count}
            line += start * bool(known) + ", ".join(f"{count:,} {what}" for what, count in known.items())
        return line


def below(n: int, key: str, draw: int = 0) -> int:
    """A number from 0 to below ``n`` by chance, and always the same for the same key and draw.

    >>> [below(6, "a die", draw) + 1 for draw in range(10)]
    [4, 4, 2, 4, 3, 1, 2, 1, 3, 4]
    """
    raw = blake2b(f"{draw} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") * n >> 64


def sample(n: int, k: int, key: str) -> list[int]:
    """``k`` different numbers from 0 to below ``n``, every set of them as likely as any other.

    Source: Bentley and Floyd, *Programming Pearls: A Sample of Brilliance*, CACM 30(9), 1987.
    """
    if k >= n:
        return list(range(n))
    chosen: dict[int, None] = {}
    for draw, last in enumerate(range(n - k, n)):
        one = below(last + 1, key, draw)
        chosen[last if one in chosen else one] = None
    return list(chosen)


def in_order(events: Iterable[Event]) -> Iterator[Event]:
    """Let actions that stand behind their slate, earlier than their time, take their place in time.

    Slates must be in order among themselves. Held are the actions whose time has not come.
    """
    held: list[tuple[int, int, Action]] = []
    for n, event in enumerate(events):
        if isinstance(event, Action):
            heappush(held, (event.at_ms, n, event))
            continue
        while held and held[0][0] <= event.at_ms:
            yield heappop(held)[2]
        yield event
    while held:
        yield heappop(held)[2]


def ticked(events: Iterable[Event], longest_ms: int = 0) -> Iterator[Event]:
    """Put Ticks into a stream that is in order of time: see `with_ticks`.

    >>> clicks = [Action("click", "ada", "n7", at_ms) for at_ms in (5, 9_000_000)]
    >>> [event.at_ms for event in ticked(clicks)][:5]
    [5, 3600005, 7200005, 8999999, 9000000]
    """
    return with_ticks(((event.at_ms, event) for event in events), longest_ms)


def with_ticks(timed: Iterable[tuple[int, E]], longest_ms: int = 0) -> Iterator[E | Tick]:
    """Put Ticks into a stream of times and events that is in order of time.

    One stands right before an event when the last is a minute old; through a gap they go on hour by hour,
    because a joiner lets no record move its clock by more; and a day of them follows the last event, or more
    where the longest attribution window is, so that every label becomes final.
    """
    now = tick = None
    for at_ms, event in timed:
        if now is None or tick is None:
            now = tick = at_ms
        while at_ms - now > HOUR_MS:
            now = tick = now + HOUR_MS
            yield Tick(tick)
        if at_ms - tick > MINUTE_MS:
            # Just before: at its very time, it could close a window that this event is still within.
            tick = at_ms - 1
            yield Tick(tick)
        yield event
        now = at_ms
    if now is not None:
        n_hours = max(24, longest_ms // HOUR_MS + 1)
        yield from (Tick(now + hour * HOUR_MS) for hour in range(1, n_hours + 1))
