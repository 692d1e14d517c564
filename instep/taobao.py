"""Taobao's UserBehavior as an event log: every click becomes a slate with items of the same category.

Zhu et al., *Learning Tree-based Deep Model for Recommender Systems*, KDD 2018, for which the set was published.
``UserBehavior.csv`` has no header; its columns are user, item, category, behaviour (pv, cart, fav, buy) and
time in seconds. It is grouped by user, not in order of time.

The protocol follows the offline one of ETA (arXiv 2108.04468, section 4.1), turned into a stream
    In order of time, a ``pv`` is a click. The item is shown, at a random place, with ``negatives`` others (ETA: one)
    of its category that somebody has clicked before. Where the item itself was never clicked before, or
    its category has nothing else yet, the click is organic: it extends the history and is no label. ``cart``, ``fav``
    and ``buy`` are actions on the slate of the user's last click on the item, if that was no longer ago than the
    window, else organic. Which items, and where: a hash of the seed, user, item and time; so
    they depend on the file's contents, not on the order of its rows nor on how it was sorted.

Which rows are left out, and counted
    Those outside of the days the set is of, 25 November to 3 December 2017 in Beijing: a few thousand rows of the
    published file are decades off. And those that say the same as another: user, item, behaviour, time.

What is assumed, because the file does not say it
    What is done comes half a second after what is shown. Within a second clicks come first. An item is of the
    category of its first row where it is one of the others.

What it leaks, and what its figures do not mean
    - There are no slates in the data. These are made around what is known to be clicked: exactly one click
      in each. AUC within them is not what a real slate would have earned.
    - The others are drawn evenly from the items that exist, while clicks follow popularity: to know how
      popular an item is helps much here.
    - Users come back to items. One that stands in the user's history is the click more often than a
      shop would see, because others are drawn without regard for the user. They are not kept apart from the
      history: then every known one would be the click.
    - Only clicks up to that time decide what exists, so the future does not enter, and an item that nobody knows is
      never the click. ETA's own figures draw from the whole file, so they are not to be compared.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from instep.datasets import CLICK_AFTER_MS, Account, below, in_order, sample, ticked
from instep.reading import BadDataset, Progress, find, read_lines
from instep.sorting import MEMORY, Sorter
from stream.events import Action, Candidate, Event, Impression
from stream.files import write_events

FIRST_S, END_S = 1_511_539_200, 1_512_316_800
"""The days of the set: from 25 November 2017 to before 4 December 2017, in Beijing (UTC+8)."""

KINDS = ("click", "fav", "cart", "buy")
BEHAVIOURS = {b"pv": 0, b"fav": 1, b"cart": 2, b"buy": 3}
"""Their places in KINDS, which is also their order within a second."""
COLUMNS = ("user", "item", "category", "behaviour", "timestamp")
OUTSIDE, TWICE = "outside of 2017-11-25..2017-12-03", "twice the same"


def windows(window_s: int) -> dict[str, int]:
    """For a joiner: within how many ms of the slate each kind of action comes.

    >>> windows(60)
    {'click': 500, 'fav': 60500, 'cart': 60500, 'buy': 60500}
    """
    return {kind: CLICK_AFTER_MS + (window_s * 1_000 if kind != "click" else 0) for kind in KINDS}


def import_taobao(
    folder: str | Path,
    out: str | Path,
    negatives: int = 1,
    window_s: int = 3_600,
    seed: int = 0,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Account:
    """Write the log of a folder with ``UserBehavior.csv``, or ``.csv.gz``, to ``out``.

    An item's feature is ``category``. Memory grows with the items (about 100 bytes each) and with the clicks
    of a window, besides what the sort may hold.

    Raises
    ------
    BadDataset
        Naming file, row and column.
    LogError
        If ``out`` cannot be written.
    OSError
        If there is no room to sort beside it.
    """
    path = find(folder, "UserBehavior.csv", "Taobao")
    account, progress = Account(), progress or Progress()
    size = path.stat().st_size
    progress.expect(2 * size)
    with Sorter(Path(out), memory) as sorter:
        rows = sorter.sort(_read(path, account, progress), lambda share: progress.add(share * size))
        slates = _Slates(negatives, window_s, seed, account)
        events = (event for at_s, kind, row in _in_one_order(rows) for event in slates.take(at_s, kind, row))
        account.n_events = write_events(out, ticked(in_order(events), windows(window_s)["buy"]))
    return account


def _read(path: Path, account: Account, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """User, item and category of each row as they lie in the file, by time and behaviour."""
    n_good = 0
    for n, line in read_lines(path, progress):
        columns = line.split(b",")
        if len(columns) != len(COLUMNS):
            what = f"{len(COLUMNS)} columns separated by commas ({', '.join(COLUMNS)})"
            raise BadDataset(f"{path}:{n}", what, len(columns))
        user, item, category, behaviour, time = columns
        for name, value in zip(COLUMNS[:3], columns, strict=False):
            if not value.isdigit() or len(value) > 18:
                raise BadDataset(f"{path}:{n}: {name}", "a whole number", _shown(value))
        if behaviour not in BEHAVIOURS:
            raise BadDataset(f"{path}:{n}: behaviour", "pv, cart, fav or buy", _shown(behaviour))
        if not time.removeprefix(b"-").isdigit() or len(time) > 18:
            raise BadDataset(f"{path}:{n}: timestamp", "whole seconds since 1970", _shown(time))
        account.n_rows += 1
        at_s = int(time)
        if not FIRST_S <= at_s < END_S:
            account.skipped[OUTSIDE] += 1
            continue
        n_good += 1
        yield at_s << 2 | BEHAVIOURS[behaviour], b"%d,%d,%d" % (int(user), int(item), int(category))
    if not n_good:
        got = f"{account.n_rows} rows, none of them of these days" if account.n_rows else "none"
        raise BadDataset(path, "at least one row of 2017-11-25..2017-12-03", got)


def _in_one_order(rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int, bytes]]:
    """Time, place in KINDS and rest of each row; those that agree in both in an order of their own."""
    for key, same in groupby(rows, itemgetter(0)):
        for row in sorted(row for _, row in same):
            yield key >> 2, key & 3, row


class _Slates:
    """What has been clicked so far, and the slates that can be made of it."""

    def __init__(self, negatives: int, window_s: int, seed: int, account: Account) -> None:
        self._negatives = negatives
        self._window_s = window_s
        self._seed = seed
        self._account = account
        self._known: set[int] = set()
        self._by_category: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self._now_s = 0
        self._this_second: set[tuple[str, str, int]] = set()
        self._slates: dict[tuple[str, str], tuple[int, str]] = {}  # time and id of the last, by user and item
        self._ending: deque[tuple[int, tuple[str, str]]] = deque()
        self._features: dict[str, dict[str, str | int | float]] = {}

    def take(self, at_s: int, kind: int, row: bytes) -> Iterator[Event]:
        """The events that a row makes; rows come in order of time, and of kinds within a second."""
        user, item, category = row.decode().split(",")
        self._go_to(at_s)
        if (user, item, kind) in self._this_second:
            self._account.skipped[TWICE] += 1
            return
        self._this_second.add((user, item, kind))
        features = self._features.setdefault(category, {"category": category})
        at_ms = at_s * 1_000
        if kind == 0:
            others = self._others(user, item, category, at_s)
            of = None
            if others:
                of = f"{user}-{item}-{at_s}"
                place = below(len(others) + 1, f"place {self._seed} {user} {item} {at_s}")
                others.insert(place, item)
                yield Impression(of, user, at_ms, [Candidate(i, features) for i in others])
                self._slates[user, item] = at_s, of
                self._ending.append((at_s, (user, item)))
            if (key := int(item)) not in self._known:
                self._known.add(key)
                self._by_category[category].append(key)
        else:
            _, of = self._slates.get((user, item), (0, None))
            if of is None:
                self._account.noted[f"{KINDS[kind]} without a slate"] += 1
        yield Action(KINDS[kind], user, item, at_ms + CLICK_AFTER_MS, of, features)

    def _go_to(self, at_s: int) -> None:
        """Forget what is over when a new second begins."""
        if at_s == self._now_s:
            return
        self._now_s = at_s
        self._this_second.clear()
        while self._ending and self._ending[0][0] < at_s - self._window_s:
            ended_s, key = self._ending.popleft()
            if self._slates[key][0] == ended_s:
                del self._slates[key]

    def _others(self, user: str, item: str, category: str, at_s: int) -> list[str]:
        """Some of what is known of the category, without the item; none if the item is not known itself."""
        if int(item) not in self._known:
            self._account.noted["clicks on items new to the log"] += 1
            return []
        pool = self._by_category[category]
        key = f"{self._seed} {user} {item} {at_s}"
        # one more than needed, because the item may be among them
        drawn = [pool[i] for i in sample(len(pool), self._negatives + 1, key)]
        others = [str(one) for one in drawn if one != int(item)]
        if len(others) > self._negatives:
            del others[below(len(others), f"left out {key}")]
        if not others:
            self._account.noted["clicks on the only item of a category"] += 1
        return others


def _shown(value: bytes) -> str:
    return repr(value[:60].decode(errors="replace"))
