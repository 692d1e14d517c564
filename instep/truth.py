"""What a simulator knows and no model is told, and the file of it beside a log: a study measures against it.

A log of the simulator lies in ``events.jsonl.gz``, and in ``truth.npz`` the true click probability of every candidate,
the hidden topic of every item when the log ended, and which items were not there when it began.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from instep.world import Floats
from stream.events import key_of

NAME = "truth.npz"
FORMAT = 1
_COLUMNS = {
    "impressions": np.uint64,
    "first": np.int64,
    "p": np.float32,
    "items": np.uint64,
    "topics": np.int32,
    "new_items": np.uint64,
}


class TruthError(ValueError):
    """The file is none of ours, or does not fit its log: where, what was expected, what came."""


@dataclass
class Truth:
    """What the simulator knows and no model is told, collected while :func:`events` is read."""

    p: dict[str, Floats] = field(default_factory=dict)
    """By impression: the true click probability of each candidate, float64 ``[candidates]``."""
    clicked: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """By impression: what the user clicked, whether or not the click was written, bool ``[candidates]``."""
    p_like: dict[str, Floats] = field(default_factory=dict)
    """By impression: the true probability that a candidate is clicked and then liked, where there are likes."""
    liked: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    topics: dict[str, int] = field(default_factory=dict)
    """By item: its hidden topic as of the last event read."""
    new_items: set[str] = field(default_factory=set)
    """Items that were not there when the stream began."""
    faults: Counter[str] = field(default_factory=Counter)
    """How many faults of each kind :func:`instep.faults.lines` has put in."""

    def topic_of(self, item: str) -> int:
        """The item's hidden topic as of the last event read."""
        return self.topics[item]

    def arrays(self, kind: str = "click") -> tuple[Floats, NDArray[np.bool_]]:
        """All candidates in order of impression: probabilities float64 ``[n]`` and clicks, or likes, bool ``[n]``.

        The AUC of the first against the second is the best that any model can reach, but for chance.
        """
        p, happened = (self.p, self.clicked) if kind == "click" else (self.p_like, self.liked)
        return np.concatenate(list(p.values())), np.concatenate(list(happened.values()))


@dataclass(frozen=True)
class Known:
    """The truth by keys, as a model has them."""

    impressions: NDArray[np.uint64]
    """``[I]``, ascending."""
    first: NDArray[np.int64]
    """``[I]``: where the candidates of each begin in ``p``."""
    p: NDArray[np.float32]
    """``[n]`` click probabilities, of each impression in the order of its candidates."""
    items: NDArray[np.uint64]
    """``[i]``, ascending."""
    topics: NDArray[np.int32]
    """``[i]``."""
    new_items: NDArray[np.uint64]
    """Those that came later, ascending."""

    def topics_of(self, items: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Hidden topics int64 ``[n]`` of items' keys; -1 for one that is not known."""
        at = _places(self.items, items)
        return np.where(at >= 0, self.topics[at], -1).astype(np.int64)

    def p_of(self, impressions: NDArray[np.uint64], place: NDArray[np.integer]) -> NDArray[np.float32]:
        """Click probabilities float32 ``[n]`` of candidates: keys of their impressions, and their places there.

        Raises
        ------
        TruthError
            If there is such an impression not.
        """
        at = _places(self.impressions, impressions)
        if at.size and at.min() < 0:
            raise TruthError(f"{NAME}: expected the impressions of the log beside it, got others")
        return self.p[self.first[at] + place]


def save(truth: Truth, path: Path) -> None:
    """Write it; the file appears when it is whole."""
    impressions = np.array([key_of("impression", name) for name in truth.p], np.uint64)
    lengths = np.array([len(p) for p in truth.p.values()], np.int64)
    first = np.cumsum(lengths) - lengths
    items = np.array([key_of("item", name) for name in truth.topics], np.uint64)
    topics = np.array(list(truth.topics.values()), np.int32)
    by_key, of_items = np.argsort(impressions), np.argsort(items)
    new = np.sort(np.array([key_of("item", name) for name in sorted(truth.new_items)], np.uint64))
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            format=np.array(FORMAT),
            impressions=impressions[by_key],
            first=first[by_key],
            p=np.concatenate([np.zeros(0), *truth.p.values()]).astype(np.float32),
            items=items[of_items],
            topics=topics[of_items],
            new_items=new,
        )
    aside.replace(path)


def load(path: Path) -> Known:
    """Read what ``save`` wrote.

    Raises
    ------
    TruthError
        If it is something else.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                raise TruthError(f"{path}: expected format {FORMAT}, got {int(file['format'])}")
            return Known(**{name: file[name].astype(dtype, copy=False) for name, dtype in _COLUMNS.items()})
    except (OSError, KeyError, BadZipFile, EOFError, TypeError, ValueError) as e:
        if isinstance(e, TruthError):
            raise
        raise TruthError(f"{path}: expected what `instep simulate` writes, got: {e}") from None


def beside(log: Path) -> Path | None:
    """The truth about a log, if it lies beside it."""
    path = (log if log.is_dir() else log.parent) / NAME
    return path if path.exists() else None


def _places(known: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each key stands in ``known``, ascending; -1 where it does not."""
    if not len(known):
        return np.full(len(keys), -1, np.int64)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, at, -1).astype(np.int64)
