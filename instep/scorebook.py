"""Every prediction made before learning, one fixed-size record a candidate: in memory, or in a file that can grow long.

What ``instep.scores`` is between services: the only thing that metrics are computed from.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from struct import Struct
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stream.events import key_of
from trainer.batch import STAGES
from trainer.loop import Step

Records = NDArray[np.void]


def record(n_kinds: int = 1) -> np.dtype[np.void]:
    """Of a candidate: 41 bytes, and 5 for each further kind of action.

    ``p`` and ``label`` are those of the first kind, ``more_p`` and ``more_label`` ``[K - 1]`` those of the others.
    """
    one = [
        ("user", np.uint64),
        ("impression", np.uint64),
        ("item", np.uint64),
        ("at_ms", np.int64),
        ("step", np.int32),
        ("p", np.float32),
        ("label", np.uint8),
    ]
    more = [("more_p", np.float32, (n_kinds - 1,)), ("more_label", np.uint8, (n_kinds - 1,))]
    return np.dtype([*one, *more] if n_kinds > 1 else one)


RECORD = record()
HEADER = Struct("<8sII")
"""How a file begins: MAGIC, the number of this layout, how many kinds."""
MAGIC, LAYOUT = b"instep.p", 1
TAIL = 20_000
OTHER, CLICKED = 2, 3
"""Labels of a record that tells of an earlier one, under the eager policy: that kind of action happened after all, or
another one did."""


class Scorebook:
    """An append-only list of predictions.

    Parameters
    ----------
    path
        Of the file behind it; None keeps the records in memory.
    n
        How many records to go on after, as a checkpoint has it; what a process wrote after that is cut off.
    n_kinds
        Of action, which a file says too.
    crc
        That these ``n`` must have, if it is known.

    Raises
    ------
    ScorebookError
        If the file is none of predictions, is of another layout or number of kinds, has fewer than ``n`` or others.
    """

    def __init__(
        self, path: Path | None = None, n: int = 0, n_kinds: int = 1, crc: int | None = None
    ) -> None:
        self.n = n
        self.crc = 0
        """Of the records that were flushed."""
        self.n_kinds = n_kinds
        self._record = record(n_kinds)
        self._path = path
        self._blocks: list[Records] = []
        self._tail: deque[Records] = deque()
        if path is None:
            return
        if n == 0:
            path.write_bytes(HEADER.pack(MAGIC, LAYOUT, n_kinds))
            return
        n_there = _scores_in(path, n_kinds) if path.exists() else 0
        if n_there < n:
            raise ScorebookError(f"{path}: expected at least {n} scores, got {n_there}")
        with path.open("r+b") as file:
            file.truncate(HEADER.size + n * self._record.itemsize)
            file.seek(HEADER.size)
            while block := file.read(1 << 20):
                self.crc = crc32(block, self.crc)
        if crc not in (None, self.crc):
            raise ScorebookError(
                f"{path}: expected the scores of the run that is gone on with, got another's"
            )

    def add(self, step: Step, only: NDArray[np.bool_] | None = None) -> Records:
        """Note what was predicted of a batch, or of those of its samples; returns the records ``[N]``."""
        batch = step.batch
        slate = batch.slate
        records = np.zeros(batch.n_candidates, self._record)
        records["user"] = batch.side[slate, 0]
        names = np.array([key_of("impression", s.impression) for s in step.samples], np.uint64)
        records["impression"] = names[slate]
        records["item"] = batch.items[:, 0]
        records["at_ms"] = batch.at_ms[slate]
        records["step"] = step.version.step
        late = OTHER * (batch.stage[slate] == STAGES.index("click"))
        for kind in range(self.n_kinds):
            p, label = of_kind(records, kind)
            p[:], label[:] = step.predicted.p[:, kind], batch.labels[:, kind] + late
        if only is not None:
            records = records[only[slate]]
        self.n += len(records)
        self._blocks.append(records)
        self._tail.append(records)
        while sum(map(len, self._tail)) - len(self._tail[0]) >= TAIL:
            self._tail.popleft()
        return records

    def tail(self, n: int) -> Records:
        """The last ``n``, at most TAIL, that this process added."""
        return corrected(np.concatenate([np.zeros(0, self._record), *self._tail])[-n:])

    def flush(self) -> None:
        """Write what was added to the file."""
        if self._path is not None and self._blocks:
            with self._path.open("ab") as file:
                for block in self._blocks:
                    self.crc = crc32(block.tobytes(), self.crc)
                    file.write(block.tobytes())
            self._blocks = []

    def records(self) -> Records:
        """One for each candidate that was shown; from a file without loading it whole, if none was corrected."""
        self.flush()
        if self._path is None:
            return corrected(np.concatenate([np.zeros(0, self._record), *self._blocks]))
        if self.n == 0:
            return np.zeros(0, self._record)
        return corrected(np.memmap(self._path, self._record, "r", HEADER.size, (self.n,)))


def kinds_of(records: Records) -> int:
    """How many kinds of action they are of."""
    return 1 + records["more_p"].shape[1] if "more_p" in (records.dtype.names or ()) else 1


def of_kind(records: Records, kind: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Views of a kind's predictions and labels, both ``[n]``."""
    if kind == 0:
        return records["p"], records["label"]
    return records["more_p"][:, kind - 1], records["more_label"][:, kind - 1]


def corrected(records: Records) -> Records:
    """The predictions that were made when a candidate was shown, with what became of it.

    Under the eager policy a click is learned as a sample of its own, when the impression has been learned as negative
    already: what the model says of it then is no prediction, but it tells the label of the one before. So it is with
    any other kind of action.
    """
    late = records["label"] >= OTHER
    if not late.any():
        return records
    shown: Records = records[~late].copy()
    told, where, names = records[late], _which(records[late]), _which(shown)
    for kind in range(kinds_of(records)):
        happened = where[of_kind(told, kind)[1] == CLICKED]
        of_kind(shown, kind)[1][np.isin(names, happened)] = 1
    return shown


def _which(records: Records) -> NDArray[np.uint64]:
    """A number for the impression and item of each record."""
    names: NDArray[np.uint64] = records["impression"] ^ (records["item"] * np.uint64(0x9E3779B97F4A7C15))
    return names


def _scores_in(path: Path, n_kinds: int) -> int:
    """How many scores a file holds."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    magic, layout, n = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0)
    if (magic, layout) != (MAGIC, LAYOUT):
        raise ScorebookError(f"{path}: expected scores of layout {LAYOUT}, got an older file or another one")
    if n != n_kinds:
        raise ScorebookError(f"{path}: expected scores of {n_kinds} kinds of action, got of {n}")
    return (path.stat().st_size - HEADER.size) // record(n).itemsize


class ScorebookError(ValueError):
    """A file of scores that does not go with its checkpoint."""
