"""The indexer as a long-lived worker: publications in, codes out to the index.

It keeps nothing: where it stands in the model log is written into the index together with each update. An index that
is empty, was emptied, or is further behind than the log reaches is filled from the trainer's checkpoint, and goes on
from there with the publications behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.index import GapError, Index
from indexer.refresh import refresh
from stream.events import Version
from stream.log import LogError, Source, Unavailable
from stream.metrics import Metrics
from trainer.publication import Assembler, Publication

log = logging.getLogger(__name__)

MODEL = "model"
Whole = Callable[[], tuple[Publication, int] | None]
"""All of the model by its latest checkpoint, and where the model log goes on behind it."""
POLL = 64
"""Messages of the model log in one step; a block is some 0.6 MB."""


class IndexerWorker:
    """The one writer of an index, as a worker of `stream.service`.

    Parameters
    ----------
    model
        ``instep.model``.
    planes
        float32 ``[coded fields, dim, bits]``, the trainer's.
    whole
        Asked for when the index has to be filled.
    """

    def __init__(
        self,
        model: Source,
        index: Index,
        planes: NDArray[np.float32],
        whole: Whole,
        metrics: Metrics,
        *,
        now_ms: Callable[[], int],
        on_close: Callable[[], Any] = lambda: None,
    ) -> None:
        self._model = model
        self._index = index
        self._planes = planes
        self._whole = whole
        self._metrics = metrics
        self._now_ms = now_ms
        self._on_close = on_close
        self._start = dict(model.offsets)
        self._assembler = Assembler()
        self._version: Version | None = None
        self._begin()

    @property
    def not_ready(self) -> str:
        """See `Worker.not_ready`."""
        return "" if self._version is not None else "nothing published yet"

    @property
    def drained(self) -> bool:
        """See `Worker.drained`."""
        return self._model.offsets[0] >= self._model.end()[0]

    def step(self) -> int:
        """See `Worker.step`."""
        if self._index.version != self._version:
            log.warning(
                "the index is not what was written expected=%s got=%s", self._version, self._index.version
            )
            self._begin()
        records = self._model.poll(POLL)
        for record in records:
            publication = self._assembler.add(record.key, record.value)
            if publication is not None:
                self._apply(publication, record.offset + 1)
        return len(records)

    def finish(self) -> None:
        """See `Worker.finish`. Every update is whole when it is applied."""

    def close(self) -> None:
        """See `Worker.close`."""
        self._model.close()
        self._on_close()

    def _begin(self) -> None:
        """Read on behind what the index holds, or fill it."""
        self._assembler = Assembler()
        self._version, place = self._index.version, self._index.place
        if self._version is None or not self._seek(place.get(0, -1)):
            self._fill()

    def _fill(self) -> bool:
        """Write all of the model to the index, if a checkpoint has something newer; otherwise read from the start."""
        found = self._whole()
        if found is None:
            log.info("no checkpoint to fill the index from, reading the model log from its start")
            self._model.seek(self._start)
            return False
        publication, place = found
        if self._version is not None and publication.version <= self._version:
            return False
        log.info("filling the index version=%s n_rows=%d", publication.version, len(publication.keys))
        self._write(publication, place)
        if not self._seek(place):
            self._model.seek(self._start)
        return True

    def _apply(self, publication: Publication, place: int) -> None:
        try:
            self._write(publication, place)
        except GapError as e:
            if not self._fill():
                raise Unavailable("index", f"waits for a checkpoint that is newer: {e}") from e

    def _write(self, publication: Publication, place: int) -> None:
        update = replace(refresh(publication, self._planes), place={0: place})
        with self._metrics.timed("instep_commit_seconds"):
            n = self._index.apply(update)
        if self._version is None or update.version > self._version:
            self._version = update.version
        metrics = self._metrics
        metrics.add("instep_publications_total")
        metrics.add("instep_index_rows_total", n, outcome="written")
        metrics.add("instep_index_rows_total", len(update.keys) - n, outcome="refused")
        metrics.add("instep_index_rows_total", len(update.tombstones), outcome="removed")
        metrics.set("instep_version_epoch", update.version.epoch)
        metrics.set("instep_version_step", update.version.step)
        late_s = (self._now_ms() - update.at_ms) / 1000
        metrics.observe("instep_event_latency_seconds", late_s, stage="indexed")

    def _seek(self, place: int) -> bool:
        """Whether the model log can be read on from there."""
        try:
            self._model.seek({0: place})
        except LogError:
            return False
        return True
