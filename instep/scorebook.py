"""Every prediction made before learning, one fixed-size record a candidate: in memory, or in a file that can grow long.

What ``instep.scores`` is between services: the only thing that metrics are computed from.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream.events import key_of
from trainer.batch import STAGES
from trainer.loop import Step

RECORD = np.dtype(
    [
        ("user", np.uint64),
        ("impression", np.uint64),
        ("item", np.uint64),
        ("at_ms", np.int64),
        ("step", np.int32),
        ("p", np.float32),
        ("label", np.uint8),
    ]
)
"""41 bytes a candidate."""

Records = NDArray[np.void]
TAIL = 20_000
OTHER, CLICKED = 2, 3
"""Labels of a record that tells of an earlier one, under the eager policy: what it is ranked by happened after all, or
another kind of action did."""


class Scorebook:
    """An append-only list of predictions.

    Parameters
    ----------
    path
        Of the file behind it; None keeps the records in memory.
    n
        How many records to go on after, as a checkpoint has it; what a process wrote after that is cut off.
    """

    def __init__(self, path: Path | None = None, n: int = 0) -> None:
        self.n = n
        self._path = path
        self._blocks: list[Records] = []
        self._tail: deque[Records] = deque()
        if path is not None:
            size = path.stat().st_size if path.exists() else 0
            if size < n * RECORD.itemsize:
                raise ScorebookError(f"{path}: expected at least {n} scores, got {size // RECORD.itemsize}")
            with path.open("ab") as file:
                file.truncate(n * RECORD.itemsize)

    def add(self, step: Step) -> Records:
        """Note what was predicted of a batch; returns its records ``[N]``."""
        batch = step.batch
        slate = batch.slate
        records = np.zeros(batch.n_candidates, RECORD)
        records["user"] = batch.side[slate, 0]
        names = np.array([key_of("impression", s.impression) for s in step.samples], np.uint64)
        records["impression"] = names[slate]
        records["item"] = batch.items[:, 0]
        records["at_ms"] = batch.at_ms[slate]
        records["step"] = step.version.step
        records["p"] = step.predicted.p[:, 0]
        records["label"] = batch.labels[:, 0] + OTHER * (batch.stage[slate] == STAGES.index("click"))
        self.n += len(records)
        self._blocks.append(records)
        self._tail.append(records)
        while sum(map(len, self._tail)) - len(self._tail[0]) >= TAIL:
            self._tail.popleft()
        return records

    def tail(self, n: int) -> Records:
        """The last ``n``, at most TAIL, that this process added."""
        return corrected(np.concatenate([np.zeros(0, RECORD), *self._tail])[-n:])

    def flush(self) -> None:
        """Write what was added to the file."""
        if self._path is not None and self._blocks:
            with self._path.open("ab") as file:
                for block in self._blocks:
                    file.write(block.tobytes())
            self._blocks = []

    def records(self) -> Records:
        """One for each candidate that was shown; from a file without loading it whole, if none was corrected."""
        self.flush()
        if self._path is None:
            return corrected(np.concatenate([np.zeros(0, RECORD), *self._blocks]))
        if self.n == 0:
            return np.zeros(0, RECORD)
        return corrected(np.memmap(self._path, RECORD, "r", shape=(self.n,)))


def corrected(records: Records) -> Records:
    """The predictions that were made when a candidate was shown, with what became of it.

    Under the eager policy a click is learned as a sample of its own, when the impression has been learned as negative
    already: what the model says of it then is no prediction, but it tells the label of the one before.
    """
    late = records["label"] >= OTHER
    if not late.any():
        return records
    shown: Records = records[~late].copy()
    clicked = np.isin(_which(shown), _which(records[records["label"] == CLICKED]))
    shown["label"] = np.where(clicked, 1, shown["label"])
    return shown


def _which(records: Records) -> NDArray[np.uint64]:
    """A number for the impression and item of each record."""
    names: NDArray[np.uint64] = records["impression"] ^ (records["item"] * np.uint64(0x9E3779B97F4A7C15))
    return names


class ScorebookError(ValueError):
    """The file holds fewer scores than its checkpoint says."""
