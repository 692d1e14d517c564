"""Whether search and model are in step: codes of some rows, computed again and compared with those in use.

Three must agree of each row, bit for bit: the code that the mirror searches with, the code that the index holds, and
simhash of the vector that the model published (`trainer/model/simhash.py`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from indexer.index import Held, Index
from ranker.live import LiveModel
from ranker.mirror import Mirror
from stream.events import Version
from stream.log import Unavailable
from stream.metrics import Metrics
from trainer.model.simhash import encode, hamming

log = logging.getLogger(__name__)

N_ROWS = 256
"""Of one audit."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a mirror, as they stood at one Version."""

    version: Version
    keys: NDArray[np.uint64]
    """``[n]``."""
    fields: NDArray[np.uint8]
    """``[n]``."""
    vectors: NDArray[np.float32]
    """``[n, d]``."""
    codes: NDArray[np.uint64]
    """``[n, words]``."""
    steps: NDArray[np.int64]
    """``[n]`` in which each last moved."""


@dataclass(frozen=True)
class Audited:
    """What came of it."""

    n_rows: int
    mirror_bits: int
    """In which the mirror's codes differ from simhash of its vectors."""
    n_compared: int
    """Rows that the index holds as of the same step; the others have moved on, or will at once."""
    index_bits: int
    """In which the index's codes of these differ from simhash of the mirror's vectors."""


def sample(mirror: Mirror, n: int, rng: np.random.Generator) -> Rows | None:
    """Copies of up to ``n`` rows; None before the first publication."""
    table = mirror.table
    slots = rng.integers(0, table.n_slots, n)
    slots = np.unique(slots[table.keys[slots] != 0])  # not the null row, nor a place that is free
    if mirror.version is None or not len(slots):
        return None
    return Rows(
        version=mirror.version,
        keys=table.keys[slots],  # copies, as all that is indexed by an array
        fields=table.fields[slots],
        vectors=table.rows[slots],
        codes=table.codes[slots],
        steps=table.changed[slots],
    )


def audit(rows: Rows, planes: NDArray[np.float32], held: Held) -> Audited:
    """Compare.

    Parameters
    ----------
    planes
        float32 ``[F, d, bits]``; fields from ``F`` on have no codes.
    held
        What the index says of ``rows.keys``, asked after they were taken.
    """
    ours = np.zeros_like(rows.codes)
    for number, of_field in enumerate(planes):
        mine = rows.fields == number
        ours[mine] = encode(rows.vectors[mine], of_field)
    same = (held.epochs == rows.version.epoch) & (held.steps == rows.steps)
    return Audited(
        n_rows=len(rows.keys),
        mirror_bits=int(hamming(ours, rows.codes).sum()),
        n_compared=int(same.sum()),
        index_bits=int(hamming(ours[same], held.codes[same]).sum()),
    )


class Auditor:
    """Audits some rows every so often, on a thread of its own, until it is closed.

    Parameters
    ----------
    planes
        Of the codes; float32 ``[F, d, bits]``.
    """

    def __init__(
        self, live: LiveModel, index: Index, planes: NDArray[np.float32], metrics: Metrics, every_ms: int
    ) -> None:
        self._live = live
        self._index = index
        self._planes = planes
        self._metrics = metrics
        self._every_s = every_ms / 1000
        self._stop = Event()
        self._thread = Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to audit."""
        self._thread.start()

    def close(self) -> None:
        """Stop; the model must not have been closed yet."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self, rng: np.random.Generator) -> None:
        """Audit once, and tell.

        Raises
        ------
        Unavailable
            If the index does not answer.
        """
        rows = self._live.submit(lambda mirror: sample(mirror, N_ROWS, rng)).result()
        if rows is None:
            return
        found = audit(rows, self._planes, self._index.get(rows.keys))
        self._metrics.add("instep_audit_rows_total", found.n_rows, outcome="mirror")
        self._metrics.add("instep_audit_rows_total", found.n_compared, outcome="index")
        self._metrics.add("instep_audit_bits_total", found.mirror_bits, outcome="mirror")
        self._metrics.add("instep_audit_bits_total", found.index_bits, outcome="index")
        if found.mirror_bits or found.index_bits:
            what = "codes are not in step version=%s n_rows=%d mirror_bits=%d index_bits=%d"
            log.error(what, rows.version, found.n_rows, found.mirror_bits, found.index_bits)

    def _run(self) -> None:
        rng = np.random.default_rng()
        while not self._stop.wait(self._every_s):
            try:
                self.look(rng)
            except Unavailable as e:
                log.info("no audit, the index is away error=%s", e)
