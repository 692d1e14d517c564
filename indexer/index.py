"""The index: code and vector of every row at a published Version, and the updates that lead there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.events import Version
from stream.log import Offsets
from trainer.keymap import KeyMap


@dataclass(frozen=True)
class Update:
    """One publication with its codes. ``since`` None means that it holds everything."""

    version: Version
    since: Version | None
    at_ms: int
    keys: NDArray[np.uint64]
    """``[n]``."""
    fields: NDArray[np.uint8]
    """``[n]``."""
    steps: NDArray[np.int64]
    """``[n]`` the step at which each row last moved: with the epoch, the Version of the row."""
    codes: NDArray[np.uint64]
    """``[n, words]``."""
    vectors: NDArray[np.float32]
    """``[n, d]``."""
    tombstones: NDArray[np.uint64]
    dense: dict[str, NDArray[Any]]
    place: Offsets = field(default_factory=dict)
    """Where the model log goes on behind it."""


class Held(NamedTuple):
    """What an index says of some keys; a row that it does not hold has epoch and step -1 and code 0."""

    codes: NDArray[np.uint64]
    """``[n, words]``."""
    epochs: NDArray[np.int64]
    """``[n]``."""
    steps: NDArray[np.int64]
    """``[n]``."""


class GapError(RuntimeError):
    """An update lies ahead of what the index holds; one from further back or a whole one is needed."""


def check_follows(update: Update, held: Version | None, who: str) -> None:
    """Whether an update that is newer may be applied to what is held.

    What changed since an older Version holds what changed since ``held``, so an update may reach back further
    than it must. It must not begin later, nor in another epoch.

    Raises
    ------
    GapError
        If it may not.
    """
    since = update.since
    if since is None:
        return
    if held is None or since > held or not since.epoch == held.epoch == update.version.epoch:
        raise GapError(f"{who}: expected an update since {held}, got one since {since} to {update.version}")


def latest_start(spans: Sequence[tuple[Version | None, Version]], held: Version | None) -> int | None:
    """Which of the updates ``(since, version)``, oldest first, is the last that one who holds ``held`` may begin with.

    >>> spans = [(Version(0, 1), Version(0, 2)), (Version(0, 2), Version(0, 3)), (Version(0, 1), Version(0, 4))]
    >>> latest_start(spans[:2], Version(0, 1)), latest_start(spans, Version(0, 1)), latest_start(spans, Version(0, 0))
    (0, 2, None)
    """
    for i in reversed(range(len(spans))):
        since, version = spans[i]
        if (
            held is not None
            and since is not None
            and since <= held < version
            and since.epoch == version.epoch
        ):
            return i
    return None


class Index(Protocol):
    """Where published codes live. Implementations agree by the contract suite."""

    @property
    def version(self) -> Version | None:
        """The last Version that was applied; None for an index that is empty, or that was emptied."""

    @property
    def place(self) -> Offsets:
        """The place of the last update; empty for an index that is."""

    def apply(self, update: Update) -> int:
        """Write the rows that are newer than what is held; returns how many were. Repeating it changes nothing.

        A whole update replaces everything, and each of its rows counts.

        Raises
        ------
        GapError
            If the update is newer, but begins after the Version held or in another epoch.
        """

    def get(self, keys: NDArray[np.uint64]) -> Held:
        """Codes and Versions of keys ``[n]``."""

    def since(self, version: Version | None) -> list[Update] | None:
        """Updates that lead on from ``version``, oldest first; None when ``load`` is needed.

        It is where they are no longer kept, and where a whole publication lies between.
        """

    def load(self) -> Update | None:
        """Everything, as one update; None while the index is empty."""


class MemoryIndex:
    """The index in this process.

    Parameters
    ----------
    keep
        How many updates are kept for those that follow; whoever falls further behind loads everything.
    """

    def __init__(self, keep: int = 256) -> None:
        self._updates: deque[Update] = deque(maxlen=keep)
        self._last: Update | None = None
        self._slots = KeyMap()
        self._free: list[int] = []
        self._rows: dict[str, NDArray[Any]] = {}

    @property
    def version(self) -> Version | None:
        return self._last.version if self._last else None

    @property
    def place(self) -> Offsets:
        return self._last.place if self._last else {}

    def apply(self, update: Update) -> int:
        if self.version is not None and update.version <= self.version:
            return 0
        check_follows(update, self.version, "index")
        if update.since is None:
            self._slots, self._free, self._rows = KeyMap(), [], {}
            self._updates.clear()
        else:
            self._updates.append(update)
        n_written = self._write(update)
        self._remove(update.tombstones)
        self._last = update
        return n_written

    def get(self, keys: NDArray[np.uint64]) -> Held:
        slots = self._slots.find(keys)
        there = slots >= 0
        words = self._rows["codes"].shape[1] if self._rows else 1
        held = Held(np.zeros((len(keys), words), np.uint64), *(np.full(len(keys), -1) for _ in range(2)))
        if self._rows:
            for name, values in held._asdict().items():
                values[there] = self._rows[name][slots[there]]
        return held

    def since(self, version: Version | None) -> list[Update] | None:
        if version == self.version:
            return []
        updates = list(self._updates)
        start = latest_start([(u.since, u.version) for u in updates], version)
        return None if start is None else updates[start:]

    def load(self) -> Update | None:
        if self._last is None:
            return None
        held = self._rows
        live = np.flatnonzero(held["steps"] >= 0)
        live = live[np.argsort(held["keys"][live])]
        return Update(
            version=self._last.version,
            since=None,
            at_ms=self._last.at_ms,
            tombstones=np.zeros(0, np.uint64),
            dense=self._last.dense,
            place=self._last.place,
            **{name: held[name][live] for name in ("keys", "fields", "steps", "codes", "vectors")},
        )

    def _write(self, update: Update) -> int:
        slots = self._slots.find(update.keys)
        fresh = np.flatnonzero(slots < 0)
        slots[fresh] = self._allot(len(fresh), update)
        self._slots.put(update.keys[fresh], slots[fresh])
        epochs = np.full(len(slots), update.version.epoch)
        held = self._rows
        newer = (held["epochs"][slots] < epochs) | (
            (held["epochs"][slots] == epochs) & (held["steps"][slots] < update.steps)
        )
        into = slots[newer]
        held["epochs"][into] = epochs[newer]
        for name in ("keys", "fields", "steps", "codes", "vectors"):
            held[name][into] = getattr(update, name)[newer]
        return len(into)

    def _allot(self, n: int, update: Update) -> NDArray[np.int64]:
        """Places for ``n`` new rows, freed ones first."""
        n_held = len(self._rows["keys"]) if self._rows else 0
        while len(self._free) < n or not self._rows:
            more = max(1024, n_held)
            for name in ("keys", "fields", "steps", "codes", "vectors"):
                like: NDArray[Any] = getattr(update, name)
                fill = np.full((more, *like.shape[1:]), -1 if name == "steps" else 0, like.dtype)
                self._rows[name] = np.concatenate([self._rows[name], fill]) if n_held else fill
            nowhere = np.full(more, -1)
            self._rows["epochs"] = np.concatenate([self._rows["epochs"], nowhere]) if n_held else nowhere
            self._free.extend(range(n_held + more - 1, n_held - 1, -1))
            n_held += more
        return np.array([self._free.pop() for _ in range(n)], np.int64)

    def _remove(self, keys: NDArray[np.uint64]) -> None:
        slots = self._slots.find(keys)
        there = slots >= 0
        self._slots.remove(keys[there])
        self._rows["steps"][slots[there]] = -1
        self._rows["epochs"][slots[there]] = -1
        self._free.extend(slots[there].tolist())
