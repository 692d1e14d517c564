"""Any file of impressions as an event log: a row is a candidate that was shown, and what was done with it.

Which columns mean what is said by a `instep.mapping.Mapping`. The file is in any order; rows with the same
value of the slate's column, which the mapping may name, are one slate.

What is assumed
    - A slate has the time, the context and the features of the user of its row that comes first in time.
    - An action for which no column says when it came came ``delay_ms`` after its slate.

Which rows, or what of them, is left out, and counted
    - A second row of the same item in a slate. What was done in either was done.
    - Actions before their slate: by their times they cannot belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from math import isfinite, nan
from operator import itemgetter
from pathlib import Path

import msgspec

from instep.datasets import END_S, Account, with_ticks
from instep.mapping import MappedFeature, Mapping, check_columns
from instep.mapping import load as load_mapping
from instep.reading import BadDataset, Progress, read_rows
from instep.sorting import MEMORY, Sorter
from stream.events import Action, Candidate, Event, Impression, Value, encode_event
from stream.files import write_events

MOST = 10_000
"""Candidates of a slate."""

TWICE = "the same item in the same slate"
BEFORE = "actions before their slate, left out"


class _Row(msgspec.Struct, array_like=True):
    """What a row says. ``actions`` are kinds and times."""

    n: int
    user: str
    item: str
    at_ms: int
    actions: list[tuple[str, int | None]]
    features: dict[str, Value]
    context: dict[str, Value]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Row).decode


def import_mapped(
    path: str | Path,
    mapping: str | Path,
    out: str | Path,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Account:
    """Write the log of a file of values, plain or ``.gz``, to ``out``.

    Memory holds one slate, besides what the sorts may.

    Raises
    ------
    SettingsError
        If the mapping cannot be, or names what the file has not.
    BadDataset
        Naming file, row and column.
    LogError
        If ``out`` cannot be written.
    OSError
        If there is no room to sort beside it.
    """
    path, out = Path(path), Path(out)
    if not path.is_file():
        raise BadDataset(path, "a file", "a folder" if path.is_dir() else "nothing there")
    known = load_mapping(mapping)
    account, progress = Account(), progress or Progress()
    size = path.stat().st_size
    passes = 2 if known.slate is None else 3
    progress.expect(passes * size)
    with Sorter(out, memory // 2 or 1) as by_slate, Sorter(out, memory // 2 or 1) as by_time:
        rows = _rows(path, known, mapping, account, progress)
        if known.slate is None:
            slates: Iterator[tuple[str, list[_Row]]] = ((f"r{row.n}", [row]) for _, row in rows)
        else:
            packed = ((slate, _encode(row)) for slate, row in rows)
            slates = _gathered(path, by_slate.sort(packed, lambda share: progress.add(share * size)))
        events = (
            (e.at_ms, encode_event(e)) for id_, shown in slates for e in _slate(id_, shown, known, account)
        )
        timed = by_time.sort(events, lambda share: progress.add(share * size))
        account.n_events = write_events(out, with_ticks(timed, max(known.windows.values())))
    return account


def _rows(
    path: Path, mapping: Mapping, mapping_path: str | Path, account: Account, progress: Progress
) -> Iterator[tuple[str, _Row]]:
    """User and slate as one text, and what the row says."""
    rows = read_rows(path, progress, mapping.delimiter)
    header = list(mapping.columns) if mapping.columns is not None else next(rows, (1, []))[1]
    if not header:
        raise BadDataset(path, "at least one row", "none")
    check_columns(mapping, mapping_path, header, path)
    place = {name: header.index(name) for _, name in mapping.named()}
    own = [f for f in mapping.features if f.of == "item"]
    of_slate = [f for f in mapping.features if f.of != "item"]
    for n, row in rows:
        if len(row) != len(header):
            raise BadDataset(f"{path}:{n}", f"{len(header)} columns", len(row))
        account.n_rows += 1
        where = f"{path}:{n}"

        def value(column: str, row: list[str] = row, where: str = where) -> str:
            """An id, which must be there."""
            text = row[place[column]]
            if text in mapping.null or not 1 <= len(text) <= 512:
                raise BadDataset(f"{where}: {column}", "1..512 characters and no null value", repr(text[:60]))
            return text

        user = value(mapping.user)
        actions = list[tuple[str, int | None]]()
        for action in mapping.actions:
            if row[place[action.column]] in action.yes:
                at_ms = (
                    None if action.at is None else _at_ms(where, action.at, row[place[action.at]], mapping)
                )
                actions.append((action.kind, at_ms))
        of_item, context = (
            {f.name: _feature(where, f, text) for f in features if (text := row[place[f.source]]) not in null}
            for features, null in ((own, mapping.null), (of_slate, mapping.null))
        )
        at_ms = _at_ms(where, mapping.time.column, row[place[mapping.time.column]], mapping)
        slate = "" if mapping.slate is None else f"{user}\0{value(mapping.slate)}"
        yield slate, _Row(n, user, value(mapping.item), at_ms, actions, of_item, context)
    if not account.n_rows:
        raise BadDataset(path, "at least one row", "none")


def _at_ms(where: str, column: str, text: str, mapping: Mapping) -> int:
    """A time in ms since 1970."""
    time = mapping.time
    try:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else float(text)
    except ValueError:
        value = nan
    at_ms = value * (1_000 if time.unit == "s" else 1) + time.offset_ms
    if not 0 <= at_ms < END_S * 1_000:
        unit = {"s": "seconds", "ms": "milliseconds"}[time.unit]
        raise BadDataset(
            f"{where}: {column}", f"{unit} that with the offset are from 1970 to 2105", repr(text[:60])
        )
    return round(at_ms)


def _feature(where: str, feature: MappedFeature, text: str) -> Value:
    if feature.kind == "categorical":
        return text
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise BadDataset(f"{where}: {feature.source}", "a number", repr(text[:60]))
    return value


def _gathered(path: Path, rows: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, list[_Row]]]:
    """The rows of each slate, by its name, in the order of the file."""
    for key, same in groupby(rows, itemgetter(0)):
        slate = list[_Row]()
        for _, raw in same:
            slate.append(_decode(raw))
            if len(slate) > MOST:
                raise BadDataset(f"{path}:{slate[-1].n}", f"at most {MOST} rows of one slate", "one more")
        yield key.partition("\0")[2], slate


def _slate(name: str, rows: list[_Row], mapping: Mapping, account: Account) -> Iterator[Event]:
    """A slate, and what was done with it."""
    first = min(rows, key=lambda row: row.at_ms)
    shown: dict[str, _Row] = {}
    done: dict[tuple[str, str], int] = {}
    delays = {action.kind: action.after_ms for action in mapping.actions}
    for row in rows:
        if shown.setdefault(row.item, row) is not row:
            account.skipped[TWICE] += 1
        for kind, at_ms in row.actions:
            done.setdefault((row.item, kind), first.at_ms + delays[kind] if at_ms is None else at_ms)
    account.noted["slates"] += 1
    candidates = [Candidate(item, row.features) for item, row in shown.items()]
    yield Impression(name, first.user, first.at_ms, candidates, first.context)
    for (item, kind), at_ms in done.items():
        if at_ms < first.at_ms:
            account.noted[BEFORE] += 1
        else:
            yield Action(kind, first.user, item, at_ms, name, shown[item].features)
