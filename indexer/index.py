"""The index: code and vector of every row at a published Version, and the updates that lead there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.events import Version
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


class Held(NamedTuple):
    """What an index says of some keys; a row that it does not hold has epoch and step -1 and code 0."""

    codes: NDArray[np.uint64]
    """``[n, words]``."""
    epochs: NDArray[np.int64]
    """``[n]``."""
    steps: NDArray[np.int64]
    """``[n]``."""


class GapError(RuntimeError):
    """An update does not follow on what the index holds; a whole publication is needed."""


class Index(Protocol):
    """Where published codes live. Implementations agree by the contract suite."""

    @property
    def version(self) -> Version | None:
        """The last Version that was applied whole."""

    def apply(self, update: Update) -> int:
        """Write the rows that are newer than what is held; returns how many were. Repeating it changes nothing.

        Raises
        ------
        GapError
            If the update is newer, but not since the Version held.
        """

    def get(self, keys: NDArray[np.uint64]) -> Held:
        """Codes and Versions of keys ``[n]``."""

    def since(self, version: Version | None) -> list[Update] | None:
        """Updates after ``version``, oldest first; None when they are no longer kept, and ``load`` is needed."""

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

    def apply(self, update: Update) -> int:
        if self.version is not None and update.version <= self.version:
            return 0
        if update.since is None:
            self._forget_rows_not_in(update)
        elif update.since != self.version:
            raise GapError(f"index: expected an update since {self.version}, got one since {update.since}")
        n_written = self._write(update)
        self._remove(update.tombstones)
        self._last = update
        self._updates.append(update)
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
        for i in reversed(range(len(updates))):
            is_newer = version is None or updates[i].version > version
            if is_newer and updates[i].since in (None, version):
                return updates[i:]
        return None

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

    def _forget_rows_not_in(self, update: Update) -> None:
        if self._rows:
            held = self._rows["keys"][self._rows["steps"] >= 0]
            self._remove(np.setdiff1d(held, update.keys))
