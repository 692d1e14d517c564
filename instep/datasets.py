"""What importing a public data set into an event log takes: rows that name their errors, order, and Ticks."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stream.events import Action, Event, Tick

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

CLICK_AFTER_MS = 500
"""The sets do not say when a click came: this long after its slate, less than the second they resolve."""


class BadDataset(ValueError):
    """A data set that cannot be imported: file, row and column, what was expected, what came."""

    def __init__(self, where: object, expected: str, got: object) -> None:
        super().__init__(f"{where}: expected {expected}, got {got}")


def find(folder: str | Path, name: str, of: str) -> Path:
    """The file of a data set, or a BadDataset that says what should be there."""
    path = Path(folder) / name
    if not path.is_file():
        raise BadDataset(
            folder, f"a folder with {name} of {of}", "none" if Path(folder).is_dir() else "no folder"
        )
    return path


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and the named columns of each row of a comma-separated file with a header.

    Raises
    ------
    BadDataset
        If the header lacks a column, a row has not as many columns as the header, or it is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if missing := [name for name in columns if name not in header]:
                raise BadDataset(
                    f"{path}:1", f"the columns {', '.join(columns)}", f"none called {', '.join(missing)}"
                )
            places = [header.index(name) for name in columns]
            for row in rows:
                if len(row) != len(header):
                    raise BadDataset(f"{path}:{rows.line_num}", f"{len(header)} columns", len(row))
                yield rows.line_num, [row[place] for place in places]
    except UnicodeDecodeError as e:
        raise BadDataset(path, "UTF-8", f"byte {e.object[e.start]:#x}") from None
    except csv.Error as e:
        raise BadDataset(path, "comma-separated values", e) from None


def in_order(events: Iterable[Event]) -> Iterator[Event]:
    """Let clicks that stand right behind their slate take their place in time.

    Slates must be in order among themselves, and so must actions; only an action may be ahead of the slates
    that follow it.
    """
    held: deque[Action] = deque()
    for event in events:
        if isinstance(event, Action):
            held.append(event)
            continue
        while held and held[0].at_ms <= event.at_ms:
            yield held.popleft()
        yield event
    yield from held


def ticked(events: Iterable[Event]) -> Iterator[Event]:
    """Put Ticks into a stream that is in order of time.

    One stands right before an event when the last is a minute old; through a gap they go on hour by hour,
    because a joiner lets no record move its clock by more; and a day of them follows the last event, so that
    every label becomes final.

    >>> clicks = [Action("click", "ada", "n7", at_ms) for at_ms in (5, 9_000_000)]
    >>> [event.at_ms for event in ticked(clicks)][:5]
    [5, 3600005, 7200005, 8999999, 9000000]
    """
    now = tick = None
    for event in events:
        if now is None or tick is None:
            now = tick = event.at_ms
        while event.at_ms - now > HOUR_MS:
            now = tick = now + HOUR_MS
            yield Tick(tick)
        if event.at_ms - tick > MINUTE_MS:
            # Just before: at its very time, it could close a window that this event is still within.
            tick = event.at_ms - 1
            yield Tick(tick)
        yield event
        now = event.at_ms
    if now is not None:
        yield from (Tick(now + hour * HOUR_MS) for hour in range(1, 25))
