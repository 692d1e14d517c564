"""MIND, the Microsoft News Dataset, as an event log: real slates, with what was clicked and what was not.

Wu et al., *MIND: A Large-scale Dataset for News Recommendation*, ACL 2020. The files are ``behaviors.tsv``
(impression, user, time, history, slate) and ``news.tsv`` (news, category, subcategory, ...).

What is assumed, because the files do not say it
    - A user's history is the one of the user's first impression. It was collected over the four weeks before
      the impressions, in order, at times not told: its clicks are spread evenly over the four weeks that end
      with the first impression of the log.
    - A click comes half a second after its slate. Times are taken for UTC.
    - News that ``news.tsv`` lacks has no category.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from instep.datasets import CLICK_AFTER_MS, DAY_MS, in_order, ticked
from instep.reading import BadDataset, Progress, find
from stream.events import Action, Candidate, Event, Impression, Value
from stream.files import write_events

HISTORY_MS = 28 * DAY_MS
BEHAVIORS = ("impression", "user", "time", "history", "slate")
TIME = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d\d):(\d\d) (AM|PM)", re.ASCII)

Features = dict[str, dict[str, Value]]


def import_mind(folder: str | Path, out: str | Path, progress: Progress | None = None) -> int:
    """Write the log of a folder with ``behaviors.tsv`` and ``news.tsv`` to ``out``.

    An item's features are ``category`` and ``subcategory``. The slates are read twice, never kept.

    Returns
    -------
    The number of events written.

    Raises
    ------
    BadDataset
        Naming file, row and column.
    LogError
        If ``out`` cannot be written.
    """
    # Not from .gz: the slates are read where they lie.
    behaviors, news = (find(folder, name, "MIND", packed=False) for name in ("behaviors.tsv", "news.tsv"))
    progress = progress or Progress()
    progress.expect(news.stat().st_size + 2 * behaviors.stat().st_size)
    features = _read_news(news, progress)
    log = _scan(behaviors, progress)
    return write_events(out, ticked(_events(behaviors, log, features, progress)))


@dataclass
class _Log:
    """Where the slates lie in the file, and what users had clicked before."""

    at_ms: array[int] = field(default_factory=lambda: array("q"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    row: array[int] = field(default_factory=lambda: array("q"))
    first: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By user: time of the first impression, and the history it came with."""


def parse_time(text: str) -> int:
    """Milliseconds since 1970 of a time as MIND writes it.

    >>> parse_time("1/1/1970 12:00:01 AM")
    1000
    """
    match = TIME.fullmatch(text)
    if match is None or not 1 <= int(match[4]) <= 12 or not 1970 <= int(match[3]) < 2106:
        raise ValueError(text)
    month, day, year, hour, minute, second = map(int, match.groups()[:6])
    hour = hour % 12 + (12 if match[7] == "PM" else 0)
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * 1_000


def _read_news(path: Path, progress: Progress) -> Features:
    features: Features = {}
    for n, _, line in _lines(path, progress):
        columns = _text(path, n, line).split("\t")
        if len(columns) < 3:
            raise BadDataset(
                f"{path}:{n}", "news, category, subcategory, separated by tabs", f"{len(columns)} columns"
            )
        named = {"category": columns[1], "subcategory": columns[2]}
        features[columns[0]] = {name: value for name, value in named.items() if value}
    return features


def _scan(path: Path, progress: Progress) -> _Log:
    log = _Log()
    for n, offset, line in _lines(path, progress):
        _, user, time, history, _ = _columns(path, n, line)
        try:
            at_ms = parse_time(time)
        except ValueError:
            expected = "a time like 11/12/2019 2:14:46 PM, from 1970 to 2105"
            raise BadDataset(f"{path}:{n}: time", expected, repr(time[:60])) from None
        log.at_ms.append(at_ms)
        log.offset.append(offset)
        log.row.append(n)
        if user not in log.first or at_ms < log.first[user][0]:
            log.first[user] = at_ms, history.encode()
    if not log.at_ms:
        raise BadDataset(path, "at least one impression", "none")
    return log


def _events(path: Path, log: _Log, features: Features, progress: Progress) -> Iterator[Event]:
    yield from _histories(log, features)
    yield from in_order(_slates(path, log, features, progress))


def _histories(log: _Log, features: Features) -> Iterator[Action]:
    """The organic clicks, in order of time."""
    end_ms = max(min(log.at_ms), HISTORY_MS)
    users, names = list(log.first), dict[str, int]()
    user, item, at_ms = array("q"), array("q"), array("q")
    for u, (_, history) in enumerate(log.first.values()):
        clicks = history.decode().split()
        user.extend([u] * len(clicks))
        item.extend(names.setdefault(name, len(names)) for name in clicks)
        at_ms.extend(end_ms - HISTORY_MS * (len(clicks) - i) // (len(clicks) + 1) for i in range(len(clicks)))
    items = list(names)
    for i in np.argsort(np.array(at_ms), kind="stable").tolist():
        name = items[item[i]]
        yield Action("click", users[user[i]], name, at_ms[i], features=features.get(name, {}))


def _slates(path: Path, log: _Log, features: Features, progress: Progress) -> Iterator[Event]:
    """Each slate, and right behind it its clicks."""
    with path.open("rb") as file:
        order = np.argsort(np.array(log.at_ms), kind="stable").tolist()
        for i in progress.over(order, len(order), path.stat().st_size):
            file.seek(log.offset[i])
            n = log.row[i]
            impression, user, _, _, slate = _columns(path, n, file.readline())
            shown: dict[str, bool] = {}
            for entry in slate.split():
                name, _, label = entry.rpartition("-")
                if not 1 <= len(name) <= 512 or label not in ("0", "1"):
                    raise BadDataset(f"{path}:{n}: slate", "candidates like N7-0 or N7-1", repr(entry[:60]))
                # A slate may show an item twice; a click on either is a click on the item.
                shown[name] = shown.get(name, False) or label == "1"
            if not shown:
                raise BadDataset(f"{path}:{n}: slate", "at least one candidate", "none")
            candidates = [Candidate(name, features.get(name, {})) for name in shown]
            yield Impression(impression, user, log.at_ms[i], candidates)
            for name, clicked in shown.items():
                if clicked:
                    at_ms = log.at_ms[i] + CLICK_AFTER_MS
                    yield Action("click", user, name, at_ms, impression, features.get(name, {}))


def _lines(path: Path, progress: Progress) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and text of each line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for n, line in enumerate(file, 1):
            if not line.isspace():
                yield n, offset, line
            offset += len(line)
            progress.add(len(line))


def _columns(path: Path, n: int, line: bytes) -> list[str]:
    columns = _text(path, n, line).split("\t")
    if len(columns) != len(BEHAVIORS):
        expected = f"{len(BEHAVIORS)} columns separated by tabs ({', '.join(BEHAVIORS)})"
        raise BadDataset(f"{path}:{n}", expected, len(columns))
    for name, value in zip(BEHAVIORS[:2], columns, strict=False):
        if not 1 <= len(value) <= 512:
            raise BadDataset(f"{path}:{n}: {name}", "1..512 characters", len(value))
    return columns


def _text(path: Path, n: int, line: bytes) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as e:
        raise BadDataset(f"{path}:{n}", "UTF-8", f"byte {e.object[e.start]:#x}") from None
